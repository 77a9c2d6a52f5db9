"""How exact are contrasts from readings kept in bounded memory? Prints the table of docs/statistics.md.

python -m benchmarks.statistics
"""

from __future__ import annotations

import torch
from torch import Tensor

from pan_callbacks.measurement.contrast import contrast
from pan_callbacks.measurement.metrics import PaddingAwareness
from tests.support import real

OFFSET = 32  # pixels, a multiple of the network's stride
EDGES = ("top", "left")


def readings(images: Tensor) -> dict[tuple[str, str], tuple[list[Tensor], list[Tensor]]]:
    """(layer, edge) to batches of border and reference readings (n, channels), by hooks of our own."""
    model = real.efficientnet_lite0()
    maps: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and max(module.kernel_size) > 1:
            module.register_forward_hook(lambda _, __, output, name=name: maps.__setitem__(name, output))
    found: dict[tuple[str, str], tuple[list[Tensor], list[Tensor]]] = {}
    with torch.inference_mode():
        for batch in images.split(16):
            model.forward_features(batch)
            large = dict(maps)
            model.forward_features(batch[..., OFFSET:-OFFSET, OFFSET:-OFFSET])
            for name, small in maps.items():
                shift = (large[name].shape[-1] - small.shape[-1]) // 2
                for edge, index in zip(EDGES, ((slice(0, 1), slice(1, -1)), (slice(1, -1), slice(0, 1))), strict=True):
                    inside = large[name][..., shift:-shift, shift:-shift]
                    pair = found.setdefault((name, edge), ([], []))
                    for kept, source in zip(pair, (small, inside), strict=True):
                        kept.append(source[(..., *index)].permute(0, 2, 3, 1).flatten(0, 2))
    return found


def uniform(border: Tensor, reference: Tensor, bins: int) -> Tensor:
    """|contrast| from histograms of so many equal bins over a channel's range, known beforehand."""
    low = torch.minimum(border.amin(0), reference.amin(0))
    width = (torch.maximum(border.amax(0), reference.amax(0)) - low).clamp_min(1e-12) / bins

    def distribution(values: Tensor) -> Tensor:
        index = ((values - low) / width).long().clamp(0, bins - 1)
        counts = torch.zeros(bins, values.shape[1]).scatter_add(0, index, torch.ones_like(values))
        return counts.cumsum(0) / len(values)

    return (distribution(border) - distribution(reference)).abs().amax(0)


def thinned(border: list[Tensor], reference: list[Tensor], capacity: int) -> Tensor:
    """|contrast| from readings that came in batches, kept within a capacity."""
    metric = PaddingAwareness(border[0].shape[1], ("side",), capacity)
    for b, r in zip(border, reference, strict=True):
        metric.update({"side": b}, {"side": r})
    return metric.compute()[0].abs()


def main() -> None:
    torch.set_num_threads(1)
    found = readings(real.natural_images(128))
    exact = {key: contrast(torch.cat(b), torch.cat(r)).abs() for key, (b, r) in found.items()}
    print("| kept of each side | largest error | neurons off by more than 0.01 |\n|---|---:|---:|")
    for bins in (256, 1024):
        binned = {key: uniform(torch.cat(b), torch.cat(r), bins) for key, (b, r) in found.items()}
        report(f"histogram of {bins} equal bins", exact, binned)
    for capacity in (256, 512, 1024):
        report(f"{capacity} readings, thinned", exact, {k: thinned(b, r, capacity) for k, (b, r) in found.items()})


def report(name: str, exact: dict, approximate: dict) -> None:
    error = torch.cat([(exact[key] - approximate[key]).abs() for key in exact])
    print(f"| {name} | {error.max():.3f} | {(error > 0.01).float().mean():.2%} |", flush=True)


if __name__ == "__main__":
    main()
