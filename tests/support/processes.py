"""Processes that a test starts, and that do not outlive it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 150
#: What takes long to import and most of them need. A server imports it once; each process is a copy of that server.
IMPORTED = ["torch", "torch.distributed", "pytorch_lightning", "pan_callbacks", "tests.support.lightning_models"]


def results_of_two(work: Callable[[int, str], Any], folder: str | Path) -> list[Any]:
    """Do :func:`results_of` with two processes."""
    return results_of(work, folder, 2)


def results_of(work: Callable[[int, str], Any], folder: str | Path, world: int) -> list[Any]:
    """Return what several processes of one group give, by rank.

    Args:
        work: What each does, a function of a module: of its rank and a folder that all have.
        folder: An empty folder.
        world: How many there are.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    arguments = [(work, rank, str(folder), world) for rank in range(world)]
    processes = [context.Process(target=_run, args=one, daemon=True) for one in arguments]
    for process in processes:
        process.start()
    end = time.monotonic() + TIMEOUT
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, f"{len(hanging)} of {world} processes still ran after {TIMEOUT} s: one waits for the other"
    assert [process.exitcode for process in processes] == [0] * world
    return [torch.load(f"{folder}/result{rank}.pt", weights_only=False) for rank in range(world)]


def _run(work: Callable[[int, str], Any], rank: int, folder: str, world: int) -> None:
    torch.set_num_threads(1)
    # as torchrun sets them, so that a Trainer starts no processes of its own
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world))
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    torch.save(work(rank, folder), f"{folder}/result{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
