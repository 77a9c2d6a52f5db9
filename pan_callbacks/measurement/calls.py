"""What passes a layer, and what enters a model: one call of a module each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.layers import Convolution, Pad, PaddedLayer, dimensions, image_axes, lifted
from pan_callbacks.measurement.batches import first_images, is_images


@dataclass(eq=False)
class LayerCall:
    """One call of a convolution: what it received, and what it returned.

    Tensors have depth before the height in three dimensions, and one row in one dimension.

    Args:
        conv: The convolution.
        x: Its input (images, in channels, height, width), as padded by what pads before it, if anything does.
        output: Its output (images, channels, rows, columns).
        given: The very tensor that it was called with, which a :class:`PadTracker` knows; None if that is not at hand.
    """

    conv: Convolution
    x: Tensor
    output: Tensor
    given: Tensor | None = None

    @classmethod
    def of(cls, conv: Convolution, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> LayerCall:
        """Make one of what torch gives a forward hook; a single image becomes a batch of one."""
        x = given = args[0] if args else kwargs["input"]
        if output.ndim == 1 + dimensions(conv):
            x, output = x[None], output[None]
        return cls(conv, lifted(conv, x), lifted(conv, output), given)

    def first(self, images: int) -> LayerCall:
        """Return the call on the first images alone, without a gradient."""
        return LayerCall(self.conv, self.x[:images].detach(), self.output[:images].detach())

    def layer(self, pad: Pad | None = None) -> PaddedLayer:
        """Return the convolution together with what pads its input."""
        return PaddedLayer(self.conv, pad)


def why_no_map(conv: Convolution, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> str | None:
    """Return why a call of a convolution, whose class may have a forward of its own, is none of a map; None if it is.

    Args:
        conv: The convolution.
        args: What it was called with.
        kwargs: Likewise.
        output: What it returned.
    """
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Tensor) or not isinstance(output, Tensor):
        return "its forward takes or gives something else than one map"
    if output.is_complex():
        return "its map is of complex numbers"
    axes = dimensions(conv)
    if x.ndim != output.ndim or output.ndim not in (axes + 1, axes + 2):
        return f"its map has {output.ndim} axes, and what it was made of {x.ndim}"
    return None


#: Is called with a layer's name and what passed it.
Listener = Callable[[str, LayerCall], None]


class StopForward(Exception):
    """Ends a forward of ours early; never raised in a forward of the user's."""


@dataclass(eq=False)
class EntryCall:
    """A call of a module that images enter by.

    Args:
        name: Name of the module.
        module: The module.
        args: Its arguments.
        kwargs: Its keyword arguments.
        method: Name of the method that is called.
        within: The call around it that gives the network's answer, on the same images; None if it does so itself.
        features: Whether the answer is known to be none of the network: what others of its parts go on with.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    method: str = "__call__"
    within: EntryCall | None = None
    features: bool = False

    @property
    def answering(self) -> EntryCall:
        """The call that gives the network's answer."""
        return self if self.within is None else self.within

    @property
    def has_images(self) -> bool:
        """Whether there are images among the arguments: :func:`~pan_callbacks.measurement.batches.is_images`."""
        return self._images is not None

    @property
    def images(self) -> Tensor:
        """The images that enter (images, channels, height, width): the first among the arguments."""
        images = self._images
        assert images is not None, "no images enter by this call"
        return images

    @cached_property
    def _images(self) -> Tensor | None:
        given, axes = (*self.args, *self.kwargs.values()), image_axes(self.module)
        if self.method != "__call__":  # a step of a LightningModule, whose batch may hold them anywhere
            floats = first_images(given, axes)
            return first_images(given, axes, "bytes") if floats is None else floats
        inside = [item for value in given if isinstance(value, Mapping) for item in value.values()]
        return next((value for value in (*given, *inside) if is_images(value, axes)), None)

    def first(self, count: int) -> EntryCall:
        """Return the call on the first images alone, and on the rows of other tensors that belong to them."""
        images = len(self.images)
        return self._with(lambda tensor: tensor[:count] if tensor.ndim and len(tensor) == images else tensor)

    def pick(self, chosen: Tensor) -> EntryCall:
        """Return the call on some of the images, with what belongs to them.

        Args:
            chosen: Whether each image is one of them (images).
        """
        images = len(self.images)
        return self._with(
            lambda tensor: tensor[chosen.to(tensor.device)] if tensor.ndim and len(tensor) == images else tensor
        )

    def one(self) -> EntryCall:
        """Return the call on the first image that is finite, or on the very first, with what belongs to it."""
        finite = self.images.flatten(1).isfinite().all(1).int()
        return self.pick(torch.arange(len(finite), device=finite.device) == finite.argmax())

    def richest(self) -> EntryCall:
        """Return the call on the image that varies most, with what belongs to it."""
        spread = self.images.detach().flatten(1).float().std(1).nan_to_num(-1.0, posinf=-1.0)
        return self.pick(torch.arange(len(spread), device=spread.device) == spread.argmax())

    def copied(self) -> EntryCall:
        """Return the call on tensors that nobody else writes into."""
        return self._with(lambda tensor: tensor.detach().clone())

    def on(self, images: Tensor) -> EntryCall:
        """Return the call on other images."""
        own = self.images
        return self._with(lambda tensor: images if tensor is own else tensor)

    def seen(self, make: Callable[[Tensor, int], Tensor], offset: int) -> EntryCall:
        """Return the call on a view of the images, and of whatever has their height and width (a mask, a depth map).

        Args:
            make: Makes the view from images and an offset.
            offset: In pixels.
        """
        shape = self.images.shape

        def view(tensor: Tensor) -> Tensor:
            if tensor.ndim != len(shape) or (len(tensor), *tensor.shape[2:]) != (shape[0], *shape[2:]):
                return tensor
            tensor = tensor.detach()
            if tensor.is_floating_point():
                return make(tensor, offset)
            return make(tensor.float(), offset).round().to(tensor.dtype)

        return self._with(view)

    def _with(self, change: Callable[[Tensor], Tensor]) -> EntryCall:
        args, kwargs = _changed(self.args, change), _changed(self.kwargs, change)
        return replace(self, args=args, kwargs=kwargs)

    def run(self) -> None:
        """Run the module until it ends or a listener stops it."""
        with suppress(StopForward):
            self.answer()

    def answer(self) -> Any:
        """Run the module to its end, and return what it gives."""
        return getattr(self.module, self.method)(*self.args, **self.kwargs)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return arguments with their tensors changed, also those in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_changed(item, change) for item in value))
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)
        for key, item in value.items():
            changed[key] = _changed(item, change)
        return changed
    return value
