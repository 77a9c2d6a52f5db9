"""Measures a model while images pass through it: the one engine behind ``scan`` and ``PANMonitor``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import ParamSpec

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import ALONE, Shard
from pan_callbacks.layers import convolutions, pad_modules, select, why_unpadded
from pan_callbacks.measurement.batches import device_of
from pan_callbacks.measurement.calls import EntryCall, Listener
from pan_callbacks.measurement.collector import LayerCollector
from pan_callbacks.measurement.entries import Entrance
from pan_callbacks.measurement.forwards import OurForwards
from pan_callbacks.measurement.grouping import Names
from pan_callbacks.measurement.hooks import Probes, guarded
from pan_callbacks.measurement.intake import Intake
from pan_callbacks.measurement.plans import SitePlan
from pan_callbacks.measurement.reporting import report_of
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.measurement.shadow import Shadow, is_lazy
from pan_callbacks.measurement.together import Part, together
from pan_callbacks.measurement.views import InView
from pan_callbacks.measurement.visit import Visit
from pan_callbacks.reports.pan_report import PANReport

#: Images kept for pictures.
SAMPLE_IMAGES = 16

P = ParamSpec("P")


class Measurement:
    """Attaches to a model, listens to its forward while images pass, runs others in a copy, and says what it found.

    Args:
        model: Model to measure.
        settings: What is asked.
        shard: This process's part of the work; with others, :meth:`report` reduces over all of them.
        tolerant: Whether an error of ours becomes a warning, and ends the measurement instead of the program.
        shadow: A copy of the model that is measured in its stead, by :meth:`measure`; None for one of the model as it
            is when images come.
        with_hooks: Whether forward hooks that somebody put on the model run, as copies, in forwards of ours; they do in
            any case if they are seen to change what layers give.

    Attributes:
        model: The model.
        failure: What ended the measurement early, None if nothing did.
        failed_anywhere: Whether something did in any process, when they made the last report.
        also: Another measurement of the same model, which measures in its own copy whatever enters this one.

    Raises:
        PANError: If a glob matches nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings | None = None,
        shard: Shard = ALONE,
        tolerant: bool = False,
        shadow: Shadow | None = None,
        with_hooks: bool = False,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        self.failure: str | None = None
        self.failed_anywhere = False
        self.also: Measurement | None = None
        self.model, self._shard, self._tolerant = model, shard, tolerant
        self._selected = select(model, self.settings.layers)
        self.layers = {n: m for n, m in self._selected.items() if max(m.kernel_size) > 1 or why_unpadded(m) is None}
        neurons = sum(module.out_channels for module in self.layers.values())
        self._intake = Intake(shard, neurons, self.settings.max_images)
        # whatever was selected, images are what comes before all convolutions, and before what pads for them
        pads = pad_modules(model)
        self._entrance = Entrance(model, [*convolutions(model), *pads] if self.layers else [])
        self._probes = Probes(self.layers, self._entrance.modules)
        self._forwards = OurForwards(self.layers, pads, self.settings.reference, shard, shadow, with_hooks)
        self._collectors: dict[str, LayerCollector] = {}
        self._found: Mapping[str, LayerCollector] = {}  # of all processes, once there is a report
        self._entered: dict[str, tuple[str, nn.Module]] = {}  # what images entered by: the method, and what answers
        self._visit: Visit | None = None
        self._late: EntryCall | None = None  # what goes on and is measured when it has ended
        self._sample: EntryCall | None = None

    # --- on and off --------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put the hooks on the model; a compiled model ignores those that come after its first forward."""
        self._probes.attach()

    def detach(self) -> None:
        """Take the hooks off the model; what was measured stays."""
        self._probes.detach()

    def start(self, max_images: int | None = None, listen: bool = True) -> None:
        """Forget what was measured, and measure from now on.

        Args:
            max_images: Images to measure on, if not as many as the settings say (a rank takes its part of them).
            listen: Whether to measure what passes the model; else that is left to :meth:`measure`.
        """
        self._intake.start(self.settings.max_images if max_images is None else max_images)
        self._forget()
        self.failure = self._visit = None
        self._forwards.begin()
        self._entrance.reset()
        self._entrance.began, self._entrance.ended = self._enter, self._leave
        if listen:
            self._probes.attach()
            for entry in self._probes.entries.values():
                entry.entered, entry.left = self.enter, self.leave
            self.gather()

    def gather(self) -> None:
        """Copy a model that several processes have in parts, after a start: all call this before they see images."""
        self._guarded(self._forwards.gather)(self.model)

    def expect(self, share: float = 1.0, names: Names | None = None, total: int | None = None) -> None:
        """Say what the next batch is, before it enters.

        Args:
            share: Part of the images to measure on that may have been taken when it has passed.
            names: Is asked to which of the user's groups each of its images belongs; None if each is its own.
            total: Images that come in all, of which more readings are kept if there are few; None if nobody knows.
        """
        self._guarded(self._intake.expect(share, names, total))()
        if self.also is not None:
            self.also.expect(share, self._intake.names, total)

    def _forget(self) -> None:
        self._collectors, self._found = {name: LayerCollector(conv) for name, conv in self.layers.items()}, {}

    def stop(self) -> None:
        """Listen no longer; what was measured stays."""
        self._probes.mute()
        self._visit = None
        self._forwards.forget_copies()

    @property
    def fits(self) -> bool:
        """Whether the model still consists of the convolutions that this was made for."""
        now, before = ({*map(id, found.values())} for found in (convolutions(self.model), self._selected))
        return before <= now and (self.settings.layers is not None or before == now)

    # --- what was found ----------------------------------------------------------------------------------------------

    @property
    def images(self) -> int:
        """Images that entered so far."""
        return self._intake.images

    @property
    def satisfied(self) -> bool:
        """Whether as many images entered as were asked for."""
        return self._intake.satisfied

    def report(self, notes: Iterable[str] = ()) -> PANReport:
        """Return what was found so far; if the work is shared every rank calls it, and all get the same figures.

        Args:
            notes: What a reader should know besides.
        """
        ended = [f"the measurement ended early: {self.failure}"] if self.failure else []
        answers, failed = self._forwards.answers, self.failure is not None
        mine = Part(self._collectors, self._intake.grouping, answers, tuple(notes), failed)
        found = together(mine, self.layers, self._shard, device_of(self.model))
        self._found, self.failed_anywhere = found.collectors, found.failed
        return report_of(self.model, self._selected, self._forwards, self.settings, found, ended)

    def readings(self, layer: str, side: str) -> tuple[Tensor, Tensor]:
        """Return border and reference readings of a layer on a side, (n, channels) and (m, channels).

        If the work is shared they are those of all processes once there is a report, and of this one before.

        Args:
            layer: Name of the layer.
            side: One of the eight sides.
        """
        return (self._found or self._collectors)[layer].readings(side)

    def site(self, layer: str) -> SitePlan | None:
        """Return how a layer is measured, None if it is not."""
        return self._forwards.how_measured(layer).site

    def watch_sample(self, names: Collection[str], listener: Listener, count: int, view: InView) -> Tensor | None:
        """Run the first images that entered once more, in a view, for who listens; return them as they were seen."""
        if self._sample is None:
            return None
        call, shadow, (make, offset) = self._sample.first(count), self._forwards.shadow(self._sample), view
        call = call if make is None else call.seen(make, offset)
        with shadow.running():
            shadow.probes.listen(listener, names)
            shadow.call(call.copied()).run()  # a model that writes into its input keeps off the sample
        return call.images

    # --- while images pass -------------------------------------------------------------------------------------------

    def enter(self, call: EntryCall) -> None:
        """Take note of a call of the user's that begins: of a module, by a hook, or of a method, by who makes it."""
        self._guarded(self._entrance.enter)(call)

    def leave(self, call: EntryCall) -> None:
        """Take note that it ended; if nothing of a step was heard, measure it in a copy."""
        self._guarded(self._left)(call)

    def measure(self, call: EntryCall) -> None:
        """Measure the images of a call in a copy of the model; nobody need have made the call."""
        visit = self._begin(call)
        if visit is not None:
            self._forwards.run(visit, self._collectors, own=True)
            self._intake.took(visit)

    def frozen(self) -> Measurement:
        """Return a measurement of the model as it is now, whatever becomes of it; images it gets by :meth:`measure`.

        Raises:
            PANError: If the model cannot be copied.
        """
        ways = [*self._entered.values()]
        part = ways[0][1] if [method for method, _ in ways] == ["__call__"] else self.model
        shadow = self._forwards.resting_copy(self.model, part)
        return Measurement(self.model, self.settings, self._shard, self._tolerant, shadow)

    @property
    def doors(self) -> dict[str, nn.Module]:
        """Modules that may take images from us, by name: those that took some before, then the smallest first."""
        plain = [name for name, (method, _) in self._entered.items() if method == "__call__"]
        return {name: self._probes.entry_modules[name] for name in (*plain, *self._entrance.candidates)}

    def _left(self, call: EntryCall) -> None:
        unheard = None if call.method == "__call__" else self._entrance.unheard(call)
        self._entrance.leave(call)
        if unheard is not None:
            self._hand_on(unheard)
            self.measure(unheard)

    def _hand_on(self, call: EntryCall) -> None:
        if self.also is not None:
            self.also._guarded(self.also.measure)(call)

    def _enter(self, call: EntryCall) -> None:
        """Where images enter: listen to the layers below."""
        if call.name not in self._entered and is_lazy(call.module):
            self._late = call.copied()
            return  # its layers get their weights in this call
        self._hand_on(call)
        self._visit = visit = self._begin(call)
        if visit is not None:
            listener, names = self._forwards.listener(visit, self._collectors)
            self._probes.listen(self._guarded(listener), names)

    def _leave(self, call: EntryCall) -> None:
        """Behind: run the other views of the same images."""
        visit, self._visit = self._visit, None
        self._probes.listen(None)
        late, self._late = self._late, None
        if late is not None:
            self._hand_on(late)
            self.measure(late)
        if visit is None:
            return
        if not self._forwards.agree(visit):
            self._intake.start()
            self._forget()  # measured in a copy that computes something else
            return
        self._forwards.run(visit, self._collectors)
        self._intake.took(visit)

    def _begin(self, call: EntryCall) -> Visit | None:
        """Return what is to be measured of a call, None if there are images enough."""
        take = self._intake.room(call)
        if not take or not self._forwards.is_current(call):
            return None
        plan = self._forwards.plan_of(call)
        if not plan.calls:
            return None  # no layer is part of it
        if self._entered and call.name not in self._entered and self._entrance.is_part(call):
            self._forwards.alone.add(call.name)
        self._entered.setdefault(call.name, (call.method, call.answering.module))
        if self._sample is None:
            with torch.inference_mode(False):  # to be used outside of it, too
                self._sample = call.first(SAMPLE_IMAGES).copied()
        part = call.first(take)
        return self._intake.visit(part.copied() if plan.in_place else part, plan)

    def _guarded(self, function: Callable[P, None]) -> Callable[P, None]:
        return guarded(function, self._fail) if self._tolerant else function

    def _fail(self, error: BaseException) -> None:
        """Make an error that is tolerated a warning, and the end of the measurement."""
        self.failure, self._entrance.heard = f"{type(error).__name__}: {error}", True  # nothing is measured later
        self.stop()
        warnings.warn(f"pan_callbacks stopped measuring, the model goes on: {self.failure}", stacklevel=3)
