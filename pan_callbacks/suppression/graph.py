"""The graph of a backward pass: what a loss was computed by."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def node_of(output: Tensor) -> Any:
    """Return what computed a tensor; of a view its base, as the view gets another node if it is written into."""
    base = output._base
    return (output if base is None else base).grad_fn


def nodes_of(start: Any) -> set[Any]:
    """Return every node of the graph that a node belongs to, itself and all that it was computed by.

    Args:
        start: The node; None for no graph.

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
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return nodes
