"""Whether a penalty outweighs the loss of the task."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

#: Times the task's own loss from which on a penalty is said to outweigh it.
TOO_HEAVY = 10.0
#: Times the loss of the first step with a penalty that a loss counts at most: beyond that the network is broken.
BROKEN = 10.0
#: Share of the task's own loss that the weight of the warning makes of the penalty.
ENOUGH = 0.1
#: Steps with a penalty after which the first look is taken, if no epoch ends before.
FIRST_LOOK = 20


class Outweighed:
    """Warns once if the weighted penalty is more than ten times the task's loss, averaged over an epoch.

    Both are summed on the device, in steps that have a penalty alone, and looked at when an epoch ends, the first time
    after 20 such steps: nothing else waits for the device. Steps where either is not finite are left out, and a loss
    that runs away counts ten times the first one at most: else a penalty of a network that breaks, whatever breaks it,
    would look light beside the loss that it leaves.
    """

    def __init__(self) -> None:
        self._told = self._looked = False
        self._most: Tensor | None = None
        self._forget()

    def add(self, loss: Tensor, penalty: Tensor | None, weight: float) -> None:
        """Count one backward pass of this step.

        Args:
            loss: The task's own loss.
            penalty: What is added to it before it is weighted; None if nothing is.
            weight: Weight of the penalty.
        """
        if self._told:
            return
        self._losses.append(loss.detach().float().abs().mean())
        if penalty is not None:
            self._penalties.append(penalty.detach().float())
            self._weight = weight

    def end_step(self, look: bool) -> None:
        """Add up what this step has, and look after the first 20 steps.

        Args:
            look: Whether to look at all: one process of several may warn for all.
        """
        if self._penalties:
            device = self._losses[0].device
            loss, penalty = (torch.stack([v.to(device) for v in of]).sum() for of in (self._losses, self._penalties))
            finite = torch.isfinite(loss) & torch.isfinite(penalty)
            self._most = BROKEN * loss if self._most is None else self._most
            loss = torch.fmin(loss, self._most.to(device))  # which passes over a first one that is NaN
            for place, value in enumerate((loss, penalty, self._weight * penalty)):
                self._sums[place] = torch.where(finite, value, 0.0) + self._sums[place]
            self._steps += 1
        self._begin_step()
        if self._steps == FIRST_LOOK and not self._looked:
            self._look(look)

    def end_epoch(self, look: bool) -> None:
        """Look at the steps of this epoch, and begin anew."""
        self._look(look)
        self._forget()

    def _begin_step(self) -> None:
        self._losses: list[Tensor] = []
        self._penalties: list[Tensor] = []
        self._weight = 0.0

    def _forget(self) -> None:
        self._begin_step()
        self._sums: list[Tensor | float] = [0.0, 0.0, 0.0]  # loss, penalty, weighted penalty
        self._steps = 0

    def _look(self, look: bool) -> None:
        if self._told or not self._steps:
            return
        self._looked = True
        if not look:
            return
        loss, penalty, weighted = (float(value) for value in self._sums)
        if not 0 < TOO_HEAVY * loss < weighted < float("inf"):
            return
        self._told = True
        warnings.warn(
            f"PANPenalty outweighs the task: weight * penalty was {weighted / self._steps:.3g} on average over "
            f"{self._steps} steps with a penalty, and the task's own loss {loss / self._steps:.3g}. "
            f"PANPenalty(weight={ENOUGH * loss / penalty:.2g}) makes the penalty, as it is now, a tenth of the task's "
            "loss",
            stacklevel=4,
        )
