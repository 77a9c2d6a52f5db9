"""Why nothing was measured of a model, in words."""

from __future__ import annotations

import re
from collections import Counter

from torch import nn
from torch.jit import ScriptModule

from pan_callbacks.errors import Skip
from pan_callbacks.layers import select
from pan_callbacks.reports.pan_report import PANReport

#: Is part of every note about a convolution that is no module.
NO_MODULE = "no module that could be measured"
#: Kinds of convolutions that are not looked at, and what to do about it.
_QUANTISED, _SCRIPTED, _OTHER = "quantised convolutions", "convolutions of TorchScript", "convolutions of another kind"
_WAY_OUT = {
    _QUANTISED: "scan the float model that they were made of",
    _SCRIPTED: "scan the model as it was before",
    _OTHER: "only nn.Conv1d, nn.Conv2d and nn.Conv3d are looked at",
}


def why_nothing(model: nn.Module, report: PANReport) -> str:
    """Return what a model has in place of padded convolutions that can be measured.

    Args:
        model: The model.
        report: What was found: nothing.

    Example:
        >>> why_nothing(nn.Linear(4, 2), PANReport({}))
        'no padded convolution was measured: the model has no convolution'
    """
    found = []
    if report.skipped:
        reasons = "; ".join(f"{count}× {why}" for why, count in Counter(report.skipped.values()).most_common())
        found.append(f"{len(report.skipped)} were left out ({reasons})")
    for kind, names in _others(model).items():
        found.append(f"{len(names)} {kind} ({', '.join(dict.fromkeys(names))}): {_WAY_OUT[kind]}")
    found += [note for note in report.notes if NO_MODULE in note]
    return f"no padded convolution was measured: {'; '.join(found) or 'the model has no convolution'}"


def has_no_padding(model: nn.Module, report: PANReport) -> bool:
    """Whether a model of which nothing was measured has no padding, as opposed to some that cannot be measured.

    Example:
        >>> has_no_padding(nn.Linear(4, 2), PANReport({}))
        True
    """
    if _others(model) or any(NO_MODULE in note for note in report.notes):
        return False
    none = (Skip.POINTWISE, Skip.NO_PADDING, Skip.TRANSPOSED)
    return all(line.skip in none for line in report.layers.values())


def _others(model: nn.Module) -> dict[str, list[str]]:
    """Kind to the class of every convolution that is not among those that are looked at."""
    known = set(select(model).values())
    found: dict[str, list[str]] = {}
    for module in model.modules():
        name, scripted = getattr(module, "original_name", type(module).__name__), isinstance(module, ScriptModule)
        single = scripted or hasattr(module, "kernel_size")  # and not a block that holds one
        if single and module not in known and re.fullmatch(r"\w*Conv\w*[123]d", name):
            quantised = ".quantized" in type(module).__module__
            found.setdefault(_QUANTISED if quantised else _SCRIPTED if scripted else _OTHER, []).append(name)
    return found
