"""However a model's numbers lie in memory, in whatever precision, compiled or not: it has the PANs that it has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pan_callbacks import PANMonitor, scan
from tests.support import on_device
from tests.support.lightning_models import SmallModule, loaders, trainer
from tests.support.on_device import TRUTH, assert_same_findings, furthest, images, network, pans_of, scanned
from tests.support.pretended import DEVICE, Pretended, elsewhere, pretending

REFERENCES = ("crop", "zoom", "centre")


@pytest.fixture(scope="module", params=REFERENCES)
def reference(request):
    return request.param


@pytest.fixture(scope="module")
def plain(reference):
    report = scanned("cpu", reference)
    assert pans_of(report) == TRUTH
    return report


def channels_last(x):
    return x.to(memory_format=torch.channels_last)


def spread_out(x):
    """Every second value of a larger tensor, rows and columns the other way round."""
    if isinstance(x, nn.Module):
        return x
    larger = torch.full((len(x), x.shape[1], 2 * x.shape[3], 2 * x.shape[2]), torch.nan)
    larger[..., ::2, ::2] = x.transpose(2, 3)
    return larger[..., ::2, ::2].transpose(2, 3)


@pytest.mark.parametrize("change", [channels_last, spread_out])
def test_how_numbers_lie_in_memory_changes_no_finding(reference, plain, change):
    assert not change(images(2)).is_contiguous()
    assert_same_findings(scanned("cpu", reference, change=change), plain)


def largest_activation() -> float:
    """The largest that any layer of the planted network gives."""
    largest = []
    model = network()
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: largest.append(float(output.abs().max())))
    with torch.no_grad():
        model(images())
    return max(largest)


@pytest.mark.parametrize("low", ["autocast", "weights"])
def test_bfloat16_finds_the_same_neurons(reference, plain, low):
    """What the padding adds to a detector is far more than rounding takes.

    bfloat16 has eight binary digits, so that each of the three layers, its input and its kernel, moves an activation
    by no more than three times 2⁻⁸ of the largest. A detector's border answers lie 2 above or below those inside, and
    the content moves either by less than 0.75: between them is a gap of 0.5. A threshold in it separates what it
    separated, and a planted contrast is the same number.
    """
    assert 3 * 3 * 2.0**-8 * largest_activation() < (planted_gap := 0.5), planted_gap
    change = (lambda x: x.bfloat16()) if low == "weights" else (lambda x: x)
    report = scanned("cpu", reference, low=low == "autocast", change=change)
    assert pans_of(report) == TRUTH
    for (layer, channel), truth in on_device.NETWORK.truth.items():
        for side in truth.signs:
            at = report.sides.index(side)
            assert report.contrast(layer)[at, channel] == plain.contrast(layer)[at, channel]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_scanned_like_itself(reference, plain, backend):
    assert furthest(scanned("cpu", reference, change=lambda x: _compiled(x, backend)), plain) == 0.0


def _compiled(x, backend: str):
    return torch.compile(x, backend=backend) if isinstance(x, nn.Module) else x


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_training_is_monitored_like_the_other(tmp_path, backend):
    reports = []
    for compiled in (True, False):
        torch.manual_seed(0)
        module, monitor = SmallModule(), PANMonitor(figures=False)
        module.net = torch.compile(module.net, backend=backend) if compiled else module.net
        trainer(tmp_path, [monitor], epochs=1).fit(module, *loaders())
        reports.append(monitor.report)
    assert reports[0].images == reports[1].images == 40 and reports[0].neurons == 18
    assert furthest(*reports) == 0.0


def test_what_is_kept_stays_on_the_device():
    on_device.assert_kept_on("cpu")


def test_a_training_is_bit_for_bit_the_one_without(tmp_path):
    on_device.assert_undisturbed(tmp_path)


def test_what_waits_for_a_device_is_seen():
    x = torch.arange(6.0)
    with pretending() as waits:
        there = Pretended(x)
        assert (there + 1).device == DEVICE and waits == []
        assert there[there > 2].tolist() == [3.0, 4.0, 5.0] and float(there.sum()) == 15.0
        assert [wait.split()[1] for wait in waits] == ["index", "_to_copy", "_local_scalar_dense"]
        with pytest.raises(AssertionError, match="mixes tensors of two devices"):
            there + x


def test_a_scan_elsewhere_finds_the_same_to_the_bit(reference, plain):
    with pretending():
        batches = [Pretended(part) for part in images().split(on_device.IMAGES // 2)]
        report = scan(elsewhere(network()), batches, reference=reference, progress=False)
    assert pans_of(report) == TRUTH and furthest(report, plain) == 0.0


def test_nothing_waits_for_the_device_in_a_forward_of_the_user(reference):
    with pretending() as waits, torch.no_grad():
        model = elsewhere(network())
        measurement = on_device.listening(model, reference)
        first, *others = (Pretended(part) for part in images().split(8))
        model(first)  # decides how layers are measured
        waits.clear()
        for batch in others:
            model(batch)
        assert waits == []
        measurement.stop()
        assert pans_of(measurement.report()) == TRUTH
