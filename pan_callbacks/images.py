"""Images to look at: a folder of them, read as they come, or random crops of scikit-image's pictures."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from pan_callbacks.layers import PANError

#: Mean and standard deviation of ImageNet's channels, for values from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Side, in pixels, that most ImageNet models were trained for.
SIZE = 224
#: File names that :func:`folder_images` looks for, in any case.
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
#: scikit-image's natural pictures.
# fmt: off
PICTURES = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg",
    "retina.jpg", "ihc.png", "brick.png", "grass.png", "gravel.png", "camera.png", "coins.png",
)
# fmt: on
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL has it


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its images.

    Args:
        size: Height and width in pixels; a single int for a square.
        mean: Mean of each channel, for values from 0 to 1; the default is ImageNet's.
        std: Standard deviation of each channel.
        interpolation: ``"bilinear"`` or ``"bicubic"``, both with antialias.
        crop_share: Share of the resized image's shorter edge that the centre crop takes (timm's ``crop_pct``).
        channels: 3, or 1 for grey.

    Raises:
        ValueError: If a value is out of range, or mean and std do not have one value a channel.

    Example:
        >>> Preprocessing(size=64, crop_share=0.875).size
        (64, 64)
    """

    size: tuple[int, int] = (SIZE, SIZE)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bilinear"
    crop_share: float = 1.0
    channels: int = 3

    def __post_init__(self):
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        for name, value in (("size", size), ("mean", tuple(self.mean)), ("std", tuple(self.std))):
            object.__setattr__(self, name, value)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size={self.size!r}: a height and a width of at least one pixel are needed")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels!r}: images have 1 or 3")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean={self.mean} and std={self.std} must have {self.channels} values, one a channel")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share={self.crop_share!r} is not in (0, 1]")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r}: bilinear or bicubic")

    def grey(self) -> Preprocessing:
        """The same for one channel, mean and std averaged."""
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,), channels=1)

    def normalise(self, images: Tensor) -> Tensor:
        """Images (..., channels, height, width) from 0 to 1, as the model expects them."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


class _Unreadable(NamedTuple):
    path: str
    reason: str


@dataclass
class ImageSource:
    """Batches of images that can be iterated again and again; the same ones, in the same order, every time.

    Yields ``(images, labels)``, or ``(images,)`` where there are no labels: normalised images (batch, channels,
    height, width) and int64 labels (batch,). An image that cannot be read is left out of its batch.

    Args:
        dataset: Gives ``(image, label or None)`` for an index, or says why it cannot.
        batches: Indices of each batch.
        name: What to call it in a report.
        batch_size: Images a batch, at most.
        classes: Names of the classes, if images are labelled.
        workers: Processes that read images; 0 for this one.
        whole: Whether these are all the images there are; a shard may well be unreadable without an error.

    Attributes:
        skipped: Path to reason of every image that could not be read in the latest pass.

    Raises:
        PANError: At the end of a pass in which no image at all could be read.
    """

    dataset: Any
    batches: Sequence[Sequence[int]]
    name: str
    batch_size: int
    classes: tuple[str, ...] | None = None
    workers: int = 0
    whole: bool = True
    skipped: dict[str, str] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        self.skipped = {}
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.batches,
            num_workers=self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # of its own: a loader draws a seed, and the caller's state must not move
        )
        for batch, unreadable in loader:
            self.skipped |= {item.path: item.reason for item in unreadable}
            if batch:
                yield batch
        if self.whole and self.skipped and len(self.skipped) == len(self):
            path, reason = next(iter(self.skipped.items()))
            raise PANError(f"none of the {len(self)} images of {self.name} could be read; the first, {path}: {reason}")

    def shard(self, rank: int, world: int) -> ImageSource:
        """Every ``world``-th batch from ``rank`` on, for one process of several.

        Raises:
            ValueError: If there is no such rank.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank} is not in 0 to {world - 1}")
        return replace(self, batches=self.batches[rank::world], whole=self.whole and world == 1)

    def first(self, count: int) -> ImageSource:
        """The first ``count`` images, in the same batches.

        Raises:
            ValueError: If count is less than one.
        """
        if count < 1:
            raise ValueError(f"count={count}: at least one image is needed")
        kept = []
        for batch in self.batches:
            kept.append(batch[:count])
            count -= len(kept[-1])
            if count == 0:
                break
        return replace(self, batches=kept)


def _collate(items: list) -> tuple[tuple[Tensor, ...], list[_Unreadable]]:
    unreadable = [item for item in items if isinstance(item, _Unreadable)]
    read = [item for item in items if not isinstance(item, _Unreadable)]
    if not read:
        return (), unreadable
    images, labels = zip(*read, strict=True)
    return (torch.stack(images),) if labels[0] is None else (torch.stack(images), torch.tensor(labels)), unreadable


def _in_batches(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least one image a batch is needed")
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


# ------------------------------------------------------------------------------------------------ a folder


def folder_images(
    folder: str | os.PathLike[str],
    preprocessing: Preprocessing,
    batch_size: int = 32,
    max_images: int | None = None,
    labelled: bool = False,
    outputs: int | None = None,
    workers: int = 0,
    seed: int = 0,
) -> ImageSource:
    """The images of a folder and its subfolders, in an order shuffled once and for all by the seed.

    Shuffled, so that whoever stops early has seen a fair sample: of 1,000 images ``max_images=100`` takes the first
    100 that ``max_images=200`` takes. Files and folders whose name starts with a dot are not looked at.

    Args:
        folder: The folder.
        preprocessing: What the model expects.
        batch_size: Images a batch.
        max_images: Images at most, None for all.
        labelled: Whether each subfolder is a class, as torchvision's ``ImageFolder`` has it.
        outputs: Outputs of the model, to map classes to; None takes them in sorted order.
        workers: Processes that read images; 0 reads in this one.
        seed: Seed of the order.

    Raises:
        ValueError: If ``batch_size`` or ``max_images`` is less than one.
        PANError: If there is no such folder, no image in it, or no way to map its classes to the outputs.
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images={max_images}: at least one image is needed")
    folder = Path(folder)
    if not folder.is_dir():
        raise PANError(f"{folder} is {'not a folder' if folder.exists() else 'no folder: there is nothing there'}")
    paths = sorted(_image_paths(folder))
    if not paths:
        raise PANError(f"{folder} holds no images; files named {', '.join(EXTENSIONS)} are looked for")
    classes = labels = None
    if labelled:
        paths, classes = _classes(folder, paths)
        index = dict(zip(classes, class_indices(classes, outputs), strict=True))
        labels = [index[path.split("/")[0]] for path in paths]
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
    files = _Files(folder, paths, labels, preprocessing)
    return ImageSource(files, _in_batches(order[:max_images], batch_size), str(folder), batch_size, classes, workers)


def class_indices(names: Sequence[str], outputs: int | None) -> list[int]:
    """The model's output of each class folder.

    As many folders as outputs are taken in sorted order, as torchvision does; else folders may be named by output
    (0, 1, ...), or by ImageNet's WordNet ids where the model has ImageNet's outputs.

    Args:
        names: Names of the folders.
        outputs: Outputs of the model; None for as many as there are folders.

    Raises:
        PANError: If none of these fits.

    Example:
        >>> class_indices(["cat", "dog"], 2), class_indices(["7", "3"], 10), class_indices(["n01443537"], 1000)
        ([0, 1], [7, 3], [1])
    """
    if outputs is None or len(names) == outputs:
        ranked = sorted(names)
        return [ranked.index(name) for name in names]
    if all(name.isdecimal() and int(name) < outputs for name in names):
        return [int(name) for name in names]
    synsets = _wordnet_ids(outputs)
    if all(name in synsets for name in names):
        return [synsets[name] for name in names]
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise PANError(
        f"the folder has {len(names)} classes ({some}) and the model {outputs} outputs: have one folder for every "
        "output, or name the folders by output (0, 1, ...), or by WordNet id (n01440764, ...) for ImageNet's outputs"
    )


def _wordnet_ids(outputs: int) -> dict[str, int]:
    try:
        from timm.data import ImageNetInfo, infer_imagenet_subset
    except ImportError:
        return {}
    subset = infer_imagenet_subset({"num_classes": outputs})
    return {name: index for index, name in enumerate(ImageNetInfo(subset).label_names())} if subset else {}


def _image_paths(folder: Path) -> Iterator[str]:
    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real not in visited:  # a link may lead back up
            relative = Path(root).relative_to(folder)
            yield from (
                (relative / name).as_posix()
                for name in names
                if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
            )
        visited.add(real)


def _classes(folder: Path, paths: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The paths that have a class, and the classes that have an image."""
    inside = [path for path in paths if "/" in path]
    classes = tuple(sorted({path.split("/")[0] for path in inside}))
    if not classes:
        raise PANError(f"{folder} has no subfolders with images: labelled images come in one folder for each class")
    if len(inside) < len(paths):
        warnings.warn(f"{len(paths) - len(inside)} images directly in {folder} have no class: ignored", stacklevel=3)
    visible = [item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")]
    empty = sorted(set(visible) - set(classes))
    if empty:
        warnings.warn(f"folders of {folder} without an image are no classes: {', '.join(empty)}", stacklevel=3)
    return inside, classes


@dataclass(frozen=True)
class _Files:
    folder: Path
    paths: list[str]
    labels: list[int] | None
    preprocessing: Preprocessing

    def __getitem__(self, index: int) -> tuple[Tensor, int | None] | _Unreadable:
        path = self.paths[index]
        try:
            image = read_image(self.folder / path, self.preprocessing)
        except Exception as error:  # decoders raise whatever they stumble over, and one bad image must not end a scan
            return _Unreadable(path, _reason(self.folder / path, error))
        return image, None if self.labels is None else self.labels[index]


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if type(error).__name__ == "UnidentifiedImageError":
        return "no image, or of a format that PIL does not know"
    return " ".join(str(error).split()) or type(error).__name__


def read_image(path: str | os.PathLike[str], preprocessing: Preprocessing) -> Tensor:
    """One image as the model expects it: turned upright, resized, cropped at its centre, normalised.

    The resized image covers ``size / crop_share``, as torchvision and timm do it. Alpha is dropped. Values of 16 bits
    are divided by 65,535; floats, and integers beyond 16 bits, by their own range unless they are within 0 to 1.

    Returns:
        (channels, height, width).

    Raises:
        Exception: Whatever PIL raises for a file that it cannot read.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with _quiet(), Image.open(path) as file:
        image = _resized_crop(_in_mode(ImageOps.exif_transpose(file), preprocessing.channels), preprocessing)
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    values = values.clamp(0, 1) if image.mode == "F" else values / 255
    values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    return preprocessing.normalise(values.expand(preprocessing.channels, -1, -1)).contiguous()


@contextmanager
def _quiet() -> Iterator[None]:
    """No word from PIL about odd files; what matters comes as an exception."""
    log = logging.getLogger("PIL")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _in_mode(image: Any, channels: int) -> Any:
    """The image in PIL's mode RGB or L; F, from 0 to 1, where 8 bits are too few."""
    import numpy as np
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB" if channels == 3 else "L")
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return Image.fromarray(((values - low) / max(high - low, 1e-12)).astype(np.float32))


def _resized_crop(image: Any, preprocessing: Preprocessing) -> Any:
    from PIL import Image

    rows, columns = (round(edge / preprocessing.crop_share) for edge in preprocessing.size)
    width, height = image.size
    # of a very long image only the middle can end up in the crop; resized whole it may not fit into memory
    longest = max(1, -(-2 * height * columns // rows)), max(1, -(-2 * width * rows // columns))
    if width > longest[0] or height > longest[1]:
        image = _centre_crop(image, min(width, longest[0]), min(height, longest[1]))
        width, height = image.size
    if width * rows >= height * columns:
        width, height = max(columns, width * rows // height), rows
    else:
        width, height = columns, max(rows, height * columns // width)
    resized = image.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])
    return _centre_crop(resized, preprocessing.size[1], preprocessing.size[0])


def _centre_crop(image: Any, width: int, height: int) -> Any:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


# ------------------------------------------------------------------------------- scikit-image's pictures


def pictures() -> list[Tensor]:
    """scikit-image's natural pictures, 0 to 1, each (3, height, width).

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
    """Random crops of scikit-image's pictures, one to two times the model's size before they are resized to it.

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

    boxes = []
    for _ in range(count):
        picture = originals[draw(0, len(originals) - 1)]
        height, width = picture.shape[1:]
        tallest = max(1, min(height, width * rows // columns))
        box_rows = draw(min(rows, tallest), min(2 * rows, tallest))
        box_columns = min(width, max(1, box_rows * columns // rows))
        top, left = draw(0, height - box_rows), draw(0, width - box_columns)
        boxes.append(picture[None, :, top : top + box_rows, left : left + box_columns])  # a view
    name = f"{count} random crops of scikit-image's pictures"
    return ImageSource(_Crops(boxes, preprocessing), _in_batches(range(count), batch_size), name, batch_size)


@dataclass(frozen=True)
class _Crops:
    boxes: list[Tensor]
    preprocessing: Preprocessing

    def __getitem__(self, index: int) -> tuple[Tensor, None]:
        crop, mode = self.boxes[index], self.preprocessing.interpolation
        image = F.interpolate(crop, self.preprocessing.size, mode=mode, antialias=True, align_corners=False)[0]
        if mode == "bicubic":  # it overshoots
            image = image.clamp(0, 1)
        if self.preprocessing.channels == 1:
            image = torch.einsum("chw,c->hw", image, torch.tensor(_LUMA))[None]
        return self.preprocessing.normalise(image), None
