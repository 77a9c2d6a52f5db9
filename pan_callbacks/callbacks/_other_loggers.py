"""What loggers other than TensorBoard are given beside Lightning's scalars, each in its own service's words."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pan_callbacks.figures.style import finite, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

#: Edges of the bars of a histogram of contrasts; usual thresholds are among them.
CONTRASTS = np.linspace(-1, 1, 41)


def prefixed(logger: Any, tag: str) -> str:
    """Return a tag behind the prefix that Lightning puts before the tags of a logger's numbers."""
    prefix = getattr(logger, "_prefix", "")
    return f"{prefix}{logger.LOGGER_JOIN_CHAR}{tag}" if prefix else tag


def _image(figure: Figure) -> Image:
    from PIL import Image

    return Image.fromarray(pixels(figure))


# W&B: ``log_metrics`` takes its media as it takes numbers, and adds the prefix and the step that the curves have.


def wandb_figure(logger: Any, tag: str, figure: Figure, step: int) -> None:
    """Log a figure as an image."""
    import wandb

    logger.log_metrics({tag: wandb.Image(_image(figure))}, step)


def wandb_contrasts(logger: Any, tag: str, contrasts: Tensor, step: int, threshold: float) -> None:
    """Log a histogram, which has no room for words."""
    import wandb

    numbers = finite(contrasts)
    if numbers.size:
        bars = np.histogram(numbers, CONTRASTS)
        logger.log_metrics({tag: wandb.Histogram(np_histogram=bars)}, step)


def wandb_text(logger: Any, tag: str, markdown: str, step: int) -> None:
    """Log a text as it is."""
    import wandb

    logger.log_metrics({tag: wandb.Html(f"<pre>{html.escape(markdown)}</pre>")}, step)


# MLflow: images of one key are a series over steps (mlflow 2.11 or later); a text is a file among the artifacts.


def mlflow_figure(logger: Any, tag: str, figure: Figure, step: int) -> None:
    """Log a figure as one of a series of images."""
    logger.experiment.log_image(logger.run_id, _image(figure), key=prefixed(logger, tag), step=step)


def mlflow_text(logger: Any, tag: str, markdown: str, step: int) -> None:
    """Keep a text as an artifact, a file a step."""
    logger.experiment.log_text(logger.run_id, markdown, f"{prefixed(logger, tag)}/step_{step}.md")


# Comet


def comet_figure(logger: Any, tag: str, figure: Figure, step: int) -> None:
    """Log a figure as an image."""
    logger.experiment.log_image(_image(figure), name=prefixed(logger, tag), step=step)


def comet_contrasts(logger: Any, tag: str, contrasts: Tensor, step: int, threshold: float) -> None:
    """Log a histogram."""
    numbers = finite(contrasts)
    if numbers.size:
        name, known = prefixed(logger, tag), {"threshold": threshold}
        logger.experiment.log_histogram_3d(numbers, name=name, step=step, metadata=known)


def comet_text(logger: Any, tag: str, markdown: str, step: int) -> None:
    """Log a text."""
    logger.experiment.log_text(markdown, step=step, metadata={"name": prefixed(logger, tag)})


# Neptune, whose logger Lightning has up to 2.5


def neptune_figure(logger: Any, tag: str, figure: Figure, step: int) -> None:
    """Add a figure to a series of images."""
    from neptune.types import File

    logger.experiment[_neptune_path(logger, tag)].append(File.as_image(_image(figure)), step=step)


def neptune_text(logger: Any, tag: str, markdown: str, step: int) -> None:
    """Add a text to a series."""
    logger.experiment[_neptune_path(logger, tag)].append(markdown, step=step)


def _neptune_path(logger: Any, tag: str) -> str:
    return "/".join(part for part in (getattr(logger, "_prefix", ""), tag) if part)
