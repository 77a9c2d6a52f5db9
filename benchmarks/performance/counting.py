"""Counts the forwards of a network and of all its copies: the sizes of what they get, and how far they go."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

#: Shape of the images, and the module that was the last one, None if the forward came to its end.
Forward = tuple[tuple[int, ...], str | None]


class Enough(Exception):
    """Ends a forward early."""


@dataclass
class Forwards:
    """Forwards of a network.

    Attributes:
        counts: How often there was one of this kind.
    """

    counts: Counter[Forward] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        """Images that passed."""
        return sum(shape[0] * count for (shape, _), count in self.counts.items())

    def in_words(self) -> dict[str, int]:
        """``"16×3×224×224"`` or ``"16×3×160×160 up to layer4.2.conv2"`` to how often, the largest first."""
        kinds = sorted((kind for kind in self.counts if self.counts[kind]), key=lambda kind: (-_size(kind), str(kind)))
        return {"×".join(map(str, shape)) + (f" up to {end}" if end else ""): self.counts[shape, end]
                for shape, end in kinds}  # fmt: skip

    def replay(self, model: nn.Module) -> None:
        """Runs a bare model as often and as far, on noise of the same sizes."""
        for (shape, end), count in self.counts.items():
            images = torch.randn(shape)
            for _ in range(count):
                run(model, images, end)


def _size(kind: Forward) -> int:
    return torch.Size(kind[0]).numel()


def run(model: nn.Module, images: torch.Tensor, end: str | None = None) -> None:
    """A forward without gradients, up to the end of a module or to its own."""

    def stop(*_: object) -> None:
        raise Enough

    handle = None if end is None else model.get_submodule(end).register_forward_hook(stop)
    try:
        with torch.no_grad():
            model(images)
    except Enough:
        pass
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def counted(kind: type[nn.Module]) -> Iterator[Forwards]:
    """Counts every forward of a class while the context lasts, known at its end: also of copies, without hooks.

    A measurement puts back whatever a forward of its own changes in Python, a count as well; so each forward is a line
    of a file.
    """
    found, own, original = Forwards(), "forward" in vars(kind), kind.forward
    notes, path = tempfile.mkstemp()

    @functools.wraps(original)
    def forward(self: nn.Module, images: torch.Tensor, *args: object, **kwargs: object) -> object:
        shape, end = tuple(images.shape), None
        try:
            return original(self, images, *args, **kwargs)
        except BaseException as error:
            end = last_module(self, error)
            raise
        finally:
            os.write(notes, (json.dumps([shape, end]) + "\n").encode())

    kind.forward = forward
    try:
        yield found
    finally:
        if own:
            kind.forward = original
        else:
            del kind.forward
        os.close(notes)
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            shape, end = json.loads(line)
            found.counts[tuple(shape), end] += 1
        os.unlink(path)


def last_module(model: nn.Module, error: BaseException) -> str | None:
    """Name of the innermost module of a network that was at work when an error came, None for the network itself."""
    names = {id(module): name for name, module in model.named_modules()}
    found, traceback = "", error.__traceback__
    while traceback is not None:
        found = names.get(id(traceback.tb_frame.f_locals.get("self")), found)
        traceback = traceback.tb_next
    return found or None
