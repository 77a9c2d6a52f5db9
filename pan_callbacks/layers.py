"""Which modules of a model are padded layers, and why the others are not."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.padding import _CircularPadNd, _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.overrides import TorchFunctionMode

from pan_callbacks.errors import PANError, Reason as Reason, Skip as Skip  # isort: skip
from pan_callbacks.padding import Axis, Geometry, same_padding

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: Convolutions that may be padded layers, in one, two or three dimensions.
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Modules that pad an image on all sides.
PadModule = _ConstantPadNd | _ReflectionPadNd | _ReplicationPadNd | _CircularPadNd
_PAD_MODES: dict[type[nn.Module], str] = {
    _ConstantPadNd: "zeros",
    _ReflectionPadNd: "reflect",
    _ReplicationPadNd: "replicate",
    _CircularPadNd: "circular",
}


@dataclass(frozen=True)
class CalledPad:
    """A call of ``F.pad`` that feeds a convolution, and no module.

    Args:
        padding: As ``F.pad`` takes it: two numbers for each axis, the last axis first.
        mode: Likewise; what is not understood of it, behind a comma.
        value: Likewise.
        inside: Whether the convolution calls it in its own forward.

    Example:
        >>> str(CalledPad((1, 1, 2, 2)))
        "F.pad((1, 1, 2, 2), 'constant', 0.0)"
    """

    padding: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0
    inside: bool = False

    @property
    def understood(self) -> bool:
        """Whether it adds values around an image in one of the four ways, and takes none away."""
        return min(self.padding) >= 0 and self.mode in ("constant", "reflect", "replicate", "circular")

    def __str__(self) -> str:
        mode, comma, more = self.mode.partition(",")
        return f"F.pad({self.padding}, {mode!r}, {self.value!r}){comma}{more}" + " in its forward" * self.inside


#: What feeds a convolution that pads nothing itself.
Pad = PadModule | CalledPad


def pad_mode(pad: Pad) -> str:
    """Return how a pad pads: ``"zeros"`` for any constant, ``"reflect"``, ``"replicate"`` or ``"circular"``."""
    if isinstance(pad, CalledPad):
        return "zeros" if pad.mode == "constant" else pad.mode
    return next(mode for kind, mode in _PAD_MODES.items() if isinstance(pad, kind))


def clean_name(name: str) -> str:
    """Return module name without what compilation and wrappers add to it.

    Example:
        >>> clean_name("net._orig_mod.layer1.0.conv1")
        'net.layer1.0.conv1'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def convolutions(model: nn.Module) -> dict[str, Convolution]:
    """Every convolution of a model that may be padded, by its name, each module once; none that is transposed."""
    return {clean_name(name): module for name, module in model.named_modules() if isinstance(module, Convolution)}


def image_axes(model: nn.Module) -> int:
    """Return how many axes a batch of images for a model has: as many as what most of its convolutions take, or pads.

    Example:
        >>> image_axes(nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU())), image_axes(nn.Conv3d(1, 4, 3))
        (3, 5)
    """
    found = (Counter(dimensions(m) for m in model.modules() if isinstance(m, k)) for k in (Convolution, PadModule))
    return 2 + next(filter(None, found), Counter([2])).most_common(1)[0][0]


def dimensions(module: nn.Module) -> int:
    """Return in how many dimensions a convolution works, or a pad module pads."""
    size: Any = getattr(module, "kernel_size", ())
    return len(size) or len(getattr(module, "padding", ())) // 2


def select(model: nn.Module, layers: str | Iterable[str] | None = None) -> dict[str, Convolution]:
    """Return the convolutions whose names match a glob, transposed ones among them, which are no padded layers.

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
    kinds: Any = (Convolution, *_TRANSPOSED)
    found: dict[str, Any] = {clean_name(n): m for n, m in model.named_modules() if isinstance(m, kinds)}
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


def check_fits(found: Mapping[str, Convolution], name: str, channels: Sequence[int]) -> None:
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


def why_unpadded(module: Convolution, pad: Pad | None = None) -> Reason | None:
    """Return why a convolution is no padded layer, None if it is one.

    Args:
        module: The convolution.
        pad: What feeds it directly, if that pads.
    """
    if isinstance(module, _TRANSPOSED):
        return Skip.TRANSPOSED.because()
    if isinstance(pad, CalledPad) and not pad.understood:
        return Skip.UNKNOWN_PAD.because(pad=pad)
    if not isinstance(module.padding, str) and any(module.padding):
        return None
    if max(module.kernel_size) == 1 and pad is None:
        return Skip.POINTWISE.because()  # "same" padding adds nothing to it
    pads = pad is not None or module.padding == "same" or pads_inside(module)
    return None if pads else Skip.NO_PADDING.because()


def pads_inside(module: Convolution) -> bool:
    """Whether a convolution pads in its own ``forward`` as TensorFlow does (timm's ``Conv2dSame`` and its kin)."""
    if hasattr(module, "same_pad"):  # timm's StdConv2dSame and ScaledStdConv2dSame decide in the constructor
        return bool(module.same_pad)
    return any(kind.__name__ in ("Conv2dSame", "Conv2dSameExport") for kind in type(module).__mro__)


@dataclass(frozen=True)
class PaddedLayer:
    """A convolution together with whatever pads its input.

    One in a single dimension is taken for one in two, with maps of one row: its tensors are :func:`lifted`.

    Args:
        module: The convolution.
        pad: A pad module or a call of ``F.pad`` directly before it, if there is one.
    """

    module: Convolution
    pad: Pad | None = None

    @property
    def mode(self) -> str:
        """Padding mode: ``"zeros"`` for any constant, ``"reflect"``, ``"replicate"`` or ``"circular"``."""
        return self.module.padding_mode if self.pad is None else pad_mode(self.pad)

    @property
    def value(self) -> float:
        """The padded constant, for mode ``"zeros"``."""
        return float(getattr(self.pad, "value", 0.0))

    @property
    def steps(self) -> dict[str, tuple[int, ...]]:
        """Stride and dilation, of rows and columns at least."""
        one = (1,) * (2 - dimensions(self.module))
        return {"stride": (*one, *self.module.stride), "dilation": (*one, *self.module.dilation)}

    def unpadded(self, x: Tensor) -> Tensor:
        """Return the input as it was before what pads it: a view of what the convolution receives."""
        if self.pad is None or isinstance(self.pad, CalledPad) and self.pad.inside:
            return x
        for dim in range(2, x.ndim):
            before, after = self._of_pad(x.ndim - 1 - dim)
            x = x.narrow(dim, before, x.shape[dim] - before - after)
        return x

    def _of_pad(self, axis: int) -> tuple[int, int]:
        """Return what the pad adds on an axis, counted from the last."""
        before, after = (*self.pad.padding, 0, 0, 0, 0)[2 * axis : 2 * axis + 2] if self.pad else (0, 0)
        return int(before), int(after)

    def geometry(self, *size: int) -> Geometry:
        """Return the layer's geometry for an unpadded input.

        Args:
            size: Height and width; depth, height and width in three dimensions; 1 and the length in one.
        """
        *depth, rows, cols = (self._axis(len(size) - 1 - i, n) for i, n in enumerate(size))
        return Geometry(rows, cols, *depth)

    def _axis(self, axis: int, size: int) -> Axis:
        """Return an axis, counted from the last."""
        m, own = self.module, -1 - axis
        if axis >= len(m.kernel_size):
            return Axis(size, 1)
        kernel, stride, dilation = m.kernel_size[own], m.stride[own], m.dilation[own]
        if self.pad is not None:
            before, after = self._of_pad(axis)
        elif pads_inside(m):
            before, after = same_padding(size, kernel, stride, dilation)
        elif m.padding == "same":
            total = dilation * (kernel - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = 0 if isinstance(m.padding, str) else m.padding[own]
        return Axis(size, kernel, stride, dilation, int(before), int(after))

    def weight(self, x: Tensor) -> Tensor:
        """Return the kernel that this layer convolves with, also if a subclass computes it anew in each forward.

        Args:
            x: An input as the convolution receives it; one image of it is run if the kernel must be observed.
        """
        forward, weight = type(self.module).forward, self.module.weight
        plain = forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
        if not (plain or pads_inside(self.module) and not hasattr(self.module, "same_pad")):
            with _KernelRecorder() as recorder:
                self.module.forward(unlifted(self.module, x[:1]))
            weight = weight if recorder.weight is None else recorder.weight
        return lifted(self.module, weight)


def lifted(module: nn.Module, x: Tensor) -> Tensor:
    """Return a tensor of a layer in one dimension with rows, of which there is one; any other as it is."""
    return x.unsqueeze(-2) if dimensions(module) == 1 else x


def unlifted(module: nn.Module, x: Tensor) -> Tensor:
    """Return what :func:`lifted` was given."""
    return x.squeeze(-2) if dimensions(module) == 1 else x


class _KernelRecorder(TorchFunctionMode):
    """Notes the kernel that a forward hands to ``conv2d``; weight-standardised layers make theirs on the fly."""

    weight: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d):
            self.weight = kwargs["weight"] if "weight" in kwargs else args[1]
        return func(*args, **kwargs)


def pad_modules(model: nn.Module) -> dict[str, PadModule]:
    """Every pad module of a model that only ever adds values, by its name."""
    return {
        clean_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, PadModule) and min(module.padding) >= 0
    }
