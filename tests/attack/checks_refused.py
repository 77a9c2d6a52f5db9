"""What cannot be done is refused, and the message names the thing and the way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import Accuracy

from pan_callbacks import PANError, PANMask, PANMonitor, PANPenalty, impact, masked, scan
from tests.attack.check import check
from tests.attack.checks_truth import quiet_trainer
from tests.attack.pieces import WIDTH, Head, Module, Net, convs, data, loader, pictures
from tests.attack.promises import Promise

REFUSED = Promise.REFUSED


def refused(name: str, words: str, do: Any, kind: type[Exception] = PANError) -> None:
    """``do`` is refused with an error that says ``words``, a regular expression."""

    def run(folder: Path) -> str:
        try:
            do(folder)
        except kind as error:
            assert re.search(words, str(error)), f"the message is {error}"
            return str(error)
        raise AssertionError("it was not refused")

    check(REFUSED, name)(run)


def fit(folder: Path, callbacks: list[Any], module: Any = None, val: Any = None, **options: Any) -> None:
    quiet_trainer(folder, callbacks, **options).fit(module or Module(), loader(data(12)), val or loader())


class TrainsAlone(Module):
    validation_step = pl.LightningModule.validation_step


class ByHand(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().zero_grad()
        self.loss(batch).backward()
        self.optimizers().step()


class Reentrant(Net):
    def forward(self, x):
        x = x.requires_grad_() if self.training else x
        return self.head(torch.utils.checkpoint.checkpoint(self.features, x, use_reentrant=True))


def _compiled() -> Module:
    torch._dynamo.reset()
    net = torch.compile(Net(), backend="eager")
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            net.train()(pictures(4))
    return Module(net)


def _other_report() -> Any:
    return scan(
        nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), Head(40)).eval(), [pictures(8)], threshold=0.05, progress=False
    )


refused(
    "a monitor without validation and batches",
    r"no images to probe.*PANMonitor\(batches=",
    lambda f: quiet_trainer(f, [PANMonitor()]).fit(TrainsAlone(), loader(data(12))),
)
refused(
    "a mask without a monitor or a report",
    r"no PANs to mask.*PANMonitor\(\), PANMask\(\)",
    lambda f: fit(f, [PANMask()]),
)
refused("a penalty on PANs without a monitor", r"needs a PANMonitor", lambda f: fit(f, [PANPenalty(only_pans=True)]))
refused(
    "layers that match nothing, of a monitor",
    r"layers='nothing.*' matches none of the \d+",
    lambda f: fit(f, [PANMonitor(layers="nothing*")]),
)
refused(
    "layers that match nothing, of a penalty",
    r"matches none of the \d+",
    lambda f: fit(f, [PANPenalty(layers="nothing*")]),
)
refused(
    "layers that match nothing, of a scan",
    r"matches none of the \d+",
    lambda f: scan(Net(), [pictures()], layers="x", progress=False),
)
refused(
    "a penalty on a layer without padding",
    r"no padd",
    lambda f: fit(f, [PANPenalty(layers="net.0")], Module(nn.Sequential(nn.Conv2d(3, WIDTH, 3), convs(WIDTH), Head()))),
)
refused(
    "a penalty where nothing is padded",
    r"no padded convolution",
    lambda f: fit(f, [PANPenalty()], Module(nn.Sequential(nn.Conv2d(3, WIDTH, 3), Head()))),
)
refused(
    "a penalty under a reentrant checkpoint",
    r"use_reentrant=False",
    lambda f: fit(f, [PANPenalty(every_n_steps=1)], Module(Reentrant())),
)
refused(
    "a penalty on a model compiled before",
    r"compiler\.reset",
    lambda f: fit(f, [PANPenalty(every_n_steps=1)], _compiled()),
)
refused(
    "a penalty passed by in manual optimization",
    r"manual_backward\(loss\)",
    lambda f: fit(f, [PANPenalty(every_n_steps=1)], ByHand()),
)
refused("a mask of another model", r"made for another model", lambda f: fit(f, [PANMask(report=_other_report())]))
refused("masked() of another model", r"made for another model", lambda f: masked(Net(), _other_report()).__enter__())
refused("a scan of no batch", r"empty", lambda f: scan(Net(), [], progress=False))
refused("a scan of text", r"no images: .*", lambda f: scan(Net(), ["a picture"], progress=False))
refused("a scan of labels", r"no images", lambda f: scan(Net(), [torch.arange(4)], progress=False))
refused(
    "a scan of images too small", r"too small.*larger images", lambda f: scan(convs(), [pictures(8, 1)], progress=False)
)
refused("an impact without labels that its metric needs", r"no labels.*\(images, labels\)", lambda f: _impact(Accuracy))
refused("an impact of no batch", r"empty", lambda f: _impact(None, []))
refused("a report file that is none", r"not a PAN report", lambda f: PANMask(report=_written(f, "{}")), ValueError)
refused("a report file of nonsense", r"is not a report", lambda f: PANMask(report=_written(f, "nonsense")), ValueError)
refused("a threshold of nine", r"9", lambda f: PANMonitor(threshold=9), ValueError)
refused("a threshold of NaN", r"nan", lambda f: PANMonitor(threshold=float("nan")), ValueError)
refused("a reference that there is not", r"middle", lambda f: PANMonitor(reference="middle"), ValueError)
refused("no images at most", r"0", lambda f: PANMonitor(max_images=0), ValueError)
refused("an epoch every zero epochs", r"every_n_epochs=0", lambda f: PANMonitor(every_n_epochs=0), ValueError)
refused("batches that can be read once", r"once", lambda f: PANMonitor(batches=iter([pictures()])), ValueError)
refused("a negative weight", r"weight=-1", lambda f: PANPenalty(weight=-1), ValueError)
refused("a weight of NaN", r"weight=nan", lambda f: PANPenalty(weight=float("nan")), ValueError)
refused("an infinite weight", r"weight=inf", lambda f: PANPenalty(weight=float("inf")), ValueError)
refused("a mode of mask that there is not", r"neutral", lambda f: PANMask(mode="grey"), ValueError)
refused("a mask refreshed never", r"refresh='never'", lambda f: PANMask(refresh="never"), ValueError)
refused("a mask from epoch minus one", r"start_epoch=-1", lambda f: PANMask(start_epoch=-1), ValueError)
refused("batches of text in a fit", r"holds no images", lambda f: fit(f, [PANMonitor(batches=[["a", "b"]])]))


def _impact(metric: Any, batches: Any = None) -> None:
    net = nn.Sequential(convs(), Head()).eval()
    report = scan(net, [pictures(8)], threshold=0.05, progress=False)
    kind = {} if metric is None else {"metric": metric("multiclass", num_classes=3)}
    impact(net, [pictures(8)] if batches is None else batches, report, progress=False, **kind)


def _written(folder: Path, text: str) -> Path:
    path = folder / "pans.json"
    path.write_text(text, encoding="utf-8")
    return path
