"""A report through a checkpoint, bit for bit."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from pan_callbacks import scan
from pan_callbacks.layers import Reason, Skip
from pan_callbacks.reports._state import report_from_state, report_state
from pan_callbacks.reports.layer_report import LayerReport
from pan_callbacks.reports.pan_report import PANReport
from tests.support.lightning_models import SmallModule, loaders


def through_a_file(report: PANReport, path) -> PANReport:
    torch.save(report_state(report), path)
    return report_from_state(torch.load(path, weights_only=True))


@pytest.mark.parametrize("reference", ["crop", "centre"])
def test_every_figure_survives_bit_for_bit(reference, tmp_path):
    report = scan(SmallModule(), loaders()[1], reference=reference, threshold=0.3, progress=False)
    twin = through_a_file(report, tmp_path / "report.pt")
    assert list(twin.layers) == list(report.layers) and report.count > 0
    for name, line in report.layers.items():
        for item in fields(LayerReport):
            was, found = getattr(line, item.name), getattr(twin.layers[name], item.name)
            if isinstance(was, torch.Tensor):
                assert torch.equal(was.nan_to_num(9), found.nan_to_num(9)) and was.dtype == found.dtype
            else:
                assert repr(was) == repr(found) and type(was) is type(found), item.name
    assert (twin.pans, twin.threshold, twin.reference, twin.notes) == (
        report.pans,
        report.threshold,
        report.reference,
        report.notes,
    )
    assert twin.summary() == report.summary()


def test_the_kind_of_a_reason_survives(tmp_path):
    line = LayerReport(2, (3, 3), skipped=Skip.NO_BORDER.because(height=2, width=3))
    plain = LayerReport(2, (3, 3), skipped="a sentence from a file")
    twin = through_a_file(PANReport({"a": line, "b": plain}), tmp_path / "report.pt")
    assert twin.layers["a"].skip is Skip.NO_BORDER and isinstance(twin.layers["a"].skipped, Reason)
    assert twin.layers["b"].skip is None and twin.layers["b"].skipped == "a sentence from a file"


def test_no_report_is_none():
    assert report_state(None) is None and report_from_state(None) is None


def test_what_a_tensor_is_a_view_of_is_not_saved(tmp_path):
    large = torch.zeros(9000, 8, 4)
    report = PANReport({"a": LayerReport(4, (3, 3), contrast=large[3])})
    torch.save(report_state(report), tmp_path / "report.pt")
    assert (tmp_path / "report.pt").stat().st_size < 10_000


def test_a_report_of_the_size_of_resnet_50_takes_a_few_megabytes(tmp_path):
    lines = {
        f"layer{i}": LayerReport(512, (3, 3), contrast=torch.rand(8, 512), mean=torch.rand(512)) for i in range(52)
    }
    torch.save(report_state(PANReport(lines)), tmp_path / "report.pt")
    assert (tmp_path / "report.pt").stat().st_size < 52 * 512 * (8 + 1) * 4 + 100_000
