"""The cross-fitted contrast and its error: against brute force, a cluster bootstrap, and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pan_callbacks.measurement.contrast import contrast
from pan_callbacks.measurement.crossfit import CHOICE, Sample, crossfit
from pan_callbacks.measurement.metrics import PaddingAwareness
from pan_callbacks.reports.pans import GROUPS, T_QUANTILES
from tests.support.crossfitted import crossfitted


def normal(
    images: int, positions: int, shifts: torch.Tensor, seed: int = 0, wobble: float = 0.0
) -> tuple[Sample, Sample]:
    """Border and reference readings, half of whose variance is the image's; the border is shifted (by image, if so)."""
    generator = torch.Generator().manual_seed(seed)

    def noise(positions: int) -> torch.Tensor:
        return torch.randn(images, positions, len(shifts), generator=generator)

    image, groups = noise(1) * 0.5**0.5, (torch.arange(images) % GROUPS).repeat_interleave(positions)
    reference = image + noise(positions) * 0.5**0.5
    border = image + noise(positions) * 0.5**0.5 + shifts + wobble * noise(1)
    return Sample(border.flatten(0, 1), groups), Sample(reference.flatten(0, 1), groups)


def brute_force(border: Sample, reference: Sample) -> tuple[list[float], list[float]]:
    """Contrast and standard error of each channel, by loops."""
    found = crossfitted(border.readings.numpy(), reference.readings.numpy(), border.groups.numpy(), CHOICE)
    return found[0].tolist(), found[1].tolist()


@pytest.mark.parametrize("images", [2, 5, 16, 40])
def test_contrast_and_error_are_those_of_loops_over_thresholds_and_groups(images):
    border, reference = normal(images, 3, torch.tensor([-2.0, 0.0, 0.5, 1.0, 3.0]), seed=images)
    contrasts, errors = brute_force(border, reference)
    found = crossfit(border, reference)
    assert found.contrast.tolist() == pytest.approx(contrasts, abs=1e-5)
    assert found.error.tolist() == pytest.approx(errors, abs=1e-5)
    sizes = np.bincount(np.arange(images) % GROUPS)
    assert (found.groups, found.present) == (max(2, int(images**2 / (sizes**2).sum() + 1e-6)), min(images, GROUPS))


def test_groups_of_other_sizes_weigh_as_many_readings_as_they_have():
    border, reference = normal(30, 2, torch.tensor([1.0, 2.0]))
    uneven = (torch.arange(60) ** 2 // 400).clamp_max(GROUPS - 1)  # from 20 readings to 5
    contrasts, errors = brute_force(Sample(border.readings, uneven), Sample(reference.readings, uneven))
    found = crossfit(Sample(border.readings, uneven), Sample(reference.readings, uneven))
    assert found.contrast.tolist() == pytest.approx(contrasts, abs=1e-5)
    assert found.error.tolist() == pytest.approx(errors, abs=1e-5)


@pytest.mark.parametrize("images", [16, 64, 256])
def test_chance_adds_nothing_where_border_and_reference_are_alike(images):
    border, reference = normal(images, 1, torch.zeros(2000))
    found = crossfit(border, reference)
    signed = found.contrast.abs().double()  # 0 where what separates one half does not separate the other
    in_sample = contrast(border.readings, reference.readings).abs().double()
    scale = 1 / images**0.5
    assert signed.mean() < 0.6 * scale < 0.9 * scale < in_sample.mean()
    assert (found.contrast == 0).float().mean() > 0.4


@pytest.mark.parametrize("wobble", [0.0, 0.7])
@pytest.mark.parametrize("positions", [1, 6])
@pytest.mark.parametrize("images", [64, 256])
def test_95_percent_intervals_hold_the_truth_in_92_to_98_percent(images, positions, wobble):
    shifts = torch.linspace(0.5, 3.3, 5)  # contrasts of 0.2 to 0.9
    spread = (1 + wobble**2) ** 0.5
    truths = [true_contrast(float(shift), spread) for shift in shifts]
    border, reference = normal(images, positions, shifts.repeat_interleave(600), images + positions, wobble)
    found = crossfit(border, reference)
    off = (found.contrast - torch.tensor(truths).repeat_interleave(600)).abs()
    held = (off <= T_QUANTILES[found.groups - 2] * found.error).float()
    assert 0.92 <= float(held.mean()) <= 0.98
    assert all(
        0.91 <= share <= 0.985 for share in held.view(5, 600).mean(1).tolist()
    )  # of 600 each: 2 points of chance


def true_contrast(shift: float, spread: float) -> float:
    """Largest difference of the distribution functions of two normals, on a fine grid."""
    grid = np.linspace(-6, 12, 100_001)
    return float(np.abs(stats.norm.cdf(grid) - stats.norm.cdf(grid, shift, spread)).max())


def test_the_error_is_that_of_a_bootstrap_over_images():
    border, reference = normal(160, 4, torch.linspace(0.5, 3, 40), wobble=0.7)
    found = crossfit(border, reference, choice=0.0)
    assert found.cuts is not None
    by_image = [sample.readings.view(160, 4, -1) for sample in (border, reference)]
    half = found.cuts.half[torch.arange(160) % GROUPS]
    cut = torch.stack(found.cuts.thresholds)[half][:, None]
    sign = torch.stack(found.cuts.signs)[half]
    values = sign * ((by_image[1] <= cut).float().mean(1) - (by_image[0] <= cut).float().mean(1))
    rng = np.random.default_rng(0)
    means = np.stack([values[rng.integers(0, 160, 160)].mean(0).numpy() for _ in range(400)])
    ratio = found.error.numpy() / means.std(0)
    assert 0.9 < np.sqrt(np.mean(ratio**2)) < 1.1  # each has 15 degrees of freedom, all together many


def test_clusters_have_wider_errors_than_images_of_their_own():
    shifts = torch.full((400,), 2.0)
    border, reference = normal(160, 1, shifts, wobble=1.0)
    own = crossfit(border, reference).error
    copies = [Sample(s.readings[:16].repeat(10, 1), torch.arange(160) % 16) for s in (border, reference)]
    # ten crops of each of 16 photographs, all alike: no more is known than of 16
    together = crossfit(*copies).error
    sixteen = crossfit(*(Sample(s.readings[:16], torch.arange(16)) for s in (border, reference))).error
    assert torch.allclose(together, sixteen, atol=1e-6)
    assert float(together.mean()) > 2 * float(own.mean())


@pytest.mark.parametrize(
    "sizes", [[100] + [10] * 15, [128, 64, 32, 16, 8, 4, 2, 1, 1], [200] + [4] * 14, [5] * 13, [20] * 5]
)
def test_intervals_hold_the_truth_of_clusters_of_any_sizes(sizes):
    """Half of the variance is the cluster's, of border and reference each."""
    generator, channels, shift = torch.Generator().manual_seed(len(sizes)), 1500, 2.563  # a contrast of 0.8
    cluster = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def readings(shift: float) -> torch.Tensor:
        common = torch.randn(len(sizes), channels, generator=generator)[cluster]
        own = torch.randn(len(cluster), channels, generator=generator)
        return (common + own) * 0.5**0.5 + shift

    found = crossfit(Sample(readings(shift), cluster % GROUPS), Sample(readings(0.0), cluster % GROUPS))
    off = (found.contrast - true_contrast(shift, 1.0)).abs()
    assert float((off <= T_QUANTILES[found.groups - 2] * found.error).float().mean()) >= 0.88


def test_what_separates_always_has_a_contrast_of_exactly_one_and_no_error():
    border, reference = normal(33, 5, torch.tensor([100.0, -100.0]))
    found = crossfit(border, reference)
    assert found.contrast.tolist() == [1.0, -1.0] and found.error.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.0, 1.0, -3e5])
def test_readings_that_differ_by_rounding_alone_have_a_contrast_of_exactly_zero(value):
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(320) % GROUPS
    reference = torch.full((320, 50), value)
    border = reference * (1 + 1e-7 * torch.randn(320, 50, generator=generator))
    found = crossfit(Sample(border, groups), Sample(reference, groups))
    assert found.contrast.abs().max() == 0 and found.error.max() == 0


def test_with_one_group_the_contrast_is_that_of_scipy_and_its_error_unknown():
    border, reference = normal(1, 60, torch.tensor([0.3, 1.0]))
    found = crossfit(border, reference)
    expected = stats.ks_2samp(border.readings.numpy(), reference.readings.numpy(), axis=0, method="asymp").statistic
    assert found.contrast.abs().tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert found.error.isnan().all() and found.groups == 1 and found.cuts is None


def test_a_reading_that_is_not_finite_makes_its_channel_unknown():
    border, reference = normal(32, 2, torch.ones(3))
    border.readings[5, 1] = torch.inf
    found = crossfit(border, reference)
    assert found.contrast.isnan().tolist() == found.error.isnan().tolist() == [False, True, False]


def test_a_cut_shows_what_remains_of_a_contrast():
    border, reference = normal(64, 4, torch.tensor([3.0, 3.0, -3.0]))
    cuts = crossfit(border, reference).cuts
    assert cuts is not None
    for moved, expected in (([0.0, 0.0, 0.0], [1.0, 1.0, -1.0]), ([-3.0, 0.0, 3.0], [0.0, 1.0, 0.0])):
        readings = border.readings[:60] + torch.tensor(moved)  # of some of the images
        remains = cuts.contrast(Sample(readings, border.groups[:60]), reference)
        assert remains.tolist() == pytest.approx(expected, abs=0.2)


def test_a_border_that_becomes_constant_in_the_middle_of_the_reference_keeps_nothing():
    border, reference = normal(64, 4, torch.tensor([3.0]))
    cuts = crossfit(border, reference).cuts
    assert cuts is not None
    constant = Sample(torch.zeros_like(border.readings), border.groups)
    # as a largest difference it would be half, since half of the reference lies on either side
    assert float(contrast(constant.readings, reference.readings).abs()) > 0.4
    assert abs(float(cuts.contrast(constant, reference))) < 0.2


@pytest.mark.parametrize("capacity", [64, 4096])
def test_estimates_merge_over_processes(capacity):
    border, reference = normal(96, 4, torch.linspace(-2, 2, 9))
    metrics = [PaddingAwareness(9, ("top",), capacity) for _ in range(3)]
    for start in range(0, 384, 32):
        rows = slice(start, start + 32)
        parts = [Sample(s.readings[rows], s.groups[rows]) for s in (border, reference)]
        for metric in (metrics[0], metrics[1 + start // 32 % 2]):
            metric.update({"top": parts[0]}, {"top": parts[1]})
    metrics[1].merge_state(metrics[2])
    whole, merged = metrics[0].estimate("top"), metrics[1].estimate("top")
    if capacity == 4096:
        assert torch.equal(whole.contrast, merged.contrast) and torch.equal(whole.error, merged.error)
    else:  # thinned, to some 32 readings: less than two of the errors apart
        assert ((whole.contrast - merged.contrast).abs() <= 2 * whole.error + 0.05).all()


def test_thinned_readings_give_the_error_of_all():
    border, reference = normal(256, 16, torch.linspace(0.5, 3, 60), wobble=0.7)
    all_of_them, some = (PaddingAwareness(60, ("top",), capacity) for capacity in (10**6, 512))
    for metric in (all_of_them, some):
        for start in range(0, 4096, 256):
            rows = slice(start, start + 256)
            parts = [Sample(s.readings[rows], s.groups[rows]) for s in (border, reference)]
            metric.update({"top": parts[0]}, {"top": parts[1]})
    exact, thinned = all_of_them.estimate("top"), some.estimate("top")
    assert len(some.samples("top")[0]) <= 512
    assert float((exact.contrast - thinned.contrast).abs().mean()) < float(exact.error.mean())
    assert 0.85 < float(thinned.error.mean() / exact.error.mean()) < 1.5
