"""The arguments of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from pan_callbacks import __version__
from pan_callbacks.cli import help as texts
from pan_callbacks.cli.completion import SHELLS, PrintCompletion
from pan_callbacks.cli.options import AdviseOptions, CompareOptions, ImpactOptions, ModelOptions, SurveyOptions
from pan_callbacks.reports._text import visible
from pan_callbacks.reports.words import MODES, REFERENCES


@dataclass(frozen=True)
class Command:
    """A command, and how it says what it has to say.

    Args:
        options: What is asked for.
        debug: Whether errors are to show where they came from.
        json: Whether the result goes to standard output as JSON, and nothing else does.
    """

    options: SurveyOptions | AdviseOptions | CompareOptions
    debug: bool
    json: bool


def parse(argv: Sequence[str] | None, from_shell: bool) -> Command:
    """Read the arguments of the command line; wrong ones end the process with 2.

    Args:
        argv: Arguments, those of the process by default.
        from_shell: Whether they are those of the process.
    """
    args = _parser().parse_args(argv)
    if args.command == "compare":
        return Command(CompareOptions(tuple(args.reports), args.out, args.overwrite, args.all), args.debug, args.json)
    common = {one.name: getattr(args, one.name) for one in fields(ModelOptions) if one.name != "from_shell"}
    common |= {"from_shell": from_shell, "mean": _tuple(args.mean), "std": _tuple(args.std)}
    if args.command == "advise":
        options = AdviseOptions(**common, out=args.out, impact_images=args.impact_images, tolerance=args.tolerance)
        return Command(options, args.debug, args.json)
    impact = None
    if args.command == "impact":
        labelled = not args.unlabelled and args.images != "sample"
        modes = tuple(args.mode)
        impact = ImpactOptions(modes, args.controls, args.metric, args.report, labelled, args.impact_images)
    survey = SurveyOptions(
        **common,
        out=args.out,
        layers=_tuple(args.layers),
        reference=args.reference,
        companion_images=args.companion_images,
        impact=impact,
    )
    return Command(survey, args.debug, args.json)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in words that a terminal shows and does not obey."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _parser() -> argparse.ArgumentParser:
    top = _Parser(
        "pan-callbacks",
        **texts.shape(
            texts.TOP,
            description="Finds the padding aware neurons (PANs) of a trained model, shows them,\n"
            "and measures what they are worth.",
        ),
    )
    top.add_argument("--version", action="version", version=f"pan_callbacks {__version__}")
    top.add_argument(
        "--print-completion",
        choices=SHELLS,
        action=PrintCompletion,
        help="print what that shell reads to complete words",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    scan = commands.add_parser("scan", help="find and picture the PANs of a model", **texts.shape(texts.SCAN))
    _add_survey(scan)
    scan.set_defaults(command="scan")

    impact = commands.add_parser("impact", help="the same, and what masking them changes", **texts.shape(texts.IMPACT))
    _add_survey(impact, seed="of images and controls")
    more = impact.add_argument_group("impact")
    more.add_argument(
        "--mode",
        nargs="+",
        metavar="MODE",
        choices=MODES,
        default=["zero", "mean", "neutral"],
        help="zero: PANs silenced; mean: fixed at their mean; neutral: blinded to the padding (default: these three); "
        "neutral-mean: padded with the mean of each channel",
    )
    more.add_argument("--controls", type=_whole(0), default=5, help="random draws of other neurons (default 5)")
    more.add_argument("--metric", help="a torchmetrics class, e.g. torchmetrics.classification.MulticlassF1Score")
    more.add_argument("--report", type=_path, help="pans.json of an earlier scan of this model, in place of a new one")
    more.add_argument("--unlabelled", action="store_true", help="images without classes: only what predictions do")
    more.add_argument("--impact-images", type=_whole(1), help="images to predict at most (default all)")
    impact.set_defaults(command="impact")

    advise = commands.add_parser(
        "advise",
        help="one paragraph: keep the padding, blind the model to it, or retrain",
        **texts.shape(
            texts.ADVISE, description="Measures what the padding of a model does, and says what to do about it."
        ),
    )
    what, _ = _add_common(advise)
    advise.add_argument("--out", type=_path, help="folder for advice.json (default: the terminal alone)")
    what.add_argument(
        "--impact-images", type=_whole(1), default=1024, help="images whose answers are compared at most (default 1024)"
    )
    what.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="what is small: of changed classes, of a loss of accuracy (default 0.01, one in a hundred)",
    )
    advise.set_defaults(command="advise", devices=1, num_nodes=1)

    compare = commands.add_parser(
        "compare", help="several reports side by side, and which PANs came and went", **texts.shape(texts.COMPARE)
    )
    compare.add_argument("reports", nargs="+", type=_path, metavar="REPORT", help="a folder that scan or impact wrote")
    compare.add_argument("--out", type=_path, help="folder for compare.csv and report.html")
    compare.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    compare.add_argument("--all", action="store_true", help="show equal rows, and every neuron that changed")
    _add_saying(compare)
    compare.set_defaults(command="compare")
    return top


def _add_survey(parser: argparse.ArgumentParser, seed: str = "of images") -> None:
    """Add the options of scan and impact; what the seed is of is said in words."""
    what, how = _add_common(parser, seed)
    parser.add_argument("--out", required=True, type=_path, help="folder for pans.json, pans.csv, figures, report.html")
    what.add_argument("--layers", nargs="+", metavar="GLOB", help="layers to look at (default all)")
    what.add_argument(
        "--reference",
        choices=REFERENCES,
        help="of the contrast (default crop)",
    )
    what.add_argument(
        "--companion-images",
        type=_whole(0),
        default=64,
        help="images for the other measures and the floor of the count (default 64, 0: none)",
    )
    how.add_argument("--devices", type=_whole(1), default=1, help="processes, one a device (default 1)")
    how.add_argument("--num-nodes", type=_whole(1), default=1, help="machines, each started as Lightning's docs say")


def _add_saying(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add what every command has: in which form it says what it has to say."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")


def _add_common(
    parser: argparse.ArgumentParser, seed: str = "of images"
) -> tuple[argparse._ArgumentGroup, argparse._ArgumentGroup]:
    """Add the options of every command that runs a model; return the groups of what is measured, and how."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--images", required=True, help="a folder, or 'sample': crops of scikit-image's pictures")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--weights", default="default", help="default, none, a package or a checkpoint (see below)")
    parser.add_argument("--num-classes", type=_whole(1), help="outputs, where the weights do not tell")
    parser.add_argument("--size", type=_whole(1), help="height and width of the images (default: the model's own)")
    parser.add_argument(
        "--mean", type=float, nargs="+", help="of each channel, of images from 0 to 1 (default: the model's)"
    )
    parser.add_argument("--std", type=float, nargs="+", help="deviation of each channel (default: the model's)")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--threshold", type=float, help="contrast of a PAN (default 0.8)")
    what.add_argument("--max-images", type=_whole(1), default=256, help="images to scan at most (default 256)")
    what.add_argument(
        "--group-by",
        choices=("image", "folder"),
        default="image",
        help="what intervals count as one: each image, or the images of a folder (crops, a patient's scans)",
    )
    what.add_argument("--seed", type=_whole(0, 2**31), default=0, help=f"{seed} (default 0)")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=_whole(1), default=32, help="images in a forward (default 32)")
    how.add_argument(
        "--workers", type=_whole(0, 256), default=0, help="processes that read images (default 0: this one)"
    )
    how.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, ... (as Lightning's Trainer)")
    how.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    _add_saying(how)
    return what, how


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
