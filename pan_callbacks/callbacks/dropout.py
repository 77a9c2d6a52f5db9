"""Drops padding by chance while a model trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.reports.words import Per
from pan_callbacks.suppression.dropout import Chance, DropoutHook, dropout_hooks
from pan_callbacks.suppression.everywhere import PaddingHooks

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


class PaddingDropout(Callback):
    """Makes the padding of every convolution neutral by chance in training, so that the network does not rely on it.

    In validation, test and prediction nothing changes: a :class:`~pan_callbacks.PANMonitor` sees the network with its
    own padding. Chances are drawn as :class:`torch.nn.Dropout` draws its own; see
    :func:`~pan_callbacks.padding_dropout`. Goes together with :class:`~pan_callbacks.PANPenalty`, which sees what the
    network sees, and with :class:`~pan_callbacks.PANMask`, whose channels stay masked. Logs ``pan_dropout/p``, 0 before
    ``start_epoch``; a second one in the same Trainer logs ``pan_dropout2/p``.

    Args:
        p: Chance of neutral padding, 0 to 1. 0.5, the default, shows the network both equally often.
        layers: Glob or globs over module names; None for all padded convolutions.
        start_epoch: First epoch in which padding is dropped.
        per: ``"image"``: each image of a batch has a draw of its own in each call of a layer. ``"call"``: all images
            of the batch have the same.

    Raises:
        ValueError: If an argument is out of range.
        PANError: At the start of fit, if a glob matches no convolution; in training, where the dropout would be lost:
            a layer was replaced, lost its hooks, or runs without them (compiled and run before).

    Example:
        >>> PaddingDropout(p=0.25).p
        0.25
    """

    def __init__(
        self,
        p: float = 0.5,
        layers: str | list[str] | None = None,
        start_epoch: int = 0,
        per: Per = "image",
    ) -> None:
        super().__init__()
        self._chance = Chance(p, per)
        if start_epoch < 0:
            raise ValueError(f"start_epoch={start_epoch!r} is negative")
        self.p, self.layers, self.start_epoch, self.per = p, layers, start_epoch, per
        self._tags = Tags(PaddingDropout, "pan_dropout/p")
        self._hooks: PaddingHooks[DropoutHook] | None = None
        self._logged = False

    # --- when to run -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach; after the model was configured, before its first forward."""
        self._detach()
        self._tags.take_number(trainer, self)
        self._hooks = dropout_hooks(pl_module, self._chance, self.layers, "PaddingDropout")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up layers that came to the model, and begin when it is time."""
        self._attached.follow()
        self._begin(trainer)
        self._log(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look whether the hooks are still there; an epoch that was resumed in its middle has no start."""
        self._attached.check_there()
        self._begin(trainer)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the layers ran through their hooks."""
        self._attached.check_learning()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look again; ``loss.backward()`` in manual optimization goes by ``on_after_backward``."""
        self._attached.check_there()
        self._attached.check_learning()
        self._attached.rest()
        self._attached.tell()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log also in an epoch that was resumed in its middle, and so has no start."""
        if not self._logged:
            self._log(pl_module)
        self._logged = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks off."""
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks off: after an exception Lightning calls no teardown."""
        self._detach()

    # --- what to do ------------------------------------------------------------------------------------------------

    @property
    def _attached(self) -> PaddingHooks[DropoutHook]:
        """The hooks of the run that goes on."""
        assert self._hooks is not None, "the dropout is not attached"
        return self._hooks

    def _begin(self, trainer: Trainer) -> None:
        self._chance.on = self._attached.active = self.p > 0 and trainer.current_epoch >= self.start_epoch

    def _log(self, pl_module: LightningModule) -> None:
        self._logged = True
        value = float(self.p) if self._chance.on else 0.0
        pl_module.log(self._tags.of("pan_dropout/p"), value, on_step=False, on_epoch=True, batch_size=1)

    def _detach(self) -> None:
        self._chance.on = False
        if self._hooks is not None:
            self._hooks.take_off()
        self._hooks = None
