"""PANs as a pandas table, for whoever counts and draws them further."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pan_callbacks.errors import PANError
from pan_callbacks.reports.pans import PAN

if TYPE_CHECKING:
    import pandas

#: Columns and their types; the figures are those of the strongest side.
_COLUMNS = {
    **{"layer": "str", "channel": "int64", "sides": "str", "strongest": "str"},
    **dict.fromkeys(("contrast", "low", "high", "effect", "shift", "consistency", "after"), "float64"),
    **{"sign": "str", "origin": "str", "certain": "bool"},
    **dict.fromkeys(("visible", "reads_padding"), "boolean"),  # with NA where nobody knows
}


def frame_of(pans: Iterable[PAN]) -> pandas.DataFrame:
    """Return a frame with a row for each PAN, see :meth:`~pan_callbacks.PANReport.to_pandas`.

    Raises:
        PANError: If pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise PANError("a report as a data frame needs pandas: pip install pandas") from error
    return pandas.DataFrame(map(_row, pans), columns=list(_COLUMNS)).astype(_COLUMNS)


def _row(pan: PAN) -> dict[str, Any]:
    side = pan.strongest
    low, high = pan.interval.get(side, (math.nan, math.nan))
    by_side = {name: getattr(pan, name).get(side, math.nan) for name in ("effect", "shift", "consistency", "after")}
    plain = {name: getattr(pan, name) for name in ("layer", "channel", "strongest", "sign", "origin", "certain")}
    plain |= {"visible": pan.visible, "reads_padding": pan.reads_padding}
    return plain | by_side | {"sides": pan.kind, "contrast": pan.strongest_contrast, "low": low, "high": high}
