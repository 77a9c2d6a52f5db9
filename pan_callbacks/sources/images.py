"""Images to look at: batches of them that can be read again and again, and the images of a folder."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pan_callbacks.errors import PANError
from pan_callbacks.sources.preprocessing import Preprocessing, read_image, why_unreadable

#: File names that :func:`folder_images` looks for, in any case.
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
#: Name of the folder of a report's figures, and files that it lies beside.
FIGURES, _BESIDE = "figures", {"pans.json", "report.html"}


class _Unreadable(NamedTuple):
    path: str
    reason: str


class Batch(tuple[Any, ...]):
    """Images, perhaps labels, and the number of the group that each image belongs to, None if each is its own."""

    groups: tuple[int, ...] | None = None


@dataclass
class ImageSource:
    """Batches of images that can be iterated again and again; the same ones, in the same order, every time.

    Yields ``(images, labels)``, or ``(images,)`` if there are no labels: normalised images (batch, channels,
    height, width) and int64 labels (batch,). An image that cannot be read is left out of its batch.

    Args:
        dataset: Gives ``(image, label or None)`` for an index, with the image's group behind it if it has one; or says
            why it cannot.
        batches: Indices of each batch.
        name: What to call it in a report.
        batch_size: Images a batch, at most.
        classes: Names of the classes, if images are labelled.
        workers: Processes that read images; 0 for this one.
        whole: Whether these are all the images there are; a shard may well be unreadable without an error.
        folders: Every folder that was looked into for images, links resolved.

    Attributes:
        skipped: Path to reason of every image that could not be read in the latest pass.

    Raises:
        PANError: At the end of a pass in which no image at all could be read.
    """

    dataset: Any
    batches: Sequence[list[int]]
    name: str
    batch_size: int
    classes: tuple[str, ...] | None = None
    workers: int = 0
    whole: bool = True
    folders: tuple[Path, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = {}
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.batches,
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_leave_interrupts_to_the_parent,
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
        """Return every ``world``-th batch from ``rank`` on, for one process of several.

        Raises:
            ValueError: If there is no such rank.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank} is not in 0 to {world - 1}")
        return replace(self, batches=self.batches[rank::world], whole=self.whole and world == 1)

    def first(self, count: int) -> ImageSource:
        """Return the first ``count`` images, in the same batches.

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


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the parent: a worker that dies of it is an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: list[Any]) -> tuple[Batch, list[_Unreadable]]:
    unreadable = [item for item in items if isinstance(item, _Unreadable)]
    read = [item for item in items if not isinstance(item, _Unreadable)]
    if not read:
        return Batch(), unreadable
    images, labels = [item[0] for item in read], [item[1] for item in read]
    groups = tuple(item[2] for item in read if len(item) > 2 and item[2] is not None)
    batch = Batch((torch.stack(images), *([] if labels[0] is None else [torch.tensor(labels)])))
    batch.groups = groups if len(groups) == len(read) else None
    return batch, unreadable


def in_batches(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return indices in batches, the last one with what is left."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least one image a batch is needed")
    return [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]


def folder_images(
    folder: str | os.PathLike[str],
    preprocessing: Preprocessing,
    batch_size: int = 32,
    max_images: int | None = None,
    labelled: bool = False,
    outputs: int | None = None,
    workers: int = 0,
    seed: int = 0,
    by_folder: bool = False,
) -> ImageSource:
    """Return the images of a folder and its subfolders, in an order shuffled once and for all by the seed.

    Shuffled, so that whoever stops early has seen a fair sample: of 1,000 images ``max_images=100`` takes the first
    100 that ``max_images=200`` takes. Files and folders whose name starts with a dot are not looked at, nor are figures
    of a report of this package; what is no file, a pipe or a device, is left out as an image that cannot be read.

    Args:
        folder: The folder.
        preprocessing: What the model expects.
        batch_size: Images a batch.
        max_images: Images at most, None for all.
        labelled: Whether each subfolder is a class, as torchvision's ``ImageFolder`` has it.
        outputs: Outputs of the model, to map classes to; None takes them in sorted order.
        workers: Processes that read images; 0 reads in this one.
        seed: Seed of the order.
        by_folder: Whether the images of one folder belong together.

    Raises:
        ValueError: If ``batch_size`` or ``max_images`` is less than one.
        PANError: If there is no such folder, no image in it, or no way to map its classes to the outputs.
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images={max_images}: at least one image is needed")
    folder = Path(folder)
    if not folder.is_dir():
        raise PANError(f"{folder} is {'not a folder' if folder.exists() else 'no folder: there is nothing there'}")
    visited: dict[str, None] = {}
    paths = sorted(_image_paths(folder, visited))
    if not paths:
        raise PANError(f"{folder} holds no images; files named {', '.join(EXTENSIONS)} are looked for")
    classes = labels = None
    if labelled:
        paths, classes = _classes(folder, paths)
        index = dict(zip(classes, class_indices(classes, outputs), strict=True))
        labels = [index[path.split("/")[0]] for path in paths]
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
    parents = {parent: number for number, parent in enumerate(sorted({str(Path(path).parent) for path in paths}))}
    groups = [parents[str(Path(path).parent)] for path in paths] if by_folder else None
    files = _Files(folder, paths, labels, preprocessing, groups)
    batches, looked_at = in_batches(order[:max_images], batch_size), tuple(map(Path, visited))
    return ImageSource(files, batches, str(folder), batch_size, classes, workers, folders=looked_at)


def class_indices(names: Sequence[str], outputs: int | None) -> list[int]:
    """Return the model's output of each class folder.

    As many folders as outputs are taken in sorted order, as torchvision does; else folders may be named by output
    (0, 1, ...), or by ImageNet's WordNet ids if the model has ImageNet's outputs.

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
        if all(name.isdecimal() for name in names) and ranked != sorted(names, key=int):
            order = ", ".join(ranked[:3])
            warnings.warn(f"class folders are numbers, taken as torchvision sorts them: {order}, ...", stacklevel=3)
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
        from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
    except ImportError:
        return {}
    subset = infer_imagenet_subset({"num_classes": outputs})
    if not subset:
        return {}
    names: list[str] = ImageNetInfo(subset).label_names()  # type: ignore[no-untyped-call]  # of timm
    return {name: index for index, name in enumerate(names)}


def _image_paths(folder: Path, visited: dict[str, None]) -> Iterator[str]:
    """Paths of the images of a folder; every folder that was looked into is noted in ``visited``, links resolved."""
    for root, folders, names in os.walk(folder, onerror=_warn_of_closed, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:  # a link may lead back up
            folders.clear()
            continue
        visited[real] = None
        if FIGURES in folders and _BESIDE.issubset(names):
            warnings.warn(f"{Path(root) / FIGURES} holds figures of a report and no images: left out", stacklevel=3)
            folders.remove(FIGURES)
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(root).relative_to(folder)
        yield from (
            (relative / name).as_posix()
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        )


def _warn_of_closed(error: OSError) -> None:
    warnings.warn(f"{error.filename} cannot be looked into: {error.strerror}; images there are left out", stacklevel=4)


def _classes(folder: Path, paths: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the paths that have a class, and the classes that have an image."""
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
    groups: list[int] | None = None

    def __getitem__(self, index: int) -> tuple[Tensor, int | None, int | None] | _Unreadable:
        path = self.paths[index]
        try:
            image = read_image(self.folder / path, self.preprocessing)
        except Exception as error:  # decoders raise whatever they stumble over, and one bad image must not end a scan
            name = path.encode("utf-8", "backslashreplace").decode()  # file names may hold bytes that no report can
            return _Unreadable(name, why_unreadable(self.folder / path, error))
        label, group = (None if known is None else known[index] for known in (self.labels, self.groups))
        return image, label, group
