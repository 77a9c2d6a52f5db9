"""What processes tell each other for a report: everything in one exchange, without pickles."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_ALIGNED = 8  # bytes; a number of any type may begin there
_TENSOR = "\0tensor"  # no layer can be called so


def of_all(state: dict[str, Any], device: torch.device | str = "cpu") -> list[dict[str, Any]]:
    """Return what every process has, in the order of their ranks; every process calls this.

    There are two collectives: of sizes, and of everything else.

    Args:
        state: What this process has: lists, dicts with text keys, text, numbers, and tensors.
        device: Device of this process, for backends that exchange nothing else.

    Returns:
        A state of each process, its tensors on the CPU.
    """
    world = dist.get_world_size()
    on = device if dist.get_backend() == "nccl" else "cpu"
    mine = packed(state)
    sizes = [torch.zeros(1, dtype=torch.int64, device=on) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=on))
    lengths = [int(size) for size in sizes]
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=on)
    padded[: len(mine)] = mine.to(on)
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    return [unpacked(one[:length].cpu()) for one, length in zip(gathered, lengths, strict=True)]


def packed(state: dict[str, Any]) -> Tensor:
    """Return a state as bytes (n,), on the CPU: a text with what it is, and the numbers of its tensors.

    Example:
        >>> unpacked(packed({"sum": torch.ones(2), "layers": ["conv"]}))
        {'sum': tensor([1., 1.]), 'layers': ['conv']}
    """
    tensors: list[Tensor] = []
    text = _bytes(torch.frombuffer(bytearray(json.dumps(_described(state, tensors)).encode()), dtype=torch.uint8))
    parts = [_bytes(torch.tensor([len(text)])), text, *(_bytes(one.detach().cpu()) for one in tensors)]
    return torch.cat(parts)


def unpacked(data: Tensor) -> dict[str, Any]:
    """Return the state that :func:`packed` made bytes of."""
    length = int(data[:_ALIGNED].view(torch.int64))
    text = bytes(data[_ALIGNED : _ALIGNED + length].tolist()).rstrip(b"\0").decode()
    found: dict[str, Any] = _restored(json.loads(text), data, _ALIGNED + length)[0]
    return found


def _bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, and zeros up to where another may begin."""
    data = tensor.contiguous().flatten().view(torch.uint8)
    return torch.nn.functional.pad(data, (0, -len(data) % _ALIGNED))


def _described(value: Any, tensors: list[Tensor]) -> Any:
    """Return a value with a description of each tensor in its place, and note the tensor."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {_TENSOR: [str(value.dtype).removeprefix("torch."), *value.shape]}
    if isinstance(value, dict):
        return {key: _described(item, tensors) for key, item in value.items()}
    return [_described(item, tensors) for item in value] if isinstance(value, (list, tuple)) else value


def _restored(value: Any, data: Tensor, at: int) -> tuple[Any, int]:
    """Return a value with its tensors again, and where the next one begins."""
    if isinstance(value, list):
        items = []
        for item in value:
            restored, at = _restored(item, data, at)
            items.append(restored)
        return items, at
    if not isinstance(value, dict):
        return value, at
    if value.keys() == {_TENSOR}:
        dtype, *shape = value[_TENSOR]
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        size = tensor.numel() * tensor.element_size()
        tensor = data[at : at + size].clone().view(tensor.dtype).view(shape)
        return tensor, at + size + -size % _ALIGNED
    found = {}
    for key, item in value.items():
        found[key], at = _restored(item, data, at)
    return found, at
