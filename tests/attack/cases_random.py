"""Models that draw random numbers, that insist on what they are given, and that hold what cannot be copied."""

from __future__ import annotations

import random
import threading
import weakref
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.attack.case import Case, add, case
from tests.attack.pieces import SIZE, WIDTH, Head, Module, Net, convs, setup
from tests.attack.promises import Promise

MODEL = Promise.MODEL


# --- random numbers --------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A layer made of a function of the layer and the map."""

    def __init__(self, function: Any, **attributes: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def _mask(shape: Any, generator: torch.Generator | None = None) -> torch.Tensor:
    return (torch.rand(shape, generator=generator) < 0.8).float()


DRAWING = {
    "dropout in training alone": lambda: nn.Dropout(0.3),
    "dropout that is active in evaluation": lambda: Layer(lambda m, x: F.dropout(x, 0.3, training=True)),
    "dropout of whole channels in evaluation": lambda: Layer(lambda m, x: F.dropout2d(x, 0.3, training=True)),
    "alpha dropout in training": lambda: nn.AlphaDropout(0.2),
    "randomised leaky ReLU": lambda: nn.RReLU(),
    "randomised leaky ReLU in evaluation": lambda: Layer(lambda m, x: F.rrelu(x, training=True)),
    "stochastic depth of torchvision": lambda: __import__("torchvision").ops.StochasticDepth(0.3, "row"),
    "stochastic depth in evaluation": lambda: Layer(lambda m, x: x * _mask((len(x), 1, 1, 1))),
    "noise of torch in evaluation": lambda: Layer(lambda m, x: x + 0.1 * torch.randn_like(x)),
    "noise of numpy": lambda: Layer(lambda m, x: x + 0.1 * float(np.random.rand())),
    "noise of python": lambda: Layer(lambda m, x: x + 0.1 * random.random()),
    "coin of python that skips the layer": lambda: Layer(lambda m, x: x if random.random() < 0.5 else 2 * x),
    "mask from a generator of its own": lambda: Layer(
        lambda m, x: x * _mask(x.shape, m.generator), generator=torch.Generator().manual_seed(3)
    ),
    "mask from a numpy generator of its own": lambda: Layer(
        lambda m, x: x * float(m.generator.random()), generator=np.random.default_rng(3)
    ),
    "mask from a numpy RandomState of its own": lambda: Layer(
        lambda m, x: x * float(m.generator.rand()), generator=np.random.RandomState(3)
    ),
    "mask from a python Random of its own": lambda: Layer(
        lambda m, x: x * m.generator.random(), generator=random.Random(3)
    ),
    "generator seeded in every forward": lambda: Layer(
        lambda m, x: x * _mask(x.shape, torch.Generator().manual_seed(5))
    ),
    "global seed set in every forward": lambda: Layer(lambda m, x: (torch.manual_seed(7), x * _mask(x.shape))[1]),
    "random shift of the map": lambda: Layer(lambda m, x: x.roll(int(torch.randint(3, ())), -1)),
    "fractional pooling": lambda: Layer(
        lambda m, x: F.fractional_max_pool2d(x, 2, output_size=(8, 8)) if x.shape[-1] >= 10 else x
    ),
    "gumbel softmax over channels": lambda: Layer(lambda m, x: F.gumbel_softmax(x, dim=1)),
    "bernoulli gates": lambda: Layer(lambda m, x: x * torch.bernoulli(torch.full_like(x[:, :, :1, :1], 0.7))),
    "permutation of channels": lambda: Layer(lambda m, x: x[:, torch.randperm(x.shape[1])]),
    "drop block": lambda: Layer(lambda m, x: x * (1 - F.max_pool2d((torch.rand_like(x) < 0.02).float(), 3, 1, 1))),
}
for _name, _make in DRAWING.items():

    def _build(folder, make=_make):
        net = Net()
        net.body.insert(3, make())
        return setup(net)

    add(Case(_name, MODEL, _build))


@case(MODEL)
def mixed_batches_in_the_step(folder):
    class Mixing(Module):
        def loss(self, batch):
            share, order = np.random.beta(1, 1), torch.randperm(len(batch[0]))
            logits = self.net(share * batch[0] + (1 - share) * batch[0][order])
            return share * F.cross_entropy(logits, batch[1]) + (1 - share) * F.cross_entropy(logits, batch[1][order])

    return setup(module=Mixing())


@case(MODEL)
def diffusion_draws_its_noise_and_time_in_the_step(folder):
    class Diffusing(Module):
        def __init__(self):
            super().__init__(nn.Sequential(convs(4), nn.Conv2d(WIDTH, 3, 3, padding=1)))

        def loss(self, batch):
            noise, time = torch.randn_like(batch[0]), torch.rand(len(batch[0]), 1, 1, 1)
            mixed = (1 - time) * batch[0] + time * noise
            return F.mse_loss(self.net(torch.cat([mixed, time.expand_as(mixed[:, :1])], 1)), noise)

    return setup(module=Diffusing())


@case(MODEL)
def autoencoder_that_samples_its_code(folder):
    class Coding(Module):
        def __init__(self):
            super().__init__(nn.Sequential(convs(), nn.Conv2d(WIDTH, 4, 3, padding=1)))
            self.out = nn.Conv2d(2, 3, 3, padding=1)

        def loss(self, batch):
            mean, spread = self.net(batch[0]).chunk(2, 1)
            return F.mse_loss(self.out(mean + spread.exp() * torch.randn_like(mean)), batch[0])

    return setup(module=Coding())


# --- models that insist ----------------------------------------------------------------------------------------------


class Picky(Net):
    """Raises where it is not called as it wants."""

    def check(self, x: torch.Tensor) -> None:
        raise NotImplementedError

    def forward(self, x):
        self.check(x)
        return super().forward(x)


class Unexpected(BaseException):
    """No Exception."""


def picky(name: str, check: Any, **options: Any) -> None:
    def build(folder):
        kind = type("Insisting", (Picky,), {"check": check, "__module__": __name__})
        return setup(kind(), **options)

    add(Case(name, MODEL, build))


def _refuse(wrong: bool, error: BaseException) -> None:
    if wrong:
        raise error


SIZES = (SIZE, SIZE)
picky("asserts its input size", lambda self, x: _refuse(x.shape[-2:] != SIZES, AssertionError(f"got {x.shape}")))
picky("raises ValueError on crops", lambda self, x: _refuse(x.shape[-1] < SIZE, ValueError("too small")))
picky("raises KeyError on other sizes", lambda self, x: {SIZE: 0}[x.shape[-1]])
picky("raises on larger images", lambda self, x: _refuse(x.shape[-1] > SIZE, RuntimeError("too large")))
picky("raises NotImplementedError on crops", lambda self, x: _refuse(x.shape[-1] != SIZE, NotImplementedError()))
picky("raises MemoryError on crops", lambda self, x: _refuse(x.shape[-1] != SIZE, MemoryError()))
picky("raises out of memory on crops", lambda self, x: _refuse(x.shape[-1] != SIZE, torch.OutOfMemoryError("out of")))
picky("raises StopIteration on crops", lambda self, x: _refuse(x.shape[-1] != SIZE, StopIteration()))
picky("raises what is no Exception on crops", lambda self, x: _refuse(x.shape[-1] != SIZE, Unexpected("odd")))
picky("calls sys.exit on crops", lambda self, x: _refuse(x.shape[-1] != SIZE, SystemExit("wrong size")))
picky("raises on any number of images but four", lambda self, x: _refuse(len(x) != 4, ValueError(f"{len(x)} images")))
picky(
    "insists on no gradients in evaluation",
    lambda self, x: _refuse(not self.training and torch.is_grad_enabled(), RuntimeError("gradients")),
)
picky(
    "insists on gradients in training",
    lambda self, x: _refuse(self.training and not torch.is_grad_enabled(), RuntimeError("no gradients")),
)
picky(
    "insists on inference mode in evaluation",
    lambda self, x: _refuse(not self.training and not torch.is_inference_mode_enabled(), RuntimeError("no inference")),
    act=lambda run: run.validate(),
)
picky("insists on contiguous images", lambda self, x: _refuse(not x.is_contiguous(), RuntimeError("not contiguous")))
picky("insists on float images", lambda self, x: _refuse(x.dtype != torch.float32, TypeError(str(x.dtype))))
picky("insists on finite images", lambda self, x: _refuse(not bool(x.isfinite().all()), ValueError("not finite")))
picky(
    "insists that the step called it",
    lambda self, x: _refuse(
        not any(frame.name in ("training_step", "validation_step") for frame in _frames()), RuntimeError("who calls?")
    ),
)


def _frames():
    import traceback

    return traceback.extract_stack()


@case(MODEL)
def head_of_a_fixed_size(folder):
    class Fixed(Net):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH * SIZE * SIZE, 3))

    return setup(Fixed())


@case(MODEL)
def head_of_a_fixed_size_between_the_convolutions(folder):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(SIZE * SIZE, SIZE * SIZE)

        def forward(self, x):
            return self.mix(x.flatten(2)).view_as(x)

    net = Net()
    net.body.insert(3, Mixer())
    return setup(net)


@case(MODEL)
def other_branch_in_training_than_in_evaluation(folder):
    class Branching(Net):
        def __init__(self):
            super().__init__()
            self.aux = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

        def forward(self, x):
            out = self.features(x)
            return self.head(out + self.aux(out) if self.training else out)

    return setup(Branching())


@case(MODEL)
def returns_a_pair_in_training_and_logits_in_evaluation(folder):
    class Pair(Net):
        def forward(self, x):
            logits = super().forward(x)
            return (logits, logits * 0.5) if self.training else logits

    class Unpacking(Module):
        def logits(self, batch):
            out = self.net(batch[0])
            return sum(out) if isinstance(out, tuple) else out

    return setup(module=Unpacking(Pair()))


@case(MODEL)
def reads_the_trainer_in_its_forward(folder):
    class Reading(Module):
        def forward(self, x):
            return self.net(x) * (1 + 0.01 * self.trainer.global_step + 0.1 * self.current_epoch)

        def logits(self, batch):
            return self(batch[0])

    return setup(module=Reading())


@case(MODEL)
def reads_a_flag_that_the_step_sets(folder):
    class Flagged(Net):
        stage = None

        def forward(self, x):
            if self.stage is None:
                raise RuntimeError("called outside a step")
            return super().forward(x) * (1 if self.stage == "train" else 2)

    class Flagging(Module):
        def loss(self, batch):
            self.net.stage = "train" if self.training else "val"
            try:
                return super().loss(batch)
            finally:
                self.net.stage = None

    return setup(module=Flagging(Flagged()))


@case(MODEL)
def switches_its_submodules_modes_in_the_forward(folder):
    class Switching(Net):
        def forward(self, x):
            self.body.train(not self.training)
            out = super().forward(x)
            self.body.train(self.training)
            return out

    return setup(Switching())


@case(MODEL)
def switches_gradients_in_the_forward(folder):
    class Switching(Net):
        def forward(self, x):
            with torch.no_grad():
                x = self.stem(x)
            with torch.enable_grad():
                return self.head(self.body(x))

    return setup(Switching())


@case(MODEL)
def takes_gradients_of_its_own_in_the_forward(folder):
    class Energy(Net):
        def forward(self, x):
            with torch.inference_mode(False), torch.enable_grad():
                x = x.clone().requires_grad_()
                score = self.features(x).square().mean()
                (slope,) = torch.autograd.grad(score, x, create_graph=self.training)
            return self.head(self.features(x - slope))

    return setup(Energy(), options={"inference_mode": False})


@case(MODEL)
def writes_into_its_input(folder):
    class Writing(Net):
        def forward(self, x):
            x = x.sub_(0.5)
            return super().forward(x)

    return setup(Writing())


@case(MODEL)
def writes_into_the_output_of_a_convolution(folder):
    class Writing(Net):
        def forward(self, x):
            out = self.stem(x)
            out.mul_(0.5).clamp_(min=-1)
            return self.head(self.body(out))

    return setup(Writing())


@case(MODEL)
def writes_into_the_input_between_convolutions(folder):
    class Writing(Net):
        def forward(self, x):
            stem = self.stem(x)
            out = self.body[0](stem)
            with torch.no_grad():
                stem.zero_()
            return self.head(self.body[3](F.relu(out.detach())))

    return setup(Writing())


# --- what hangs on models --------------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("steps",)

    def __init__(self):
        self.steps = 0


class NotCopied:
    """Refuses to be copied or pickled."""

    uses = 0

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")

    def __reduce__(self):
        raise TypeError("cannot be pickled")

    def __copy__(self):
        raise TypeError("cannot be copied")


def attributed(name: str, make: Any, use: Any = lambda self: 0.0) -> None:
    """A case of a network with something odd as an attribute, which its forward uses."""

    def build(folder):
        class Odd(Net):
            def __init__(self):
                super().__init__()
                self.thing = make(self, folder)

            def forward(self, x):
                return super().forward(x) * (1 + 0.01 * float(use(self)))

        return setup(Odd())

    add(Case(f"holds {name}", MODEL, build))


def _count_slot(self):
    self.thing.steps += 1
    return self.thing.steps


def _use(self):
    self.thing.uses += 1
    return self.thing.uses


def _locked(self):
    with self.thing:
        return 1.0


def _written(self):
    self.thing.write("called\n")
    return self.thing.tell()


def _advance(self):
    return next(self.thing)


def _generator():
    number = 0.0
    while True:
        number += 1
        yield number


class Counter:
    """Counts how often it is called, or copied."""

    copies = 0

    def __init__(self):
        self.calls = 0

    def __deepcopy__(self, memo):
        type(self).copies += 1
        return self

    def __call__(self):
        self.calls += 1
        return self.calls


attributed("an object with slots", lambda self, folder: Slotted(), _count_slot)
attributed("an object that refuses to be copied", lambda self, folder: NotCopied(), _use)
attributed("an object that is its own copy", lambda self, folder: Counter(), lambda self: self.thing())
attributed("a lock", lambda self, folder: threading.Lock(), _locked)
attributed("an open file", lambda self, folder: (folder / "log.txt").open("w"), _written)
attributed("a generator of python", lambda self, folder: _generator(), _advance)
attributed("a lambda", lambda self, folder: lambda: 2.0, lambda self: self.thing())
attributed("a method of itself", lambda self, folder: self.features, lambda self: 1.0)
attributed("a lambda that counts on the module", lambda self, folder: [0], lambda self: _counted(self.thing))
attributed("a weak reference to itself", lambda self, folder: weakref.ref(self), lambda self: self.thing() is self)
attributed(
    "a weak dictionary", lambda self, folder: weakref.WeakKeyDictionary({self.stem: 3.0}), lambda self: len(self.thing)
)
attributed("itself in a list", lambda self, folder: [self], lambda self: self.thing[0] is self)
attributed("a tensor with a graph", lambda self, folder: self.stem.weight * 2, lambda self: self.thing.detach().mean())
attributed("a thread-local value", lambda self, folder: threading.local(), lambda self: hasattr(self.thing, "x"))
attributed("an array of numpy", lambda self, folder: np.zeros(2), lambda self: _in_place(self.thing))
attributed("a view of a weight", lambda self, folder: self.stem.weight.detach()[0], lambda self: self.thing.mean())
attributed("a socket", lambda self, folder: __import__("socket").socket(), lambda self: self.thing.fileno() > 0)
attributed("a module of python", lambda self, folder: np, lambda self: self.thing.pi)
attributed("a compiled pattern", lambda self, folder: __import__("re").compile("a+"), lambda self: bool(self.thing))
attributed(
    "an ordinary list of layers",
    lambda self, folder: [nn.Conv2d(3, 3, 3, padding=1)],
    lambda self: self.thing[0].weight.mean(),
)


def _counted(box):
    box[0] += 1
    return box[0]


def _in_place(array):
    array += 1
    return array.sum()


@case(MODEL)
def child_that_knows_its_parent(folder):
    class Child(nn.Module):
        def __init__(self, parent):
            super().__init__()
            object.__setattr__(self, "parent", parent)

        def forward(self, x):
            self.parent.calls += 1
            return x * (1 + 0.01 * self.parent.calls)

    class Parent(Net):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.body.insert(3, Child(self))

    return setup(Parent())


@case(MODEL)
def thread_that_runs_while_it_trains(folder):
    class Threaded(Module):
        def __init__(self):
            super().__init__()
            self.stop = threading.Event()
            self.thread = threading.Thread(target=self.stop.wait, args=(60,), daemon=True)
            self.thread.start()

        def on_fit_end(self):
            self.stop.set()
            self.thread.join()

    return setup(module=Threaded())


@case(MODEL)
def property_that_raises(folder):
    class Raising(Net):
        @property
        def classes(self):
            raise RuntimeError("not before it was fitted")

    return setup(Raising())


@case(MODEL)
def attributes_looked_up_in_another_object(folder):
    class Delegating(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Net()

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        def forward(self, x):
            return self.head(self.features(x))

    return setup(Delegating())


@case(MODEL)
def attributes_that_cannot_be_set(folder):
    class Closed(Net):
        def __init__(self):
            super().__init__()
            self.__dict__["closed"] = True

        def __setattr__(self, name, value):
            if self.__dict__.get("closed") and name != "training":
                raise AttributeError(f"{name} cannot be set")
            super().__setattr__(name, value)

    return setup(Closed())


@case(MODEL)
def refuses_to_be_copied(folder):
    class Unique(Net):
        calls = 0

        def __deepcopy__(self, memo):
            raise TypeError("there is one of me")

        def __reduce__(self):
            raise TypeError("I am not pickled")

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1 + 0.01 * self.calls)

    return setup(Unique())


@case(MODEL)
def counts_its_copies(folder):
    class Counting(Net):
        copies = 0

        def __deepcopy__(self, memo):
            Counting.copies += 1
            raise TypeError("no copies")

    return setup(Counting())


@case(MODEL)
def convolution_that_refuses_to_be_copied(folder):
    class Unique(nn.Conv2d):
        def __deepcopy__(self, memo):
            raise TypeError("there is one of me")

    net = Net()
    net.body[3] = Unique(WIDTH, WIDTH, 3, padding=1)
    return setup(net)


@case(MODEL)
def call_of_the_users_own(folder):
    class Calling(Net):
        calls = 0

        def __call__(self, *args, **kwargs):
            self.calls += 1
            return super().__call__(*args, **kwargs) * (1 + 0.01 * self.calls)

    return setup(Calling())


@case(MODEL)
def forward_put_on_the_instance(folder):
    net = Net()
    own, calls = net.forward, []

    def forward(x):
        calls.append(x.shape[-1])
        return own(x)

    net.forward = forward
    return setup(net, watched={"calls": calls})


@case(MODEL)
def forward_of_a_convolution_put_on_the_instance(folder):
    net = Net()
    own, calls = net.stem.forward, []

    def forward(x):
        calls.append(x.shape[-1])
        return own(x) * (1 + 0.01 * len(calls))

    net.stem.forward = forward
    return setup(net, watched={"calls": calls})


@case(MODEL)
def modules_made_in_the_forward(folder):
    class Making(Net):
        def forward(self, x):
            pad = nn.ZeroPad2d(1)
            return self.head(F.conv2d(pad(self.features(x)), self.body[3].weight))

    return setup(Making())


@case(MODEL)
def state_dict_of_the_users_own(folder):
    class Saving(Module):
        saves = 0

        def state_dict(self, *args, **kwargs):
            self.saves += 1
            return super().state_dict(*args, **kwargs)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["saves"] = self.saves

    return setup(module=Saving())


@case(MODEL)
def parameters_of_the_users_own(folder):
    class Grouped(Module):
        asked = 0

        def named_parameters(self, *args, **kwargs):
            self.asked += 1
            return super().named_parameters(*args, **kwargs)

    return setup(module=Grouped())


@case(MODEL)
def registry_that_counts_instances(folder):
    made = []

    class Registered(Net):
        def __init__(self):
            super().__init__()
            made.append(self)

        def __setstate__(self, state):
            super().__setstate__(state)
            made.append(self)

    net = Registered()
    return setup(net, watched={"instances": made})


@case(MODEL)
def head_that_is_the_module_itself_no_net(folder):
    class Plain(Module):
        def __init__(self):
            super().__init__(nn.Identity())
            self.first, self.second = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
            self.head = Head()

        def forward(self, x):
            return self.head(self.second(self.first(x).relu()))

        def logits(self, batch):
            return self(batch[0])

    return setup(module=Plain())
