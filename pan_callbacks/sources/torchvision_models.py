"""Models of torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.sources.downloads import no_weights, pretrained_of, reachable
from pan_callbacks.sources.libraries import unknown
from pan_callbacks.sources.preprocessing import Preprocessing


class TorchvisionModel:
    """A model of torchvision.

    Args:
        name: Its name.
        num_classes: Outputs, None for as many as it has.

    Raises:
        UsageError: If there is no such model.
        PANError: If torchvision is not installed.
    """

    default_weights, random_weights = "torchvision's default weights", "random initialisation"

    def __init__(self, name: str, num_classes: int | None) -> None:
        try:
            from torchvision import models
        except ImportError as error:
            raise PANError(f"torchvision:{name} needs torchvision: pip install torchvision") from error
        if name not in models.list_models():
            raise unknown(f"torchvision has no model {name!r}", name, models.list_models())
        self.name, self.num_classes = name, num_classes
        self.weights = getattr(models.get_model_weights(name), "DEFAULT", None)
        self.arguments = inspect.signature(models.get_model_builder(name)).parameters

    def make(self, pretrained: bool = False, progress: bool = False, **changed: Any) -> nn.Module:
        """Make the model."""
        from torchvision.models import get_model

        if self.num_classes is not None:
            changed["num_classes"] = self.num_classes
        if pretrained:
            with pretrained_of(self.name):
                trained: nn.Module = get_model(self.name, weights="DEFAULT", progress=progress, **changed)
                return trained
        if "weights_backbone" in self.arguments:  # downloaded by default
            changed["weights_backbone"] = None
        if self.name in ("googlenet", "inception_v3"):  # else they warn of how long that takes
            changed["init_weights"] = True
        model: nn.Module = get_model(self.name, weights=None, **changed)
        return model

    def check_pretrained(self) -> bool:
        """Ask for the weights' host before torch does, which would wait for minutes if a firewall is silent."""
        if self.weights is None:
            raise PANError(f"there are no pretrained weights of {self.name}: --weights FILE, or --weights none")
        url = self.weights.url
        cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if not cached.exists() and not reachable(url):
            raise no_weights(self.name, f"{url} cannot be reached")
        return not cached.exists()

    def changes(self, model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
        """Offer arguments that would make the model's last layers fit the checkpoint's, auxiliary ones too."""
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
        """Return what the model expects of its images, as its weights' own transforms say it."""
        inside: Any = getattr(model, "transform", None)
        if hasattr(inside, "image_mean"):  # a detector resizes and normalises by itself
            size = inside.fixed_size or inside.min_size[-1]
            return Preprocessing(size, mean=(0.0,) * 3, std=(1.0,) * 3)
        transforms: Any = self.weights.transforms() if self.weights is not None else None
        if not hasattr(transforms, "mean"):
            return Preprocessing()
        edge = transforms.resize_size[0]
        crop = getattr(transforms, "crop_size", [edge])[0]
        return Preprocessing(
            (crop, crop),
            tuple(transforms.mean),
            tuple(transforms.std),
            transforms.interpolation.value,
            min(crop / edge, 1.0),
            resize=edge,
        )
