"""What differs between ``pytorch_lightning`` and ``lightning.pytorch``, in one place.

The two are separate copies of one library: a callback of the one is no callback to the other. A class that derives from
both works in the Trainers of both.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the two have the same hooks
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning.utilities.seed import isolate_rng as isolate_rng
else:
    _bases: list[type] = []
    if find_spec("pytorch_lightning") is not None:
        from pytorch_lightning import Callback as _Callback
        from pytorch_lightning.utilities.seed import isolate_rng as isolate_rng

        _bases.append(_Callback)
    if find_spec("lightning") is not None:
        from lightning.pytorch import Callback as _OtherCallback
        from lightning.pytorch.utilities.seed import isolate_rng as isolate_rng

        _bases.append(_OtherCallback)
    if not _bases:
        raise ImportError("pan_callbacks' callbacks need PyTorch Lightning: pip install pytorch-lightning")

    Callback = type("Callback", tuple(_bases), {"__doc__": "Base class that the Trainers of both namespaces accept."})

__all__ = ["Callback", "isolate_rng"]
