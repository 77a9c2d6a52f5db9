"""Trains a model against its padding aware neurons."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks.monitor import PANMonitor, find_monitor
from pan_callbacks.errors import PANError
from pan_callbacks.layers import select
from pan_callbacks.suppression.penalty import PaddingBiasPenalty, check_arguments


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
        self._neurons: dict[str, list[int]] = {}
        self._around: dict[str, _Around] = {}
        self._gradient_hooks: list[Any] = []
        self._weight_now = 0.0
        self._in_backward = self._ever_ran = self._logged = self._told_of_nothing = False

    @property
    def state_key(self) -> str:
        """Tells two penalties apart in one checkpoint."""
        return self._generate_state_key(kind=self.kind, layers=self.layers)

    def state_dict(self) -> dict[str, Any]:
        """The neurons of ``only_pans``, for the checkpoint: a resumed run has no report before its first validation."""
        return {"neurons": self._neurons}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the neurons of a checkpoint."""
        self._neurons = state_dict["neurons"]

    # --- when to run -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Attaches; after the model was configured, before its first forward."""
        self._detach(pl_module)
        if self.only_pans:
            self._monitor = find_monitor(trainer)
            if self._monitor is None:
                raise PANError(
                    "PANPenalty(only_pans=True) needs a PANMonitor that finds them: "
                    "Trainer(callbacks=[PANMonitor(), PANPenalty(only_pans=True)])"
                )
        strategy = type(trainer.strategy).__name__
        if self.kind != "moments" and any(name in strategy for name in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise PANError(f"{strategy} shards the weights that kind={self.kind!r} needs; use kind='moments'")
        neurons = self._neurons if self.only_pans else None
        self._penalty = PaddingBiasPenalty(
            pl_module, self.kind, self.layers, neurons, self.max_images, self.every_n_steps
        )
        self._penalty.collect(False)
        self._ever_ran = self._told_of_nothing = False
        for name, around in (("training_step", self._around_step), ("manual_backward", self._around_backward)):
            self._around[name] = _Around(pl_module, name, functools.partial(around, trainer, pl_module))
        if not pl_module.automatic_optimization:
            self._watch_gradients(pl_module)

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Says what a loader without a length makes of the warmup."""
        if self.warmup_epochs and trainer.num_training_batches == float("inf"):
            warnings.warn(
                "the training loader has no length, so PANPenalty's warmup goes in steps of whole epochs and the first "
                "has no penalty; limit_train_batches gives it a length",
                stacklevel=2,
            )

    def on_train_epoch_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Takes over what the monitor found."""
        self._logged = False
        if self._monitor is None or self._monitor.report is None:
            return
        self._neurons = self._monitor.report.neurons_by_layer()
        self._penalty.set_neurons(pl_module, self._neurons)
        if not self._neurons and not self._told_of_nothing:
            self._told_of_nothing = True
            warnings.warn("PANPenalty(only_pans=True) has nothing to penalise: no PAN was found", stacklevel=2)

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *args: Any) -> None:
        """Looks no longer, until the next training step."""
        self._penalty.collect(False)

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Logs also in an epoch without a penalty, so that whoever watches the key finds it."""
        if not self._logged:
            self._log(pl_module, 0.0, self._weight_now)

    def teardown(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Detaches, and gives the module its own methods back."""
        self._detach(pl_module)

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """Detaches: after an exception Lightning calls no teardown."""
        self._detach(pl_module)

    # --- around the module's own methods -----------------------------------------------------------------------------

    def _around_step(self, trainer: Any, pl_module: nn.Module, own: Callable, *args: Any, **kwargs: Any) -> Any:
        """The module's training step; where optimization is automatic, the penalty is in the loss that it returns."""
        if not trainer.training:  # a validation step that calls it
            return own(*args, **kwargs)
        self._penalty.step = trainer.fit_loop.total_batch_idx
        self._weight_now = self._scheduled(trainer)
        self._penalty.collect(self._weight_now > 0)
        output = own(*args, **kwargs)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not pl_module.automatic_optimization or not isinstance(loss, Tensor):
            return output
        total = self._added(pl_module, loss, self._penalty.take)
        if total is loss or not isinstance(output, Mapping):
            return total
        output = copy.copy(output)
        output["loss"] = total
        return output

    def _around_backward(
        self, trainer: Any, pl_module: nn.Module, own: Callable, loss: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        """The module's manual_backward, of the loss and the penalty of the forwards that it was computed from."""
        self._in_backward = True
        try:
            own(self._added(pl_module, loss, lambda: self._penalty.take(loss)), *args, **kwargs)
        finally:
            self._in_backward = False

    def _added(self, pl_module: nn.Module, loss: Tensor, take: Callable[[], Tensor | None]) -> Tensor:
        """The loss with the penalty, if this step has one."""
        if not self._penalty.expects:
            return loss
        if not self._ever_ran:
            self._check_first(self._penalty)
        value = take()
        if value is None:
            return loss
        self._log(pl_module, value.detach() / self.every_n_steps, self._weight_now)
        return loss + self._weight_now * value

    def _check_first(self, penalty: PaddingBiasPenalty) -> None:
        """In the first step with a penalty: is there anything that it will never see?"""
        if not penalty.ran:
            raise PANError(
                "PANPenalty saw no padded convolution run with gradients in this training step. If the model was "
                "compiled and run before fit, its hooks are ignored: call torch.compiler.reset() first, or compile in "
                "configure_model. If the padded layers are frozen under torch.no_grad, use start_epoch or layers"
            )
        self._ever_ran = True
        missing = penalty.left_out()
        if missing:
            some = "; ".join(f"{name}: {why}" for name, why in list(missing.items())[:3])
            more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
            warnings.warn(f"PANPenalty has no penalty for {len(missing)} layers ({some}{more})", stacklevel=2)

    def _log(self, pl_module: nn.Module, value: Tensor | float, weight: float) -> None:
        self._logged = True
        figures = {"pan_penalty/loss": value, "pan_penalty/weight": weight}
        pl_module.log_dict(figures, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def _watch_gradients(self, pl_module: nn.Module) -> None:
        """Refuses a backward pass of manual optimization that passes the penalty by."""
        convs = select(pl_module)
        for name in self._penalty.layers:
            for parameter in convs[name].parameters():
                if parameter.requires_grad and parameter.is_leaf:
                    arrived = functools.partial(self._on_gradient, name)
                    self._gradient_hooks.append(parameter.register_post_accumulate_grad_hook(arrived))

    def _on_gradient(self, layer: str, parameter: Tensor) -> None:
        if not self._in_backward and self._penalty is not None and self._penalty.holds(layer):
            raise PANError(
                f"gradients reach layer {layer} without its penalty: this training_step calls loss.backward(); "
                "call self.manual_backward(loss) instead"
            )

    def _detach(self, pl_module: nn.Module) -> None:
        for around in self._around.values():
            around.remove(pl_module)
        self._around.clear()
        for hook in self._gradient_hooks:
            hook.remove()
        self._gradient_hooks.clear()
        if self._penalty is not None:
            self._penalty.detach()
        self._penalty = self._monitor = None

    def _scheduled(self, trainer: Any) -> float:
        """Weight at this batch."""
        epoch, batches = trainer.current_epoch, trainer.num_training_batches
        if epoch < self.start_epoch:
            return 0.0
        if self.warmup_epochs == 0:
            return self.weight
        passed = epoch - self.start_epoch + trainer.fit_loop.batch_idx / batches  # an endless loader adds 0
        return self.weight * min(1.0, passed / self.warmup_epochs)


class _Around:
    """Stands in the place of a module's method; a copy of the module gets the method itself.

    Args:
        module: The module.
        name: Name of the method, which may be on the module's class or on itself.
        around: Called with the method and its arguments.
    """

    def __init__(self, module: nn.Module, name: str, around: Callable) -> None:
        own = getattr(module, name)
        functools.update_wrapper(self, own)
        self.__wrapped__ = inspect.unwrap(own)  # Lightning looks at its signature and code
        self.name, self.own, self.around = name, own, around
        self.was_on_instance = name in module.__dict__
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.own, *args, **kwargs)

    def remove(self, module: nn.Module) -> None:
        """Gives the method back its place, also from below another of these."""
        current = module.__dict__.get(self.name)
        if current is self and self.was_on_instance:
            setattr(module, self.name, self.own)
        elif current is self:
            delattr(module, self.name)
        while isinstance(current, _Around):
            if current.own is self:
                current.own, current.was_on_instance = self.own, self.was_on_instance
            current = current.own

    def __deepcopy__(self, memo: dict) -> Callable:
        return copy.deepcopy(self.own, memo)

    def __reduce__(self) -> tuple:
        return _itself, (self.own,)


def _itself(own: Callable) -> Callable:
    return own
