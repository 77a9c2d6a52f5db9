"""Errors of this package, and the reasons why a layer is left out."""

from __future__ import annotations

from enum import Enum


class PANError(RuntimeError):
    """Raised if ``pan_callbacks`` cannot do what it was asked; the message names the thing and the way out.

    Args:
        message: What is wrong, and the way out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class UsageError(PANError):
    """Raised if something was asked for that does not exist or makes no sense; the command line answers with 2."""


class Skip(Enum):
    """Why a layer is left out of a report; the value is the sentence that says so, with blanks for the facts."""

    POINTWISE = "1×1 kernel"
    NO_PADDING = "no padding"
    PADDED_TWICE = "a pad before a convolution that pads as well"
    UNKNOWN_PAD = "behind a pad that is not understood: {pad}"
    TRANSPOSED = "a transposed convolution: fewer inputs reach its border by construction, and its padding crops them"
    OTHER_AXES = "a {own}-D convolution in a network for {images}-D images: its map is not laid out as they are"
    NO_MAP = "{why}"
    NO_KERNEL = "its kernel cannot be read: {error}"
    MISFIT = "its output of {height}×{width} does not fit its declared padding"
    NO_BORDER = "map of {height}×{width}: no position reads the padding of one side alone"
    NO_REFERENCE = "{tried}"
    NEVER_CALLED = "never called"
    TOO_FEW_READINGS = "too few readings: {images} on so small a map"
    NOT_FINITE = "NaN or infinite activations"

    def because(self, **facts: object) -> Reason:
        """Return the sentence with its blanks filled in.

        Example:
            >>> Skip.NO_BORDER.because(height=2, width=3)
            'map of 2×3: no position reads the padding of one side alone'
        """
        return Reason(self.value.format(**facts), self)


class Reason(str):
    """A sentence that says why a layer is left out, and knows which kind of reason it is.

    Args:
        sentence: For a reader.
        skip: For code, which never looks into the sentence.
    """

    skip: Skip

    def __new__(cls, sentence: str, skip: Skip) -> Reason:  # noqa: D102
        reason = super().__new__(cls, sentence)
        reason.skip = skip
        return reason

    def __reduce__(self) -> tuple[type[Reason], tuple[str, Skip]]:
        return Reason, (str(self), self.skip)
