"""Images that are there without a download: random crops of scikit-image's pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pan_callbacks.errors import PANError
from pan_callbacks.sources.images import ImageSource, in_batches
from pan_callbacks.sources.preprocessing import Preprocessing

#: scikit-image's natural pictures.
# fmt: off
PICTURES = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg",
    "retina.jpg", "ihc.png", "brick.png", "grass.png", "gravel.png", "camera.png", "coins.png",
)
# fmt: on
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL has it


def pictures() -> list[Tensor]:
    """Return scikit-image's natural pictures, 0 to 1, each (3, height, width).

    Raises:
        PANError: If scikit-image is not installed.
    """
    try:
        import skimage
        from skimage.io import imread
    except ImportError as error:
        raise PANError("the sample images come with scikit-image: pip install scikit-image") from error
    folder = Path(skimage.__file__).parent / "data"
    images = [torch.from_numpy(imread(folder / name)).float() / 255 for name in PICTURES]
    return [image.permute(2, 0, 1)[:3] if image.ndim == 3 else image.expand(3, *image.shape) for image in images]


def sample_images(
    count: int = 256, preprocessing: Preprocessing | None = None, batch_size: int = 32, seed: int = 0
) -> ImageSource:
    """Return random crops of scikit-image's pictures, one to two times the model's size before they are resized to it.

    Args:
        count: Number of crops.
        preprocessing: What the model expects; None for 224 px and ImageNet's mean and std.
        batch_size: Images a batch.
        seed: Seed of the crops; of the same seed more crops begin with the same ones.

    Raises:
        ValueError: If ``count`` or ``batch_size`` is less than one.
        PANError: If scikit-image is not installed.
    """
    if count < 1:
        raise ValueError(f"count={count}: at least one image is needed")
    preprocessing = Preprocessing() if preprocessing is None else preprocessing
    originals, (rows, columns) = pictures(), preprocessing.size
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    boxes, groups = [], []
    for _ in range(count):
        groups.append(draw(0, len(originals) - 1))
        picture = originals[groups[-1]]
        height, width = picture.shape[1:]
        tallest = max(1, min(height, width * rows // columns))
        box_rows = draw(min(rows, tallest), min(2 * rows, tallest))
        box_columns = min(width, max(1, box_rows * columns // rows))
        top, left = draw(0, height - box_rows), draw(0, width - box_columns)
        boxes.append(picture[None, :, top : top + box_rows, left : left + box_columns])  # a view
    name = f"{count} random crops of scikit-image's pictures"
    return ImageSource(_Crops(boxes, groups, preprocessing), in_batches(range(count), batch_size), name, batch_size)


@dataclass(frozen=True)
class _Crops:
    boxes: list[Tensor]
    groups: list[int]  # the picture that each is of
    preprocessing: Preprocessing

    def __getitem__(self, index: int) -> tuple[Tensor, None, int]:
        crop, mode = self.boxes[index], self.preprocessing.interpolation
        image = F.interpolate(crop, self.preprocessing.size, mode=mode, antialias=True, align_corners=False)[0]
        if mode == "bicubic":  # it overshoots
            image = image.clamp(0, 1)
        if self.preprocessing.channels == 1:
            image = torch.einsum("chw,c->hw", image, torch.tensor(_LUMA))[None]
        return self.preprocessing.normalise(image), None, self.groups[index]
