"""Watch, measure and suppress padding aware neurons in PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pan_callbacks.analysis.advise import advise as advise
    from pan_callbacks.callbacks.dropout import PaddingDropout as PaddingDropout
    from pan_callbacks.callbacks.mask import PANMask as PANMask
    from pan_callbacks.callbacks.monitor import PANMonitor as PANMonitor
    from pan_callbacks.callbacks.penalty import PANPenalty as PANPenalty
    from pan_callbacks.errors import PANError as PANError
    from pan_callbacks.measurement.metrics import BorderBias as BorderBias
    from pan_callbacks.measurement.metrics import PaddingAwareness as PaddingAwareness
    from pan_callbacks.measurement.reliance import reliance as reliance
    from pan_callbacks.measurement.scan import scan as scan
    from pan_callbacks.reports.advice import Advice as Advice
    from pan_callbacks.reports.impact_report import ImpactReport as ImpactReport
    from pan_callbacks.reports.layer_report import LayerReport as LayerReport
    from pan_callbacks.reports.pan_report import PANReport as PANReport
    from pan_callbacks.reports.pans import PAN as PAN
    from pan_callbacks.reports.reliance import Reliance as Reliance
    from pan_callbacks.suppression.dropout import padding_dropout as padding_dropout
    from pan_callbacks.suppression.impact import impact as impact
    from pan_callbacks.suppression.masks import mask_permanently as mask_permanently
    from pan_callbacks.suppression.masks import masked as masked
    from pan_callbacks.suppression.neutralise import neutralise as neutralise
    from pan_callbacks.suppression.penalty import PaddingBiasPenalty as PaddingBiasPenalty
    from pan_callbacks.suppression.schedules import Schedule as Schedule

__version__ = "0.1.0"

# imported when first used, so that `import pan_callbacks` costs nothing
_WHERE = {
    "PANMonitor": "callbacks.monitor",
    "PANPenalty": "callbacks.penalty",
    "PANMask": "callbacks.mask",
    "PaddingDropout": "callbacks.dropout",
    "PaddingBiasPenalty": "suppression.penalty",
    "Schedule": "suppression.schedules",
    "PaddingAwareness": "measurement.metrics",
    "BorderBias": "measurement.metrics",
    "scan": "measurement.scan",
    "reliance": "measurement.reliance",
    "Reliance": "reports.reliance",
    "impact": "suppression.impact",
    "ImpactReport": "reports.impact_report",
    "advise": "analysis.advise",
    "Advice": "reports.advice",
    "masked": "suppression.masks",
    "mask_permanently": "suppression.masks",
    "neutralise": "suppression.neutralise",
    "padding_dropout": "suppression.dropout",
    "PANReport": "reports.pan_report",
    "LayerReport": "reports.layer_report",
    "PAN": "reports.pans",
    "PANError": "errors",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
