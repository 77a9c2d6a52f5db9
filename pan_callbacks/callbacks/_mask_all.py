"""The schedule and the hooks of a mask of all padding, which needs nobody to find anything."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from pan_callbacks.callbacks._progress import no_length
from pan_callbacks.callbacks._remembered import Remembered
from pan_callbacks.errors import PANError
from pan_callbacks.reports.words import Mode
from pan_callbacks.suppression.everywhere import PaddingHooks
from pan_callbacks.suppression.masks import BLINDING, build_in
from pan_callbacks.suppression.neutral_hooks import Share, ShareHook
from pan_callbacks.suppression.targets import Target

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

_WHO = "PANMask(which='all')"


class MaskAllHooks(PaddingHooks[ShareHook]):
    """Hooks that make a share of all padding neutral.

    Args:
        model: The model.
        share: How much, 0 to 1.
        mode: ``"neutral"`` or ``"neutral-mean"``.
    """

    def __init__(self, model: nn.Module, share: float, mode: Mode) -> None:
        self._share = Share(share)
        self.set_mode(mode)
        super().__init__(model, partial(ShareHook, share=self._share), _WHO)
        self._share.prepare(model)
        self.set_share(share)
        self.tell()

    def set_mode(self, mode: Mode) -> None:
        """Change what neutral padding is."""
        self._share.mean = mode == "neutral-mean"

    def set_share(self, share: float) -> None:
        """Change how much of the padding is neutral."""
        if share != self._share.value:
            self._share.set(share)
        self.active = share > 0

    def targets(self) -> dict[str, Target]:
        """Return what is masked now: nothing where no padding is neutral yet."""
        return super().targets() if self._share.value else {}

    def take_off(self) -> None:
        """Take the hooks off the model."""
        super().take_off()
        self._share.set(0)  # for graphs that were compiled with the hooks


def share_at(trainer: Trainer, batch_idx: int, start_epoch: int, ramp_epochs: int) -> float:
    """Return how much of all padding is neutral in a training step, 0 to 1.

    Args:
        trainer: The Trainer.
        batch_idx: Number of the step in its epoch.
        start_epoch: First epoch in which any is.
        ramp_epochs: Epochs over which it grows in a straight line, all of it from the last step of these on; without
            a number of batches an epoch counts as one step.
    """
    epoch, batches = trainer.current_epoch - start_epoch, trainer.num_training_batches
    if epoch < 0 or not ramp_epochs:
        return float(epoch >= 0)
    return min(1.0, (epoch + (batch_idx + 1) / batches) / ramp_epochs)  # an endless loader adds 0


def check_all(mode: str, report: object) -> None:
    """Raise ValueError for arguments of a mask that do not go together with all padding."""
    if mode not in BLINDING:
        raise ValueError(f"which='all' makes padding neutral and silences nobody: mode={mode!r} needs which='pans'")
    if report is not None:
        raise ValueError("which='all' needs no report: leave it out, or take which='pans'")


class MaskAll:
    """The mask of all padding of a :class:`~pan_callbacks.PANMask`, from its first step to its last.

    Args:
        start_epoch: First epoch in which any padding is neutral.
        ramp_epochs: Epochs in which its share grows from 0 to 1.
        mode: ``"neutral"`` or ``"neutral-mean"``.

    Attributes:
        share: How much of all padding is neutral, 0 to 1.
        begun: Whether a fit has begun.
    """

    def __init__(self, start_epoch: int, ramp_epochs: int, mode: Mode) -> None:
        self._start_epoch, self._ramp_epochs, self._mode = start_epoch, ramp_epochs, mode
        self.share, self.begun = 0.0, False
        self._hooks: MaskAllHooks | None = None
        self._targets: dict[str, Target] = {}
        self._module, self._restored = Remembered(), False

    @property
    def targets(self) -> dict[str, Target]:
        """Layer name to what is masked in it, of a model that runs, or of the last that ran."""
        if self._hooks is not None:
            self._targets = self._hooks.targets()
        return self._targets

    def attach(self, pl_module: LightningModule, trainer: Trainer | None = None) -> MaskAllHooks:
        """Put the hooks on a model, and return them.

        Args:
            pl_module: The model.
            trainer: The Trainer that begins to fit it; None outside of fit, where all padding is neutral unless a fit,
                or a checkpoint, says how much is.
        """
        self.take_off()
        if trainer is None:
            self._hooks = MaskAllHooks(pl_module, self._share_outside_fit, self._mode)
            return self._hooks
        if not self._restored and not self._module.is_(pl_module):
            self.share, self.begun, self._targets = 0.0, False, {}
        self._module = Remembered(pl_module)
        if not self._ramp_epochs and trainer.current_epoch >= self._start_epoch:
            self.share = 1.0  # from the first forward on
        self._hooks = MaskAllHooks(pl_module, self.share, self._mode)
        if self._ramp_epochs and trainer.num_training_batches == float("inf"):
            warnings.warn(no_length(f"the ramp of {_WHO}", "has its own padding"), stacklevel=4)
        return self._hooks

    @property
    def _share_outside_fit(self) -> float:
        """What a fit or a checkpoint left behind, or else all."""
        return self.share if self.begun or self._restored else 1.0

    def restore(self, share: float, begun: bool, targets: Mapping[str, Target], mode: Mode) -> None:
        """Go on from a checkpoint; some strategies load it when the hooks are there."""
        self._mode = mode
        if self._hooks is not None:
            self._hooks.set_mode(mode)
        self.share, self.begun, self._targets, self._restored = share, begun, dict(targets), True

    def step(self, trainer: Trainer, batch_idx: int) -> None:
        """Make as much padding neutral as a training step is to have; never less than before."""
        self.begun, self._restored = True, False
        self.share = max(self.share, share_at(trainer, batch_idx, self._start_epoch, self._ramp_epochs))
        if self._hooks is not None:
            self._hooks.set_share(self.share)

    def step_ended(self) -> None:
        """Forget what was padded, and say what is not neutral."""
        if self._hooks is not None:
            self._hooks.rest()
            self._hooks.tell()

    def permanent(self, pl_module: LightningModule) -> nn.Module:
        """Return a copy of the module with the mask built in, with the share that holds.

        Raises:
            PANError: If it is not known what feeds a layer, as nothing has run.
        """
        share, targets = self._share_outside_fit, self.targets
        if not targets and share:
            hooks = MaskAllHooks(pl_module, share, self._mode)
            targets, undecided = hooks.targets(), hooks.undecided
            hooks.take_off()
            if undecided:
                raise PANError(
                    "nobody has seen yet which layers are fed by a pad: run fit or validate with this PANMask first, "
                    "or take neutralise(model, images)"
                )
        return build_in(pl_module, targets if share else {}, self._mode, share)

    def take_off(self) -> None:
        """Take the hooks off the model; what they masked is still known."""
        if self._hooks is not None:
            self._targets = self._hooks.targets()
            self._hooks.take_off()
        self._hooks = None
