"""What puts back one object: made before somebody else's code runs, called afterwards."""

from __future__ import annotations

import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Puts an object back.
Undo = Callable[[], None]


def generator_undo(value: Any) -> Undo:
    """Return what gives a generator of random numbers its state again."""
    if isinstance(value, np.random.Generator):
        bits, state = value.bit_generator, value.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if isinstance(value, random.Random):
        kept = value.getstate()
        return lambda: value.setstate(kept)
    found = value.get_state()

    def undo() -> None:
        value.set_state(found)

    return undo


def tensor_undo(tensor: Tensor) -> Undo:
    """Return what gives a tensor its values again; a sparse one is left as it is."""
    if tensor.layout is not torch.strided:
        return lambda: None
    kept = tensor.detach().clone()

    def undo() -> None:
        if tensor.shape != kept.shape or not torch.equal(tensor, kept):
            with torch.no_grad():
                tensor.detach().resize_(kept.shape).copy_(kept)

    return undo


def array_undo(values: np.ndarray[Any, Any]) -> Undo:
    """Return what gives an array its values again."""
    kept = values.copy()

    def undo() -> None:
        if values.tobytes() != kept.tobytes():
            values[...] = kept

    return undo


def container_undo(container: Any) -> Undo:
    """Return what gives a container the very items again that it has now, in their order."""
    if isinstance(container, dict):
        return _mapping_undo(container)
    kept = set(container) if isinstance(container, set) else list(container)

    def undo() -> None:
        if isinstance(container, set):
            container.intersection_update(kept)
            container.update(kept)
        elif len(container) != len(kept) or any(a is not b for a, b in zip(container, kept, strict=True)):
            if isinstance(container, deque):
                container.clear()
                container.extend(kept)
            elif not isinstance(container, array) or container.tolist() != kept:
                container[:] = array(container.typecode, kept) if isinstance(container, array) else kept

    return undo


def _mapping_undo(mapping: dict[Any, Any]) -> Undo:
    base: Any = OrderedDict if isinstance(mapping, OrderedDict) else dict  # whatever the methods of a class do
    kept = dict(base.items(mapping))

    def undo() -> None:
        for key in [key for key in base.keys(mapping) if key not in kept]:
            base.__delitem__(mapping, key)
        for key, item in kept.items():
            if base.get(mapping, key, undo) is not item:
                base.__setitem__(mapping, key, item)
        if any(one is not other for one, other in zip(base.keys(mapping), kept, strict=True)):
            base.clear(mapping)
            base.update(mapping, kept)

    return undo
