"""Models that several processes have in parts: sharded ones are measured as whole ones are, others refused by name."""

from __future__ import annotations

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset

from pan_callbacks import PANError, PANMonitor, scan
from tests.support import planted
from tests.support.processes import results_of_two

IMAGES = 16
LAYERS = ("first", "second", "third")


def network() -> nn.Sequential:
    """A network whose PANs are known, with a head behind that computes what a loss is made of."""
    model = planted.chain(3).model
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(model.third.out_channels, 2))
    with torch.no_grad():
        model.head.weight.fill_(0.01)
        model.head.bias.zero_()
    return model.eval()


class ByMethod(nn.Module):
    """The network behind a method, which ``fully_shard`` can be told to replace by one that gathers weights."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.update(network().__dict__)

    def features(self, x):
        return nn.Sequential.forward(self, x)

    def forward(self, x):
        return self.features(x)

    __iter__ = nn.Sequential.__iter__


def images(count: int = IMAGES) -> torch.Tensor:
    return planted.stationary(count, 32)


def sharded(how: str, mesh, model: nn.Sequential | None = None) -> nn.Module:
    """The network as the processes of a mesh have it."""
    model = network() if model is None else model
    if how in ("layers", "nested"):
        for name in LAYERS:
            fully_shard(model.get_submodule(name), mesh=mesh)
    if how == "group":
        fully_shard([model.first, model.third], mesh=mesh)
    if how in ("whole", "nested", "group"):
        fully_shard(model, mesh=mesh)
    if how == "method":
        model = fully_shard(ByMethod().eval(), mesh=mesh)
        register_fsdp_forward_method(model, "features")
    if how == "low precision":
        fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    if how == "tensor parallel":
        parallelize_module(model, mesh, {"head": ColwiseParallel()})
    if how == "divided kernels":
        model.second.weight = nn.Parameter(distribute_tensor(model.second.weight, mesh, [Shard(0)]))
    if how == "divided maps":
        distribute_module(model.second, mesh, input_fn=lambda _, given, mesh: given)
    return model


MEASURED = ("whole", "layers", "nested", "group", "method")
REFUSED = {
    "low precision": "computes in torch.bfloat16 (MixedPrecisionPolicy)",
    "tensor parallel": "'head' is tensor parallel",
    "divided maps": "'second' is tensor parallel",
    "divided kernels": "'second.weight' is a DTensor that fully_shard alone did not make",
}


def error_of(model: nn.Module) -> str:
    try:
        scan(model, [images(4)], progress=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


class Module(pl.LightningModule):
    """Trains the planted network so slowly that it stays the network it is."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = network(), how

    def configure_model(self):
        if self.how != "DDP" and not any(hasattr(weight, "full_tensor") for weight in self.parameters()):
            parallel = "tensor_parallel" if self.how == "tensor parallel" else "data_parallel"
            sharded(self.how, self.device_mesh[parallel], self.net)

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6, momentum=0.9)


def trained(how: str, folder: str, monitored: bool = True, groups=None) -> dict:
    """What a training in two processes gives: whole weights, report, history and warnings."""
    size, gloo = (1, 2) if how == "tensor parallel" else (2, 1), {"process_group_backend": "gloo"}
    strategy = DDPStrategy(**gloo) if how == "DDP" else ModelParallelStrategy(*size, **gloo)
    monitor, module = PANMonitor(figures=False, groups=groups), Module(how)
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=2, max_epochs=1, strategy=strategy, logger=False,
        callbacks=[monitor] if monitored else [], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    batches = DataLoader(TensorDataset(images()), batch_size=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, batches, batches)
    weights = {n: getattr(w, "full_tensor", lambda w=w: w)().detach() for n, w in module.net.named_parameters()}
    told = [
        str(one.message) for one in caught if "pan_callbacks" in str(one.message) or "PANMonitor" in str(one.message)
    ]
    found = pans_of(monitor.report) if monitor.report else None
    return {"weights": weights, "pans": found, "history": monitor.history, "told": told, "steps": trainer.global_step}


def everybody(batch):
    return [float(image.sum()) for image in batch[0]]


def nobody(batch):
    raise ValueError("no names today")


def pans_of(report) -> dict:
    return {(pan.layer.removeprefix("net."), pan.channel): (set(pan.sides), pan.origin) for pan in report.pans}


def run_rank(rank: int, folder: str) -> dict:
    """What each of two processes does; its results are read by the tests."""
    mesh, given, results = init_device_mesh("cpu", (2,)), images(), {}
    own = given[: 16 - 5 * rank]  # each process has images of its own, and as many as it likes
    plain = scan(network(), [own], progress=False)
    for how in MEASURED:
        model = sharded(how, mesh)
        before = model(given[:2])
        parts = [hasattr(weight, "full_tensor") for weight in model.parameters()]
        report = scan(model, [own], progress=False)
        contrasts = [(report.contrast(name), plain.contrast(name)) for name in LAYERS]
        results[how] = {
            "pans": pans_of(report),
            "same contrasts": all(torch.equal(*pair) for pair in contrasts),
            "remarks": report.notes == plain.notes,
            "goes on": torch.equal(before, model(given[:2])),
            "as it was": parts == [hasattr(weight, "full_tensor") for weight in model.parameters()],
        }
    for how in REFUSED:
        results[how] = error_of(sharded(how, mesh))
    for how in ("DDP", "nested", "tensor parallel"):
        results[f"trained {how}"] = trained(how, folder)
    results["trained, second fails"] = trained("nested", folder, groups=nobody if rank == 1 else everybody)
    results["trained nested, no monitor"] = trained("nested", folder, monitored=False)
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """Results of two processes."""
    return results_of_two(run_rank, tmp_path_factory.mktemp("ranks"))


def truth() -> dict:
    return {key: (set(one.sides), one.origin) for key, one in planted.chain(3).truth.items()}


@pytest.mark.parametrize("how", MEASURED)
def test_a_sharded_model_is_scanned_like_the_whole_one_whatever_images_a_process_has(ranks, how):
    for rank in ranks:
        assert rank[how] == {
            "pans": truth(),
            "same contrasts": True,
            "remarks": True,
            "goes on": True,
            "as it was": True,
        }


@pytest.mark.parametrize("how", REFUSED)
def test_what_computes_in_parts_is_refused_by_name(ranks, how):
    for rank in ranks:
        assert rank[how].startswith("PANError: ") and REFUSED[how] in rank[how], rank[how]


def test_the_monitor_finds_in_a_sharded_training_what_it_finds_in_others(ranks):
    for rank in ranks:
        alone, found = rank["trained DDP"], rank["trained nested"]
        assert found["told"] == []
        assert found["pans"] == alone["pans"] == truth()
        counts = [[entry["count"] for entry in one["history"]] for one in (alone, found)]
        assert counts == [[len(truth())] * 2] * 2  # before the first step, and after the epoch


def test_a_sharded_training_with_the_monitor_is_the_one_without(ranks):
    for rank in ranks:
        one, other = rank["trained nested"]["weights"], rank["trained nested, no monitor"]["weights"]
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_process_whose_measurement_fails_keeps_no_other_waiting(ranks):
    first, second = (rank["trained, second fails"] for rank in ranks)
    assert first["steps"] == second["steps"] == 2
    assert any("stopped measuring, the model goes on: ValueError: no names today" in said for said in second["told"])
    assert not any("stopped measuring" in said for said in first["told"])
    assert math.isnan(first["history"][-1]["count"]) and math.isnan(second["history"][-1]["count"])


def test_a_tensor_parallel_training_goes_on_unmeasured_with_a_warning(ranks):
    for rank in ranks:
        found = rank["trained tensor parallel"]
        assert found["steps"] == 4 and found["pans"] is None and found["history"] == []
        assert any(
            "stopped measuring, the model goes on: PANError: 'net.head' is tensor" in said for said in found["told"]
        )
        assert any("its figures of this epoch are NaN" in said for said in found["told"])


def test_the_first_fsdp_is_refused_with_the_way_out():
    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # its constructor wants an accelerator
    nn.Module.__init__(wrapped)
    wrapped.training_state = None
    wrapped._modules["_fsdp_wrapped_module"] = network()
    with pytest.raises(PANError, match="wrapped in FullyShardedDataParallel.*shard it with .*fully_shard"):
        scan(wrapped, [images(4)], progress=False)
