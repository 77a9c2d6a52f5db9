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


def kept(measurement: Measurement, model: nn.Module) -> dict[str, float]:
    """Megabytes of what a measurement keeps while it goes on, and once it has stopped."""
    found, copied = storages(measurement, model), set()
    for module in reached(measurement, model):
        if isinstance(module, nn.Module):
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            copied |= {tensor.untyped_storage().data_ptr() for tensor in tensors} & set(found)
    measurement.stop()
    return {
        "going_on": sum(found.values()) / MEGABYTE,
        "copies": sum(found[address] for address in copied) / MEGABYTE,
        "stopped": sum(storages(measurement, model).values()) / MEGABYTE,
    }


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
                by_images[measurement.images] = {"going_on": sum(storages(measurement, model).values()) / MEGABYTE}
        measured = len(measurement.report().measured)
        for number_ in range(1, epochs + 1):
            measurement.start(max_images=BATCH)
            model(pool[number_ % len(pool)])
            measurement.report()
            if number_ in (1, epochs):
                by_epochs[number_] = kept(measurement, model)
    most = max(value for sizes in (*by_images.values(), *by_epochs.values()) for value in sizes.values())
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
    rows = [[f"{int(n):,} images, one epoch", number(size["going_on"])] for n, size in found["by_images"].items()]
    rows += [
        [f"epoch {n} of {found['epochs']}, {BATCH} images each, {when}", number(size[key])]
        for n, size in found["by_epochs"].items()
        for key, when in (("going_on", "before it stopped"), ("stopped", "after"))
    ]
    return [
        f"Images of {found['size']} px (10,000 of 224 px would take an hour), `crop`, {found['layers']} layers that "
        "are measured at this size. Counted are the storages of all tensors and arrays that are reached from the "
        "measurement, each once, without those of the network; a copy of its weights would count.",
        "",
        *table(["what it has seen", "MB kept"], rows),
    ]
