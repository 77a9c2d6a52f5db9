"""On a CUDA device: what it finds is what the CPU finds, and nobody waits for it within the user's forward.

make test-gpu
"""

from __future__ import annotations

import pytest
import torch

from tests.support.on_device import (
    TRUTH,
    assert_kept_on,
    assert_same_findings,
    assert_undisturbed,
    images,
    listening,
    network,
    pans_of,
    scanned,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
REFERENCES = ("crop", "zoom", "mirror", "centre")


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch):
    """No TF32, whose kernels round to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def channels_last(x):
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_scan_finds_what_it_finds_on_the_cpu(reference):
    assert_same_findings(
        scanned("cuda", reference), scanned("cpu", reference), readings=2
    )  # other kernels round otherwise


def test_tf32_kernels_find_the_same_neurons(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert pans_of(scanned("cuda")) == TRUTH


@pytest.mark.parametrize("reference", REFERENCES)
def test_autocast_finds_the_same_neurons(reference):
    assert pans_of(scanned("cuda", reference, low=True)) == TRUTH


@pytest.mark.parametrize("reference", REFERENCES)
def test_channels_last_finds_the_same(reference):
    other = scanned("cuda", reference, change=channels_last)
    assert_same_findings(other, scanned("cuda", reference), readings=2)


def test_what_is_kept_stays_on_the_device():
    assert_kept_on("cuda")


@pytest.mark.parametrize("reference", REFERENCES)
def test_no_forward_of_the_user_waits_for_the_device(reference):
    model = network().cuda()
    measurement, batches = listening(model, reference), images().cuda().split(8)
    with torch.no_grad():
        for batch in batches[:2]:  # the first decides how layers are measured
            model(batch)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches[2:]:
                model(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    measurement.stop()
    assert pans_of(measurement.report()) == TRUTH


def test_a_training_is_bit_for_bit_the_one_without(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    try:
        assert_undisturbed(tmp_path, accelerator="gpu", devices=1, deterministic=True, benchmark=False)
    finally:
        torch.use_deterministic_algorithms(False)
