"""Planted networks called in every style: what is found is what was planted, as when they are called plainly."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from pan_callbacks import PANMonitor, PANReport, scan
from tests.attack.check import check
from tests.attack.promises import Promise
from tests.support import planted
from tests.support.planted import Planted

TRUTH = Promise.TRUTH
IMAGES, SIZE = 48, 32


def found(report: PANReport) -> dict[Any, Any]:
    """Layer and channel of every PAN, to its sides with their signs and its origin."""
    return {
        (pan.layer, pan.channel): ({side: 1 if pan.contrast[side] > 0 else -1 for side in pan.sides}, pan.origin)
        for pan in report.pans
    }


def true(network: Planted, renamed: Mapping[str, str]) -> dict[Any, Any]:
    return {
        (renamed[layer], channel): (dict(truth.signs), truth.origin)
        for (layer, channel), truth in network.truth.items()
    }


def assert_found(report: PANReport, network: Planted, renamed: Mapping[str, str]) -> None:
    """What was planted is found, with sides, signs and origins, nothing else is, and no distractor stands out."""
    told = found(report)
    missing = {key: value for key, value in true(network, renamed).items() if told.get(key) != value}
    extra = sorted(set(told) - set(true(network, renamed)))
    assert not missing, f"{len(missing)} of {len(network.truth)} are missing or wrong, as {next(iter(missing.items()))}"
    assert not extra, f"{len(extra)} are found that were not planted, as {extra[0]}"
    for layer, channel in network.distractors:
        contrast = report.contrast(renamed[layer])[:, channel].abs().nan_to_num(0.0).max()
        assert contrast == 0.0, f"distractor {channel} of {layer} has a contrast of {contrast}"


def chain() -> Planted:
    return planted.chain(3)


# --- styles: from the plain network to another module, and how that is called ----------------------------------------


class Style(nn.Module):
    """A network in another style; ``names`` says what its layers are called here."""

    names: dict[str, str]

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.build(net)

    def build(self, net: nn.Sequential) -> None:
        self.net = net
        self.names = {name: f"net.{name}" for name, _ in net.named_children()}

    def forward(self, x):
        return self.net(x)


class ByKeyword(Style):
    def forward(self, *, pixel_values, labels=None):
        return {"maps": self.net(pixel_values)}


class ByOptionalKeyword(Style):
    def forward(self, input_ids=None, pixel_values=None, **kwargs):
        return self.net(pixel_values)


class InnerKeyword(Style):
    """Its own forward calls the network that holds the layers by keyword."""

    def build(self, net):
        self.net = Sequence(net)
        self.names = {name: f"net.inner.{name}" for name, _ in net.named_children()}

    def forward(self, x):
        return self.net(x=x)


class Sequence(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.inner = net

    def forward(self, x):
        return self.inner(x)


class InList(Style):
    def build(self, net):
        self.blocks = nn.ModuleList(list(net))
        self.names = {name: f"blocks.{index}" for index, (name, _) in enumerate(net.named_children())}

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class InDict(Style):
    def build(self, net):
        self.blocks = nn.ModuleDict(dict(net.named_children()))
        self.names = {name: f"blocks.{name}" for name, _ in net.named_children()}

    def forward(self, x):
        for name in self.blocks:
            x = self.blocks[name](x)
        return x


class InSlices(Style):
    def forward(self, x):
        return self.net[2:](self.net[:2](x))


class InStages(Style):
    def build(self, net):
        parts = list(net.named_children())
        self.stages = nn.ModuleList([nn.Sequential(*(m for _, m in parts[i : i + 2])) for i in range(0, len(parts), 2)])
        self.names = {name: f"stages.{index // 2}.{index % 2}" for index, (name, _) in enumerate(parts)}

    def forward(self, x):
        return [x := stage(x) for stage in self.stages]


class AsAttributes(Style):
    def build(self, net):
        self.names = {}
        for name, module in net.named_children():
            setattr(self, f"my_{name}", module)
            self.names[name] = f"my_{name}"

    def forward(self, x):
        for name in self.names.values():
            x = getattr(self, name)(x)
        return x


class ByMethod(Style):
    def encode(self, x):
        return self.net(x)

    def forward(self, x):
        return self.encode(x).mean((2, 3))


class Nested(Style):
    def build(self, net):
        self.a = nn.Sequential(nn.ModuleDict({"b": nn.ModuleList([net])}))
        self.names = {name: f"a.0.b.0.{name}" for name, _ in net.named_children()}

    def forward(self, x):
        return self.a[0]["b"][0](x)


class Checkpointed(Style):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)


def without_padding(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution, made anew without padding."""
    made = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size)
    made.load_state_dict(conv.state_dict())
    return made.requires_grad_(False)


class PadModules(Style):
    """Pads by a module before every convolution."""

    def build(self, net):
        layers, self.names = [], {}
        for name, module in net.named_children():
            if isinstance(module, nn.Conv2d):
                layers.append(nn.ZeroPad2d(module.padding[0]))
                module = without_padding(module)
            self.names[name] = f"net.{len(layers)}"
            layers.append(module)
        self.net = nn.Sequential(*layers)


class PadFunctions(Style):
    """Pads by a function before every convolution."""

    def build(self, net):
        self.widths = {name: m.padding[0] for name, m in net.named_children() if isinstance(m, nn.Conv2d)}
        for name in self.widths:
            setattr(net, name, without_padding(getattr(net, name)))
        super().build(net)

    def forward(self, x):
        for name, module in self.net.named_children():
            if name in self.widths:
                x = F.pad(x, [self.widths[name]] * 4)
            x = module(x)
        return x


class PadsByTorch(PadFunctions):
    def forward(self, x):
        for name, module in self.net.named_children():
            if name in self.widths:
                x = torch.nn.functional.pad(x, [self.widths[name]] * 4, mode="constant", value=0.0)
            x = module(x)
        return x


class InAWrapper(Style):
    """A wrapper that takes a batch as a loader gives it."""

    def forward(self, batch):
        return self.net(batch["image"])


class OfList(Style):
    def forward(self, images):
        return self.net(torch.stack(list(images)))


class OfBytes(Style):
    def forward(self, x):
        return self.net(x.float() / 255)


class WithKeeping(Style):
    def forward(self, x):
        self.kept = self.net[0](x)
        return self.net[1:](self.kept)


class WithRandomness(Style):
    def forward(self, x):
        return self.net(x) * torch.rand(())


class CalledTwice(Style):
    def forward(self, x):
        return self.net(x) + self.net(x.flip(-1)).flip(-1)


class WithGlobalHead(Style):
    def build(self, net):
        super().build(net)
        self.head = nn.Linear(net[-1].out_channels, 2)

    def forward(self, x):
        return self.head(self.net(x).mean((2, 3)))


def plain(model, batch):
    return model(batch["image"])


STYLES: dict[str, tuple[type[Style], Any]] = {
    "plainly": (Style, plain),
    "by keyword from the step": (ByKeyword, lambda m, b: m(pixel_values=b["image"])),
    "by keyword and with labels": (ByKeyword, lambda m, b: m(pixel_values=b["image"], labels=b["label"])),
    "by one keyword among others": (
        ByOptionalKeyword,
        lambda m, b: m(pixel_values=b["image"], output_attentions=False),
    ),
    "by keyword from the model": (InnerKeyword, plain),
    "by x=": (Style, lambda m, b: m(x=b["image"])),
    "through a ModuleList": (InList, plain),
    "through a ModuleDict": (InDict, plain),
    "in slices": (InSlices, plain),
    "in stages": (InStages, plain),
    "layer by layer": (AsAttributes, plain),
    "by another method": (ByMethod, lambda m, b: m.encode(b["image"])),
    "nested in containers": (Nested, plain),
    "checkpointed": (Checkpointed, plain),
    "padded by modules": (PadModules, plain),
    "padded by F.pad": (PadFunctions, plain),
    "padded by F.pad with a value": (PadsByTorch, plain),
    "with the whole batch": (InAWrapper, lambda m, b: m(b)),
    "with a list of images": (OfList, lambda m, b: m(list(b["image"]))),
    "keeping features": (WithKeeping, plain),
    "with random numbers behind": (WithRandomness, plain),
    "twice a step": (CalledTwice, plain),
    "with a head": (WithGlobalHead, plain),
    "by forward": (Style, lambda m, b: m.forward(b["image"])),
    "without gradients or inference mode": (Style, lambda m, b: torch.no_grad()(m)(b["image"])),
    "with channels last": (Style, lambda m, b: m(b["image"].contiguous(memory_format=torch.channels_last))),
}


def batches(size: int = SIZE) -> list[dict[str, Any]]:
    images = planted.stationary(IMAGES, size)
    depth = planted.stationary(IMAGES, size, seed=5)[:, :1]
    return [
        {"depth": d, "image": x, "label": torch.zeros(len(x), dtype=torch.long)}
        for x, d in zip(images.split(16), depth.split(16), strict=True)
    ]


class Watched(pl.LightningModule):
    """Validates a network in a style, and trains nothing."""

    def __init__(self, model: nn.Module, call: Any) -> None:
        super().__init__()
        self.model, self.call = model, call
        self.idle = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.call(self.model, batch)
        return self.idle * 1.0

    def validation_step(self, batch, batch_idx):
        self.call(self.model, batch)

    def configure_optimizers(self):
        return torch.optim.SGD([self.idle], lr=0.0)


def quiet_trainer(folder: Path, callbacks: list[Any], **options: Any) -> pl.Trainer:
    shared = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": 1,
    }
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", callbacks=callbacks, **{"logger": False, **shared, **options}
    )


def watched(folder: Path, model: nn.Module, call: Any, monitor: PANMonitor, fit: bool, **options: Any) -> PANReport:
    """The report of a validation alone, or of a fit that trains nothing."""
    data = DataLoader(batches(), batch_size=None)
    trainer = quiet_trainer(folder, [monitor], **options)
    if fit:
        trainer.fit(Watched(model, call), data, data)
    else:
        trainer.validate(Watched(model, call), data, verbose=False)
    assert monitor.report is not None
    return monitor.report


def styled(name: str, kind: type[Style], call: Any) -> None:
    """A planted network in a style, validated and fitted under a monitor."""

    def run(folder: Path) -> None:
        network = chain()
        model = kind(copy.deepcopy(network.model))
        names = {layer: f"model.{model.names[layer]}" for layer in network.sides}
        assert_found(watched(folder, model, call, PANMonitor(), fit=False), network, names)
        monitor = PANMonitor()
        assert_found(watched(folder, model, call, monitor, fit=True), network, names)
        assert [entry["count"] for entry in monitor.history] == [len(network.truth)] * 2

    check(TRUTH, f"planted neurons of a network called {name}")(run)


for _name, (_kind, _call) in STYLES.items():
    styled(_name, _kind, _call)

SCANNED = ("plainly", "through a ModuleList", "through a ModuleDict", "in slices", "in stages", "layer by layer")
SCANNED += ("nested in containers", "padded by modules", "padded by F.pad", "keeping features", "twice a step")


def scanned(name: str, kind: type[Style]) -> None:
    def run(folder: Path) -> None:
        network = chain()
        model = kind(copy.deepcopy(network.model)).eval()
        images = [batch["image"] for batch in batches()]
        assert_found(scan(model, images, progress=False), network, model.names)

    check(TRUTH, f"planted neurons found by scan, called {name}")(run)


for _name in SCANNED:
    scanned(_name, STYLES[_name][0])


# --- other networks, other Trainers ----------------------------------------------------------------------------------


def planted_network(name: str, make: Any, **options: Any) -> None:
    """A planted network of another kind, called by keyword and through a ModuleList."""

    def run(folder: Path) -> None:
        for kind, call in (STYLES["by keyword from the step"], STYLES["through a ModuleList"]):
            network = make()
            model = kind(copy.deepcopy(network.model))
            names = {layer: f"model.{model.names[layer]}" for layer in network.sides}
            assert_found(watched(folder, model, call, PANMonitor(), fit=False, **options), network, names)

    check(TRUTH, name)(run)


planted_network("planted neurons of kernels of five", lambda: planted.chain(5))
planted_network(
    "planted neurons behind a gate of global context",  # which shifts all that comes behind it a little
    lambda: dataclasses.replace(planted.chain(3, between=planted.GlobalGate()), distractors=()),
)
planted_network("planted neurons of a depthwise layer", lambda: planted.depthwise(3, size=SIZE))
planted_network("planted neurons of a strided layer", lambda: planted.single(3, stride=2, size=SIZE))
planted_network("planted neurons on pooled maps", lambda: planted.pooled(2))
planted_network("planted neurons without sanity check", chain, num_sanity_val_steps=0)
planted_network("planted neurons in double precision", chain, precision="64-true")


@check(TRUTH)
def no_neuron_is_planted_where_padding_is_circular(folder):
    network = planted.chain(3, mode="circular")
    report = scan(network.model, [batch["image"] for batch in batches()], progress=False)
    assert report.count == 0


def one_dimensional(dims: int) -> None:
    """A convolution of sequences or volumes with one neuron that reads the padding before, and one that does not."""

    def run(folder: Path) -> None:
        kind = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
        conv = kind(2, 2, 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.ones_(conv.bias)
        centre = (1,) * dims
        before = (*centre[:-1], 0)
        with torch.no_grad():
            conv.weight[(0, 1, *centre)], conv.weight[(0, 1, *before)] = 2.0, -2.0
            conv.weight[(slice(None), 0, *centre)] = 0.1
        generator = torch.Generator().manual_seed(0)
        content = torch.rand(32, 1, *[12] * dims, generator=generator)
        report = scan(nn.Sequential(conv), [torch.cat([content, torch.ones_like(content)], 1)], progress=False)
        assert [(pan.channel, pan.origin) for pan in report.pans] == [(0, "nascent")]
        assert len(report.pans[0].sides) == 1

    check(TRUTH, f"a planted neuron of Conv{dims}d")(run)


one_dimensional(1)
one_dimensional(3)
