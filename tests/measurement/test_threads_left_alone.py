"""What threads and processes wait on is theirs: nothing of it is put back, or somebody would wait for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque

import pytest
from torch import nn
from torch.utils.data import DataLoader

from pan_callbacks.measurement.undisturbed import undisturbed
from tests.support.lightning_models import dataset


class Holder(nn.Module):
    """Holds something beside its own counter, which is put back."""

    def __init__(self, held) -> None:
        super().__init__()
        self.held, self.count, self.seen = held, 0, deque([1])


def waiting(condition: threading.Condition, woken: list) -> threading.Thread:
    def wait() -> None:
        with condition:
            woken.append(condition.wait(timeout=10))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not condition._waiters:
        time.sleep(0.001)
    return thread


def test_a_thread_that_begins_to_wait_meanwhile_is_woken_afterwards():
    condition, woken = threading.Condition(), []
    holder = Holder(condition)
    with undisturbed(holder):
        holder.count, thread = 5, waiting(condition, woken)
        holder.seen.append(2)
    assert (holder.count, holder.seen) == (0, deque([1]))
    with condition:
        condition.notify()
    thread.join(timeout=10)
    assert woken == [True]


def test_what_was_put_into_a_queue_meanwhile_stays_there():
    holder = Holder(queue.Queue())
    with undisturbed(holder):
        holder.held.put("an index")
    assert holder.held.get(timeout=1) == "an index"


@pytest.mark.parametrize("persistent", [True, False])
def test_workers_of_a_loader_go_on(persistent):
    """Probed between two epochs, or in the middle of one, while threads hand indices to the workers."""
    loader = DataLoader(dataset(64), batch_size=1, num_workers=1, persistent_workers=persistent)
    iterator = iter(loader)
    batches = 0
    for _ in range(64):
        with undisturbed(loader):
            time.sleep(0.001)
        batches += next(iterator, None) is not None
    assert batches == 64 and next(iterator, None) is None
