"""Row 5: bytes of what a measurement keeps, however many images and epochs it saw."""

from __future__ import annotations

import gc
import types
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.performance.subjects import noise, resnet50
from benchmarks.performance.words import number, table
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.settings import Settings

MEGABYTE = 1e6
BATCH, POOL = 50, 500  # images of a forward; different ones
#: What is the program's and not somebody's own.
_SHARED = (type, types.ModuleType, types.CodeType, types.FrameType, types.BuiltinFunctionType)


def reached(root: object, without: nn.Module | None = None) -> Iterator[object]:
    """Every object that is reached from one, each once.

    Args:
        root: The object; what classes, modules of Python and the globals of functions hold is not its own.
        without: A network: it and its modules are left out, with what they alone hold.
    """
    seen = {id(module) for module in (without.modules() if without is not None else ())}
    waiting = deque([root])
    while waiting:
        here = waiting.popleft()
        if id(here) not in seen and not isinstance(here, _SHARED):
            seen.add(id(here))
            yield here
            waiting.extend(_held(here))


def storages(root: object, without: nn.Module | None = None) -> dict[int, int]:
    """Address to bytes of every storage of tensors and arrays that is reached from an object, each once.

    Args:
        root: The object.
        without: A network, left out with all storages that it has.
    """
    owned = [] if without is None else [*without.parameters(), *without.buffers()]
    found: dict[int, int] = {}
    theirs = {tensor.untyped_storage().data_ptr() for tensor in owned}
    for here in reached(root, without):
        if isinstance(here, Tensor):
            storage = here.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(here, np.ndarray) and here.base is None:
            found[here.ctypes.data] = here.nbytes
    return {address: size for address, size in found.items() if address not in theirs}


def _held(here: object) -> list[object]:
    if isinstance(here, types.FunctionType):
        return [here.__closure__, here.__defaults__, here.__kwdefaults__, here.__dict__]
    held = gc.get_referents(here)
    if isinstance(here, Tensor):
        held += [vars(here), here.grad]
    return held


def sizes(measurement: Measurement, model: nn.Module) -> dict[str, float]:
    """Megabytes of what a measurement keeps while it goes on, and how many of them are weights of copies."""
    found, copied = storages(measurement, model), set()
    for module in reached(measurement, model):
        if isinstance(module, nn.Module):
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            copied |= {tensor.untyped_storage().data_ptr() for tensor in tensors} & set(found)
    copies = sum(found[address] for address in copied)
    return {"going_on": sum(found.values()) / MEGABYTE, "copies": copies / MEGABYTE}


def kept(measurement: Measurement, model: nn.Module) -> dict[str, float]:
    """The same, and megabytes of what is kept once it has stopped."""
    found = sizes(measurement, model)
    measurement.stop()
    return found | {"stopped": sum(storages(measurement, model).values()) / MEGABYTE}


def measure(quick: bool) -> dict:
    """Feeds many small images in one epoch, then many epochs, and counts what is kept in between."""
    size, counts, epochs = (64, (50, 100, 200), 3) if quick else (64, (250, 1000, 2500, 5000, 10_000), 50)
    model, pool = resnet50(), noise(min(POOL, counts[-1]), size).split(BATCH)
    measurement = Measurement(model, Settings(None, "crop", 0.8, counts[-1]))
    by_images: dict[int, dict[str, float]] = {}
    by_epochs: dict[int, dict[str, float]] = {}
    with torch.no_grad():
        measurement.start()
        while measurement.images < counts[-1]:
            model(pool[measurement.images // BATCH % len(pool)])
            if measurement.images in counts:
                by_images[measurement.images] = sizes(measurement, model)
        measured = len(measurement.report().measured)
        for number_ in range(1, epochs + 1):
            measurement.start(max_images=BATCH)
            model(pool[number_ % len(pool)])
            measurement.report()
            if number_ in (1, epochs):
                by_epochs[number_] = kept(measurement, model)
    most = max(value for one in (*by_images.values(), *by_epochs.values()) for value in one.values())
    return {
        "by_images": by_images,
        "by_epochs": by_epochs,
        "most": most,
        "size": size,
        "layers": measured,
        "images": counts[-1],
        "epochs": epochs,
    }


def section(found: dict) -> list[str]:
    """What the page says."""
    seen = {f"{int(n):,} images, one epoch": one for n, one in found["by_images"].items()}
    seen |= {f"{n} epochs of {BATCH} images": one for n, one in found["by_epochs"].items()}
    rows = [[what, *(number(one.get(key)) for key in ("going_on", "copies", "stopped"))] for what, one in seen.items()]
    return [
        f"Images of {found['size']} px (10,000 of 224 px take half an hour or more), `crop`, {found['layers']} layers "
        "that are measured at this size. Counted are the storages of all tensors and arrays that are reached from the "
        "measurement, each once, without those of the network; a copy of its weights would count.",
        "",
        *table(["what it has seen", "MB kept", "of which weights of copies", "MB after it stopped"], rows),
    ]
