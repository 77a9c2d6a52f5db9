"""This process and the others that share the work with it, and Ctrl-C, which ends it between two batches."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch import nn

from pan_callbacks._runtime import Shard
from pan_callbacks.cli.options import ImpactOptions, ModelOptions, first_on_machine
from pan_callbacks.cli.resolve import Job
from pan_callbacks.cli.survey import pictures_of
from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.reports.impact_report import ImpactReport
from pan_callbacks.reports.pan_report import PANReport

if TYPE_CHECKING:
    from pan_callbacks.analysis.portraits import NeuronPicture
    from pan_callbacks.sources.images import Batch, ImageSource


#: What is said of Ctrl-C before there is anything to keep.
BEFORE_ANYTHING = "interrupted before anything was measured: nothing was written"


class Stoppable:
    """Batches that end early once the user asked for it, always between two batches."""

    def __init__(self, batches: ImageSource, asked: list[bool]) -> None:
        self._batches, self._asked, self._given = batches, asked, False
        self.dataset = batches  # for the length of the progress bar

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            if self._asked:
                return
            self._given = True
            yield batch

    @property
    def stopped_at_once(self) -> bool:
        """Whether the user asked for an end before there was a batch."""
        return self.stopped and not self._given

    @property
    def stopped(self) -> bool:
        """Whether the user asked for an end."""
        return bool(self._asked)


@contextmanager
def interruptible(sources: dict[str, ImageSource]) -> Iterator[dict[str, Stoppable]]:
    """Let Ctrl-C end the batches instead of the program; pressed twice, it ends the program."""
    asked: list[bool] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        if first_on_machine():  # of several processes one says so
            print("pan-callbacks: stopping after this batch; once more to stop at once", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread, where no signal arrives
        yield {name: Stoppable(source, asked) for name, source in sources.items()}
        return
    try:
        yield {name: Stoppable(source, asked) for name, source in sources.items()}
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Scanned:
    """What a scan gave.

    Args:
        report: The report.
        pictures: Its strongest neurons of each type.
        notes: What a reader should know besides.
    """

    report: PANReport
    pictures: tuple[NeuronPicture, ...] = ()
    notes: tuple[str, ...] = ()


class Process:
    """This process, and the others that share the work with it.

    Args:
        options: Which devices to use.

    Raises:
        UsageError: If they are not there, or cannot be used from here.
    """

    def __init__(self, options: ModelOptions) -> None:
        import torch
        from lightning_fabric import Fabric

        many = options.processes > 1
        if many and not options.from_shell:
            raise UsageError("--devices starts this very program once more: for the shell, and not for main()")
        accelerator = options.accelerator
        if accelerator == "auto" and torch.backends.mps.is_available():
            accelerator = "cpu"  # Apple's GPUs have no float64, which sums are kept in
        try:
            fabric = Fabric(
                accelerator=accelerator,
                devices=options.devices,
                num_nodes=options.num_nodes,
                strategy="ddp" if many else "auto",
            )
        except Exception as error:  # Lightning's own kinds of error for devices that are not there
            raise UsageError(f"--accelerator {options.accelerator} --devices {options.devices}: {error}") from error
        if many:
            fabric.launch()
        self.device, self.rank, self.world = fabric.device, fabric.global_rank, fabric.world_size
        self.shows_progress = options.shows_progress and self.rank == 0

    def scan(self, model: nn.Module, batches: Stoppable, job: Job) -> Scanned:
        """Scan a model; the same report in any number of processes.

        Args:
            model: The model, on the device.
            batches: This process's part of the images.
            job: What is asked, and all of the images.
        """
        from pan_callbacks.measurement.scan import scanned

        source = job.sources["scan"]
        first = next(iter(source))[0]
        shard = Shard(self.rank, self.world, len(source), first[:1], source.batch_size)
        try:
            with scanned(model, batches, job.settings, shard, self.shows_progress, groups_of) as (measurement, report):
                try:
                    return Scanned(report, tuple(pictures_of(measurement, report, self.shows_progress)))
                except Exception as error:  # pictures are not worth the report
                    return Scanned(report, (), (f"pictures of neurons were left out: {type(error).__name__}: {error}",))
        except PANError as error:  # there were no images, or another process says so
            if batches.stopped_at_once:
                raise KeyboardInterrupt(BEFORE_ANYTHING) from error
            raise

    def impact(
        self, model: nn.Module, batches: Stoppable, report: PANReport, job: Job, options: ImpactOptions
    ) -> ImpactReport:
        """Measure what masking does; the same in any number of processes.

        Args:
            model: The model, on the device.
            batches: This process's part of the images.
            report: Which neurons to mask.
            job: The metric, and the names of the classes.
            options: How to mask them.
        """
        from pan_callbacks.suppression.impact import impact

        found = impact(
            model,
            batches,
            report,
            options.mode,
            options.controls,
            job.options.seed,
            job.metric,
            job.class_names,
            self.shows_progress,
            Shard(self.rank, self.world),
        )
        if job.options.images != "sample":
            return found
        few = "the sample images are crops of 13 pictures: intervals over images are narrower than they should be"
        return replace(found, notes=(*found.notes, few))


def groups_of(batch: Batch) -> list[Any] | None:
    """Return the groups that the images of a batch belong to, None if each is its own."""
    from pan_callbacks.measurement.grouping import Number

    return None if batch.groups is None else [Number(number) for number in batch.groups]
