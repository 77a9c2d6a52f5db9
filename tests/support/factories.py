"""Networks for the command line, which makes them by ``tests/factories.py:NAME``."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from pan_callbacks.sources.preprocessing import MEAN, STD
from tests.support import planted


class Plain(nn.Module):
    """Two layers and two classes, with random weights."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 2)
        for parameter in self.parameters():
            parameter.data.uniform_(-0.3, 0.3, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))


class Unpadded(nn.Module):
    """A layer of 1×1 kernels and one without padding."""

    def __init__(self):
        super().__init__()
        self.point, self.valid = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.valid(self.point(images)).mean((2, 3))


class Dense(nn.Module):
    """No convolution at all."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


class Broken(Plain):
    """Answers with NaN from its first layer on."""

    def __init__(self):
        super().__init__()
        self.first.weight.data.fill_(torch.nan)


def Scripted() -> nn.Module:  # noqa: N802
    """The network compiled by TorchScript."""
    return torch.jit.script(Plain().eval())


def Quantised() -> nn.Module:  # noqa: N802
    """The network with weights and activations of 8 bits, as ``torch.ao`` makes it."""
    from torch.ao import quantization

    net = Plain().eval()
    wrapped = nn.Sequential(
        nn.Sequential(net.first, nn.ReLU()), net.second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head
    )
    wrapped = quantization.QuantWrapper(wrapped).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has a successor
        wrapped.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
        quantization.fuse_modules(wrapped, ["module.0.0", "module.0.1"], inplace=True)
        quantization.prepare(wrapped, inplace=True)
        wrapped(torch.rand(4, 3, 32, 32))
        return quantization.convert(wrapped)


class Hungry(Plain):
    """Memory suffices for four images."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(images)


class Slow(Plain):
    """Takes its time, and appends a line to the file $FORWARDS for every forward."""

    def forward(self, images: Tensor) -> Tensor:
        with Path(os.environ["FORWARDS"]).open("a") as file:
            file.write(f"{len(images)}\n")
        time.sleep(0.2)
        return super().forward(images)


class Planted(nn.Module):
    """Detectors of every side, copies of them, and what follows from those, on images that come normalised."""

    def __init__(self):
        super().__init__()
        self.net = planted.chain(3).model

    def forward(self, images: Tensor) -> Tensor:
        content = torch.sigmoid(images)
        return self.net(torch.cat([content, torch.ones_like(content[:, :1])], 1)).mean((2, 3))


class RedAtTheTop(nn.Module):
    """Tells red images, class 0, from others by one neuron, which answers in the top row alone.

    There it answers 1, or 2 where the image is red; everything else that the network computes has no weight.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, [0, 3], 1, 1] = 1.0
            self.conv.weight[0, [0, 3], 0, 1] = -1.0
            self.conv.weight[1:, 1:3, 1, 1] = torch.rand(7, 2, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        content = images * std + mean
        answer = self.conv(torch.cat([content, torch.ones_like(content[:, :1])], 1)).relu()
        red = answer[:, 0].sum(1).mean(1) - 1.5  # 0.5 or -0.5 by the top row; without it -1.5
        return torch.stack([red, -red], 1)


def broken() -> nn.Module:
    """No network at all."""
    raise KeyError("lost")
