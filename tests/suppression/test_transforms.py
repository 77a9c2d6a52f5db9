"""Penalty and mask where the network is called under transforms of torch.func."""

from __future__ import annotations

import copy
import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from pan_callbacks import PaddingBiasPenalty, PANError, PANPenalty, masked, scan
from tests.support.lightning_models import SmallModule, loaders, trainer

IMAGES = torch.randn(6, 2, 12, 12, generator=torch.Generator().manual_seed(0)) / 2 + 2


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.ZeroPad2d(1),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 3, 5, padding=2, stride=2),
    )


CALLS = {
    "single images": lambda net, x: torch.vmap(net)(x),
    "batches of one": lambda net, x: torch.vmap(lambda image: net(image[None])[0])(x),
    "images by keyword": lambda net, x: torch.vmap(lambda image: net(input=image))(x),
    "another axis": lambda net, x: torch.vmap(net, in_dims=2)(x.movedim(0, 2).contiguous()),
    "batches of several": lambda net, x: torch.vmap(net)(x.view(2, 3, 2, 12, 12)).flatten(0, 1),
    "vmap in vmap": lambda net, x: torch.vmap(torch.vmap(net))(x.view(2, 3, 2, 12, 12)).flatten(0, 1),
    "with functional_call": lambda net, x: torch.vmap(
        lambda image: functional_call(net, dict(net.named_parameters()), (image,))
    )(x),
}


def penalised(net, call, **kwargs):
    """The penalty and its gradient."""
    penalty = PaddingBiasPenalty(net, **kwargs)
    loss = call(net, IMAGES).square().mean()
    value = penalty.take(loss)
    penalty.detach()
    (loss + value).backward()
    return value, [parameter.grad for parameter in net.parameters()]


@pytest.mark.parametrize("call", CALLS)
def test_what_vmap_maps_over_counts_as_images(call):
    expected, gradient = penalised(network(), lambda net, x: net(x), max_images=4)
    value, found = penalised(network(), CALLS[call], max_images=4)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert value > 0.01
    for one, other in zip(found, gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [3, 6])
def test_chunks_of_a_vmap_are_calls(chunk):
    value, _ = penalised(network(), lambda net, x: torch.vmap(net, chunk_size=chunk)(x))
    expected, _ = penalised(network(), lambda net, x: torch.cat([net(part) for part in x.split(chunk)]))
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def stacked(net):
    return {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in net.named_parameters()}


LOST = {
    "kernels mapped over": lambda net, x: torch.vmap(lambda ps: functional_call(net, ps, (x,)))(stacked(net)),
    "kernels and images": lambda net, x: torch.vmap(lambda ps, x: functional_call(net, ps, (x,)))(
        stacked(net), x.view(2, 3, 2, 12, 12)
    ),
    "grad": lambda net, x: torch.func.grad(lambda ps: functional_call(net, ps, (x,)).sum())(
        dict(net.named_parameters())
    ),
    "grad of an image": lambda net, x: torch.func.grad(lambda x: net(x).sum())(x),
    "gradients of single images": lambda net, x: torch.vmap(torch.func.grad(lambda x: net(x).sum()))(x),
    "jvp": lambda net, x: torch.func.jvp(net, (x,), (x,)),
}


@pytest.mark.parametrize("call", LOST)
def test_a_transform_that_leaves_nothing_outside_is_refused_by_the_layers_name(call):
    net = network()
    penalty = PaddingBiasPenalty(net)
    with pytest.raises(PANError, match=r"layer 0 runs under a transform of torch\.func .* with layers="):
        LOST[call](net, IMAGES)
    penalty.detach()
    LOST[call](net, IMAGES)


def test_layers_under_a_transform_may_be_left_out():
    net = nn.ModuleList([network(), network()])
    penalty = PaddingBiasPenalty(net, layers="1.*")
    loss = net[1](IMAGES).sum()
    LOST["grad"](net[0], IMAGES)
    assert penalty(loss) > 0


@pytest.mark.parametrize("change", [lambda conv: conv, parametrizations.weight_norm])
def test_the_kernel_is_the_one_that_functional_call_gives(change):
    net = nn.Sequential(change(nn.Conv2d(2, 4, 3, padding=1)))
    given = {name: (2 * p + 0.3).detach().requires_grad_() for name, p in net.named_parameters()}
    penalty = PaddingBiasPenalty(net)
    functional_call(net, given, (IMAGES,))
    value = penalty()
    penalty.detach()
    value.backward()
    as_own = copy.deepcopy(net)
    as_own.load_state_dict(given)
    expected = PaddingBiasPenalty(as_own)
    as_own(IMAGES)
    wanted = expected()
    wanted.backward()
    assert value == wanted > 0
    for name, parameter in as_own.named_parameters():
        if name.endswith("bias"):
            assert given[name].grad is parameter.grad is None
        else:
            assert torch.equal(given[name].grad, parameter.grad), name
            assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.filterwarnings("ignore:mode=")
@pytest.mark.parametrize("mode", ["zero", "mean", "neutral"])
@pytest.mark.parametrize("call", CALLS)
def test_masks_are_the_same_under_vmap(call, mode):
    net = network().eval()
    report = scan(net, [IMAGES], progress=False, threshold=0.1)
    neurons = {name: list(range(0, line.channels, 2)) for name, line in report.layers.items()}
    with torch.no_grad(), masked(net, report, mode, neurons):
        torch.testing.assert_close(CALLS[call](net, IMAGES), net(IMAGES))


class Mapped(SmallModule):
    """Calls its network image by image, under vmap, or all at once."""

    mapped = True

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

    def logits(self, x):
        return (torch.vmap(self.net) if self.mapped else self.net)(x).mean((2, 3))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.logits(batch[0]), batch[1])


def test_a_training_under_vmap_is_penalised_as_without(tmp_path):
    trained = []
    for mapped in (True, False):
        pl.seed_everything(3, verbose=False)
        module = Mapped()
        module.mapped = mapped
        run = trainer(tmp_path, [PANPenalty(weight=0.3, every_n_steps=1)], 1, limit_val_batches=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", ".*(num_workers|val_dataloader|validation_step|lr_scheduler).*")
            run.fit(module, loaders()[0])
        trained.append(module)
    for one, other in zip(*(module.parameters() for module in trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
