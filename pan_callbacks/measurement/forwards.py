"""The forwards of ours: planned once for an input size, and run in a copy of the user's model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from torch import nn

from pan_callbacks._runtime import Shard, is_out_of_memory
from pan_callbacks.layers import Convolution, PaddedLayer, PadModule, Reason, convolutions, why_unpadded
from pan_callbacks.measurement.agreement import Agreement
from pan_callbacks.measurement.answering import Answering
from pan_callbacks.measurement.calls import EntryCall, Listener
from pan_callbacks.measurement.collector import LayerCollector
from pan_callbacks.measurement.hooks import quietly
from pan_callbacks.measurement.lines import HowMeasured
from pan_callbacks.measurement.neutral import padding_neutral
from pan_callbacks.measurement.pads import name_of_pad
from pan_callbacks.measurement.plans import Plan
from pan_callbacks.measurement.reference import plan
from pan_callbacks.measurement.shadow import InCopy, InPlace, Shadow
from pan_callbacks.measurement.sharded import is_sharded, refuse
from pan_callbacks.measurement.tail import Tail
from pan_callbacks.measurement.tails import tails, traits_of, weights_of
from pan_callbacks.measurement.trace import Site, trace
from pan_callbacks.measurement.visit import Reading, Visit
from pan_callbacks.padding import Geometry

_ALONE = "measured on what enters {entry}, which is called by itself: the border in what earlier layers give is cut off"


class OurForwards:
    """Knows how every layer is measured, and runs what is needed for it besides the user's own forward.

    Args:
        layers: Layers that are measured, by name.
        pads: Pad modules, by name.
        reference: The reference asked for.
        shard: This process's part of the work.
        shadow: The copy to run in; None for one of the model as it is when a forward is run first.
        with_hooks: Whether copies of the model have copies of the user's forward hooks.

    Attributes:
        notes: What a reader should know of how the forwards were run, by the entry that it is about.
        answers: How far they move with all padding neutral.
        alone: Entries that are called with what other parts of the model made of the images.
        with_hooks: See above; becomes true if his hooks change what layers give.
    """

    def __init__(
        self,
        layers: Mapping[str, Convolution],
        pads: Mapping[str, PadModule],
        reference: str,
        shard: Shard,
        shadow: Shadow | None = None,
        with_hooks: bool = False,
    ) -> None:
        self._layers, self._reference, self._shard = layers, reference, shard
        self._pad_names = {id(module): name for name, module in pads.items()}
        self._given = shadow
        self._tails: dict[tuple[str, Site], Tail] = {}
        self._traits: dict[str, list[Any]] = {}  # what the tails were found in
        self._followed: set[str] = set()  # entries whose tails are those of the weights of now
        self._shadows: dict[str, Shadow | InPlace] = {}
        self._plans: dict[tuple[str | int, ...], Plan] = {}
        self._agreements: dict[str, Agreement] = {}
        self._checked: set[str] = set()  # entries whose own forward was compared with that of the copy
        self.notes: dict[str, str] = {}
        self.alone: set[str] = set()
        self.answers = Answering()
        self.with_hooks = with_hooks

    @property
    def remarks(self) -> list[str]:
        """What a reader of the report should know: of what is no layer, and of how the forwards were run."""
        return [*dict.fromkeys(note for plan in self._plans.values() for note in plan.notes), *self.notes.values()]

    def begin(self) -> None:
        """Forget copies, and what was noted of the forwards that were run in them."""
        self.forget_copies()
        self.answers.begin()
        for key in [key for key in self.notes if key == "neutral" or key.startswith("weights of ")]:
            del self.notes[key]

    def forget_copies(self) -> None:
        """Let go of the copies; the model is another after the next step."""
        for name in (name for name, shadow in self._shadows.items() if isinstance(shadow, Shadow) and shadow.was_other):
            self._note_other_weights(name, "a mixture")
        self._shadows.clear()
        self._followed.clear()
        self.answers.forget_copies()
        if self._given is not None:
            self._given.rest()

    def gather(self, model: nn.Module) -> None:
        """Put a model that several processes have in parts together in a copy; all of them call this at one point.

        Within a forward one would wait for another that measures less, or failed.

        Args:
            model: The model; if it is not sharded there is nothing to do.

        Raises:
            PANError: If it is divided in a way that cannot be measured.
        """
        refuse(model)
        if self._layers and is_sharded(model):
            self._given = self.resting_copy(model, model)

    def resting_copy(self, model: nn.Module, part: nn.Module) -> Shadow:
        """Return a copy on the CPU, as it is not to take up the device's memory until it is needed.

        Args:
            model: The model.
            part: What of it is enough; of a sharded one all processes copy the whole, whatever each finds enough.
        """
        refuse(model)
        return Shadow(model if is_sharded(model) else part, self._layers, "cpu", self.with_hooks)

    def shadow(self, call: EntryCall) -> Shadow | InPlace:
        """Return the copy of the module that a call enters by, or what takes its place."""
        if self._given is not None:
            return self._given
        if call.name not in self._shadows:
            try:
                self._shadows[call.name] = self._copy(call)
            except Exception as error:  # whatever a class of somebody else's makes impossible
                self.notes[call.name] = (
                    f"forwards of ours ran in {call.name or 'the model'} itself, which cannot be copied ({error}); "
                    "what they changed in it was put back"
                )
                self._shadows[call.name] = InPlace(call.module, self._layers)
        return self._shadows[call.name]

    def _copy(self, call: EntryCall) -> Shadow:
        """Return a copy of what answers, or if that cannot be copied of what images enter by."""
        if call.within is not None:
            with suppress(Exception):
                return Shadow(call.within.module, self._layers, with_hooks=self.with_hooks)
        return Shadow(call.module, self._layers, with_hooks=self.with_hooks)

    def is_current(self, call: EntryCall) -> bool:
        """Whether a call is made with the weights of the copy, which are those of the first call since a start."""
        if self._given is not None or self.shadow(call).is_current:
            return True
        self._note_other_weights(call.name, "the model with those that came first")
        return False

    def _note_other_weights(self, name: str, measured: str) -> None:
        other = f"{name or 'the model'} was called with other weights, too (an average of them?)"
        self.notes[f"weights of {name}"] = f"{other}: what was measured is {measured}"

    def plan_of(self, call: EntryCall) -> Plan:
        """How images of this size are measured, decided on the first of them or on the example that all ranks have."""
        images, example = call.images, self._shard.example
        key = (call.name, *images.shape[1:])
        if key not in self._plans:
            fits = example is not None and example.shape[1:] == images.shape[1:]
            deciding = call.first(1).on(example.to(images)) if example is not None and fits else call
            shadow = self.shadow(call)
            with shadow.running():
                made = plan(shadow.call(deciding), shadow.probes, self._reference)
            for (name, number), site in made.sites.items():  # a plan outlives the copy that it was made in
                pad = site.layer.pad
                pad = cast(PadModule, shadow.original(pad)) if isinstance(pad, nn.Module) else pad
                layer = PaddedLayer(self._layers[name], pad)
                made.sites[name, number] = replace(site, layer=layer)
            self._plans[key] = made
        return self._plans[key]

    def listener(self, visit: Visit, collectors: Mapping[str, LayerCollector]) -> tuple[Listener, set[str]]:
        """Return who listens to the user's own forward, and to which layers."""
        call, shadow = visit.call, self.shadow(visit.call)
        reading = InCopy(Reading(visit.plan.own, visit, visit.images, collectors, ours=False), shadow)
        if call.name in self._checked or not (shadow.left_behind or self.with_hooks):
            return reading, {name for name, _ in visit.plan.own.reads}
        with shadow.running():
            self._agreements[call.name] = agreement = Agreement(trace(shadow.call(call), shadow.probes))
        return agreement.before(reading), set(self._layers)

    def agree(self, visit: Visit) -> bool:
        """Whether the user's own forward gave what the copy gives; if not, copies have his hooks from now on.

        A hook that only looks on is no part of what a model computes, and is better left behind. One that changes
        what a layer gives shows in the first images.
        """
        agreement = self._agreements.pop(visit.call.name, None)
        if agreement is None:
            return True
        self._checked.add(visit.call.name)
        if not agreement.differs:
            return True
        if self.with_hooks:
            self.notes[visit.call.name] = (
                f"what the layers of {visit.call.name or 'the model'} give is changed by forward hooks, or depends on "
                "the other images of a batch, in a way that our forwards cannot repeat: contrasts may be off"
            )
            return True
        self.with_hooks = True
        self._shadows.clear()
        self._plans.clear()
        self._checked.clear()
        self.answers.begin()
        return False

    def run(self, visit: Visit, collectors: Mapping[str, LayerCollector], own: bool = False) -> None:
        """Run the forwards of ours that a visit's plan asks for.

        Args:
            visit: The images, and how they are measured.
            collectors: Layer name to what collects.
            own: Whether to run the model's own forward, too, since nobody listened to the user's.
        """
        forwards = (visit.plan.own, *visit.plan.ours) if own else visit.plan.ours
        shadow = self.shadow(visit.call)
        with shadow.running():
            if visit.call.name not in self._followed:
                self._followed.add(visit.call.name)
                self._follow(visit, shadow)
            for forward in forwards:
                if forward is not visit.plan.own and forward.reads.keys() <= visit.missing:
                    continue
                images = visit.images_of(forward)
                if not len(images.numbers):
                    continue
                call = images.call if forward.make is None else images.call.seen(forward.make, forward.offset)
                call = shadow.call(call.copied() if visit.plan.in_place else call)
                ours = forward is not visit.plan.own
                reading = Reading(forward, visit, images, collectors, ours)
                shadow.probes.listen(reading, {name for name, _ in forward.reads})
                if forward.neutral:
                    self._run_neutral(call, visit, shadow)
                elif forward is visit.plan.own:
                    self._run_own(call, visit, shadow)
                else:
                    call.run()
            if not own:
                self.answers.take(visit, shadow)

    def _run_own(self, call: EntryCall, visit: Visit, shadow: Shadow | InPlace) -> None:
        """Run the model's own forward to its end, and see how far its answer relies on padding."""
        answer = None
        try:
            with quietly(call.module):  # so that the random state is the same when it is run without padding
                answer = call.answer()
        except Exception as error:
            if visit.missing or is_out_of_memory(error):
                raise  # else all that is measured has passed
        self.answers.take(visit, shadow, None if visit.call.within else answer)

    def _follow(self, visit: Visit, shadow: Shadow | InPlace) -> None:
        """Find the tails of the sites; of those that are known from an epoch before, the weights alone are others."""
        call, sites = shadow.call(visit.call.richest()), visit.plan.sites
        known = {site: self._tails.get((visit.call.name, site)) for site in sites}
        weights, traits = weights_of(call.module), traits_of(call.module)
        found = {site: tail for site, tail in known.items() if tail is not None and tail.holds(weights)}
        if found.keys() == known.keys() and self._traits.get(visit.call.name) == traits:
            found = {site: tail.of(weights) for site, tail in found.items()}
        else:
            found = tails(call, shadow.probes, sites)
        self._traits[visit.call.name] = traits
        self._tails |= {(visit.call.name, site): tail for site, tail in found.items()}

    def _run_neutral(self, call: EntryCall, visit: Visit, shadow: Shadow | InPlace) -> None:
        """Run a forward with all padding neutral; where that cannot be, origins are told by the padding effect."""
        try:
            known = {site.layer.module: site.layer.pad for site in visit.plan.sites.values()}
            pads = {shadow.of(conv): pad for conv, pad in known.items()}
            found = [PaddedLayer(conv, pads.get(conv)) for conv in convolutions(call.module).values()]
            with padding_neutral(layer for layer in found if why_unpadded(layer.module, layer.pad) is None):
                call.run()
        except Exception as error:  # whatever somebody's forward does not bear
            self.notes["neutral"] = f"origins are told by the padding effect alone ({type(error).__name__}: {error})"

    def how_measured(self, name: str) -> HowMeasured:
        """How a layer is measured, from the first input size that knows."""
        skipped: Reason | None = None
        geometry: Geometry | None = None
        for (entry, *_), current in self._plans.items():
            for (layer, number), known in current.geometries.items():
                if layer == name:
                    geometry = geometry or known
                    site = current.sites.get((layer, number))
                    if site is not None:
                        if entry in self.alone:
                            alone = _ALONE.format(entry=entry)
                            site = replace(site, reason=f"{site.reason}; {alone}" if site.reason else alone)
                        pad = name_of_pad(site.layer.pad, self._pad_names)
                        return HowMeasured(site, known, None, pad, self._tails.get((str(entry), (layer, number))))
            skipped = skipped or current.skipped.get(name)
        return HowMeasured(None, geometry, skipped)
