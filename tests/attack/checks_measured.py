"""Where nothing was measured there is no number; and what was measured belongs to the run, the model and the pixels."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from pan_callbacks import PANError, PANMask, PANMonitor, PANPenalty, scan
from tests.attack.check import check
from tests.attack.checks_truth import batches, chain, quiet_trainer
from tests.attack.pieces import WIDTH, Head, Module, Net, convs, data, loader, pictures
from tests.attack.promises import Promise

MEASURED = Promise.MEASURED
NAN = float("nan")


class Planted(pl.LightningModule):
    """Holds a planted network, trains nothing, and does something after its first epoch.

    Args:
        change: What, to the module.
    """

    def __init__(self, change: Any = lambda module: None) -> None:
        super().__init__()
        self.net, self.idle, self.change = chain().model, nn.Parameter(torch.zeros(())), change

    def look(self, batch):
        return self.net(batch["image"])

    def training_step(self, batch, batch_idx):
        self.look(batch)
        return self.idle * 1.0

    def validation_step(self, batch, batch_idx):
        self.look(batch)
        self.log("val_loss", batch["image"].mean(), batch_size=1)

    def on_train_epoch_end(self):
        if self.current_epoch == 0:
            with torch.no_grad():
                self.change(self)

    def configure_optimizers(self):
        return torch.optim.SGD([self.idle], lr=0.0)


def fit(folder: Path, module: pl.LightningModule, callbacks: list[Any], data: Any = None, **options: Any) -> pl.Trainer:
    data = data if data is not None else DataLoader(batches(), batch_size=None)
    trainer = quiet_trainer(folder, callbacks, **{"max_epochs": 3, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data, data)
    return trainer


def has_number(value: Any) -> bool:
    return value is not None and not math.isnan(float(value))


# --- layers that drop out --------------------------------------------------------------------------------------------


def dropping(name: str, change: Any, look: Any = None) -> None:
    """Layers drop out after the first epoch: no count may be lower for that, and the best is not a dead network."""

    def run(folder: Path) -> None:
        module = Planted(change)
        if look is not None:
            module.look = look.__get__(module)
        monitor = PANMonitor()
        best = ModelCheckpoint(folder, monitor="pan/count", mode="min", filename="{epoch}")
        trainer = fit(folder, module, [monitor, best], enable_checkpointing=True)
        planted = len(chain().truth)
        counts = [entry["count"] for entry in monitor.history]
        assert counts[:2] == [planted, planted]
        assert not any(has_number(count) and count < planted for count in counts), f"{counts} of {planted} planted"
        assert "epoch=0" in best.best_model_path, f"the best is {best.best_model_path}"
        logged = trainer.callback_metrics.get("pan/count")
        assert not has_number(logged) or float(logged) >= planted, f"the count logged last is {logged}"

    check(MEASURED, f"no lower count where {name}")(run)


def _without_last(self, batch):
    return self.net[:2](batch["image"]) if self.current_epoch else self.net(batch["image"])


def _tiny(self, batch):
    return self.net(batch["image"][..., :2, :2] if self.current_epoch else batch["image"])


def _dead(self, batch):
    return self.net(batch["image"] * NAN if self.current_epoch else batch["image"])


def _no_model(self, batch):
    return None if self.current_epoch else self.net(batch["image"])


dropping("all weights are NaN", lambda module: [p.fill_(NAN) for p in module.net.parameters()])
dropping("the weights of one layer are NaN", lambda module: module.net.second.weight.fill_(NAN))
dropping("one weight is NaN", lambda module: module.net.first.weight[0, 0, 0, 0].fill_(NAN))
dropping("one weight is infinite", lambda module: module.net.third.weight[0, 0, 0, 0].fill_(float("inf")))
dropping("a layer is no longer called", lambda module: None, _without_last)
dropping("images became too small", lambda module: None, _tiny)
dropping("images became NaN", lambda module: None, _dead)
dropping("the model is no longer called", lambda module: None, _no_model)


# --- no number from nothing ------------------------------------------------------------------------------------------


@check(MEASURED)
def no_number_where_validation_calls_no_model(folder):
    module, monitor = Planted(), PANMonitor()
    module.look = lambda batch: None
    trainer = fit(folder, module, [monitor])
    assert not any(has_number(entry["count"]) for entry in monitor.history)
    assert not has_number(trainer.callback_metrics.get("pan/count"))


@check(MEASURED)
def no_frozen_curve_where_the_model_was_compiled_before(folder):
    torch._dynamo.reset()
    module = Module(torch.compile(Net(), backend="eager"))
    with torch.no_grad():
        for mode in (False, True):
            module.net.train(mode)(pictures(4))
            with torch.inference_mode():
                module.net(pictures(4))
    monitor = PANMonitor()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = quiet_trainer(folder, [monitor], max_epochs=3)
        trainer.fit(module, loader(data(12)), loader())
    bias = [entry["border_bias"] for entry in monitor.history]
    moved = len(set(bias)) == len(bias)  # weights move in every epoch, so a curve that stands still was not measured
    words = [str(w.message) for w in told if "PAN" in str(w.message)]
    assert moved or words, f"a curve that stands still at {bias}, without a word"
    assert moved or not has_number(trainer.callback_metrics.get("pan/count"))
    torch._dynamo.reset()


def words_of(folder: Path, model: nn.Module, images: torch.Tensor) -> str:
    """What is said of a model of which nothing can be measured: in an error, a warning or the summary."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            report = scan(model, [images], progress=False)
        except PANError as error:
            return str(error)
        assert report.neurons == 0
        reasons = [str(line.skipped) for line in report.layers.values() if line.skipped]
        return " ".join([report.summary(), *reasons, *(str(w.message) for w in told)])


@check(MEASURED)
def words_where_a_model_has_no_padded_convolution(folder):
    words = words_of(folder, nn.Sequential(nn.Conv2d(3, WIDTH, 3), Head()).eval(), pictures())
    assert "padd" in words and words.strip() != "0 of 0 neurons"


@check(MEASURED)
def words_where_a_model_has_no_convolution(folder):
    words = words_of(folder, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)).eval(), pictures())
    assert "convolution" in words


@check(MEASURED)
def words_where_a_model_is_quantised(folder):
    net = nn.Sequential(torch.ao.quantization.QuantStub(), convs(), torch.ao.quantization.DeQuantStub()).eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    prepared = torch.ao.quantization.prepare(net)
    prepared(pictures())
    words = words_of(folder, torch.ao.quantization.convert(prepared), pictures())
    assert "quanti" in words


@check(MEASURED)
def words_where_a_model_is_scripted(folder):
    words = words_of(folder, torch.jit.script(nn.Sequential(convs(), Head()).eval()), pictures())
    assert "script" in words.lower() or "convolution" in words


@check(MEASURED)
def one_image_of_NaN_among_many_costs_no_layer(folder):
    network = chain()
    images = [batch["image"].clone() for batch in batches()]
    images[1][3] = NAN
    report = scan(network.model, images, progress=False)
    assert not [line.skipped for line in report.layers.values() if line.skipped]
    assert report.count == len(network.truth)


@check(MEASURED)
def one_infinite_image_costs_no_layer_in_a_fit(folder):
    spoiled = batches()
    spoiled[0]["image"] = spoiled[0]["image"].clone()
    spoiled[0]["image"][0] = float("inf")
    monitor = PANMonitor()
    fit(folder, Planted(), [monitor], DataLoader(spoiled, batch_size=None), max_epochs=1)
    assert [entry["count"] for entry in monitor.history][-1] == len(chain().truth)


# --- two of a kind ---------------------------------------------------------------------------------------------------


@check(MEASURED)
def two_monitors_do_not_log_their_mean(folder):
    few, many = PANMonitor(layers="net.first"), PANMonitor()
    try:
        trainer = fit(folder, Planted(), [few, many])
    except PANError as error:
        return str(error)
    assert few.history[-1]["count"] != many.history[-1]["count"]
    logged = float(trainer.callback_metrics["pan/count"])
    assert logged in (few.history[-1]["count"], many.history[-1]["count"])
    return None


@check(MEASURED)
def two_penalties_do_not_log_their_mean(folder):
    one, other = PANPenalty(weight=0.25, every_n_steps=1), PANPenalty(weight=1.0, every_n_steps=1)
    try:
        trainer = quiet_trainer(folder, [one, other], max_epochs=1)
        trainer.fit(Module(), loader(data(12)), loader())
    except PANError as error:
        return str(error)
    assert float(trainer.callback_metrics["pan_penalty/weight"]) in (0.25, 1.0)
    return None


# --- what belongs to which run ---------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


@check(MEASURED)
def validate_after_fit_leaves_what_a_checkpoint_holds(folder):
    monitor = PANMonitor()
    module = Module()
    trainer = quiet_trainer(folder, [monitor], max_epochs=2)
    trainer.fit(module, loader(data(12)), loader())
    before = copy.deepcopy(monitor.state_dict())
    trainer.validate(module, loader(data(8, seed=9)), verbose=False)
    assert same(before, monitor.state_dict())


def validated_first(name: str, val: Any) -> None:
    def run(folder: Path) -> None:
        fresh, used = PANMonitor(), PANMonitor()
        for monitor in (fresh, used):
            pl.seed_everything(3, verbose=False)
            module = Module()
            trainer = quiet_trainer(folder, [monitor], max_epochs=2, num_sanity_val_steps=0)
            if monitor is used:
                trainer.validate(module, loader(data(8, seed=9)), verbose=False)
            trainer.fit(module, loader(data(12)), val())
        assert fresh.history[0]["epoch"] == -1, "there is no first point"
        assert same(fresh.history, used.history)

    check(MEASURED, f"validate before fit is not the first point{name}")(run)


class StreamOfPairs(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(data())


validated_first("", loader)
validated_first(", validated on a stream", lambda: loader(StreamOfPairs()))


@check(MEASURED)
def a_second_model_does_not_keep_the_first_ones_births(folder):
    monitor, alone = PANMonitor(), PANMonitor()
    other = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Head(3))
    fit(folder, Planted(), [monitor], max_epochs=1)
    for watching in (monitor, alone):
        pl.seed_everything(3, verbose=False)
        quiet_trainer(folder, [watching], max_epochs=1).fit(Module(copy.deepcopy(other)), loader(data(12)), loader())
    assert same(alone.births, monitor.births)
    assert same(alone.history, monitor.history[-len(alone.history) :])


@check(MEASURED)
def a_second_model_of_the_same_kind_does_not_keep_the_first_ones_births(folder):
    monitor, alone = PANMonitor(), PANMonitor()
    fit(folder, Planted(), [monitor], max_epochs=1)
    for watching in (monitor, alone):
        module = Planted()
        with torch.no_grad():
            module.net.first.weight[:8].zero_()
        fit(folder, module, [watching], max_epochs=1)
    assert same(alone.births, monitor.births)
    assert same(alone.history, monitor.history[-len(alone.history) :])


class Growing(Planted):
    """Runs a second network beside the first, once it is there."""

    def look(self, batch):
        if "again" in self._modules:
            self.again(batch["image"])
        return super().look(batch)


def grow(module: Planted) -> None:
    module.again = chain().model


@check(MEASURED)
def standing_neurons_of_layers_added_in_training_are_not_born(folder):
    monitor = PANMonitor()
    fit(folder, Growing(grow), [monitor])
    assert [entry["born"] for entry in monitor.history[1:]] == [0] * (len(monitor.history) - 1)


@check(MEASURED)
def standing_neurons_of_layers_added_between_fits_are_not_born(folder):
    monitor, module = PANMonitor(), Growing()
    fit(folder, module, [monitor], max_epochs=1)
    grow(module)
    fit(folder, module, [monitor], max_epochs=1)
    assert monitor.history[-1]["count"] == 2 * len(chain().truth)
    assert [entry["born"] for entry in monitor.history[1:]] == [0] * (len(monitor.history) - 1)


# --- the first point is taken of the right pixels --------------------------------------------------------------------


class OwnIteration(DataLoader):
    def __iter__(self):
        for batch in super().__iter__():
            yield {**batch, "image": batch["image"].flip(-1) * 0.5 + 0.25}


def _normalised(module, batch, dataloader_idx):
    return {**batch, "image": batch["image"] * 0.5 + 0.25}


def first_point(name: str, make: Any, hook: Any = None, look: Any = None, sanity: tuple[int, ...] = (0, 2)) -> None:
    """The first point is what ``scan`` finds in the untrained network on the images that it is validated on."""

    class Looking(Module):
        def loss(self, batch):
            images = look(batch) if look else batch["image"]
            if not self.training and not self.trainer.sanity_checking and self.current_epoch == 0:
                self.looked_at.append(images.clone())
            return self.net(images).square().mean()

        def labels(self, batch):
            return batch["label"]

    if hook is not None:
        Looking.on_after_batch_transfer = hook

    def run(folder: Path) -> None:
        for steps in sanity:
            module = Looking(nn.Sequential(convs(), Head()))
            module.looked_at = []
            untrained, monitor = copy.deepcopy(module.net), PANMonitor()
            val = make()
            trainer = quiet_trainer(folder, [monitor], max_epochs=1, num_sanity_val_steps=steps)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit(module, make(), val)
            expected = scan(untrained.eval(), module.looked_at, progress=False)
            assert monitor.history[0]["epoch"] == -1, "there is no first point"
            assert monitor.history[0]["count"] == expected.count
            assert monitor.history[0]["border_bias"] == pytest.approx(expected.border_bias, rel=1e-4)

    check(MEASURED, f"the first point is of the right pixels with {name}")(run)


def _images(depth: bool = False) -> list[dict[str, Any]]:
    """Batches of three channels, with a depth map before them or without."""
    maps = [{"depth": b["depth"]} if depth else {} for b in batches(16)]
    return [{**m, "image": b["image"][:, :3], "label": b["label"]} for m, b in zip(maps, batches(16), strict=True)]


def _items(kind: Any = DataLoader, depth: bool = False) -> Any:
    return lambda: kind(_images(depth), batch_size=None)


class Streaming(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(_images())


first_point("an ordinary loader", _items())
first_point("a loader with an iteration of its own", _items(OwnIteration))
first_point("a hook that normalises after the transfer", _items(), hook=_normalised)
first_point("a step that changes the images", _items(), look=lambda batch: batch["image"] * 0.5 - 1)
first_point("a depth map before the images", _items(depth=True))
first_point("a step that adds the depth map", _items(depth=True), look=lambda batch: batch["image"] + batch["depth"])
first_point("a stream", lambda: DataLoader(Streaming(), batch_size=None))


# --- resumed, masked, penalised --------------------------------------------------------------------------------------


def resumed(name: str, make: Any) -> None:
    """A run that is resumed is the run in one go: weights, history, births."""

    def run(folder: Path) -> None:
        ends = []
        for parts in ((4,), (2, 4)):
            pl.seed_everything(4, verbose=False)
            module = Module()
            for index, epochs in enumerate(parts):
                callbacks = make()
                trainer = quiet_trainer(folder, callbacks, max_epochs=epochs)
                path = None if index == 0 else folder / "half.ckpt"
                trainer.fit(module, loader(data(12, seed=1)), loader(), ckpt_path=path, weights_only=False)
                trainer.save_checkpoint(folder / "half.ckpt")
                module = module if index == len(parts) - 1 else Module()
            monitor = next((callback for callback in callbacks if isinstance(callback, PANMonitor)), None)
            ends.append((module.state_dict(), monitor and monitor.history, monitor and monitor.births))
        weights, history, births = (same(one, other) for one, other in zip(*ends, strict=True))
        assert weights, "other weights than in one go"
        assert history, f"another history than in one go: {ends[1][1]} and {ends[0][1]}"
        assert births

    check(MEASURED, f"resumed with {name} as in one go")(run)


resumed("a monitor", lambda: [PANMonitor(threshold=0.3)])
resumed("a monitor and a mask", lambda: [PANMonitor(threshold=0.3), PANMask()])
resumed("a monitor and a mask that comes later", lambda: [PANMonitor(threshold=0.3), PANMask(start_epoch=2)])
resumed("a monitor and a mask made once", lambda: [PANMonitor(threshold=0.3), PANMask(refresh="once")])
resumed("a penalty", lambda: [PANPenalty(every_n_steps=1)])
resumed("a penalty on PANs alone", lambda: [PANMonitor(threshold=0.3), PANPenalty(only_pans=True, every_n_steps=1)])
resumed("mask and penalty", lambda: [PANMonitor(threshold=0.3), PANMask(), PANPenalty(every_n_steps=2)])


def replaced(name: str, make: Any, key: str) -> None:
    """A convolution is replaced in training: suppression that is not there stops the run, or is there again."""

    def run(folder: Path) -> str | None:
        class Replacing(Module):
            def on_train_epoch_start(self):
                if self.current_epoch == 1:
                    for name in ("stem", "body"):
                        setattr(self.net, name, copy.deepcopy(getattr(Net(), name)))

        trainer = quiet_trainer(folder, make(), max_epochs=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trainer.fit(Replacing(), loader(data(12, seed=1)), loader())
            except PANError as error:
                return str(error)
        raise AssertionError(f"the run went on, and {key} says {trainer.callback_metrics.get(key)}")

    check(MEASURED, name)(run)


replaced("a mask whose convolutions were replaced", lambda: [PANMonitor(threshold=0.2), PANMask()], "pan_mask/channels")
replaced("a penalty whose convolutions were replaced", lambda: [PANPenalty(every_n_steps=1)], "pan_penalty/loss")


@check(MEASURED)
def branches_that_alternate_are_penalised_both(folder):
    class Alternating(Module):
        def __init__(self):
            super().__init__(nn.ModuleList([nn.Sequential(convs(), Head()), nn.Sequential(convs(), Head())]))

        def logits(self, batch):
            return self.net[self.trainer.global_step % 2](batch[0])

    moved = []
    for penalty in ([], [PANPenalty(weight=1.0, every_n_steps=4)]):
        pl.seed_everything(5, verbose=False)
        module = Alternating()
        trainer = quiet_trainer(folder, penalty, max_epochs=1, limit_val_batches=0)
        trainer.fit(module, loader(data(64, seed=1), batch=2), None)
        moved.append([branch[0][0].weight.detach().clone() for branch in module.net])
    different = [not torch.equal(one, other) for one, other in zip(*moved, strict=True)]
    assert different == [True, True], f"penalised are {different}"
