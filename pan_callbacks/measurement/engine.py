"""Measures a model while images pass through it: the one engine behind ``scan`` and ``PANMonitor``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from pan_callbacks.layers import convolutions, pad_modules, select, why_unpadded
from pan_callbacks.measurement.collector import SAMPLES, LayerStatistics, describe
from pan_callbacks.measurement.hooks import Listener, Probes, StopForward, entry_modules, quietly, run
from pan_callbacks.measurement.metrics import GOLDEN
from pan_callbacks.measurement.reference import FALLBACKS, ZOOM_SHARE, Plan, plan
from pan_callbacks.measurement.views import ROLES, VIEWS
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport

#: Memory for the readings of all neurons together; docs/statistics.md says what it buys.
MEMORY = 64 * 2**20
#: Readings kept of each side: enough for a contrast within 0.01 of the exact one, and no more than is of use.
MIN_CAPACITY, MAX_CAPACITY = 512, 2**16
#: Images kept for pictures.
SAMPLE_IMAGES = 16
#: With fewer images than this a report says so.
FEW_IMAGES = 32


class Measurement:
    """Attaches to a model, listens while images pass, and says what it found.

    Args:
        model: Model to measure.
        layers: Glob or globs over layer names, None for all.
        reference: ``"crop"``, ``"zoom"``, ``"mirror"`` or ``"centre"``.
        threshold: Absolute contrast from which a neuron is a PAN, in (0, 1).
        max_images: Images to measure on, at most.
        sync: Whether results are reduced over ranks.
        tolerant: Whether an error of ours is told as a warning, and ends the measurement instead of the program.
        total: Number of images there will be, at most ``max_images``, where it is known. What a batch contributes then
            does not depend on the others, so that any number of processes that share the batches gets one report.
        share: Number of this process and of all, where several share the batches in turn.
        example: Image (1, channels, height, width) on which it is decided how each layer is measured; the first that
            comes by default, which is another one in each process.

    Raises:
        ValueError: If ``reference``, ``threshold`` or ``max_images`` is out of range.
        PANError: If a glob matches nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Iterable[str] | None = None,
        reference: str = "crop",
        threshold: float = 0.8,
        max_images: int = 256,
        sync: bool = False,
        tolerant: bool = False,
        total: int | None = None,
        share: tuple[int, int] = (0, 1),
        example: Tensor | None = None,
    ) -> None:
        check_arguments(reference, threshold, max_images)
        self.reference, self.threshold, self.max_images = reference, threshold, max_images
        self.sync, self.tolerant, self.total, self.share, self.example = sync, tolerant, total, share, example
        self.selected = select(model, layers)
        self.candidates = {n: m for n, m in self.selected.items() if max(m.kernel_size) > 1 or why_unpadded(m) is None}
        # whatever was selected, images are what comes before all convolutions, and before what pads for them
        pads = pad_modules(model)
        inside = [*convolutions(model), *pads] if self.candidates else []
        self._pad_names = {id(module): name for name, module in pads.items()}
        self.probes = Probes(self.candidates, entry_modules(model, inside))
        self.statistics: dict[str, LayerStatistics] = {}
        self.failure: str | None = None
        self.notes: list[str] = []
        self.expected: Tensor | None = None
        self.fed_directly: bool | None = None
        self.sample: tuple[nn.Module, tuple, dict] | None = None
        self._plans: dict[tuple, Plan] = {}
        self._taken: dict[str, int] = {}
        self._names_entered: dict[str, None] = {}
        self._visit: _Visit | None = None
        self._ours = False

    def start(self, max_images: int | None = None) -> None:
        """Forgets what was measured, and listens from now on.

        Args:
            max_images: Images to measure on, where it is not the number given at first (a rank takes its share).
        """
        self._limit = self.max_images if max_images is None else max_images
        neurons = sum(module.out_channels for module in self.candidates.values())
        capacity = MEMORY // (4 * SAMPLES * max(1, neurons))
        capacity = min(max(capacity, MIN_CAPACITY), MAX_CAPACITY)
        self.statistics = {
            name: LayerStatistics(module, capacity, self.sync, self.total) for name, module in self.candidates.items()
        }
        self.failure, self._taken, self._visit, self._visits = None, {}, None, 0
        self.probes.attach()
        for entry in self.probes.entries.values():
            entry.entered, entry.left = self._guarded(self._enter), self._guarded(self._leave)

    def stop(self) -> None:
        """Listens no longer; what was measured stays."""
        self.probes.mute()
        self._visit = None

    @property
    def images(self) -> int:
        """Images that entered so far."""
        return max(self._taken.values(), default=0)

    @property
    def satisfied(self) -> bool:
        """Whether as many images entered as were asked for."""
        return bool(self._taken) and min(self._taken.values()) >= self._limit

    def offer(self, images: Tensor) -> bool:
        """Hands images to the module that they entered by before, or else to the outermost that they may enter by.

        Returns:
            Whether the module took them.
        """
        name = next(iter(self._names_entered), next(iter(self.probes.entries)))
        before = self.images
        try:
            self.probes.entry_modules[name](images)
        except Exception as error:  # a module that takes its images otherwise is no fault
            self.failure = f"{name or 'the model'} does not take the images: {type(error).__name__}: {error}"
            return False
        return self.images > before

    def report(self) -> PANReport:
        """What was found so far; with ``sync`` every rank calls it, and all get the same figures."""
        lines: dict[str, LayerReport] = {}
        for name, conv in self.selected.items():
            site, geometry, skipped = self.how_measured(name)
            if name in self.statistics:
                line = self.statistics[name].report(site, geometry, skipped)
                pad = None if site is None else self._pad_names.get(id(site.layer.pad))
                lines[name] = line if pad is None else replace(line, pad=pad)
            else:
                lines[name] = describe(conv, why_unpadded(conv) or skipped)
        images = max((line.images for line in lines.values()), default=0)
        were = "image was" if images == 1 else "images were"
        notes = [f"only {images} {were} probed: chance adds to every contrast"] if 0 < images < FEW_IMAGES else []
        notes += self.notes
        notes += [f"the measurement ended early: {self.failure}"] if self.failure else []
        return PANReport(lines, self.threshold, self.reference, tuple(notes))

    def how_measured(self, name: str):
        """Plan, geometry and reason to skip of a layer, from the first input size that knows."""
        skipped = None
        for current in self._plans.values():
            for (layer, call), geometry in current.geometries.items():
                if layer == name and (layer, call) in current.sites:
                    return current.sites[layer, call], geometry, None
            skipped = skipped or current.skipped.get(name)
        geometry = next(
            (g for p in self._plans.values() for (layer, _), g in p.geometries.items() if layer == name), None
        )
        return None, geometry, skipped

    # --- while images pass ---------------------------------------------------------------------------------------

    def _enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before a module's forward: if images enter here, listen to the layers below it."""
        if self._ours or not _are_images(args) or (self._visit is not None and self._visit.name != name):
            return
        self._names_entered[name] = None
        if self.expected is not None:
            same = self.expected.shape == args[0].shape and bool((self.expected.to(args[0]) == args[0]).all())
            self.fed_directly, self.expected = same and self.fed_directly is not False, None
        before = self._taken.get(name, 0)
        take = min(len(args[0]), self._limit - before)
        if take <= 0:  # nothing below listens either
            self._visit = _Visit(name, None, 0.0, 0)
            return
        key = (name, *args[0].shape[1:])
        if key not in self._plans:
            deciding = args
            if self.example is not None and self.example.shape[1:] == args[0].shape[1:]:
                deciding = self.example.to(args[0]), *args[1:]
            with self.running(module):
                self._plans[key] = plan(module, deciding, kwargs, self.probes, self.reference)
        if self.sample is None:
            self.sample = module, (args[0][:SAMPLE_IMAGES].detach().clone(), *args[1:]), kwargs
        current, images = self._plans[key], args[0][:take]
        # the share of the dear views is rounded so that it comes out even over all batches, whoever has them
        number = self._visits * self.share[1] + self.share[0]
        if self.total is None:
            rounding = (ZOOM_SHARE - 1 - -before % ZOOM_SHARE) / ZOOM_SHARE
        else:
            rounding = (number * GOLDEN + 0.99) % 1  # up at first, so that a single batch has some
        self._visits += 1
        images = images.clone() if current.in_place else images
        self._visit = _Visit(name, current, rounding, take, images, number)
        self.probes.listen(self._listeners(self._visit))

    def _leave(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """After a module's forward: run the other views of the same images."""
        visit = self._visit
        if self._ours or visit is None or visit.name != name:
            return
        if visit.plan is None:
            self._visit = None
            return
        with self.running(module):
            for view in visit.plan.views:
                share = visit.share(view)
                for role, make in zip(ROLES, VIEWS[view], strict=True):
                    if share and make is not None:
                        images = make(visit.images[:share].detach(), visit.plan.offsets[view])
                        self.probes.listen(self._listeners(visit, view, role))
                        run(module, (images, *args[1:]), kwargs)
        self._visit = None
        self._taken[name] = self._taken.get(name, 0) + visit.take

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """Runs the module for us: without a trace, and without being taken for the user's forward."""
        self._ours = True
        try:
            with quietly(module):
                yield
        finally:
            self.probes.listen({})
            self._ours = False

    def _listeners(self, visit: _Visit, view: str | None = None, role: str | None = None) -> dict[str, Listener]:
        """Listeners for one forward: the model's own, or one of ours on the input that a role has in a view."""
        sites = visit.plan.sites.items()
        if view is None:
            wanted = {site: how for site, how in sites if None in VIEWS[how.view]}
        else:
            wanted = {site: how for site, how in sites if how.view == view}
        remaining = set(wanted)
        first_calls = {name: min(call for layer, call in wanted if layer == name) for name, _ in wanted}
        calls: dict[str, int] = {}

        def listener(name: str) -> Listener:
            def listen(conv: nn.Module, x: Tensor, output: Tensor) -> None:
                call = calls[name] = calls.get(name, -1) + 1
                how = wanted.get((name, call))
                if how is None:
                    return
                share = visit.share(how.view)
                own = [r for r, make in zip(ROLES, VIEWS[how.view], strict=True) if make is None]
                roles = own if view is None else [role]
                if share and "reference" in roles:
                    self.statistics[name].add_reference(how, output[:share].detach(), visit.number)
                if share and "border" in roles:
                    counts = call == first_calls[name]
                    own = x[:share].detach(), output[:share].detach()
                    self.statistics[name].add_border(how, *own, counts, visit.number)
                remaining.discard((name, call))
                if view is not None and not remaining:
                    raise StopForward  # what follows, a classifier of fixed size perhaps, need not run

            return self._guarded(listen)

        return {name: listener(name) for name, _ in wanted}

    def _guarded(self, function: Callable) -> Callable:
        """Where errors are tolerated, turns one into a warning and the end of the measurement."""
        if not self.tolerant:
            return function

        def guarded(*args) -> None:
            try:
                function(*args)
            except StopForward:
                raise
            except Exception as error:  # whatever it is, it is ours and must not end the user's run
                if self._ours:
                    raise
                self.failure = f"{type(error).__name__}: {error}"
                self.stop()
                warnings.warn(f"pan_callbacks stopped measuring, the model goes on: {self.failure}", stacklevel=2)

        return guarded


@dataclass
class _Visit:
    """One forward of the user's: its first ``take`` images are measured.

    Args:
        name: Module that images entered by.
        plan: How its layers are measured; None where nothing is left to measure.
        rounding: What is added before the number of images for the dear view is rounded down.
        take: Images that are measured.
        images: These images, or more.
        number: Number of the batch among those of all processes.
    """

    name: str
    plan: Plan | None
    rounding: float
    take: int
    images: Tensor | None = None
    number: int = 0

    def share(self, view: str) -> int:
        """How many of the images a view takes: all, or evenly over the run a part, for the dear one."""
        return self.take if view != "zoom" else int(self.take / ZOOM_SHARE + self.rounding)


def check_arguments(reference: str, threshold: float, max_images: int) -> None:
    """Raises ValueError for an argument out of range, naming it."""
    if reference not in FALLBACKS:
        raise ValueError(f"reference={reference!r} is unknown; choose one of {', '.join(FALLBACKS)}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold!r} is not in (0, 1); 0.8 is the default")
    if max_images < 1:
        raise ValueError(f"max_images={max_images!r}: at least one image is needed")


def _are_images(args: tuple) -> bool:
    return (
        bool(args)
        and isinstance(args[0], Tensor)
        and args[0].ndim == 4
        and args[0].is_floating_point()
        and len(args[0]) > 0
    )
