"""Trains a model against its padding aware neurons."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from pan_callbacks._compat import Callback
from pan_callbacks.callbacks.monitor import PANMonitor
from pan_callbacks.layers import PANError
from pan_callbacks.penalty import PaddingBiasPenalty, check_arguments


class PANPenalty(Callback):
    """Adds ``weight * PaddingBiasPenalty`` to the loss of every training step; the LightningModule stays as it is.

    ``training_step`` is wrapped for the time of ``fit``, and ``manual_backward`` where optimization is manual, so that
    the gradient is the one of a loss with the penalty in it, whatever accumulates, scales or distributes it. What the
    module itself logs as its loss is its own loss. Logs ``pan_penalty/loss``, the penalty before it is weighted, and
    ``pan_penalty/weight``.

    Args:
        weight: Weight of the penalty once it is warmed up.
        kind: ``"both"``, ``"effect"`` or ``"moments"``, see :class:`~pan_callbacks.PaddingBiasPenalty`.
        layers: Glob or globs over module names; None for all padded convolutions.
        only_pans: Penalise just the neurons that a :class:`~pan_callbacks.PANMonitor` of the same Trainer found last.
        start_epoch: First epoch with a penalty.
        warmup_epochs: Epochs over which the weight grows in a straight line from 0.
        every_n_steps: Add it every n-th step, n times as heavy: the same on average at a fraction of the cost.
        max_images: Images of a batch that are looked at.

    Raises:
        ValueError: If an argument is out of range.
        PANError: At the start of fit, if no layer can be penalised, ``only_pans`` finds no monitor, or the strategy
            shards the weights that ``kind`` needs; in training, where the penalty would be lost (a reentrant
            checkpoint, a model compiled and run before, manual optimization without ``manual_backward``).
    """

    def __init__(
        self,
        weight: float = 0.1,
        kind: str = "both",
        layers: str | list[str] | None = None,
        only_pans: bool = False,
        start_epoch: int = 0,
        warmup_epochs: int = 0,
        every_n_steps: int = 4,
        max_images: int = 16,
    ) -> None:
        super().__init__()
        check_arguments(kind, max_images, every_n_steps)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight={weight!r} is negative or not finite; 0 switches the penalty off")
        for name, value in (("start_epoch", start_epoch), ("warmup_epochs", warmup_epochs)):
            if value < 0:
                raise ValueError(f"{name}={value!r} is negative")
        self.weight, self.kind, self.layers, self.only_pans = weight, kind, layers, only_pans
        self.start_epoch, self.warmup_epochs = start_epoch, warmup_epochs
        self.every_n_steps, self.max_images = every_n_steps, max_images
        self._penalty: PaddingBiasPenalty | None = None
        self._monitor: PANMonitor | None = None
        self._own_attributes: dict[str, Any] = {}
        self._weight_now, self._backwards = 0.0, 0
        self._had_backward = self._told_of_nothing = False

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Attaches; after the model was configured, before its first forward."""
        self._detach(pl_module)
        self._monitor = None
        if self.only_pans:
            self._monitor = next((c for c in trainer.callbacks if isinstance(c, PANMonitor)), None)
            if self._monitor is None:
                raise PANError(
                    "PANPenalty(only_pans=True) needs a PANMonitor that finds them: "
                    "Trainer(callbacks=[PANMonitor(), PANPenalty(only_pans=True)])"
                )
        strategy = type(trainer.strategy).__name__
        if self.kind != "moments" and any(name in strategy for name in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise PANError(f"{strategy} shards the weights that kind={self.kind!r} needs; use kind='moments'")
        self._penalty = PaddingBiasPenalty(pl_module, self.kind, self.layers, None, self.max_images, self.every_n_steps)
        self._penalty.collect(False)
        self._wrap(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Takes over what the monitor found."""
        if self._monitor is None or self._monitor.report is None:
            return
        report = self._monitor.report
        self._penalty.set_neurons(pl_module, report.neurons_by_layer())
        if not report.count and not self._told_of_nothing:
            self._told_of_nothing = True
            warnings.warn("PANPenalty(only_pans=True) has nothing to penalise: no PAN was found", stacklevel=2)

    def on_before_optimizer_step(self, trainer: Any, pl_module: nn.Module, optimizer: Any) -> None:
        """Refuses a manual optimization that passed the penalty by."""
        if not pl_module.automatic_optimization:
            if self._penalty.collected and not self._had_backward:
                raise _passed_by()
            self._had_backward = False

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *args: Any) -> None:
        """Looks no longer; until here, so that a layer that is run again in the backward pass is noticed."""
        self._penalty.collect(False)

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Detaches, and gives the module its own methods back."""
        self._detach(pl_module)

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """Detaches: after an exception Lightning calls no teardown."""
        self._detach(pl_module)

    # --- around the module's own methods -----------------------------------------------------------------------------

    def _wrap(self, trainer: Any, pl_module: nn.Module) -> None:
        """Puts our methods in the place of the module's own, which may be on its class or on itself."""
        for name, around in (("training_step", self._around_step), ("manual_backward", self._around_backward)):
            self._own_attributes[name] = pl_module.__dict__.get(name)
            own = getattr(pl_module, name)
            setattr(pl_module, name, _Around(own, functools.partial(around, trainer, pl_module)))

    def _detach(self, pl_module: nn.Module) -> None:
        for name, own in self._own_attributes.items():
            if own is None:
                pl_module.__dict__.pop(name, None)
            else:
                setattr(pl_module, name, own)
        self._own_attributes.clear()
        if self._penalty is not None:
            self._penalty.detach()
            self._penalty = None

    def _around_step(self, trainer: Any, pl_module: nn.Module, own: Callable, *args: Any, **kwargs: Any) -> Any:
        """The module's training step; where optimization is automatic, the penalty is in the loss that it returns."""
        penalty = self._penalty
        penalty.step = trainer.fit_loop.total_batch_idx
        self._weight_now, self._had_backward, had_any = self._scheduled(trainer), False, self._backwards
        penalty.collect(self._weight_now > 0)
        if not pl_module.automatic_optimization:
            before = self._gradients()
            output = own(*args, **kwargs)
            if penalty.collected and self._backwards == had_any and self._gradients() != before:
                raise _passed_by()  # by an optimizer that is none of Lightning's
            return output
        output = own(*args, **kwargs)
        loss = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return output
        total = self._added(pl_module, loss)
        if total is loss or not isinstance(output, Mapping):
            return total
        output = copy.copy(output)
        output["loss"] = total
        return output

    def _around_backward(
        self, trainer: Any, pl_module: nn.Module, own: Callable, loss: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        """The module's manual_backward, of the loss and the penalty of what ran since the one before."""
        self._had_backward, self._backwards = True, self._backwards + 1
        own(self._added(pl_module, loss) if self._penalty.collected else loss, *args, **kwargs)

    def _added(self, pl_module: nn.Module, loss: Tensor) -> Tensor:
        """The loss with the penalty, if this step has one."""
        if not self._penalty.expects:
            return loss
        if not self._penalty.collected:
            raise PANError(
                "PANPenalty saw no padded convolution run with gradients in this training step. If the model was "
                "compiled and run before fit, its hooks are ignored: call torch.compiler.reset() first, or compile in "
                "configure_model. If the padded layers are frozen under torch.no_grad, use start_epoch or layers"
            )
        value = self._penalty.take()
        if value is None:
            return loss
        logged = {"pan_penalty/loss": value.detach() / self.every_n_steps, "pan_penalty/weight": self._weight_now}
        pl_module.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        return loss + self._weight_now * value

    def _scheduled(self, trainer: Any) -> float:
        """Weight at this batch."""
        epoch, batches = trainer.current_epoch, trainer.num_training_batches
        if epoch < self.start_epoch:
            return 0.0
        if self.warmup_epochs == 0:
            return self.weight
        passed = epoch - self.start_epoch + trainer.fit_loop.batch_idx / batches  # an endless loader adds 0
        return self.weight * min(1.0, passed / self.warmup_epochs)

    def _gradients(self) -> list[tuple]:
        """Tells whether gradients arrived in between, without looking at their values."""
        return [(id(grad), None if grad is None else grad._version) for grad in self._penalty.gradients()]


class _Around:
    """Stands in the place of a method for the time of fit; a copy of the module gets the method itself."""

    def __init__(self, own: Callable, around: Callable) -> None:
        functools.update_wrapper(self, own)
        self.own, self.around = own, around

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.own, *args, **kwargs)

    def __deepcopy__(self, memo: dict) -> Callable:
        return copy.deepcopy(self.own, memo)

    def __reduce__(self) -> tuple:
        return _itself, (self.own,)


def _itself(own: Callable) -> Callable:
    return own


def _passed_by() -> PANError:
    return PANError(
        "gradients arrived without the penalty: this training_step calls loss.backward(); "
        "call self.manual_backward(loss) instead"
    )
