"""One small member of every family of timm, and models of torchvision and segmentation_models_pytorch.

Each is validated by a Trainer without us and with the monitor, and then scanned; it must be left as it was, and the
report must name every convolution that pads, with a number or a reason.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from pan_callbacks import PANError, scan
from tests.attack.case import WATCH, Case, Run, add
from tests.attack.fingerprint import fingerprint
from tests.attack.pieces import Module, data, loader, pictures, setup
from tests.attack.promises import Promise
from tests.attack.timm_families import FAMILIES

FAMILY = Promise.FAMILY
IMAGES = 3


def states(model: nn.Module) -> dict[str, str]:
    """All that a scan has to leave: weights, buffers, modes, hooks, random state."""
    facts = {name: fingerprint(value) for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        facts[f"mode and hooks of {name}"] = f"{module.training} {hooks}"
    return facts | {"random state": fingerprint(torch.get_rng_state())}


def pads(conv: nn.Module) -> bool:
    return conv.padding == "same" if isinstance(conv.padding, str) else any(conv.padding)


def scanned(run: Run) -> str | None:
    """What is wrong with a scan of the network of a run."""
    net = run.module.net
    before = states(net)
    images = run.setup.watched["images"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = scan(net, [images], progress=False)
    except PANError as error:
        report, told = None, str(error)
    after = states(net)
    changed = [name for name in before if before[name] != after.get(name)]
    if changed:
        return f"scan changed {changed[:3]}"
    padded = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and pads(m)}
    if report is None:
        return None if told else "an error without words"
    left_out = [name for name in padded if name not in report.layers]
    if left_out:
        return f"{len(left_out)} padded convolutions are not in the report, as {left_out[0]}"
    if padded and not report.neurons:
        return f"nothing is measured of {len(padded)} padded convolutions, without an error"
    measured = [name for name, line in report.layers.items() if not line.skipped]
    odd = [name for name in measured if report.contrast(name).nan_to_num(0.0).abs().max() > 1]
    return f"contrasts beyond 1 in {odd}" if odd else None


def family(name: str, make: Any, size: int, call: Any = lambda net, images: net(images), heavy: bool = True) -> None:
    """A model that is validated and scanned at a size."""

    def build(folder):
        class Validated(Module):
            def validation_step(self, batch, batch_idx):
                self.log("answer", _numbers(call(self.net, batch[0])))

        images = data(IMAGES, size)
        return setup(
            module=Validated(make().eval()),
            val=loader(images, IMAGES),
            act=lambda run: run.validate(),
            watched={"images": pictures(IMAGES, size)},
        )

    add(Case(name, FAMILY, build, arms=(WATCH,), check=scanned, repeats=False, heavy=heavy))


def _numbers(answer: Any) -> torch.Tensor:
    """The sum of all floating point numbers in an answer."""
    if isinstance(answer, torch.Tensor):
        return answer.double().sum() if answer.is_floating_point() else torch.zeros((), dtype=torch.float64)
    parts = answer.values() if isinstance(answer, dict) else answer
    return sum((_numbers(part) for part in parts), torch.zeros((), dtype=torch.float64))


def _timm(model: str, options: dict[str, Any]) -> Any:
    def make():
        import timm

        return timm.create_model(model, pretrained=False, num_classes=3, **options)

    return make


for _family, (_model, _size, _options) in FAMILIES.items():
    family(f"timm {_family} ({_model})", _timm(_model, _options), _size, heavy=not _model.startswith("test_"))


# --- torchvision -----------------------------------------------------------------------------------------------------


def _torchvision(model: str, **options: Any) -> Any:
    def make():
        import torchvision

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torchvision.models.get_model(model, weights=None, **options)

    return make


CLASSIFIERS = {
    "alexnet": 96,
    "vgg11_bn": 64,
    "resnet18": 64,
    "squeezenet1_1": 96,
    "densenet121": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "shufflenet_v2_x0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mnasnet0_5": 64,
    "efficientnet_b0": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "swin_t": 64,
}
for _model, _size in CLASSIFIERS.items():
    _init = {"init_weights": False} if _model in ("googlenet", "inception_v3") else {}
    family(f"torchvision {_model}", _torchvision(_model, num_classes=3, **_init), _size)

for _model in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
    family(f"torchvision {_model}", _torchvision(_model, weights_backbone=None, num_classes=3), 64)

DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 96, "max_size": 128, "box_detections_per_img": 5},
    "maskrcnn_resnet50_fpn": {"min_size": 96, "max_size": 128, "box_detections_per_img": 5},
    "retinanet_resnet50_fpn": {"min_size": 96, "max_size": 128, "detections_per_img": 5},
    "fcos_resnet50_fpn": {"min_size": 96, "max_size": 128, "detections_per_img": 5},
    "ssdlite320_mobilenet_v3_large": {"detections_per_img": 5},
}
for _model, _options in DETECTORS.items():
    family(
        f"torchvision {_model}",
        _torchvision(_model, weights_backbone=None, num_classes=3, **_options),
        96,
        lambda net, images: net(list(images)),
    )


# --- segmentation_models_pytorch -------------------------------------------------------------------------------------


def _segmentation(kind: str, encoder: str) -> Any:
    def make():
        import segmentation_models_pytorch as smp

        return getattr(smp, kind)(encoder, encoder_weights=None, classes=2)

    return make


for _kind in (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
):
    family(f"segmentation_models_pytorch {_kind}", _segmentation(_kind, "resnet18"), 128 if _kind == "PAN" else 64)
for _encoder in ("mobilenet_v2", "timm-efficientnet-b0", "mit_b0"):
    family(f"segmentation_models_pytorch Unet on {_encoder}", _segmentation("Unet", _encoder), 64)
