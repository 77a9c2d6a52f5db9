"""The metrics: contrast against scipy, bias and effect against numpy, and the same from one process and from two."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from pan_callbacks.measurement.metrics import BorderBias, PaddingAwareness, PaddingEffect
from pan_callbacks.padding import SIDES
from tests.support.processes import results_of_two

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric .* was called before the ``update``")


def scipy_contrast(border: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of every channel, + where the border is larger."""
    from scipy.stats import ks_2samp  # here, for the processes that this file starts have no use for it

    found = []
    for channel in range(border.shape[1]):
        samples = border[:, channel], reference[:, channel]
        larger = ks_2samp(*samples, alternative="less", method="asymp").statistic
        smaller = ks_2samp(*samples, alternative="greater", method="asymp").statistic
        found.append(larger if larger > smaller - 1e-9 else -smaller)
    return np.array(found)


def levels(seed: int, n: int, channels: int = 4, shift: float = 0.0) -> torch.Tensor:
    """Readings that rounding keeps apart, so that scipy's answer is exactly ours."""
    rng = np.random.default_rng(seed)
    return torch.tensor(np.round(40 * (rng.normal(size=(n, channels)) + shift)), dtype=torch.float32)


def rows_held(metric: PaddingAwareness) -> list[int]:
    return [len(sample) for side in metric.sides for sample in metric.samples(side)]


# ---- exact while everything fits


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_contrast_below_capacity_is_that_of_scipy(batch):
    border, reference = levels(0, 300, shift=0.4), levels(1, 500)
    metric = PaddingAwareness(4, ("top",))
    for part in border.split(batch):
        metric.update({"top": part}, {})
    for part in reference.split(batch):
        metric.update({}, {"top": part})
    assert np.allclose(metric.compute()[0], scipy_contrast(border.numpy(), reference.numpy()), atol=1e-6)


def test_contrast_at_capacity_is_that_of_scipy():
    border, reference = levels(0, 512, shift=0.4), levels(1, 512)
    metric = PaddingAwareness(4, ("top",), capacity=512)
    metric.update({"top": border}, {"top": reference})
    assert np.allclose(metric.compute()[0], scipy_contrast(border.numpy(), reference.numpy()), atol=1e-6)


def test_every_side_has_its_own_samples():
    border = {side: levels(i, 50, shift=i / 8) for i, side in enumerate(SIDES)}
    reference = {side: levels(100 + i, 60) for i, side in enumerate(SIDES)}
    metric = PaddingAwareness(4)
    metric.update(border, reference)
    expected = [scipy_contrast(border[side].numpy(), reference[side].numpy()) for side in SIDES]
    assert np.allclose(metric.compute(), np.array(expected), atol=1e-6)


def test_a_reference_that_all_sides_share_is_compared_with_each():
    border, reference = {"top": levels(0, 50), "left": levels(1, 70, shift=1.0)}, levels(2, 90)
    metric = PaddingAwareness(4, ("top", "left"))
    metric.update(border, reference)
    expected = [scipy_contrast(border[side].numpy(), reference.numpy()) for side in ("top", "left")]
    assert np.allclose(metric.compute(), np.array(expected), atol=1e-6)


def test_order_of_batches_is_irrelevant():
    parts = [(levels(i, 20 + i, shift=0.3), levels(50 + i, 30)) for i in range(8)]
    forwards, backwards = PaddingAwareness(4, ("top",)), PaddingAwareness(4, ("top",))
    for border, reference in parts:
        forwards.update({"top": border}, {"top": reference})
    for border, reference in reversed(parts):
        backwards.update({"top": border}, {"top": reference})
    assert torch.equal(forwards.compute(), backwards.compute())


def test_a_batch_without_readings_changes_nothing():
    metric = PaddingAwareness(4, ("top",))
    metric.update({"top": levels(0, 30, shift=0.5)}, levels(1, 30))
    before = metric.compute()
    metric.update({"top": torch.empty(0, 4)}, torch.empty(0, 4))
    assert torch.equal(metric.compute(), before)


def test_readings_in_half_precision_are_taken():
    border, reference = levels(0, 30, shift=0.5), levels(1, 40)
    metric = PaddingAwareness(4, ("top",))
    metric.update({"top": border.half()}, reference.bfloat16())
    assert torch.allclose(metric.compute()[0], torch.tensor(scipy_contrast(border.numpy(), reference.numpy())).float())


def test_readings_that_carry_a_gradient_are_kept_without_it():
    metric = PaddingAwareness(4, ("top",), capacity=16)
    for seed in range(4):
        metric.update({"top": levels(seed, 30).requires_grad_()}, levels(9, 30).requires_grad_())
    assert not any(block.requires_grad for block in metric.values)


def test_readings_are_copies_that_the_caller_may_overwrite():
    border, reference = levels(0, 30, shift=0.5), levels(1, 40)
    metric = PaddingAwareness(4, ("top",))
    metric.update({"top": border}, reference)
    expected = scipy_contrast(border.numpy(), reference.numpy())
    border.zero_()
    assert np.allclose(metric.compute()[0], expected, atol=1e-6)


# ---- what is missing


def test_a_side_that_was_never_seen_is_nan():
    metric = PaddingAwareness(4, ("top", "left"))
    metric.update({"top": levels(0, 30)}, levels(1, 30))
    assert metric.compute().isnan().any(1).tolist() == [False, True]


@pytest.mark.parametrize("border, reference", [(7, 100), (100, 7)])
def test_fewer_readings_than_asked_for_are_nan(border, reference):
    metric = PaddingAwareness(4, ("top",), min_readings=8)
    metric.update({"top": levels(0, border)}, {"top": levels(1, reference)})
    assert metric.compute().isnan().all()


def test_as_many_readings_as_asked_for_are_enough():
    metric = PaddingAwareness(4, ("top",), min_readings=8)
    metric.update({"top": levels(0, 8)}, {"top": levels(1, 8)})
    assert metric.compute().isfinite().all()


def test_a_metric_that_saw_nothing_is_nan():
    assert PaddingAwareness(3).compute().isnan().all()


def test_output_is_sides_by_channels():
    assert PaddingAwareness(3).compute().shape == (8, 3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_reading_that_is_not_finite_makes_its_channel_nan(bad):
    border = levels(0, 30)
    border[3, 1] = bad
    metric = PaddingAwareness(4, ("top",))
    metric.update({"top": border}, levels(1, 30))
    assert metric.compute()[0].isnan().tolist() == [False, True, False, False]


# ---- errors


@pytest.mark.parametrize("where", ["border", "reference"])
def test_an_unknown_side_is_named(where):
    readings = {"border": {}, "reference": {}}
    readings[where] = {"middle": levels(0, 10)}
    with pytest.raises(ValueError, match="'middle'.*top, left"):
        PaddingAwareness(4, ("top", "left")).update(**readings)


@pytest.mark.parametrize("shape", [(10, 3), (10,), (10, 4, 1), (0, 3)])
def test_readings_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="4 channels"):
        PaddingAwareness(4, ("top",)).update({"top": torch.zeros(shape)}, {})


# ---- bounded memory beyond capacity

STREAM = 20_000
SHIFTS = np.linspace(-0.5, 2, 8)


def stream(kind: str, seed: int, shifts: np.ndarray | float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (STREAM, len(SHIFTS))
    normal = rng.normal(size=shape) + shifts
    values = {
        "normal": lambda: normal,
        "cauchy": lambda: rng.standard_cauchy(shape) + shifts,
        "relu": lambda: np.maximum(normal, 0),
        "point mass": lambda: np.where(rng.random(shape) < 0.4, 1.0, normal),
        "integers": lambda: np.round(3 * normal),
    }[kind]()
    return values.astype(np.float32)


def fed(border: np.ndarray, reference: np.ndarray, capacity: int, batch: int) -> PaddingAwareness:
    metric = PaddingAwareness(border.shape[1], ("top",), capacity=capacity)
    for start in range(0, len(border), batch):
        part = slice(start, start + batch)
        metric.update({"top": torch.from_numpy(border[part])}, {"top": torch.from_numpy(reference[part])})
    return metric


@pytest.mark.parametrize("capacity, batch", [(1024, 1000), (4096, 250), (4096, 16)])
@pytest.mark.parametrize("kind", ["normal", "cauchy", "relu", "point mass", "integers"])
def test_contrast_beyond_capacity_is_within_a_hundredth_of_scipy(kind, capacity, batch):
    border, reference = stream(kind, 0, SHIFTS), stream(kind, 1, 0.0)
    found = fed(border, reference, capacity, batch).compute()[0].numpy()
    assert np.abs(found - scipy_contrast(border, reference)).max() <= 0.01


@pytest.mark.parametrize("kind", ["relu", "point mass", "integers"])
def test_a_neuron_that_does_not_tell_the_border_stays_near_zero_beyond_capacity(kind):
    border, reference = stream(kind, 0, 0.0), stream(kind, 1, 0.0)
    assert fed(border, reference, 4096, 250).compute().abs().max() < 0.03


@pytest.mark.parametrize("batch", [1, 3, 50, 64, 65, 1000])
def test_no_sample_outgrows_its_capacity(batch):
    metric = PaddingAwareness(2, ("top", "left"), capacity=64)
    most = 0
    for seed in range(40):
        metric.update({"top": levels(seed, batch, 2), "left": levels(seed, batch, 2)}, levels(seed, batch, 2))
        most = max(most, *rows_held(metric))
    assert most <= 64


def test_a_sample_never_shrinks_below_a_quarter_of_its_capacity():
    metric = PaddingAwareness(2, ("top",), capacity=64)
    metric.update({"top": levels(0, 64, 2)}, levels(0, 64, 2))
    fewest = 64
    for seed in range(60):
        metric.update({"top": levels(seed, 7, 2)}, levels(seed, 7, 2))
        fewest = min(fewest, *rows_held(metric))
    assert fewest >= 16


def test_number_of_stored_tensors_is_bounded_however_small_the_batches():
    metric = PaddingAwareness(1, ("top",), capacity=16)
    for _ in range(600):
        metric.update({"top": torch.randn(1, 1)}, {"top": torch.randn(1, 1)})
    assert len(metric.values) <= 2 * 16


# ---- merging, resetting, copying


def test_two_metrics_merged_equal_one_that_saw_everything():
    first, second, whole = (PaddingAwareness(4, ("top", "left")) for _ in range(3))
    for seed, metric in enumerate((first, second, first, second)):
        border = {"top": levels(seed, 30, shift=0.3), "left": levels(9 + seed, 20 + seed)}
        reference = levels(20 + seed, 40)
        metric.update(border, reference)
        whole.update(border, reference)
    first.merge_state(second)
    assert torch.equal(first.compute(), whole.compute())


def test_a_metric_goes_on_after_a_merge():
    first, second, whole = (PaddingAwareness(4, ("top",)) for _ in range(3))
    for seed, metric in enumerate((first, second)):
        metric.update({"top": levels(seed, 30)}, levels(9, 40))
        whole.update({"top": levels(seed, 30)}, levels(9, 40))
    first.merge_state(second)
    for metric in (first, whole):
        metric.update({"top": levels(5, 30, shift=2)}, levels(6, 30))
    assert torch.equal(first.compute(), whole.compute())


@pytest.mark.parametrize("sizes", [(20_000, 20_000), (20_000, 500), (500, 20_000)])
def test_merged_streams_beyond_capacity_are_within_a_hundredth_of_scipy(sizes):
    border = [stream("relu", 2 * i, SHIFTS)[:n] for i, n in enumerate(sizes)]
    reference = [stream("relu", 2 * i + 1, 0.0)[:n] for i, n in enumerate(sizes)]
    first, second = (fed(b, r, 4096, 500) for b, r in zip(border, reference, strict=True))
    first.merge_state(second)
    expected = scipy_contrast(np.concatenate(border), np.concatenate(reference))
    assert np.abs(first.compute()[0].numpy() - expected).max() <= 0.01


def test_reset_forgets_everything():
    metric, fresh = PaddingAwareness(4, ("top",), capacity=64), PaddingAwareness(4, ("top",), capacity=64)
    for seed in range(5):
        metric.update({"top": levels(seed, 50, shift=2)}, levels(seed, 50))
    metric.reset()
    for one in (metric, fresh):
        one.update({"top": levels(7, 60)}, levels(8, 60))
    assert torch.equal(metric.compute(), fresh.compute())


def test_computing_between_a_reset_and_the_next_update_changes_nothing():
    border, reference = levels(0, 64, shift=0.5), levels(1, 64)
    metric = PaddingAwareness(4, ("top",), capacity=64)
    metric.update({"top": border}, {})
    metric.reset()
    metric.compute()
    metric.update({"top": border}, {"top": reference})
    assert rows_held(metric) == [64, 64]


def test_computing_before_the_first_update_changes_nothing():
    border, reference = levels(0, 64, shift=0.5), levels(1, 64)
    metric = PaddingAwareness(4, ("top",), capacity=64)
    metric.compute()
    metric.update({"top": border}, {"top": reference})
    assert np.allclose(metric.compute()[0], scipy_contrast(border.numpy(), reference.numpy()), atol=1e-6)


def test_forward_gives_the_contrast_of_the_batch_and_keeps_that_of_all():
    metric = PaddingAwareness(4, ("top",))
    batches = [(levels(i, 30, shift=i), levels(9 + i, 30)) for i in range(3)]
    found = [metric({"top": border}, reference)[0] for border, reference in batches]
    expected = [scipy_contrast(border.numpy(), reference.numpy()) for border, reference in batches]
    whole = [torch.cat(parts).numpy() for parts in zip(*batches, strict=True)]
    assert np.allclose(torch.stack(found), np.array(expected), atol=1e-6)
    assert np.allclose(metric.compute()[0], scipy_contrast(*whole), atol=1e-6)


def pickled(metric: PaddingAwareness) -> PaddingAwareness:
    return pickle.loads(pickle.dumps(metric))


@pytest.mark.parametrize("how", [copy.deepcopy, pickled])
def test_a_copy_goes_on_like_the_original(how):
    metric = PaddingAwareness(4, ("top",), capacity=64)
    for seed in range(5):
        metric.update({"top": levels(seed, 50, shift=0.5)}, levels(seed + 50, 50))
    twin = how(metric)
    for one in (metric, twin):
        one.update({"top": levels(7, 50)}, levels(8, 50))
    assert torch.equal(metric.compute(), twin.compute())


def test_a_copy_is_independent_of_the_original():
    metric = PaddingAwareness(4, ("top",))
    metric.update({"top": levels(0, 30)}, levels(1, 30))
    before, twin = metric.compute(), copy.deepcopy(metric)
    twin.update({"top": levels(2, 30, shift=5)}, levels(3, 30))
    metric._computed = None  # so that it is computed anew
    assert torch.equal(metric.compute(), before)


def test_state_survives_a_state_dict():
    metric, twin = PaddingAwareness(4, ("top",)), PaddingAwareness(4, ("top",))
    metric.persistent(True)
    metric.update({"top": levels(0, 30, shift=0.5)}, levels(1, 30))
    twin.persistent(True)
    twin.load_state_dict(metric.state_dict())
    assert torch.equal(twin.compute(), metric.compute())


# ---- border bias and padding effect


def numpy_bias(border: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    border, reference = border.double().numpy(), reference.double().numpy()
    return (border.mean(0) - reference.mean(0)) / reference.std(0)


def test_border_bias_by_neuron_is_that_of_numpy():
    border, reference = torch.randn(50, 4) + 3, torch.randn(70, 4) * 2
    metric = BorderBias(4, ("top",))
    metric.update({"top": border}, {"top": reference})
    assert np.allclose(metric.by_neuron()[0], numpy_bias(border, reference))


def test_border_bias_is_the_mean_size_over_sides_and_channels():
    border = {"top": torch.randn(50, 4) + 3, "left": torch.randn(20, 4) - 1}
    reference = torch.randn(70, 4) * 2
    metric = BorderBias(4, ("top", "left"))
    metric.update(border, reference)
    expected = np.mean([np.abs(numpy_bias(border[side], reference)) for side in border])
    assert metric.compute().item() == pytest.approx(expected, rel=1e-6)


def test_border_bias_over_batches_of_unequal_size_is_that_of_all_readings():
    border, reference = torch.randn(50, 4) + 3, torch.randn(70, 4)
    metric = BorderBias(4, ("top",))
    for part in border.split([1, 40, 9]):
        metric.update({"top": part}, {})
    for part in reference.split([60, 10]):
        metric.update({}, part)
    assert metric.compute().item() == pytest.approx(np.abs(numpy_bias(border, reference)).mean(), rel=1e-6)


def test_a_channel_whose_reference_is_constant_is_left_out_of_border_bias():
    border, reference = torch.randn(50, 3) + 3, torch.randn(70, 3)
    reference[:, 1] = 0.1
    metric = BorderBias(3, ("top",))
    metric.update({"top": border}, reference)
    expected = np.abs(numpy_bias(border[:, [0, 2]], reference[:, [0, 2]])).mean()
    assert metric.compute().item() == pytest.approx(expected, rel=1e-6)


def test_a_side_without_border_is_left_out_of_border_bias():
    border, reference = torch.randn(50, 3) + 3, torch.randn(70, 3)
    metric = BorderBias(3)
    metric.update({"top": border}, reference)
    assert metric.compute().item() == pytest.approx(np.abs(numpy_bias(border, reference)).mean(), rel=1e-6)


def test_border_bias_of_nothing_is_nan():
    assert BorderBias(3).compute().isnan()


def test_border_bias_of_constant_references_is_nan():
    metric = BorderBias(2, ("top",))
    metric.update({"top": torch.randn(9, 2)}, torch.full((9, 2), 0.3))
    assert metric.compute().isnan()


@pytest.mark.parametrize("kind", [BorderBias, PaddingEffect])
def test_merged_sums_equal_those_of_one_metric(kind):
    first, second, whole = (kind(4, ("top",)) for _ in range(3))
    for metric in (first, second):
        border, reference = torch.randn(30, 4) + 1, torch.randn(40, 4)
        metric.update({"top": border}, reference)
        whole.update({"top": border}, reference)
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute())


def test_border_bias_does_not_change_when_readings_are_scaled_and_shifted():
    border, reference = torch.randn(50, 4) + 3, torch.randn(70, 4)
    metrics = BorderBias(4, ("top",)), BorderBias(4, ("top",))
    metrics[0].update({"top": border}, reference)
    metrics[1].update({"top": 5 * border + 7}, 5 * reference + 7)
    torch.testing.assert_close(metrics[0].compute(), metrics[1].compute(), rtol=1e-4, atol=0)


def test_padding_effect_is_the_mean_difference_in_deviations_of_the_reference():
    difference, reference = torch.randn(50, 4) + 3, torch.randn(70, 4) * 2 + 9
    metric = PaddingEffect(4, ("top",))
    metric.update({"top": difference}, reference)
    expected = difference.double().numpy().mean(0) / reference.double().numpy().std(0)
    assert np.allclose(metric.compute()[0], expected, rtol=1e-5)


def test_padding_effect_is_nan_where_a_side_has_no_border():
    metric = PaddingEffect(2, ("top", "left"))
    metric.update({"top": torch.randn(50, 2)}, torch.randn(70, 2))
    assert metric.compute().isnan().tolist() == [[False, False], [True, True]]


def test_padding_effect_is_nan_where_neither_the_padding_nor_the_reference_moves_a_neuron():
    metric = PaddingEffect(1, ("top",))
    metric.update({"top": torch.zeros(50, 1)}, torch.full((70, 1), -4.0))
    assert metric.compute().isnan().all()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("value", [0.0, 0.1, -4.0])
def test_any_difference_beside_a_constant_reference_is_a_large_effect(sign, value):
    metric = PaddingEffect(1, ("top",))
    metric.update({"top": torch.full((50, 1), sign * 0.1)}, torch.full((70, 1), value))
    assert sign * metric.compute().item() > 100


def test_differences_and_references_may_come_in_separate_updates():
    difference, reference = torch.randn(50, 4), torch.randn(70, 4)
    metrics = PaddingEffect(4, ("top",)), PaddingEffect(4, ("top",))
    metrics[0].update({"top": difference}, {"top": reference})
    metrics[1].update({"top": difference}, {})
    metrics[1].update({}, {"top": reference})
    assert torch.equal(metrics[0].compute(), metrics[1].compute())


# ---- two processes give what one gives

KINDS = {"contrast": PaddingAwareness, "bias": BorderBias, "effect": PaddingEffect}
UPDATES = [
    (
        {"top": levels(i, 20 + i, shift=0.5), "left": levels(9 + i, 30)},
        {"top": levels(20 + i, 40), "left": levels(i, 9)},
    )
    for i in range(6)
]
#: Updates that each of two ranks sees.
SPLITS = {
    "alternating": [UPDATES[::2], UPDATES[1::2]],
    "second rank saw nothing": [UPDATES, []],
    "first rank saw nothing": [[], UPDATES],
    "nobody saw anything": [[], []],
    "first rank saw one side, second the other": [
        [({"top": border["top"]}, {"top": reference["top"]}) for border, reference in UPDATES],
        [({"left": border["left"]}, {"left": reference["left"]}) for border, reference in UPDATES],
    ],
}


def fed_with(kind: str, updates: list) -> torch.Tensor:
    metric = KINDS[kind](4, ("top", "left"))
    for border, reference in updates:
        metric.update(border, reference)
    return metric.compute()


def long_streams() -> tuple[np.ndarray, np.ndarray]:
    return stream("relu", 0, SHIFTS), stream("relu", 1, 0.0)


def run_rank(rank: int, folder: str) -> dict:
    """What each of two processes does; its results are read by the tests."""
    results = {(kind, split): fed_with(kind, parts[rank]) for kind in KINDS for split, parts in SPLITS.items()}

    again = PaddingAwareness(4, ("top", "left"))
    for border, reference in SPLITS["alternating"][rank]:
        again.update(border, reference)
        again.compute()  # reduced, and then on its own again
    results["computed after every update"] = again.compute()
    results["samples on their own"] = rows_held(again)

    again.reset()
    for border, reference in SPLITS["second rank saw nothing"][rank]:
        again.update(border, reference)
    results["after a reset"] = again.compute()

    half = slice(rank, None, 2)
    results["beyond capacity"] = fed(*(part[half] for part in long_streams()), capacity=4096, batch=250).compute()
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """Results of two processes."""
    return results_of_two(run_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_what_one_gives(kind, split, ranks):
    together = fed_with(kind, [update for part in SPLITS[split] for update in part])
    rtol = 0 if kind == "contrast" else 1e-6
    for results in ranks:
        torch.testing.assert_close(results[kind, split], together, equal_nan=True, rtol=rtol, atol=0)


@pytest.mark.parametrize("result", ["computed after every update", "after a reset"])
def test_a_metric_goes_on_after_it_was_reduced(result, ranks):
    expected = fed_with("contrast", UPDATES)
    assert all(torch.equal(results[result], expected) for results in ranks)


def test_every_process_has_its_own_readings_again_after_it_was_reduced(ranks):
    held = np.array([results["samples on their own"] for results in ranks]).sum(0)
    together = PaddingAwareness(4, ("top", "left"))
    for border, reference in UPDATES:
        together.update(border, reference)
    assert held.tolist() == rows_held(together)


def test_two_processes_beyond_capacity_are_within_a_hundredth_of_scipy(ranks):
    expected = scipy_contrast(*long_streams())
    assert all(np.abs(results["beyond capacity"][0].numpy() - expected).max() <= 0.01 for results in ranks)
