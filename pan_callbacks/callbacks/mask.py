"""Blinds padding aware neurons to the padding while a model trains, or silences them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pan_callbacks.callbacks._findings import find_monitor, last_findings, warn_if_behind
from pan_callbacks.callbacks._lightning import Callback
from pan_callbacks.callbacks._mask_all import MaskAll, MaskAllHooks, check_all
from pan_callbacks.callbacks._mask_hooks import MaskHooks
from pan_callbacks.callbacks._remembered import Remembered
from pan_callbacks.errors import PANError
from pan_callbacks.layers import convolutions, named
from pan_callbacks.reports.pan_report import PANReport
from pan_callbacks.reports.words import Mode, Refresh, Which
from pan_callbacks.suppression.masks import build_in, build_masks, check_mode
from pan_callbacks.suppression.targets import Target, merge, targets

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


class PANMask(Callback):
    """Masks the PANs that a :class:`~pan_callbacks.PANMonitor` of the same Trainer finds, those of a report, or all.

    The mask holds in training, validation, test and prediction. It is in the checkpoint: a resumed run and
    ``trainer.test(ckpt_path=...)`` with this callback have it again. Gradients flow through it. Logs
    ``pan_mask/channels``, and with ``which="all"`` also ``pan_mask/share``. A Trainer takes one of these.

    Args:
        mode: ``"neutral"``: a masked neuron reads its input's own values in place of the padding, keeps its content and
            loses the border. ``"neutral-mean"``: it reads the mean of each channel of its input there. ``"zero"`` and
            ``"mean"`` silence it, see :func:`~pan_callbacks.masked`.
        start_epoch: First epoch with a mask. At its start the neurons are masked that the monitor found last; in epoch
            0 these are those of the network before its first step, in later ones those of the last validation.
        refresh: ``"epoch"`` adds at the start of each further epoch what was found since; ``"once"`` does not.
        report: A report, or the file of one, to take the neurons from in place of a monitor.
        which: ``"pans"``: what was found. ``"all"``: the padding of every layer is neutral, which needs neither monitor
            nor report; padding by other values than a constant stays as it is.
        ramp_epochs: With ``which="all"``, epochs from ``start_epoch`` on in which the outputs that read padding go from
            what they are with the layer's own to what they are with neutral padding: a straight line, step by step.

    Raises:
        ValueError: If an argument is out of range.
        PANError: At the start, if there is neither a monitor nor a report, or the report is of another model; later,
            where the mask would be lost: a masked layer was replaced, lost its hooks or channels, or runs without its
            hooks (compiled and run before), or in an evaluation none of the masked layers runs.
    """

    def __init__(
        self,
        mode: Mode = "neutral",
        start_epoch: int = 0,
        refresh: Refresh = "epoch",
        report: PANReport | str | os.PathLike[str] | None = None,
        which: Which = "pans",
        ramp_epochs: int = 0,
    ) -> None:
        super().__init__()
        check_mode(mode)
        if which not in ("pans", "all"):
            raise ValueError(f"which={which!r} is unknown; choose 'pans' or 'all'")
        if which == "all":
            check_all(mode, report)
        elif ramp_epochs:
            raise ValueError(f"ramp_epochs={ramp_epochs!r} is for which='all'; PANs are masked when they are found")
        if refresh not in ("once", "epoch"):
            raise ValueError(f"refresh={refresh!r} is unknown; choose 'once' or 'epoch'")
        for name, value in (("start_epoch", start_epoch), ("ramp_epochs", ramp_epochs)):
            if value < 0:
                raise ValueError(f"{name}={value!r} is negative")
        self.mode, self.start_epoch, self.refresh = mode, start_epoch, refresh
        self.report = PANReport.load(Path(report)) if isinstance(report, (str, os.PathLike)) else report
        self.which, self.ramp_epochs = which, ramp_epochs
        self.asks_monitor = which == "pans"  # which measures more before the first step for it
        self._all = MaskAll(start_epoch, ramp_epochs, mode) if which == "all" else None
        self._targets: dict[str, Target] = {}
        self._begun = self._restored = self._resumed = self._told_of_nothing = self._logged = False
        self._module = Remembered()
        self._masked: dict[str, Remembered] = {}  # the convolutions that the targets were put on
        self._hooks: MaskHooks | MaskAllHooks | None = None

    @property
    def channels(self) -> dict[str, list[int]]:
        """Layer name to the channels that are masked."""
        return {name: list(target.channels) for name, target in self._wanted.items()}

    @property
    def _wanted(self) -> Mapping[str, Target]:
        """What is masked now, or was when the last run ended."""
        return self._targets if self._all is None else self._all.targets

    def permanent(self, pl_module: LightningModule) -> nn.Module:
        """Return a copy of the module with these masks built in, see :func:`~pan_callbacks.mask_permanently`."""
        if self._all is not None:
            return self._all.permanent(pl_module)
        return build_in(pl_module, self._wanted_outside_fit(), self.mode)

    def state_dict(self) -> dict[str, Any]:
        """Return what is masked, for the checkpoint."""
        layers = {name: target.to_dict() for name, target in self._wanted.items()}
        state = {"mode": self.mode, "begun": self._begun, "layers": layers}
        return state if self._all is None else {**state, "begun": self._all.begun, "share": self._all.share}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Mask again what a checkpoint says, in the mode that it says."""
        if ("share" in state_dict) != (self._all is not None):
            other = "all" if self._all is None else "pans"
            warnings.warn(f"the checkpoint's mask has which={other!r}, not {self.which!r}: left out", stacklevel=2)
            return
        targets = {name: Target.from_dict(target) for name, target in state_dict["layers"].items()}
        if state_dict["mode"] != self.mode:
            warnings.warn(f"the checkpoint's masks have mode={state_dict['mode']!r}, not {self.mode!r}", stacklevel=2)
        self.mode = state_dict["mode"]
        if self._all is not None:
            self._all.restore(state_dict["share"], state_dict["begun"], targets, self.mode)
            return
        self._begun = state_dict["begun"]
        self._targets = targets
        self._restored = self._resumed = True

    # --- when to run -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach; to every convolution and before the first forward, as a compiled model ignores later hooks."""
        if self._all is not None:
            self._detach()
            self._hooks = self._all.attach(pl_module, trainer)
            return
        if self.report is None and find_monitor(trainer) is None:
            raise PANError(
                "PANMask has no PANs to mask: give it a monitor, Trainer(callbacks=[PANMonitor(), PANMask()]), "
                "or a report, PANMask(report=scan(model, batches))"
            )
        if not self._restored and not self._module.is_(pl_module):
            self._targets, self._begun = {}, False  # masks of another model, in an earlier fit
        replaced = self._replaced(pl_module)
        if replaced:
            warnings.warn(f"PANMask forgets the masks of layers that were replaced: {named(replaced)}", stacklevel=2)
            self._targets = {name: target for name, target in self._targets.items() if name not in replaced}
            self._begun = bool(self._targets)
        self._module, self._restored = Remembered(pl_module), False
        if self.report is not None and self.report.count:
            build_masks(pl_module, targets(self.report), self.mode)  # a report of another model is noticed now
        self._detach()
        self._hooks = MaskHooks(pl_module, self.mode)
        self._apply(self._targets)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask what a checkpoint says that some strategies load after ``on_fit_start``."""
        if self._restored:
            self._restored = False
            self._detach()
            self._hooks = MaskHooks(pl_module, self.mode)
            self._apply(self._targets)
        if self._resumed and self.refresh == "epoch" and self.report is None:
            warn_if_behind(trainer, "PANMask")
        self._resumed = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask what was found."""
        if self._all is not None:
            self._attached.follow()
            return  # its share moves with the steps, and is logged when they are over
        self._attached.check_there()
        first = not self._begun and trainer.current_epoch >= self.start_epoch
        if first or self._begun and self.refresh == "epoch" and self.report is None:
            self._take(self.report or last_findings(trainer))
        self._log(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look whether the mask is still there, and take the next step of a ramp."""
        self._attached.check_there()
        if self._all is not None:
            self._all.step(trainer, batch_idx)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the mask was there."""
        self._attached.check_learning()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look whether the mask was there; ``loss.backward()`` in manual optimization goes by ``on_after_backward``."""
        self._attached.check_there()
        self._attached.check_learning()
        if self._all is not None:
            self._all.step_ended()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log also in an epoch that was resumed in its middle, and so has no start."""
        self._attached.follow()
        if not self._logged:
            self._log(pl_module)
        self._logged = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach outside fit; in fit, what is measured now may be masked next."""
        if self._hooks is not None:
            self._hooks.follow()
        else:
            self._attach_outside_fit(pl_module)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the mask was there."""
        self._attached.check_there()
        if self._all is not None:
            self._all.step_ended()
        if trainer.state.fn != "fit":
            self._attached.check_ran()

    on_test_end = on_predict_end = on_validation_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the masks off; ``channels`` still says what they were."""
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the masks off: after an exception Lightning calls no teardown."""
        self._detach()

    # --- what to do ------------------------------------------------------------------------------------------------

    @property
    def _attached(self) -> MaskHooks | MaskAllHooks:
        """The hooks of the run that goes on."""
        assert self._hooks is not None, "the mask is not attached"
        return self._hooks

    def _attach_outside_fit(self, pl_module: LightningModule) -> None:
        if self._all is not None:
            self._hooks = self._all.attach(pl_module)
            return
        replaced = self._replaced(pl_module)
        if replaced:
            raise PANError(
                f"PANMask has masks of layers that were replaced ({named(replaced)}): take a new PANMask for the "
                "changed model, or load the checkpoint that the masks belong to"
            )
        self._hooks = MaskHooks(pl_module, self.mode)
        self._apply(self._wanted_outside_fit())

    def _replaced(self, pl_module: LightningModule) -> list[str]:
        """Return the layers whose masks the monitor found in other convolutions, in an earlier run.

        A checkpoint and a report of the user's are about whatever has these names.
        """
        if self._restored or self.report is not None:
            return []
        now = convolutions(pl_module)
        return [name for name in self._targets if name in self._masked and not self._masked[name].is_(now.get(name))]

    def _wanted_outside_fit(self) -> Mapping[str, Target]:
        """Return what a fit or a checkpoint left behind, or else what the report says."""
        if self.report is None or self._begun or self._restored:
            return self._targets
        return targets(self.report)

    def _detach(self) -> None:
        if self._all is not None:
            self._all.take_off()
        elif self._hooks is not None:
            self._hooks.take_off()
        self._hooks = None

    def _take(self, report: PANReport | None) -> None:
        """Add a report's PANs to what is masked."""
        if report is None:
            return  # the monitor could not look yet
        self._begun = True
        if report.count:
            self._targets = merge(self._targets, targets(report))
            self._apply(self._targets)
        elif not self._targets and not self._told_of_nothing:
            self._told_of_nothing = True
            warnings.warn("PANMask has nothing to mask: no PAN was found", stacklevel=3)

    def _apply(self, wanted: Mapping[str, Target]) -> None:
        hooks = self._attached
        assert isinstance(hooks, MaskHooks), "the mask is one of all padding"
        hooks.apply(wanted)
        self._masked = {name: Remembered(hooks.modules[name]) for name in wanted}

    def _log(self, pl_module: LightningModule) -> None:
        self._logged = True
        masked = float(sum(map(len, self.channels.values())))
        # some steps get no batch whose size Lightning could tell
        pl_module.log("pan_mask/channels", masked, on_step=False, on_epoch=True, batch_size=1)
        if self._all is not None:
            pl_module.log("pan_mask/share", self._all.share, on_step=False, on_epoch=True, batch_size=1)
