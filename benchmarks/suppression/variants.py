"""What else a penalty could do: variants that were tried, and are not in the package. docs/suppression_variants.md.

python -m benchmarks.suppression.variants --seeds 1 2                       # what is not there yet, then the page
python -m benchmarks.suppression.variants --variants "margin 0.7" --tasks digit --seeds 1
python -m benchmarks.suppression.variants --table                           # the page alone

Runs are kept in benchmarks/suppression/variants.jsonl. A variant changes the package for the time of its run, in a
process of its own. Seeds are few: this is good for dropping what fails, and for no claim about what is close.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from benchmarks import runs
from benchmarks.runs import Row
from benchmarks.suppression import ideas
from benchmarks.suppression.job import commit, train_and_measure
from benchmarks.suppression.tasks import TASKS
from benchmarks.suppression.variants_page import text
from pan_callbacks.suppression import cap, strength, yardstick

RESULTS = Path(__file__).with_name("variants.jsonl")
PAGE = Path(__file__).parents[2] / "docs" / "suppression_variants.md"
#: Runs with other prices: to be read, not to be made again.
EARLIER = {
    "variants_between.jsonl": """## On the way to the price as it is

What may be added to the gradient of a neuron was measured by its own alone, however short, and no longer by that of the
average neuron as well. `git checkout 1c344c7` has the code, under the same names. `variants_between.jsonl` has""",
    "variants_before.jsonl": """## With the price as it was before

What a layer's own padding does had a margin of 0.4 to 0.5, what is inherited did not count, and the gradient on a whole
kernel was as long as the task's at most. `git checkout 563b277` has the code, under the same names.
`variants_before.jsonl` has""",
}
STUDIED = ("digit", "digit, SGD", "digit and place", "mnist")


@dataclass(frozen=True)
class Variant:
    """What is other than in the package.

    Args:
        arguments: Of PANPenalty; None for a training without it.
        values: Constant of the package, with its module, to another value.
        changes: Further changes, as context managers.
        projected: Share of the way back to the margin that a kernel is moved in every fourth step, beside no penalty.
        crops: Whether the border of a crop is priced against the same pixels in the full image.
        network: Changes the network before training.
    """

    arguments: dict[str, Any] | None = field(default_factory=dict)
    values: tuple[tuple[Any, str, Any], ...] = ()
    changes: tuple[Callable[[], AbstractContextManager[Any]], ...] = ()
    projected: float | None = None
    crops: bool = False
    network: Callable[[nn.Module], nn.Module] | None = None


def margin(value: float) -> tuple[Any, str, Any]:
    """Another margin."""
    return yardstick, "MARGIN", value


def most(value: float) -> tuple[Any, str, Any]:
    """Another longest gradient of a neuron, in lengths of the task's."""
    return cap, "MOST", value


def wall(value: float) -> tuple[Any, str, Any]:
    """Another distance, in margins, at which it is as long as the task's."""
    return cap, "WALL", value


def scale(value: float) -> tuple[Any, str, Any]:
    """Another length of the gradient before it is capped, in distances."""
    return yardstick, "SCALE", value


ONE_STRENGTH = tuple((strength, name, 1.0) for name in ("GROWTH", "DECAY", "OVERSHOT"))

VARIANTS = {
    "none": Variant(None),
    "as it is": Variant(),
    **{f"margin {m}": Variant(values=(margin(m),)) for m in (0.5, 0.7)},
    **{f"at most {times} of the task": Variant(values=(most(times),)) for times in (1.0, 2.0)},
    "a 300th as strong": Variant(values=(scale(1.0),)),
    "measured by its own task alone": Variant(changes=(ideas.own_measure,)),
    "no wall": Variant(values=(wall(1e-6),)),
    "the whole kernel, no wall": Variant(changes=(ideas.whole_kernel,)),
    "what is inherited left out": Variant(changes=(ideas.own_alone,)),
    "one strength": Variant(values=ONE_STRENGTH),
    "64 images": Variant({"max_images": 64}),
    "every step": Variant({"every_n_steps": 1}),
    "every step, at most 4.0 of the task": Variant({"every_n_steps": 1}, values=(most(4.0),)),
    "from epoch 5 on": Variant({"start_epoch": 5}),
    "edges alone": Variant(changes=(ideas.edges_alone,)),
    "linear": Variant(changes=(ideas.linear,)),
    "huber": Variant(changes=(ideas.huber,)),
    "logarithm": Variant(changes=(ideas.logarithm,)),
    "crops as the reference": Variant(crops=True),
    "projection": Variant(None, projected=1.0),
    "a tenth of the projection": Variant(None, projected=0.1),
    "padding with the running mean": Variant(None, network=ideas.padded_with_the_mean),
    "partial convolution": Variant(None, network=ideas.partial_convolutions),
}


def one(task: str, name: str, seed: int) -> Row:
    """Runs a variant in this process."""
    runs.quietly()
    variant, of_task = VARIANTS[name], TASKS[task]
    with ExitStack() as stack:
        for module, constant, value in variant.values:
            stack.enter_context(patch.object(module, constant, value))
        for change in variant.changes:
            stack.enter_context(change())
        arm = ideas.Changed(
            penalty=variant.arguments, projected=variant.projected, crops=variant.crops, network=variant.network
        )
        found = train_and_measure(of_task, arm, seed)
    kept = {key: found[key] for key in ("pans", "accuracy", "kernel", "seconds")}
    return {"task": task, "arm": name, "seed": seed, "commit": commit(), **kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(STUDIED))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    runs.add_options(parser, RESULTS, PAGE)
    parser.add_argument("--one", nargs=3, metavar=("TASK", "VARIANT", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], args.one[1], int(args.one[2]))))
        return
    late, failed = [], []
    if not args.table:
        jobs = [(task, name, seed) for seed in args.seeds for name in args.variants for task in args.tasks]
        work = partial(runs.in_a_process, "benchmarks.suppression.variants")
        late, failed = runs.run_missing(jobs, args.results, work, "task", str, args.processes, args.minutes)
    earlier = [(words, runs.read(RESULTS.with_name(name))) for name, words in EARLIER.items()]
    args.page.write_text(text(runs.read(args.results), earlier, list(VARIANTS)), encoding="utf-8")
    runs.tell(late, failed)


if __name__ == "__main__":
    main()
