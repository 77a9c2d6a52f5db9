"""What a penalty did not see in a step, told before more follow."""

from __future__ import annotations

import warnings
from collections.abc import Collection

from torch import Tensor

from pan_callbacks.errors import PANError, Skip
from pan_callbacks.suppression.penalty import PaddingBiasPenalty


def check_ran(penalty: PaddingBiasPenalty, loss: Tensor) -> None:
    """Raise PANError, which says why, if no penalised layer was seen to run, or none is padded.

    Args:
        penalty: The penalty, before what it saw is taken.
        loss: The loss of the step.
    """
    if penalty.ran:
        unpadded = [why for why in penalty.left_out().values() if getattr(why, "skip", None) is Skip.NO_PADDING]
        if len(unpadded) == len(penalty.layers):  # of pad modules and calls of F.pad in the model none feeds one
            raise PANError(
                f"no padded convolution to penalise: this model has none ({'; '.join(dict.fromkeys(unpadded))})"
            )
        return
    penalty.check_checkpoint(loss)
    raise PANError(
        "PANPenalty saw no padded convolution run with gradients in this training step. If the model was "
        "compiled and run before fit, its hooks are ignored: call torch.compiler.reset() first, or compile in "
        "configure_model. If the padded layers are frozen under torch.no_grad, use start_epoch or layers"
    )


def warn_of_left_out(penalty: PaddingBiasPenalty, told: Collection[str]) -> set[str]:
    """Warn of layers that ran and have no penalty, and return their names.

    Args:
        penalty: The penalty, after what it saw was taken.
        told: Layers that were told of before.
    """
    missing = {name: why for name, why in penalty.left_out().items() if name not in told}
    if missing:
        some = "; ".join(f"{name}: {why}" for name, why in list(missing.items())[:3])
        more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
        warnings.warn(f"PANPenalty has no penalty for {len(missing)} layers ({some}{more})", stacklevel=3)
    return set(missing)
