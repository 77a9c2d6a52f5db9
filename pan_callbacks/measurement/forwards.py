"""The forwards of ours: planned once for an input size, and run in a copy of the user's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import nn

from pan_callbacks._runtime import Shard
from pan_callbacks.layers import PaddedLayer, PadModule, Reason
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.collector import HowMeasured, LayerCollector
from pan_callbacks.measurement.reference import Plan, plan
from pan_callbacks.measurement.shadow import InPlace, Shadow
from pan_callbacks.measurement.visit import Reading, Visit
from pan_callbacks.padding import Geometry


class OurForwards:
    """Knows how every layer is measured, and runs what is needed for it besides the user's own forward.

    Args:
        layers: Layers that are measured, by name.
        pads: Pad modules, by name.
        reference: The reference asked for.
        shard: This process's part of the work.
        shadow: The copy to run in; None for one of the model as it is when a forward is run first.

    Attributes:
        in_place: Name of an entry that cannot be copied to the reason.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Conv2d],
        pads: Mapping[str, PadModule],
        reference: str,
        shard: Shard,
        shadow: Shadow | None = None,
    ) -> None:
        self._layers, self._reference, self._shard = layers, reference, shard
        self._pad_names = {id(module): name for name, module in pads.items()}
        self._given = shadow
        self._shadows: dict[str, Shadow | InPlace] = {}
        self._plans: dict[tuple[str, int, int, int], Plan] = {}
        self.in_place: dict[str, str] = {}

    def forget_copies(self) -> None:
        """Let go of the copies; the model is another after the next step."""
        self._shadows.clear()

    def shadow(self, call: EntryCall) -> Shadow | InPlace:
        """Return the copy of the module that a call enters by, or what takes its place."""
        if self._given is not None:
            return self._given
        if call.name not in self._shadows:
            try:
                self._shadows[call.name] = Shadow(call.module, self._layers)
            except Exception as error:  # whatever a class of somebody else's makes impossible
                self.in_place[call.name] = f"it cannot be copied: {error}"
                self._shadows[call.name] = InPlace(call.module, self._layers)
        return self._shadows[call.name]

    def plan_of(self, call: EntryCall) -> Plan:
        """How images of this size are measured, decided on the first of them or on the example that all ranks have."""
        images, example = call.images, self._shard.example
        channels, height, width = images.shape[1:]
        key = (call.name, channels, height, width)
        if key not in self._plans:
            fits = example is not None and example.shape[1:] == images.shape[1:]
            deciding = call.first(1).on(example.to(images)) if example is not None and fits else call
            shadow = self.shadow(call)
            with shadow.running():
                made = plan(shadow.call(deciding), shadow.probes, self._reference)
            for (name, number), site in made.sites.items():  # a plan outlives the copy that it was made in
                pad = None if site.layer.pad is None else cast(PadModule, shadow.original(site.layer.pad))
                layer = PaddedLayer(self._layers[name], pad)
                made.sites[name, number] = replace(site, layer=layer)
            self._plans[key] = made
        return self._plans[key]

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
            for forward in forwards:
                count = visit.count_for(forward.view)
                if count and forward.reads:
                    call = visit.call.first(count)
                    call = call if forward.make is None else call.seen(forward.make, forward.offset)
                    shadow.probes.listen(Reading(forward, visit, collectors), {name for name, _ in forward.reads})
                    shadow.call(call.copied() if visit.plan.in_place else call).run()

    def how_measured(self, name: str) -> HowMeasured:
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
