"""What one weight means in networks of different depth: penalty and gradients beside the task's, before any training.

python -m benchmarks.penalty_scale
"""

from __future__ import annotations

import statistics

import timm
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.suppression.networks import small_cnn
from pan_callbacks import PaddingBiasPenalty

WEIGHT, SIZE, BATCH = 0.1, 64, 16
NETWORKS = {
    "five layers": lambda: small_cnn(10),
    "resnet18": lambda: timm.create_model("resnet18", in_chans=1, num_classes=10, zero_init_last=False),
    "resnet50": lambda: timm.create_model("resnet50", in_chans=1, num_classes=10, zero_init_last=False),
    "resnet101": lambda: timm.create_model("resnet101", in_chans=1, num_classes=10, zero_init_last=False),
}


def gradients(net: nn.Module, layers: tuple[str, ...]) -> list[torch.Tensor]:
    """Gradients of these layers' kernels."""
    return [net.get_submodule(name).weight.grad.clone() for name in layers]


def row(name: str) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    net = NETWORKS[name]()
    images, labels = torch.rand(BATCH, 1, SIZE, SIZE), torch.arange(BATCH) % 10
    loss = F.cross_entropy(net(images), labels)
    loss.backward()
    penalty = PaddingBiasPenalty(net)
    task = gradients(net, penalty.layers)
    net.zero_grad()
    value = WEIGHT * (F.cross_entropy(net(images), labels) * 0 + penalty())
    value.backward()
    alone = gradients(net, penalty.layers)
    net.zero_grad()
    penalty.detach()
    penalty = PaddingBiasPenalty(net, beside_task=True)
    (F.cross_entropy(net(images), labels) + WEIGHT * penalty()).backward()
    added = [both - own for both, own in zip(gradients(net, penalty.layers), task, strict=True)]
    ratios = [
        sorted(float(a.norm() / t.norm()) for a, t in zip(part, task, strict=True) if t.any())
        for part in (alone, added)
    ]
    cells = [f"{statistics.median(part):.2f} ({part[0]:.2f} … {part[-1]:.2f})" for part in ratios]
    return (
        f"| {name} | {len(task)}, {len(ratios[0])} | {loss.item():.2f} | {value.item():.3f} | {cells[0]} | {cells[1]} |"
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    print("| network | padded layers, with a gradient | loss | 0.1 × penalty | gradient over the task's | capped |")
    print("|---|---:|---:|---:|---|---|")
    for name in NETWORKS:
        print(row(name), flush=True)
