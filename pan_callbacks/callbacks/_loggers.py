"""One table: logger class -> how it shows a figure, a histogram, a text, and what it calls a number.

Lightning's loggers share an API for numbers and none for anything else. Loggers are known by their classes' names,
so ``pytorch_lightning``, ``lightning.pytorch`` and their subclasses all match, and neither is imported here. To teach
the package another logger, add one entry to ``_TABLE``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pan_callbacks.callbacks import _other_loggers as other
from pan_callbacks.callbacks import _tensorboard as board
from pan_callbacks.callbacks._tensorboard import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def can_show(logger: Any) -> bool:
    """Return whether a logger shows anything but numbers, in this process.

    Args:
        logger: A Lightning logger.
    """
    return _entry(logger) is not None and not is_silent(logger)


def is_silent(logger: Any) -> bool:
    """Return whether a logger throws away whatever it is given, so that nothing need be said of what it cannot show.

    That is the ``DummyLogger`` of ``fast_dev_run``, and every logger on a rank other than zero.

    Args:
        logger: A Lightning logger.
    """
    if "DummyLogger" in _names(logger):
        return True
    return _entry(logger) is not None and "_DummyExperiment" in _names(logger.experiment)


def show_figure(logger: Any, tag: str, figure: Figure, step: int) -> bool:
    """Show a figure as an image.

    Args:
        logger: A Lightning logger.
        tag: Name of the image, with ``/`` between group and name.
        figure: What to draw.
        step: The Trainer's step.

    Returns:
        Whether the logger can; False also if :func:`is_silent`.
    """
    return _show(logger, "figure", tag, figure, step)


def show_contrasts(logger: Any, tag: str, contrasts: Tensor, step: int, threshold: float) -> bool:
    """Show contrasts as a histogram; those that are not finite are left out, and nothing is shown if none is.

    Args:
        logger: A Lightning logger.
        tag: Name of the histogram.
        contrasts: Tensor of any shape, -1 to 1.
        step: The Trainer's step.
        threshold: Absolute contrast from which a neuron is a PAN, which is said where there is room.

    Returns:
        Whether the logger can; False also if :func:`is_silent`.
    """
    return _show(logger, "contrasts", tag, contrasts, step, threshold)


def show_text(logger: Any, tag: str, markdown: str, step: int) -> bool:
    """Show a text; TensorBoard renders the markdown, Weights & Biases shows it as it is.

    Args:
        logger: A Lightning logger.
        tag: Name of the text.
        markdown: The text.
        step: The Trainer's step.

    Returns:
        Whether the logger can; False also if :func:`is_silent`.
    """
    return _show(logger, "text", tag, markdown, step)


def show_layout(logger: Any, layout: Layout) -> bool:
    """Lay out the "custom scalars" page; TensorBoard alone has one.

    Args:
        logger: A Lightning logger.
        layout: What :func:`scalar_layout` returns.

    Returns:
        Whether the logger can; False also if :func:`is_silent`.
    """
    return _show(logger, "layout", layout)


def show_settings(logger: Any, settings: Mapping[str, Any], metrics: Sequence[str]) -> bool:
    """Describe a run by its settings, and name the scalars that runs are compared by; TensorBoard has a page for that.

    Args:
        logger: A Lightning logger.
        settings: Numbers, words and truths by name.
        metrics: Public tags of scalars.

    Returns:
        Whether the logger can; False also if :func:`is_silent`.
    """
    return _show(logger, "settings", settings, metrics)


def tag_in(logger: Any, tag: str) -> str:
    """Return the tag under which a logger has a figure: the public one, but in TensorBoard, where groups are sorted.

    Args:
        logger: A Lightning logger.
        tag: The public tag.
    """
    tag_of: Callable[[str], str] = (_entry(logger) or {}).get("tag", str)
    return tag_of(tag)


def _names(thing: Any) -> list[str]:
    return [kind.__name__ for kind in type(thing).__mro__]


def _entry(logger: Any) -> dict[str, Callable[..., Any]] | None:
    return next((_TABLE[name] for name in _names(logger) if name in _TABLE), None)


def _show(logger: Any, what: str, *args: Any) -> bool:
    entry = _entry(logger)
    if entry is None or what not in entry or is_silent(logger):
        return False
    entry[what](logger, *args)
    return True


_TABLE: dict[str, dict[str, Callable[..., Any]]] = {
    "TensorBoardLogger": {
        "tag": board.board_tag,
        "figure": board.show_figure,
        "contrasts": board.show_contrasts,
        "text": board.show_text,
        "layout": board.show_layout,
        "settings": board.show_settings,
    },
    "WandbLogger": {"figure": other.wandb_figure, "contrasts": other.wandb_contrasts, "text": other.wandb_text},
    "MLFlowLogger": {"figure": other.mlflow_figure, "text": other.mlflow_text},
    "CometLogger": {"figure": other.comet_figure, "contrasts": other.comet_contrasts, "text": other.comet_text},
    "NeptuneLogger": {"figure": other.neptune_figure, "text": other.neptune_text},
}
