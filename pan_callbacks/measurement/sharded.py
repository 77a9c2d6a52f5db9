"""Models whose weights lie in parts in several processes: which are measured, and how they are put together for it.

What ``fully_shard`` (FSDP2) divides is an ordinary model otherwise: put together on every process, once before the
images come and by all processes at the same point, it is copied and run like any other. From then on no process waits
for another, whatever it decides about its own images. Whatever computes in parts as well (tensor parallelism), or
cannot be put together in one go (the first FSDP), is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.measurement.hooks import home_of

_FSDP = "torch.distributed.fsdp"
_WAY_OUT = "measure a whole model that has its weights: scan(model, batches) in one process"


def is_divided(tensor: object) -> bool:
    """Whether a tensor is one process's part of a larger one (a ``DTensor``)."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` divides a model, or a module in it; its weights may be whole for the moment.

    Example:
        >>> is_sharded(nn.Conv2d(1, 2, 3))
        False
    """
    return any(undivided(type(module)) is not type(module) for module in model.modules())


def undivided(kind: type) -> type:
    """Return the class that a module had before ``fully_shard`` gave it another; the class itself, if it did not."""
    names = [one.__name__ == "FSDPModule" and _is_of_fsdp(one) for one in kind.__mro__]
    return kind.__mro__[names.index(True) + 1] if True in names else kind


def divides(hook: object) -> bool:
    """Whether a hook puts weights together for a forward and takes them apart again, and is of no use in a copy."""
    return _is_of_fsdp(hook)


def keeps_parts(name: str, value: object) -> bool:
    """Whether an attribute of a module is ``fully_shard``'s: what it knows of it, or a method that it replaced."""
    made = getattr(value.__func__, "__globals__", {}).get("__name__", "") if isinstance(value, MethodType) else ""
    return name.startswith("__composable_api_") or str(made).startswith(_FSDP)


def refuse(model: nn.Module) -> None:
    """Raise PANError, with the way out, if a model computes in parts or its weights cannot be put together."""
    for name, module in model.named_modules():
        module_name = repr(name) if name else "the model"
        if type(module).__name__ == "FullyShardedDataParallel" and _is_of_fsdp(type(module)):
            raise PANError(
                f"{module_name} is wrapped in FullyShardedDataParallel, whose weights cannot be copied: shard it with "
                f"torch.distributed.fsdp.fully_shard, or {_WAY_OUT}"
            )
        if any(home_of(hook).startswith("torch.distributed.tensor") for hook in _hooks(module)):
            raise PANError(f"{module_name} is tensor parallel, each process has a part of its maps: {_WAY_OUT}")
        low = getattr(_policy(module), "param_dtype", None)
        if low is not None:
            raise PANError(
                f"{module_name} computes in {low} (MixedPrecisionPolicy), and a copy of its weights would not: use "
                "autocast (Trainer(precision='bf16-mixed')) instead"
            )
    below = {id(w) for module in model.modules() if _policy(module) is not None for w in module.parameters()}
    for name, weight in model.named_parameters():
        if is_divided(weight) and (id(weight) not in below or _parts(weight) > 1):
            raise PANError(f"{name!r} is a DTensor that fully_shard alone did not make (tensor parallel?): {_WAY_OUT}")


def whole_weights(model: nn.Module) -> dict[int, nn.Parameter]:
    """Return every divided weight of a model put together, on the CPU, by the number of the part.

    All processes must call this, as it waits for all of them: nothing else happens in between that could fail in one.

    Args:
        model: The model; it is left as it is.
    """
    whole: dict[int, nn.Parameter] = {}
    for weight in filter(is_divided, model.parameters()):
        # off the device at once: no more than one weight is whole there at a time
        values = cast(Any, weight).detach().full_tensor().to("cpu", copy=True)
        whole[id(weight)] = nn.Parameter(values, requires_grad=False)
    return whole


def _parts(weight: Any) -> int:
    """Return along how many axes of the processes a weight is divided: one by ``fully_shard``, another by others."""
    return sum(placement.is_shard() for placement in weight.placements)


def _policy(module: nn.Module) -> object | None:
    """Return in which precision ``fully_shard`` lets a module compute; None if it does not divide it."""
    if undivided(type(module)) is type(module):
        return None
    return getattr(cast(Any, module)._get_fsdp_state(), "_mp_policy", False)


def _hooks(module: nn.Module) -> Iterator[object]:
    yield from module._forward_pre_hooks.values()
    yield from module._forward_hooks.values()


def _is_of_fsdp(one: object) -> bool:
    return home_of(one).startswith(_FSDP)
