"""Trains a model against its padding aware neurons."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pan_callbacks.callbacks._around import Around
from pan_callbacks.callbacks._arrivals import Arrivals
from pan_callbacks.callbacks._findings import find_monitor, last_findings, nothing_found, warn_if_behind
from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks._remembered import Remembered
from pan_callbacks.callbacks._tags import Tags
from pan_callbacks.callbacks._unpenalised import check_ran, warn_of_left_out
from pan_callbacks.errors import PANError
from pan_callbacks.layers import named
from pan_callbacks.suppression.penalty import PaddingBiasPenalty, check_arguments

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


Method = Callable[..., Any]


class PANPenalty(Callback):
    """Adds ``weight * PaddingBiasPenalty`` to the loss of every training step; the LightningModule stays as it is.

    ``training_step`` is wrapped for the time of ``fit``, and ``manual_backward`` if optimization is manual, so that
    the gradient is the one of a loss with the penalty in it, whatever accumulates, scales or distributes it. What the
    module itself logs as its loss is its own loss. Logs ``pan_penalty/loss``, the penalty before it is weighted, and
    ``pan_penalty/weight``; a second one in the same Trainer logs ``pan_penalty2/loss`` and so on.

    Args:
        weight: Weight of the penalty once it is warmed up.
        kind: ``"both"``, ``"effect"`` or ``"moments"``, see :class:`~pan_callbacks.PaddingBiasPenalty`.
        layers: Glob or globs over module names; None for all padded convolutions.
        only_pans: Penalise just the neurons that a :class:`~pan_callbacks.PANMonitor` of the same Trainer found last.
        start_epoch: First epoch with a penalty.
        warmup_epochs: Epochs over which the weight grows in a straight line from 0.
        every_n_steps: Add it every n-th step, n times as heavy: the same on average at a fraction of the cost. Layers
            that do not run in every step are penalised in every n-th of those in which they run.
        max_images: Images of a batch that are looked at.

    Raises:
        ValueError: If an argument is out of range.
        PANError: At the start of fit, if no layer can be penalised, ``only_pans`` finds no monitor, or the strategy
            shards the weights that ``kind`` needs, or the monitor measures no layer that is to be penalised; in
            training, where the penalty would be lost (a reentrant checkpoint, a model compiled and run before, manual
            optimization without ``manual_backward``, a layer that was replaced or lost its hooks).
    """

    asks_monitor = True  # which measures more before the first step for it

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
        self._neurons: dict[str, list[int]] = {}
        self._missed: dict[str, int] = {}
        self._module = Remembered()
        self._restored = False
        self._tags = Tags(PANPenalty, "pan_penalty/loss")
        self._around: dict[str, Around] = {}
        self._weight_now = 0.0
        self._arrivals = Arrivals()
        self._ever_ran = self._logged = self._told_of_nothing = self._told_of_idle = False
        self._told_of: set[str] = set()  # layers without a penalty

    @property
    def state_key(self) -> str:
        """What distinguishes two penalties in one checkpoint."""
        return self._generate_state_key(kind=self.kind, layers=self.layers)

    def state_dict(self) -> dict[str, Any]:
        """Return the neurons of ``only_pans``, and how the layers' schedules stand."""
        return {"neurons": self._neurons, "missed": self._missed if self._penalty is None else self._penalty.missed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the neurons and the schedules of a checkpoint."""
        self._neurons, self._missed = state_dict["neurons"], state_dict.get("missed", {})
        self._restored = True

    # --- when to run -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach; after the model was configured, before its first forward."""
        self._detach(pl_module)
        if self.only_pans and find_monitor(trainer) is None:
            raise PANError(
                "PANPenalty(only_pans=True) needs a PANMonitor that finds them: "
                "Trainer(callbacks=[PANMonitor(), PANPenalty(only_pans=True)])"
            )
        self._tags.take_number(trainer, self)
        if not self._restored and not self._module.is_(pl_module):
            self._neurons, self._missed = {}, {}  # of another model, in an earlier fit
        self._module = Remembered(pl_module)
        strategy = type(trainer.strategy).__name__
        if self.kind != "moments" and any(name in strategy for name in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise PANError(f"{strategy} shards the weights that kind={self.kind!r} needs; use kind='moments'")
        neurons = self._neurons if self.only_pans else None
        self._penalty = PaddingBiasPenalty(
            pl_module, self.kind, self.layers, neurons, self.max_images, self.every_n_steps
        )
        self._penalty.resume(self._missed)
        self._penalty.rest()
        self._ever_ran = self._told_of_nothing = self._told_of_idle = False
        self._told_of = set()
        for name, around in (("training_step", self._around_step), ("manual_backward", self._around_backward)):
            self._around[name] = Around(pl_module, name, functools.partial(around, trainer, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over a checkpoint that came late; warn of what a loader without a length makes of the warmup."""
        if self._restored:  # some strategies load it after on_fit_start, and in a resumed epoch none begins
            self._attached.resume(self._missed)
            if self.only_pans:
                self._penalise(pl_module, self._neurons)
                warn_if_behind(trainer, "PANPenalty(only_pans=True)")
        self._restored = False
        if self.warmup_epochs and trainer.num_training_batches == float("inf"):
            warnings.warn(
                "the training loader has no length, so PANPenalty's warmup goes in steps of whole epochs and the first "
                "has no penalty; limit_train_batches gives it a length",
                stacklevel=2,
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over what the monitor found."""
        self._logged = False
        report = last_findings(trainer) if self.only_pans else None
        found = {} if report is None else report.neurons_by_layer()
        self._follow(pl_module, found)
        if report is None:
            return
        self._penalise(pl_module, found)
        nothing = nothing_found(report, self._attached.layers, self.layers)
        if nothing is not None and not self._told_of_nothing:
            self._told_of_nothing = True
            warnings.warn(nothing, stacklevel=2)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look no longer, until the next training step."""
        self._attached.end()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up what came to the model: what is measured now may be penalised next."""
        if self._penalty is not None:
            self._penalty.follow(pl_module, strict=self._ever_ran)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log also in an epoch without a penalty, so that whoever watches the key finds it."""
        if not self._logged:
            self._log(pl_module, 0.0, self._weight_now)
        idle = self._attached.never_ran()
        if self._ever_ran and idle and not self._told_of_idle:
            self._told_of_idle = True
            warnings.warn(
                f"PANPenalty has no penalty for {len(idle)} layers ({named(idle)}: did not run with gradients so far)",
                stacklevel=2,
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach, and give the module its own methods back."""
        self._detach(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach: after an exception Lightning calls no teardown."""
        self._detach(pl_module)

    # --- around the module's own methods -----------------------------------------------------------------------------

    def _around_step(self, trainer: Trainer, pl_module: LightningModule, own: Method, *args: Any, **kwargs: Any) -> Any:
        """Run the module's training step; if optimization is automatic, the penalty is in the loss that it returns."""
        if not trainer.training:  # a validation step that calls it
            return own(*args, **kwargs)
        penalty, self._weight_now = self._attached, self._scheduled(trainer)
        if self._weight_now > 0:
            if trainer.fit_loop.batch_idx == 0:  # the module's own on_train_epoch_start comes after ours
                self._follow(pl_module, self._neurons)
            penalty.check_there()
            if not pl_module.automatic_optimization:
                self._arrivals.watch(penalty)
            penalty.begin(trainer.fit_loop.total_batch_idx)
        else:
            penalty.rest()
        with penalty.running(pl_module):
            output = own(*args, **kwargs)
        if self._weight_now > 0:
            penalty.check_there()
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not pl_module.automatic_optimization or not isinstance(loss, Tensor):
            return output
        total = self._added(pl_module, loss, lambda: penalty.take(loss, only=True))
        if total is loss:
            return output
        if not isinstance(output, Mapping):
            return total
        if not isinstance(output, MutableMapping):  # it cannot be changed, and a dict does as well
            return {**output, "loss": total}
        changed: Any = copy.copy(output)
        changed["loss"] = total
        return changed

    def _around_backward(
        self, trainer: Trainer, pl_module: LightningModule, own: Method, loss: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        """Run the module's manual_backward, of the loss and the penalty of the forwards that it was computed from."""
        with self._arrivals.expected():
            own(self._added(pl_module, loss, lambda: self._attached.take(loss)), *args, **kwargs)

    def _added(self, pl_module: LightningModule, loss: Tensor, take: Callable[[], Tensor | None]) -> Tensor:
        """Return the loss with the penalty, if this step has one."""
        if self._attached.idle:
            return loss
        if not self._ever_ran:
            check_ran(self._attached, loss)
        self._ever_ran = True
        value = take()
        self._told_of |= warn_of_left_out(self._attached, self._told_of)
        if value is None:
            return loss
        self._log(pl_module, value.detach() / self.every_n_steps, self._weight_now)
        return loss + self._weight_now * value

    def _log(self, pl_module: LightningModule, value: Tensor | float, weight: float) -> None:
        self._logged = True
        figures = self._tags.of_all({"pan_penalty/loss": value, "pan_penalty/weight": weight})
        pl_module.log_dict(figures, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def _follow(self, pl_module: LightningModule, neurons: Mapping[str, list[int]]) -> None:
        """Take up what came to the model since; neurons were found in layers as they were."""
        replaced = self._attached.follow(pl_module, strict=self._ever_ran)
        for name in neurons:
            if name in replaced:
                raise PANError(
                    f"PANPenalty cannot penalise the PANs that were found in layer {name}: {replaced[name]}. "
                    "Change the model before fit, or leave the layer out with layers="
                )

    def _penalise(self, pl_module: LightningModule, neurons: dict[str, list[int]]) -> None:
        """Penalise these alone, from the next step on."""
        self._neurons = neurons
        self._attached.set_neurons(pl_module, neurons)
        self._attached.rest()

    @property
    def _attached(self) -> PaddingBiasPenalty:
        """The penalty of the run that goes on."""
        assert self._penalty is not None, "the penalty is not attached"
        return self._penalty

    def _detach(self, pl_module: LightningModule) -> None:
        for around in self._around.values():
            around.remove(pl_module)
        self._around.clear()
        self._arrivals.clear()
        if self._penalty is not None:
            self._missed = self._penalty.missed
            self._penalty.detach()
        self._penalty = None

    def _scheduled(self, trainer: Trainer) -> float:
        """Weight at this batch."""
        epoch, batches = trainer.current_epoch, trainer.num_training_batches
        if epoch < self.start_epoch:
            return 0.0
        if not self.warmup_epochs:
            return self.weight
        passed = epoch - self.start_epoch + trainer.fit_loop.batch_idx / batches  # an endless loader adds 0
        return self.weight * min(1.0, passed / self.warmup_epochs)
