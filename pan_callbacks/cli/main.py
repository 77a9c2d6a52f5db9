"""The command line: ``pan-callbacks scan``, ``impact``, ``advise`` and ``compare``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pan_callbacks import __version__
from pan_callbacks.cli import results
from pan_callbacks.cli.arguments import parse
from pan_callbacks.cli.options import AdviseOptions, CompareOptions, SurveyOptions, first_on_machine
from pan_callbacks.cli.results import Tell
from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.reports._text import visible

if TYPE_CHECKING:
    from torch import Tensor

    from pan_callbacks.cli.process import Process, Scanned
    from pan_callbacks.cli.resolve import Job
    from pan_callbacks.cli.survey import Survey
    from pan_callbacks.reports.impact_report import ImpactReport

_NOISE = (
    *(".*does not have many workers", ".*MPS available but not used", ".*GPU available but not used"),
    r"Glyph \d+ .* missing from",  # of names in scripts that matplotlib's font has not; the page shows them
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments, those of the process by default.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    command = parse(argv, from_shell=argv is None or list(argv) == sys.argv[1:])
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        try:
            with results.alone(command.json) as tell:
                if isinstance(command.options, CompareOptions):
                    return _compare(command.options, tell)
                if isinstance(command.options, AdviseOptions):
                    return _advise(command.options, tell)
                return _survey(command.options, tell)
        except KeyboardInterrupt as stop:
            return _fail(str(stop) or "interrupted", 1)
        except Exception as error:
            if command.debug:
                raise
            ours = isinstance(error, (PANError, OSError, ValueError, ImportError)) and str(error)
            message = str(error) if ours else f"{type(error).__name__}: {error} (--debug shows where)"
            usage = isinstance(error, UsageError)  # the same in every process
            return _fail(message, 2 if usage else 1, everywhere=not usage)


def _fail(message: str, code: int, everywhere: bool = False) -> int:
    _say(f"error: {message}", everywhere)
    return code


def _say(message: str, everywhere: bool = False) -> None:
    """One line, of one process alone or of each."""
    if everywhere or first_on_machine():
        print(f"pan-callbacks: {visible(' '.join(message.split()))}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------- scan and impact


@dataclass(frozen=True)
class _Measured:
    """What all processes measured together.

    Args:
        scanned: The scan, or an earlier one.
        impact: What masking does, None if it was not asked for or not measured.
        failure: Why it was not.
        skipped: Images that could not be read, and why.
        stopped: Whether the user asked for an end.
    """

    scanned: Scanned
    impact: ImpactReport | None
    failure: Exception | None
    skipped: dict[str, str]
    stopped: bool


def _survey(options: SurveyOptions, tell: Tell | None) -> int:
    from pan_callbacks.cli.process import Process
    from pan_callbacks.cli.resolve import assumptions, make_out, resolve
    from pan_callbacks.measurement.unseen import why_nothing

    job = resolve(options)
    for sentence in [] if options.quiet else assumptions(job.loaded, options):
        _say(f"note: {sentence}")
    process = Process(options)
    make_out(options.out)
    job.loaded.model.float().to(process.device)
    measured = _measure(job, process)
    stopped, nothing = measured.stopped, measured.scanned.report.neurons == 0
    if process.rank == 0:
        stopped |= not _write(job, measured, tell, show=not options.quiet and not nothing)
    if stopped:
        return _fail(f"interrupted: {options.out} holds what was measured until then", 1)
    if nothing:
        raise PANError(why_nothing(job.loaded.model, measured.scanned.report))
    if measured.failure is not None:
        _say(f"the scan is in {options.out}, its impact was not measured")
        raise measured.failure
    return 0


def _measure(job: Job, process: Process) -> _Measured:
    """Run the model on this process's part of the images."""
    from pan_callbacks._runtime import in_any_process, of_all_processes
    from pan_callbacks.cli.process import BEFORE_ANYTHING, Scanned, interruptible

    model, options = job.loaded.model, job.options.impact
    shards = {name: source.shard(process.rank, process.world) for name, source in job.sources.items()}
    impact, failure = None, None
    with interruptible(shards) as batches:
        known = job.known
        scanned = process.scan(model, batches["scan"], job) if known is None else Scanned(known)
        stopped = in_any_process(batches["scan"].stopped, process.device)
        if options is not None and not stopped and scanned.report.neurons:
            try:
                impact = process.impact(model, batches["impact"], scanned.report, job, options)
            except Exception as error:  # the scan is kept
                failure = error
        stopped = in_any_process(batches["scan"].stopped, process.device)
        if stopped and known is not None and impact is None:
            raise KeyboardInterrupt(BEFORE_ANYTHING)
    skipped = of_all_processes([item for shard in shards.values() for item in shard.skipped.items()])
    return _Measured(scanned, impact, failure, dict(sorted(skipped)), stopped)


def _write(job: Job, measured: _Measured, tell: Tell | None, show: bool) -> bool:
    """Measure what is left, write the report and print it.

    Args:
        job: What was asked.
        measured: What was measured.
        tell: Takes the result as JSON, in place of words; None for words.
        show: Whether to print it.

    Returns:
        Whether the user had the patience for what was left.
    """
    from pan_callbacks.cli import output
    from pan_callbacks.cli.survey import look_at

    options, scanned = job.options, measured.scanned
    progress = options.shows_progress
    about, size, notes = _about(job, measured), job.loaded.preprocessing.size, scanned.notes

    def survey(images: Sequence[Tensor], notes: Sequence[str]) -> Survey:
        return look_at(
            job.loaded.model,
            scanned.report,
            about,
            size,
            scanned.pictures,
            measured.impact,
            measured.skipped,
            images,
            notes,
            progress=progress,
            same_images=job.known is None,
        )

    images, patient = [], True
    try:
        if not measured.stopped and options.companion_images:
            images = [batch[0] for batch in job.sources["scan"].first(options.companion_images)]
        found = survey(images, notes)
    except (KeyboardInterrupt, PANError) as error:
        patient = not isinstance(error, KeyboardInterrupt)
        why = str(error) if patient else "interrupted"
        found = survey((), [*notes, f"other measures were left out: {why}"])
    output.write(found, options.out, progress)
    if tell is not None:
        tell(results.of_survey(found, options.out))
    elif show:
        output.show(found, options.out)
    return patient


def _about(job: Job, measured: _Measured) -> dict[str, str]:
    """Return what was surveyed, in words."""
    import timm
    import torch

    options, loaded, report = job.options, job.loaded, measured.scanned.report
    height, width = loaded.preprocessing.size
    about = {"model": loaded.name, "weights": loaded.weights}
    if options.impact is not None and options.impact.report is not None:
        about["report"] = f"of an earlier scan, {options.impact.report}"
    else:
        about["images"] = f"{len(job.sources['scan'])} of {job.sources['scan'].name}, seed {options.seed}"
    if "impact" in job.sources:
        about["images for impact"] = f"{len(job.sources['impact'])} of {job.sources['impact'].name}"
    mean, std = (
        ", ".join(f"{v:g}" for v in values) for values in (loaded.preprocessing.mean, loaded.preprocessing.std)
    )
    about["preprocessing"] = f"{height}×{width} px, {loaded.preprocessing.interpolation}, mean {mean}, deviation {std}"
    about["reference and threshold"] = f"{report.reference}, {report.threshold:g}"
    about["versions"] = f"pan_callbacks {__version__}, torch {torch.__version__}, timm {timm.__version__}"
    if measured.stopped:
        impact = "" if measured.impact is None else f" and {measured.impact.images} of the impact"
        about["interrupted"] = f"after {report.images} images of the scan{impact}"
    return about


# --------------------------------------------------------------------------------------------------------- compare


def _compare(options: CompareOptions, tell: Tell | None) -> int:
    from pan_callbacks.cli import compare
    from pan_callbacks.cli.output import console
    from pan_callbacks.cli.resolve import check_out, make_out

    if options.out is not None:
        check_out(options.out, options.overwrite, inputs=options.reports)
    entries = [compare.read_entry(path) for path in options.reports]
    if options.out is not None:
        make_out(options.out)
        compare.write(entries, options.out)
    if tell is not None:
        tell(results.of_comparison(entries))
        return 0
    terminal = console()
    compare.show(entries, terminal, options.all)
    if options.out is not None:
        terminal.print(visible(str(options.out / "report.html")), markup=False, highlight=False, soft_wrap=True)
    return 0


# ---------------------------------------------------------------------------------------------------------- advise


def _advise(options: AdviseOptions, tell: Tell | None) -> int:
    from pan_callbacks.cli import advise

    job = advise.resolve(options)
    for sentence in [] if options.quiet else job.notes:
        _say(f"note: {sentence}")
    advice = advise.measure(job)
    if options.out is not None:
        advice.save(options.out / advise.FILE)
    if tell is not None:
        tell(advice.to_dict())
    elif not options.quiet:
        advise.show(advice)
    if advice.evidence.unpadded:
        raise PANError(advice.evidence.unpadded)
    return 0
