"""The gradient of a penalty on a neuron, in a backward pass of a task never longer than 1.5 times the task's.

The same gradient that plain gradient descent with momentum turns into an overshoot is lost beside the task's under
Adam, so no weight suits both, nor networks with and without normalisation. What all of them have in common as a measure
is what the task itself does to a neuron in this very pass. Right behind the margin almost nothing is added, and a
little further off more than the task can hold against: a wall, and no jump that a step could bounce off. The task's is
that on the neuron, or on the neurons of the layer on average where that is longer: what the task hardly moves would
stay as it is under plain gradient descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from pan_callbacks.suppression.pull import Pull, Whole, lengths

#: Longest gradient of the penalty on a neuron, in lengths of the task's.
MOST = 1.5
#: How far beyond its margin, in margins, a neuron may be drawn with one length of the task's gradient on it. Up to
#: :data:`MOST`, what may be added grows with the square of the distance.
WALL = 0.2


class Cap:
    """Shortens what the penalty adds to the gradients of parameters, when they arrive; one for all layers.

    A parameter may be that of several layers, or have several calls: what all of them add is shortened together.

    Args:
        beside_task: Whether there is a task in every backward pass, so that a kernel which it has no gradient for gets
            none of the penalty, from the first step on.
    """

    def __init__(self, beside_task: bool = False) -> None:
        self._beside_task = beside_task
        self._watched: dict[int, tuple[Tensor, RemovableHandle]] = {}
        self._needed = set[int]()  # since the last sweep
        self._ours: dict[tuple[int, int], list[Pull | Whole]] = {}  # by parameter and backward pass
        self._has_task: dict[int, Tensor] = {}

    def watch(self, parameters: Sequence[Tensor]) -> None:
        """Look at the gradients of these, too."""
        for parameter in parameters:
            number = id(parameter)
            self._needed.add(number)
            if number not in self._watched:
                handle = parameter.register_hook(self._hook(number, parameter))  # type: ignore[no-untyped-call]  # of torch
                self._watched[number] = parameter, handle

    def sweep(self, due: bool = True) -> None:
        """Look no more at what was not asked for since the last time, if the step is due in which it is asked for."""
        if not due:
            return
        for number in self._watched.keys() - self._needed:
            self._watched.pop(number)[1].remove()
            self._has_task.pop(number, None)
        self._needed = set()
        self._ours.clear()  # what is left is of passes that were broken off, or that asked for other gradients

    def clear(self) -> None:
        """Look at nothing any more."""
        self._needed = set()
        self.sweep()

    def expect(self, parameter: Tensor, ours: Pull | Whole) -> Tensor | None:
        """Note what the penalty adds to the gradient of a parameter, which comes next in this backward pass.

        Args:
            parameter: The parameter.
            ours: The gradient of the penalty.

        Returns:
            The gradient to go on with. None beside a task, which has the hook called, or there is nothing to add to;
            else zeros, so that it is called in any case; the gradient itself if nobody looks at the parameter any more.
        """
        if id(parameter) not in self._watched:
            return ours.gradient(parameter)
        self._ours.setdefault((id(parameter), torch._C._current_graph_task_id()), []).append(ours)
        return None if self._beside_task else parameter.new_zeros(()).expand_as(parameter)

    def _hook(self, number: int, parameter: Tensor) -> Any:
        def on_gradient(gradient: Tensor | None) -> Tensor | None:
            added = self._ours.pop((number, torch._C._current_graph_task_id()), None)
            if added is None or gradient is None:
                return None
            ours = added[0] if len(added) == 1 else _sum(added, gradient)
            before = parameter.grad if parameter.is_leaf else None
            known = ours.beyond.new_ones((), dtype=torch.bool) if self._beside_task else self._has_task.get(number)
            share, self._has_task[number] = share_left(gradient, ours.lengths, ours.beyond, before, known)
            return ours.added_to(gradient, share)

        return on_gradient

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy nothing to look at."""
        return {**self.__dict__, "_watched": {}, "_needed": set(), "_ours": {}, "_has_task": {}}


def _sum(added: Sequence[Pull | Whole], like: Tensor) -> Whole:
    """Return what several calls add to the gradient of a parameter: as far off as the one that is furthest."""
    value, beyond = added[0].gradient(like), added[0].beyond
    for one in added[1:]:
        value, beyond = value + one.gradient(like), beyond.maximum(one.beyond.to(beyond.device))
    return Whole(value, beyond)


@torch.no_grad()
def share_left(
    task: Tensor, ours: Tensor, beyond: Tensor, before: Tensor | None = None, has_task: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what is left of the gradient of the penalty, as a factor that fits it.

    Args:
        task: Gradient of the task.
        ours: Length of the gradient of the penalty on each row (neuron); of one element: on all of it.
        beyond: Likewise, how far it is beyond the margin, in margins.
        before: What earlier passes of this step left, for a penalty that has a backward pass of its own.
        has_task: Whether there was ever a gradient of a task; None if nobody knows. While the kernel had none, the
            gradient of the penalty is all there is, and stays; where it had, and has none now, it is dead, and rests.

    Returns:
        The factor of each row, and whether there was ever a gradient of a task (a boolean scalar).

    Example:
        >>> task, ours = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([50.0, 50.0])
        >>> share_left(task, ours, torch.tensor([0.1, 0.2]))[0] * ours  # a quarter of the task's length, and all of it
        tensor([1.2500, 5.0000])
        >>> share_left(torch.zeros(2, 2), ours, torch.tensor([0.1, 0.2]))[0]
        tensor([1., 1.])
    """
    size = lengths(task, len(beyond))
    if before is not None:
        size = torch.where(size > 0, size, lengths(before, len(beyond)).to(size.dtype))
    has_task = (size > 0).any() if has_task is None else has_task | (size > 0).any()
    size = size.maximum(size.square().mean().sqrt())  # what the task hardly moves can be drawn all the same
    most = (beyond / WALL).square().clamp_max(MOST) * size
    share = (most / ours.clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(1.0)
    return torch.where(has_task, share, 1.0), has_task


class CappedGradient(torch.autograd.Function):
    """Gives a price, and the parameters of a kernel a gradient that a cap adds when that of the task arrives."""

    @staticmethod
    def forward(ctx: Any, cap: Cap, price: Tensor, ours: Sequence[Pull | Whole], *parameters: Tensor) -> Tensor:
        """Return the price, a scalar.

        Args:
            ctx: Of the function.
            cap: Of the layer.
            price: Scalar.
            ours: The gradient of each parameter.
            parameters: What has the gradient.
        """
        ctx.cap, ctx.ours, ctx.parameters = cap, ours, parameters
        return price.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Tell the cap of the gradients, and return what it leaves to go on with."""
        pairs = zip(ctx.parameters, ctx.ours, strict=True)
        found = [ctx.cap.expect(parameter, ours.times(upstream[0])) for parameter, ours in pairs]
        return None, None, None, *found
