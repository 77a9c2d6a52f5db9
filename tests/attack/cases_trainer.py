"""Whatever the Trainer is told, whoever is beside us, in whatever order it is used, and whatever optimises."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as other_pl
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning.pytorch import callbacks as other_callbacks
from pytorch_lightning import callbacks as beside
from pytorch_lightning import loggers
from torch import nn

from tests.attack.case import MASK, PENALTY, WATCHING, Case, Run, Setup, add, case
from tests.attack.pieces import CLASSES, WIDTH, Head, Module, Net, convs, data, loader, pictures, setup
from tests.attack.promises import Promise

TRAINER = Promise.TRAINER


# --- flags -----------------------------------------------------------------------------------------------------------


def flagged(name: str, module: Any = Module, **options: Any) -> None:
    def build(folder):
        return setup(module=module(), options=options)

    add(Case(name, TRAINER, build))


for _precision in ("64-true", "bf16-mixed", "bf16-true", "16-true", "16-mixed"):
    flagged(f"precision {_precision}", precision=_precision)
flagged("gradients accumulated", accumulate_grad_batches=2)
flagged("gradients clipped by norm", gradient_clip_val=0.1)
flagged("gradients clipped by value", gradient_clip_val=0.01, gradient_clip_algorithm="value")
flagged("validation twice an epoch", val_check_interval=0.5)
flagged("validation after every step", val_check_interval=1)
flagged("validation after steps across epochs", val_check_interval=2, check_val_every_n_epoch=None)
flagged("validation every other epoch", check_val_every_n_epoch=2, max_epochs=3)
flagged("validation less often than there are epochs", check_val_every_n_epoch=5)
flagged("one validation batch", limit_val_batches=1)
flagged("half of the validation batches", limit_val_batches=0.5)
flagged("no validation batches", limit_val_batches=0)
flagged("two training batches", limit_train_batches=2)
flagged("no training batches", limit_train_batches=0)
for _steps in (0, 1, 5, -1):
    flagged(f"{_steps} sanity steps", num_sanity_val_steps=_steps)
flagged("fast_dev_run", fast_dev_run=True)
flagged("fast_dev_run of two steps", fast_dev_run=2)
flagged("overfit two batches", overfit_batches=2)
flagged("overfit half of the batches", overfit_batches=0.5)
flagged("a number of steps", max_steps=4, max_epochs=-1)
flagged("no step at all", max_steps=0)
flagged("no epoch at all", max_epochs=0)
flagged("one epoch", max_epochs=1)
flagged("five epochs", max_epochs=5)
flagged("at least two epochs", min_epochs=2, max_epochs=2)
flagged("at least seven steps", min_steps=7, max_epochs=3)
flagged("a limit of time", max_time="00:01:00:00")
flagged("deterministic algorithms", deterministic=True)
flagged("warnings of what is not deterministic", deterministic="warn")
flagged("no inference mode", inference_mode=False)
flagged("anomalies detected", detect_anomaly=True)
flagged("barebones", barebones=True)
flagged("benchmark of cudnn", benchmark=True)
flagged("a simple profiler", profiler="simple")
flagged("an advanced profiler", profiler="advanced")
flagged("logging every step", log_every_n_steps=1)
flagged("no logger", logger=False)
flagged("a progress bar", enable_progress_bar=True)
flagged("a summary of the model", enable_model_summary=True)
flagged("checkpoints", enable_checkpointing=True)
flagged("loaders made anew every epoch", reload_dataloaders_every_n_epochs=1)
flagged("one process of ddp", strategy="ddp", devices=1)
flagged("a strategy by name", strategy="auto")
flagged("synchronised batch norm", sync_batchnorm=True)
flagged("no distributed sampler", use_distributed_sampler=False)


def logged(name: str, make: Any, **options: Any) -> None:
    def build(folder):
        return setup(options={"logger": make(folder), **options})

    add(Case(name, TRAINER, build))


logged("a logger of tables", lambda folder: loggers.CSVLogger(folder))
logged("TensorBoard", lambda folder: loggers.TensorBoardLogger(folder), log_every_n_steps=1)
logged("TensorBoard of the other namespace", lambda folder: other_pl.loggers.TensorBoardLogger(folder))
logged("two loggers", lambda folder: [loggers.CSVLogger(folder / "a"), loggers.TensorBoardLogger(folder / "b")])


# --- callbacks beside ours -------------------------------------------------------------------------------------------


def accompanied(name: str, make: Any, module: Any = Module, **options: Any) -> None:
    """A case with callbacks of the user's beside ours."""

    def build(folder):
        return setup(module=module(), callbacks=make(folder), options={"max_epochs": 3, **options})

    add(Case(f"beside {name}", TRAINER, build))


def _saving(folder: Any, **kwargs: Any) -> Any:
    return beside.ModelCheckpoint(folder / "kept", filename="{epoch}-{step}", **kwargs)


CHECKPOINTS = {"enable_checkpointing": True}
accompanied("EarlyStopping", lambda f: [beside.EarlyStopping("val_loss", patience=0, min_delta=10.0)])
accompanied("EarlyStopping on NaN", lambda f: [beside.EarlyStopping("val_loss", check_finite=True)])
accompanied("a checkpoint of the best", lambda f: [_saving(f, monitor="val_loss", mode="min")], **CHECKPOINTS)
accompanied("a checkpoint of the last", lambda f: [_saving(f, save_last=True)], **CHECKPOINTS)
accompanied("checkpoints of all", lambda f: [_saving(f, save_top_k=-1)], **CHECKPOINTS)
accompanied("checkpoints by steps", lambda f: [_saving(f, every_n_train_steps=2, save_top_k=-1)], **CHECKPOINTS)
accompanied("checkpoints of weights alone", lambda f: [_saving(f, save_weights_only=True)], **CHECKPOINTS)
accompanied("two checkpoints", lambda f: [_saving(f, monitor="val_loss"), _saving(f, save_last=True)], **CHECKPOINTS)
accompanied("LearningRateMonitor", lambda f: [beside.LearningRateMonitor("step")], log_every_n_steps=1)
accompanied("StochasticWeightAveraging", lambda f: [beside.StochasticWeightAveraging(0.05, swa_epoch_start=1)])
accompanied("WeightAveraging", lambda f: [beside.WeightAveraging()])
accompanied("EMAWeightAveraging", lambda f: [beside.EMAWeightAveraging(decay=0.9)])
accompanied("GradientAccumulationScheduler", lambda f: [beside.GradientAccumulationScheduler({1: 2})])
accompanied(
    "ModelPruning", lambda f: [beside.ModelPruning("l1_unstructured", amount=0.2, use_lottery_ticket_hypothesis=False)]
)
accompanied("ModelSummary", lambda f: [beside.ModelSummary(max_depth=2)], enable_model_summary=True)
accompanied("Timer", lambda f: [beside.Timer("00:01:00:00")])
accompanied("LambdaCallback", lambda f: [beside.LambdaCallback(on_validation_end=lambda *a: torch.rand(()))])
accompanied("BackboneFinetuning", lambda f: [beside.BackboneFinetuning(1)], module=lambda: _WithBackbone())
accompanied("OnExceptionCheckpoint", lambda f: [beside.OnExceptionCheckpoint(f)], **CHECKPOINTS)
accompanied("DeviceStatsMonitor", lambda f: [])
accompanied("a copy of the model for an average", lambda f: [_Copying()])
accompanied("a save of the whole module", lambda f: [_SavingModule()])
accompanied("random numbers in validation", lambda f: [_Drawing()])
accompanied("an evaluation within training", lambda f: [_Evaluating()])
accompanied("a callback that reads modes", lambda f: [_ReadingModes()])
accompanied("an export", lambda f: [_Exporting()])
accompanied("a count of parameters and hooks", lambda f: [_CountingHooks()])
accompanied("a callback that stops", lambda f: [_Stopping()])
accompanied("a callback that changes weights", lambda f: [_Resetting()])


class _WithBackbone(Module):
    def __init__(self):
        super().__init__()
        self.backbone = self.net.body

    def configure_optimizers(self):
        return torch.optim.SGD(filter(lambda p: p.requires_grad, self.parameters()), lr=0.05)


class _Copying(pl.Callback):
    def on_fit_start(self, trainer, pl_module):
        self.average = copy.deepcopy(pl_module.net)

    def on_train_batch_end(self, trainer, pl_module, *args):
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), pl_module.net.parameters(), strict=True):
                slow.lerp_(fast, 0.5)

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("average", sum(p.abs().sum() for p in self.average.parameters()))
        pl_module.log(
            "hooks_copied", float(sum(len(m._forward_hooks) for m in copy.deepcopy(self.average).modules()) * 0)
        )


class _SavingModule(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        torch.save(pl_module.net, trainer.default_root_dir + "/net.bin")
        again = torch.load(trainer.default_root_dir + "/net.bin", weights_only=False)
        pl_module.log("saved", sum(p.abs().sum() for p in again.parameters()))


class _Drawing(pl.Callback):
    def on_validation_batch_end(self, trainer, pl_module, *args, **kwargs):
        pl_module.log("noise", torch.rand(()))

    on_sanity_check_end = on_validation_epoch_start = lambda self, *args: torch.rand(())


class _Evaluating(pl.Callback):
    """Runs the model itself, between steps."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with torch.no_grad():
            pl_module.log("between", pl_module(batch[0]).mean())

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("after", pl_module(pictures(2)).mean())


class _ReadingModes(pl.Callback):
    def __init__(self):
        self.modes = []

    def on_validation_batch_start(self, trainer, pl_module, *args, **kwargs):
        pl_module.log("modes", float(sum(m.training for m in pl_module.modules())))

    def on_train_batch_start(self, trainer, pl_module, *args):
        pl_module.log("modes_train", float(sum(m.training for m in pl_module.modules())))


class _Exporting(pl.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        was = pl_module.training
        pl_module.eval()
        traced = torch.jit.trace(pl_module.net, pictures(2), check_trace=False)
        pl_module.log("traced", traced(pictures(2)).mean())
        pl_module.train(was)


class _CountingHooks(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        pl_module.parameters_ = sum(p.numel() for p in pl_module.parameters())
        pl_module.modules_ = len(list(pl_module.modules()))


class _Stopping(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = trainer.global_step >= 4


class _Resetting(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        nn.init.kaiming_normal_(pl_module.net.stem.weight)


# --- how a Trainer is used -------------------------------------------------------------------------------------------


def used(name: str, act: Any, **kwargs: Any) -> None:
    def build(folder):
        options = {"max_epochs": 2, **kwargs.get("options", {})}
        return setup(act=act, module=kwargs.get("module", Module)(), options=options)

    given = {key: kwargs[key] for key in ("arms", "heavy") if key in kwargs}
    add(Case(name, TRAINER, build, **given))


def _again(run: Run) -> None:
    run.fit()
    run.trainer.fit_loop.max_epochs = 3
    run.fit()


def _validated_first(run: Run) -> None:
    run.validate()
    run.fit()


def _validated_on_others_first(run: Run) -> None:
    run.validate(loader(data(8, seed=7)))
    run.fit()


def _validated_after(run: Run) -> None:
    run.fit()
    run.validate()
    run.validate(loader(data(8, 12, seed=7)))


def _validated_between(run: Run) -> None:
    run.fit()
    run.validate()
    run.trainer.fit_loop.max_epochs = 4
    run.fit()


def _tested(run: Run) -> None:
    run.fit()
    run.trainer.test(run.module, loader(data(8, seed=7)), verbose=False)


def _predicted(run: Run) -> None:
    run.fit()
    run.trainer.predict(run.module, loader(torch.utils.data.TensorDataset(pictures(4))))


def _resumed(run: Run) -> None:
    run.fit()
    run.trainer.save_checkpoint(run.folder / "half.ckpt")
    run.new_trainer(fresh=True, max_epochs=4)
    run.fit(ckpt_path=run.folder / "half.ckpt", weights_only=False)


def _resumed_in_the_middle(run: Run) -> None:
    run.new_trainer(max_steps=4, max_epochs=-1)
    run.fit()
    run.trainer.save_checkpoint(run.folder / "half.ckpt")
    run.new_trainer(fresh=True, max_steps=8, max_epochs=-1)
    run.fit(ckpt_path=run.folder / "half.ckpt", weights_only=False)


def _resumed_without_us(run: Run) -> None:
    run.fit()
    run.trainer.save_checkpoint(run.folder / "half.ckpt")
    run.ours.clear()
    run.new_trainer(max_epochs=3)
    run.fit(ckpt_path=run.folder / "half.ckpt", weights_only=False)


def _flipped(run: Run) -> None:
    run.new_trainer(limit_val_batches=0)
    run.fit()
    run.new_trainer(limit_val_batches=2)
    run.fit()
    run.new_trainer(limit_val_batches=0)
    run.fit()


def _flipped_on_one(run: Run) -> None:
    run.fit()
    run.trainer.limit_val_batches = 0
    run.trainer.fit_loop.max_epochs = 3
    run.fit()


def _crossed(run: Run) -> None:
    """One monitor for three models, as in cross-validation."""
    for fold in range(3):
        run.setup.watched[f"model {fold}"] = module = Module()
        run.new_trainer()
        run.trainer.fit(module, loader(data(12, seed=fold), shuffle=True), loader(data(8, seed=fold)))


def _crossed_of_other_kinds(run: Run) -> None:
    for name, net in (("wide", nn.Sequential(convs(3, 8), Head(8))), ("plain", Net())):
        run.setup.watched[name] = module = Module(net)
        run.new_trainer()
        run.trainer.fit(module, run.setup.train, run.setup.val)


def _tried(run: Run) -> None:
    """As a tuner does: the same module, restored between short fits."""
    start = copy.deepcopy(run.module.state_dict())
    for rate in (1, 2):
        run.new_trainer(max_steps=rate, max_epochs=-1)
        run.fit()
        run.module.load_state_dict(start)
    run.new_trainer()
    run.fit()


def _rates(run: Run) -> None:
    from pytorch_lightning.tuner import Tuner

    run.module.lr = 0.05
    Tuner(run.trainer).lr_find(run.module, run.setup.train, run.setup.val, num_training=3, update_attr=False)
    run.fit()


def _batch_sizes(run: Run) -> None:
    from pytorch_lightning.tuner import Tuner

    source = data(12, seed=1)

    class Sized(Module):
        batch_size = 2

        def train_dataloader(self):
            return loader(source, self.batch_size)

        def val_dataloader(self):
            return loader()

    run.setup.watched["tuned"] = module = Sized()
    Tuner(run.trainer).scale_batch_size(module, max_trials=2, steps_per_trial=1)
    run.trainer.fit(module)


def _loaded(run: Run) -> None:
    run.fit()
    run.trainer.save_checkpoint(run.folder / "end.ckpt")
    run.setup.watched["loaded"] = Module.load_from_checkpoint(run.folder / "end.ckpt", net=Net(), weights_only=False)


def _what_is_saved(run: Run) -> None:
    run.fit()
    run.trainer.save_checkpoint(run.folder / "end.ckpt")
    saved = torch.load(run.folder / "end.ckpt", weights_only=False)
    saved["callbacks"] = {key: value for key, value in saved["callbacks"].items() if not key.startswith("PAN")}
    run.setup.watched["checkpoint"] = saved


def _copied_after(run: Run) -> None:
    run.fit()
    run.setup.watched["copy"] = copied = copy.deepcopy(run.module.net)
    run.setup.watched["copied output"] = copied.eval()(pictures(2)).detach()
    torch.save(run.module.net, run.folder / "net.bin")


def _scripted_after(run: Run) -> None:
    run.fit()
    run.setup.watched["scripted"] = torch.jit.script(run.module.net.eval())(pictures(2)).detach()


def _failed_then_again(run: Run) -> None:
    run.module.fails = True
    try:
        run.fit()
    except RuntimeError:
        run.module.fails = False
    run.new_trainer()
    run.fit()


class _Failing(Module):
    fails = False

    def on_train_epoch_end(self):
        if self.fails:
            raise RuntimeError("out of coffee")


used("a second fit of the same Trainer", _again)
used("validate before fit", _validated_first)
used("validate on other images before fit", _validated_on_others_first)
used("validate after fit", _validated_after)
used("validate between fits", _validated_between)
used("validate alone", lambda run: run.validate())
used("validate alone, without inference mode", lambda run: run.validate(), options={"inference_mode": False})
used("test alone", lambda run: run.trainer.test(run.module, run.setup.val, verbose=False))
used("test after fit", _tested)
used("predict after fit", _predicted, module=lambda: _Predicting())
used("resume from a checkpoint", _resumed)
used("resume from the middle of an epoch", _resumed_in_the_middle)
used("resume without the callback", _resumed_without_us)
used("limit_val_batches=0 flipped between Trainers", _flipped)
used("limit_val_batches=0 flipped on one Trainer", _flipped_on_one)
used("cross-validation", _crossed)
used("cross-validation of models of other kinds", _crossed_of_other_kinds)
used("short fits as a tuner makes them", _tried)
used("search for a learning rate", _rates, module=lambda: _WithRate())
used("search for a batch size", _batch_sizes, heavy=True)
used("load_from_checkpoint after fit", _loaded)
used("what a checkpoint holds", _what_is_saved, arms=(*WATCHING, PENALTY, MASK))
used("copy and save of the network after fit", _copied_after)
used("scripted after fit", _scripted_after)
used("fit after a fit that failed", _failed_then_again, module=_Failing)


class _Predicting(Module):
    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])


class _WithRate(Module):
    lr = 0.05

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


# --- optimizers ------------------------------------------------------------------------------------------------------


def optimised(name: str, configure: Any, **options: Any) -> None:
    def build(folder):
        kind = type("Optimised", (Module,), {"configure_optimizers": configure, "__module__": __name__})
        return setup(module=kind(), options=options)

    add(Case(name, TRAINER, build))


def _scheduled(make: Any, **config: Any) -> Any:
    def configure(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), **config}}

    return configure


def _groups(self):
    groups = [{"params": self.net.stem.parameters(), "lr": 0.01}, {"params": self.net.body.parameters()}]
    return torch.optim.AdamW(groups, lr=0.02)


optimised("Adam", lambda self: torch.optim.Adam(self.parameters()))
optimised("fused AdamW", lambda self: torch.optim.AdamW(self.parameters(), fused=True))
optimised("RMSprop", lambda self: torch.optim.RMSprop(self.parameters()))
optimised("LBFGS", lambda self: torch.optim.LBFGS(self.parameters(), max_iter=3))
optimised("groups of parameters", _groups)
optimised("no optimizer", lambda self: None)
optimised(
    "one cycle", _scheduled(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=6), interval="step")
)
optimised("cosine by epochs", _scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 2)))
optimised("schedule on a plateau", _scheduled(torch.optim.lr_scheduler.ReduceLROnPlateau, monitor="val_loss"))
optimised(
    "schedule on a plateau by steps",
    _scheduled(torch.optim.lr_scheduler.ReduceLROnPlateau, monitor="train_loss", interval="step"),
)
optimised("a learning rate of zero", lambda self: torch.optim.SGD(self.parameters(), lr=0.0))


@case(TRAINER)
def adversarial_training_by_hand_with_two_optimizers(folder):
    class Adversarial(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.maker = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, 3, 3, padding=1))
            self.critic = nn.Sequential(convs(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 1))

        def training_step(self, batch, batch_idx):
            made = self.maker(torch.randn_like(batch[0]))
            first, second = self.optimizers()
            for optimizer, loss in ((first, -self.critic(made).mean()), (second, self._judge(batch[0], made.detach()))):
                self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                self.untoggle_optimizer(optimizer)
                self.log("loss", loss)

        def _judge(self, real, made):
            return F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(made)).mean()

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self._judge(batch[0], self.maker(torch.randn_like(batch[0]))))

        def configure_optimizers(self):
            return torch.optim.Adam(self.maker.parameters(), 1e-3), torch.optim.Adam(self.critic.parameters(), 1e-3)

    return setup(module=Adversarial())


def by_hand(name: str, step: Any, configure: Any = None) -> None:
    """A case of manual optimization."""

    def build(folder):
        class Manual(Module):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False

        Manual.training_step = step
        if configure is not None:
            Manual.configure_optimizers = configure
        return setup(module=Manual())

    add(Case(name, TRAINER, build))


def _plain_step(self, batch, batch_idx):
    optimizer = self.optimizers()
    optimizer.zero_grad()
    self.manual_backward(self.loss(batch))
    optimizer.step()


def _own_backward(self, batch, batch_idx):
    optimizer = self.optimizers()
    optimizer.zero_grad()
    self.loss(batch).backward()
    optimizer.step()


def _accumulating(self, batch, batch_idx):
    optimizer = self.optimizers()
    self.manual_backward(self.loss(batch))
    if batch_idx % 2:
        optimizer.step()
        optimizer.zero_grad()


def _sharpness(self, batch, batch_idx):
    """Two forwards and two backward passes a step, the second at weights a step up the slope."""
    optimizer = self.optimizers()
    optimizer.zero_grad()
    self.manual_backward(self.loss(batch))
    moves = [(p, 0.01 * p.grad) for p in self.parameters() if p.grad is not None]
    with torch.no_grad():
        for parameter, move in moves:
            parameter.add_(move)
    optimizer.zero_grad()
    self.manual_backward(self.loss(batch))
    with torch.no_grad():
        for parameter, move in moves:
            parameter.sub_(move)
    optimizer.step()


def _closure(self, batch, batch_idx):
    optimizer = self.optimizers()

    def closure():
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        return loss

    optimizer.step(closure=closure)


by_hand("optimised by hand", _plain_step)
by_hand("optimised by hand with a backward of the user's own", _own_backward)
by_hand("accumulated by hand", _accumulating)
by_hand("sharpness-aware by hand", _sharpness)
by_hand("by hand with a closure", _closure)
by_hand("by hand with LBFGS", _closure, lambda self: torch.optim.LBFGS(self.parameters(), max_iter=2))


@case(TRAINER)
def gradient_penalty_in_the_loss(folder):
    class Penalised(Module):
        def loss(self, batch):
            with torch.inference_mode(False), torch.enable_grad():
                images = batch[0].clone().requires_grad_()
                logits = self.net(images)
                (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=self.training)
            return F.cross_entropy(logits, batch[1]) + 0.1 * slope.square().sum()

    return setup(module=Penalised(), options={"inference_mode": False})


def overriding(name: str, **methods: Any) -> None:
    def build(folder):
        return setup(module=type("Overriding", (Module,), {**methods, "__module__": __name__})())

    add(Case(name, TRAINER, build))


def _optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
    optimizer.step(closure=optimizer_closure)
    self.steps_taken = getattr(self, "steps_taken", 0) + 1


def _backward(self, loss, *args, **kwargs):
    (2 * loss).backward()


def _before_step(self, optimizer):
    self.log("gradient", sum(p.grad.norm() for p in self.parameters() if p.grad is not None))


overriding("an optimizer step of the user's own", optimizer_step=_optimizer_step)
overriding("a backward of the user's own", backward=_backward)
overriding("gradients logged before the step", on_before_optimizer_step=_before_step)
overriding(
    "gradients clipped by the module",
    configure_gradient_clipping=lambda self, optimizer, **k: self.clip_gradients(optimizer, 0.1, "norm"),
)
overriding(
    "gradients set to zero by the module",
    optimizer_zero_grad=lambda self, epoch, index, optimizer: optimizer.zero_grad(set_to_none=False),
)
overriding(
    "a validation in training mode",
    on_validation_model_eval=lambda self: None,
    on_validation_model_train=lambda self: None,
)
overriding(
    "a validation that trains", validation_step=lambda self, batch, index: self.log("val_loss", self.loss(batch))
)
overriding("a loss in a dict", training_step=lambda self, batch, index: {"loss": self.loss(batch), "other": 1})


# --- the other namespace ---------------------------------------------------------------------------------------------


class OtherModule(other_pl.LightningModule):
    """As :class:`Module`, of ``lightning.pytorch``."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


def elsewhere(name: str, callbacks: Any = lambda: [], act: Any = None, **options: Any) -> None:
    def build(folder):
        return Setup(OtherModule(), loader(data(12, seed=1)), loader(), options, callbacks(), act=act, library=other_pl)

    add(Case(f"lightning.pytorch, {name}", TRAINER, build))


elsewhere("a plain fit")
elsewhere("validate alone", act=lambda run: run.validate())
elsewhere("resumed", act=_resumed)
elsewhere("averaged weights", lambda: [other_callbacks.EMAWeightAveraging(decay=0.9)])
elsewhere("early stopping", lambda: [other_callbacks.EarlyStopping("val_loss")])
elsewhere("mixed precision", precision="bf16-mixed")
elsewhere("one sanity step and two checks an epoch", num_sanity_val_steps=1, val_check_interval=0.5)


@case(TRAINER)
def random_state_restored_by_the_user_around_validation(folder):
    class Restoring(Module):
        def on_validation_start(self):
            self.state = torch.get_rng_state()

        def on_validation_end(self):
            torch.set_rng_state(self.state)

    return setup(module=Restoring())


@case(TRAINER)
def training_step_that_seeds(folder):
    class Seeding(Module):
        def training_step(self, batch, batch_idx):
            torch.manual_seed(batch_idx)
            return super().training_step(batch, batch_idx) * torch.rand(())

    return setup(module=Seeding())


@case(TRAINER)
def validation_classes_beside_training_classes(folder):
    class Wide(Module):
        def on_validation_epoch_end(self):
            self.log("classes", float(CLASSES))
            self.log("noise", torch.randn(()))

    return setup(module=Wide())
