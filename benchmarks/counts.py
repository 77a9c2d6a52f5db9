"""How far may a count of PANs be trusted? Prints the tables of docs/statistics.md on the count and its interval.

python -m benchmarks.counts                  # all of them
python -m benchmarks.counts images coverage  # some: images, coverage, difference
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from statistics import mean

import torch
from torch import Tensor, nn

from pan_callbacks import PANReport, scan
from pan_callbacks.measurement.contrast import contrast
from pan_callbacks.measurement.crossfit import CHOICE, Sample, crossfit
from pan_callbacks.reports.pans import GROUPS, LEAST_SHIFT, half_width, margin
from tests.support import real

DRAWS, SIZES = 5, (32, 64, 128, 256)
DIFFERENCES = (0.0, 0.03, 0.1, 0.3, 1.0)


def images() -> None:
    """The count by the number of images, and whether PANs that one draw calls certain are PANs in another."""
    model = real.efficientnet_lite0()
    print("| images | PANs (mean of 5 draws) | 95 % interval (mean) | certain | of these PANs in the next draw |")
    print("|---:|---:|---:|---:|---:|")
    for size in SIZES:
        pool = real.natural_images(DRAWS * size, seed=size)
        found = [scan(model, draw.split(16), progress=False) for draw in pool.split(size)]
        again = [agreement(one, other) for one, other in zip(found, [*found[1:], found[0]], strict=True)]
        certain = sum(many for many, _ in again)
        low, high = (mean(report.interval[end] for report in found) for end in (0, 1))
        print(f"| {size} | {mean(report.count for report in found):.1f} | {low:.0f} … {high:.0f} | "
              f"{certain / DRAWS:.0f} | {sum(kept for _, kept in again) / certain:.1%} |", flush=True)  # fmt: skip


def agreement(one: PANReport, other: PANReport) -> tuple[int, int]:
    """How many PANs one report calls certain, and how many of these are PANs in the other."""
    there = {(pan.layer, pan.channel) for pan in other.pans}
    certain = [(pan.layer, pan.channel) for pan in one.pans if pan.certain]
    return len(certain), sum(neuron in there for neuron in certain)


def readings(kind: str, sizes: Sequence[int], positions: int, shifts: Tensor) -> tuple[Sample, Sample]:
    """Border and reference readings of made-up neurons (one for each shift), half of whose spread is the cluster's.

    Args:
        kind: How they are distributed.
        sizes: Images of each cluster.
        positions: Readings an image.
        shifts: By how much the border is shifted.
    """
    cluster = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def noise(count: int, positions: int) -> Tensor:
        return torch.randn(count, positions, len(shifts)) * 0.5**0.5

    common = noise(len(sizes), 1)[cluster]
    reference, border = (common + noise(len(cluster), positions) for _ in range(2))
    border = border + shifts
    if kind == "another in each":
        border = border + noise(len(sizes), 1)[cluster]
    if kind == "heavy tails":
        reference, border = reference**3, border**3
    if kind == "half of it silent":
        reference, border = reference.relu(), border.relu()
    groups = (cluster % GROUPS).repeat_interleave(positions)
    return Sample(border.flatten(0, 1), groups), Sample(reference.flatten(0, 1), groups)


def coverage() -> None:
    """How often the 95 % interval of a contrast holds the contrast of endless many images."""
    torch.manual_seed(0)
    shifts = torch.tensor([1.349, 2.563, 3.92])  # of a normal: contrasts of 0.5, 0.8 and 0.95
    print("| readings | images | positions | of 0.5 | of 0.8 | of 0.95 | all, without the choice of thresholds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    single = {"64": [1] * 64, "256": [1] * 256}
    clusters = {"13 × 5": [5] * 13, "5 × 20": [20] * 5, "100, 15 × 10": [100] + [10] * 15, "128, 64, 32 … 1": UNEQUAL}
    for kind in ("normal", "another in each", "half of it silent", "heavy tails"):
        border, reference = readings(kind, [1] * 50_000, 4, shifts)
        truth = contrast(border.readings, reference.readings).repeat_interleave(1000)
        for name, sizes in (single | clusters if kind == "normal" else single).items():
            for positions in (1, 6):
                samples = readings(kind, sizes, positions, shifts.repeat_interleave(1000))
                held = {}
                for choice in (CHOICE, 0.0):
                    found = crossfit(*samples, choice=choice)
                    width = half_width(found.contrast[None], found.error[None], [found.groups], [len(sizes)])
                    held[choice] = ((found.contrast - truth).abs() <= width[0]).float()
                each = " | ".join(f"{float(share):.1%}" for share in held[CHOICE].view(3, 1000).mean(1))
                print(f"| {kind} | {name} | {positions} | {each} | {float(held[0.0].mean()):.1%} |", flush=True)


UNEQUAL = [128, 64, 32, 16, 8, 4, 2, 1, 1]


def difference() -> None:
    """What a smallest difference between border and reference takes away, on flat and on other backgrounds."""
    print(f"| PANs if the difference must be at least | {' | '.join(map(str, DIFFERENCES))} |")
    print("|---|" + "---:|" * len(DIFFERENCES))
    for name, model, batches in subjects():
        report = scan(model, batches, progress=False)
        print(f"| {name} | {' | '.join(str(count) for count in counts(report))} |", flush=True)
    print(f"\nthe difference asked for: {LEAST_SHIFT:g}")


def counts(report: PANReport) -> list[int]:
    """The number of PANs under each of :data:`DIFFERENCES`."""
    found = []
    for least in DIFFERENCES:
        margins = (
            margin(line.contrast, report.threshold, line.shift, least=least)
            for line in report.measured.values()
            if line.contrast is not None
        )
        found.append(sum(int((one >= 0).sum()) for one in margins))
    return found


def subjects() -> Iterable[tuple[str, nn.Module, list[Tensor]]]:
    """Networks and images: MNIST as it is, digits placed on photographs, photographs."""
    from pytorch_lightning import LightningDataModule, Trainer, seed_everything

    from examples.data import MNISTData, PlacedDigitsData
    from examples.model import TimmClassifier

    warnings.filterwarnings("ignore")
    digits: dict[str, LightningDataModule] = {
        "MNIST as it is": MNISTData(),
        "digits on photographs": PlacedDigitsData(label="digit"),
    }
    for name, data in digits.items():
        seed_everything(0, verbose=False)
        module = TimmClassifier("resnet10t", small_images=True, lr=0.004, model_args=dict(SMALL))
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **quiet).fit(module, datamodule=data)
        batches = [batch[0] for batch in data.val_dataloader()]
        yield f"ResNet-10, {name}", module.eval(), batches
    yield "EfficientNet-Lite0, photographs", real.efficientnet_lite0(), list(real.natural_images(256).split(16))


SMALL = {"channels": [16, 32, 64, 128], "stem_width": 8}


def exact() -> None:
    """How the contrasts of layers measured by ``crop`` correlate with scipy's statistic on the same 256 images."""
    from scipy.stats import ks_2samp

    from tests.measurement.test_real_weights import Scanned, middle, read_pair

    model, pictures = real.efficientnet_lite0(), real.natural_images(256)
    report = scan(model, pictures.split(16), progress=False)
    layers = tuple(name for name, line in report.measured.items() if line.reference == "crop")
    size = pictures.shape[-1] - 64  # of the crop
    pairs = read_pair(Scanned(model, pictures, report, []), layers, lambda batch: (middle(batch, size), batch))
    print("| layer | r |\n|---|---:|")
    both: list[tuple[Tensor, Tensor]] = []
    for name, sides in pairs.items():
        ours = [report.contrast(name)[report.sides.index(side)] for side in sides]
        found = [ks_2samp(b.numpy(), r.numpy(), axis=0, method="asymp") for b, r in sides.values()]
        theirs = [torch.from_numpy(-one.statistic * one.statistic_sign) for one in found]
        both.append((torch.cat(ours), torch.cat(theirs)))
        print(f"| {name} | {correlation(*both[-1]):.3f} |", flush=True)
    print(f"| all {len(layers)} | {correlation(*map(torch.cat, zip(*both, strict=True))):.3f} |")


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's r."""
    return float(torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1])


TABLES = {"exact": exact, "images": images, "coverage": coverage, "difference": difference}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for table in sys.argv[1:] or TABLES:
        print(f"\n{table}\n")
        TABLES[table]()
