"""Which reference agrees with the truth where maps are small? Prints the tables of docs/references.md.

The truth is taken from larger photographs: where the border of a 224 px image is read inside a 352 px image of real
pixels, every layer of EfficientNet-Lite0 can be measured by ``crop`` at the map sizes it was trained for.

    python -m benchmarks.references
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pan_callbacks import PANReport, scan
from pan_callbacks.reports.pans import margin
from tests.support import real

DEEP = ("blocks.5.1.conv_dw", "blocks.5.2.conv_dw", "blocks.5.3.conv_dw")  # 5×5 kernels on 7×7 maps


def correlation(one: PANReport, other: PANReport, layers: list[str]) -> float:
    """Correlation of the contrasts at the four edges."""
    a, b = (torch.cat([report.contrast(name)[:4].flatten() for name in layers]) for report in (one, other))
    known = ~(a.isnan() | b.isnan())
    return float(torch.corrcoef(torch.stack([a[known], b[known]]))[0, 1])


def main() -> None:
    torch.set_num_threads(2)
    model, images, large = real.efficientnet_lite0(), real.natural_images(128), real.natural_images(128, size=352)
    zoomed = F.interpolate(images, size=(352, 352), mode="bilinear")
    truth = scan(model, large.split(32), progress=False)
    found = {
        "crop, on images of 352 px (the truth)": truth,
        "zoom (crop, on images enlarged to 352 px)": scan(model, zoomed.split(32), progress=False),
        "mirror": scan(model, images.split(32), reference="mirror", progress=False),
        "centre": scan(model, images.split(32), reference="centre", progress=False),
    }
    layers = [name for name, line in truth.layers.items() if line.skipped is None]
    shallow = [name for name in layers if name not in DEEP]
    print("| reference | r, 14 layers | r, the 3 deep layers | PANs there | all PANs |\n|---|---:|---:|---:|---:|")
    for name, report in found.items():
        deep = sum(report.count_by_layer()[layer] for layer in DEEP)
        rs = " | ".join(f"{correlation(report, truth, group):.2f}" for group in (shallow, list(DEEP)))
        print(f"| {name} | {rs} | {deep} | {report.count} |")
    count_corners(model, images)


def count_corners(model: torch.nn.Module, images: torch.Tensor) -> None:
    """How many neurons a plain threshold on all eight sides would call, and why."""
    default = scan(model, images.split(32), progress=False)
    print(f"\nthe default, on images of 224 px: {default.summary()}\n")
    contrasts = torch.cat([default.contrast(name) for name, line in default.layers.items() if line.skipped is None], 1)
    size = contrasts.abs().nan_to_num(0)
    print(f"neurons over 0.8 on an edge {int((size[:4] >= 0.8).any(0).sum())}, on any of the 8 sides "
          f"{int((size >= 0.8).any(0).sum())}, PANs as defined {int((margin(contrasts, 0.8) >= 0).sum())}")  # fmt: skip


if __name__ == "__main__":
    main()
