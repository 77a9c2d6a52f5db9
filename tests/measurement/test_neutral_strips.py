"""Neutral outputs in strips are those of the padded map, for any geometry; inside nothing changes."""

from __future__ import annotations

import itertools
import random

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pan_callbacks import mask_permanently
from pan_callbacks.layers import PaddedLayer
from pan_callbacks.measurement import neutral
from tests.suppression.test_masks import images, report_of

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
PADS = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}


def drawn(draw: random.Random):
    """A layer with padding of any kind, and the padding on each side; None if it gives no map."""
    dims = draw.choice([1, 2, 2, 3])
    size = [draw.randint(1, {1: 40, 2: 20, 3: 9}[dims]) for _ in range(dims)]
    kernel, stride, dilation = ([draw.choice(of) for _ in range(dims)] for of in ((1, 2, 3, 5), (1, 2, 3), (1, 1, 2)))
    sides = [(draw.randint(0, 3), draw.randint(0, 3)) for _ in range(dims)]
    pad = None
    if draw.random() < 0.5:
        sides = [(before, before) for before, _ in sides]
    else:
        pad = PADS[dims]([n for side in reversed(sides) for n in side], 0.7)
    own = tuple(before for before, _ in sides) if pad is None else 0
    conv = CONVS[dims](4, 8, kernel, stride, own, dilation, draw.choice([1, 2, 4]))
    fits = all(n + sum(s) > d * (k - 1) for n, s, d, k in zip(size, sides, dilation, kernel, strict=True))
    return (conv.double(), pad, size, sides) if fits else None


def by_numpy(conv, x, sides, mean=False):
    """The whole output with neutral padding, and which outputs read any, both from the definition."""
    reads = np.zeros([1] * len(sides), dtype=bool)
    padded, padding = x.numpy(), np.zeros(x.shape[2:], dtype=bool)
    for axis, side in enumerate(sides):
        around = [(0, 0)] * axis + [side] + [(0, 0)] * (len(sides) - axis - 1)
        mode = "reflect" if max(side) < x.shape[2 + axis] else "edge"
        padded = np.pad(padded, [(0, 0), (0, 0), *around], mode=mode)
        padding = np.pad(padding, around, constant_values=True)
    if mean:
        padded = np.where(padding, x.numpy().mean(tuple(range(2, x.ndim)), keepdims=True), padded)
    counts = CONVS[len(sides)](1, 1, conv.kernel_size, conv.stride, 0, conv.dilation, bias=False).double()
    nn.init.ones_(counts.weight)
    with torch.no_grad():
        reads = counts(torch.from_numpy(padding)[None, None].double())[0, 0] > 0
    function = (F.conv1d, F.conv2d, F.conv3d)[len(sides) - 1]
    options = (conv.stride, 0, conv.dilation, conv.groups)
    return function(torch.from_numpy(padded), conv.weight, conv.bias, *options), reads


@pytest.mark.parametrize("mean", [False, True])
def test_any_geometry_gives_what_the_padded_map_gives(monkeypatch, mean):
    monkeypatch.setattr(neutral, "_WORTH_IT", 1.0)
    draw, strips = random.Random(0), 0
    torch.manual_seed(0)
    for conv, pad, size, sides in itertools.islice(filter(None, (drawn(draw) for _ in itertools.count())), 200):
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        given = x if pad is None else pad(x)
        own, channels = conv(given), draw.choice([None, torch.tensor([1, 2, 6])])
        expected, reads = by_numpy(conv, x, sides, mean)
        if channels is not None:
            own, expected = own[:, channels], expected[:, channels]
        layer = PaddedLayer(conv, pad)
        found = neutral.neutral_output(layer, given, own, channels, mean)
        torch.testing.assert_close(found, torch.where(reads, expected, own))
        assert torch.equal(found[..., ~reads], own[..., ~reads])
        strips += neutral._strips_are_less(layer.geometry(*(1,) * (2 - len(size)), *size))
    assert strips > 80


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_the_padded_map(monkeypatch, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, (3, 5), 2, (1, 2), groups=groups).double()
    x, own = torch.randn(1, 2, 9, 11, dtype=torch.float64), torch.randn(1, 4, 5, 6, dtype=torch.float64)

    def output(x, own, weight, bias):
        return torch.func.functional_call(Neutral(conv), {"conv.weight": weight, "conv.bias": bias}, (x, own))

    given = [one.detach().requires_grad_() for one in (x, own, conv.weight, conv.bias)]
    gradients = []
    for share in (1.0, 0.0):
        monkeypatch.setattr(neutral, "_WORTH_IT", share)
        gradients.append(torch.autograd.grad(output(*given).square().sum(), given))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
    monkeypatch.setattr(neutral, "_WORTH_IT", 1.0)
    assert torch.autograd.gradcheck(output, given)


class Neutral(nn.Module):
    """The neutral output of a layer."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, own):
        return neutral.neutral_output(PaddedLayer(self.conv), x, own)


def test_large_maps_are_exported_in_strips(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1)).eval(), images(height=48, width=40)
    assert neutral._strips_are_less(PaddedLayer(model[0]).geometry(48, 40))
    permanent = mask_permanently(model, report_of({"0": [0, 2]}, {"0": 6}))
    expected = permanent(x).detach()
    program = torch.export.export(permanent, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x[:2]), expected[:2])
    torch.onnx.export(permanent, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
