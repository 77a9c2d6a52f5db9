"""The graph of a backward pass: what a loss was computed by, and what can no longer be."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

from torch import Tensor


def node_of(output: Tensor) -> Any:
    """Return what computed a tensor; of a view its base, as the view gets another node if it is written into."""
    base = output._base
    return (output if base is None else base).grad_fn


def nodes_of(start: Any, but: Collection[Any] = ()) -> set[Any]:
    """Return every node of the graph that a node belongs to, itself and all that it was computed by.

    Args:
        start: The node; None for no graph.
        but: Nodes to leave out, with what is reached through them alone.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> sorted(node.name() for node in nodes_of((3 * x).sum().grad_fn))
        ['MulBackward0', 'SumBackward0', 'torch::autograd::AccumulateGrad']
    """
    nodes: set[Any] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes and node not in but:
            nodes.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return nodes


def is_spoiled(nodes: Collection[Any]) -> bool:
    """Whether a backward pass through some nodes would fail: what one of them saved was written over, or is gone.

    Example:
        >>> import torch
        >>> weight, x = torch.ones(2, requires_grad=True), torch.ones(2)
        >>> nodes = nodes_of((weight * x).grad_fn)
        >>> is_spoiled(nodes), x.zero_().sum().item(), is_spoiled(nodes)
        (False, 0.0, True)
    """
    try:
        for node in nodes:
            kind: Any = type(node)
            for name in _saved(kind):
                getattr(node, name)  # what is read is checked, as in the backward pass
    except RuntimeError:
        return True
    return False


@functools.cache
def _saved(kind: Any) -> tuple[str, ...]:
    """Return the attributes by which nodes of a kind tell what they saved."""
    return tuple(name for name in dir(kind) if name.startswith("_saved_") or name == "saved_tensors")
