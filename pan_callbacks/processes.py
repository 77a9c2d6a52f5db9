"""What the processes of one job tell one another, where there are several."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed

from pan_callbacks.errors import PANError

T = TypeVar("T")


def _several() -> bool:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return ready and torch.distributed.get_world_size() > 1


def sum_of_processes(value: float, device: torch.device | str = "cpu") -> float:
    """Sum of a number over all processes; every process calls this.

    Args:
        value: The number of this process.
        device: Device that the processes exchange tensors on.

    Example:
        >>> sum_of_processes(3)  # a process alone
        3
    """
    if not _several():
        return value
    total = torch.tensor(float(value), device=device, dtype=torch.float32)
    torch.distributed.all_reduce(total)
    return total.item()


def in_any_process(here: bool, device: torch.device | str = "cpu") -> bool:
    """Whether something holds in any process; where one gives up all must, or the others wait for it for ever."""
    return sum_of_processes(int(here), device) > 0


def of_all_processes(found: list[T]) -> list[T]:
    """What all processes found, without repetition."""
    if not _several():
        return found
    every: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(every, found)
    return list(dict.fromkeys(item for part in every for item in part))


def give_up_together(failure: Exception | None, device: torch.device | str = "cpu") -> None:
    """Raises what went wrong here, and an error that says so where it went wrong elsewhere.

    Raises:
        Exception: ``failure``, if it is one.
        PANError: If another process failed.
    """
    anywhere = in_any_process(failure is not None, device)
    if failure is not None:
        raise failure
    if anywhere:
        raise PANError("another process failed, its message is above")
