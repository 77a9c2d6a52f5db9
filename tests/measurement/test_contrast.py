"""The contrast against scipy's two-sample Kolmogorov-Smirnov test, the moments against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from pan_callbacks.measurement.contrast import contrast, mean_and_std, moments, thin


def cases(examples: int):
    """Random cases that are the same in every run."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def column(values, dtype=torch.float32) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64)).to(dtype)[:, None]


def one_sided(border, reference) -> tuple[float, float]:
    """Scipy's largest differences with the border the larger, and with it the smaller."""
    with np.errstate(divide="ignore"):  # in the p-value of a sample of one, which is not used
        larger = ks_2samp(border, reference, alternative="less", method="asymp").statistic
        smaller = ks_2samp(border, reference, alternative="greater", method="asymp").statistic
    return larger, smaller


def scipy_contrast(border, reference) -> float:
    """Signed as ours: + where the border is larger, so where its distribution function is the lower; + in a draw."""
    larger, smaller = one_sided(border, reference)
    return larger if larger > smaller - 1e-9 else -smaller


def of(border, reference, dtype=torch.float32) -> float:
    return contrast(column(border, dtype), column(reference, dtype)).item()


def same(found: float, expected: float) -> bool:
    return abs(found - expected) < 1e-6


# values that rounding keeps apart, most of them many times: tie upon tie, two zeros, the clip of a ReLU6
LEVELS = {
    "few": np.arange(-3.0, 4),
    "many": np.arange(-30_000.0, 30_001),
    "clipped": np.array([0.0, 0.0, 0.0, -0.0, 0.5, 1.0, 6.0, 6.0]),
}


def sample(kind: str, size: int, seed: int) -> list[float]:
    return np.random.default_rng(seed).choice(LEVELS[kind], size).tolist()


# one draw for a whole sample: drawing value by value takes ten times as long
samples = st.builds(sample, st.sampled_from(list(LEVELS)), st.integers(1, 60), st.integers(0, 10_000))
small_integers = st.builds(sample, st.just("few"), st.integers(1, 60), st.integers(0, 10_000))


# ---- contrast is scipy's statistic


@cases(600)
@given(samples, samples)
def test_contrast_is_the_statistic_of_scipy_with_ties_and_unequal_sizes(border, reference):
    assert same(of(border, reference), scipy_contrast(border, reference))


@cases(150)
@given(samples, samples)
def test_sign_is_the_one_that_scipy_reports(border, reference):
    larger, smaller = one_sided(border, reference)
    assume(abs(larger - smaller) > 1e-9)  # no draw
    with np.errstate(divide="ignore"):
        test = ks_2samp(border, reference, method="asymp")
    # scipy's sign is + where the first distribution function is the larger, so where the border is the smaller
    assert same(of(border, reference), -test.statistic_sign * test.statistic)


@pytest.mark.parametrize("n, m", [(1, 1), (1, 1000), (1000, 1), (7, 13), (256, 4096), (3000, 3000)])
@pytest.mark.parametrize("levels", [2, 5, 50, 20_000])
def test_contrast_of_many_channels_is_the_statistic_of_scipy_in_each(n, m, levels):
    rng = np.random.default_rng(n + m + levels)
    border = rng.integers(0, levels, (n, 6)) + rng.integers(0, levels, 6)
    reference = rng.integers(0, levels, (m, 6))
    found = contrast(torch.tensor(border, dtype=torch.float32), torch.tensor(reference, dtype=torch.float32))
    expected = [scipy_contrast(border[:, c], reference[:, c]) for c in range(6)]
    assert np.allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_cauchy"])
def test_contrast_of_continuous_readings_is_the_statistic_of_scipy_but_for_rounding(draw):
    rng = np.random.default_rng(3)
    border, reference = getattr(rng, draw)(size=500).astype(np.float32), rng.normal(size=700).astype(np.float32)
    assert abs(of(border, reference) - scipy_contrast(border, reference)) <= 3 / 500


@pytest.mark.parametrize("outlier", [1e2, 1e3, 1e4, 1e5])
def test_one_outlier_does_not_blind_the_contrast_to_the_rest(outlier):
    rng = np.random.default_rng(0)
    border, reference = (rng.normal(size=(4000, 8)).astype(np.float32) for _ in range(2))
    border += np.linspace(0.2, 3, 8, dtype=np.float32)
    reference[17] = outlier
    found = contrast(torch.from_numpy(border), torch.from_numpy(reference)).numpy()
    expected = [scipy_contrast(border[:, c], reference[:, c]) for c in range(8)]
    assert np.abs(found - expected).max() <= 0.01


@cases(150)
@given(samples, samples, st.sampled_from([torch.bfloat16, torch.float16, torch.float64]))
def test_contrast_of_other_dtypes_is_the_statistic_of_what_they_can_hold(border, reference, dtype):
    held = [column(values, dtype).double().flatten().numpy() for values in (border, reference)]
    assert same(of(border, reference, dtype), scipy_contrast(*held))


@cases(100)
@given(samples, samples, st.integers(0, 100))
def test_order_of_readings_is_irrelevant(border, reference, seed):
    rng = np.random.default_rng(seed)
    assert of(rng.permutation(border), rng.permutation(reference)) == of(border, reference)


@cases(100)
@given(small_integers, st.integers(1, 5))
def test_repeating_all_readings_changes_nothing(values, times):
    reference = [0, 1, 1, 2]
    assert same(of(values * times, reference), of(values, reference))


def test_contrast_does_not_change_its_inputs():
    border, reference = torch.randn(30, 2), torch.randn(20, 2)
    copies = border.clone(), reference.clone()
    contrast(border, reference)
    assert torch.equal(border, copies[0]) and torch.equal(reference, copies[1])


def test_contrast_takes_views_that_are_not_contiguous():
    values = torch.randint(0, 9, (3, 40)).float()
    assert torch.equal(contrast(values.T[::2], values.T[1::2]), contrast(values.T[::2].clone(), values.T[1::2].clone()))


# ---- what it says


def test_a_border_above_all_of_the_reference_has_contrast_plus_one():
    assert of([5, 6], [1, 2, 3]) == 1


def test_a_border_below_all_of_the_reference_has_contrast_minus_one():
    assert of([-5, -6], [1, 2, 3]) == -1


@cases(100)
@given(samples)
def test_a_sample_does_not_differ_from_itself(values):
    assert of(values, values) == 0


@cases(150)
@given(samples, samples)
def test_contrast_lies_between_minus_one_and_one(border, reference):
    assert -1 <= of(border, reference) <= 1


@pytest.mark.parametrize("value", [0.0, 1.0, -3.25, 0.1, 1e-30, 1e30])
def test_two_constants_that_are_equal_do_not_differ(value):
    assert of([value] * 9, [value] * 4) == 0


@pytest.mark.parametrize("low, high", [(0.0, 1e-30), (-2.0, 2.0), (1.0, 1.001), (-1e30, 1e30), (-6.0, 0.0)])
def test_two_constants_that_are_unequal_differ_wholly(low, high):
    assert of([high] * 9, [low] * 4) == 1


def test_zero_and_minus_zero_are_equal():
    assert of([0.0] * 8, [-0.0] * 8) == 0


# ---- numbers at the ends of the range


@pytest.mark.parametrize("size", [1e37, 1.6e38, 1.8e38, 3e38])
def test_huge_readings_differ_like_any_others(size):
    assert of([size] * 9, [-size] * 4) == 1


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e-37])
def test_tiny_readings_differ_like_any_others(size):
    assert of([size] * 9, [-size] * 4) == 1


@pytest.mark.parametrize("size", [1e-39, 1e-42, 1.5e-45])
def test_subnormal_readings_give_a_number(size):
    assert -1 <= of([size] * 9, [0.0] * 4) <= 1


def test_a_bfloat16_reading_beyond_float16_is_a_number_like_any_other():
    assert of([1e10] * 9, [1.0] * 9, torch.bfloat16) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["border", "reference"])
def test_a_reading_that_is_not_finite_makes_its_channel_nan(bad, where):
    border, reference = torch.randn(9, 3), torch.randn(7, 3)
    (border if where == "border" else reference)[4, 1] = bad
    assert contrast(border, reference).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reading_that_is_not_finite_leaves_the_other_channels_alone(bad):
    border, reference = torch.randn(9, 3), torch.randn(7, 3)
    before = contrast(border, reference)
    border[4, 1] = bad
    assert torch.equal(contrast(border, reference)[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("n, m", [(0, 5), (5, 0), (0, 0)])
def test_contrast_without_readings_is_nan(n, m):
    assert contrast(torch.randn(n, 3), torch.randn(m, 3)).isnan().tolist() == [True] * 3


def test_contrast_of_no_channels_is_empty():
    assert contrast(torch.randn(5, 0), torch.randn(5, 0)).shape == (0,)


# ---- rounding is not signal

readings = st.floats(-1e6, 1e6, width=32).filter(lambda value: value == 0 or abs(value) > 1e-6)


@cases(400)
@given(readings, st.sampled_from([-np.inf, np.inf]))
def test_a_constant_that_differs_by_one_bit_does_not_differ(value, direction):
    other = np.nextafter(np.float32(value), np.float32(direction))
    assert of([other] * 9, [value] * 9) == 0


@cases(150)
@given(samples, st.floats(1e-3, 1e3))
def test_readings_that_differ_by_one_bit_each_never_come_near_the_threshold(values, scale):
    reference = np.asarray(values, dtype=np.float32) * np.float32(scale)
    border = np.nextafter(reference, np.float32(np.inf))
    assert abs(of(border, reference)) <= 0.5


@pytest.mark.parametrize("noise", [0.0, 6e-8, 1e-7])
def test_continuous_readings_that_are_all_larger_by_rounding_hardly_differ(noise):
    reference = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    border = np.nextafter(reference + np.abs(reference) * np.float32(noise), np.float32(np.inf))
    assert abs(of(border, reference)) <= 3 / 2000


@cases(100)
@given(st.integers(1, 100))
def test_a_difference_well_above_rounding_is_signal(parts):
    assert of([1 + parts * 1e-4] * 9, [1.0] * 9) == 1


# ---- invariance


@cases(100)
@given(samples, samples, st.integers(-90, 90))
def test_a_scale_changes_nothing(border, reference, power):
    scaled = [np.asarray(values, dtype=np.float64) * 2.0**power for values in (border, reference)]
    assert of(*scaled) == of(border, reference)


@cases(100)
@given(samples, samples, st.floats(1e-3, 1e3))
def test_a_scale_that_rounds_changes_nothing(border, reference, scale):
    scaled = [np.asarray(values, dtype=np.float64) * scale for values in (border, reference)]
    assert same(of(*scaled), of(border, reference))


@cases(100)
@given(small_integers, small_integers, st.integers(-1000, 1000))
def test_a_shift_changes_nothing(border, reference, shift):
    shifted = [[value + shift for value in values] for values in (border, reference)]
    assert of(*shifted) == of(border, reference)


@cases(100)
@given(samples, samples)
def test_swapping_the_samples_keeps_the_size(border, reference):
    assert abs(of(border, reference)) == abs(of(reference, border))


# ---- thin


def distribution_gap(some: np.ndarray, rest: np.ndarray) -> float:
    """Largest difference of two empirical distribution functions, counted at every value."""
    points = np.concatenate([some, rest])
    return np.abs((some <= points[:, None]).mean(1) - (rest <= points[:, None]).mean(1)).max()


@cases(400)
@given(samples, st.integers(1, 12), st.integers(0, 11))
def test_thinning_moves_the_distribution_by_at_most_step_over_readings(values, step, start):
    kept = thin(column(values), step, start % min(step, len(values)))[:, 0].numpy()
    assert distribution_gap(kept, np.asarray(values, dtype=np.float32)) <= step / len(values) + 1e-9


@cases(100)
@given(small_integers, st.integers(1, 9), st.integers(0, 8))
def test_thinning_keeps_about_one_in_step(values, step, start):
    kept = len(thin(column(values), step, start % step))
    assert abs(kept - len(values) / step) < 1


@cases(100)
@given(small_integers, st.integers(1, 9))
def test_thinning_with_every_start_keeps_every_reading_once(values, step):
    kept = torch.cat([thin(column(values), step, start) for start in range(step)])
    assert sorted(kept[:, 0].tolist()) == sorted(map(float, values))


def test_thinning_treats_channels_apart():
    a, b = torch.randn(50, 1), torch.randn(50, 1)
    assert torch.equal(thin(torch.cat([a, b], 1), 3, 1), torch.cat([thin(a, 3, 1), thin(b, 3, 1)], 1))


def test_thinned_readings_ascend():
    assert (thin(torch.randn(99, 4), 2, 1).diff(dim=0) >= 0).all()


def test_thinning_leaves_its_input_alone():
    readings = torch.randn(20, 2)
    copy = readings.clone()
    thin(readings, 2, 0)
    assert torch.equal(readings, copy)


# ---- moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mean_and_std_are_those_of_numpy(dtype):
    values = (torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * 3 + 20).to(dtype)
    mean, std = mean_and_std(moments(values))
    exact = values.double().numpy()
    assert np.allclose(mean, exact.mean(0), rtol=1e-12) and np.allclose(std, exact.std(0), rtol=1e-9)


def test_moments_add_over_batches_of_unequal_size():
    values = torch.randn(100, 3, dtype=torch.float64)
    parts = sum(moments(part) for part in values.split([1, 60, 39]))
    assert torch.allclose(parts, moments(values), rtol=1e-12)


def test_moments_are_float64_whatever_the_readings():
    assert moments(torch.randn(4, 2, dtype=torch.float16)).dtype == torch.float64


def test_moments_of_no_readings_are_zero():
    assert torch.equal(moments(torch.empty(0, 3)), torch.zeros(3, 3, dtype=torch.float64))


def test_squares_of_half_precision_readings_do_not_overflow():
    mean, std = mean_and_std(moments(torch.tensor([[6e4], [-6e4]], dtype=torch.float16)))
    assert mean == 0 and std.item() == pytest.approx(6e4, rel=1e-3)


@pytest.mark.parametrize("value", [0.1, -0.1, 1 / 3, 1e-20, 12345.678, 1e15, 0.0])
def test_spread_of_a_constant_is_exactly_zero(value):
    mean, std = mean_and_std(moments(torch.full((1000, 2), value, dtype=torch.float64)))
    assert torch.equal(std, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("mean", [1.0, 1e3, -1e6])
def test_spread_of_a_constant_with_rounding_noise_is_exactly_zero(mean):
    rng = np.random.default_rng(0)
    values = torch.tensor(mean * (1 + 1e-7 * rng.uniform(-1, 1, (1000, 3))), dtype=torch.float32)
    assert mean_and_std(moments(values))[1].tolist() == [0, 0, 0]


def test_spread_that_is_small_beside_the_mean_is_kept():
    values = 1000 + 0.1 * torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert np.allclose(mean_and_std(moments(values))[1], values.numpy().std(0), rtol=1e-4)


def test_mean_without_readings_is_nan():
    assert mean_and_std(torch.zeros(3, 2, dtype=torch.float64))[0].isnan().all()


def test_spread_without_readings_is_nan():
    assert mean_and_std(torch.zeros(3, 2, dtype=torch.float64))[1].isnan().all()


def test_mean_and_std_keep_further_dimensions():
    sums = torch.stack([moments(torch.randn(9, 4)) for _ in range(8)], dim=1)  # (3, sides, channels)
    assert [part.shape for part in mean_and_std(sums)] == [(8, 4), (8, 4)]
