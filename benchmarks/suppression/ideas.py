"""Ideas of other penalties and of other padding, each as a change of the package or of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.suppression.arms import Arm
from pan_callbacks import PaddingBiasPenalty
from pan_callbacks.layers import PaddedLayer, convolutions
from pan_callbacks.suppression import cap, yardstick
from pan_callbacks.suppression.strength import Strength
from pan_callbacks.suppression.yardstick import Sample, Yardstick


@dataclass(frozen=True)
class Changed(Arm):
    """An arm with more that can be changed, see :class:`benchmarks.suppression.variants.Variant`."""

    projected: float | None = None
    crops: bool = False
    network: Callable[[nn.Module], nn.Module] | None = None

    def callbacks(self) -> list[pl.Callback]:
        projections = [] if self.projected is None else [Projection(self.projected)]
        return super().callbacks() + projections + [CropPairs()] * self.crops

    def prepared(self, net: nn.Module) -> nn.Module:
        return super().prepared(net if self.network is None else self.network(net))


@contextmanager
def edges_alone() -> Iterator[None]:
    """Corners cost nothing."""
    plain = Yardstick.price

    def priced(self: Yardstick, kernel: Tensor, chosen: Tensor | None, strength: Any, sides: tuple[str, ...]) -> Any:
        corners = torch.tensor(["-" in side for side in sides])
        least = self.least.masked_fill(corners[:, None], torch.inf)  # which is never fallen short of
        return plain(replace(self, least=least), kernel, chosen, strength, sides)

    with patch.object(Yardstick, "price", priced):
        yield


@contextmanager
def own_alone() -> Iterator[None]:
    """What is inherited does not count."""
    plain = Sample.yardstick

    def yardstick(self: Sample) -> Yardstick:
        found = plain(self)
        return replace(found, least=found.allowed)

    with patch.object(Sample, "yardstick", yardstick):
        yield


@contextmanager
def whole_kernel() -> Iterator[None]:
    """The gradient is capped by that of the task on the whole kernel, without a wall."""
    plain = cap.share_left

    def share_left(task: Tensor, ours: Tensor, beyond: Tensor, *others: Any) -> Any:
        return plain(task, ours.norm()[None], torch.full_like(beyond[:1], torch.inf), *others)

    with patch.object(cap, "share_left", share_left):
        yield


@contextmanager
def own_measure() -> Iterator[None]:
    """What may be added to the gradient of a neuron is measured by its own alone, however short that is."""
    plain = cap.share_left

    def share_left(task: Tensor, ours: Tensor, beyond: Tensor, *others: Any) -> Any:
        rows = [plain(*(part[i : i + 1] for part in (task, ours, beyond)), *others) for i in range(len(beyond))]
        return torch.cat([share for share, _ in rows]), torch.stack([known for _, known in rows]).any()

    with patch.object(cap, "share_left", share_left):
        yield


@contextmanager
def linear() -> Iterator[None]:
    """The price is the distance, not its square: its gradient is as long as it is at a distance of 0.1."""
    with _weighed(lambda distance: 0.1 / distance):
        yield


@contextmanager
def huber() -> Iterator[None]:
    """The price is the square of the distance up to 0.1 and grows in a straight line from there on."""
    with _weighed(lambda distance: (0.1 / distance).clamp_max(1.0)):
        yield


@contextmanager
def logarithm() -> Iterator[None]:
    """The price is the logarithm of 1 + the distance; its gradient is that of "linear" near the margin, and fades."""
    with _weighed(lambda distance: 0.1 / (distance * (1 + distance))):
        yield


@contextmanager
def _weighed(by: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Multiplies the gradient of the square of a distance by a function of the distance."""
    plain = Strength.update

    def update(self: Strength, beyond: Tensor, sides: tuple[str, ...]) -> Tensor:
        return plain(self, beyond, sides) * by(beyond.abs().amax(0).clamp_min(1e-6))

    with patch.object(Strength, "update", update):
        yield


class Projection(pl.Callback):
    """Moves kernels back towards the margin after every fourth step, in place of a gradient.

    Args:
        share: Of the way.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.penalty = PaddingBiasPenalty(pl_module, every_n_steps=4)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.penalty.begin(trainer.global_step)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        for tap in self.penalty._taps.values():
            for view in tap.take(None):
                kernel = view.layer.module.weight
                _, pull = view.measured.price(kernel.detach(), None, _Same(), view.sides)
                kernel -= self.share * pull.gradient(kernel) / yardstick.SCALE

    def on_fit_end(self, *_: Any) -> None:
        self.penalty.detach()


class CropPairs(pl.Callback):
    """Prices all that tells a border, inherited or own: inputs of a crop against the same pixels in the full image.

    At every fourth step the network sees images and their middles, in evaluation mode and without gradient.

    Args:
        offset: Pixels that a middle lacks on each side; what a layer inherits is priced if its stride divides them.
        images: Images that are looked at.
    """

    def __init__(self, offset: int = 4, images: int = 32) -> None:
        self.offset, self.images = offset, images
        self.found: dict[int, Tensor] = {}  # of each convolution, as padding_by_tap returns it

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        plain, found = Sample.yardstick, self.found

        def yardstick(sample: Sample) -> Yardstick:
            own, by_tap = plain(sample), found.get(id(sample.layer.module))
            return own if by_tap is None else replace(own, by_tap=by_tap, least=own.allowed)  # nothing is left out

        self._patch = patch.object(Sample, "yardstick", yardstick)
        self._patch.start()

    def on_fit_end(self, *_: Any) -> None:
        self._patch.stop()

    @torch.no_grad()
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % 4:
            return
        images, o = batch[0][: self.images], self.offset
        net = pl_module.net
        whole = _mean_inputs(net, images)
        middle = _mean_inputs(net, images[..., o:-o, o:-o])
        for conv, mean in middle.items():
            stride = images.shape[-1] // whole[conv].shape[-1]
            if o % stride == 0:
                self.found[id(conv)] = _difference_by_tap(conv, mean, whole[conv], o // stride)


def _mean_inputs(net: nn.Module, images: Tensor) -> dict[Any, Tensor]:
    """Mean over images of the input of each convolution (channels, height, width)."""
    found: dict[Any, Tensor] = {}

    def note(conv: Any, args: Any) -> None:
        found[conv] = args[0].mean(0)

    hooks = [conv.register_forward_pre_hook(note) for conv in convolutions(net).values()]
    net.eval()(images)
    net.train()
    for hook in hooks:
        hook.remove()
    return found


def _difference_by_tap(conv: Any, middle: Tensor, whole: Tensor, offset: int) -> Tensor:
    """What each tap reads at the border of the middle, padding among it, less what it reads there in the whole."""
    layer, height, width = PaddedLayer(conv), *middle.shape[1:]
    (up, left), (down, right) = (
        (offset - p for p in conv.padding),
        (offset + n + p for n, p in zip((height, width), conv.padding, strict=True)),
    )
    around = F.pad(whole, (8,) * 4)  # where the whole itself has padding, both read zeros
    difference = (
        F.pad(middle, (conv.padding[1],) * 2 + (conv.padding[0],) * 2)
        - around[:, 8 + up : 8 + down, 8 + left : 8 + right]
    )
    (sr, sc), (kr, kc) = conv.stride, conv.kernel_size
    sides = []
    for rows, columns in layer.geometry(height, width).borders.values():
        taps = [
            difference[
                :,
                rows.start * sr + i : (rows.stop - 1) * sr + i + 1 : sr,
                columns.start * sc + j : (columns.stop - 1) * sc + j + 1 : sc,
            ].mean((1, 2))
            for i in range(kr)
            for j in range(kc)
        ]
        sides.append(torch.stack(taps, 1).reshape(conv.groups, -1))
    return torch.stack(sides)


class _Same:
    """One strength for all."""

    def update(self, beyond: Tensor, sides: tuple[str, ...]) -> Tensor:
        return torch.ones_like(beyond[0])


class MeanPadded(nn.Conv2d):
    """Pads each channel with its running mean: that is taken off before zeros are put around, and put back behind."""

    mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean((0, 2, 3)), 0.1)
        everywhere = self.mean[None, :, None, None].expand(1, -1, *self.kernel_size)
        shift = F.conv2d(everywhere, self.weight, self.bias, groups=self.groups)
        return self._conv_forward(x - self.mean[:, None, None], self.weight, None) + shift


class Partial(nn.Conv2d):
    """Scales what a position reads up by the share of its taps that read the image (Liu et al. 2018, 1811.11718)."""

    def forward(self, x: Tensor) -> Tensor:
        image, taps = x.new_ones(1, 1, *x.shape[2:]), x.new_ones(1, 1, *self.kernel_size)
        there = F.conv2d(image, taps, None, self.stride, self.padding, self.dilation)
        out = self._conv_forward(x, self.weight, None) * (taps.numel() / there)
        return out if self.bias is None else out + self.bias[:, None, None]


def padded_with_the_mean(net: nn.Module) -> nn.Module:
    """Makes all convolutions pad with running means."""
    for conv in convolutions(net).values():
        conv.register_buffer("mean", torch.zeros(conv.in_channels))
        conv.__class__ = MeanPadded
    return net


def partial_convolutions(net: nn.Module) -> nn.Module:
    """Makes all convolutions partial ones."""
    for conv in convolutions(net).values():
        conv.__class__ = Partial
    return net
