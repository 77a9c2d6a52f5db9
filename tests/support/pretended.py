"""A device that is only pretended: tensors that say they lie elsewhere, and whoever waits for their values is noted.

Their values lie in the memory of this process, so everything can be computed; but reading one in Python, looking for
those that are not zero, or bringing one over is what makes a program wait for a real device. Mixing them with tensors
of the CPU is an error, as it is there.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PACKAGE = Path(__file__).parents[2] / "pan_callbacks"
DEVICE = torch.device("meta")  # the one that torch lets anybody say
#: What waits until the device has computed.
WAITING = {
    f"aten::{name}"
    for name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_unique2", "unique_dim", "masked_select")
} | {"aten::unique_consecutive", "aten::repeat_interleave", "aten::bincount"}
#: What takes tensors of indices; torch brings those over itself, and looks for the ones of a mask.
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class Pretended(Tensor):
    """A tensor that says it is elsewhere."""

    __slots__ = ("values",)
    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor):
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=DEVICE
        )
        made.values = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data):
        return torch.tensor(data, dtype=self.dtype).to(DEVICE)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} on a pretended tensor outside of pretending()")


class _Pretending(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        far = {id(one.values): one for one in given if isinstance(one, Pretended)}
        here = [one for one in given if not isinstance(one, Pretended)]
        near = [one for one in here if one.ndim > 0]  # torch takes single numbers along
        device = kwargs.get("device")
        if not far and device != DEVICE:
            return function(*args, **kwargs)
        name = function.name().partition(".")[0]
        leaves = bool(far) and device is not None and device != DEVICE  # it is brought here, by whoever may not wait
        if name in ("aten::_to_copy", "aten::copy_"):
            waits = (bool(here) or leaves) and not kwargs.get("non_blocking", False)
        else:
            masks = [one for one in args[1] if one is not None] if name in _INDEXING else []
            waits = name in WAITING or any(one.dtype == torch.bool for one in masks)
            assert not near or masks, f"{name} mixes tensors of two devices at {_where()}"
            waits = waits or bool(near)
        if waits:
            self.waits.append(f"{_where()} {name.removeprefix('aten::')}")
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        values = tree_map(lambda one: one.values if isinstance(one, Pretended) else one, (args, kwargs))
        out = function(*values[0], **values[1])
        return out if leaves else tree_map(lambda one: _there(one, far), out)


def _there(one: object, known: dict[int, Pretended]) -> object:
    """A tensor as one elsewhere, and the very one that was given, if it was changed in place."""
    if not isinstance(one, Tensor):
        return one
    return known[id(one)] if id(one) in known else Pretended(one)


def _where() -> str:
    frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
    return f"{Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].lineno}" if frames else "outside"


@contextmanager
def pretending() -> Iterator[list[str]]:
    """Let pretended tensors compute.

    Yields:
        What waited for them so far: the operation, and the line of the package.
    """
    with _Pretending() as mode:
        yield mode.waits


def elsewhere(model: nn.Module) -> nn.Module:
    """Move a model to the pretended device."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(Pretended(weight.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Pretended(buffer)
    return model
