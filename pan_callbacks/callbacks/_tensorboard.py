"""What TensorBoard is given beside Lightning's scalars: pictures, histograms, texts, charts, settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pan_callbacks.callbacks._other_loggers import CONTRASTS, prefixed
from pan_callbacks.figures.style import finite, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Category to title to a kind of chart and the tags of its curves.
Layout = dict[str, dict[str, list[Any]]]
_CURVES = 6  # curves in one chart at most, as TensorBoard has no more colours that are told apart


def board_tag(tag: str) -> str:
    """Return the tag of a figure in TensorBoard: there the border bias of layers has a group of its own.

    TensorBoard sorts groups by name and opens the first, which would be a chart for every layer of a large network.

    Args:
        tag: Its public tag, which it has in every other logger and in ``trainer.callback_metrics``.

    Example:
        >>> board_tag("border_bias/mean"), board_tag("border_bias/layer1.conv1"), board_tag("pan/count")
        ('border_bias/mean', 'border_bias_layer/layer1.conv1', 'pan/count')
    """
    group, _, name = tag.partition("/")
    of_a_layer = group.rstrip("0123456789") == "border_bias" and name != "mean"
    return f"{group}_layer/{name}" if of_a_layer else tag


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
    return ["Multiline", [re.escape(board_tag(group + name)) + "$" for name in names]]


def show_figure(logger: Any, tag: str, figure: Figure, step: int) -> None:
    """Show a figure as an image."""
    logger.experiment.add_image(prefixed(logger, tag), pixels(figure), step, dataformats="HWC")


def show_contrasts(logger: Any, tag: str, contrasts: Tensor, step: int, threshold: float) -> None:
    """Show contrasts as a histogram; its title names the threshold, and the mark beside it says what is seen."""
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR
    from tensorboard.plugins.histogram.metadata import create_summary_metadata
    from torch.utils.tensorboard.summary import histogram

    numbers = finite(contrasts)
    if not numbers.size:
        return
    summary = histogram(prefixed(logger, tag), numbers, CONTRASTS)  # type: ignore[no-untyped-call]
    title = f"{prefixed(logger, tag)} (PANs: beyond ±{threshold:g})"
    about = (
        f"Contrast of each neuron on each side: how well one cut tells its activations at the border from those of the "
        f"reference. 0: not at all; +1 or -1: always, excited or inhibited. Beyond ±{threshold:g}, the threshold, a "
        f"neuron is a PAN, if it is more than a corner that its edges do not confirm. One row a probe."
    )
    # the writer's own add_histogram has no words, and TensorBoard's fast loader none for data without a class
    words = create_summary_metadata(title, about)
    words.data_class = DATA_CLASS_TENSOR
    summary.value[0].metadata.CopyFrom(words)
    _file(logger).add_summary(summary, step)


def show_text(logger: Any, tag: str, markdown: str, step: int) -> None:
    """Show a text, rendered as markdown."""
    logger.experiment.add_text(prefixed(logger, tag), markdown, step)


def show_layout(logger: Any, layout: Layout) -> None:
    """Lay out the "custom scalars" page."""
    own = prefixed(logger, "")
    prefixes = {"Multiline": re.escape(own), "Margin": own}  # the tags of the latter are no expressions
    logger.experiment.add_custom_scalars(
        {
            category: {title: [kind, [prefixes[kind] + tag for tag in tags]] for title, (kind, tags) in charts.items()}
            for category, charts in layout.items()
        }
    )


def show_settings(logger: Any, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Describe the run on the "HParams" page: its settings, and which of its scalars are compared there.

    TensorBoard takes the first description of a run and no other, so that one that somebody else gave stays. The
    ``log_hyperparams`` of Lightning would log a scalar for each metric, at a step where nothing was measured.

    Args:
        logger: A TensorBoardLogger.
        settings: Numbers, words and truths by name.
        metrics: Public tags of scalars.
    """
    from torch.utils.tensorboard.summary import hparams

    names = dict.fromkeys([prefixed(logger, board_tag(tag)) for tag in metrics], 0.0)
    for summary in hparams(dict(settings), names):  # type: ignore[no-untyped-call]
        _file(logger).add_summary(summary)


def _file(logger: Any) -> Any:
    """Return what writes the event file, as Lightning itself does: no public way opens one that is closed."""
    return logger.experiment._get_file_writer()
