"""What the command line works on: folders, images, reports and metrics, from the words of the user."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pan_callbacks.errors import PANError, UsageError


def check_out(out: Path, overwrite: bool) -> None:
    """Raises UsageError where a report cannot be written to, or something else is there."""
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"--out {out} is not empty: give another folder, or --overwrite to replace its report")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")


def make_out(out: Path) -> None:
    """Makes the folder to write to, before long work and not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}") from error


def read_report(path: Path, model: Any):
    """An earlier report, of a model with the same layers.

    Args:
        path: The file, or the folder that it was written to.
        model: The model.
    """
    from pan_callbacks.layers import check_fits, convolutions
    from pan_callbacks.reports.pan_report import PANReport

    file = path / "pans.json" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"--report {path}: there is no pans.json")
    report, found = PANReport.load(file), convolutions(model)
    for name, line in report.layers.items():
        try:
            check_fits(found, name, [line.channels - 1])
        except PANError as error:
            raise PANError(f"--report {path}: {error}") from error
    return report


def normalised(loaded: Any, args: argparse.Namespace):
    """The model with the mean and deviation that were asked for."""
    given = {name: tuple(values) for name in ("mean", "std") if (values := getattr(args, name)) is not None}
    channels = loaded.preprocessing.channels
    for name, values in given.items():
        if len(values) not in (1, channels):
            raise UsageError(f"--{name} has {len(values)} values for {channels} channels")
        if name == "std" and min(values) <= 0:
            raise UsageError(f"--std {min(values):g} is not positive")
        given[name] = values * channels if len(values) == 1 else values
    return replace(loaded, preprocessing=replace(loaded.preprocessing, **given)) if given else loaded


def assumptions(loaded: Any, args: argparse.Namespace) -> list[str]:
    """What is taken for granted, for want of better knowledge."""
    found = []
    if not loaded.configured and args.weights == "default":
        found.append(f"weights are {loaded.weights}: --weights FILE takes trained ones")
    if not loaded.configured:
        given = [name for name in ("size", "mean", "std") if getattr(args, name) is None]
        if given:
            height, width = loaded.preprocessing.size
            found.append(
                f"the model does not say what images it expects: {height}×{width} px, with ImageNet's mean and "
                f"deviation where there is no --{', --'.join(given)}"
            )
    return found


def check_layers(model: Any, layers: Sequence[str] | None) -> None:
    """Raises UsageError where a glob matches nothing."""
    from pan_callbacks.layers import select

    try:
        select(model, layers)
    except PANError as error:
        raise UsageError(f"--{error}") from error


def image_source(args: argparse.Namespace, loaded: Any, limit: int | None, labelled: bool):
    """The images of ``--images``, as the model expects them."""
    from pan_callbacks.sources.images import folder_images, sample_images

    if args.images == "sample":
        return sample_images(limit or 256, loaded.preprocessing, args.batch_size, args.seed)
    if not args.images or not Path(args.images).is_dir():
        raise UsageError(f"--images {args.images!r}: no such folder (or give 'sample')")
    outputs = loaded.outputs if labelled else None
    options = {"workers": args.workers, "seed": args.seed}
    return folder_images(
        args.images, loaded.preprocessing, args.batch_size, limit, labelled=labelled, outputs=outputs, **options
    )


def check_shares(sources: dict[str, Any], processes: int) -> None:
    """Raises UsageError where there is not something to do for every process; seen before any is started."""
    for source in sources.values():
        if -(-len(source) // source.batch_size) < processes:
            raise UsageError(
                f"{len(source)} images in batches of {source.batch_size} are too few for {processes} processes: "
                "lower --batch-size or --devices"
            )


def class_names(folders: Sequence[str] | None, outputs: int | None) -> list[str] | None:
    """Names of the model's outputs: ImageNet's where it has as many outputs, else those of the class folders."""
    if outputs is None:
        return None
    names = [f"class {i}" for i in range(outputs)]
    if outputs == 1000 and (folders is None or all(name[:1] == "n" and name[1:].isdecimal() for name in folders)):
        from timm.data import ImageNetInfo

        names = [name.split(",")[0] for name in ImageNetInfo().label_descriptions()]
    elif folders is not None:
        from pan_callbacks.sources.images import class_indices

        for folder, index in zip(folders, class_indices(folders, outputs), strict=True):
            names[index] = folder
    return names


def metric_of(path: str | None, outputs: int | None):
    """A torchmetrics metric by the name of its class, told the number of classes if it asks for it."""
    if path is None:
        return None
    import importlib
    import inspect

    from torchmetrics import Metric

    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module or "torchmetrics"), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        example = "torchmetrics.classification.MulticlassF1Score"
        raise UsageError(f"--metric {path}: {error}; give a class with its module, like {example}") from error
    if not (isinstance(kind, type) and issubclass(kind, Metric)):
        raise UsageError(f"--metric {path} is no torchmetrics metric")
    known = {"num_classes": outputs, "num_labels": outputs, "task": "multiclass"}
    wanted = inspect.signature(kind.__new__ if "__new__" in vars(kind) else kind).parameters
    try:
        return kind(**{key: value for key, value in known.items() if key in wanted})
    except (TypeError, ValueError) as error:
        raise UsageError(f"--metric {path} cannot be made: {error}") from error
