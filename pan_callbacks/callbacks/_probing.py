"""What the monitor does with batches: calls of the user's step, and batches of the user's choice."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from pan_callbacks.callbacks._curve import BATCHES
from pan_callbacks.errors import PANError
from pan_callbacks.layers import image_axes
from pan_callbacks.measurement.batches import describe_batch, first_images, images_in
from pan_callbacks.measurement.calls import EntryCall
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.grouping import Groups, names_of
from pan_callbacks.measurement.undisturbed import undisturbed

#: Images measured in the sanity check, if nobody acts on what is found there.
SANITY_IMAGES = 8

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


def check_images(trainer: Trainer, batches: Iterable[Any] | None) -> None:
    """Check that there will be images to probe; if validation is switched off for now, warn that the curve pauses.

    Args:
        trainer: The running Trainer.
        batches: Batches of the user's choice, or None.

    Raises:
        PANError: If there is neither validation nor ``batches``.
    """
    if batches is not None or trainer.enable_validation:
        return
    if trainer.limit_val_batches != 0:
        raise PANError(
            "PANMonitor has no images to probe: this Trainer runs no validation. "
            "Give it a validation loop, or PANMonitor(batches=...) a loader of images"
        )
    warnings.warn(f"PANMonitor's curve pauses: limit_val_batches=0. {BATCHES}", stacklevel=3)


def step_call(
    trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int
) -> EntryCall:
    """Return the call of the validation or test step that Lightning makes of a batch.

    Args:
        trainer: The running Trainer.
        pl_module: The module.
        batch: The batch.
        batch_idx: Its number.
        dataloader_idx: Number of its loader.
    """
    step, loaders = "validation_step", trainer.num_val_batches
    if trainer.testing:
        step, loaders = "test_step", trainer.num_test_batches
    numbers = (batch_idx, dataloader_idx) if len(loaders) > 1 else (batch_idx,)
    kinds = [parameter.kind for parameter in inspect.signature(getattr(pl_module, step)).parameters.values()]
    several = kinds.count(Parameter.POSITIONAL_OR_KEYWORD) > 1 or Parameter.VAR_POSITIONAL in kinds
    return EntryCall(f"{step}()", pl_module, (batch, *numbers) if several else (batch,), {}, step)


def sanity_images(trainer: Trainer, most: int) -> int:
    """Return how many images are measured in the sanity check: few, if no callback acts on what is found there.

    Args:
        trainer: The running Trainer.
        most: Images that are measured in a validation.
    """
    acted_upon = any(getattr(callback, "asks_monitor", False) for callback in getattr(trainer, "callbacks", ()))
    return most if acted_upon else min(most, SANITY_IMAGES)


def announce(trainer: Trainer, measurement: Measurement, groups: Groups, batch: Any, batch_idx: int) -> None:
    """Tell a measurement what batch comes, and how many of its images to take so that they come evenly from all.

    Args:
        trainer: The running Trainer.
        measurement: The measurement; if the groups do not fit the batch, that ends it.
        groups: A function that names the groups of the batch's images, or None.
        batch: The batch.
        batch_idx: Its number in the first loader.
    """
    images, size = _loader(trainer)
    share = 1.0 if images is None else min(1.0, (batch_idx + 1) * size / images)
    measurement.expect(share, partial(groups, batch) if callable(groups) else None, images)


def _loader(trainer: Trainer) -> tuple[int | None, int]:
    """Return how many images come from the first loader, None if nobody knows, and how many in a batch.

    Lightning takes the number that a limit names for the number of batches of a loader that does not say how many.
    """
    stage = str(getattr(trainer.state.stage, "value", ""))
    limits: Any = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
    limits = trainer.num_sanity_val_batches if stage == "sanity_check" else limits
    loaders: Any = trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
    loaders = list(loaders.values()) if isinstance(loaders, dict) else loaders
    try:
        loader = loaders[0] if isinstance(loaders, (list, tuple)) else loaders
        batches = min(len(loader), next(iter(limits)))
        size = int(getattr(loader, "batch_size", None) or 1)
        images = min(batches * size, len(loader.sampler)) if size > 1 else batches
        return (images if type(loader).__name__ != "CombinedLoader" else None), size
    except Exception:  # a stream, or a loader of another kind
        return None, 1


def feed(
    trainer: Trainer,
    pl_module: LightningModule,
    measurement: Measurement,
    batches: Iterable[Any],
    groups: Groups = None,
) -> None:
    """Measure batches of the user's choice, until there are images enough.

    Args:
        trainer: The running Trainer.
        pl_module: Its module.
        measurement: A started measurement.
        batches: Batches as a loader gives them. Random states, counters and the like that reading them moves are put
            back, so that whoever else reads them finds them as they were.
        groups: Which images belong together.

    Raises:
        PANError: If a batch holds no images.
    """
    measurement.gather()
    if not measurement.layers or measurement.failure is not None:
        return
    with undisturbed(batches), trainer.precision_plugin.forward_context(), _validating(trainer):
        seen, total = 0, None
        for batch in _reader(batches):
            images = first_images(trainer.strategy.batch_to_device(batch, dataloader_idx=0), image_axes(pl_module))
            if images is None:
                raise PANError(f"PANMonitor(batches=...) holds no images: {describe_batch(batch)}")
            total = images_in(batches, len(images)) if seen == 0 else total
            measurement.expect(names=partial(names_of, groups, batch, seen, len(images)), total=total)
            seen += len(images)
            if not _take(measurement, trainer.precision_plugin.convert_input(images)) or measurement.satisfied:
                return


def _take(measurement: Measurement, images: Tensor) -> bool:
    """Measure images by the first module that takes them; if none does, the measurement's failure says why."""
    doors = measurement.doors
    outer = next(((name, door) for name, door in reversed(doors.items()) if _has_forward(door)), None)
    for name, module in doors.items():
        whole = None if outer is None or outer[1] is module else EntryCall(*outer, (images,), {})
        try:
            measurement.measure(EntryCall(name, module, (images,), {}, within=whole))
        except PANError:
            raise
        except Exception as error:  # a module that takes its images otherwise is no fault
            measurement.failure = f"{name or 'the model'} does not take the images: {type(error).__name__}: {error}"
        else:
            measurement.failure = None
            return True
    return False


def _has_forward(module: nn.Module) -> bool:
    """Whether a module may be called: a LightningModule whose steps call its parts, or a list of modules, may not."""
    return type(module).forward.__qualname__ not in ("_forward_unimplemented", "LightningModule.forward")


def _reader(batches: Iterable[Any]) -> Iterable[Any]:
    """Return what reads the same batches, without the workers of the user's loader if that keeps them."""
    if not isinstance(batches, DataLoader):
        return batches
    own = copy.copy(batches)
    own.__dict__.update(_iterator=None, persistent_workers=False)
    return own


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
