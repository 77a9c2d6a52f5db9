"""The tally against loops over images, with scipy and the statistics module; its sums have no order."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from pan_callbacks.suppression.predictions import Comparison, correlation

IMAGES, CLASSES = 150, 6


def drawn(seed: int = 0, images: int = IMAGES, classes: int = CLASSES) -> tuple[torch.Tensor, ...]:
    """Probabilities before and after, labels that the first predict well, and halves."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    before = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    before[torch.arange(images), labels] += 1.5
    after = before + torch.randn(images, classes, generator=generator)
    return before.softmax(1), after.softmax(1), labels, torch.arange(images) % 2


def tallied(before, after, labels, halves, batch: int = 32, order=None) -> dict:
    """What a tally finds, fed in batches."""
    tally = Comparison(before.shape[1])
    starts = range(0, len(before), batch)
    for number in range(len(starts)) if order is None else order:
        part = slice(starts[number], starts[number] + batch)
        tally.update(before[part], after[part], None if labels is None else labels[part], halves[part])
    return tally.compute()


def same(a: dict, b: dict) -> bool:
    """Whether two results hold the same bits."""

    def flat(found: dict) -> list:
        values = [value for value in found.values() if not isinstance(value, dict)] + list(found["classes"].values())
        return [torch.as_tensor(value, dtype=torch.float64).tolist() for value in values]

    return repr(flat(a)) == repr(flat(b))


@pytest.fixture(scope="module")
def data():
    return drawn()


@pytest.fixture(scope="module")
def found(data):
    return tallied(*data)


def right(data) -> tuple[list[bool], list[bool]]:
    """Whether each image was right before, and is now."""
    before, after, labels, _ = data
    return tuple(
        [int(np.argmax(p)) == int(y) for p, y in zip(part.numpy(), labels, strict=True)] for part in (before, after)
    )


class TestAgainstLoops:
    def test_images(self, found):
        assert found["images"] == IMAGES

    def test_accuracy(self, data, found):
        assert found["accuracy"] == statistics.fmean(right(data)[1])

    def test_divergence(self, data, found):
        before, after = data[0].numpy(), data[1].numpy()
        assert found["kl"] == pytest.approx(rel_entr(before, after).sum(1).mean(), abs=1e-9)

    def test_flips(self, data, found):
        flips = [int(np.argmax(a)) != int(np.argmax(b)) for a, b in zip(data[0].numpy(), data[1].numpy(), strict=True)]
        assert found["flips"] == statistics.fmean(flips)

    def test_change_of_accuracy_by_class(self, data, found):
        was, now = right(data)
        for c in range(CLASSES):
            own = [i for i in range(IMAGES) if data[2][i] == c]
            change = statistics.fmean(now[i] - was[i] for i in own)
            assert found["classes"]["change"][c] == pytest.approx(change, abs=1e-6)
            assert found["classes"]["images"][c] == len(own)

    def test_interval_of_the_change_of_accuracy(self, data, found):
        was, now = right(data)
        lost = sum(a and not b for a, b in zip(was, now, strict=True))
        gained = sum(b and not a for a, b in zip(was, now, strict=True))
        worse, better = (lost + 1) / (IMAGES + 2), (gained + 1) / (IMAGES + 2)
        error = statistics.NormalDist().inv_cdf(0.975) * math.sqrt(
            (worse + better - (better - worse) ** 2) / (IMAGES + 2)
        )
        assert (found["low"], found["high"]) == pytest.approx(
            (better - worse - error, better - worse + error), abs=1e-6
        )

    def test_shift_of_probability_with_its_interval(self, data, found):
        for c in range(CLASSES):
            moved = (data[1] - data[0])[:, c].tolist()
            mean, error = statistics.fmean(moved), 1.959964 * statistics.stdev(moved) / math.sqrt(IMAGES)
            values = [float(found["classes"][name][c]) for name in ("shift", "shift_low", "shift_high")]
            assert values == pytest.approx([mean, mean - error, mean + error], abs=1e-6)

    def test_split_half(self, data, found):
        shifts = [(data[1] - data[0])[half::2].mean(0).tolist() for half in (0, 1)]
        assert found["classes"]["split_half"] == pytest.approx(statistics.correlation(*shifts), abs=1e-6)

    def test_split_half_of_accuracy(self, data, found):
        was, now = right(data)
        changes = [
            [
                statistics.fmean(now[i] - was[i] for i in range(half, IMAGES, 2) if data[2][i] == c)
                for c in range(CLASSES)
            ]
            for half in (0, 1)
        ]
        assert found["classes"]["split_half_accuracy"] == pytest.approx(statistics.correlation(*changes), abs=1e-6)


class TestOrder:
    @pytest.mark.parametrize("seed", range(5))
    def test_any_order_of_batches_gives_the_same_bits(self, data, found, seed):
        order = torch.randperm(math.ceil(IMAGES / 32), generator=torch.Generator().manual_seed(seed)).tolist()
        assert same(tallied(*data, order=order), found)

    @pytest.mark.parametrize("batch", [1, 7, 64, IMAGES])
    def test_any_size_of_batches_gives_the_same_bits(self, data, found, batch):
        assert same(tallied(*data, batch=batch), found)

    def test_any_order_of_images_gives_the_same_bits(self, data, found):
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
        assert same(tallied(*(part[order] for part in data)), found)

    def test_other_data_give_others(self, found):
        assert not same(tallied(*drawn(seed=1)), found)


class TestSplitHalfTellsBiasFromNoise:
    def halves(self, bias: float, noise: float, seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        before = torch.randn(400, 50, generator=generator)
        after = before + bias * torch.randn(50, generator=generator) + noise * torch.randn(400, 50, generator=generator)
        result = tallied(before.softmax(1), after.softmax(1), None, torch.arange(400) % 2)
        return result["classes"]["split_half"]

    def test_near_one_for_a_characteristic_bias(self):
        assert min(self.halves(1.0, 0.2, seed) for seed in range(10)) > 0.9

    def test_near_zero_for_noise(self):
        assert (
            abs(statistics.fmean(self.halves(0.0, 1.0, seed) for seed in range(30))) < 0.1
        )  # one has a deviation of 0.14


class TestEdges:
    def test_the_same_prediction_has_no_divergence_at_all(self, data):
        result = tallied(data[0], data[0], *data[2:])
        assert (result["kl"], result["flips"]) == (0.0, 0.0)
        assert result["classes"]["shift"].tolist() == [0.0] * CLASSES

    def test_certain_predictions_have_a_finite_divergence(self):
        one = torch.eye(2)
        result = tallied(one, one.flip(0), torch.tensor([0, 1]), torch.tensor([0, 1]))
        assert 80 < result["kl"] < 100
        assert result["flips"] == 1.0

    def test_a_class_of_one_image_has_a_finite_and_wide_interval(self):
        before, after, _, halves = drawn(images=3)
        classes = tallied(before, after, torch.tensor([0, 1, 2]), halves)["classes"]
        assert classes["images"].tolist() == [1, 1, 1, 0, 0, 0]
        width = classes["high"] - classes["low"]
        assert width[:3].isfinite().all()
        assert (width[:3] > 1).all()
        assert width[3:].isnan().all()

    def test_without_labels_there_is_no_accuracy(self, data, found):
        result = tallied(*data[:2], None, data[3])
        assert math.isnan(result["accuracy"])
        assert math.isnan(result["low"])
        assert (result["kl"], result["flips"]) == (found["kl"], found["flips"])

    @pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
    def test_zero_images(self):
        result = Comparison(4).compute()
        assert result["images"] == 0
        assert all(math.isnan(result[name]) for name in ("accuracy", "kl", "flips", "low", "high"))
        assert result["classes"]["change"].isnan().all()
        assert math.isnan(result["classes"]["split_half"])

    def test_an_empty_batch_adds_nothing(self, data, found):
        tally = Comparison(CLASSES)
        tally.update(*data)
        tally.update(*(part[:0] for part in data))
        assert same(tally.compute(), found)

    def test_reset_forgets(self, data, found):
        tally = Comparison(CLASSES)
        tally.update(*drawn(seed=3))
        tally.reset()
        tally.update(*data)
        assert same(tally.compute(), found)


class TestCorrelation:
    def test_is_that_of_numpy(self):
        a, b = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
        assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)

    @pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [3.0, 3.0, 3.0]])
    def test_too_few_or_constant_values_have_none(self, values):
        assert math.isnan(correlation(torch.tensor(values), torch.arange(len(values))))
