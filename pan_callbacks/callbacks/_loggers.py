"""One table: logger class -> how it shows a figure, a histogram, a text.

Lightning's loggers share an API for numbers and none for anything else. Loggers are known by their classes' names,
so ``pytorch_lightning``, ``lightning.pytorch`` and their subclasses all match, and neither is imported here. To teach
the package another logger, add one entry to ``_TABLE``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pan_callbacks.figures.style import pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Category to title to a kind of chart and the tags of its curves.
Layout = dict[str, dict[str, list[Any]]]
_CURVES = 6  # curves in one chart at most, as TensorBoard has no more colours that are told apart


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


def show_histogram(logger: Any, tag: str, values: Tensor, step: int) -> bool:
    """Show the distribution of values; those that are not finite are left out, and nothing is shown if none is.

    Args:
        logger: A Lightning logger.
        tag: Name of the histogram.
        values: Tensor of any shape.
        step: The Trainer's step.

    Returns:
        Whether the logger can; False also if :func:`is_silent`.
    """
    return _show(logger, "histogram", tag, values, step)


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


def scalar_layout(layer_names: Sequence[str], sides: Sequence[str]) -> Layout:
    r"""Return the charts of the "custom scalars" page: related curves together, for all that ``PANMonitor`` logs.

    Tags are regular expressions that TensorBoard matches from the start of a tag; the ``$`` keeps ``conv1`` from
    taking in ``conv10``. Layers that would crowd one chart are spread over several, in order.

    Args:
        layer_names: Names of the measured layers.
        sides: Names of the sides.

    Example:
        >>> layout = scalar_layout(["layer1.0.conv1"], ["top"])
        >>> layout["Padding aware neurons by layer"]["all layers"]
        ['Multiline', ['pan_layer/layer1\\.0\\.conv1$']]
    """
    return {
        "Padding aware neurons": {
            "count": ["Margin", ["pan/count", "pan/count_low", "pan/count_high"]],
            "reliance on padding": _chart("padding/", ("reliance", "flips")),
            "of these": _chart("pan/", ("count", "visible", "nascent", "inherited", "both", "neither")),
            "reads the padding": _chart("pan/", ("reads_padding", "count")),
            "born and gone": _chart("pan/", ("born", "gone")),
            "at edges": _chart("pan_side/", [side for side in sides if "-" not in side]),
            "at corners": _chart("pan_side/", [side for side in sides if "-" in side]),
        },
        "Padding aware neurons by layer": _charts("pan_layer/", layer_names),
        "Border bias": {"mean": _chart("border_bias/", ("mean",)), **_charts("border_bias/", layer_names)},
    }


def _charts(group: str, names: Sequence[str]) -> dict[str, list[Any]]:
    chunks = [names[start : start + _CURVES] for start in range(0, len(names), _CURVES)]
    if len(chunks) == 1:
        return {"all layers": _chart(group, names)}
    return {f"{chunk[0]} … {chunk[-1]}": _chart(group, chunk) for chunk in chunks}


def _chart(group: str, names: Sequence[str]) -> list[Any]:
    return ["Multiline", [re.escape(group + name) + "$" for name in names]]


def _names(thing: Any) -> list[str]:
    return [kind.__name__ for kind in type(thing).__mro__]


def _entry(logger: Any) -> dict[str, Callable[..., None]] | None:
    return next((_TABLE[name] for name in _names(logger) if name in _TABLE), None)


def _show(logger: Any, what: str, *args: Any) -> bool:
    entry = _entry(logger)
    if entry is None or what not in entry or is_silent(logger):
        return False
    entry[what](logger, *args)
    return True


def _finite(values: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    numbers = values.detach().float().flatten()
    return numbers[numbers.isfinite()].cpu().numpy()


# Lightning puts a logger's prefix before the tags of numbers; what is shown here goes by the same names.


def _tensorboard_prefix(logger: Any) -> str:
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{logger.LOGGER_JOIN_CHAR}" if prefix else ""


def _tensorboard_figure(logger: Any, tag: str, figure: Figure, step: int) -> None:
    logger.experiment.add_image(_tensorboard_prefix(logger) + tag, pixels(figure), step, dataformats="HWC")


def _tensorboard_histogram(logger: Any, tag: str, values: Tensor, step: int) -> None:
    numbers = _finite(values)
    if numbers.size:
        logger.experiment.add_histogram(_tensorboard_prefix(logger) + tag, numbers, step)


def _tensorboard_text(logger: Any, tag: str, markdown: str, step: int) -> None:
    logger.experiment.add_text(_tensorboard_prefix(logger) + tag, markdown, step)


def _tensorboard_layout(logger: Any, layout: Layout) -> None:
    own = _tensorboard_prefix(logger)
    prefixes = {"Multiline": re.escape(own), "Margin": own}  # the tags of the latter are no expressions
    logger.experiment.add_custom_scalars(
        {
            category: {title: [kind, [prefixes[kind] + tag for tag in tags]] for title, (kind, tags) in charts.items()}
            for category, charts in layout.items()
        }
    )


# ``log_metrics`` takes W&B's media as it takes numbers, and adds the prefix and the step that the other curves have.


def _wandb_figure(logger: Any, tag: str, figure: Figure, step: int) -> None:
    import wandb
    from PIL import Image

    logger.log_metrics({tag: wandb.Image(Image.fromarray(pixels(figure)))}, step)


def _wandb_histogram(logger: Any, tag: str, values: Tensor, step: int) -> None:
    import wandb

    numbers = _finite(values)
    if numbers.size:
        logger.log_metrics({tag: wandb.Histogram(numbers.tolist())}, step)


def _wandb_text(logger: Any, tag: str, markdown: str, step: int) -> None:
    import wandb

    logger.log_metrics({tag: wandb.Html(f"<pre>{html.escape(markdown)}</pre>")}, step)


_TABLE: dict[str, dict[str, Callable[..., None]]] = {
    "TensorBoardLogger": {
        "figure": _tensorboard_figure,
        "histogram": _tensorboard_histogram,
        "text": _tensorboard_text,
        "layout": _tensorboard_layout,
    },
    "WandbLogger": {"figure": _wandb_figure, "histogram": _wandb_histogram, "text": _wandb_text},
}
