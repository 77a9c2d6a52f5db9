"""Several processes find together what one finds: exactly, and with two collectives a probe."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pan_callbacks._runtime import Shard
from pan_callbacks.measurement.engine import Measurement
from pan_callbacks.measurement.exchange import packed, unpacked
from pan_callbacks.measurement.settings import Settings
from pan_callbacks.reports.pan_report import PANReport
from tests.support.processes import results_of

COLLECTIVES = [name for name in ("all_gather", "all_reduce", "broadcast", "all_gather_object", "barrier", "gather")]


def network() -> nn.Sequential:
    """A layer measured by crop, one on a map so small that it is measured by zoom, and one without batch norm."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(8),
        nn.Conv2d(4, 4, 3, padding=1),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 24, 24, generator=torch.Generator().manual_seed(1))


def probe(parts: list[torch.Tensor], shard: Shard, most: int) -> tuple[PANReport, Counter[str]]:
    """Measure the batches of one process; and count the collectives, of hooks and of the report."""
    calls: Counter[str] = Counter()
    when = "hooks"

    def counting(name, function):
        def call(*args, **kwargs):
            calls[when] += 1
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in COLLECTIVES:
            patch.setattr(dist, name, counting(name, getattr(dist, name)))
        model = network()
        measurement = Measurement(model, Settings(max_images=most), shard)
        measurement.start(-(-most // shard.world))
        with torch.no_grad():
            for part in parts:
                model(part)
        when = "report"
        report = measurement.report()
        measurement.detach()
    return report, calls


#: Images, and how they are dealt out: single ones in turn, as torch's DistributedSampler does, in batches of a size.
CASES = {
    "even": (64, 8, 256),
    "uneven last batches": (50, 8, 256),
    "fewer than asked": (96, 8, 40),
    "none for the last": (3, 2, 256),
}


def work(rank: int, folder: str) -> dict:
    world = dist.get_world_size()
    found = {}
    for name, (count, size, most) in CASES.items():
        own = images(count)[rank::world]
        report, calls = probe(list(own.split(size)) if len(own) else [], Shard(rank, world), most)
        found[name] = report.to_dict(), dict(calls)
    return found


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory) -> list[dict]:
    return results_of(work, tmp_path_factory.mktemp("ranks"), request.param)


@pytest.mark.parametrize("case", CASES)
def test_processes_find_what_one_finds(ranks, case):
    """Exactly, but for the rounding of convolutions, which is another one in a batch of another size."""
    count, size, most = CASES[case]
    alone, _ = probe(list(images(count)[:most].split(size)), Shard(), most)
    expected = figures(alone.to_dict())
    assert expected["0"]["contrast"]
    for rank in ranks:
        found = figures(rank[case][0])
        for layer, of_layer in expected.items():
            for name, value in of_layer.items():
                rounded = pytest.approx(value, rel=1e-5, nan_ok=True) if name in ROUNDED else value
                assert found[layer][name] == rounded, (layer, name)


EXACT = ("contrast", "error", "clusters", "groups", "draws", "images", "own", "earlier", "consistency", "drift")
ROUNDED = ("effect", "shift", "mean", "border_bias")


def figures(report: dict) -> dict[str, dict]:
    """The figures of each layer; a process without an image does not know how they were come by."""
    return {
        line["name"]: {name: line[name] for name in EXACT if name in line}
        | {name: line[name] for name in ROUNDED if _numbers(line, name)}
        for line in map(dict, report["layers"])
    }


def _numbers(line: dict, name: str) -> bool:
    """Make what a report has under a name plain numbers, NaN for none; and return whether there are any."""
    if line.get(name) is None:
        return False
    rows = line[name] if isinstance(line[name], list) else [line[name]]
    flat = [value for row in rows for value in (row if isinstance(row, list) else [row])]
    line[name] = [math.nan if value is None else value for value in flat]
    return True


@pytest.mark.parametrize("case", CASES)
def test_there_are_two_collectives_a_probe_and_none_in_hooks(ranks, case):
    """One of the sizes of what follows, and one of everything, however many layers there are."""
    assert all(rank[case][1] == {"report": 2} for rank in ranks)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (3, 5)])
def test_a_state_is_what_it_was_after_it_was_bytes(dtype, shape):
    tensor = (torch.randn(shape) * 3).to(dtype)
    state = {"a": [tensor, {"b": "ü\0", "c": [1, 2.5, None, True]}], "d": torch.arange(3)}
    found = unpacked(packed(state))
    assert torch.equal(found["a"][0], tensor) and found["a"][0].dtype == dtype and torch.equal(found["d"], state["d"])
    assert found["a"][1] == state["a"][1]


def test_a_layer_may_have_any_name():
    state = {"layers": {"tensor": {"rows": {}}, "dtype": torch.ones(2)}}
    assert unpacked(packed(state))["layers"]["tensor"] == {"rows": {}}


def test_strange_numbers_survive():
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 1e-45])
    found = unpacked(packed({"values": values}))["values"]
    assert torch.equal(found.view(torch.int32), values.view(torch.int32))
