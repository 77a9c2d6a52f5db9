"""Whether the copy of a model computes what the model does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from pan_callbacks.measurement.calls import LayerCall, Listener
from pan_callbacks.measurement.trace import Site, Trace, middle_of

#: Share of a map's spread from which a difference is none of rounding.
_DIFFERENCE = 0.05


class Agreement:
    """Compares what layers give in the user's own forward with what they gave in the copy, on the first image.

    Args:
        expected: What passed in the copy.
    """

    def __init__(self, expected: Mapping[Site, Trace]) -> None:
        self._expected = expected
        self.differs = False

    def before(self, listener: Listener) -> Listener:
        """Return a listener that compares, and hands on to another."""
        calls: Counter[str] = Counter()

        def listen(name: str, call: LayerCall) -> None:
            expected = self._expected.get((name, calls[name]))
            calls[name] += 1
            if expected is not None:
                self.differs |= not _close(middle_of(call), expected.middle)
            listener(name, call)

        return listen


def _close(given: Tensor, expected: Tensor) -> bool:
    if given.shape != expected.shape:
        return False
    difference = (given - expected).nan_to_num().abs().mean()
    return bool(difference <= _DIFFERENCE * expected.nan_to_num().std() + 1e-6)
