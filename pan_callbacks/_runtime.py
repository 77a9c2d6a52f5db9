"""What to do when memory runs out: the same work in smaller batches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from pan_callbacks.errors import PANError

T = TypeVar("T")
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
    """Does some work with batches of a size, and where memory runs out with half of it, and so on.

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
    """Does some work, and where memory runs out starts it anew with batches half as large.

    Args:
        work: Takes the largest batch allowed (None for any), starts from the beginning, and yields the number of images
            of each forward before it is made.
        restartable: Whether the work can be started a second time.

    Returns:
        Sentences for a report: that memory ran out, and with which batches the work was done; empty where it did not.

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
