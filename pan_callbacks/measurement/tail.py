"""What follows a convolution elementwise, repeated on readings; :mod:`~pan_callbacks.measurement.tails` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from pan_callbacks.measurement.steps import Step


@dataclass(frozen=True, eq=False)
class Tail:
    """What follows a convolution elementwise. It keeps copies of the weights it needs, and no map.

    Args:
        steps: What follows, in order.
        ends: What comes then, or why no more is known: ``"conv2d"``, ``"add"``, ``"several consumers"``, ``"the end"``,
            ``"group_norm: not elementwise"``.
        axes: Number of dimensions of the convolution.
        lasting: Whether it is the same with other weights, but for these: nothing in the forward was computed of them.
    """

    steps: tuple[Step, ...] = ()
    ends: str = "the end"
    axes: int = 2
    lasting: bool = False

    def holds(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether it is the same with these weights, by name, but for them; if the modules are what they were."""
        return self.lasting and all(one.name in weights for step in self.steps for one in step.constants)

    def of(self, weights: Mapping[str, Tensor]) -> Tail:
        """Return the tail with weights as they are now (parameters and buffers by name); it must be :attr:`lasting`."""
        return replace(self, steps=tuple(step.of(weights) for step in self.steps))

    @property
    def known(self) -> bool:
        """Whether it is known what the next layer gets: not where a step could not be repeated on readings.

        What normalises whole maps, or channels together, is such a step.
        """
        return not (":" in self.ends or "norm" in self.ends or "watched" in self.ends or self.ends == "not called")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the steps, for a report."""
        return tuple(step.name for step in self.steps)

    def __call__(self, readings: Tensor) -> Tensor:
        """Return what the steps make of readings of the convolution's output.

        Args:
            readings: (n, channels).

        Returns:
            (n, channels), float32.
        """
        return self.on_maps(readings[:, :, None])[:, :, 0]

    def on_maps(self, maps: Tensor) -> Tensor:
        """Do the same with maps (images, channels, positions) in place of readings."""
        values = {0: maps.detach().float()}
        for step in self.steps if len(maps) else ():
            values[len(values)] = step.on_maps(values, self.axes)
        return values[len(values) - 1].float()
