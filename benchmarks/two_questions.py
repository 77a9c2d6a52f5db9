"""Draws docs/two_questions.png: a neuron that recognises the border, and one that reads the padding all the same.

python -m benchmarks.two_questions
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pan_callbacks import PANReport, scan
from pan_callbacks.analysis.paired_maps import paired_lines
from pan_callbacks.figures.style import BORDER, LARGE, NORMAL, REFERENCE, SMALL, new_figure
from tests.support import real

OUT = Path("docs/two_questions.png")
SHOWN = 60  # pairs of pixels that are drawn


def candidates(report: PANReport) -> tuple[tuple[str, int], tuple[str, int]]:
    """A certain PAN of the top, and a neuron that the top pushes the same way everywhere and that is far from a PAN."""
    pan = next(pan for pan in report.strongest() if pan.certain and pan.side == ("top",) and pan.reads_padding)
    best, neuron = 0.0, ("", 0)
    for name, line in report.measured.items():
        if line.consistency is None or line.contrast is None or line.shift is None:
            continue
        weak = (line.contrast[0].abs() < 0.35) & (line.shift[0].abs() > 0.3)
        size = torch.where(weak, line.consistency[0].abs(), 0.0).nan_to_num(0.0)
        if float(size.max()) > best:
            best, neuron = float(size.max()), (name, int(size.argmax()))
    return (pan.layer, pan.channel), neuron


def main() -> None:
    """Draw the figure."""
    torch.set_num_threads(1)
    model, images = real.efficientnet_lite0(), real.natural_images(64)
    report = scan(model, images.split(16), progress=False)
    neurons = candidates(report)
    lines = dict(paired_lines(model, images.split(16), report))
    figure = new_figure(9.0, 5.4)
    axes = figure.subplots(2, 2)
    for row, ((name, channel), words) in enumerate(zip(neurons, ("recognises it", "reads it alone"), strict=True)):
        border, reference = (
            of["top", 0][:, :, channel].flatten() for of in (lines[name].border, lines[name].reference)
        )
        line = report.layers[name]
        assert line.contrast is not None and line.consistency is not None
        _distributions(axes[row, 0], border, reference, float(line.contrast[0, channel]))
        _pairs(axes[row, 1], border, reference, float(line.consistency[0, channel]))
        axes[row, 0].set_ylabel(f"{name}, channel {channel}:\n{words}", fontsize=NORMAL)
    axes[0, 0].set_title("Does one threshold tell border from inside?\n(contrast)", fontsize=NORMAL)
    axes[0, 1].set_title("Does padding push the same pixel the same way?\n(consistency)", fontsize=NORMAL)
    figure.suptitle("Two questions, two answers: EfficientNet-Lite0, top row", fontsize=LARGE)
    figure.savefig(OUT, dpi=110)
    print(OUT, neurons)


def _distributions(axes, border: Tensor, reference: Tensor, contrast: float) -> None:  # type: ignore[no-untyped-def]
    bins = torch.linspace(*torch.cat([border, reference]).aminmax(), 40).tolist()
    for values, color, label in ((reference, REFERENCE, "same pixels inside"), (border, BORDER, "at the border")):
        axes.hist(values.tolist(), bins, color=color, alpha=0.6, label=label, density=True)
    axes.set_yticks([])
    axes.set_ylim(0, 1.45 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=SMALL, frameon=False, title=f"contrast {contrast:+.2f}", title_fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)


def _pairs(axes, border: Tensor, reference: Tensor, consistency: float) -> None:  # type: ignore[no-untyped-def]
    chosen = torch.linspace(0, len(border) - 1, SHOWN).long()
    order = chosen[reference[chosen].argsort()]
    axes.vlines(range(SHOWN), reference[order], border[order], color="#999999", linewidth=0.8)
    axes.plot(reference[order], "o", color=REFERENCE, markersize=3, label="inside")
    axes.plot(border[order], "o", color=BORDER, markersize=3, label="at the border")
    axes.set_xticks([])
    axes.set_xlabel(f"{SHOWN} pixels, in order of what they give inside", fontsize=SMALL)
    axes.legend(fontsize=SMALL, frameon=False, title=f"consistency {consistency:+.2f}", title_fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)


if __name__ == "__main__":
    main()
