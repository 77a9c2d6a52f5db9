"""What anything is, in a string that is equal only for what is bit for bit the same."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import deque
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEPTH = 6


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()[:12]


def of_tensor(tensor: Tensor) -> str:
    """Kind, shape and bits of a tensor, with its mean for a reader."""
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        return "not initialised"
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    kind = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    if tensor.is_meta:
        return f"{kind} without data"
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    mean = float(plain.abs().double().mean()) if plain.numel() and plain.dtype != torch.bool else 0.0
    return f"{kind} #{digest(plain.flatten().view(torch.uint8).numpy().tobytes())} of mean size {mean:.9g}"


def fingerprint(thing: Any, depth: int = DEPTH) -> str:
    """The string of anything; of what it does not know, the name of its class."""
    if isinstance(thing, Tensor):
        return of_tensor(thing)
    if isinstance(thing, torch.Generator):
        return f"generator #{digest(thing.get_state().numpy().tobytes())}"
    if isinstance(thing, np.random.Generator):
        return f"generator #{digest(repr(thing.bit_generator.state).encode())}"
    if isinstance(thing, np.random.RandomState):
        _, numbers, *rest = thing.get_state()
        return f"generator #{digest(numbers.tobytes() + repr(rest).encode())}"
    if isinstance(thing, random.Random):
        return f"generator #{digest(repr(thing.getstate()).encode())}"
    if isinstance(thing, np.ndarray):
        return f"{thing.dtype}{list(thing.shape)} #{digest(thing.tobytes())}"
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes, Enum, np.generic, torch.dtype)):
        return repr(thing)
    if depth == 0:
        return type(thing).__name__
    inner = depth - 1
    if isinstance(thing, Mapping):
        return type(thing).__name__ + str({str(key): fingerprint(value, inner) for key, value in thing.items()})
    if isinstance(thing, Set):
        return type(thing).__name__ + str(sorted(fingerprint(value, inner) for value in thing))
    if isinstance(thing, (Sequence, deque)):
        return type(thing).__name__ + str([fingerprint(value, inner) for value in thing])
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}
        return type(thing).__name__ + fingerprint(fields, inner)
    return type(thing).__name__
