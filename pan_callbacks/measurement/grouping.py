"""Which images belong together: what an error counts as one, and which images are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from pan_callbacks._runtime import Shard
from pan_callbacks.errors import PANError
from pan_callbacks.measurement.findings import Images
from pan_callbacks.reports.pans import GROUPS

#: Which images belong together: a name for each, or a function of a batch that returns theirs.
Groups = Iterable[Any] | Callable[[Any], Iterable[Any] | None] | None
#: Returns the names of the images of a batch, None if each is its own.
Names = Callable[[], Iterable[Any] | None]


class Number(int):
    """The number of a cluster that all processes agree upon already."""


#: Pixels of an image whose order is looked at.
_PIXELS = 4096
_WAY_OUT = "give every image the name of its group, or no groups at all"


def once(ask: Names | None) -> Names | None:
    """Return what asks once and gives the same answer again, for several that measure the same batch."""
    if ask is None:
        return None
    answers: list[list[Any] | None] = []

    def answer() -> list[Any] | None:
        if not answers:
            answers.append(_listed(ask()))
        return answers[0]

    return answer


def names_of(groups: Groups, batch: Any, first: int, count: int) -> list[Any] | None:
    """Return the names of the clusters that the images of a batch are of; None if each is its own.

    Args:
        groups: As the user gave them; a list, if they are names.
        batch: The batch.
        first: Images before it.
        count: Its images.

    Raises:
        PANError: If not every image has a name.
    """
    if groups is None:
        return None
    names = _listed(groups(batch) if callable(groups) else list(groups)[first : first + count])
    if names is None or len(names) == count and None not in names:
        return names
    given = sum(name is not None for name in names)
    raise PANError(f"groups names {given} of the {count} images from number {first} on: {_WAY_OUT}")


def _listed(given: Any) -> list[Any] | None:
    """Return names as a list, with None for those that are none: NaN, as tables have it."""
    if given is None:
        return None
    try:
        names = given.tolist() if isinstance(given, (Tensor, np.ndarray)) else [*given]
        names = [name.item() if isinstance(name, Tensor) else name for name in names]
        hash(tuple(names))
        return [None if name is None or bool(name != name) else name for name in names]
    except Exception as error:
        kind = type(given).__name__
        raise PANError(
            f"groups is no list of a text or number for each image, but {kind} ({error}): {_WAY_OUT}"
        ) from error


class Grouping:
    """Deals images out to groups; those of one cluster of the user's (a patient, a video) to one and the same.

    An image that was there before is in the group that it was in.

    Args:
        shard: This process's part of the work.

    Example:
        >>> grouping = Grouping(Shard())
        >>> grouping.expect(lambda: ["anna", "anna", "berta"])
        >>> grouping.of(torch.rand(3, 1, 4, 4), entry="", first=0)
        tensor([0, 0, 1])
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._ask: Names | None = None
        self._names: list[Any] | None = None
        self._named: bool | None = None  # whether images have names, once that is known
        self._clusters: dict[Any, int] = {}
        self._numbers: dict[tuple[float, ...], int] = {}  # of images, by what is the same for images that are
        self._later: list[tuple[Tensor, list[int]]] = []
        self._passed = self._largest = 0
        self._entered: Counter[str] = Counter()  # images of the batch that entered, by entry
        self.cut = False  # whether some of them were not taken

    def expect(self, names: Names | None) -> None:
        """Say which batch comes.

        Args:
            names: Is asked for the name of the cluster of each of its images when the first of them enters; None, also
                for an answer, if each is its own.

        Raises:
            PANError: If of the batch before not as many images entered as have names.
        """
        self._check()
        self._ask, self._names, self.cut = names, None, False
        self._entered.clear()

    def first(self, visit: int, count: int, before: int) -> int:
        """Return the number of the first image of a batch, among those that entered where it did.

        Args:
            visit: Number of the batch among those of all processes.
            count: Its images.
            before: Images that entered before in this process.
        """
        if self._shard.images is None:
            return before
        self._largest = max(self._largest, count)
        return visit * (self._shard.batch or self._largest)  # whole batches are dealt out, all of one size but the last

    def numbers(self, first: int, count: int) -> Tensor:
        """Return the number of each image of a batch among those of all processes (images,).

        Args:
            first: What :meth:`first` returned.
            count: Its images.
        """
        own = torch.arange(first, first + count)
        if self._shard.images is None:  # single images are dealt out, as torch's DistributedSampler does
            own = own * self._shard.world + self._shard.rank
        return own

    def of(self, images: Tensor, entry: str, first: int) -> Tensor:
        """Return the group of each image (images,), below :data:`~pan_callbacks.reports.pans.GROUPS`.

        Args:
            images: Images that entered (images, channels, height, width).
            entry: Module that they entered by.
            first: What :meth:`first` returned.

        Raises:
            PANError: If an image has no name, and others have.
        """
        if self._ask is not None:
            self._names, self._ask = _listed(self._ask()), None
        self._passed += len(images)
        known = self.numbers(first, len(images)).tolist()
        if images.device.type == "cpu":
            known = self._first_of(_prints(images), known)
        else:  # nobody waits for a device here: an image that is there again is found in the end
            self._later.append((_prints(images), known))
        if self._named is not None and self._named is not (self._names is not None):
            raise PANError(f"groups names the images of some batches only: {_WAY_OUT}")
        self._named = self._names is not None
        if self._names is not None:
            known = [self._cluster(one) for one in self._entering(self._names, len(images), entry)]
        return torch.tensor([number % GROUPS for number in known])

    def _first_of(self, prints: Tensor, numbers: list[int]) -> list[int]:
        """Return the number that each image had when it was there first, by what is the same for images that are."""
        pairs = zip(prints.tolist(), numbers, strict=True)
        return [self._numbers.setdefault(tuple(one), number) for one, number in pairs]

    def state(self) -> dict[str, Any]:
        """Return what another process has to know for :func:`found`."""
        self._check()
        for prints, numbers in self._later:
            self._first_of(prints, numbers)
        self._later.clear()
        clusters = [[type(name).__name__, str(name)] for name in self._clusters]
        return {"passed": self._passed, "images": [list(one) for one in self._numbers], "clusters": clusters}

    def _check(self) -> None:
        if self._names and not self.cut and any(count % len(self._names) for count in self._entered.values()):
            entered = next(count for count in self._entered.values() if count % len(self._names))
            raise PANError(
                f"groups names {len(self._names)} images of a batch, of which {entered} entered the model: {_WAY_OUT}"
            )

    def _entering(self, names: list[Any], count: int, entry: str) -> list[Any]:
        """Return the names of images that enter, which may be a part of the batch, or all of it once more."""
        first = self._entered[entry] % max(1, len(names))
        self._entered[entry] += count
        entering = names[first : first + count]
        if len(entering) == count and None not in entering:
            return entering
        named = sum(name is not None for name in names)
        raise PANError(
            f"groups names {named} images of a batch, and {max(count, len(names))} of it entered the model: {_WAY_OUT}"
        )

    def _cluster(self, name: Any) -> int:
        """Return the number of a cluster: in the order in which they come, or one that all processes agree upon."""
        if isinstance(name, Number):
            return self._clusters.setdefault(name, int(name))
        number = len(self._clusters) if not self._shard.shared else crc32(repr(name).encode())
        return self._clusters.setdefault(name, number)


def found(states: Iterable[Mapping[str, Any]]) -> Images:
    """Return what is known of the images of all processes.

    Args:
        states: Of the :class:`Grouping` of each.
    """
    states = list(states)
    images, clusters = ({tuple(one) for state in states for one in state[key]} for key in ("images", "clusters"))
    return Images(sum(state["passed"] for state in states), len(images), len(clusters) or None)


def _prints(images: Tensor) -> Tensor:
    """Return two numbers of each image that are the same for images that are (images, 2)."""
    pixels, exact = images.detach().flatten(1), torch.float64 if images.device.type != "mps" else torch.float32
    some = pixels[:, :: max(1, pixels.shape[1] // _PIXELS)].to(exact)  # in their order, which a sum does not see
    ramp = torch.linspace(1, 2, some.shape[1], dtype=exact, device=some.device)
    return torch.stack([pixels.sum(1, dtype=exact), some @ ramp], 1)
