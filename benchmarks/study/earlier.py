"""Ways of training that earlier runs of the study have: the penalty had kinds. What they gave can still be shown."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.study.summary import Results

#: Arm of earlier runs to what it was.
TRAININGS = {
    "effect penalty": 'PANPenalty(kind="effect")',
    "effect penalty ×10": 'PANPenalty(kind="effect", weight=1)',
}


def shown(results: Results, experiment: str, rows: Mapping[str, str]) -> dict[str, str]:
    """Leaves out the rows of earlier trainings that the runs do not have.

    Args:
        results: The runs.
        experiment: Which experiment the rows are of.
        rows: ``"arm: variant"`` to name.
    """
    there = {arm.split("/")[-1] for arm in results.arms(experiment)}
    return {key: name for key, name in rows.items() if (arm := key.split(": ")[0]) not in TRAININGS or arm in there}
