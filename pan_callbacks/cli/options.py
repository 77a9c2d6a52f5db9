"""What the commands are asked for: plain data."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pan_callbacks.reports.words import Mode, Reference


def first_on_machine() -> bool:
    """Return whether this is the first of several processes on a machine, which speaks for all, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@dataclass(frozen=True)
class ImpactOptions:
    """What ``impact`` is asked for besides the scan.

    Args:
        mode: Modes of the mask.
        controls: Random draws of other neurons.
        metric: Name of a torchmetrics class, None for accuracy.
        report: An earlier report, in place of a new scan.
        labelled: Whether the images come in folders of their classes.
        max_images: Images to predict at most, None for all.
    """

    mode: tuple[Mode, ...]
    controls: int
    metric: str | None
    report: Path | None
    labelled: bool
    max_images: int | None


@dataclass(frozen=True)
class ModelOptions:
    """What every command that runs a model is asked for; what is None the user left open.

    Args:
        model: Where the model comes from.
        images: A folder, or ``"sample"``.
        overwrite: Whether the folder to write to may hold something.
        weights: Where the weights come from.
        num_classes: Outputs of the model.
        size: Height and width of the images.
        mean: Of each channel.
        std: Of each channel.
        threshold: Contrast of a PAN.
        max_images: Images to scan at most.
        group_by: What intervals count as one: ``"image"`` or ``"folder"``.
        seed: Of images and controls.
        batch_size: Images in a forward.
        workers: Processes that read images.
        accelerator: As Lightning names it.
        devices: Processes on a machine.
        num_nodes: Machines.
        quiet: Whether to print nothing but errors.
        from_shell: Whether the arguments are those of the process.
    """

    model: str
    images: str
    overwrite: bool
    weights: str
    num_classes: int | None
    size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    threshold: float | None
    max_images: int
    group_by: str
    seed: int
    batch_size: int
    workers: int
    accelerator: str
    devices: int
    num_nodes: int
    quiet: bool
    from_shell: bool

    @property
    def processes(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes

    @property
    def shows_progress(self) -> bool:
        """Whether to show bars: in a terminal, of several processes in the first on a machine."""
        return not self.quiet and first_on_machine() and sys.stderr.isatty()


@dataclass(frozen=True)
class SurveyOptions(ModelOptions):
    """What ``scan`` or ``impact`` is asked for.

    Args:
        out: Folder to write to.
        layers: Globs over layer names.
        reference: Of the contrast.
        companion_images: Images for the other measures, and for the floor of the count.
        impact: What impact is asked for, None for a scan alone.
    """

    out: Path
    layers: tuple[str, ...] | None
    reference: Reference | None
    companion_images: int
    impact: ImpactOptions | None = None


@dataclass(frozen=True)
class AdviseOptions(ModelOptions):
    """What ``advise`` is asked for.

    Args:
        out: Folder to write ``advice.json`` to, None for the terminal alone.
        impact_images: Images whose answers are compared, at most.
        tolerance: What is small, of shares and of a loss of accuracy.
    """

    out: Path | None
    impact_images: int
    tolerance: float


@dataclass(frozen=True)
class CompareOptions:
    """What ``compare`` is asked for.

    Args:
        reports: Folders or files of reports.
        out: Folder to write to, None for the terminal alone.
        overwrite: Whether it may hold something.
        all: Whether rows that are the same in all reports are shown, and every neuron that changed.
    """

    reports: tuple[Path, ...]
    out: Path | None
    overwrite: bool
    all: bool = False
