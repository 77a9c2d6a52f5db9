"""Position read-outs: of networks that know it, of one that cannot, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from torch import nn

from pan_callbacks.analysis.position import _RIDGE, GRID, TARGETS, PositionReadout, position_readout, targets
from pan_callbacks.errors import PANError
from tests.support.synthetic import small_net

ROW, COLUMN, CENTRE = range(3)


def noise(count: int = 32, size: int = 16, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


class Coordinates(nn.Module):
    """Adds maps that tell the position to the channels of an image."""

    def __init__(self, *which: int) -> None:
        super().__init__()
        self.which = list(which)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        known = targets(*x.shape[2:])[self.which]
        return torch.cat([x, known.expand(len(x), -1, -1, -1)], 1)


def knows(*which: int, channels: int = 8) -> nn.Sequential:
    """A network whose 1×1 convolution mixes noise with some of the position maps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(Coordinates(*which), nn.Conv2d(3 + len(which), channels, 1)).eval()


def read(net: nn.Module, images, layer: str = "1", batch: int = 16) -> PositionReadout:
    return position_readout(net, images.split(batch), [layer])[layer]


class TestTargets:
    def test_rows_and_columns_run_from_zero_to_one(self):
        rows, cols, _ = targets(4, 2)
        assert rows[:, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
        assert cols[0].tolist() == [0.25, 0.75]

    def test_centre_is_nearness(self):
        centre = targets(9, 9)[CENTRE]
        assert centre[4, 4] == centre.max() == 1.0
        distance = (torch.arange(9) - 4).square()
        distance = distance[:, None] + distance[None, :]
        assert stats.spearmanr(centre.flatten(), -distance.flatten()).statistic > 0.998  # ties are rounded


class TestWhatIsKnownIsRead:
    def test_of_coordinates_all(self):
        assert min(read(knows(ROW, COLUMN, CENTRE), noise()).spearman) > 0.98

    @pytest.mark.parametrize("target", [ROW, COLUMN])
    def test_of_one_coordinate_that_one(self, target):
        found = read(knows(target), noise()).spearman
        assert found[target] > 0.98
        assert abs(found[1 - target]) < 0.2

    def test_error_of_what_is_known_is_small(self):
        assert max(read(knows(ROW, COLUMN, CENTRE), noise()).error) < 0.03

    def test_error_of_what_is_not_known_is_that_of_guessing_the_mean(self):
        guess = (targets(14, 14) - targets(14, 14).mean((1, 2), keepdim=True)).abs().mean((1, 2))
        assert read(knows(), noise(size=14)).error == pytest.approx(guess.tolist(), abs=0.02)

    @pytest.mark.parametrize("mode", ["circular", "zeros"])
    def test_of_noise_under_circular_padding_nothing(self, mode):
        """Zero padding gives it away to layers that can add up what they read: a kernel of ones on a constant."""
        conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode=mode)
        nn.init.constant_(conv.weight, 1.0)
        found = read(nn.Sequential(nn.Identity(), conv).eval(), 1 + 0.1 * noise()).spearman
        assert abs(found[ROW]) < 0.2
        assert abs(found[COLUMN]) < 0.2
        assert (abs(found[CENTRE]) < 0.2) == (mode == "circular")

    def test_by_neuron_is_the_correlation_of_its_activation(self):
        net, images = knows(ROW, CENTRE), noise(size=10)
        fitted = torch.cat([part[::2] for part in images.split(16)])
        with torch.no_grad():
            maps = net(fitted)
        wanted = targets(10, 10).expand(len(fitted), -1, -1, -1)
        for target in range(3):
            for channel in range(8):
                expected = np.corrcoef(maps[:, channel].flatten(), wanted[:, target].flatten())[0, 1]
                assert float(read(net, images).by_neuron[target, channel]) == pytest.approx(expected, abs=1e-4)

    def test_a_constant_neuron_has_no_correlation(self):
        net = knows(ROW)
        nn.init.zeros_(net[1].weight[3:4])
        found = read(net, noise())
        assert found.by_neuron.isnan().any(0).tolist() == [channel == 3 for channel in range(8)]
        assert found.spearman[ROW] > 0.98


def test_it_is_ridge_regression_of_standardised_channels():
    """scikit-learn's Ridge on the same samples; its penalty is not divided by their number."""
    net, images = knows(ROW, CENTRE, channels=4), 0.3 * noise(size=12)  # too few channels to tell noise from position
    images[1::2] *= 4  # so that some are read beyond the map
    found = read(net, images)
    with torch.no_grad():
        maps = net(images)
    samples = maps.flatten(2).transpose(1, 2).numpy().astype(np.float64)
    wanted = targets(12, 12).flatten(1).T.numpy().astype(np.float64)
    fit, judge = samples[::2], samples[1::2]
    flat = fit.reshape(-1, fit.shape[-1])
    mean, std = flat.mean(0), flat.std(0)
    ridge = Ridge(alpha=_RIDGE * len(flat)).fit((flat - mean) / std, np.tile(wanted, (len(fit), 1)))
    told = [ridge.predict((image - mean) / std) for image in judge]
    ranks = [[stats.spearmanr(answer[:, k], wanted[:, k]).statistic for k in range(3)] for answer in told]
    errors = [np.abs(answer.clip(0, 1) - wanted).mean(0) for answer in told]
    assert found.spearman == pytest.approx(np.mean(ranks, 0).tolist(), abs=1e-3)
    assert found.error == pytest.approx(np.mean(errors, 0).tolist(), abs=1e-4)


class TestImagesAreHeldOut:
    """A channel that is brighter below in the images of even number, and above in the others, tells two ways."""

    def turned(self, count: int, fitted: slice) -> torch.Tensor:
        images = 0.01 * noise(count)
        ramp = targets(16, 16)[ROW]
        images += ramp.flip(0)
        images[fitted] += ramp - ramp.flip(0)
        return images

    @pytest.mark.parametrize("batch", [1, 3, 5, 16, 32, 40])
    def test_every_other_image_is_judged_whatever_the_batches(self, batch):
        net = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1)).eval()
        torch.nn.init.dirac_(net[1].weight)
        assert read(net, self.turned(40, slice(0, None, 2)), batch=batch).spearman[ROW] < -0.98

    def test_judged_like_the_fitted_it_is_known(self):
        net = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1)).eval()
        torch.nn.init.dirac_(net[1].weight)
        assert read(net, self.turned(40, slice(None))).spearman[ROW] > 0.98

    def test_one_image_alone_is_judged_by_none(self):
        assert position_readout(small_net(), [noise(1)], ["0"]) == {}


def test_batches_that_can_be_read_only_once_are_refused_before_any_is():
    batches = iter([noise(4)])
    with pytest.raises(PANError, match="read only once"):
        position_readout(small_net(), batches, ["0"])
    assert next(batches).shape == noise(4).shape


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 7), (3, 40)])
def test_small_maps_are_read(size):
    images = torch.randn(8, 3, *size)
    found = position_readout(small_net(), [images], ["0"])["0"]
    assert np.isfinite([*found.spearman, *found.error]).all()
    assert len(found.spearman) == len(TARGETS)


def test_large_maps_are_read_on_a_grid_with_both_ends():
    net = nn.Sequential(nn.Identity(), nn.Conv2d(3, 1, 1)).eval()
    nn.init.dirac_(net[1].weight)
    images = torch.zeros(4, 3, 60, 60)
    places = torch.linspace(0, 59, GRID).round().long()
    assert (places[0], places[-1]) == (0, 59)
    images[:, :, places[:, None], places[None, :]] = targets(60, 60)[ROW][places[:, None], places[None, :]]
    assert read(net, images).spearman[ROW] == pytest.approx(1.0, abs=1e-3)


def test_layers_that_are_not_called_are_left_out():
    net = small_net()
    net.unused = nn.Conv2d(3, 3, 3)
    net.forward = lambda x: nn.Sequential(*list(net)[:9])(x)
    assert list(position_readout(net, [noise(4)], ["0", "unused"])) == ["0"]


def test_the_model_is_left_as_it_was():
    net = small_net().train()
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    mean = net[1].running_mean.clone()
    position_readout(net, [noise(4)], ["0", "3"])
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net[1].running_mean, mean)
