"""The gradient of a penalty on a neuron, in a backward pass of a task never longer than 1.5 times the task's.

The same gradient that plain gradient descent with momentum turns into an overshoot is lost beside the task's under
Adam, so no weight suits both, nor networks with and without normalisation. What all of them have in common as a measure
is what the task itself does to a neuron in this very pass. Right behind the margin almost nothing is added, and a
little further off more than the task can hold against: a wall, and no jump that a step could bounce off. The task's is
that on the neuron, or on the neurons of the layer on average where that is longer: what the task hardly moves would
stay as it is under plain gradient descent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

#: Longest gradient of the penalty on a neuron, in lengths of the task's.
MOST = 1.5
#: How far beyond its margin, in margins, a neuron may be drawn with one length of the task's gradient on it. Up to
#: :data:`MOST`, what may be added grows with the square of the distance.
WALL = 0.2


class Cap:
    """Shortens what the penalty adds to the gradients of the parameters of one layer, when they arrive.

    Args:
        beside_task: Whether there is a task in every backward pass, so that a kernel which it has no gradient for gets
            none of the penalty, from the first step on.
    """

    def __init__(self, beside_task: bool = False) -> None:
        self._beside_task = beside_task
        self._watched: dict[int, tuple[Tensor, RemovableHandle]] = {}
        self._ours: dict[int, list[tuple[Callable[[], Tensor], Tensor]]] = {}
        self._has_task: dict[int, Tensor] = {}

    def watch(self, parameters: list[Tensor]) -> None:
        """Look at the gradients of these from now on, and of no others."""
        wanted = {id(parameter): parameter for parameter in parameters}
        for number in self._watched.keys() - wanted.keys():
            self._watched.pop(number)[1].remove()
            self._has_task.pop(number, None)
        for number in wanted.keys() - self._watched.keys():
            hook = self._hook(number, wanted[number])
            self._watched[number] = wanted[number], wanted[number].register_hook(hook)  # type: ignore[no-untyped-call]  # of torch

    def clear(self) -> None:
        """Look at nothing any more."""
        self.watch([])
        self._ours.clear()

    def expect(self, parameter: Tensor, make: Callable[[], Tensor], beyond: Tensor) -> Tensor:
        """Note what the penalty adds to the gradient of a parameter, which comes next.

        Args:
            parameter: The parameter.
            make: Makes the gradient.
            beyond: How far each neuron is beyond its margin, in margins (channels,).

        Returns:
            The gradient to go on with: zeros that take no memory, so that the hook is called whatever the task does, or
            the gradient itself if nobody looks at the parameter any more.
        """
        if id(parameter) not in self._watched:
            return make()
        self._ours.setdefault(id(parameter), []).append((make, beyond))
        return parameter.new_zeros(()).expand_as(parameter)

    def _hook(self, number: int, parameter: Tensor) -> Any:
        def on_gradient(gradient: Tensor) -> Tensor | None:
            calls = self._ours.pop(number, None)
            if calls is None:
                return None
            ours, beyond = calls[0][0](), torch.stack([far for _, far in calls]).amax(0)
            for make, _ in calls[1:]:
                ours = ours + make()
            before = parameter.grad if parameter.is_leaf else None
            known = ours.new_ones((), dtype=torch.bool) if self._beside_task else self._has_task.get(number)
            total, self._has_task[number] = capped(gradient, ours, beyond, before, known)
            return total

        return on_gradient

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy nothing to look at."""
        return {**self.__dict__, "_watched": {}, "_ours": {}, "_has_task": {}}


@torch.no_grad()
def capped(
    task: Tensor, ours: Tensor, beyond: Tensor, before: Tensor | None = None, has_task: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the gradient of task and penalty, with that of the penalty no longer than allowed.

    Args:
        task: Gradient of the task.
        ours: Gradient of the penalty.
        beyond: How far each neuron is beyond its margin, in margins (channels,).
        before: What earlier passes of this step left, for a penalty that has a backward pass of its own.
        has_task: Whether there was ever a gradient of a task; None if nobody knows. While there was none, the gradient
            of the penalty is all there is, and stays; where there was, and is none now, the kernel is dead, and rests.

    Returns:
        The gradient, and whether there was ever one of a task (a boolean scalar).

    Example:
        >>> task, ours = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([[0.0, -50.0], [0.0, -50.0]])
        >>> capped(task, ours, torch.tensor([0.1, 0.2]))[0]  # no longer than a quarter, and than all of the task's
        tensor([[ 3.0000,  2.7500],
                [ 3.0000, -1.0000]])
        >>> capped(torch.zeros(2, 2), ours, torch.tensor([0.1, 0.2]))[0]
        tensor([[  0., -50.],
                [  0., -50.]])
    """
    if task.dim() == 0 or len(task) != len(beyond):  # a part of what a kernel is made of, and none by neuron
        beyond = beyond.amax(0, keepdim=True)
    size, own = _lengths(task, len(beyond)), _lengths(ours, len(beyond))
    if before is not None:
        size = torch.where(size > 0, size, _lengths(before, len(beyond)).to(size.dtype))
    has_task = (size > 0).any() if has_task is None else has_task | (size > 0).any()
    size = size.maximum(size.square().mean().sqrt())  # what the task hardly moves can be drawn all the same
    most = (beyond / WALL).square().clamp_max(MOST) * size
    share = (most / own.clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(1.0)
    share = torch.where(has_task, share, 1.0).to(ours.dtype)
    return task + share.reshape(share.shape[: task.dim()] + (1,) * (task.dim() - 1)) * ours, has_task


def _lengths(gradient: Tensor, neurons: int) -> Tensor:
    """Return the length of the gradient of each neuron, in 32 bits at least."""
    kind = torch.promote_types(gradient.dtype, torch.float32)
    lengths: Tensor = torch.linalg.vector_norm(gradient.reshape(neurons, -1), dim=1, dtype=kind)
    return lengths


class CappedGradient(torch.autograd.Function):
    """Gives a price, and the parameters of a kernel a gradient that a cap adds when that of the task arrives."""

    @staticmethod
    def forward(
        ctx: Any,
        cap: Cap,
        price: Tensor,
        beyond: Tensor,
        makers: tuple[Callable[[], Tensor], ...],
        *parameters: Tensor,
    ) -> Tensor:
        """Return the price, a scalar.

        Args:
            ctx: Of the function.
            cap: Of the layer.
            price: Scalar.
            beyond: How far each neuron is beyond its margin, in margins (channels,).
            makers: What makes the gradient of each parameter.
            parameters: What has the gradient.
        """
        ctx.cap, ctx.beyond, ctx.makers, ctx.parameters = cap, beyond, makers, parameters
        return price.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Tell the cap of the gradients, and return what it leaves to go on with."""
        found = [
            ctx.cap.expect(parameter, partial(_times, upstream[0], make), ctx.beyond)
            for parameter, make in zip(ctx.parameters, ctx.makers, strict=True)
        ]
        return None, None, None, None, *found


def _times(factor: Tensor, make: Callable[[], Tensor]) -> Tensor:
    gradient = make()
    return (factor * gradient).to(gradient.dtype)
