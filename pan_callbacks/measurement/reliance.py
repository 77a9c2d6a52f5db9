"""Runs a network as it is and with all padding neutral: how far its answers move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import ALONE, Shard, give_up_together, in_smaller_batches, progress_bar, several
from pan_callbacks.errors import PANError
from pan_callbacks.layers import Pad, PaddedLayer, convolutions, image_axes, pad_modules, why_unpadded
from pan_callbacks.measurement.answers import comparable
from pan_callbacks.measurement.batches import describe_batch, device_of, first_images, image_count
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.exchange import of_all
from pan_callbacks.measurement.grouping import Grouping, Groups, found, names_of
from pan_callbacks.measurement.hooks import Probes, quietly
from pan_callbacks.measurement.movement import Movement, reliance_of
from pan_callbacks.measurement.neutral import padding_neutral
from pan_callbacks.measurement.shadow import Shadow
from pan_callbacks.measurement.trace import trace
from pan_callbacks.measurement.watching import calls_pad
from pan_callbacks.reports.reliance import Reliance


def reliance(
    model: nn.Module,
    batches: Iterable[Any],
    max_images: int = 256,
    groups: Groups = None,
    progress: bool = True,
    shard: Shard = ALONE,
) -> Reliance:
    """Measure how far a network's answers move if all of its padding is made neutral.

    A copy of the network is run twice on each batch: as it is, and with each padded layer reading the map's own values,
    reflected, in place of the constants that it pads with. Layers that pad with the map's own values anyway
    (``"reflect"``, ``"replicate"``, ``"circular"``) stay as they are. The model is left as it was.

    Answers that are class scores (images, classes), as logits or probabilities, are compared by total variation, and so
    are those at each pixel (images, classes, height, width). All others, a single logit and maps of the channels and
    the size of the images among them, are compared by their change in units of their spread over images.

    The maps of a detector's head have the shape of a segmentation, and nothing in them says which they are: their
    channels are taken for classes, too. Of a model that flattens them, ``answer.flatten(2)``, the change is relative.

    Args:
        model: Model to run; it is called with a batch of images, on the device it is on.
        batches: Yields tensors of images (images, channels, height, width), or tuples, lists or dicts that hold one.
        max_images: Images to look at, at most.
        groups: Which images belong together, see :func:`pan_callbacks.scan`.
        progress: Whether to show a progress bar.
        shard: This process's part of the work; all that share it get the same together.

    Raises:
        ValueError: If ``max_images`` is less than 1.
        PANError: If a batch holds no images, there is no batch, or the answers cannot be compared: they are no tensor
            of floats with a row for each image, or not finite.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(64, 2)).eval()
        >>> images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> found = reliance(net, [images], progress=False)
        >>> found.distance, 0 < found.value < 1
        ('total variation', True)
        >>> net[0].padding_mode = "circular"  # nothing is constant there
        >>> reliance(net, [images], progress=False).value
        0.0
    """
    if max_images < 1:
        raise ValueError(f"max_images={max_images!r}: at least one image is needed")
    names = groups if groups is None or callable(groups) else list(groups)
    failure, work, state = None, _Work(model, max_images, names, shard), dict[str, Any]()
    try:
        with quietly(model):  # for the random state, which batches may draw from
            feed = partial(work.feed, batches, progress=progress)
            in_smaller_batches(feed, restartable=not isinstance(batches, Iterator))
        state = {"answers": work.movement.state(), "images": work.grouping.state()}
    except Exception as error:  # the other processes wait for this one
        failure = error
    give_up_together(failure, device_of(model))
    states = of_all(state, device_of(model)) if shard.shared and several() else [state]
    images = found(state["images"] for state in states)
    made, why_not = reliance_of([state["answers"] for state in states], images.clusters or images.distinct)
    if made is None:
        raise PANError(f"no reliance: {why_not}" if why_not else "batches is empty: nothing was measured")
    return made


class _Work:
    """One process's part of the work.

    Args:
        model: The model.
        most: Images that are taken, at most.
        names: Names of the groups, a function of a batch that returns them, or None.
        shard: This process's part of the work.
    """

    def __init__(self, model: nn.Module, most: int, names: Groups, shard: Shard) -> None:
        self._model, self._most, self._names, self._shard = model, most, names, shard
        self.images, self.movement, self.grouping = 0, Movement(), Grouping(shard)

    def feed(self, batches: Iterable[Any], largest: int | None, progress: bool) -> Iterator[int]:
        """Run both on the batches; yield the size of each forward before it is made."""
        self.images, self.movement, self.grouping = 0, Movement(), Grouping(self._shard)
        shadow, device, seen = Shadow(self._model, {}, with_hooks=True), device_of(self._model), 0
        layers: list[PaddedLayer] | None = None
        total = min(self._most, image_count(batches) or self._most)
        with progress_bar("reliance", total, progress) as advance:
            for number, batch in enumerate(batches):
                images = first_images(batch, image_axes(self._model))
                if images is None:
                    raise PANError(f"batches holds no images: {describe_batch(batch)}")
                names = names_of(self._names, batch, seen, len(images))
                seen += len(images)
                images = images[: self._most - self.images].to(device)
                yield min(len(images), largest or len(images))
                self.grouping.expect(None if names is None else names[: len(images)].copy)
                first = self.grouping.first(self._shard.number(number), len(images), self.images)
                of = self.grouping.of(images, "", first)
                call = shadow.call(EntryCall("", self._model, (images,), {}))
                with shadow.running():
                    layers = padded_layers(call) if layers is None else layers
                    self.movement.add(*both_answers(call, layers, None, largest), images, of)
                self.images += len(images)
                advance(len(images))
                if self.images >= self._most:
                    return


def padded_layers(call: EntryCall) -> list[PaddedLayer]:
    """Return every layer below a module that pads with a constant, with what pads its input.

    Args:
        call: A call of the module, or of a copy, which is run on one image if anything but convolutions may pad.
    """
    convs, pads = convolutions(call.module), dict[str, Pad | None]()
    if pad_modules(call.module) or any(map(calls_pad, call.module.modules())):
        probes = Probes(convs, {})
        probes.attach()
        try:
            for (name, _), site in trace(call.one().copied(), probes).items():
                pads.setdefault(name, site.pad)
        finally:
            probes.detach()
    layers = (PaddedLayer(conv, pads.get(name)) for name, conv in convs.items())
    return [one for one in layers if why_unpadded(one.module, one.pad) is None and one.mode == "zeros"]


def both_answers(
    call: EntryCall, layers: list[PaddedLayer], before: Tensor | None = None, largest: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a module answers as it is, and with the padding of some layers neutral.

    Both forwards start with the same random state. If there are no such layers the answers are the same.

    Args:
        call: Its call, which may write into its input.
        layers: What :func:`padded_layers` found.
        before: What it answers as it is, if that is known.
        largest: Images in one forward, at most; None for all of them.

    Raises:
        PANError: If the answers cannot be compared.
    """
    before = _answer(call, largest) if before is None else before
    if not layers:
        return before, before
    with padding_neutral(layers):
        return before, _answer(call, largest)


def _answer(call: EntryCall, largest: int | None) -> Tensor:
    count = len(call.images)
    step = largest or count
    answers = []
    for start in range(0, count, step):
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[start : start + step] = True
        part = call.pick(chosen) if step < count else call
        with quietly(part.module):
            answers.append(comparable(part.copied().answer(), part.images))
    return answers[0] if len(answers) == 1 else torch.cat(answers)
