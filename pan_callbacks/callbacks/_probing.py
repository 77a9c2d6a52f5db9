"""Hands images to a model outside the Trainer's loops, without a trace in the run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from pan_callbacks.callbacks._lightning import isolate_rng
from pan_callbacks.errors import PANError
from pan_callbacks.measurement.batches import describe_batch, first_images
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.hooks import quietly

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


class InputCheck:
    """Compares the images that reach a model with those of the loader, while the sanity check runs.

    If the validation step changes them first, a loader that is read ahead shows the model other images than it is
    validated on.

    Attributes:
        changed: Whether images that entered the model were others than the loader's.
    """

    def __init__(self) -> None:
        self.changed = False
        self._expected: Tensor | None = None

    def expect(self, batch: Any) -> None:
        """Take note of the images of a batch, as the loader gives it."""
        self._expected = first_images(batch)

    def entered(self, images: Tensor) -> None:
        """Compare the first images that enter the model since."""
        if self._expected is not None:
            same = self._expected.shape == images.shape and bool((self._expected.to(images) == images).all())
            self.changed, self._expected = self.changed or not same, None


def feed(trainer: Trainer, pl_module: nn.Module, measurement: Measurement, batches: Iterable[Any] | None) -> None:
    """Run the part of the model that holds the monitored layers on batches, until enough images were measured.

    Args:
        trainer: The running Trainer.
        pl_module: Its module.
        measurement: A started measurement.
        batches: Batches as a loader gives them; None for none at all.
    """
    if batches is None or not measurement.layers:
        return
    with isolate_rng(), quietly(pl_module), trainer.precision_plugin.forward_context(), _validating(trainer):
        for batch in batches:
            images = first_images(trainer.strategy.batch_to_device(batch, dataloader_idx=0))
            if images is None:
                raise PANError(f"PANMonitor(batches=...) holds no images: {describe_batch(batch)}")
            if not measurement.offer(trainer.precision_plugin.convert_input(images)) or measurement.satisfied:
                return


def validation_batches(trainer: Trainer) -> Iterator[Any] | None:
    """Return the batches of the first validation loader, read beside the Trainer; None if that would use them up.

    A map-style dataset is read through a loader of our own, in this process, so that neither the user's workers nor
    the random state of samplers notice.
    """
    _set_up_validation(trainer)
    loader = trainer.val_dataloaders
    while isinstance(loader, (list, tuple, dict)):
        loader = next(iter(loader.values() if isinstance(loader, dict) else loader), None)
    if loader is None or read_once(loader):
        return None
    batches = trainer.num_val_batches[0] if trainer.num_val_batches else None
    limit = int(batches) if batches not in (None, float("inf")) else None
    if isinstance(loader, DataLoader):
        return itertools.islice(_read(loader), limit)
    return itertools.islice(iter(loader), limit)


def read_once(loader: Any) -> bool:
    """Return whether reading a loader takes away from it, as from a stream or a generator."""
    return isinstance(getattr(loader, "dataset", None), IterableDataset) or hasattr(loader, "__next__")


def _read(loader: DataLoader[Any]) -> Iterator[Any]:
    kwargs: dict[str, Any] = {"collate_fn": loader.collate_fn, "num_workers": 0}
    if loader.batch_sampler is not None:
        kwargs["batch_sampler"] = loader.batch_sampler
    else:
        kwargs |= {"batch_size": None, "sampler": loader.sampler}
    samplers = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    generators = [g for s in samplers if isinstance(g := getattr(s, "generator", None), torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        yield from DataLoader(loader.dataset, **kwargs)
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _set_up_validation(trainer: Trainer) -> None:
    """Make the Trainer load its validation loaders, if it would only do so later."""
    if trainer.val_dataloaders is None:
        with isolate_rng(), _validating(trainer):
            trainer.fit_loop.epoch_loop.val_loop.setup_data()


@contextmanager
def _validating(trainer: Trainer) -> Iterator[None]:
    """Let hooks of the user see the stage that they would see in validation."""
    stage = trainer.state.stage
    if trainer.state.fn == "fit":
        trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage
