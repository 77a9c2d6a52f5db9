"""What must hold on every device: asserted on the CPU by the ordinary suite, and on a GPU by tests/gpu."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from pan_callbacks import PANMonitor, PANReport, scan
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings
from tests.support import planted
from tests.support.lightning_models import SmallModule, loaders, trainer

SIZE, IMAGES = 32, 32
NETWORK = planted.chain(3)


def network() -> nn.Module:
    return planted.chain(3).model.eval()


def images(count: int = IMAGES) -> Tensor:
    return planted.stationary(count, SIZE)


def pans_of(report: PANReport) -> dict:
    return {
        (pan.layer, pan.channel): ({side: 1 if pan.contrast[side] > 0 else -1 for side in pan.sides}, pan.origin)
        for pan in report.pans
    }


TRUTH = {key: (dict(truth.signs), truth.origin) for key, truth in NETWORK.truth.items()}


def furthest(report: PANReport, other: PANReport) -> float:
    """The largest difference of any contrast."""
    assert report.layers.keys() == other.layers.keys()
    pairs = [(report.contrast(name), other.contrast(name)) for name in report.layers]
    assert all(torch.equal(one.isnan(), two.isnan()) for one, two in pairs)
    return max(float((one - two).abs().nan_to_num().max()) for one, two in pairs)


def assert_same_findings(report: PANReport, other: PANReport, readings: int = 1) -> None:
    """The planted PANs and no others in both, and contrasts that so many readings at the smallest border tell apart.

    The smallest border is a corner: one reading an image. Half of the images choose a threshold for the other half, so
    that one reading that rounding moves to the other side of it changes a contrast by one in half of the images.
    """
    assert pans_of(report) == pans_of(other) == TRUTH
    assert furthest(report, other) <= readings / (IMAGES / 2) + 1e-6


def scanned(device: str | torch.device, reference: str = "crop", low: bool = False, change=lambda x: x) -> PANReport:
    """The report of the planted network on a device.

    Args:
        device: The device.
        reference: As for ``scan``.
        low: Whether under autocast in bfloat16.
        change: Changes how model and images lie in memory.
    """
    model, batches = change(network().to(device)), [change(part.to(device)) for part in images().split(IMAGES // 2)]
    with torch.autocast(torch.device(device).type, torch.bfloat16) if low else nullcontext():
        return scan(model, batches, reference=reference, progress=False)


def listening(model: nn.Module, reference: str = "crop") -> Measurement:
    """A started measurement that listens to a model, as that of a monitor."""
    measurement = Measurement(model, Settings(reference=reference))
    measurement.attach()
    measurement.start()
    return measurement


def assert_kept_on(device: str | torch.device) -> None:
    """What is kept while images pass lies on the model's device; the report is on the CPU, for whoever reads it."""
    model = network().to(device)
    measurement = listening(model)
    with torch.no_grad():
        for batch in images().split(8):
            model(batch.to(device))
    measurement.stop()
    for layer in measurement.layers:
        border, reference = measurement.readings(layer, "top")
        assert border.device.type == reference.device.type == torch.device(device).type
        assert len(border) > 0 and len(reference) > 0
    report = measurement.report()
    assert {report.contrast(layer).device.type for layer in report.layers} == {"cpu"}
    assert pans_of(report) == TRUTH


def assert_undisturbed(tmp_path, **options) -> None:
    """A training with the monitor has, bit for bit, the weights, losses and random state of the one without."""
    ends = []
    for callbacks in ([PANMonitor(figures=False)], []):
        torch.manual_seed(0)
        module = SmallModule()
        run = trainer(tmp_path, callbacks, **options)
        run.fit(module, *loaders())
        # the Trainer has brought the module back to the CPU
        end = torch.cuda.get_rng_state() if options.get("accelerator") == "gpu" else torch.empty(0)
        ends.append((module.state_dict(), module.seen, torch.get_rng_state(), end))
        if callbacks:
            assert len(callbacks[0].history) == 3 and callbacks[0].report.images > 0
    (weights, losses, host, card), (other_weights, other_losses, other_host, other_card) = ends
    assert losses == other_losses and len(losses) > 0
    assert torch.equal(host, other_host) and torch.equal(card, other_card)
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
