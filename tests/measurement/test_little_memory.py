"""Networks so large that a few positions are read, in 16 bits, on images that make it hard."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pan_callbacks import scan
from pan_callbacks.measurement import positions
from pan_callbacks.measurement.coding import Code
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.reports.pan_report import PANReport

IMAGES = 64


def in_a_frame(size: int = 28) -> torch.Tensor:
    """Noise in a frame of one grey, as scanned digits and letterboxed films have it."""
    images = torch.full((IMAGES, 1, size, size), -0.4242)
    inside = torch.randn(IMAGES, 1, size - 12, size - 12, generator=torch.Generator().manual_seed(1))
    images[:, :, 6 : size - 6, 6 : size - 6] = inside
    return images


@pytest.fixture
def little(monkeypatch):
    """Memory for five positions of an edge of 12 neurons."""
    monkeypatch.setattr(positions, "MEMORY", 12 * IMAGES * 2 * (8 * 5 + 10))
    monkeypatch.setattr(positions, "MEMORY_OF_A_NEURON", 0)
    assert positions.Keep.of(12, IMAGES) == (5, IMAGES * 50, torch.float16)


def network(**options) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, **options)).eval()


@pytest.mark.parametrize("reference", ["crop", "mirror", "centre"])
def test_images_in_a_frame_are_measured_as_with_memory_enough(request, reference):
    """Without padding the border is constant there: no code may be made of that, for nothing else would fit into it."""
    plenty = scan(network(), [in_a_frame()], reference=reference, progress=False).layers["0"]
    request.getfixturevalue("little")
    few = scan(network(), [in_a_frame()], reference=reference, progress=False).layers["0"]
    spread = plenty.shift.abs().max()
    assert (few.shift - plenty.shift).abs().max() < 0.3 * spread and few.mean is not None
    assert torch.allclose(few.mean, plenty.mean, atol=0.25 * float(plenty.mean.abs().max()))  # of all, or of a few
    off = (few.contrast - plenty.contrast).abs()
    assert float(off.mean()) < 0.05


@pytest.mark.parametrize("reference", ["mirror", "centre"])
def test_what_is_not_finite_where_nothing_is_read_spoils_no_effect(little, reference):
    images = torch.rand(IMAGES, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for i in range(3, 9):
        images[i, 0, 0, 17 + i] = torch.nan
    line = scan(network(padding_mode="replicate"), [images], reference=reference, progress=False).layers["0"]
    assert not line.effect.isnan().any() and not line.contrast.isnan().any()


def test_sums_are_whole_under_autocast(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).eval()
    nn.init.ones_(net[0].weight)
    measurement = Measurement(net, Settings(None, "mirror", 0.8, 64))
    measurement.start()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        net(1 + torch.rand(61, 1, 32, 32))
    measurement.stop()
    report = measurement.report()
    assert torch.equal(report.layers["0"].consistency, torch.full((8, 1), -1.0))
    report.save(tmp_path / "pans.json")
    assert PANReport.load(tmp_path / "pans.json").count == report.count


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e20])
def test_a_code_bears_what_comes_after_rows_that_are_constant_or_huge(scale):
    code, generator = Code(), torch.Generator().manual_seed(0)
    first = torch.full((8, 5, 1), scale)
    later = scale * (1 + 1e-3 * torch.randn(40, 5, 1, generator=generator))
    code.coded(first, torch.float16)
    found = code.decoded(code.coded(later, torch.float16).transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(found, later, rtol=1e-5, atol=0)


def test_a_code_waits_for_a_row_that_is_finite():
    code = Code()
    assert code.coded(torch.full((8, 5, 1), torch.nan), torch.float16).isnan().all()
    later = 1e6 * torch.randn(40, 5, 1, generator=torch.Generator().manual_seed(0))
    found = code.decoded(code.coded(later, torch.float16).transpose(1, 2)).transpose(1, 2)
    assert float((found - later).abs().max()) < 1e-3 * float(later.abs().max())
