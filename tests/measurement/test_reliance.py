"""How far answers move without padding: networks whose answers are known, and computations by hand."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from pan_callbacks import PANError, masked, reliance, scan
from pan_callbacks._runtime import Shard
from tests.support.processes import results_of_two


def images(n: int = 24, channels: int = 3, size: int = 12) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2


def body(mode: str = "zeros", padding: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=padding, padding_mode=mode), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(6, 4, 3, padding=padding, padding_mode=mode))
    for weight in net.parameters():
        weight.data *= 3
    return net


def classifier(mode: str = "zeros", padding: int = 1) -> nn.Sequential:
    return nn.Sequential(body(mode, padding), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def undecided(mode: str = "zeros") -> nn.Sequential:
    """Return a classifier whose classes are near each other on the images, and so change easily."""
    last = nn.Linear(4, 4)
    last.weight.data = 30 * torch.eye(4)
    last.bias.data = -30 * classifier()(images(32)).mean(0).detach()
    return nn.Sequential(classifier(mode), last).eval()


def total_variation(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before.double().softmax(1) - after.double().softmax(1)).abs().sum(1) / 2


def student(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the interval of the mean of means of groups of one size."""
    means = np.array([values[groups == one].mean() for one in np.unique(groups)])
    reach = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
    return means.mean() - reach, means.mean() + reach


class TestKnownAnswers:
    def test_a_classifier_moves_as_far_as_its_twin_with_reflected_padding(self):
        x = images(32)
        before, after = undecided()(x), undecided("reflect")(x)
        moves = total_variation(before, after)
        found = reliance(undecided(), x.split(5), progress=False)
        assert found.distance == "total variation" and found.images == 32
        assert found.value == pytest.approx(moves.mean().item(), rel=1e-5)
        flips = (before.argmax(1) != after.argmax(1)).double().mean().item()
        assert 0 < flips == found.flips
        wilson = stats.binomtest(round(32 * flips), 32).proportion_ci(method="wilson")
        assert found.flips_interval == pytest.approx((wilson.low, wilson.high), abs=1e-6)
        assert found.interval == pytest.approx(student(moves.detach().numpy(), np.arange(32) % 16), rel=1e-3)

    def test_probabilities_move_as_their_logits_do(self):
        found = reliance(classifier(), [images()], progress=False)
        ready = reliance(nn.Sequential(classifier(), nn.Softmax(1)), [images()], progress=False)
        assert ready.value == pytest.approx(found.value, rel=1e-5) and ready.flips == found.flips

    @pytest.mark.parametrize("net", [classifier(padding=0), classifier("circular"), classifier("reflect")])
    def test_without_constants_around_the_map_nothing_moves(self, net):
        found = reliance(net, [images()], progress=False)
        assert (found.value, found.interval, found.flips) == (0.0, (0.0, 0.0), 0.0)
        assert found.flips_interval[1] > 0.05  # none of 24 is not none at all

    def test_padding_that_decides_everything_moves_everything(self):
        conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.constant_(conv.weight, 1 / 9)
        net = nn.Sequential(conv, Missing()).eval()
        found = reliance(net, [torch.ones(8, 1, 8, 8)], progress=False)
        assert found.value == pytest.approx(1.0) and found.flips == 1.0

    def test_all_channels_masked_neutral_leave_nothing(self):
        net = classifier()
        report = scan(net, [images()], threshold=0.01, progress=False)
        assert report.count == report.neurons  # so that the mask is on all of them
        with masked(net, report, mode="neutral"):
            assert reliance(net, [images()], progress=False).value == 0.0

    @pytest.mark.parametrize("pad", ["module", "call"])
    def test_padding_of_modules_and_calls_counts(self, pad):
        plain, x = classifier(), images()
        net = copy.deepcopy(plain)
        for i in (0, 2):
            net[0][i].padding = (0, 0)
            net[0][i] = nn.Sequential(nn.ZeroPad2d(1), net[0][i]) if pad == "module" else Calling(net[0][i])
        assert torch.allclose(net(x), plain(x))
        expected = reliance(plain, [x], progress=False).value
        assert expected > 0.01
        assert reliance(net, [x], progress=False).value == pytest.approx(expected, rel=1e-5)


class Missing(nn.Module):
    """Answers one class if a map has only ones, and the other if anything is missing."""

    def forward(self, x):
        full = (x.amin((1, 2, 3)) > 0.99).float() * 200 - 100
        return torch.stack([full, -full], 1)


class Calling(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(F.pad(x, (1, 1, 1, 1)))


class TestOtherAnswers:
    def test_a_map_of_classes_moves_per_pixel(self):
        x = images(8)
        before, after = body().eval()(x), body("reflect").eval()(x)
        found = reliance(body().eval(), [x], progress=False)
        assert found.distance == "total variation per pixel" and found.images == 8
        assert found.value == pytest.approx(total_variation(before, after).mean().item(), rel=1e-5)
        flips = (before.argmax(1) != after.argmax(1)).double().mean((1, 2))
        assert 0 < found.flips == pytest.approx(flips.mean().item())
        assert found.flips_interval == pytest.approx(student(flips.numpy(), np.arange(8)), rel=1e-3)
        assert found.in_words().endswith("; channels taken for classes).")

    def test_maps_that_are_flattened_are_no_classes(self):
        """The way out for a detector, whose maps have the shape of a segmentation."""
        found = reliance(nn.Sequential(body(), nn.Flatten(2)).eval(), [images(8)], progress=False)
        assert found.distance == "relative change" and found.flips is None and found.value > 0
        assert "class" not in found.in_words()

    @pytest.mark.parametrize("shape", [(), (1,)])
    def test_a_single_number_moves_in_units_of_its_spread(self, shape):
        x = images()
        before, after = (classifier(mode)(x)[:, 0].detach().double() for mode in ("zeros", "reflect"))
        net = nn.Sequential(classifier(), First(shape))
        found = reliance(net, x.split(7), progress=False)
        expected = ((after - before).abs().mean() / before.std(correction=0)).item()
        assert found.value == pytest.approx(expected, rel=1e-4)
        assert (found.distance, found.flips, found.flips_interval) == ("relative change", None, None)

    def test_an_answer_with_the_shape_of_the_images_is_an_image(self):
        net = nn.Sequential(body(), nn.Conv2d(4, 3, 1)).eval()
        assert reliance(net, [images()], progress=False).distance == "relative change"

    @pytest.mark.parametrize("wrap", [lambda y: {"out": y}, lambda y: (y, None), lambda y: SimpleNamespace(logits=y)])
    def test_the_tensor_is_found_in_what_holds_it(self, wrap):
        plain = reliance(classifier(), [images()], progress=False)
        assert reliance(Wrapped(classifier(), wrap), [images()], progress=False) == plain

    @pytest.mark.parametrize(
        ("wrap", "says"),
        [
            (lambda y: [{"boxes": y}], "a dict"),
            (lambda y: y * math.nan, "NaN"),
            (lambda y: y.argmax(1), "torch.int64"),
            (lambda y: y.sum(), "no row for each"),
            (lambda y: 0 * y[:, :1] + torch.rand(1), None),
        ],
    )
    def test_what_cannot_be_compared_is_said(self, wrap, says):
        net = Wrapped(classifier(), wrap)
        if says is None:  # all alike, and drawn anew in each forward from one random state: nothing moves
            assert reliance(net, [images()], progress=False).value == 0.0
            return
        with pytest.raises(PANError, match=says):
            reliance(net, [images()], progress=False)

    def test_no_batches_are_an_error(self):
        with pytest.raises(PANError, match="batches is empty"):
            reliance(classifier(), [], progress=False)


class First(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, y):
        return y[:, 0].reshape(len(y), *self.shape)


class Wrapped(nn.Module):
    def __init__(self, net, wrap):
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, x):
        return self.wrap(self.net(x))


class TestIntervals:
    def test_images_that_belong_together_say_less(self):
        kinds = images(8)
        x = torch.cat([kinds + 0.01 * torch.rand_like(kinds) for _ in range(16)])
        names = [i % 8 for i in range(len(x))]
        alone, together = (reliance(undecided(), [x], groups=g, progress=False) for g in (None, names))
        assert alone.value == together.value and 0 < alone.flips < 1
        moves = total_variation(undecided()(x), undecided("reflect")(x)).detach().numpy()
        assert together.interval == pytest.approx(student(moves, np.array(names)), rel=1e-3)
        width = [high - low for low, high in (alone.flips_interval, together.flips_interval)]
        assert width[1] > 2 * width[0]

    def test_one_image_has_none(self):
        found = reliance(classifier(), [images(1)], progress=False)
        assert found.interval is None and found.value > 0

    def test_only_so_many_images_are_taken(self):
        batches = images().split(10)
        assert reliance(classifier(), batches, max_images=15, progress=False) == (
            reliance(classifier(), [images()[:10], images()[10:15]], progress=False)
        )
        with pytest.raises(ValueError, match="at least one"):
            reliance(classifier(), batches, max_images=0)


class TestTheModel:
    def test_it_is_left_as_it_was(self):
        net = classifier().train()
        net.insert(1, nn.BatchNorm2d(4))
        before, hooks = copy.deepcopy(net.state_dict()), [len(one._forward_hooks) for one in net.modules()]
        state = torch.get_rng_state()
        reliance(net, [images()], progress=False)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert net.training and hooks == [len(one._forward_hooks) for one in net.modules()]
        assert torch.equal(torch.get_rng_state(), state)


def _of_a_part(rank: int, folder: str):
    return reliance(*_shared(), progress=False, shard=Shard(rank, torch.distributed.get_world_size(), images=24))


def _shared():
    batches = images().split(4)
    if torch.distributed.is_initialized():
        batches = batches[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
    return classifier(), batches


def test_two_processes_find_what_one_does(tmp_path):
    alone = reliance(*_shared(), progress=False, shard=Shard(images=24))
    assert results_of_two(_of_a_part, tmp_path) == [alone] * 2
