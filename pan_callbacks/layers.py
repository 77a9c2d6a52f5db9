"""Which modules of a model are padded layers, and why the others are not."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pan_callbacks.errors import PANError
from pan_callbacks.padding import Axis, Geometry, same_padding

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_PAD_MODES = {
    nn.ConstantPad2d: "zeros",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.CircularPad2d: "circular",
}


def clean_name(name: str) -> str:
    """Module name without what compilation and wrappers add to it.

    Example:
        >>> clean_name("net._orig_mod.layer1.0.conv1")
        'net.layer1.0.conv1'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every 2-D convolution of a model by its name, each module once."""
    return {clean_name(name): module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def select(model: nn.Module, layers: str | Iterable[str] | None = None) -> dict[str, nn.Conv2d]:
    """The convolutions whose names match a glob.

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


def why_unpadded(module: nn.Conv2d, pad: nn.Module | None = None) -> str | None:
    """Why a convolution is no padded layer, in words for a report; None if it is one.

    Args:
        module: The convolution.
        pad: A pad module that feeds it directly, if there is one.
    """
    if pads_inside(module) or pad is not None or isinstance(module.padding, str) and module.padding == "same":
        return "1×1 kernel" if max(module.kernel_size) == 1 and pad is None else None
    if module.padding == "valid" or not any(module.padding):
        return "1×1 kernel" if max(module.kernel_size) == 1 else "no padding"
    return None


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
    pad: nn.Module | None = None

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
        """The input as it was before the pad module: a view of what the convolution receives."""
        if self.pad is None:
            return x
        left, right, top, bottom = self.pad.padding
        return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]

    def geometry(self, height: int, width: int) -> Geometry:
        """The layer's geometry for an unpadded input of the given size, in values."""
        sizes = (height, width)
        return Geometry(*(self._axis(axis, sizes[axis]) for axis in (0, 1)))

    def _axis(self, axis: int, size: int) -> Axis:
        m = self.module
        kernel, stride, dilation = m.kernel_size[axis], m.stride[axis], m.dilation[axis]
        if self.pad is not None:
            before, after = self.pad.padding[2 - 2 * axis : 4 - 2 * axis]
        elif pads_inside(m):
            before, after = same_padding(size, kernel, stride, dilation)
        elif m.padding == "same":
            total = dilation * (kernel - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if m.padding == "valid" else m.padding[axis]
        return Axis(size, kernel, stride, dilation, int(before), int(after))

    def weight(self, x: Tensor) -> Tensor:
        """The kernel that this layer convolves with, also where a subclass computes it anew in each forward.

        Args:
            x: An input as the convolution receives it; one image of it is run where the kernel must be observed.
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

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (F.conv2d, torch.conv2d):
            self.weight = kwargs["weight"] if "weight" in kwargs else args[1]
        return func(*args, **kwargs)


def pad_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every pad module of a model that only ever adds values, by its name."""
    return {
        clean_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, tuple(_PAD_MODES)) and min(module.padding) >= 0
    }
