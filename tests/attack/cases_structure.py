"""How models are put together, called, wrapped and converted, and what they return."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.attack.case import MASK, PENALTY, WAITING, WATCH, Case, add, case
from tests.attack.pieces import CLASSES, SIZE, WIDTH, Head, Module, Net, convs, data, loader, pictures, setup
from tests.attack.promises import Promise

MODEL = Promise.MODEL


# --- weights that are computed ---------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    def forward(self, weight):
        return (weight + weight.flip(-1)) / 2


class Counted(nn.Module):
    """A parametrization that counts how often the weight is asked for."""

    def __init__(self):
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, weight):
        self.asked += 1
        return weight * (1 + 1e-3 * self.asked)


class Noisy(nn.Module):
    def forward(self, weight):
        return weight + 0.01 * torch.randn_like(weight)


def _old_weight_norm(conv):
    return nn.utils.weight_norm(conv)


def _old_spectral_norm(conv):
    return nn.utils.spectral_norm(conv)


def _pruned(conv):
    prune.random_unstructured(conv, "weight", 0.3)
    return conv


def _parametrized(kind):
    def change(conv):
        parametrize.register_parametrization(conv, "weight", kind())
        return conv

    return change


WEIGHTS = {
    "weight norm of old": _old_weight_norm,
    "weight norm as a parametrization": parametrizations.weight_norm,
    "spectral norm of old": _old_spectral_norm,
    "spectral norm as a parametrization": parametrizations.spectral_norm,
    "orthogonal weights": parametrizations.orthogonal,
    "pruned weights": _pruned,
    "symmetric weights": _parametrized(Symmetric),
    "weights that count": _parametrized(Counted),
    "weights with noise": _parametrized(Noisy),
}
for _name, _change in WEIGHTS.items():

    def _build(folder, change=_change):
        net = Net()
        net.stem, net.body[3] = change(net.stem), change(net.body[3])
        return setup(net)

    add(Case(_name, MODEL, _build))


@case(MODEL)
def weights_pruned_further_in_every_epoch(folder):
    class Pruning(Module):
        def on_train_epoch_end(self):
            prune.l1_unstructured(self.net.body[3], "weight", 0.2)

    return setup(module=Pruning())


@case(MODEL)
def weights_standardised_in_a_forward_of_the_users_own(folder):
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / weight.std(), self.bias, self.stride, self.padding)

    net = Net()
    net.body[3] = Standardised(WIDTH, WIDTH, 3, padding=1)
    return setup(net)


@case(MODEL)
def weights_predicted_from_the_images(folder):
    class Dynamic(Net):
        def __init__(self):
            super().__init__()
            self.make = nn.Linear(3, WIDTH * WIDTH)

        def forward(self, x):
            kernels = self.make(x.mean((0, 2, 3))).view(WIDTH, WIDTH, 1, 1)
            return self.head(F.conv2d(self.features(x), kernels))

    return setup(Dynamic())


# --- quantisation ----------------------------------------------------------------------------------------------------


@case(MODEL)
def quantisation_aware_training(folder):
    class Quantised(Net):
        def __init__(self):
            super().__init__()
            self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()

        def forward(self, x):
            return self.head(self.dequant(self.features(self.quant(x))))

    net = Quantised()
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    torch.ao.quantization.prepare_qat(net.train(), inplace=True)
    return setup(net)


@case(MODEL)
def observers_of_post_training_quantisation(folder):
    net = Net()
    net.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    torch.ao.quantization.prepare(net.eval(), inplace=True)
    return setup(net.train())


def observing(name: str, make: Any) -> None:
    def build(folder):
        net = Net()
        net.body.insert(3, make())
        return setup(net)

    add(Case(name, MODEL, build))


observing("observer of extremes", torch.ao.quantization.MinMaxObserver)
observing("observer of a moving average", torch.ao.quantization.MovingAverageMinMaxObserver)
observing("observer of a histogram", torch.ao.quantization.HistogramObserver)
observing("fake quantisation", torch.ao.quantization.FakeQuantize)
observing(
    "fake quantisation that learns",
    lambda: torch.ao.quantization.FakeQuantize.with_args(
        observer=torch.ao.quantization.MovingAveragePerChannelMinMaxObserver, ch_axis=1, quant_min=0, quant_max=255
    )(),
)


# --- sharing and nesting ---------------------------------------------------------------------------------------------


@case(MODEL)
def one_convolution_called_twice(folder):
    class Twice(Net):
        def forward(self, x):
            return self.head(self.body[3](self.body(self.stem(self.stem(x)))))

    return setup(Twice())


@case(MODEL)
def two_convolutions_with_one_weight(folder):
    net = Net()
    net.body.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
    net.body[5].weight = net.body[3].weight
    return setup(net)


@case(MODEL)
def one_module_in_two_places(folder):
    class Shared(Net):
        def __init__(self):
            super().__init__()
            self.alias, self.again = self.stem, nn.ModuleDict({"stem": self.stem})

        def forward(self, x):
            return self.head(self.body(self.again["stem"](self.alias(x))))

    return setup(Shared())


@case(MODEL)
def siamese_network_called_twice_a_step(folder):
    class Siamese(Module):
        def loss(self, batch):
            one, other = self.net(batch[0]), self.net(batch[0].flip(-1))
            return F.cross_entropy(one, batch[1]) + F.mse_loss(one, other)

    return setup(module=Siamese())


@case(MODEL)
def network_called_at_three_sizes(folder):
    class Pyramid(Module):
        def logits(self, batch):
            return sum(self.net(F.interpolate(batch[0], size)) for size in (SIZE, 12, 20))

    return setup(module=Pyramid())


@case(MODEL)
def recursive_network(folder):
    class Recursive(Net):
        def forward(self, x, depth=2):
            if depth:
                return self(x + self.stem(x), depth - 1)
            return self.head(self.body(x))

    return setup(Recursive())


@case(MODEL)
def two_networks_of_which_one_is_frozen(folder):
    class Both(Module):
        def __init__(self):
            super().__init__()
            self.other = Net().requires_grad_(False).eval()

        def logits(self, batch):
            with torch.no_grad():
                target = self.other(batch[0])
            return self.net(batch[0]) + target

    return setup(module=Both())


@case(MODEL)
def tensor_subclass_as_images(folder):
    class Image(torch.Tensor):
        pass

    class Wrapping(Module):
        def logits(self, batch):
            return self.net(batch[0].as_subclass(Image)).as_subclass(torch.Tensor)

    return setup(module=Wrapping())


@case(MODEL)
def scripted_head(folder):
    net = Net()
    net.head = torch.jit.script(net.head)
    return setup(net)


@case(MODEL)
def scripted_block_of_convolutions(folder):
    net = Net()
    net.body = torch.jit.script(net.body)
    return setup(net)


@case(MODEL)
def scripted_network(folder):
    return setup(torch.jit.script(nn.Sequential(convs(), Head())))


@case(MODEL)
def traced_block_of_convolutions(folder):
    net = Net()
    net.body = torch.jit.trace(net.body.eval(), pictures(2), check_trace=False).train()
    return setup(net)


@case(MODEL)
def graph_module_of_fx(folder):
    return setup(torch.fx.symbolic_trace(nn.Sequential(convs(), Head())))


@case(MODEL)
def checkpointed_without_reentry(folder):
    class Checkpointed(Net):
        def forward(self, x):
            return self.head(torch.utils.checkpoint.checkpoint(self.features, x, use_reentrant=False))

    return setup(Checkpointed())


@case(MODEL)
def checkpointed_with_reentry(folder):
    class Checkpointed(Net):
        def forward(self, x):
            x = x.requires_grad_() if self.training else x
            return self.head(torch.utils.checkpoint.checkpoint(self.features, x, use_reentrant=True))

    return setup(Checkpointed())


@case(MODEL)
def checkpointed_with_dropout_in_segments(folder):
    class Checkpointed(Net):
        def __init__(self):
            super().__init__()
            self.body.insert(3, nn.Dropout(0.3))

        def forward(self, x):
            out = torch.utils.checkpoint.checkpoint_sequential(self.body, 2, self.stem(x), use_reentrant=False)
            return self.head(out)

    return setup(Checkpointed())


@case(MODEL)
def checkpoint_wrapper_of_torch(folder):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    net = Net()
    net.body = checkpoint_wrapper(net.body)
    return setup(net)


def compiled(name: str, compile_: Any) -> None:
    def build(folder):
        torch._dynamo.reset()
        return compile_()

    add(Case(name, MODEL, build, arms=(WATCH, WAITING, PENALTY, MASK), heavy=True))


def _in_configure_model():
    class Compiling(Module):
        def configure_model(self):
            self.net = torch.compile(self.net, backend="eager")

    return setup(module=Compiling())


def _compiled_and_run():
    net = torch.compile(Net(), backend="eager")
    with torch.no_grad():
        net.eval()(pictures(4))
    return setup(net.train())


def _body_alone():
    net = Net()
    net.body.compile(backend="eager")
    return setup(net)


compiled("compiled before fit", lambda: setup(torch.compile(Net(), backend="eager")))
compiled("compiled in configure_model", _in_configure_model)
compiled("compiled and run before fit", _compiled_and_run)
compiled("compiled in place, the body alone", _body_alone)


# --- what comes out --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Output:
    maps: torch.Tensor
    name: str = "maps"


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dict with attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Pair = namedtuple("Pair", ["maps", "rest"])


class Answer:
    def __init__(self, maps):
        self.maps = maps


def returning(name: str, pack: Any, unpack: Any) -> None:
    """A body with convolutions directly in it that returns its map packed somehow."""

    def build(folder):
        class Body(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

            def forward(self, x):
                return pack(self.second(F.relu(self.first(x))))

        class Unpacking(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.head = Body(), Head()

            def forward(self, x):
                return self.head(unpack(self.body(x)))

        return setup(Unpacking())

    add(Case(f"returns {name}", MODEL, build))


returning("a dict", lambda x: {"out": x, "shape": x.shape}, lambda out: out["out"])
returning("a list of maps", lambda x: [x, F.avg_pool2d(x, 2)], lambda out: out[0])
returning("a tuple with text", lambda x: (x, "text", None), lambda out: out[0])
returning("a namedtuple", lambda x: Pair(x, x.mean()), lambda out: out.maps)
returning("a dataclass", Output, lambda out: out.maps)
returning("a ModelOutput", lambda x: ModelOutput(maps=x, hidden=[x]), lambda out: out.maps)
returning("an object", Answer, lambda out: out.maps)
returning("a generator", lambda x: iter([x]), next)
returning("complex numbers", lambda x: torch.complex(x, x), lambda out: out.abs())
returning("spectra", torch.fft.rfft2, lambda out: out.abs())
returning("numbers of double precision", lambda x: x.double(), lambda out: out.float())
returning("a function", lambda x: lambda: x, lambda out: out())
returning("its map in a nested dict", lambda x: {"a": {"b": [x]}}, lambda out: out["a"]["b"][0])
returning("a sparse map", lambda x: x.to_sparse(), lambda out: out.to_dense())


# --- how it is called ------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """Convolutions that the module's forward never runs as one."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)])
        self.head = Head()

    def forward(self, x):
        for block in self.blocks:
            x = F.relu(block(x))
        return self.head(x)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleDict(
            {"one": nn.Conv2d(3, WIDTH, 3, padding=1), "two": nn.Conv2d(WIDTH, WIDTH, 3, padding=1)}
        )
        self.head = Head()

    def forward(self, x):
        return self.head(self.blocks["two"](F.relu(self.blocks["one"](x))))


class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = convs(), Head()

    def forward(self, x):
        return self.head(self.layers[2:](self.layers[:2](x)))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.conv = nn.Parameter(0.1 * torch.randn(WIDTH, 3, 3, 3)), nn.Conv2d(WIDTH, WIDTH, 3)
        self.head = Head()

    def forward(self, x):
        return self.head(self.conv(F.pad(F.conv2d(x, self.weight, padding=1).relu(), (1, 1, 1, 1))))


class Encoding(nn.Module):
    """Has no forward of its own; the step calls ``encode``."""

    def __init__(self):
        super().__init__()
        self.body, self.head = convs(), Head()

    def encode(self, x):
        return self.head(self.body(x))


def called(name: str, make: Any, call: Any) -> None:
    def build(folder):
        class Calling(Module):
            def logits(self, batch):
                return call(self.net, batch[0])

        return setup(module=Calling(make()))

    add(Case(f"called {name}", MODEL, build))


class Vision(nn.Module):
    """As Hugging Face's vision models: keywords only, a ModelOutput."""

    def __init__(self):
        super().__init__()
        self.embedder, self.encoder, self.classifier = nn.Conv2d(3, 3, 3, padding=1), convs(), Head()

    def forward(self, *, pixel_values, labels=None, return_dict=True):
        hidden = self.encoder(self.embedder(pixel_values))
        return ModelOutput(logits=self.classifier(hidden), last_hidden_state=hidden)


class Many(Net):
    def forward(self, first, second=None, *, scale=1.0, mask=None):
        x = first if second is None else first + second
        return super().forward(x if mask is None else x * mask) * scale


class OfDict(Net):
    def forward(self, batch):
        return super().forward(batch["image"])


class OfList(Net):
    def forward(self, images):
        return super().forward(torch.stack(images))


class OfPair(Net):
    def forward(self, pair):
        return super().forward(pair[0] + pair[1])


called("through a ModuleList", Blocks, lambda net, x: net(x))
called("through a ModuleDict", Named, lambda net, x: net(x))
called("in slices", Sliced, lambda net, x: net(x))
called("with functions for layers", Functional, lambda net, x: net(x))
called("by another method", Encoding, lambda net, x: net.encode(x))
called("by its forward", Net, lambda net, x: net.forward(x))
called("layer by layer from the step", Net, lambda net, x: net.head(net.body(net.stem(x))))
called("by keyword", Net, lambda net, x: net(x=x))
called("by pixel_values", Vision, lambda net, x: net(pixel_values=x).logits)
called("by pixel_values and labels", Vision, lambda net, x: net(pixel_values=x, labels=[1, 2]).logits)
called("with two images and keywords", Many, lambda net, x: net(x, x.flip(-1), scale=0.5))
called("with a mask of the image's size", Many, lambda net, x: net(x, mask=(x[:, :1] > 0).float()))
called("with a dict", OfDict, lambda net, x: net({"image": x, "name": "text"}))
called("with a list of images", OfList, lambda net, x: net(list(x)))
called("with a pair", OfPair, lambda net, x: net((x, x.flip(-1))))
called("twice, the second time on noise", Net, lambda net, x: net(x) + net(torch.randn_like(x)))
called("under functional_call", Net, lambda net, x: torch.func.functional_call(net, dict(net.named_parameters()), (x,)))
called("image by image", lambda: _Unnormed(), lambda net, x: torch.cat([net(image[None]) for image in x]))
called(
    "without a batch dimension", lambda: _Unnormed(), lambda net, x: torch.stack([_single(net, image) for image in x])
)
called("under vmap", lambda: _Unnormed(), lambda net, x: torch.vmap(lambda image: net(image[None])[0])(x))
called("under autocast of the step's own", Net, lambda net, x: _cast(net, x))


class _Unnormed(nn.Module):
    """Without batch statistics."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, WIDTH, 3, padding=1),
            nn.Conv2d(WIDTH, 3, 3, padding=1),
            Head(3),
        )

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()))


def _single(net, image):
    return net.head[2](net.second(net.first(image).relu()).mean((1, 2)))


def _cast(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        return net(x).float()


# --- kinds of layers and numbers -------------------------------------------------------------------------------------


def layered(name: str, body: Any, inputs: int = 3, cast: Any = None, **options: Any) -> None:
    """A network of a stem and ``body``, which gives as many channels as the head takes."""

    def build(folder):
        net = Net(inputs)
        net.body = body()
        net = net if cast is None else cast(net)
        train, val = (loader(data(count, channels=inputs, seed=seed)) for count, seed in ((12, 1), (8, 0)))
        return setup(net, train=train, val=val, **options)

    add(Case(name, MODEL, build))


def _conv(**kwargs: Any) -> nn.Sequential:
    arguments = {"in_channels": 3, "out_channels": WIDTH, "kernel_size": 3, "padding": 1} | kwargs
    return nn.Sequential(nn.Conv2d(**arguments), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))


layered("circular padding", lambda: _conv(padding_mode="circular"))
layered("reflected padding", lambda: _conv(padding_mode="reflect"))
layered("replicated padding", lambda: _conv(padding_mode="replicate"))
layered("padding of same", lambda: _conv(padding="same"))
layered("padding of valid", lambda: _conv(padding="valid"))
layered("more padding than the kernel needs", lambda: _conv(padding=3))
layered("padding on one axis", lambda: _conv(padding=(0, 1)))
layered("stride and dilation", lambda: _conv(stride=2, dilation=2, padding=2))
layered("even kernels", lambda: _conv(kernel_size=4))
layered("a kernel larger than the map", lambda: nn.Sequential(nn.AvgPool2d(4), *_conv(kernel_size=9, padding=4)))
layered(
    "depthwise convolutions", lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, WIDTH, 1))
)
layered("a pad module", lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, WIDTH, 3)))
layered("a pad module of ones", lambda: nn.Sequential(nn.ConstantPad2d(1, 1.0), nn.Conv2d(3, WIDTH, 3)))
layered(
    "transposed convolutions",
    lambda: nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)),
)
layered("pixel shuffle", lambda: nn.Sequential(nn.Conv2d(3, 4 * WIDTH, 3, padding=1), nn.PixelShuffle(2)))
layered(
    "lazy convolutions, run once",
    lambda: nn.Sequential(nn.LazyConv2d(WIDTH, 3, padding=1), nn.ReLU()),
    act=lambda run: _run_once(run),
)
layered(
    "lazy convolutions, never run",
    lambda: nn.Sequential(nn.LazyConv2d(WIDTH, 3, padding=1), nn.ReLU()),
    act=lambda run: run.fit(),
)
layered(
    "attention between convolutions",
    lambda: nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), _Attention(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
)
layered(
    "squeeze and excitation",
    lambda: nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), _Gate(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
)
layered("one grey channel", lambda: _conv(), inputs=1)
layered("nine spectral channels", lambda: _conv(), inputs=9)
layered("channels last", lambda: _conv(), cast=lambda net: net.to(memory_format=torch.channels_last))
layered("a frozen stem", lambda: _conv(), cast=lambda net: (net.stem.requires_grad_(False), net)[1])
layered("no padded convolution at all", lambda: nn.Conv2d(3, WIDTH, 1), cast=lambda net: _unpad(net))


def _unpad(net):
    net.stem = nn.Conv2d(3, 3, 3)
    return net


def _run_once(run):
    with torch.no_grad():
        run.module.net.eval()(pictures(2))
    run.module.train()
    run.fit()


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        rows = x.flatten(2).transpose(1, 2)
        return x + self.attention(rows, rows, rows)[0].transpose(1, 2).view_as(x)


class _Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]


def dimensional(name: str, conv: Any, pool: Any, shape: tuple[int, ...]) -> None:
    def build(folder):
        generator = torch.Generator().manual_seed(0)
        net = nn.Sequential(
            conv(1, WIDTH, 3, padding=1),
            nn.ReLU(),
            conv(WIDTH, WIDTH, 3, padding=1),
            pool(1),
            nn.Flatten(),
            nn.Linear(WIDTH, CLASSES),
        )

        def batches(count):
            inputs = torch.randn(count, 1, *shape, generator=generator)
            return loader(torch.utils.data.TensorDataset(inputs, torch.arange(count) % CLASSES))

        return setup(net, train=batches(12), val=batches(8))

    add(Case(name, MODEL, build))


dimensional("convolutions of sequences", nn.Conv1d, nn.AdaptiveAvgPool1d, (24,))
dimensional("convolutions of volumes", nn.Conv3d, nn.AdaptiveAvgPool3d, (8, 8, 8))


# --- what changes during training ------------------------------------------------------------------------------------


def changing(name: str, change: Any, hook: str = "on_train_epoch_end") -> None:
    """A module that changes its network between two epochs."""

    def build(folder):
        class Changing(Module):
            pass

        def between(self):
            if self.current_epoch == 0:
                change(self)

        setattr(Changing, hook, between)
        return setup(module=Changing(), options={"max_epochs": 3})

    add(Case(name, MODEL, build))


def _replaced(module):
    module.net.body[3] = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    module.trainer.optimizers[0].add_param_group({"params": list(module.net.body[3].parameters())})


def _grown(module):
    module.net.body.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1))


def _grown_wide(module):
    old = module.net.body[3]
    module.net.body[3] = nn.Conv2d(WIDTH, WIDTH + 2, 3, padding=1)
    module.net.head = Head(WIDTH + 2)
    del old


def _new_head(module):
    module.net.head = Head()


def _shrunk(module):
    del module.net.body[3:]


changing("convolution replaced during training", _replaced)
changing("convolution added during training", _grown)
changing("convolution widened during training", _grown_wide)
changing("head replaced during training", _new_head)
changing("convolution removed during training", _shrunk)
changing("backbone thawed during training", lambda module: module.net.requires_grad_(True))
changing("layer frozen during training", lambda module: module.net.body[3].requires_grad_(False))
changing("weights replaced by a copy during training", lambda module: _copied(module))
changing("whole network replaced during training", lambda module: setattr(module, "net", Net()))
changing("padding mode changed during training", lambda module: setattr(module.net.stem, "padding_mode", "reflect"))
changing("cast to double during training", lambda module: module.net.stem.to(torch.float32))


def _copied(module):
    module.net.load_state_dict({name: value.clone() for name, value in module.net.state_dict().items()}, assign=False)


# --- LightningModules of every kind ----------------------------------------------------------------------------------


@case(MODEL)
def example_input_array(folder):
    class Exampled(Module):
        def __init__(self):
            super().__init__()
            self.example_input_array = pictures(2)

    return setup(module=Exampled(), options={"enable_model_summary": True})


@case(MODEL)
def saved_hyperparameters(folder):
    class Saved(Module):
        def __init__(self, width=3, rate=0.1):
            super().__init__()
            self.save_hyperparameters()

    return setup(module=Saved())


@case(MODEL)
def network_made_in_configure_model(folder):
    class Late(Module):
        def __init__(self):
            super().__init__(nn.Identity())
            self.net = None

        def configure_model(self):
            if self.net is None:
                self.net = Net()

    return setup(module=Late())


@case(MODEL)
def network_made_in_setup(folder):
    class Late(Module):
        def __init__(self):
            super().__init__(nn.Identity())

        def setup(self, stage):
            self.net = Net()

    return setup(module=Late())


@case(MODEL)
def hooks_of_the_module_all_overridden(folder):
    class Hooked(Module):
        def __init__(self):
            super().__init__()
            self.order = []

    for hook in [
        "on_fit_start",
        "on_train_start",
        "on_train_end",
        "on_fit_end",
        "on_train_epoch_start",
        "on_train_epoch_end",
        "on_validation_start",
        "on_validation_epoch_start",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_before_zero_grad",
        "on_sanity_check_start",
    ]:

        def note(self, *args, hook=hook):
            self.order.append(hook)

        setattr(Hooked, hook, note)
    return setup(module=Hooked())


@case(MODEL)
def step_of_the_users_base_class_and_super(folder):
    class Child(Module):
        def training_step(self, batch, batch_idx):
            return {"loss": super().training_step(batch, batch_idx), "extra": torch.ones(2)}

    return setup(module=Child())


@case(MODEL)
def step_that_skips_every_other_batch(folder):
    class Skipping(Module):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 2 else super().training_step(batch, batch_idx)

    return setup(module=Skipping())


@case(MODEL)
def step_put_on_the_instance(folder):
    module = Module()
    own, calls = module.training_step, []

    def step(batch, batch_idx):
        calls.append(batch_idx)
        return own(batch, batch_idx)

    module.training_step = step
    return setup(module=module, watched={"calls": calls})


@case(MODEL)
def validation_that_calls_no_model(folder):
    class Idle(Module):
        def validation_step(self, batch, batch_idx):
            self.log("mean", batch[0].mean())

    return setup(module=Idle())


@case(MODEL)
def validation_of_a_part_of_the_model(folder):
    class Part(Module):
        def validation_step(self, batch, batch_idx):
            self.log("mean", self.net.stem(batch[0]).mean())

    return setup(module=Part())


@case(MODEL)
def validation_on_changed_images(folder):
    class Changed(Module):
        def validation_step(self, batch, batch_idx):
            return super().validation_step((batch[0] / 2 - 1, batch[1]), batch_idx)

    return setup(module=Changed())


@case(MODEL)
def validation_averaged_over_flips(folder):
    class Flipped(Module):
        def logits(self, batch):
            logits = self.net(batch[0])
            return logits if self.training else (logits + self.net(batch[0].flip(-1))) / 2

    return setup(module=Flipped())


@case(MODEL)
def validation_in_windows(folder):
    class Windows(Module):
        def logits(self, batch):
            if self.training:
                return super().logits(batch)
            halves = batch[0].split(SIZE // 2 + 2, -1)
            return self.net(halves[0]) + self.net(halves[1])

    return setup(module=Windows())
