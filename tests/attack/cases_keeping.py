"""Models that keep what passes: features, counters, caches, metrics, moving buffers."""

from __future__ import annotations

import collections
from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

from tests.attack.case import Case, Setup, add, case
from tests.attack.pieces import CLASSES, WIDTH, Head, Module, Net, convs, setup
from tests.attack.promises import Promise

MODEL = Promise.MODEL


class Keeping(Net):
    """Keeps its map, in a way that a subclass says."""

    def forward(self, x):
        features = self.features(x)
        self.keep(features)
        return self.head(features)


class ReadsWhatIsKept(Module):
    """Adds what the network kept to its loss, so that other features are another training."""

    def loss(self, batch):
        return super().loss(batch) + self.kept().float().square().mean()

    def kept(self) -> Tensor:
        return self.net.kept()


def keeping(name: str, start: Any, keep: Any, kept: Any) -> None:
    """A case of a network that keeps features where ``start`` makes a place for them."""

    def build(folder):
        class Keeper(Keeping):
            def __init__(self):
                super().__init__()
                self.place = start()

        Keeper.keep, Keeper.kept = keep, kept
        return setup(module=ReadsWhatIsKept(Keeper()))

    add(Case(f"features kept {name}", MODEL, build))


keeping("as an attribute", lambda: None, lambda self, x: setattr(self, "place", x), lambda self: self.place)
keeping(
    "detached as an attribute",
    lambda: None,
    lambda self, x: setattr(self, "place", x.detach()),
    lambda self: self.place,
)
keeping("in a dict", dict, lambda self, x: self.place.update(body=x), lambda self: self.place["body"])
keeping(
    "in a list that the forward clears",
    list,
    lambda self, x: (self.place.clear(), self.place.append(x)),
    lambda self: self.place[0],
)
keeping("in a list, the last read", list, lambda self, x: self.place.append(x.detach()), lambda self: self.place[-1])
keeping(
    "in a deque of the last three",
    lambda: collections.deque(maxlen=3),
    lambda self, x: self.place.append(x.detach().mean()),
    lambda self: torch.stack(list(self.place)),
)
keeping(
    "in an OrderedDict by size",
    collections.OrderedDict,
    lambda self, x: self.place.__setitem__(tuple(x.shape), x.detach().mean()),
    lambda self: torch.stack(list(self.place.values())),
)
keeping(
    "in a defaultdict of lists",
    lambda: collections.defaultdict(list),
    lambda self, x: self.place[x.shape[-1]].append(float(x.detach().mean())),
    lambda self: torch.tensor([value for values in self.place.values() for value in values]),
)
keeping(
    "as sizes in a set", set, lambda self, x: self.place.add(x.shape[-1]), lambda self: torch.tensor(sorted(self.place))
)
keeping(
    "as a running mean in a number",
    lambda: 0.0,
    lambda self, x: setattr(self, "place", 0.9 * self.place + 0.1 * float(x.detach().mean())),
    lambda self: torch.tensor(self.place),
)
keeping(
    "in a nested object",
    lambda: type("Box", (), {"value": None})(),
    lambda self, x: setattr(self.place, "value", x.detach()),
    lambda self: self.place.value,
)


def _keep_on_class(self, x):
    type(self).last = x.detach()


keeping("on the class", lambda: None, _keep_on_class, lambda self: type(self).last)


@case(MODEL)
def features_kept_on_the_lightning_module(folder):
    class Keeper(ReadsWhatIsKept):
        def logits(self, batch):
            self.maps = self.net.features(batch[0])
            return self.net.head(self.maps)

        def kept(self):
            return self.maps

    return setup(module=Keeper())


@case(MODEL)
def features_kept_by_a_convolution_of_the_users(folder):
    class KeepingConv(nn.Conv2d):
        def forward(self, x):
            self.last = x.detach()
            return super().forward(x)

    net = Net()
    net.body[3] = KeepingConv(WIDTH, WIDTH, 3, padding=1)

    class Keeper(ReadsWhatIsKept):
        def kept(self):
            return self.net.body[3].last

    return setup(module=Keeper(net))


@case(MODEL)
def features_kept_in_a_list_outside_the_model(folder):
    kept: list[float] = []

    class Keeper(Keeping):
        def keep(self, x):
            kept.append(float(x.detach().mean()))

    class Reader(ReadsWhatIsKept):
        def kept(self):
            return torch.tensor(kept)

    return setup(module=Reader(Keeper()), watched={"list": kept})


@case(MODEL)
def decoder_of_the_step_uses_the_size_that_the_encoder_kept(folder):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = convs()

        def forward(self, x):
            self.size = x.shape[-2:]
            return F.avg_pool2d(self.body(x), 2)

    class Decoding(Module):
        def __init__(self):
            super().__init__(Encoder())
            self.out = nn.Conv2d(WIDTH, 3, 1)

        def loss(self, batch):
            return F.mse_loss(F.interpolate(self.out(self.net(batch[0])), self.net.size), batch[0])

    return setup(module=Decoding())


@case(MODEL)
def skip_connections_kept_on_the_model_and_popped(folder):
    class UNet(Net):
        def __init__(self):
            super().__init__()
            self.up, self.skips = nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1), []

        def forward(self, x):
            self.skips.append(self.features(x))
            low = F.interpolate(F.avg_pool2d(self.skips[-1], 2), x.shape[-2:])
            return self.head(self.up(torch.cat([low, self.skips.pop()], 1)))

    return setup(UNet())


# --- counters --------------------------------------------------------------------------------------------------------


class CountsCalls(Net):
    """Its answer depends on how often it was called."""

    def count(self) -> float:
        raise NotImplementedError

    def forward(self, x):
        return super().forward(x) * (1 + 0.01 * self.count())


@case(MODEL)
def counter_as_an_attribute(folder):
    class Counts(CountsCalls):
        calls = 0

        def count(self):
            self.calls += 1
            return self.calls

    return setup(Counts())


@case(MODEL)
def counter_on_the_class(folder):
    class Counts(CountsCalls):
        calls = 0

        def count(self):
            type(self).calls += 1
            return type(self).calls

    return setup(Counts())


@case(MODEL)
def counter_in_a_closure(folder):
    calls = [0]

    class Counts(CountsCalls):
        def count(self):
            calls[0] += 1
            return calls[0]

    return setup(Counts(), watched={"counter": calls})


@case(MODEL)
def counter_of_itertools(folder):
    import itertools

    numbers = itertools.count()

    class Counts(CountsCalls):
        def count(self):
            return next(numbers)

    return setup(Counts())


def counting_buffer(persistent: bool, in_place: bool) -> None:
    def build(folder):
        class Counts(CountsCalls):
            def __init__(self):
                super().__init__()
                self.register_buffer("calls", torch.zeros(()), persistent=persistent)

            def count(self):
                if in_place:
                    self.calls += 1
                else:
                    self.calls = self.calls + 1
                return float(self.calls)

        return setup(Counts())

    kind = "persistent" if persistent else "not persistent"
    add(Case(f"counter as a buffer, {kind}, {'in place' if in_place else 'replaced'}", MODEL, build))


for persistent in (True, False):
    for in_place in (True, False):
        counting_buffer(persistent, in_place)


@case(MODEL)
def counter_in_the_forward_of_a_convolution(folder):
    class Counting(nn.Conv2d):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1 + 0.01 * self.calls)

    net = Net()
    net.body[0] = Counting(3, WIDTH, 3, padding=1)
    return setup(net)


@case(MODEL)
def counter_beside_the_convolutions_in_evaluation_alone(folder):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("images", torch.zeros(()))

        def forward(self, x):
            if not self.training:
                self.images += len(x)
            return x * (1 + 0.001 * self.images)

    net = Net()
    net.body.insert(2, Counter())
    return setup(net)


# --- caches ----------------------------------------------------------------------------------------------------------


@case(MODEL)
def position_codes_cached_by_the_last_size(folder):
    class Positions(nn.Module):
        code = None

        def forward(self, x):
            if self.code is None or self.code.shape[-1] != x.shape[-1]:
                self.code = torch.linspace(0, 1, x.shape[-1]).expand(x.shape[-2:])
            return x + self.code

    net = Net()
    net.body.insert(3, Positions())
    return setup(net)


@case(MODEL)
def position_codes_drawn_once_and_kept_for_ever(folder):
    class Positions(nn.Module):
        code = None

        def forward(self, x):
            if self.code is None:
                self.code = torch.rand(x.shape[-2:])
            return x + self.code[: x.shape[-2], : x.shape[-1]]

    net = Net()
    net.body.insert(3, Positions())
    return setup(net)


@case(MODEL)
def lru_cache_with_random_content(folder):
    import functools

    @functools.lru_cache(maxsize=1)
    def code(size: int) -> Tensor:
        return torch.rand(size)

    class Cached(Net):
        def forward(self, x):
            return super().forward(x + code(x.shape[-1]))

    return setup(Cached())


@case(MODEL)
def output_cached_by_the_images_shape(folder):
    class Cached(Net):
        def __init__(self):
            super().__init__()
            self.cache = {}

        def forward(self, x):
            if self.training:
                return super().forward(x)
            if x.shape not in self.cache:
                self.cache[x.shape] = super().forward(x).detach()
            return self.cache[x.shape]

    return setup(Cached())


@case(MODEL)
def keys_and_values_cached_in_evaluation(folder):
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("memory", torch.zeros(0, WIDTH), persistent=False)

        def forward(self, x):
            if not self.training:
                self.memory = torch.cat([self.memory, x.detach().mean((2, 3))])[-6:]
                return x + self.memory.mean()
            self.memory = self.memory[:0]
            return x

    net = Net()
    net.body.insert(3, Cached())
    return setup(net)


# --- hooks of the user -----------------------------------------------------------------------------------------------


@case(MODEL)
def forward_hook_of_the_user_that_saves(folder):
    class Saving(ReadsWhatIsKept):
        def __init__(self):
            super().__init__()
            self.saved = {}
            self.net.body[0].register_forward_hook(lambda module, args, out: self.saved.update(first=out))

        def kept(self):
            return self.saved["first"]

    return setup(module=Saving())


@case(MODEL)
def forward_hook_of_the_user_on_the_entry_that_appends(folder):
    class Saving(ReadsWhatIsKept):
        def __init__(self):
            super().__init__()
            self.saved = []
            self.net.body.register_forward_hook(self.save)

        def save(self, module, args, out):
            self.saved.append(float(out.detach().mean()))

        def kept(self):
            return torch.tensor(self.saved)

    return setup(module=Saving())


@case(MODEL)
def forward_hook_of_the_user_that_changes_the_output(folder):
    net = Net()
    net.body[0].register_forward_hook(lambda module, args, out: out * 1.5)
    return setup(net)


@case(MODEL)
def forward_hook_of_the_user_that_counts_and_changes_the_output(folder):
    calls = [0]

    def hook(module, args, out):
        calls[0] += 1
        return out * (1 + 0.01 * calls[0])

    net = Net()
    net.body[3].register_forward_hook(hook)
    return setup(net, watched={"calls": calls})


@case(MODEL)
def pre_hook_of_the_user_that_changes_the_input(folder):
    net = Net()
    net.body[3].register_forward_pre_hook(lambda module, args: (args[0] * 2 - 1,))
    return setup(net)


@case(MODEL)
def pre_hook_of_the_user_that_takes_keywords(folder):
    net = Net()
    net.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] - 0.5,), kwargs), with_kwargs=True)
    return setup(net)


@case(MODEL)
def hook_of_the_user_that_raises_on_odd_sizes(folder):
    def hook(module, args, out):
        if out.shape[-1] != 16:
            raise RuntimeError(f"a map of {out.shape[-1]} came")

    net = Net()
    net.body[0].register_forward_hook(hook)
    return setup(net)


@case(MODEL)
def hook_of_the_user_that_is_always_called(folder):
    calls = [0]

    def hook(module, args, out):
        calls[0] += 1

    net = Net()
    net.body[0].register_forward_hook(hook, always_call=True)
    return setup(net, watched={"calls": calls})


@case(MODEL)
def backward_hook_of_the_user(folder):
    norms = []
    net = Net()
    net.body[0].register_full_backward_hook(lambda module, gi, go: norms.append(float(go[0].norm())))
    net.body[3].register_full_backward_pre_hook(lambda module, go: (go[0] * 0.5,))
    return setup(net, watched={"norms": norms})


@case(MODEL)
def hook_of_the_user_on_every_module(folder):
    calls = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: calls.append(type(module).__name__)
    )

    def act(run):
        try:
            run.fit()
        finally:
            handle.remove()

    return setup(watched={"calls": calls}, act=act)


@case(MODEL)
def hook_of_the_user_on_a_gradient(folder):
    norms = []

    class Hooked(Net):
        def forward(self, x):
            out = self.features(x)
            if out.requires_grad:
                out.register_hook(lambda gradient: norms.append(float(gradient.norm())))
            return self.head(out)

    return setup(Hooked(), watched={"norms": norms})


@case(MODEL)
def hook_of_the_user_that_comes_in_the_first_epoch_and_goes(folder):
    class Coming(Module):
        def on_train_epoch_start(self):
            self.handle = self.net.body[0].register_forward_hook(lambda module, args, out: out + 0.1)

        def on_train_epoch_end(self):
            self.handle.remove()

    return setup(module=Coming())


@case(MODEL)
def feature_extractor_of_torchvision(folder):
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(convs(), {"1": "early", "4": "late"})

    class Extracting(Net):
        def __init__(self):
            super().__init__()
            self.body = extractor

        def forward(self, x):
            found = self.body(x)
            return self.head(found["early"] + found["late"])

    return setup(Extracting())


# --- metrics and logging in the forward ------------------------------------------------------------------------------


@case(MODEL)
def metric_updated_in_the_forward(folder):
    class Metered(Net):
        def __init__(self):
            super().__init__()
            self.mean = torchmetrics.MeanMetric()

        def forward(self, x):
            out = self.features(x)
            self.mean.update(out.detach().mean())
            return self.head(out)

    class Logging(Module):
        def on_validation_epoch_end(self):
            self.log("mean_map", self.net.mean.compute())
            self.net.mean.reset()

    return setup(module=Logging(Metered()))


@case(MODEL)
def metric_logged_by_lightning(folder):
    class Logging(Module):
        def __init__(self):
            super().__init__()
            self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=CLASSES)

        def forward(self, x):
            logits = self.net(x)
            self.accuracy(logits, torch.zeros(len(x), dtype=torch.long))
            return logits

        def logits(self, batch):
            logits = self(batch[0])
            self.log("accuracy", self.accuracy)
            return logits

    return setup(module=Logging())


@case(MODEL)
def metric_collection_within_the_body(folder):
    class Meter(nn.Module):
        def __init__(self):
            super().__init__()
            metrics = {"mean": torchmetrics.MeanMetric(), "most": torchmetrics.MaxMetric()}
            self.metrics = torchmetrics.MetricCollection(metrics)

        def forward(self, x):
            self.metrics.update(x.detach())
            return x

    net = Net()
    net.body.insert(3, Meter())

    class Logging(Module):
        def on_validation_epoch_end(self):
            self.log_dict(self.net.body[3].metrics.compute())

    return setup(module=Logging(net))


@case(MODEL)
def log_in_the_forward(folder):
    class Logging(Module):
        def forward(self, x):
            out = self.net.features(x)
            self.log("map", out.mean())
            return self.net.head(out)

        def logits(self, batch):
            return self(batch[0])

    return setup(module=Logging())


@case(MODEL)
def log_in_a_hook_on_a_convolution(folder):
    class Logging(Module):
        def __init__(self):
            super().__init__()
            self.net.body[3].register_forward_hook(self.write)

        def write(self, module, args, out):
            self.log("sizes", float(out.shape[-1]), on_step=True, on_epoch=True)

    return setup(module=Logging())


@case(MODEL)
def auxiliary_loss_kept_on_a_layer(folder):
    class Routed(nn.Module):
        def forward(self, x):
            self.penalty = x.square().mean() * 0.01
            return x

    net = Net()
    net.body.insert(3, Routed())

    class Adding(ReadsWhatIsKept):
        def kept(self):
            return self.net.body[3].penalty

    return setup(module=Adding(net))


# --- buffers that move -----------------------------------------------------------------------------------------------


class Moving(nn.Module):
    """A layer whose buffers move in the forward; subclasses say when and how."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(WIDTH))

    def move(self, x):
        self.average.mul_(0.9).add_(x.detach().mean((0, 2, 3)), alpha=0.1)

    def forward(self, x):
        self.move(x)
        return x - 0.1 * self.average[:, None, None]


class MovingInEvaluation(Moving):
    def move(self, x):
        if not self.training:
            super().move(x)


class ActNorm(nn.Module):
    """Takes its scale from the first batch that comes, in training or in evaluation."""

    def __init__(self, in_evaluation: bool, flag: str):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.in_evaluation, self.flag = in_evaluation, flag
        if flag == "buffer":
            self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        else:
            self.ready = False

    def forward(self, x):
        if not self.ready and (self.training or self.in_evaluation):
            with torch.no_grad():
                self.shift.copy_(-x.mean((0, 2, 3)))
                self.scale.copy_(1 / (x.std((0, 2, 3)) + 1e-3))
            if self.flag == "buffer":
                self.ready.fill_(True)
            else:
                self.ready = True
        return (x + self.shift[:, None, None]) * self.scale[:, None, None]


class MomentumQueue(Moving):
    """MoCo's: a queue with a pointer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(8, WIDTH))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def move(self, x):
        for row in x.detach().mean((2, 3)):
            self.queue[int(self.pointer)] = row
            self.pointer[0] = (self.pointer + 1) % len(self.queue)
        self.average.copy_(self.queue.mean(0))


class Codebook(Moving):
    """Vector quantisation whose codes follow the data."""

    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.randn(5, WIDTH))

    def move(self, x):
        rows = x.detach().permute(0, 2, 3, 1).reshape(-1, WIDTH)
        nearest = torch.cdist(rows, self.codes).argmin(1)
        for code in nearest.unique():
            self.codes[code] = 0.9 * self.codes[code] + 0.1 * rows[nearest == code].mean(0)
        self.average.copy_(self.codes.mean(0))


class AlwaysTraining(nn.BatchNorm2d):
    """A batch normalisation that refuses to be put into evaluation."""

    def train(self, mode: bool = True):
        return super().train(True)


class WeightThatMoves(Moving):
    """Writes into a weight in its forward."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(WIDTH), requires_grad=False)

    def move(self, x):
        with torch.no_grad():
            self.mean.add_(x.mean((0, 2, 3)), alpha=0.01)
        self.average.copy_(self.mean.data)


MOVING = {
    "average that always moves": Moving,
    "average that moves in evaluation alone": MovingInEvaluation,
    "data-dependent initialisation in training, flag as a buffer": lambda: ActNorm(False, "buffer"),
    "data-dependent initialisation in training, flag as an attribute": lambda: ActNorm(False, "attribute"),
    "data-dependent initialisation in any mode, flag as a buffer": lambda: ActNorm(True, "buffer"),
    "data-dependent initialisation in any mode, flag as an attribute": lambda: ActNorm(True, "attribute"),
    "queue of features with a pointer": MomentumQueue,
    "codebook that follows the data": Codebook,
    "weight that the forward moves": WeightThatMoves,
    "batch norm that stays in training": lambda: AlwaysTraining(WIDTH),
    "batch norm with cumulative statistics": lambda: nn.BatchNorm2d(WIDTH, momentum=None),
    "batch norm without running statistics": lambda: nn.BatchNorm2d(WIDTH, track_running_stats=False),
    "batch norm without weights": lambda: nn.BatchNorm2d(WIDTH, affine=False),
    "instance norm with running statistics": lambda: nn.InstanceNorm2d(WIDTH, track_running_stats=True, affine=True),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "local response norm": lambda: nn.LocalResponseNorm(2),
    "lazy batch norm": lambda: nn.LazyBatchNorm2d(),
}


def moving(name: str, make: Any) -> None:
    def build(folder) -> Setup:
        net = Net()
        net.body.insert(3, make())
        return setup(net, act=_lazily if "lazy" in name else None)

    add(Case(name, MODEL, build))


def _lazily(run):
    with torch.no_grad():
        run.module.net.eval()(torch.zeros(1, 3, 16, 16))
    run.module.net.train()
    run.fit()


for _name, _make in MOVING.items():
    moving(_name, _make)


@case(MODEL)
def teacher_that_follows_the_student_in_the_step(folder):
    import copy

    class Distilling(Module):
        def __init__(self):
            super().__init__()
            self.teacher = copy.deepcopy(self.net).requires_grad_(False)

        def loss(self, batch):
            with torch.no_grad():
                wanted = self.teacher(batch[0]).softmax(1)
                for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
            return super().loss(batch) + F.cross_entropy(self.net(batch[0]), wanted)

    return setup(module=Distilling())


@case(MODEL)
def frozen_backbone_in_evaluation_mode_within_training(folder):
    class Frozen(Module):
        def __init__(self):
            super().__init__()
            self.net.body.requires_grad_(False)

        def train(self, mode=True):
            super().train(mode)
            self.net.body.eval()
            return self

    return setup(module=Frozen())


@case(MODEL)
def head_that_reads_the_average_of_the_body(folder):
    class Whole(Net):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(MovingInEvaluation(), *Head())

    return setup(Whole())
