"""The advice is the right one of networks whose use of padding is known by construction."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from pan_callbacks import PANError, advise
from pan_callbacks.analysis import advise as module
from tests.support import planted
from tests.support.synthetic import small_net

TOP = ({"top": 1},)
SIZE, COUNT = 24, 400
FEW = {"max_images": 32, "progress": False}


def border_of(maps: Tensor) -> Tensor:
    """What the detector of the top answers there beyond what it answers inside, 1 or 0 (images,)."""
    return (maps[:, 0, 0].mean(1) - maps[:, 0, 8:-8].mean((1, 2))) / planted.STRENGTH


class ContentHead(nn.Module):
    """Tells images by neurons that read no padding."""

    def forward(self, maps: Tensor) -> Tensor:
        return 20 * maps[:, 1:].mean((2, 3))


class BorderHead(nn.Module):
    """Says class 1 where the detector answers at the top, and reads no other channel."""

    def forward(self, maps: Tensor) -> Tensor:
        seen = border_of(maps)
        return 10 * torch.stack([1 - 2 * seen, 2 * seen - 1], 1)


class SurerHead(nn.Module):
    """Tells images by their content, and is surer of it where the detector answers at the top."""

    def forward(self, maps: Tensor) -> Tensor:
        side = (maps[:, 1] - maps[:, 2]).mean((1, 2)).sign()
        return torch.stack([side, -side], 1) * (0.5 + 0.5 * border_of(maps))[:, None]


class DenseHead(nn.Module):
    """Classes of each position, by neurons that read no padding."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps[:, 1:4]


def network(head: nn.Module, recipes=TOP) -> nn.Sequential:
    conv = planted.detectors(3, recipes=recipes)
    return nn.Sequential(OrderedDict(conv=conv, head=head)).eval()


def content(count: int = COUNT) -> Tensor:
    return planted.stationary(count, SIZE)


def told_by_the_border(count: int = COUNT) -> list:
    """Images whose class is whether the channel of ones, which the detector looks at, is there.

    It is in the first 32, which are scanned, and in every other one of those that follow.
    """
    images, labels = content(count), torch.arange(count) % 2
    labels[:32] = 1
    images[:, planted.ONES] *= labels[:, None, None]
    return list(zip(images.split(100), labels.split(100), strict=True))


def with_answers(net: nn.Module, images: Tensor) -> list:
    """Images with what a network says of them for their labels: it is always right."""
    with torch.no_grad():
        labels = torch.cat([net(part).argmax(1) for part in images.split(100)])
    return list(zip(images.split(100), labels.split(100), strict=True))


class TestVerdict:
    def test_a_network_that_reads_no_padding_is_kept(self):
        net = network(ContentHead(), recipes=())
        found = advise(net, with_answers(net, content()), **FEW)
        assert (found.verdict, found.decided) == ("keep", True)
        assert found.evidence.pans.value == 0 and found.evidence.reliance.flips == 0

    def test_a_network_that_answers_by_its_padding_is_trained_anew(self):
        found = advise(network(BorderHead()), told_by_the_border(), **FEW)
        numbers = found.evidence
        assert found.verdict == "retrain" and numbers.accuracy.value == 1
        ones = (32 + (COUNT - 32) / 2) / COUNT  # which become class 0
        assert numbers.reliance.flips == numbers.pans_flips.value == ones
        assert numbers.padding_change.value == numbers.pans_change.value == pytest.approx(-ones)

    def test_pans_that_no_class_uses_are_blinded(self):
        net = network(ContentHead())
        found = advise(net, with_answers(net, content()), **FEW)
        assert (found.verdict, found.decision.blind) == ("blind", "pans")
        numbers = found.evidence
        assert (numbers.pans.value, numbers.surely_visible, numbers.floor.value) == (1, 1, 0)
        assert numbers.reliance.flips == numbers.pans_flips.value == numbers.pans_change.value == 0

    def test_padding_that_moves_answers_and_costs_nothing_is_blinded(self):
        net = network(SurerHead())
        found = advise(net, with_answers(net, content()), **FEW)
        assert (found.verdict, found.decision.blind) == ("blind", "padding")
        assert found.evidence.reliance.interval[0] > 0.05 and found.evidence.padding_change.value == 0

    def test_without_labels_answers_that_change_decide(self):
        batches = [images for images, _ in told_by_the_border()]
        found = advise(network(BorderHead()), batches, **FEW)
        assert found.verdict == "retrain" and found.evidence.accuracy is None
        assert "not whether they get worse" in found.summary()

    def test_few_images_do_not_decide_and_it_is_said_how_many_would(self):
        net = network(ContentHead(), recipes=())
        batches = with_answers(net, content(100))
        few = advise(net, batches, **FEW)
        assert (few.verdict, few.decided) == ("keep", False)
        assert advise(net, with_answers(net, content(few.decision.images)), **FEW).decided

    def test_one_image_decides_nothing(self):
        found = advise(network(BorderHead()), [content(1)], **FEW)
        assert not found.decided and found.evidence.images == 1

    def test_a_larger_tolerance_decides_on_fewer(self):
        net = network(ContentHead(), recipes=())
        assert advise(net, with_answers(net, content(100)), tolerance=0.05, **FEW).decided


class TestNetworksThatAreNoClassifiers:
    def test_answers_at_each_pixel_are_compared_as_they_are(self):
        found = advise(network(DenseHead(), recipes=()), [content(64)], **FEW)
        assert found.verdict == "keep" and found.evidence.reliance.distance == "total variation per pixel"

    def test_of_numbers_the_distance_decides(self):
        class Number(nn.Module):
            def forward(self, maps: Tensor) -> Tensor:
                return border_of(maps)[:, None] + maps[:, 1].mean((1, 2))[:, None]

        images = content(64)
        found = advise(network(Number()), [(images, torch.rand(64, 1))], **FEW)
        assert found.verdict == "retrain" and found.evidence.flips is None
        assert any("no classifier" in note for note in found.notes)


class TestLabels:
    def test_those_no_better_than_guessing_are_left_out(self):
        net = network(ContentHead())
        labels = torch.randint(8, (200,), generator=torch.Generator().manual_seed(0))
        found = advise(net, [(content(200), labels)], **FEW)
        assert found.evidence.accuracy is None and "no better than guessing one of 8 classes" in found.summary()

    @pytest.mark.parametrize("beside", [list("abcd"), torch.rand(4), torch.zeros(4, 8)])
    def test_what_is_no_class_is_no_label(self, beside):
        found = advise(network(ContentHead()), [(content(4), beside)], **FEW)
        assert found.evidence.accuracy is None and "is no class of each" in found.summary()

    def test_out_of_range_they_are_refused(self):
        with pytest.raises(PANError, match="labels from 9 to 9 for a model of 8 classes"):
            advise(network(ContentHead()), [(content(4), torch.full((4,), 9))], **FEW)


class TestImages:
    def test_of_an_iterator_are_kept(self):
        batches = told_by_the_border()
        assert advise(network(BorderHead()), iter(batches), **FEW) == advise(network(BorderHead()), batches, **FEW)

    def test_are_not_read_beyond_what_is_asked_for(self):
        read = []

        def batches():
            for batch in told_by_the_border():
                read.append(len(batch[0]))
                yield batch

        found = advise(network(BorderHead()), batches(), max_images=32, impact_images=150, progress=False)
        assert read == [100, 100] and found.evidence.images == 150

    def test_none_at_all_are_an_error(self):
        with pytest.raises(PANError, match="batches is empty"):
            advise(network(BorderHead()), [], **FEW)

    @pytest.mark.parametrize("function", [True, False])
    def test_of_a_group_count_as_one(self, function):
        batches = told_by_the_border()
        names = [number % 40 for number in range(COUNT)]
        known = {id(batch): names[100 * i : 100 * i + 100] for i, batch in enumerate(batches)}
        groups = (lambda batch: known[id(batch)]) if function else names
        alone = advise(network(BorderHead()), batches, **FEW).evidence
        grouped = advise(network(BorderHead()), batches, groups=groups, **FEW)
        wide, narrow = grouped.evidence.padding_change, alone.padding_change
        assert wide.value - wide.low == pytest.approx(10**0.5 * (narrow.value - narrow.low))
        assert any("40 groups" in note for note in grouped.notes)


class TestNetworksWithoutPadding:
    @pytest.mark.parametrize(
        "net", [nn.Sequential(nn.Flatten(), nn.Linear(4 * SIZE**2, 2)), nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU())]
    )
    def test_are_kept_for_that_reason(self, net):
        found = advise(net, [content(8)], **FEW)
        assert (found.verdict, found.decided) == ("keep", True)
        assert found.evidence.unpadded in found.paragraph()

    def test_are_distinguished_from_those_that_cannot_be_measured(self):
        net = network(ContentHead())
        nn.init.constant_(net.conv.weight, torch.nan)
        assert not advise(net, [content(8)], **FEW).decided


def test_the_model_is_left_as_it_was():
    net = small_net().train()
    weights, modes = copy.deepcopy(net.state_dict()), [part.training for part in net.modules()]
    advise(net, [torch.rand(16, 3, 24, 24)], **FEW)
    assert all(torch.equal(one, net.state_dict()[name]) for name, one in weights.items())
    assert [part.training for part in net.modules()] == modes
    assert not any(len(part._forward_hooks) for part in net.modules())


def test_a_floor_that_cannot_be_measured_is_said_and_costs_no_more(monkeypatch):
    monkeypatch.setattr(module, "masked", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    found = advise(network(BorderHead()), told_by_the_border(), **FEW)
    assert found.evidence.floor is None and found.verdict == "retrain"
    assert any("neutral is not known: RuntimeError: no" in note for note in found.notes)


@pytest.mark.parametrize("wrong", [{"tolerance": 0}, {"tolerance": 1.5}, {"impact_images": 0}, {"max_images": 0}])
def test_an_argument_out_of_range_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        advise(network(BorderHead()), [content(4)], **{**FEW, **wrong})
