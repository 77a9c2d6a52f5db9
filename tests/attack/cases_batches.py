"""Batches of every form, and images of every kind."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.attack.case import Case, add, case
from tests.attack.pieces import CLASSES, SIZE, WIDTH, Head, Module, Net, convs, data, loader, pictures, setup
from tests.attack.promises import Promise

DATA = Promise.DATA


class Items(Dataset):
    """Images with labels, each packed by a function of image and label."""

    def __init__(self, pack: Any, count: int, images: torch.Tensor | None = None, seed: int = 0) -> None:
        self.images = pictures(count, seed=seed) if images is None else images
        self.pack = pack

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.pack(self.images[index], torch.tensor(index % CLASSES))


def formed(
    name: str, pack: Any, images: Any, labels: Any, net: Any = Net, make: Any = pictures, collate: Any = None
) -> None:
    """A case of batches of some form.

    Args:
        name: Its name.
        pack: From image and label to an item.
        images: From a batch to what the network is called with.
        labels: From a batch to its labels.
        net: Makes the network.
        make: Makes images.
        collate: For the loaders.
    """

    def build(folder):
        class Reading(Module):
            def logits(self, batch):
                return self.net(images(batch))

            def labels(self, batch):
                return labels(batch)

        train, val = (
            DataLoader(Items(pack, count, make(count, seed=seed)), 4, shuffle=count > 8, collate_fn=collate)
            for count, seed in ((12, 1), (8, 0))
        )
        return setup(module=Reading(net()), train=train, val=val)

    add(Case(name, DATA, build))


Sample = namedtuple("Sample", ["image", "label"])


@dataclass
class Record:
    image: Any
    label: Any


class Bag:
    """A batch with a ``to`` of its own."""

    def __init__(self, image: Any, label: Any) -> None:
        self.image, self.label = image, label

    def to(self, *args: Any, **kwargs: Any) -> Bag:
        return self


def _bag(kind: Any) -> Any:
    return lambda items: kind(torch.stack([i for i, _ in items]), torch.stack([t for _, t in items]))


def first(batch: Any) -> Any:
    return batch[0]


def second(batch: Any) -> Any:
    return batch[1]


def pair(image: Any, label: Any) -> Any:
    return image, label


formed("a list of images and labels", lambda x, y: [x, y], first, second)
formed("a dict", lambda x, y: {"image": x, "label": y}, lambda b: b["image"], lambda b: b["label"])
formed("a dict with labels first", lambda x, y: {"label": y, "image": x}, lambda b: b["image"], lambda b: b["label"])
formed(
    "a dict whose first picture is a depth map",
    lambda x, y: {"depth": x.mean(0, keepdim=True), "image": x, "label": y},
    lambda b: b["image"],
    lambda b: b["label"],
)
formed(
    "a dict whose depth map enters as well",
    lambda x, y: {"depth": x.mean(0, keepdim=True), "image": x, "label": y},
    lambda b: b["image"] + b["depth"],
    lambda b: b["label"],
)
formed(
    "a nested dict",
    lambda x, y: {"meta": {"id": y, "name": "a"}, "inputs": {"mask": x[:1] > 0, "rgb": x}, "target": {"label": y}},
    lambda b: b["inputs"]["rgb"],
    lambda b: b["target"]["label"],
)
formed("a tuple with text", lambda x, y: ("a name", x, y, 3), lambda b: b[1], lambda b: b[2])
formed("a tuple with labels first", lambda x, y: (y, x), second, first)
formed("a tuple with a mask first", lambda x, y: ((x[:1] > 0).float(), x, y), lambda b: b[1], lambda b: b[2])
formed("a tuple with two views", lambda x, y: ((x, x.flip(-1)), y), lambda b: b[0][0] + b[0][1], second)
formed("a namedtuple", lambda x, y: Sample(x, y), lambda b: b.image, lambda b: b.label)
formed("a dataclass", pair, lambda b: b.image, lambda b: b.label, collate=_bag(Record))
formed("an object of its own", pair, lambda b: b.image, lambda b: b.label, collate=_bag(Bag))
formed("images alone", lambda x, y: x, lambda b: b, lambda b: torch.arange(len(b)) % CLASSES)
formed(
    "bytes that the step makes float",
    pair,
    lambda b: b[0].float() / 255,
    second,
    make=lambda n, seed: (pictures(n, seed=seed).clamp(0, 2) * 120).byte(),
)


class OfBytes(Net):
    def forward(self, x):
        return super().forward(x.float() / 255)


def _bytes(count: int, seed: int) -> torch.Tensor:
    return (pictures(count, seed=seed).clamp(0, 2) * 120).byte()


formed("bytes that the model makes float", pair, first, second, net=OfBytes, make=_bytes)
formed(
    "bytes with channels last",
    lambda x, y: (x.permute(1, 2, 0), y),
    lambda b: b[0].permute(0, 3, 1, 2) / 255.0,
    second,
    make=_bytes,
)
formed("integers", pair, lambda b: b[0].float(), second, make=lambda n, seed: pictures(n, seed=seed).long())
formed("booleans", pair, lambda b: b[0].float(), second, make=lambda n, seed: pictures(n, seed=seed) > 1)
formed(
    "sixteen-bit integers",
    pair,
    lambda b: b[0].float() / 1000,
    second,
    make=lambda n, seed: (1000 * pictures(n, seed=seed)).short(),
)
formed(
    "half precision that the step makes float",
    pair,
    lambda b: b[0].float(),
    second,
    make=lambda n, seed: pictures(n, seed=seed).half(),
)
formed(
    "bfloat that the step makes float",
    pair,
    lambda b: b[0].float(),
    second,
    make=lambda n, seed: pictures(n, seed=seed).bfloat16(),
)
formed(
    "double precision that the step makes float",
    pair,
    lambda b: b[0].float(),
    second,
    make=lambda n, seed: pictures(n, seed=seed).double(),
)
formed(
    "a double network",
    pair,
    first,
    second,
    net=lambda: Net().double(),
    make=lambda n, seed: pictures(n, seed=seed).double(),
)
formed(
    "a bfloat network",
    pair,
    first,
    second,
    net=lambda: Net().bfloat16(),
    make=lambda n, seed: pictures(n, seed=seed).bfloat16(),
)
formed(
    "a half-precision network",
    pair,
    first,
    second,
    net=lambda: Net().half(),
    make=lambda n, seed: pictures(n, seed=seed).half(),
)
formed("complex images", lambda x, y: (torch.complex(x, x.flip(-1)), y), lambda b: b[0].abs(), second)
formed("images as arrays", lambda x, y: (x.numpy(), y), lambda b: torch.as_tensor(b[0]), second)
formed(
    "a list of arrays",
    pair,
    lambda b: torch.stack([torch.as_tensor(a) for a in b[0]]),
    second,
    collate=lambda items: ([np.array(i) for i, _ in items], torch.stack([t for _, t in items])),
)
formed("flattened images", lambda x, y: (x.flatten(), y), lambda b: b[0].view(-1, 3, SIZE, SIZE), second)
formed(
    "quantised codes that a table turns into images",
    lambda x, y: (y, y),
    lambda b: b[0],
    second,
    net=lambda: _Embedding(),
)
formed(
    "a text in the place of images",
    lambda x, y: (["a", "b"], x, y),
    lambda b: b[1],
    lambda b: b[2],
    collate=lambda items: (["a"] * len(items), torch.stack([i[1] for i in items]), torch.stack([i[2] for i in items])),
)
formed(
    "a set of ids beside the images",
    pair,
    lambda b: b["x"],
    lambda b: b["y"],
    collate=lambda items: {
        "ids": {1, 2},
        "x": torch.stack([i for i, _ in items]),
        "y": torch.stack([t for _, t in items]),
    },
)
formed(
    "None beside the images",
    pair,
    lambda b: b[1],
    lambda b: b[2],
    collate=lambda items: (None, torch.stack([i for i, _ in items]), torch.stack([t for _, t in items])),
)


class _Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.net = nn.Embedding(CLASSES, 3 * SIZE * SIZE), Net()

    def forward(self, codes):
        return self.net(self.table(codes).view(-1, 3, SIZE, SIZE))


# --- lists of images, videos, sizes ----------------------------------------------------------------------------------


def _detector_collate(items: Any) -> Any:
    return tuple(zip(*items, strict=True))


formed(
    "a tuple of images as detectors have it",
    pair,
    lambda b: torch.stack(b[0]),
    lambda b: torch.stack(b[1]),
    collate=_detector_collate,
)
formed(
    "a list of lists of images",
    pair,
    lambda b: torch.stack(b[0][0]),
    lambda b: torch.stack(b[1]),
    collate=lambda items: ([[i for i, _ in items]], [t for _, t in items]),
)
formed(
    "images of different sizes in one batch",
    lambda x, y: (x[:, : SIZE - int(y)], y),
    lambda b: torch.stack([F.interpolate(i[None], (SIZE, SIZE))[0] for i in b[0]]),
    lambda b: torch.stack(b[1]),
    collate=_detector_collate,
)


class OneByOne(Net):
    """Runs a list of images one by one, as detectors do with their own resizing."""

    def forward(self, images):
        features = [self.features(F.interpolate(image[None], (SIZE, SIZE))) for image in images]
        return self.head(torch.cat(features))


formed(
    "a list of images of different sizes that the model takes",
    lambda x, y: (x[:, : SIZE - int(y)], y),
    lambda b: list(b[0]),
    lambda b: torch.stack(b[1]),
    net=OneByOne,
    collate=_detector_collate,
)
formed("videos that the step takes apart", lambda x, y: (torch.stack([x, x.flip(-1)]), y), lambda b: b[0][:, 0], second)


class OfVideos(Net):
    def forward(self, x):
        frames = super().forward(x.flatten(0, 1))
        return frames.unflatten(0, x.shape[:2]).mean(1)


formed("videos that the model takes apart", lambda x, y: (torch.stack([x, x.flip(-1)]), y), first, second, net=OfVideos)
formed("videos with channels before frames", lambda x, y: (torch.stack([x, x], 1), y), lambda b: b[0].mean(2), second)
formed("ten crops of each image", lambda x, y: (torch.stack([x] * 3), y), lambda b: b[0].mean(1), second)


class OfVolumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.flat, self.head = nn.Conv3d(3, 3, 3, padding=1), convs(), Head()

    def forward(self, x):
        return self.head(self.flat(self.conv(x).mean(2)))


formed("volumes", lambda x, y: (torch.stack([x] * 4, 1), y), first, second, net=OfVolumes)


class OfSpectra(nn.Module):
    """Makes images of waves itself."""

    def __init__(self):
        super().__init__()
        self.net = Net(1)

    def forward(self, waves):
        spectrum = torch.stft(waves, 32, 8, window=torch.hann_window(32), return_complex=True).abs()
        return self.net(spectrum[:, None])


formed("waves that the model makes images of", lambda x, y: (x.flatten()[:160], y), first, second, net=OfSpectra)


class OfPoints(nn.Module):
    """Scatters points into an image itself."""

    def __init__(self):
        super().__init__()
        self.net = Net(1)

    def forward(self, points):
        grid = torch.zeros(len(points), SIZE * SIZE)
        cells = (points.clamp(0, 0.999) * SIZE).long()
        grid = grid.scatter_add(1, cells[..., 0] * SIZE + cells[..., 1], torch.ones(points.shape[:2]))
        return self.net(grid.view(-1, 1, SIZE, SIZE))


formed(
    "points that the model makes images of",
    lambda x, y: (x.flatten()[:40].view(20, 2) % 1, y),
    first,
    second,
    net=OfPoints,
)


def sized(name: str, sizes: list[Any], **kwargs: Any) -> None:
    """A case with validation batches of the given sizes: images, or images with height and width."""

    def build(folder):
        batches = []
        for index, (count, size) in enumerate(sizes):
            batches.append((pictures(count, size, seed=index), torch.arange(count) % CLASSES))
        return setup(val=DataLoader(batches, batch_size=None), **kwargs)

    add(Case(name, DATA, build))


sized("a last batch of one image", [(4, SIZE), (1, SIZE)])
sized("batches of one image", [(1, SIZE)] * 3)
sized("batches of different sizes", [(4, SIZE), (2, 12), (3, 20)])
sized("batches of different shapes", [(4, (12, 20)), (4, (20, 12)), (2, (16, 9))])
sized("images of one pixel", [(4, 1), (4, 1)])
sized("images of one row", [(4, (1, 16))])
sized("images of two pixels", [(4, 2)])
sized("images of three pixels", [(4, 3)])
sized("images of five pixels", [(4, 5), (4, 5)])
sized("odd images", [(4, 17), (4, 17)])
sized("long images", [(2, (8, 40))])
sized("an empty batch among others", [(4, SIZE), (0, SIZE), (4, SIZE)])
sized("nothing but an empty batch", [(0, SIZE)])
sized("one batch of many images", [(40, 12)])


def valued(name: str, change: Any, train_too: bool = False) -> None:
    """A case with images that a function changed."""

    def build(folder):
        def batches(count, seed):
            images = change(pictures(count, seed=seed))
            return loader(torch.utils.data.TensorDataset(images, torch.arange(count) % CLASSES))

        train = batches(12, 1) if train_too else loader(data(12, seed=1))
        return setup(train=train, val=batches(8, 0))

    add(Case(name, DATA, build))


def _with(images: torch.Tensor, value: float, where: Any) -> torch.Tensor:
    images[where] = value
    return images


NAN, INF = float("nan"), float("inf")
valued("one image of NaN", lambda x: _with(x, NAN, 1))
valued("one NaN in one image", lambda x: _with(x, NAN, (1, 0, 3, 3)))
valued("all images of NaN", lambda x: _with(x, NAN, slice(None)))
valued("one infinite value", lambda x: _with(x, INF, (0, 0, 0, 0)))
valued("images of zeros", torch.zeros_like, train_too=True)
valued("images of ones", torch.ones_like, train_too=True)
valued("constant images, each another", lambda x: x.mean((1, 2, 3), keepdim=True).expand_as(x).clone())
valued("huge values", lambda x: x * 1e30)
valued("tiny values", lambda x: x * 1e-38)
valued("values near the largest", lambda x: x * 1e38)
valued("NaN in training as well", lambda x: _with(x, NAN, 1), train_too=True)
valued("identical images", lambda x: x[:1].expand_as(x).clone())
valued("images that share memory", lambda x: x[:1].expand_as(x))
valued("images that are not contiguous", lambda x: x.transpose(-1, -2))
valued("images with channels last", lambda x: x.contiguous(memory_format=torch.channels_last))
valued("images that want gradients", lambda x: x.requires_grad_())


def dying(name: str, spoil: Any, when: int = 0) -> None:
    """Weights that become something else in training, after an epoch."""

    def build(folder):
        class Dying(Module):
            def on_train_epoch_end(self):
                if self.current_epoch == when:
                    with torch.no_grad():
                        spoil(self.net)

        return setup(module=Dying(), options={"max_epochs": 3})

    add(Case(name, DATA, build))


dying("weights of one layer become NaN", lambda net: net.stem.weight.fill_(NAN))
dying("one weight becomes NaN", lambda net: net.body[3].weight[0, 0, 0, 0].fill_(NAN))
dying("all weights become NaN", lambda net: [p.fill_(NAN) for p in net.parameters()])
dying("weights become infinite", lambda net: net.body[0].weight.fill_(INF))
dying("weights become zero", lambda net: [p.zero_() for p in net.parameters()])
dying("statistics of batch norm become NaN", lambda net: net.body[1].running_mean.fill_(NAN))


@case(DATA)
def loss_of_NaN_from_the_first_step(folder):
    class Dead(Module):
        def loss(self, batch):
            return super().loss(batch) * NAN

    return setup(module=Dead())


@case(DATA)
def labels_as_maps(folder):
    class Segmenting(Module):
        def __init__(self):
            super().__init__(nn.Sequential(convs(), nn.Conv2d(WIDTH, CLASSES, 3, padding=1)))

        def loss(self, batch):
            return F.cross_entropy(self.net(batch["image"]), batch["mask"])

        def labels(self, batch):
            return batch["mask"]

    def packed(x, y):
        return {"mask": (x[0] > 1).long(), "image": x}

    return setup(module=Segmenting(), train=DataLoader(Items(packed, 12), 4), val=DataLoader(Items(packed, 8), 4))


@case(DATA)
def restoration_from_noisy_to_clean_images(folder):
    class Restoring(Module):
        def __init__(self):
            super().__init__(nn.Sequential(convs(), nn.Conv2d(WIDTH, 3, 3, padding=1)))

        def loss(self, batch):
            clean, noisy = batch
            return F.mse_loss(self.net(noisy), clean)

    def packed(x, y):
        return x, x + 0.5

    return setup(module=Restoring(), train=DataLoader(Items(packed, 12), 4), val=DataLoader(Items(packed, 8), 4))


@case(DATA)
def boxes_of_every_image_beside_it(folder):
    class Detecting(Module):
        def logits(self, batch):
            images, targets = batch
            return self.net(torch.stack(images)) * sum(len(t["boxes"]) for t in targets)

        def labels(self, batch):
            return torch.stack([t["labels"] for t in batch[1]])

    def packed(x, y):
        return x, {"boxes": torch.rand(int(y) + 1, 4, generator=torch.Generator().manual_seed(int(y))), "labels": y}

    loaders = [DataLoader(Items(packed, count), 4, collate_fn=_detector_collate) for count in (12, 8)]
    return setup(module=Detecting(), train=loaders[0], val=loaders[1])
