"""Blinds neurons to the padding, or silences them: for a while, or for good."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import (
    Convolution,
    Pad,
    PaddedLayer,
    check_fits,
    dimensions,
    pad_modules,
    select,
)
from pan_callbacks.measurement.hooks import ReplacingHook
from pan_callbacks.measurement.neutral import neutral_output
from pan_callbacks.measurement.pads import find_pad
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.words import MODES, Mode
from pan_callbacks.suppression.targets import Target, targets

#: Those modes that leave a neuron its content.
BLINDING = ("neutral", "neutral-mean")
_SUBMODULE = "pan_mask"  # name of a permanent mask within its convolution


class ChannelMask(nn.Module):
    """Replaces some channels of a convolution's output.

    Args:
        conv: The convolution.
        channels: Channels to replace.
        mode: See :func:`masked`.
        mean: What stands for each of the channels in mode ``"mean"`` (one value a channel).
        pad: What pads the convolution's input, if anything does.
        share: How much of the padding becomes neutral in the modes that do that, 0 to 1.
    """

    channels: Tensor
    fill: Tensor
    share: Tensor
    _partly = False  # also in what was saved before there were shares

    def __init__(
        self,
        conv: Convolution,
        channels: Sequence[int],
        mode: Mode,
        mean: Tensor | None = None,
        pad: Pad | None = None,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        self.mode, self._partly = mode, share < 1
        parameter = next(conv.parameters())  # not the weight, which a parametrisation computes when it is read
        device, dtype = parameter.device, parameter.dtype
        fill = torch.zeros(len(channels)) if mode != "mean" or mean is None else mean
        self.register_buffer("channels", torch.tensor(channels, dtype=torch.long, device=device))
        self.register_buffer("fill", fill.to(device, dtype))
        if self._partly:
            self.register_buffer("share", torch.tensor(share, device=device, dtype=dtype))
        self._pad = (pad,)  # in a tuple, so that it does not become a submodule of the mask

    def forward(self, conv: Convolution, x: Tensor, output: Tensor) -> Tensor:
        """Return the output with the masked channels replaced; differentiable.

        Args:
            conv: The convolution.
            x: What it received (images, in channels, height, width), with as many axes as it works in.
            output: What it returned (images, channels, rows, columns), likewise.
        """
        if output.ndim == 1 + dimensions(conv):  # one image, not in a batch
            return self.forward(conv, x[None], output[None])[0]
        if self.channels.device != output.device:  # a mask for a while does not move with the model
            self.to(output.device)
        if self.mode in BLINDING:
            whole = len(self.channels) == conv.out_channels
            own = output if whole else output.index_select(1, self.channels)
            layer = PaddedLayer(conv, self._pad[0])
            replaced = neutral_output(layer, x, own, None if whole else self.channels, self.mode == "neutral-mean")
            replaced = torch.lerp(own, replaced, self.share.to(own.dtype)) if self._partly else replaced
            if whole:
                return replaced
        else:
            fill = self.fill.view(-1, *(1,) * dimensions(conv))
            replaced = fill.expand(output.shape[0], -1, *output.shape[2:])  # len() would fix it in exports
        return output.index_copy(1, self.channels, replaced.to(output.dtype))


class MaskHook(ReplacingHook):
    """Forward hook that applies a mask, if one is set; without one it costs one attribute check."""

    def __init__(self, mask: ChannelMask | None = None) -> None:
        self.mask = mask

    @property
    def replaced(self) -> Tensor | None:
        """The channels that are masked now."""
        return None if self.mask is None else self.mask.channels

    def __call__(
        self, conv: Convolution, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Is called by torch after the convolution's forward."""
        if self.mask is None:
            return None
        if not isinstance(output, Tensor):
            raise PANError(f"{conv} cannot be masked: it gives {type(output).__name__} and no map")
        replaced: Tensor = self.mask(conv, args[0] if args else kwargs["input"], output)
        return replaced


@contextmanager
def masked(
    model: nn.Module,
    report: PANReport,
    mode: Mode = "neutral",
    neurons: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[nn.Module]:
    """Mask the PANs of a report while the context lasts; the model is left as it was, also after an exception.

    Gradients flow through a mask, so a model can be trained under one.

    Args:
        model: Model that the report is about.
        report: Which neurons to mask, the layers' padding, and the means for mode ``"mean"``.
        mode: ``"zero"`` silences a channel: it answers 0 everywhere. ``"mean"`` makes it answer its mean reference
            activation everywhere. ``"neutral"``, the default as it takes the least away, recomputes the outputs that
            read padding with the input's own values in its place (reflected, replicated if the map is too small
            for that): the channel keeps its content and loses the border. ``"neutral-mean"`` does the same with the
            mean of each input channel over the image at hand in its place.
        neurons: Layer name to channels, to mask these instead of the report's PANs.

    Raises:
        ValueError: If the mode is unknown.
        PANError: If a layer or channel is not in this model, or mode ``"mean"`` finds no mean in the report.

    Example:
        >>> from pan_callbacks import scan
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).eval()
        >>> _ = nn.init.ones_(net[0].weight)  # sums its window: darker where the window reads zeros
        >>> images = 1 + torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) / 10
        >>> report = scan(net, [images], progress=False)
        >>> with masked(net, report):
        ...     print(report.count, scan(net, [images], progress=False).count)
        1 0
    """
    masks = build_masks(model, targets(report, neurons), mode)
    with hooked(model, masks) as hooks:
        for conv, mask in masks.items():
            hooks[conv].mask = mask
        yield model


@contextmanager
def hooked(model: nn.Module, convs: Iterable[Convolution]) -> Iterator[dict[Convolution, MaskHook]]:
    """Put hooks without a mask on some convolutions of a model while the context lasts.

    Args:
        model: The model; what was compiled of it is compiled anew.
        convs: The convolutions.
    """
    hooks = {conv: MaskHook() for conv in convs}
    forget_compiled(model)
    handles = [hook.attach(conv) for conv, hook in hooks.items()]
    try:
        yield hooks
    finally:
        for handle, hook in zip(handles, hooks.values(), strict=True):
            handle.remove()
            hook.mask = None  # a graph that was compiled meanwhile holds the hook, and is compiled anew without a mask


def forget_compiled(model: nn.Module) -> None:
    """Have ``torch.compile`` compile anew what a model ran before, for that ignores hooks which came since."""
    if any(_is_compiled(module) for module in model.modules()):
        torch.compiler.reset()


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module was compiled, or holds a function that was."""
    if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
        return True
    if vars(module).get("_compiler_ctx") is not None:  # a LightningModule that was compiled
        return True
    held = [*vars(module).values(), *(value for kind in type(module).__mro__ for value in vars(kind).values())]
    return any("_torchdynamo_orig_callable" in getattr(value, "__dict__", ()) for value in held)


def mask_permanently(
    model: nn.Module,
    report: PANReport,
    mode: Mode = "neutral",
    neurons: Mapping[str, Sequence[int]] | None = None,
) -> nn.Module:
    """Return a copy of the model in which the PANs of a report are masked for good.

    The mask is a hook and a submodule ``pan_mask`` of the convolution. It is in ``state_dict()`` and in what
    ``torch.save`` writes, and ``torch.export`` and ONNX export write it out as part of the graph. A state dict is
    loaded into a model that was masked with the same report. Tools that replace modules (quantisation, fusing) drop
    hooks: run them first.

    Args:
        model: Model that the report is about; it stays as it is.
        report: As for :func:`masked`.
        mode: As for :func:`masked`.
        neurons: As for :func:`masked`.

    Returns:
        The masked copy.

    Raises:
        ValueError: If the mode is unknown.
        PANError: As for :func:`masked`, and if the model has permanent masks already.
    """
    return build_in(model, targets(report, neurons), mode)


def build_in(model: nn.Module, wanted: Mapping[str, Target], mode: Mode, share: float = 1.0) -> nn.Module:
    """Do what :func:`mask_permanently` does, for targets that are known, and a share of their padding."""
    refuse_masked(model)
    model = copy.deepcopy(model)
    attach_permanently(build_masks(model, wanted, mode, share))
    return model


def refuse_masked(model: nn.Module) -> None:
    """Raise PANError if a model has permanent masks."""
    if any(isinstance(module, ChannelMask) for module in model.modules()):
        raise PANError("this model has permanent masks already; mask the model that it was made from, or a new copy")


def attach_permanently(masks: Mapping[Convolution, ChannelMask]) -> None:
    """Make masks a part of their convolutions."""
    for conv, mask in masks.items():
        conv.register_module(_SUBMODULE, mask)
        MaskHook(mask).attach(conv)


def build_masks(
    model: nn.Module, wanted: Mapping[str, Target], mode: Mode, share: float = 1.0
) -> dict[Convolution, ChannelMask]:
    """Return masks for the convolutions of a model, on the devices that they are on; nothing is attached.

    Raises:
        ValueError: If the mode is unknown.
        PANError: If a layer, a pad module or a channel is not in this model, or a mean is missing.
    """
    check_mode(mode)
    found, pads = select(model), pad_modules(model)
    masks = {}
    for name, target in wanted.items():
        check_fits(found, name, target.channels)
        conv = found[name]
        if not isinstance(conv, Convolution):
            raise PANError(f"layer {name!r} is a transposed convolution, which has no padding to be blinded to")
        pad = None if target.pad is None else find_pad(pads, target.pad)
        if target.pad is not None and pad is None:
            raise PANError(f"layer {name!r} is fed by the pad module {target.pad!r} in the report, not in this model")
        mean = None
        if mode == "mean":
            if target.mean is None:
                raise PANError(f"the report has no means of layer {name!r} for mode='mean'; scan the model again")
            mean = target.mean[list(target.channels)]
        if mode not in BLINDING and len(target.channels) == conv.out_channels:
            warnings.warn(f"mode={mode!r} masks all {conv.out_channels} channels of layer {name}", stacklevel=4)
        masks[conv] = ChannelMask(conv, target.channels, mode, mean, pad, share)
    return masks


def check_mode(mode: str) -> None:
    """Raise ValueError for an unknown mode."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown; choose one of {', '.join(MODES)}")
