"""A U-Net that says which pixels are a digit's, and what its PANs do for pixels near the border.

python -m examples.segmentation
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.cut_digits import cut_digits, print_errors, train_on
from pan_callbacks import scan

NEAR = 4  # pixels from the border that count as near


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two padded convolutions."""
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two steps down, two up, and what was seen on the way down beside what comes up."""

    def __init__(self, classes: int = 2, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = block(1, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.up2, self.up1 = block(6 * width, 2 * width), block(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (images, classes, height, width)."""
        fine = self.down1(images)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], dim=1))
        return self.head(self.up1(torch.cat([F.interpolate(middle, scale_factor=2.0), fine], dim=1)))


def main(count: int = 1500, epochs: int = 3) -> dict[str, tuple[float, float]]:
    """Trains, scans, and prints the share of the pixels that are taken for the other."""
    torch.manual_seed(0)
    train, val = cut_digits(count, size=32)
    net = UNet()
    train_on(train, net, lambda logits, shown, _: F.cross_entropy(logits, (shown < 10).long()), epochs)
    images, shown, _ = val.tensors
    near = torch.ones_like(shown[0], dtype=torch.bool)
    near[NEAR:-NEAR, NEAR:-NEAR] = False

    def error(logits: Tensor) -> tuple[float, float]:
        wrong = (logits.argmax(1) != (shown < 10)).float()
        return float(wrong[:, near].mean()), float(wrong[:, ~near].mean())

    report = scan(net, images.split(64), max_images=128, progress=False)
    return print_errors(net, report, images, error)


if __name__ == "__main__":
    main()
