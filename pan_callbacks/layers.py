"""Which modules of a model are padded layers, and why the others are not."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pan_callbacks.errors import PANError
from pan_callbacks.padding import Axis, Geometry, same_padding

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: Modules that pad an image on all four sides.
PadModule = nn.ConstantPad2d | nn.ReflectionPad2d | nn.ReplicationPad2d | nn.CircularPad2d
_PAD_MODES: dict[type[nn.Module], str] = {
    nn.ConstantPad2d: "zeros",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.CircularPad2d: "circular",
}


class Skip(Enum):
    """Why a layer is left out of a report; the value is the sentence that says so, with blanks for the facts."""

    POINTWISE = "1×1 kernel"
    NO_PADDING = "no padding"
    PADDED_TWICE = "a pad module before a convolution that pads as well"
    MISFIT = "its output of {height}×{width} does not fit its declared padding"
    NO_BORDER = "map of {height}×{width}: no position reads the padding of one side alone"
    NO_REFERENCE = "{tried}"
    NEVER_CALLED = "never called"
    TOO_FEW_READINGS = "too few readings: {images} on so small a map"
    NOT_FINITE = "NaN or infinite activations"

    def because(self, **facts: object) -> Reason:
        """Return the sentence with its blanks filled in.

        Example:
            >>> Skip.NO_BORDER.because(height=2, width=3)
            'map of 2×3: no position reads the padding of one side alone'
        """
        return Reason(self.value.format(**facts), self)


class Reason(str):
    """A sentence that says why a layer is left out, and knows which kind of reason it is.

    Args:
        sentence: For a reader.
        skip: For code, which never looks into the sentence.
    """

    skip: Skip

    def __new__(cls, sentence: str, skip: Skip) -> Reason:  # noqa: D102
        reason = super().__new__(cls, sentence)
        reason.skip = skip
        return reason

    def __reduce__(self) -> tuple[type[Reason], tuple[str, Skip]]:
        return Reason, (str(self), self.skip)


def clean_name(name: str) -> str:
    """Return module name without what compilation and wrappers add to it.

    Example:
        >>> clean_name("net._orig_mod.layer1.0.conv1")
        'net.layer1.0.conv1'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every 2-D convolution of a model by its name, each module once."""
    return {clean_name(name): module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def select(model: nn.Module, layers: str | Iterable[str] | None = None) -> dict[str, nn.Conv2d]:
    """Return the convolutions whose names match a glob.

    Args:
        model: Model to look into.
        layers: A glob over module names (``"backbone.layer4.*"``), several of them, or None for all convolutions.

    Raises:
        PANError: If a glob matches no convolution.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> list(select(net)), list(select(net, "2"))
        (['0', '2'], ['2'])
    """
    found = convolutions(model)
    if layers is None:
        return found
    globs = [layers] if isinstance(layers, str) else list(layers)
    for glob in globs:
        if not fnmatch.filter(found, glob):
            known = ", ".join(list(found)[:8]) + (", ..." if len(found) > 8 else "")
            raise PANError(
                f"layers={glob!r} matches none of the {len(found)} convolutions of this model ({known or 'none'})"
            )
    return {name: module for name, module in found.items() if any(fnmatch.fnmatchcase(name, glob) for glob in globs)}


def check_fits(found: Mapping[str, nn.Conv2d], name: str, channels: Sequence[int]) -> None:
    """Raise PANError if a layer of a report, or a channel of it, is not among a model's convolutions."""
    if name not in found:
        ends = [known for known in found if known.endswith("." + name) or name.endswith("." + known)]
        close = ends or difflib.get_close_matches(name, found, 3) or list(found)
        raise PANError(
            f"the report was made for another model: layer {name!r} is not among its {len(found)} convolutions"
            + (f"; there is {named(close)}" if close else "")
        )
    outside = [channel for channel in channels if not 0 <= channel < found[name].out_channels]
    if outside:
        raise PANError(
            f"the report was made for another model: channel {outside[0]} of layer {name!r}, "
            f"which has {found[name].out_channels} channels here"
        )


def named(names: Sequence[str]) -> str:
    """Return the first names of a list, quoted, for a message."""
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def why_unpadded(module: nn.Conv2d, pad: PadModule | None = None) -> Reason | None:
    """Return why a convolution is no padded layer, None if it is one.

    Args:
        module: The convolution.
        pad: A pad module that feeds it directly, if there is one.
    """
    if not isinstance(module.padding, str) and any(module.padding):
        return None
    if max(module.kernel_size) == 1 and pad is None:
        return Skip.POINTWISE.because()  # "same" padding adds nothing to it
    pads = pad is not None or module.padding == "same" or pads_inside(module)
    return None if pads else Skip.NO_PADDING.because()


def pads_inside(module: nn.Conv2d) -> bool:
    """Whether a convolution pads in its own ``forward`` as TensorFlow does (timm's ``Conv2dSame`` and its kin)."""
    if hasattr(module, "same_pad"):  # timm's StdConv2dSame and ScaledStdConv2dSame decide in the constructor
        return bool(module.same_pad)
    return any(kind.__name__ in ("Conv2dSame", "Conv2dSameExport") for kind in type(module).__mro__)


@dataclass(frozen=True)
class PaddedLayer:
    """A convolution together with whatever pads its input.

    Args:
        module: The convolution.
        pad: A pad module directly before it, if there is one.
    """

    module: nn.Conv2d
    pad: PadModule | None = None

    @property
    def mode(self) -> str:
        """Padding mode: ``"zeros"`` for any constant, ``"reflect"``, ``"replicate"`` or ``"circular"``."""
        if self.pad is None:
            return self.module.padding_mode
        return next(mode for kind, mode in _PAD_MODES.items() if isinstance(self.pad, kind))

    @property
    def value(self) -> float:
        """The padded constant, for mode ``"zeros"``."""
        return float(getattr(self.pad, "value", 0.0))

    def unpadded(self, x: Tensor) -> Tensor:
        """Return the input as it was before the pad module: a view of what the convolution receives."""
        if self.pad is None:
            return x
        left, right, top, bottom = self.pad.padding
        return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]

    def geometry(self, height: int, width: int) -> Geometry:
        """Return the layer's geometry for an unpadded input of the given size, in values."""
        sizes = (height, width)
        return Geometry(*(self._axis(axis, sizes[axis]) for axis in (0, 1)))

    def _axis(self, axis: int, size: int) -> Axis:
        m = self.module
        kernel, stride, dilation = m.kernel_size[axis], m.stride[axis], m.dilation[axis]
        if self.pad is not None:
            before, after = self.pad.padding[2 - 2 * axis], self.pad.padding[3 - 2 * axis]
        elif pads_inside(m):
            before, after = same_padding(size, kernel, stride, dilation)
        elif m.padding == "same":
            total = dilation * (kernel - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if isinstance(m.padding, str) else m.padding[axis]
        return Axis(size, kernel, stride, dilation, int(before), int(after))

    def weight(self, x: Tensor) -> Tensor:
        """Return the kernel that this layer convolves with, also if a subclass computes it anew in each forward.

        Args:
            x: An input as the convolution receives it; one image of it is run if the kernel must be observed.
        """
        forward = type(self.module).forward
        if forward is nn.Conv2d.forward or pads_inside(self.module) and not hasattr(self.module, "same_pad"):
            return self.module.weight
        with _KernelRecorder() as recorder:
            self.module.forward(x[:1])
        return self.module.weight if recorder.weight is None else recorder.weight


class _KernelRecorder(TorchFunctionMode):
    """Notes the kernel that a forward hands to ``conv2d``; weight-standardised layers make theirs on the fly."""

    weight: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv2d, torch.conv2d):
            self.weight = kwargs["weight"] if "weight" in kwargs else args[1]
        return func(*args, **kwargs)


def pad_modules(model: nn.Module) -> dict[str, PadModule]:
    """Every pad module of a model that only ever adds values, by its name."""
    return {
        clean_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, PadModule) and min(module.padding) >= 0
    }
