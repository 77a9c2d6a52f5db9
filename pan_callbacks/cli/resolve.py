"""What the command line works on: folders, images, reports and metrics, from the words of the user."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

from torch import nn
from torchmetrics import Metric

from pan_callbacks.cli.options import ModelOptions, SurveyOptions
from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.layers import check_fits, convolutions, select
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.sources.images import FIGURES, ImageSource
from pan_callbacks.sources.models import LoadedModel, load_model
from pan_callbacks.sources.preprocessing import Preprocessing


@dataclass(frozen=True)
class Job:
    """What the command line works on.

    Args:
        options: What is asked.
        settings: Of the scan.
        loaded: The model.
        sources: Images: ``"scan"``, and ``"impact"`` if it is asked for.
        known: An earlier report, in place of a new scan.
        metric: In place of accuracy.
    """

    options: SurveyOptions
    settings: Settings
    loaded: LoadedModel
    sources: Mapping[str, ImageSource]
    known: PANReport | None = None
    metric: Metric | None = None

    @property
    def class_names(self) -> list[str] | None:
        """Names of the model's outputs, as far as they are known."""
        return class_names(self.sources["impact"].classes, self.loaded.outputs)


def assumptions(loaded: LoadedModel, options: ModelOptions) -> list[str]:
    """Return what is taken for granted of a model, for want of better knowledge."""
    found = []
    if not loaded.configured and options.weights == "default":
        found.append(f"weights are {loaded.weights}: --weights FILE takes trained ones")
    given = {"size": options.size, "mean": options.mean, "std": options.std}
    missing = [name for name, value in given.items() if value is None]
    if not loaded.configured and missing:
        height, width = loaded.preprocessing.size
        found.append(
            f"the model does not say what images it expects: {height}×{width} px, with ImageNet's mean and "
            f"deviation where there is no --{', --'.join(missing)}"
        )
    return found


def resolve(options: SurveyOptions) -> Job:
    """Load the model, and find the images, the report and the metric that were asked for.

    Whatever can be refused is refused here, before anything is measured and before the folder is made.

    Args:
        options: What is asked.

    Raises:
        UsageError: If something was asked for that does not exist or makes no sense.
        PANError: If something cannot be loaded.
    """
    impact = options.impact
    check_out(options.out, options.overwrite, inputs=[impact.report] if impact and impact.report else [])
    if impact and impact.metric and not impact.labelled:
        raise UsageError(f"--metric {impact.metric} needs labels, which --unlabelled and the sample images have not")
    new_scan = options.layers, options.reference, options.threshold
    if impact and impact.report and any(given is not None for given in new_scan):
        raise UsageError("--report is of a scan that was made: --layers, --reference and --threshold are for a new one")
    threshold = threshold_of(options)
    labelled = impact is not None and impact.labelled
    check_images(options, labelled)
    loaded = model_of(options)
    check_layers(loaded.model, options.layers)
    metric = metric_of(impact.metric, loaded.outputs) if impact else None
    known = read_report(impact.report, loaded.model) if impact and impact.report else None
    sources = {"scan": image_source(options, loaded, options.max_images, labelled)}
    if impact:
        sources["impact"] = image_source(options, loaded, impact.max_images, labelled)
    check_apart(options.out, sources["scan"].folders)
    check_shares(sources, options.processes)
    settings = Settings(options.layers, options.reference or "crop", threshold, len(sources["scan"]))
    return Job(options, settings, loaded, sources, known, metric)


def threshold_of(options: ModelOptions) -> float:
    """Return the contrast of a PAN; UsageError if there is no such contrast."""
    threshold = 0.8 if options.threshold is None else options.threshold
    if not 0 < threshold < 1:
        raise UsageError(f"--threshold {threshold:g} is not in (0, 1)")
    return threshold


def model_of(options: ModelOptions) -> LoadedModel:
    """Load the model that was asked for, with the mean and deviation that were."""
    asked = options.model, options.weights, options.num_classes, options.size
    return normalised(load_model(*asked, progress=options.shows_progress), options)


def check_images(options: ModelOptions, labelled: bool) -> None:
    """Raise what is wrong with ``--images``, as far as no model is needed to see it: before weights are loaded.

    Args:
        options: What is asked.
        labelled: Whether there has to be a folder for each class.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come once more, when the images are taken
        _images(options, Preprocessing(), None, 1, labelled)


def check_out(out: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Raise UsageError if a report cannot be written to a folder, or would replace what it is made of.

    Args:
        out: The folder.
        overwrite: Whether it may hold something.
        inputs: Reports that are read, or their folders.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    for path in inputs:
        folder = path if path.is_dir() else path.parent
        if folder.resolve() == out.resolve():
            raise UsageError(f"--out {out} is where the report {path} is read from: give another folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(f"--out {out} is not empty: give another folder, or --overwrite to replace its report")
    if (out / FIGURES).exists() and not (out / FIGURES).is_dir():
        raise UsageError(f"--out {out} has a file {FIGURES}, where figures belong: give another folder")


def check_apart(out: Path, images: Iterable[Path]) -> None:
    """Raise UsageError if figures would lie among the images: the next run would take them for some.

    Args:
        out: The folder to write to.
        images: Folders that images are looked for in, links resolved.
    """
    looked_at = set(images)
    for place in (out.resolve(), (out / FIGURES).resolve()):
        for folder in (place, *place.parents):
            if folder in looked_at:
                raise UsageError(
                    f"--out {out} lies within --images, in {folder}: the next run would take its figures for images; "
                    "give a folder elsewhere"
                )


def make_out(out: Path) -> None:
    """Make the folder to write to, and write to it, before long work and not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror}") from error
    try:
        TemporaryFile(dir=out).close()
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written to: {error.strerror}") from error


def read_report(path: Path, model: nn.Module) -> PANReport:
    """Read an earlier report, of a model with the same layers.

    Args:
        path: The file, or the folder that it was written to.
        model: The model.
    """
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


def normalised(loaded: LoadedModel, options: ModelOptions) -> LoadedModel:
    """Return the model with the mean and deviation that were asked for."""
    channels = loaded.preprocessing.channels
    given: dict[str, tuple[float, ...]] = {}
    for name, values in (("mean", options.mean), ("std", options.std)):
        if values is None:
            continue
        if len(values) not in (1, channels):
            raise UsageError(f"--{name} has {len(values)} values for {channels} channels")
        if not all(map(math.isfinite, values)):
            raise UsageError(f"--{name} {' '.join(f'{value:g}' for value in values)} is not finite")
        if name == "std" and min(values) <= 0:
            raise UsageError(f"--std {min(values):g} is not positive")
        given[name] = values * channels if len(values) == 1 else values
    preprocessing = loaded.preprocessing
    mean, std = given.get("mean", preprocessing.mean), given.get("std", preprocessing.std)
    return replace(loaded, preprocessing=replace(preprocessing, mean=mean, std=std)) if given else loaded


def check_layers(model: nn.Module, layers: Sequence[str] | None) -> None:
    """Raise UsageError if a glob matches nothing."""
    try:
        select(model, layers)
    except PANError as error:
        raise UsageError(f"--{error}") from error


def image_source(options: ModelOptions, loaded: LoadedModel, limit: int | None, labelled: bool) -> ImageSource:
    """Return the images of ``--images``, as the model expects them."""
    return _images(options, loaded.preprocessing, loaded.outputs if labelled else None, limit, labelled)


def _images(
    options: ModelOptions, preprocessing: Preprocessing, outputs: int | None, limit: int | None, labelled: bool
) -> ImageSource:
    from pan_callbacks.sources.images import folder_images
    from pan_callbacks.sources.sample import sample_images

    if options.images == "sample":
        return sample_images(limit or 256, preprocessing, options.batch_size, options.seed)
    if not options.images or not Path(options.images).is_dir():
        raise UsageError(f"--images {options.images!r}: no such folder (or give 'sample')")
    return folder_images(
        options.images,
        preprocessing,
        options.batch_size,
        limit,
        labelled=labelled,
        outputs=outputs,
        workers=options.workers,
        seed=options.seed,
        by_folder=options.group_by == "folder",
    )


def check_shares(sources: Mapping[str, ImageSource], processes: int) -> None:
    """Raise UsageError if there is not something to do for every process; seen before any is started."""
    for source in sources.values():
        if -(-len(source) // source.batch_size) < processes:
            raise UsageError(
                f"{len(source)} images in batches of {source.batch_size} are too few for {processes} processes: "
                "lower --batch-size or --devices"
            )


def class_names(folders: Sequence[str] | None, outputs: int | None) -> list[str] | None:
    """Return names of the model's outputs: ImageNet's if it has as many outputs, else those of the class folders."""
    if outputs is None:
        return None
    names = [f"class {i}" for i in range(outputs)]
    if outputs == 1000 and (folders is None or all(name[:1] == "n" and name[1:].isdecimal() for name in folders)):
        from timm.data.imagenet_info import ImageNetInfo

        names = [name.split(",")[0] for name in ImageNetInfo().label_descriptions()]
    elif folders is not None:
        from pan_callbacks.sources.images import class_indices

        for folder, index in zip(folders, class_indices(folders, outputs), strict=True):
            names[index] = folder
    return names


def metric_of(path: str | None, outputs: int | None) -> Metric | None:
    """Return a torchmetrics metric by the name of its class, with the number of classes if it asks for it."""
    if path is None:
        return None
    import importlib
    import inspect

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
