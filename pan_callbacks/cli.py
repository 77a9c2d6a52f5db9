"""The command line: ``pan-callbacks scan``, ``impact`` and ``compare``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pan_callbacks import __version__
from pan_callbacks.arguments import parser
from pan_callbacks.interrupt import interruptible
from pan_callbacks.layers import PANError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments, those of the process by default.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    args = parser().parse_args(argv)
    try:
        return {"scan": _survey, "impact": _survey, "compare": _compare}[args.command](args)
    except KeyboardInterrupt:
        return _fail("interrupted, and nothing was written", 1)
    except UsageError as error:
        return _fail(str(error), 2)
    except (PANError, OSError, ValueError, ImportError) as error:
        if args.debug:
            raise
        return _fail(str(error) or type(error).__name__, 1)
    except Exception as error:
        if args.debug:
            raise
        return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1)


def _fail(message: str, code: int) -> int:
    print("pan-callbacks: error: " + " ".join(message.split()), file=sys.stderr)
    return code


# ------------------------------------------------------------------------------------------------------------ commands


def _survey(args: argparse.Namespace) -> int:
    from pan_callbacks.models import load_model
    from pan_callbacks.survey import look_at, pictures_of, write

    impact = args.command == "impact"
    _check_out(args.out, args.overwrite)
    if not 0 < args.threshold < 1:
        raise UsageError(f"--threshold {args.threshold:g} is not in (0, 1)")
    labelled = impact and not args.unlabelled and args.images != "sample"
    known = _read_report(args.report) if impact and args.report else None
    loaded = load_model(args.model, args.weights, args.num_classes, args.size)
    sources = {"scan": _source(args, loaded, args.max_images, labelled)}
    if impact:
        sources["impact"] = _source(args, loaded, args.impact_images, labelled)
    _check_shares(sources, args.devices * args.num_nodes)
    process = _Process(args)
    model, result, failure = process.place(loaded.model), None, None
    shards = process.share(sources)
    with interruptible(shards) as batches:
        pictures = []
        if known is None:
            known, pictures = process.scan(model, batches["scan"], args, sources["scan"], pictures_of)
        if impact and not batches["scan"].stopped:
            try:
                result = process.impact(model, batches["impact"], known, args, sources["impact"], loaded.outputs)
            except Exception as error:  # the scan is kept
                failure = error
    stopped = any(source.stopped for source in batches.values())
    skipped = process.gather({path: why for shard in shards.values() for path, why in shard.skipped.items()})
    if process.rank == 0:
        about = _about(args, loaded, sources)
        if stopped:
            seen = max((line.images for line in known.layers.values()), default=0)
            about["interrupted"] = f"after {seen} images of the scan" + (
                "" if result is None else f" and {result.images} of the impact"
            )
        rest = about, loaded.preprocessing.size, pictures, result, skipped
        try:
            images = _first_images(sources["scan"], 0 if stopped else args.companion_images)
            survey = look_at(model, known, *rest, images)
        except KeyboardInterrupt:
            stopped, survey = True, look_at(model, known, *rest)
        write(survey, args.out)
        _tell(args, known, result, skipped)
    if stopped:
        return _fail(f"interrupted: {args.out} holds what was measured until then", 1)
    if failure is not None:
        print(f"pan-callbacks: the scan is in {args.out}, its impact was not measured", file=sys.stderr)
        raise failure
    return 0


def _compare(args: argparse.Namespace) -> int:
    from rich.console import Console

    from pan_callbacks import compare

    if args.out is not None:
        _check_out(args.out, args.overwrite)
    entries = [compare.read_entry(path) for path in args.reports]
    console = _console(Console)
    console.print(_rich_table(*compare.table(entries)))
    for sentence in compare.notes(entries):
        console.print(sentence, markup=False)
    if args.out is not None:
        compare.write(entries, args.out)
        console.print(f"{args.out / 'report.html'}", markup=False)
    return 0


# -------------------------------------------------------------------------------------------------------- what goes in


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"--out {out} is not empty: give another folder, or --overwrite to replace its report")


def _read_report(path: Path):
    from pan_callbacks.report import PANReport

    if not path.is_file():
        raise UsageError(f"--report {path}: no such file")
    return PANReport.load(path)


def _source(args: argparse.Namespace, loaded: Any, limit: int | None, labelled: bool):
    from pan_callbacks.images import folder_images, sample_images

    if args.images == "sample":
        return sample_images(limit or 256, loaded.preprocessing, args.batch_size, args.seed)
    if not Path(args.images).is_dir():
        raise UsageError(f"--images {args.images}: no such folder (or give 'sample')")
    outputs = loaded.outputs if labelled else None
    options = {"workers": args.workers, "seed": args.seed}
    return folder_images(
        args.images, loaded.preprocessing, args.batch_size, limit, labelled=labelled, outputs=outputs, **options
    )


def _check_shares(sources: dict[str, Any], processes: int) -> None:
    """Whether there is something to do for every process; seen before any is started."""
    for source in sources.values():
        if -(-len(source) // source.batch_size) < processes:
            raise UsageError(
                f"{len(source)} images in batches of {source.batch_size} are too few for {processes} processes: "
                "lower --batch-size or --devices"
            )


def _first_images(source: Any, count: int) -> list:
    return [batch[0] for batch in source.first(count)] if count else []


def _class_names(folders: Sequence[str] | None, outputs: int | None) -> list[str] | None:
    """Names of the model's outputs: those of the class folders, or ImageNet's where it has as many outputs."""
    if outputs is None:
        return None
    names = [f"class {i}" for i in range(outputs)]
    if outputs == 1000:
        from timm.data import ImageNetInfo

        names = [name.split(",")[0] for name in ImageNetInfo().label_descriptions()]
    elif folders is not None:
        from pan_callbacks.images import class_indices

        for folder, index in zip(folders, class_indices(folders, outputs), strict=True):
            names[index] = folder
    return names


def _metric(path: str | None, outputs: int | None):
    """A torchmetrics metric by the name of its class, told the number of classes if it asks for it."""
    if path is None:
        return None
    import importlib
    import inspect

    from torchmetrics import Metric

    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module or "torchmetrics"), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--metric {path}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Metric)):
        raise UsageError(f"--metric {path} is no torchmetrics metric")
    known = {"num_classes": outputs, "num_labels": outputs, "task": "multiclass"}
    wanted = inspect.signature(kind.__new__ if "__new__" in vars(kind) else kind).parameters
    try:
        return kind(**{key: value for key, value in known.items() if key in wanted})
    except (TypeError, ValueError) as error:
        raise UsageError(f"--metric {path} cannot be made: {error}") from error


# ------------------------------------------------------------------------------------------------------------ processes


class _Process:
    """This process, and the others that share the work with it."""

    def __init__(self, args: argparse.Namespace) -> None:
        from lightning_fabric import Fabric

        many = args.devices * args.num_nodes > 1
        strategy = {"strategy": "ddp"} if many else {}
        try:
            fabric = Fabric(accelerator=args.accelerator, devices=args.devices, num_nodes=args.num_nodes, **strategy)
        except Exception as error:  # Lightning's own kinds of error for devices that are not there
            raise UsageError(f"--accelerator {args.accelerator} --devices {args.devices}: {error}") from error
        if many:
            fabric.launch()
        self.fabric, self.rank, self.world = fabric, fabric.global_rank, fabric.world_size

    def place(self, model: Any) -> Any:
        """The model on this process' device."""
        return model.to(self.fabric.device)

    def share(self, sources: dict[str, Any]) -> dict[str, Any]:
        """This process' part of the batches."""
        return {name: source.shard(self.rank, self.world) for name, source in sources.items()}

    def scan(self, model: Any, batches: Iterable[Any], args: argparse.Namespace, source: Any, pictures_of: Any):
        """Report and pictures; the same in any number of processes."""
        from pan_callbacks.scanning import scanned

        options = {"layers": args.layers, "reference": args.reference, "threshold": args.threshold}
        options |= {"max_images": len(source), "progress": self.shows_progress(args), "sync": self.world > 1}
        options |= {"total": len(source), "example": next(iter(source))[0][:1]}
        with scanned(model, batches, **options) as (measurement, report):
            return report, pictures_of(measurement, report)

    def impact(self, model: Any, batches: Iterable[Any], report: Any, args: argparse.Namespace, source: Any, outputs):
        """What masking does."""
        from pan_callbacks.ablation import impact

        return impact(
            model,
            batches,
            report,
            mode=args.mode,
            controls=args.controls,
            seed=args.seed,
            metric=_metric(args.metric, outputs),
            class_names=_class_names(source.classes, outputs),
            progress=self.shows_progress(args),
            share=(self.rank, self.world),
        )

    def gather(self, found: dict[str, str]) -> dict[str, str]:
        """What all processes found, in the order of the names."""
        every: list[Any] = [found]
        if self.world > 1:
            import torch.distributed

            every = [None] * self.world
            torch.distributed.all_gather_object(every, found)
        return dict(sorted(item for part in every for item in part.items()))

    def shows_progress(self, args: argparse.Namespace) -> bool:
        """Whether this process draws a progress bar."""
        return not args.quiet and self.rank == 0 and sys.stderr.isatty()


# --------------------------------------------------------------------------------------------------- what comes out


def _about(args: argparse.Namespace, loaded: Any, sources: dict[str, Any]) -> dict[str, str]:
    import timm
    import torch

    height, width = loaded.preprocessing.size
    about = {
        "model": loaded.name,
        "weights": loaded.weights,
        "images": f"{len(sources['scan'])} of {sources['scan'].name}, seed {args.seed}, {height}×{width} px",
    }
    if "impact" in sources:
        about["images for impact"] = f"{len(sources['impact'])} of {sources['impact'].name}"
    if getattr(args, "report", None):
        about["report"] = f"{args.report}, of an earlier scan"
    about["reference and threshold"] = f"{args.reference}, {args.threshold:g}"
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
        table.add_column(heading, justify="left" if i < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
