"""What long work needs: several processes that agree, smaller batches when memory runs out, a progress bar."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed
from torch import Tensor

from pan_callbacks.errors import PANError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

# ---------------------------------------------------------------------------------------------------- memory

_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # its name since torch 2.5
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")  # of CUDA, of the CPU, of Windows


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or this machine has no memory left.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA out of memory")), is_out_of_memory(RuntimeError("wrong shape"))
        (True, False)
    """
    if isinstance(error, (MemoryError, _OUT_OF_MEMORY)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def halving(work: Callable[[int], T], size: int) -> T:
    """Do some work with batches of a size, and if memory runs out with half of it, and so on.

    Raises:
        Exception: What the work raises, out of memory on a single image included.
    """
    while True:
        try:
            return work(size)
        except Exception as error:
            if size <= 1 or not is_out_of_memory(error):
                raise
        size //= 2
        _free()


def in_smaller_batches(work: Callable[[int | None], Iterator[int]], restartable: bool = True) -> list[str]:
    """Do some work, and if memory runs out start it anew with batches half as large.

    Args:
        work: Takes the largest batch allowed (None for any), starts from the beginning, and yields the number of images
            of each forward before it is made.
        restartable: Whether the work can be started a second time.

    Returns:
        Sentences for a report: that memory ran out, and with which batches the work was done; empty if it did not.

    Raises:
        PANError: If memory does not suffice for a single image, or does not suffice and the work cannot be restarted.
    """
    largest, first = None, None
    while True:
        size = 0
        try:
            for size in work(largest):  # noqa: B007
                pass
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size <= 1 or not restartable:
                way_out = "on a single image" if size <= 1 else f"at {size} images, and batches can be read only once"
                raise PANError(f"out of memory {way_out}: use smaller images or batches, or another device") from error
            first, largest = first or size, size // 2
        else:
            return [f"memory ran out with batches of {first} images: batches of {largest} were used"] if first else []
        _free()


def _free() -> None:
    """Frees what is left; outside an except clause, whose traceback holds on to the tensors of the failed forward."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def moved_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor made on the CPU on another device, without waiting for that."""
    return tensor.to(device, non_blocking=device.type != "cpu")


# ------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True, eq=False)
class Shard:
    """One process's part of work that several share: every ``world``-th batch, from number ``rank`` on.

    Args:
        rank: Number of this process.
        world: Number of processes.
        images: Images that all processes will see together, None if that is not known. If it is, what is kept of a
            batch depends on the batch's number alone, so that any number of processes gets one and the same result.
        example: Image (1, channels, height, width) on which every process decides how to measure; None for the first
            one that it sees, which is another one in each process.
        batch: Images of a whole batch, None for as many as the first has.
    """

    rank: int = 0
    world: int = 1
    images: int | None = None
    example: Tensor | None = None
    batch: int | None = None

    @property
    def shared(self) -> bool:
        """Whether there are other processes."""
        return self.world > 1

    def number(self, batch: int) -> int:
        """Return the number, among the batches of all processes, of this process's ``batch``-th.

        Example:
            >>> Shard(rank=1, world=4).number(2)
            9
        """
        return batch * self.world + self.rank


#: A process that works alone.
ALONE = Shard()


def several() -> bool:
    """Whether there is a group of processes, and not this one alone."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return ready and torch.distributed.get_world_size() > 1


def sum_of_processes(value: int, device: torch.device | str = "cpu") -> int:
    """Return the sum of a whole number over all processes, exactly; every process calls this.

    Args:
        value: The number of this process.
        device: Device that the processes exchange tensors on.

    Example:
        >>> sum_of_processes(3)  # a process alone
        3
    """
    if not several():
        return value
    total = torch.tensor(value, device=device, dtype=torch.int64)
    torch.distributed.all_reduce(total)
    return int(total)


def in_any_process(here: bool, device: torch.device | str = "cpu") -> bool:
    """Whether something holds in any process; if one gives up all must, or the others wait for it for ever."""
    return sum_of_processes(int(here), device) > 0


def of_all_processes(found: list[T]) -> list[T]:
    """Return what all processes found, without repetition."""
    if not several():
        return found
    every: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(every, found)
    return list(dict.fromkeys(item for part in every for item in part))


def give_up_together(failure: Exception | None, device: torch.device | str = "cpu") -> None:
    """Raise what went wrong here, or an error that says so if it went wrong elsewhere.

    Raises:
        Exception: ``failure``, if it is one.
        PANError: If another process failed.
    """
    anywhere = in_any_process(failure is not None, device)
    if failure is not None:
        raise failure
    if anywhere:
        raise PANError("another process failed, its message is above")


# -------------------------------------------------------------------------------------------------- progress


@contextmanager
def progress_bar(
    what: str, total: int | None, show: bool = True, unit: str = "images"
) -> Iterator[Callable[[float], None]]:
    """Show a progress bar that goes away when the work is done, with the time that is left; or nothing.

    Args:
        what: Word before the bar.
        total: Images in all, None if nobody knows.
        show: Whether there is a bar; it is drawn in terminals alone.
        unit: What is counted, if it is not images.

    Yields:
        What to call with the number of images that were done since, or with a part of one.
    """
    screen = _screen() if show else None
    if screen is None:
        yield unseen
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    room = screen.width - len(f" {total}/{total} 0:00:00 ")  # in a narrow terminal the numbers say most, the bar least
    left = room - len(f"{what} {unit} ")
    said = TextColumn(what if len(what) <= room else f"{what[: room - 1]}…")
    bar = [BarColumn(min(40, left))] if left >= 4 else []
    columns = (said, *bar, MofNCompleteColumn(), *[TextColumn(unit)] * (left >= 0), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=screen) as progress:
        task = progress.add_task(what, total=total)
        yield lambda images: progress.advance(task, images)


@contextmanager
def waiting(what: str, show: bool = True) -> Iterator[None]:
    """Show that something goes on of which nobody knows how long it takes, and for how long it has; or nothing.

    Args:
        what: Words before the bar.
        show: Whether there is a bar; it is drawn in terminals alone.
    """
    screen = _screen() if show else None
    if screen is None:
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=screen) as progress:
        progress.add_task(what, total=None)
        yield


def _screen() -> Console | None:
    """Return where bars are drawn; None in a notebook without widgets, where rich draws a warning in their place."""
    from rich.console import Console

    screen = Console(stderr=True)
    return None if screen.is_jupyter and find_spec("ipywidgets") is None else screen


class Counted(Iterable[Tensor]):
    """Batches that say how far work is that reads them several times.

    Args:
        batches: Batches of images.
        passes: How often the work reads them.
        advance: Takes the number of images that were done since: all of them together, after the last pass.

    Example:
        >>> done = []
        >>> batches = Counted([torch.zeros(3, 1), torch.zeros(1, 1)], 2, done.append)
        >>> [len(batch) for _ in range(2) for batch in batches], sum(done)
        ([3, 1, 3, 1], 4.0)
    """

    def __init__(self, batches: Sequence[Tensor], passes: int, advance: Callable[[float], None]) -> None:
        self._batches, self._passes, self._advance = batches, passes, advance

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._batches:
            yield batch
            self._advance(len(batch) / self._passes)


def unseen(images: float) -> None:
    """Take note of images that were done where nobody wants to know."""
