"""What ``pan-callbacks advise`` works on, and what it measures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pan_callbacks.analysis.advise import advise
from pan_callbacks.cli.options import AdviseOptions
from pan_callbacks.cli.output import console, print_table
from pan_callbacks.cli.process import Process, groups_of, interruptible
from pan_callbacks.cli.resolve import (
    assumptions,
    check_apart,
    check_images,
    check_out,
    image_source,
    make_out,
    model_of,
    threshold_of,
)
from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.reports._text import visible
from pan_callbacks.reports.advice import Advice
from pan_callbacks.sources.images import ImageSource
from pan_callbacks.sources.models import LoadedModel

#: What is written into the folder of ``--out``.
FILE = "advice.json"


@dataclass(frozen=True)
class AdviseJob:
    """What there is to advise on.

    Args:
        options: What is asked.
        threshold: Contrast of a PAN.
        loaded: The model.
        source: The images, with labels if they have some.
        notes: What is taken for granted, and why there are no labels.
    """

    options: AdviseOptions
    threshold: float
    loaded: LoadedModel
    source: ImageSource
    notes: tuple[str, ...]


def resolve(options: AdviseOptions) -> AdviseJob:
    """Load the model and find the images, before anything is measured and before the folder is made.

    Args:
        options: What is asked.

    Raises:
        UsageError: If something was asked for that does not exist or makes no sense.
        PANError: If something cannot be loaded.
    """
    if not 0 < options.tolerance < 1:
        raise UsageError(f"--tolerance {options.tolerance:g} is not in (0, 1)")
    if options.out is not None:
        check_out(options.out, options.overwrite)
    threshold = threshold_of(options)
    check_images(options, labelled=False)
    loaded = model_of(options)
    source, why_not = _images(options, loaded)
    if options.out is not None:
        check_apart(options.out, source.folders)
        make_out(options.out)
    return AdviseJob(options, threshold, loaded, source, (*assumptions(loaded, options), *why_not))


def measure(job: AdviseJob) -> Advice:
    """Measure and decide; what could not be read is among the notes.

    Raises:
        KeyboardInterrupt: If the user asked for an end: numbers of some of the images are no advice.
    """
    options, process = job.options, Process(job.options)
    job.loaded.model.float().to(process.device)
    with interruptible({"advise": job.source}) as sources:
        batches = sources["advise"]
        try:
            found = advise(
                job.loaded.model,
                batches,
                max_images=options.max_images,
                threshold=job.threshold,
                groups=groups_of,
                progress=process.shows_progress,
                impact_images=options.impact_images,
                tolerance=options.tolerance,
            )
        finally:
            if batches.stopped:
                raise KeyboardInterrupt("interrupted: nothing was written")
    skipped = job.source.skipped
    if not skipped:
        return found
    name, why = next(iter(skipped.items()))
    return replace(found, notes=(*found.notes, f"{len(skipped)} images were left out, the first: {name} ({why})"))


def show(advice: Advice) -> None:
    """Print the numbers, the paragraph, and what was noted."""
    terminal = console()
    if advice.table.rows:
        print_table(advice.table, terminal, plain=True)
        terminal.print()
    for sentence in (advice.paragraph(), *advice.notes):
        # a terminal breaks lines between words, and a file has the lines that there are
        terminal.print(visible(sentence), markup=False, highlight=False, soft_wrap=not terminal.is_terminal)


def _images(options: AdviseOptions, loaded: LoadedModel) -> tuple[ImageSource, list[str]]:
    """Return the images with their labels; or without, with the reason."""
    limit = max(options.max_images, options.impact_images)
    if options.images == "sample":
        return image_source(options, loaded, limit, labelled=False), ["the sample images have no labels: answers alone"]
    try:
        return image_source(options, loaded, limit, labelled=True), []
    except UsageError:
        raise
    except PANError as error:
        found = image_source(options, loaded, limit, labelled=False)
        return found, [f"no labels, answers alone are compared: {error}"]
