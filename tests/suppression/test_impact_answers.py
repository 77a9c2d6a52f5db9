"""Impact on answers of every kind: any metric, any container, any split of the images, whatever memory there is."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from pan_callbacks import PANError, impact, masked
from pan_callbacks._runtime import Shard
from pan_callbacks.measurement.batches import answer_of
from pan_callbacks.suppression import impact as module
from pan_callbacks.suppression.masks import MODES
from pan_callbacks.suppression.predictions import Comparison, probabilities
from tests.support.synthetic import labelled, report_on, small_net

PANS = {"0": (0, 5), "3": (2,)}


def same(found, expected) -> bool:
    """Whether two reports hold the same figures, bit by bit."""
    return found.to_dict()["arms"] == expected.to_dict()["arms"] and found.images == expected.images


def quick(net: nn.Module, batches, **options):
    """Impact on what :func:`small_net` or a net with the same convolutions answers."""
    return impact(net, batches, report_on(net, PANS), **({"mode": "zero", "controls": 1, "progress": False} | options))


class TestMetrics:
    def regression(self) -> list:
        return [(images, torch.randn(len(images), 1)) for images, _ in labelled(20, 8)]

    def dense(self) -> tuple[nn.Module, list]:
        net = nn.Sequential(*small_net()[:5], nn.Upsample(scale_factor=2))
        net.eval()
        batches = [(images, torch.randint(8, (len(images), 12, 12))) for images, _ in labelled(12, 8)]
        return net, batches

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("metric", [MeanSquaredError, MeanAbsoluteError])
    def test_regression_is_as_by_hand_under_a_mask(self, metric, mode):
        net, batches = small_net(classes=1), self.regression()
        found = quick(net, batches, mode=mode, metric=metric())
        error = (lambda x: x.square()) if metric is MeanSquaredError else torch.abs
        with torch.no_grad(), masked(net, report_on(net, PANS), mode):
            by_hand = torch.cat([error(net(images) - labels) for images, labels in batches]).mean()
        assert found.arm("pans", mode).value == pytest.approx(float(by_hand), rel=1e-5)
        assert found.arm("pans", mode).value != found.baseline.value

    def test_pixel_accuracy_is_as_by_hand_under_a_mask(self):
        net, batches = self.dense()
        found = quick(net, batches, metric=MulticlassAccuracy(8, average="micro"))
        with torch.no_grad(), masked(net, report_on(net, PANS), "zero"):
            right = torch.cat([(net(images).argmax(1) == labels).flatten() for images, labels in batches])
        assert found.arm("pans", "zero").value == pytest.approx(float(right.double().mean()))

    def test_jaccard_index_is_as_by_hand_under_a_mask(self):
        net, batches = self.dense()
        found = quick(net, batches, metric=MulticlassJaccardIndex(8))
        with torch.no_grad(), masked(net, report_on(net, PANS), "zero"):
            answers = torch.cat([net(images).argmax(1) for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        both = [((answers == c) & (labels == c)).sum() / ((answers == c) | (labels == c)).sum() for c in range(8)]
        assert found.arm("pans", "zero").value == pytest.approx(float(torch.stack(both).mean()), rel=1e-5)

    def test_what_is_no_classifier_has_no_divergence_and_no_flips(self):
        found = quick(small_net(classes=1), self.regression(), metric=MeanSquaredError())
        assert {(arm.kl, arm.flips, arm.classes, arm.interval) for arm in found.arms} == {(None,) * 4}

    def test_a_classifier_with_a_metric_keeps_its_divergence(self):
        net, batches = small_net(), labelled(20, 8)
        plain, found = quick(net, batches), quick(net, batches, metric=MulticlassAccuracy(5, average="micro"))
        assert [arm.kl for arm in found.arms] == [arm.kl for arm in plain.arms]
        assert [arm.value for arm in found.arms] == pytest.approx([arm.value for arm in plain.arms])

    def test_the_metric_of_the_caller_is_copied(self):
        metric = MeanSquaredError()
        metric.update(torch.ones(3), torch.zeros(3))
        batches = self.regression()
        found = quick(small_net(classes=1), batches, metric=metric)
        assert metric.compute() == 1
        assert found.metric == "MeanSquaredError"
        assert same(found, quick(small_net(classes=1), batches, metric=MeanSquaredError()))

    def test_an_answer_of_several_axes_needs_a_metric(self):
        with pytest.raises(
            PANError, match=r"an answer of shape \(8, 8, 12, 12\) .* is no classification: give a metric="
        ):
            quick(*self.dense())

    def test_one_output_needs_a_metric(self):
        with pytest.raises(PANError, match="is no classification: give a metric="):
            quick(small_net(classes=1), labelled(4, 4))

    def test_a_metric_needs_labels(self):
        with pytest.raises(PANError, match="no labels, which MeanSquaredError needs"):
            quick(small_net(classes=1), [torch.randn(4, 3, 12, 12)], metric=MeanSquaredError())


class TestContainers:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda x: {"out": x, "aux": x[:, :2]},
            lambda x: {"aux": (x,), "logits": x},
            lambda x: {"anything": x},
            lambda x: (x, "rest"),
            lambda x: [x],
            lambda x: SimpleNamespace(logits=x),
            lambda x: {"out": (x,)},
        ],
        ids=["out", "logits", "first of a dict", "tuple", "list", "object", "nested"],
    )
    def test_the_answer_is_found(self, wrap):
        class Wrapped(nn.Sequential):
            def forward(self, x):
                return wrap(super().forward(x))

        batches = labelled(8, 8)
        assert same(quick(Wrapped(*small_net()).eval(), batches), quick(small_net(), batches))

    @pytest.mark.parametrize("output", [None, {}, (), {"boxes": "none"}, 3.0])
    def test_what_holds_no_tensor_is_refused(self, output):
        with pytest.raises(PANError, match="and not with a tensor: wrap it"):
            answer_of(output)

    def test_probabilities_count_as_their_logits_do(self):
        batches = labelled(8, 8)
        logits, shares = quick(small_net(), batches), quick(small_net().append(nn.Softmax(1)), batches)
        assert [arm.kl for arm in shares.arms] == pytest.approx([arm.kl for arm in logits.arms], abs=1e-6)

    def test_logits_become_probabilities(self):
        logits = torch.randn(4, 6)
        assert torch.allclose(probabilities(logits), logits.double().softmax(1))
        assert torch.allclose(probabilities(logits.softmax(1)), logits.softmax(1).double())


class TestWithoutLabels:
    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x]], ids=["tensor", "tuple", "list"])
    def test_divergence_and_flips_are_as_with_labels(self, wrap):
        batches = labelled(20, 8)
        bare, full = quick(small_net(), [wrap(images) for images, _ in batches]), quick(small_net(), batches)
        assert [(arm.kl, arm.flips) for arm in bare.arms] == [(arm.kl, arm.flips) for arm in full.arms]

    def test_of_accuracy_nothing_is_said(self):
        found = quick(small_net(), [images for images, _ in labelled(20, 8)])
        assert all(arm.value != arm.value and arm.interval is None for arm in found.arms)
        assert found.arm("pans", "zero").classes.change.isnan().all()


def test_a_compiled_model_gives_the_same():
    torch.compiler.reset()
    batches, net = labelled(16, 8), small_net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.compile
        compiled = torch.compile(small_net(), backend="eager")
        compiled(batches[0][0])
        found = quick(compiled, batches, mode=MODES)
    assert same(found, quick(net, batches, mode=MODES))


def test_a_model_that_was_compiled_meanwhile_is_left_unmasked():
    torch.compiler.reset()
    ((images, labels),) = labelled(8, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = torch.compile(small_net(), backend="eager")
        quick(compiled, [(images, labels)])
        assert torch.equal(compiled(images), small_net()(images))


class TestShares:
    def counted(self, monkeypatch, batches, share) -> list[Comparison]:
        """What one of several processes counts, before they add it up."""
        kept = []

        class Kept(module.Outcome):
            def compute(self):
                kept.extend(self._comparisons)
                return super().compute()

        with monkeypatch.context() as patch:
            patch.setattr(module, "Outcome", Kept)
            quick(small_net(), batches, shard=Shard(*share))
        return kept

    @pytest.mark.parametrize("batch", [4, 5])
    @pytest.mark.parametrize("world", [2, 3])
    def test_processes_add_up_to_one_exactly(self, monkeypatch, batch, world):
        batches = labelled(30, batch)
        whole = self.counted(monkeypatch, batches, (0, 1))
        parts = [self.counted(monkeypatch, batches[rank::world], (rank, world)) for rank in range(world)]
        for one, *shards in zip(whole, *parts, strict=True):
            for state in ("counts", "moved", "squares", "totals"):
                assert torch.equal(getattr(one, state), sum(getattr(shard, state) for shard in shards)), state

    def test_torchmetrics_adds_the_states(self):
        assert {fx.__name__ for fx in Comparison(3)._reductions.values()} == {"dim_zero_sum"}


class Small(nn.Module):
    """A model on a device that takes so many images at a time and no more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.net, self.most = small_net(), most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


class TestOutOfMemory:
    def run(self, most: int, batches):
        net = Small(most)
        return impact(net, batches, report_on(net, {"net.0": (0, 5)}), "zero", controls=1, progress=False)

    def test_smaller_batches_give_the_same_and_a_note(self):
        batches = labelled(40, 16)
        found, expected = self.run(5, batches), self.run(100, batches)
        assert found.notes == ("memory ran out with batches of 16 images: batches of 4 were used",)
        assert found.images == expected.images == 40
        for arm, other in zip(found.arms, expected.arms, strict=True):
            assert (arm.value, arm.flips) == (other.value, other.flips)
            assert arm.kl == pytest.approx(other.kl, abs=1e-6)
            assert torch.equal(arm.classes.change, other.classes.change)
            assert arm.classes.split_half == pytest.approx(other.classes.split_half, nan_ok=True, abs=1e-4)

    def test_images_that_were_measured_before_it_ran_out_count_once(self):
        images, labels = (torch.cat(part) for part in zip(*labelled(20, 20), strict=True))
        batches = list(zip(images.split([4, 16]), labels.split([4, 16]), strict=True))
        found, expected = self.run(5, batches), self.run(100, batches)
        assert found.images == 20
        assert [arm.value for arm in found.arms] == [arm.value for arm in expected.arms]
        assert int(found.baseline.classes.images.sum()) == 20

    def test_enough_memory_leaves_no_note(self):
        assert self.run(16, labelled(40, 16)).notes == ()

    def test_batches_that_are_read_once_cannot_be_begun_again(self):
        with pytest.raises(PANError, match="out of memory at 16 images, and batches can be read only once"):
            self.run(5, iter(labelled(40, 16)))

    def test_batches_that_are_read_once_do_where_memory_suffices(self):
        assert self.run(16, (batch for batch in labelled(40, 16))).images == 40

    def test_not_even_one_image(self):
        with pytest.raises(PANError, match="out of memory on a single image"):
            self.run(0, labelled(4, 4))

    def test_the_model_is_left_without_hooks(self):
        net = Small(0)
        with pytest.raises(PANError):
            impact(net, labelled(4, 4), report_on(net, {"net.0": (0,)}), progress=False)
        assert not any(module._forward_hooks for module in net.modules())
