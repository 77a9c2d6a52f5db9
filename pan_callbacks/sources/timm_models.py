"""Models of timm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.sources.downloads import bars_of_the_hub, no_weights, pretrained_of, reachable
from pan_callbacks.sources.libraries import unknown
from pan_callbacks.sources.preprocessing import Preprocessing


class TimmModel:
    """A model of timm.

    Args:
        name: Its name, perhaps with the tag of its weights.
        num_classes: Outputs, None for as many as it has.

    Raises:
        UsageError: If there is no such model.
    """

    default_weights, random_weights = "timm's pretrained weights", "random initialisation"

    def __init__(self, name: str, num_classes: int | None) -> None:
        import timm

        self.name, self.num_classes = name, num_classes
        self.cached: str | None = None  # where the weights lie, if they were downloaded before
        if not name or not timm.is_model(name):
            raise unknown(f"timm has no model {name!r}", name, timm.list_models())
        try:
            self.config = timm.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError as error:  # the tag after the dot
            raise unknown(str(error), name, timm.list_pretrained(f"{name.split('.')[0]}.*")) from None
        if self.config is not None and self.config.tag:
            self.default_weights = f"timm's pretrained weights {self.config.tag}"

    def make(self, pretrained: bool = False, progress: bool = False, **changed: Any) -> nn.Module:
        """Make the model."""
        import timm

        if self.num_classes is not None:
            changed["num_classes"] = self.num_classes
        if not pretrained:
            return timm.create_model(self.name, pretrained=False, **changed)
        overlay: dict[str, Any] = {"pretrained_cfg_overlay": {"file": self.cached}} if self.cached else {}
        with pretrained_of(self.name), bars_of_the_hub(progress):
            return timm.create_model(self.name, pretrained=True, **overlay, **changed)

    def check_pretrained(self) -> bool:
        """See within seconds what timm finds out after a minute of retries: that there is nothing to be had."""
        if self.config is None or not self.config.has_weights:
            raise PANError(f"there are no pretrained weights of {self.name}: --weights FILE, or --weights none")
        if not self.config.hf_hub_id:
            return True
        from huggingface_hub import constants, try_to_load_from_cache

        files = (
            [self.config.hf_hub_filename] if self.config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        )
        found = (try_to_load_from_cache(self.config.hf_hub_id, file) for file in files)
        self.cached = None if self.config.custom_load else next((path for path in found if isinstance(path, str)), None)
        if self.cached is None and not reachable(constants.ENDPOINT):
            raise no_weights(self.name, f"{constants.ENDPOINT} cannot be reached")
        return self.cached is None

    def changes(self, model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
        """Offer arguments that would make the model's first and last layer fit the checkpoint's."""
        own, changed = model.state_dict(), {}
        config: Any = model.pretrained_cfg
        for argument, axis, role in (("num_classes", 0, "classifier"), ("in_chans", 1, "first_conv")):
            layers = config.get(role) or ()
            for key in (f"{layer}.weight" for layer in ([layers] if isinstance(layers, str) else layers)):
                if key in state and key in own and state[key].shape != own[key].shape:
                    changed[argument] = state[key].shape[axis]
        if changed.get("in_chans", 1) == 1:  # images have 1 channel or 3
            yield changed

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what the model expects of its images."""
        return of_timm(model)


def of_timm(model: nn.Module) -> Preprocessing:
    """Return what the configuration that timm gives its models says of their images."""
    from timm.data.config import resolve_data_config

    config: dict[str, Any] = resolve_data_config(  # type: ignore[no-untyped-call]  # of timm
        pretrained_cfg=getattr(model, "pretrained_cfg", {})
    )
    channels, height, width = config["input_size"]
    return Preprocessing(
        (height, width),
        config["mean"],
        config["std"],
        config["interpolation"],
        min(config["crop_pct"], 1.0),
        crop_mode=config["crop_mode"],
    )
