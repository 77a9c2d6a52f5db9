"""A copy of a network in which all padding is neutral, for networks that are not trained any more."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution, PadModule, clean_name, dimensions, image_axes
from pan_callbacks.measurement.batches import describe_batch, device_of, first_images
from pan_callbacks.suppression.masks import attach_permanently, build_masks, refuse_masked
from pan_callbacks.suppression.padding_seen import PaddingSeen, padding_seen, padding_written
from pan_callbacks.suppression.targets import Target

_PLAIN: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONSTANT = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
_PADS: dict[str, tuple[type[nn.Module], ...]] = {
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
}


def neutralise(model: nn.Module, images: Any = None) -> nn.Module:
    """Return a copy of a model in which all padding is neutral: values of the map in the place of a constant.

    Plain convolutions get ``padding_mode="reflect"``, or ``"replicate"`` where the images show a map too small to be
    reflected. Pad modules of a constant that feed convolutions become reflecting (or replicating) ones. So such a copy
    has no hooks: it is scripted and exported as any network, and state dicts are loaded both ways. Whatever else pads
    (timm's ``Conv2dSame``, convolutions with a forward of their own, calls of ``F.pad``) gets a permanent mask, see
    :func:`~pan_callbacks.mask_permanently`. Padding by other values than a constant stays as it is.

    Args:
        model: The model; it stays as it is.
        images: An example batch (images, channels, height, width), or one whose first element that is. The first image
            passes once through another copy, in evaluation mode, which shows what pads feed and how large maps are.
            None: convolutions are reflected whatever the size of their maps, and torch raises an error where a map has
            no more rows or columns than are to be added; of pads those are known that stand directly before a
            convolution in an ``nn.Sequential``.

    Returns:
        The copy. What in it could not be made neutral is said in one warning, with the reasons; as is a model that has
        nothing to be made neutral.

    Raises:
        PANError: If the model has permanent masks already, cannot be copied, or does not run on the images.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ZeroPad2d(1), nn.Conv2d(1, 1, 3)).eval()
        >>> neutral = neutralise(net)
        >>> neutral[0].padding_mode, neutral[1]
        ('reflect', ReflectionPad2d((1, 1, 1, 1)))
        >>> answer = neutral(torch.ones(1, 1, 8, 8))
        >>> bool(answer.max() - answer.min() < 1e-6)  # the same everywhere, but for rounding
        True
    """
    refuse_masked(model)
    found = padding_written(model) if images is None else padding_seen(model, _image(model, images))
    twin = copy.deepcopy(model)
    _make_neutral(twin, found)
    if found.left:
        reasons = "; ".join(f"{name}: {why}" for name, why in found.left.items())
        warnings.warn(f"neutralise leaves the padding of {len(found.left)} modules as it is ({reasons})", stacklevel=2)
    elif not found.layers:
        warnings.warn("neutralise has nothing to do: no layer pads with zeros or another constant", stacklevel=2)
    return twin


def _image(model: nn.Module, images: Any) -> Tensor:
    """Return the first image of a batch (1, channels, height, width), where the model is."""
    found = first_images(images, image_axes(model))
    if found is None:
        raise PANError(f"images is no batch of images: {describe_batch(images)}")
    return found[:1].to(device_of(model))


def _make_neutral(model: nn.Module, found: PaddingSeen) -> None:
    """Change a model in place: modules where that does, and masks for the rest."""
    modules: dict[str, Any] = {clean_name(name): module for name, module in model.named_modules()}
    masks, pads = dict[str, Target](), dict[str, str]()
    for name, seen in found.layers.items():
        pad = modules.get(seen.target.pad or "")
        if seen.mode is not None and seen.target.pad is None and _has_torchs_forward(modules[name]):
            _reflect(modules[name], seen.mode)
        elif seen.mode is not None and seen.replaces_pad and _can_be_replaced(pad, modules[name]):
            pads[str(seen.target.pad)] = seen.mode
        else:
            masks[name] = seen.target
    attach_permanently(build_masks(model, masks, "neutral"))
    for name, mode in pads.items():
        _replace(model, modules[name], mode)


def _has_torchs_forward(conv: Convolution) -> bool:
    """Whether a convolution pads by its ``padding_mode``, as classes of torch's own do."""
    own: Any = type(conv)
    return any(own.forward is kind.forward and own._conv_forward is kind._conv_forward for kind in _PLAIN)


def _can_be_replaced(pad: nn.Module | None, conv: Convolution) -> bool:
    """Whether another pad can take the place of one: nobody has hooks on it, or a class of his own."""
    if pad is None or type(pad) not in _CONSTANT or dimensions(pad) != dimensions(conv):
        return False
    return not (pad._forward_hooks or pad._forward_pre_hooks)


def _reflect(conv: Convolution, mode: Any) -> None:
    """Have a convolution pad in another mode; ``padding`` may have been set after it was made."""
    reversed_pads: list[int] = []
    for axis in reversed(range(dimensions(conv))):
        total = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        same = (total // 2, total - total // 2)
        reversed_pads += same if isinstance(conv.padding, str) else (int(conv.padding[axis]),) * 2
    conv.padding_mode, conv._reversed_padding_repeated_twice = mode, reversed_pads


def _replace(model: nn.Module, pad: PadModule, mode: str) -> None:
    """Put another pad in the place of one, wherever it is."""
    new = _PADS[mode][dimensions(pad) - 1](pad.padding).train(pad.training)
    for parent in list(model.modules()):
        for child, module in parent._modules.items():
            if module is pad:
                parent._modules[child] = new
