"""Trains a model against its padding aware neurons."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pan_callbacks.callbacks import _penalty_weight as weights
from pan_callbacks.callbacks._around import Around
from pan_callbacks.callbacks._arrivals import Arrivals
from pan_callbacks.callbacks._findings import find_monitor, last_findings, nothing_found, warn_if_behind
from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks._outweighed import Outweighed
from pan_callbacks.callbacks._remembered import Remembered
from pan_callbacks.callbacks._step_output import loss_of, with_loss
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
    module itself logs as its loss is its own loss. Logs ``pan_penalty/loss``, the penalty before it is weighted,
    ``pan_penalty/weight``, and ``pan_penalty/settled``, which is :attr:`settled` at the end of the epoch; a second one
    in the same Trainer logs ``pan_penalty2/loss`` and so on. Warns once if the weighted penalty is more than ten times
    the loss that it is added to, averaged over an epoch or the first 20 steps with a penalty.

    Args:
        weight: Weight of the penalty once it is warmed up: a number, or a function that returns one for the progress of
            training from 0 to 1, as a :class:`~pan_callbacks.Schedule` does. It is asked at 0, 0.5 and 1 first.
        layers: Glob or globs over module names; None for all padded convolutions.
        only_pans: Penalise just the neurons that a :class:`~pan_callbacks.PANMonitor` of the same Trainer found last.
        start_epoch: First epoch with a penalty.
        warmup_epochs: Epochs over which the weight grows in a straight line from 0.
        every_n_steps: Add it every n-th step. Layers that do not run in every step are penalised in every n-th of those
            in which they run.
        max_images: Images of a batch that are measured.

    Raises:
        ValueError: If an argument is out of range.
        PANError: At the start of fit, if no layer can be penalised, ``only_pans`` finds no monitor, the strategy shards
            the weights, the monitor measures no layer that is to be penalised, or a function is the weight of a
            training without an end; in training, if that gives no weight, or where the penalty would be
            lost (a reentrant checkpoint, a model compiled and run before, manual optimization without
            ``manual_backward``, a layer that was replaced or lost its hooks).
    """

    asks_monitor = True  # which measures more before the first step for it

    def __init__(
        self,
        weight: weights.Weight = 0.1,
        layers: str | list[str] | None = None,
        only_pans: bool = False,
        start_epoch: int = 0,
        warmup_epochs: int = 0,
        every_n_steps: int = 4,
        max_images: int = 16,
    ) -> None:
        super().__init__()
        check_arguments(max_images, every_n_steps)
        weights.check(weight, start_epoch, warmup_epochs)
        self.weight, self.layers, self.only_pans = weight, layers, only_pans
        self.start_epoch, self.warmup_epochs = start_epoch, warmup_epochs
        self.every_n_steps, self.max_images = every_n_steps, max_images
        self._penalty: PaddingBiasPenalty | None = None
        self._neurons: dict[str, list[int]] = {}
        self._layers: dict[str, Any] = {}
        self._module = Remembered()
        self._restored = False
        self._tags = Tags(PANPenalty, "pan_penalty/loss")
        self._around: dict[str, Around] = {}
        self._weight_now, self._settled = 0.0, not weights.varies(weight, start_epoch, warmup_epochs)
        self._outweighed = Outweighed()
        self._arrivals = Arrivals()
        self._ever_ran = self._logged = self._told_of_nothing = self._told_of_idle = False
        self._told_of: set[str] = set()  # layers without a penalty

    @property
    def state_key(self) -> str:
        """What distinguishes two penalties in one checkpoint."""
        return self._generate_state_key(layers=self.layers)

    def state_dict(self) -> dict[str, Any]:
        """Return the neurons of ``only_pans``, how the layers' schedules stand, and whether the weight has settled."""
        layers = self._layers if self._penalty is None else self._penalty.state()
        return {"neurons": self._neurons, "layers": layers, "settled": self._settled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the neurons and the schedules of a checkpoint."""
        self._neurons, self._layers = state_dict["neurons"], state_dict.get("layers", {})
        self._settled = state_dict.get("settled", self._settled)
        self._restored = True

    @property
    def settled(self) -> bool:
        """Whether the weight has reached its last value, so that what is measured now is what training leads to.

        True from the first step after the warmup on; of a :class:`~pan_callbacks.Schedule` from the first one past its
        ``until``; with another function in the last epoch; always, if the weight is a number from the start. Of an
        epoch without a training step it says what was so before.
        """
        return self._settled

    # --- when to run -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach; after the model was configured, before its first forward."""
        self._detach(pl_module)
        if self.only_pans and find_monitor(trainer) is None:
            raise PANError(
                "PANPenalty(only_pans=True) needs a PANMonitor that finds them: "
                "Trainer(callbacks=[PANMonitor(), PANPenalty(only_pans=True)])"
            )
        weights.check_schedule(trainer, self.weight)
        self._tags.take_number(trainer, self)
        if not self._restored and not self._module.is_(pl_module):
            self._neurons, self._layers = {}, {}  # of another model, in an earlier fit
            self._settled = not weights.varies(self.weight, self.start_epoch, self.warmup_epochs)
        self._module = Remembered(pl_module)
        strategy = type(trainer.strategy).__name__
        if any(name in strategy for name in ("FSDP", "DeepSpeed", "ModelParallel")):
            raise PANError(
                f"{strategy} shards the kernels, which PANPenalty needs whole; PaddingDropout() and "
                "PANMask(which='all') do without"
            )
        neurons = self._neurons if self.only_pans else None
        self._penalty = PaddingBiasPenalty(
            pl_module, self.layers, neurons, self.max_images, self.every_n_steps, beside_task=True
        )
        self._penalty.resume(self._layers)
        self._penalty.rest()
        self._ever_ran = self._told_of_nothing = self._told_of_idle = False
        self._told_of, self._outweighed = set(), Outweighed()
        for name, around in (("training_step", self._around_step), ("manual_backward", self._around_backward)):
            self._around[name] = Around(pl_module, name, functools.partial(around, trainer, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over a checkpoint that came late; warn of what a loader without a length makes of the weight."""
        if self._restored:  # some strategies load it after on_fit_start, and in a resumed epoch none begins
            self._attached.resume(self._layers)
            if self.only_pans:
                self._penalise(pl_module, self._neurons)
                warn_if_behind(trainer, "PANPenalty(only_pans=True)")
        self._restored = False
        weights.warn_if_endless(trainer, self.weight, self.warmup_epochs)

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
        self._outweighed.end_step(trainer.is_global_zero)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up what came to the model: what is measured now may be penalised next."""
        if self._penalty is not None:
            self._penalty.follow(pl_module, strict=self._ever_ran)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log also in an epoch without a penalty, so that whoever watches the key finds it."""
        if not self._logged:
            self._log(pl_module, 0.0, self._weight_now)
        self._show(pl_module, {"pan_penalty/settled": float(self._settled)})
        self._outweighed.end_epoch(trainer.is_global_zero)
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
        penalty = self._attached
        self._weight_now, self._settled = weights.at(trainer, self.weight, self.start_epoch, self.warmup_epochs)
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
        loss = loss_of(output)
        if not pl_module.automatic_optimization or not isinstance(loss, Tensor):
            return output
        total = self._added(pl_module, loss, penalty.take)
        return output if total is loss else with_loss(output, total)

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
        self._outweighed.add(loss, value, self._weight_now)
        if value is None:
            return loss
        self._log(pl_module, value.detach(), self._weight_now)
        return loss + self._weight_now * value

    def _log(self, pl_module: LightningModule, value: Tensor | float, weight: float) -> None:
        self._logged = True
        self._show(pl_module, {"pan_penalty/loss": value, "pan_penalty/weight": weight})

    def _show(self, pl_module: LightningModule, figures: Mapping[str, Tensor | float]) -> None:
        pl_module.log_dict(self._tags.of_all(figures), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

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
            self._layers = self._penalty.state()
            self._penalty.detach()
        self._penalty = None
