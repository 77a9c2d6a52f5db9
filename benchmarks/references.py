"""Which reference agrees with the truth, and which do models get? Prints the tables of docs/references.md.

The truth is taken from larger photographs: where the border of a 224 px image is read inside a 352 px image of real
pixels, every layer of EfficientNet-Lite0 can be measured by ``crop`` at the map sizes it was trained for.

    python -m benchmarks.references
    python -m benchmarks.references inception_v3@150 resnet18    # the second table, of any models of timm
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable

import timm
import torch
import torch.nn.functional as F

from pan_callbacks import PANReport, scan
from pan_callbacks.layers import Skip
from tests.support import real

#: Models of timm whose layers no crop suits throughout, at their own size or at that behind the @.
IRREGULAR = (
    *(
        "efficientformerv2_s0",
        "coat_mini",
        "gcvit_tiny",
        "test_maxvit",
        "visformer_tiny",
        "pit_xs_224",
    ),  # one size only
    *("convmixer_768_32", "convmixer_1024_20_ks9_p14"),  # patches of 7 and 14
    *("inception_v3", "inception_v3@150", "inception_v4@150", "inception_next_atto@150"),  # no round share of the image
    *("tiny_vit_5m_224", "selecsls42", "starnet_s050", "densenet121"),
)
DEEP = ("blocks.5.1.conv_dw", "blocks.5.2.conv_dw", "blocks.5.3.conv_dw")  # 5×5 kernels on 7×7 maps


def correlation(one: PANReport, other: PANReport, layers: list[str]) -> float:
    """Correlation of the contrasts at the four edges."""
    a, b = (torch.cat([report.contrast(name)[:4].flatten() for name in layers]) for report in (one, other))
    known = ~(a.isnan() | b.isnan())
    return float(torch.corrcoef(torch.stack([a[known], b[known]]))[0, 1])


def main(names: list[str]) -> None:
    torch.set_num_threads(2)
    if names:
        return references_used(names)
    model, images, large = real.efficientnet_lite0(), real.natural_images(128), real.natural_images(128, size=352)
    zoomed = F.interpolate(images, size=(352, 352), mode="bilinear")
    truth = scan(model, large.split(32), progress=False)
    found = {
        "crop, on images of 352 px (the truth)": truth,
        "zoom (crop, on images enlarged to 352 px)": scan(model, zoomed.split(32), progress=False),
        "windows": scan(model, images.split(32), reference="windows", progress=False),
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
    references_used(IRREGULAR)


def count_corners(model: torch.nn.Module, images: torch.Tensor) -> None:
    """How many neurons a plain threshold on all eight sides would call, and why."""
    default = scan(model, images.split(32), progress=False)
    print(f"\nthe default, on images of 224 px: {default.summary()}\n")
    contrasts = torch.cat([default.contrast(name) for name, line in default.layers.items() if line.skipped is None], 1)
    size = contrasts.abs().nan_to_num(0)
    print(f"neurons over 0.8 on an edge {int((size[:4] >= 0.8).any(0).sum())}, on any of the 8 sides "
          f"{int((size >= 0.8).any(0).sum())}, PANs as defined {default.count}")  # fmt: skip


def references_used(names: Iterable[str]) -> None:
    """In how many padded layers of untrained models each reference is used, on random images."""
    kinds = ("crop", "zoom", "windows", "centre")
    print(f"\n| model | px | {' | '.join(kinds)} | left out |\n|---|---:|{'---:|' * 5}")
    for name in names:
        name, _, wanted = name.partition("@")
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False).eval()
        size = int(wanted or model.default_cfg["input_size"][-1])
        coarse = F.interpolate(torch.rand(16, 3, size // 8, size // 8), size=(size, size), mode="bilinear")
        report = scan(model, [coarse + 0.3 * torch.rand(16, 3, size, size)], progress=False)
        padded = [line for line in report.layers.values() if line.skip not in (Skip.POINTWISE, Skip.NO_PADDING)]
        used = Counter(line.reference for line in padded)
        print(f"| {name} | {size} | {' | '.join(str(used[kind]) for kind in (*kinds, None))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
