"""Watch, measure and suppress padding aware neurons in PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pan_callbacks.ablation import impact as impact
    from pan_callbacks.awareness import BorderBias as BorderBias
    from pan_callbacks.awareness import PaddingAwareness as PaddingAwareness
    from pan_callbacks.callbacks.mask import PANMask as PANMask
    from pan_callbacks.callbacks.monitor import PANMonitor as PANMonitor
    from pan_callbacks.callbacks.penalty import PANPenalty as PANPenalty
    from pan_callbacks.impact_report import ImpactReport as ImpactReport
    from pan_callbacks.layers import PANError as PANError
    from pan_callbacks.masking import mask_permanently as mask_permanently
    from pan_callbacks.masking import masked as masked
    from pan_callbacks.penalty import PaddingBiasPenalty as PaddingBiasPenalty
    from pan_callbacks.report import PAN as PAN
    from pan_callbacks.report import LayerReport as LayerReport
    from pan_callbacks.report import PANReport as PANReport
    from pan_callbacks.scanning import scan as scan

__version__ = "0.1.0"

# imported when first used, so that `import pan_callbacks` costs nothing
_WHERE = {
    "PANMonitor": "callbacks.monitor",
    "PANPenalty": "callbacks.penalty",
    "PANMask": "callbacks.mask",
    "PaddingBiasPenalty": "penalty",
    "PaddingAwareness": "awareness",
    "BorderBias": "awareness",
    "scan": "scanning",
    "impact": "ablation",
    "ImpactReport": "impact_report",
    "masked": "masking",
    "mask_permanently": "masking",
    "PANReport": "report",
    "LayerReport": "report",
    "PAN": "report",
    "PANError": "layers",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
