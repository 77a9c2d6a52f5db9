"""Whether a neuron reads the padding: the same pixels, with padding beside them and with what is really there.

How consistently the border changes the answer is ``P(d > 0) - P(d < 0)``, with d the border reading less the reference
reading of the same pixel of the same image, as Lin et al. (2206.01202) compare a patch with padding to the same patch
with its real surroundings. 1 or -1 if padding always pushes the neuron to one side, however little; 0 if it does
nothing or pushes either way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pan_callbacks.measurement.contrast import RESOLUTION


def pushes(border: Tensor, reference: Tensor) -> Tensor:
    """Return in which direction the border moves each reading: 1, -1, or 0 for a difference below rounding and NaN.

    Example:
        >>> pushes(torch.tensor([0.1, 5.1, 5.0]), torch.tensor([0.0, 5.2, 5.0]))
        tensor([ 1., -1.,  0.])
    """
    difference = border - reference
    rounding = RESOLUTION * torch.maximum(border.abs(), reference.abs())
    return torch.where(difference.abs() > rounding, difference.sign(), 0.0)
