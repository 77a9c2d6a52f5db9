"""Work that runs out of memory is done in smaller batches, and nothing else is; processes agree exactly."""

from __future__ import annotations

import pytest
import torch

from pan_callbacks import PANError, _runtime
from pan_callbacks._runtime import ALONE, Shard, in_any_process, in_smaller_batches, is_out_of_memory, sum_of_processes
from tests.support.processes import results_of_two


class Work:
    """Handles images, as many at a time as fit, and keeps what sizes it was started with."""

    def __init__(self, images: int, batch: int, fit: int, error: Exception | None = None) -> None:
        self.images, self.batch, self.fit = images, batch, fit
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.largest: list[int | None] = []
        self.done: list[int] = []

    def __call__(self, largest):
        self.largest.append(largest)
        self.done = []
        step = min(self.batch, largest or self.batch)
        for start in range(0, self.images, step):
            size = min(step, self.images - start)
            yield size
            if size > self.fit:
                raise self.error
            self.done.append(size)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("anything"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (OSError("out of memory"), False),
    ],
)
def test_errors_that_mean_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_work_that_fits_is_done_once_without_a_note():
    work = Work(images=20, batch=8, fit=8)
    assert in_smaller_batches(work) == []
    assert (work.largest, work.done) == ([None], [8, 8, 4])


def test_batches_are_halved_until_they_fit():
    work = Work(images=20, batch=16, fit=5)
    assert in_smaller_batches(work) == ["memory ran out with batches of 16 images: batches of 4 were used"]
    assert work.largest == [None, 8, 4]
    assert work.done == [4] * 5


def test_a_single_image_that_does_not_fit_is_an_error():
    with pytest.raises(PANError, match="on a single image: use smaller images or batches") as caught:
        in_smaller_batches(Work(images=4, batch=3, fit=0))
    assert is_out_of_memory(caught.value.__cause__)


def test_work_that_cannot_be_begun_again_is_an_error():
    work = Work(images=20, batch=16, fit=5)
    with pytest.raises(PANError, match="at 16 images, and batches can be read only once"):
        in_smaller_batches(work, restartable=False)
    assert work.largest == [None]


def test_other_errors_are_raised_as_they_are():
    work = Work(images=20, batch=16, fit=5, error=RuntimeError("wrong shape"))
    with pytest.raises(RuntimeError, match="^wrong shape$"):
        in_smaller_batches(work)
    assert work.largest == [None]


def test_memory_that_runs_out_before_the_first_forward_is_an_error():
    def work(largest):
        raise MemoryError
        yield

    with pytest.raises(PANError, match="out of memory"):
        in_smaller_batches(work)


LARGE = 2**24 + 1  # the first whole number that float32 does not hold


def run_rank(rank: int, folder: str) -> dict[str, int | bool]:
    """What each of two processes does; its results are read by the tests."""
    return {
        "sum": sum_of_processes(LARGE * (1 - rank)),
        "any": in_any_process(rank == 1),
        "none": in_any_process(False),
    }


def test_processes_add_whole_numbers_up_exactly_and_agree(tmp_path):
    assert results_of_two(run_rank, tmp_path) == [{"sum": LARGE, "any": True, "none": False}] * 2


def test_a_process_alone_has_all():
    assert (sum_of_processes(LARGE), in_any_process(True), ALONE.shared) == (LARGE, True, False)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_every_batch_has_one_number_whoever_has_it(world):
    numbers = [Shard(rank, world).number(batch) for batch in range(4) for rank in range(world)]
    assert numbers == list(range(4 * world))


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_without_widgets_gets_no_bar_and_no_warning(widgets, monkeypatch, recwarn):
    """There rich draws a warning, and an empty output that stays, wherever a bar would be."""
    asked, shown = [], []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(_runtime, "find_spec", lambda name: asked.append(name) or (object() if widgets else None))
    monkeypatch.setattr("rich.progress.Progress.__enter__", lambda self: shown.append(self) or self)
    monkeypatch.setattr("rich.progress.Progress.__exit__", lambda self, *error: None)
    with _runtime.progress_bar("scanning", 4) as advance, _runtime.waiting("loading"):
        advance(2)
    assert asked == ["ipywidgets"] * 2 and len(shown) == 2 * widgets
    assert not recwarn.list
