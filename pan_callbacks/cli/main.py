"""The command line: ``pan-callbacks scan``, ``impact`` and ``compare``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pan_callbacks import __version__
from pan_callbacks.cli.arguments import parser
from pan_callbacks.cli.process import interruptible
from pan_callbacks.errors import PANError, UsageError

_NOISE = (".*does not have many workers", ".*MPS available but not used", ".*GPU available but not used")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments, those of the process by default.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    args = parser().parse_args(argv)
    args.from_shell = argv is None or list(argv) == sys.argv[1:]
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        try:
            return {"scan": _survey, "impact": _survey, "compare": _compare}[args.command](args)
        except KeyboardInterrupt:
            return _fail("interrupted", 1)
        except Exception as error:
            if args.debug:
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
    if everywhere or os.environ.get("LOCAL_RANK", "0") == "0":
        print("pan-callbacks: " + " ".join(message.split()), file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------ commands


def _survey(args: argparse.Namespace) -> int:
    from pan_callbacks._runtime import in_any_process, of_all_processes
    from pan_callbacks.cli import resolve as inputs
    from pan_callbacks.sources.models import load_model

    impact = args.command == "impact"
    inputs.check_out(args.out, args.overwrite)
    labelled = impact and not args.unlabelled and args.images != "sample"
    if impact and args.metric and not labelled:
        raise UsageError(f"--metric {args.metric} needs labels, which --unlabelled and the sample images have not")
    if impact and args.report and (args.layers or args.reference != "crop" or args.threshold != 0.8):
        raise UsageError("--report is of a scan that was made: --layers, --reference and --threshold are for a new one")
    if not 0 < args.threshold < 1:
        raise UsageError(f"--threshold {args.threshold:g} is not in (0, 1)")
    loaded = inputs.normalised(load_model(args.model, args.weights, args.num_classes, args.size), args)
    for sentence in [] if args.quiet else inputs.assumptions(loaded, args):
        _say(f"note: {sentence}")
    inputs.check_layers(loaded.model, args.layers)
    metric = inputs.metric_of(args.metric, loaded.outputs) if impact else None
    known = inputs.read_report(args.report, loaded.model) if impact and args.report else None
    sources = {"scan": inputs.image_source(args, loaded, args.max_images, labelled)}
    if impact:
        sources["impact"] = inputs.image_source(args, loaded, args.impact_images, labelled)
    inputs.check_shares(sources, args.devices * args.num_nodes)
    process = _Process(args)
    inputs.make_out(args.out)

    model = loaded.model.float().to(process.fabric.device)
    shards = {name: source.shard(process.rank, process.world) for name, source in sources.items()}
    pictures, result, failure, notes = [], None, None, []
    with interruptible(shards) as batches:
        if known is None:
            known, pictures = process.scan(model, batches["scan"], args, sources["scan"], notes)
        stopped = in_any_process(batches["scan"].stopped, process.fabric.device)
        if impact and not stopped:
            names = inputs.class_names(sources["impact"].classes, loaded.outputs)
            try:
                result = process.impact(model, batches["impact"], known, args, metric, names)
            except Exception as error:  # the scan is kept
                failure = error
        stopped = in_any_process(batches["scan"].stopped, process.fabric.device)
    skipped = dict(sorted(of_all_processes([item for shard in shards.values() for item in shard.skipped.items()])))
    if process.rank == 0:
        about = _about(args, loaded, sources, known) | _interrupted(stopped, known, result)
        rest = about, loaded.preprocessing.size, pictures, result, skipped
        stopped |= not _write(args, model, known, rest, None if stopped else sources["scan"], notes)
        _tell(args, known, result, skipped)
    if stopped:
        return _fail(f"interrupted: {args.out} holds what was measured until then", 1)
    if failure is not None:
        _say(f"the scan is in {args.out}, its impact was not measured")
        raise failure
    return 0


def _write(args, model, known, rest: tuple, source, notes: list[str]) -> bool:
    """Measures what is left and writes the report; returns False where the user had no patience for the former.

    Args:
        args: The arguments.
        model: The model.
        known: Its report.
        rest: What else :func:`~pan_callbacks.cli.survey.look_at` is told.
        source: Images for the other measures, None to leave them out.
        notes: What a reader should know.
    """
    from pan_callbacks._runtime import progress_bar
    from pan_callbacks.cli.survey import look_at, write

    images, patient = [], True
    try:
        if source is not None and args.companion_images:
            images = [batch[0] for batch in source.first(args.companion_images)]
        show = not args.quiet and sys.stderr.isatty()
        with progress_bar("other measures", None, show):
            survey = look_at(model, known, *rest, images, notes)
    except (KeyboardInterrupt, PANError) as error:
        patient = not isinstance(error, KeyboardInterrupt)
        why = str(error) if patient else "interrupted"
        survey = look_at(model, known, *rest, (), [*notes, f"other measures were left out: {why}"])
    write(survey, args.out)
    return patient


def _interrupted(stopped: bool, report: Any, result: Any) -> dict[str, str]:
    if not stopped:
        return {}
    seen = max((line.images for line in report.layers.values()), default=0)
    impact = "" if result is None else f" and {result.images} of the impact"
    return {"interrupted": f"after {seen} images of the scan{impact}"}


def _compare(args: argparse.Namespace) -> int:
    from rich.console import Console

    from pan_callbacks.cli import compare
    from pan_callbacks.cli import resolve as inputs

    if args.out is not None:
        inputs.check_out(args.out, args.overwrite)
    entries = [compare.read_entry(path) for path in args.reports]
    console = _console(Console)
    console.print(_rich_table(*compare.turned(*compare.table(entries))))
    for sentence in compare.notes(entries):
        console.print(sentence, markup=False)
    if args.out is not None:
        inputs.make_out(args.out)
        compare.write(entries, args.out)
        console.print(f"{args.out / 'report.html'}", markup=False)
    return 0


# ------------------------------------------------------------------------------------------------------------ processes


class _Process:
    """This process, and the others that share the work with it."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        from lightning_fabric import Fabric

        many = args.devices * args.num_nodes > 1
        if many and not args.from_shell:
            raise UsageError("--devices starts this very program once more: for the shell, and not for main()")
        strategy = {"strategy": "ddp"} if many else {}
        accelerator = args.accelerator
        if accelerator == "auto" and torch.backends.mps.is_available():
            accelerator = "cpu"  # Apple's GPUs have no float64, which sums are kept in
        try:
            fabric = Fabric(accelerator=accelerator, devices=args.devices, num_nodes=args.num_nodes, **strategy)
        except Exception as error:  # Lightning's own kinds of error for devices that are not there
            raise UsageError(f"--accelerator {args.accelerator} --devices {args.devices}: {error}") from error
        if many:
            fabric.launch()
        self.fabric, self.rank, self.world = fabric, fabric.global_rank, fabric.world_size

    def scan(self, model: Any, batches: Iterable[Any], args: argparse.Namespace, source: Any, notes: list[str]):
        """Report and pictures; the same in any number of processes."""
        from pan_callbacks._runtime import Shard
        from pan_callbacks.cli.survey import pictures_of
        from pan_callbacks.measurement.engine import Settings
        from pan_callbacks.measurement.scan import scanned

        settings = Settings(args.layers, args.reference, args.threshold, len(source))
        shard = Shard(self.rank, self.world, len(source), next(iter(source))[0][:1])
        with scanned(model, batches, settings, shard, self.shows_progress(args)) as (measurement, report):
            try:
                return report, pictures_of(measurement, report, self.world > 1)
            except Exception as error:  # pictures are not worth the report
                notes.append(f"pictures of neurons were left out: {type(error).__name__}: {error}")
                return report, []

    def impact(self, model: Any, batches: Iterable[Any], report: Any, args: argparse.Namespace, metric: Any, names):
        """What masking does; the same in any number of processes."""
        from pan_callbacks._runtime import Shard
        from pan_callbacks.suppression.impact import impact

        options = {"mode": args.mode, "controls": args.controls, "seed": args.seed, "metric": metric}
        options |= {"class_names": names, "progress": self.shows_progress(args), "shard": Shard(self.rank, self.world)}
        found = impact(model, batches, report, **options)
        if args.images != "sample":
            return found
        few = "the sample images are crops of 13 pictures: intervals over images are narrower than they should be"
        return replace(found, notes=(*found.notes, few))

    def shows_progress(self, args: argparse.Namespace) -> bool:
        """Whether this process draws a progress bar."""
        return not args.quiet and self.rank == 0 and sys.stderr.isatty()


# --------------------------------------------------------------------------------------------------- what comes out


def _about(args: argparse.Namespace, loaded: Any, sources: dict[str, Any], known: Any) -> dict[str, str]:
    import timm
    import torch

    height, width = loaded.preprocessing.size
    about = {"model": loaded.name, "weights": loaded.weights}
    if getattr(args, "report", None):
        about["report"] = f"of an earlier scan, {args.report}"
    else:
        about["images"] = f"{len(sources['scan'])} of {sources['scan'].name}, seed {args.seed}"
    if "impact" in sources:
        about["images for impact"] = f"{len(sources['impact'])} of {sources['impact'].name}"
    mean, std = (
        ", ".join(f"{v:g}" for v in values) for values in (loaded.preprocessing.mean, loaded.preprocessing.std)
    )
    about["preprocessing"] = f"{height}×{width} px, {loaded.preprocessing.interpolation}, mean {mean}, deviation {std}"
    about["reference and threshold"] = f"{known.reference}, {known.threshold:g}"
    about["versions"] = f"pan_callbacks {__version__}, torch {torch.__version__}, timm {timm.__version__}"
    return about


def _tell(args: argparse.Namespace, report: Any, impact: Any, skipped: dict[str, str]) -> None:
    if args.quiet:
        return
    from rich.console import Console

    console = _console(Console)
    if report.count:
        console.print(report.table())
    console.print(report.summary(), markup=False, highlight=False)
    if impact is not None:
        console.print()
        console.print(impact.summary(), markup=False, highlight=False)
    if skipped:
        name, why = next(iter(skipped.items()))
        console.print(f"{len(skipped)} images were left out, the first: {name} ({why})", markup=False)
    console.print(f"\n{args.out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _console(kind: Any) -> Any:
    console = kind()
    return console if console.is_terminal else kind(width=160)  # a file has no width; layer names are long


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for i, heading in enumerate(head):
        table.add_column(heading, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
