"""Measures a model while images pass through it: the one engine behind ``scan`` and ``PANMonitor``."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import ParamSpec

from torch import Tensor, nn

from pan_callbacks._runtime import ALONE, Shard
from pan_callbacks.layers import Reason, convolutions, pad_modules, select, why_unpadded
from pan_callbacks.measurement.calls import EntryCall, Listener, StopForward
from pan_callbacks.measurement.collector import SAMPLES, HowMeasured, LayerCollector, line_of
from pan_callbacks.measurement.hooks import Probes, entry_modules
from pan_callbacks.measurement.reference import FALLBACKS, Forward, Plan, plan
from pan_callbacks.measurement.visit import Reading, Visit
from pan_callbacks.padding import Geometry
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

P = ParamSpec("P")


@dataclass(frozen=True)
class Settings:
    """What is asked of a measurement.

    Args:
        layers: Glob or globs over layer names, None for all.
        reference: ``"crop"``, ``"zoom"``, ``"mirror"`` or ``"centre"``.
        threshold: Absolute contrast from which a neuron is a PAN, in (0, 1).
        max_images: Images to measure on, at most, over all processes.

    Raises:
        ValueError: If one of them is out of range.
    """

    layers: str | Iterable[str] | None = None
    reference: str = "crop"
    threshold: float = 0.8
    max_images: int = 256

    def __post_init__(self) -> None:
        if self.reference not in FALLBACKS:
            raise ValueError(f"reference={self.reference!r} is unknown; choose one of {', '.join(FALLBACKS)}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold!r} is not in (0, 1); 0.8 is the default")
        if self.max_images < 1:
            raise ValueError(f"max_images={self.max_images!r}: at least one image is needed")


class Measurement:
    """Attaches to a model, listens while images pass, and says what it found.

    Args:
        model: Model to measure.
        settings: What is asked.
        shard: This process's part of the work; with others, :meth:`report` reduces over all of them.
        tolerant: Whether an error of ours becomes a warning, and ends the measurement instead of the program.

    Attributes:
        failure: What ended the measurement early, None if nothing did.
        on_entry: Is called with the images whenever some enter; None for nobody.

    Raises:
        PANError: If a glob matches nothing.
    """

    def __init__(
        self, model: nn.Module, settings: Settings | None = None, shard: Shard = ALONE, tolerant: bool = False
    ) -> None:
        self.settings = Settings() if settings is None else settings
        self.failure: str | None = None
        self.on_entry: Callable[[Tensor], None] | None = None
        self._shard, self._tolerant = shard, tolerant
        self._selected = select(model, self.settings.layers)
        self.layers = {n: m for n, m in self._selected.items() if max(m.kernel_size) > 1 or why_unpadded(m) is None}
        # whatever was selected, images are what comes before all convolutions, and before what pads for them
        pads = pad_modules(model)
        inside = [*convolutions(model), *pads] if self.layers else []
        self._pad_names = {id(module): name for name, module in pads.items()}
        self._probes = Probes(self.layers, entry_modules(model, inside))
        self._collectors: dict[str, LayerCollector] = {}
        self._plans: dict[tuple[str, int, int, int], Plan] = {}
        self._entered: list[str] = []  # modules that images entered by
        self._taken: Counter[str] = Counter()  # images that did, since the start
        self._visit: Visit | None = None
        self._visits, self._limit = 0, self.settings.max_images
        self._sample: EntryCall | None = None

    # --- on and off --------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put the hooks on the model; a compiled model ignores those that come after its first forward."""
        self._probes.attach()

    def detach(self) -> None:
        """Take the hooks off the model; what was measured stays."""
        self._probes.detach()

    def start(self, max_images: int | None = None) -> None:
        """Forget what was measured, and listen from now on.

        Args:
            max_images: Images to measure on, if not as many as the settings say (a rank takes its part of them).
        """
        self._limit = self.settings.max_images if max_images is None else max_images
        neurons = sum(module.out_channels for module in self.layers.values())
        capacity = MEMORY // (4 * SAMPLES * max(1, neurons))
        capacity = min(max(capacity, MIN_CAPACITY), MAX_CAPACITY)
        self._collectors = {name: LayerCollector(conv, capacity, self._shard) for name, conv in self.layers.items()}
        self.failure, self._visit, self._visits = None, None, 0
        self._taken.clear()
        self._probes.attach()
        for entry in self._probes.entries.values():
            entry.entered, entry.left = self._guarded(self._enter), self._guarded(self._leave)

    def stop(self) -> None:
        """Listen no longer; what was measured stays."""
        self._probes.mute()
        self._visit = None

    # --- what was found ----------------------------------------------------------------------------------------------

    @property
    def images(self) -> int:
        """Images that entered so far."""
        return max(self._taken.values(), default=0)

    @property
    def satisfied(self) -> bool:
        """Whether as many images entered as were asked for."""
        return bool(self._taken) and min(self._taken.values()) >= self._limit

    def report(self, notes: Iterable[str] = ()) -> PANReport:
        """Return what was found so far; if the work is shared every rank calls it, and all get the same figures.

        Args:
            notes: What a reader should know besides.
        """
        lines: dict[str, LayerReport] = {}
        for name, conv in self._selected.items():
            how = self._how_measured(name)
            if name in self._collectors:
                lines[name] = self._collectors[name].line(how)
            else:
                lines[name] = line_of(conv, how, why_unpadded(conv) or how.skipped)
        images = max((line.images for line in lines.values()), default=0)
        probed = f"{images} image was" if images == 1 else f"{images} images were"
        few = [f"only {probed} probed: chance adds to every contrast"] if 0 < images < FEW_IMAGES else []
        ended = [f"the measurement ended early: {self.failure}"] if self.failure else []
        return PANReport(lines, self.settings.threshold, self.settings.reference, (*few, *notes, *ended))

    def readings(self, layer: str, side: str, sync: bool = False) -> tuple[Tensor, Tensor]:
        """Return border and reference readings of a layer on a side, (n, channels) and (m, channels).

        Args:
            layer: Name of the layer.
            side: One of the eight sides.
            sync: Whether all processes call this, for the readings of all.
        """
        return self._collectors[layer].readings(side, sync)

    def geometry(self, layer: str) -> Geometry | None:
        """Return a layer's geometry in the model's own forward, None if it is not known."""
        return self._how_measured(layer).geometry

    @property
    def sample_images(self) -> Tensor | None:
        """The first images that entered, for pictures (images, channels, height, width); None before any did."""
        return None if self._sample is None else self._sample.images

    def watch_sample(self, layers: Collection[str], listener: Listener, count: int) -> None:
        """Run the first of :attr:`sample_images` once more, and let somebody listen.

        Args:
            layers: Names of the layers to listen to.
            listener: Is called with a layer's name and what passed it.
            count: Number of images.
        """
        if self._sample is not None:
            with self._probes.running(self._sample.module):
                self._probes.listen(listener, layers)
                self._sample.on(self._sample.images[:count]).run()

    def _how_measured(self, name: str) -> HowMeasured:
        """How a layer is measured, from the first input size that knows."""
        skipped: Reason | None = None
        geometry: Geometry | None = None
        for current in self._plans.values():
            for (layer, number), known in current.geometries.items():
                if layer == name:
                    geometry = geometry or known
                    site = current.sites.get((layer, number))
                    if site is not None:
                        return HowMeasured(site, known, None, self._pad_names.get(id(site.layer.pad)))
            skipped = skipped or current.skipped.get(name)
        return HowMeasured(None, geometry, skipped)

    # --- while images pass -------------------------------------------------------------------------------------------

    def offer(self, images: Tensor) -> bool:
        """Hand images to the module that they entered by before, or else to the outermost that they may enter by.

        Returns:
            Whether the module took them.
        """
        name = next(iter(self._entered), next(iter(self._probes.entries)))
        before = self.images
        try:
            self._probes.entry_modules[name](images)
        except Exception as error:  # a module that takes its images otherwise is no fault
            self.failure = f"{name or 'the model'} does not take the images: {type(error).__name__}: {error}"
            return False
        return self.images > before

    def _enter(self, call: EntryCall) -> None:
        """Before a module's forward: if images enter here, listen to the layers below it."""
        elsewhere = self._visit is not None and self._visit.name != call.name
        if self._probes.ours or not call.has_images or elsewhere:
            return
        if call.name not in self._entered:
            self._entered.append(call.name)
        if self.on_entry is not None:
            self.on_entry(call.images)
        take = min(len(call.images), self._limit - self._taken[call.name])
        if take <= 0:  # nothing below listens either
            self._visit = Visit(call.name)
            return
        current = self._plan_of(call)
        if self._sample is None:
            self._sample = call.on(call.images[:SAMPLE_IMAGES].detach().clone())
        images = call.images[:take]
        images = images.clone() if current.in_place else images
        before = self._taken[call.name] if self._shard.images is None else None
        self._visit = Visit(call.name, current, images, self._shard.number(self._visits), before)
        self._visits += 1
        self._listen(current.own, self._visit)

    def _leave(self, call: EntryCall) -> None:
        """After a module's forward: run the other views of the same images."""
        visit = self._visit
        if self._probes.ours or visit is None or visit.name != call.name:
            return
        if visit.plan is not None and visit.images is not None:
            with self._probes.running(call.module):
                for forward in visit.plan.ours:
                    count = visit.count_for(forward.view)
                    if count and forward.make is not None:
                        self._listen(forward, visit)
                        call.on(forward.make(visit.images[:count].detach(), forward.offset)).run()
            self._taken[call.name] += len(visit.images)
        self._visit = None

    def _plan_of(self, call: EntryCall) -> Plan:
        """How images of this size are measured, decided on the first of them or on the example that all ranks have."""
        images, example = call.images, self._shard.example
        channels, height, width = images.shape[1:]
        key = (call.name, channels, height, width)
        if key not in self._plans:
            fits = example is not None and example.shape[1:] == images.shape[1:]
            deciding = call.on(example.to(images)) if example is not None and fits else call
            with self._probes.running(call.module):
                self._plans[key] = plan(deciding, self._probes, self.settings.reference)
        return self._plans[key]

    def _listen(self, forward: Forward, visit: Visit) -> None:
        """Collect what is read in a forward."""
        reading = Reading(forward, visit, self._collectors)
        self._probes.listen(self._guarded(reading), {name for name, _ in forward.reads})

    def _guarded(self, function: Callable[P, None]) -> Callable[P, None]:
        """Return the function; if errors are tolerated, one becomes a warning and the end of the measurement."""
        if not self._tolerant:
            return function

        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except StopForward:
                raise
            except Exception as error:  # whatever it is, it is ours and must not end the user's run
                if self._probes.ours:
                    raise
                self.failure = f"{type(error).__name__}: {error}"
                self.stop()
                warnings.warn(f"pan_callbacks stopped measuring, the model goes on: {self.failure}", stacklevel=2)

        return guarded
