"""What is asked of a measurement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pan_callbacks.measurement.reference import FALLBACKS
from pan_callbacks.reports.words import Reference


@dataclass(frozen=True)
class Settings:
    """What is asked of a measurement.

    Args:
        layers: Glob or globs over layer names, None for all.
        reference: ``"crop"``, ``"zoom"``, ``"windows"``, ``"mirror"`` or ``"centre"``.
        threshold: Absolute contrast from which a neuron is a PAN, in (0, 1).
        max_images: Images to measure on, at most, over all processes.

    Raises:
        ValueError: If one of them is out of range.
    """

    layers: str | Iterable[str] | None = None
    reference: Reference = "crop"
    threshold: float = 0.8
    max_images: int = 256

    def __post_init__(self) -> None:
        if self.reference not in FALLBACKS:
            raise ValueError(f"reference={self.reference!r} is unknown; choose one of {', '.join(FALLBACKS)}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold!r} is not in (0, 1); 0.8 is the default")
        if self.max_images < 1:
            raise ValueError(f"max_images={self.max_images!r}: at least one image is needed")
