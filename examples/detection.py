"""A small detector that says where a digit's centre is, and what its PANs do for digits near the border.

python -m examples.detection
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.cut_digits import cut_digits, print_errors, train_on
from pan_callbacks import scan

STRIDE, NEAR = 4, 6  # pixels of a cell; pixels from the border within which a centre counts as near


class Detector(nn.Module):
    """Of each cell of 4×4 pixels: whether the centre lies in it, and where in it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers, inputs = [], 1
        for outputs, stride in ((width, 1), (width, 2), (2 * width, 1), (2 * width, 2), (4 * width, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.backbone = nn.Sequential(*layers)
        self.tower = nn.Sequential(nn.Conv2d(inputs, inputs, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(inputs, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(images, 3, rows, columns): a score, and the centre's row and column within the cell, from 0 to 1."""
        return self.head(self.tower(self.backbone(images)))


def loss_of(answers: Tensor, centres: Tensor) -> Tensor:
    """Cross-entropy over the cells, and how far the centre is off in the right one."""
    rows, columns = (centres / STRIDE).long().clamp(0, answers.shape[-1] - 1).unbind(1)
    scores, offsets = answers[:, 0].flatten(1), answers[torch.arange(len(answers)), 1:, rows, columns]
    within = centres / STRIDE - torch.stack([rows, columns], dim=1)
    return F.cross_entropy(scores, rows * answers.shape[-1] + columns) + F.smooth_l1_loss(offsets, within)


def centres_of(answers: Tensor) -> Tensor:
    """Rows and columns (images, 2) of the centres that were found, in pixels."""
    best = answers[:, 0].flatten(1).argmax(1)
    rows, columns = best // answers.shape[-1], best % answers.shape[-1]
    within = answers[torch.arange(len(answers)), 1:, rows, columns]
    return STRIDE * (torch.stack([rows, columns], dim=1) + within)


def main(count: int = 3000, epochs: int = 5) -> dict[str, tuple[float, float]]:
    """Trains, scans, and prints how many pixels the centre that is found is off on average."""
    torch.manual_seed(0)
    train, val = cut_digits(count)
    net = Detector()
    train_on(train, net, lambda answers, _, centres: loss_of(answers, centres), epochs)
    images, _, centres = val.tensors
    near = torch.minimum(centres, images.shape[-1] - centres).amin(1) < NEAR

    def error(answers: Tensor) -> tuple[float, float]:
        off = (centres_of(answers) - centres).norm(dim=1)
        return float(off[near].mean()), float(off[~near].mean())

    report = scan(net, images.split(64), max_images=128, progress=False)
    return print_errors(net, report, images, error)


if __name__ == "__main__":
    main()
