"""What follows a convolution elementwise, up to what the next layer sees: found by watching one forward, not by names.

A batch norm in evaluation mode, an activation, a scale: each maps the readings of a channel one by one, so that it can
be repeated on readings that were taken at the convolution's output. The tail ends before a residual addition, which
makes the next layer's input of more than these readings.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pan_callbacks.layers import dimensions
from pan_callbacks.measurement.calls import EntryCall, LayerCall, Listener
from pan_callbacks.measurement.hooks import Probes
from pan_callbacks.measurement.steps import Constant, Live, Node, Slot, Step, Track, copied, mapped, tensors_in
from pan_callbacks.measurement.tail import Tail
from pan_callbacks.measurement.trace import Site, runs_compiled
from pan_callbacks.measurement.undisturbed import random_states_kept

#: What may give the very map that it was given, and is no step if it does.
_SAME = {
    *("contiguous", "clone", "detach", "data", "to", "float", "type", "type_as", "cuda", "cpu", "requires_grad"),
    *("view", "view_as", "reshape", "reshape_as", "expand", "expand_as"),
}
#: What lays out a map anew for what comes next, which is then the reason why a tail ends.
_LAID_OUT = {"permute", "transpose", "movedim", "moveaxis", "reshape", "view", "flatten", "unsqueeze", "squeeze"}
#: What makes numbers of a tensor.
_NUMBERS = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "equal", "allclose"}
_RANDOM = re.compile(r"rand|normal(?!ize)|bernoulli|uniform|poisson|exponential|multinomial|dropout")


def tails(call: EntryCall, probes: Probes, sites: Collection[Site] | None = None) -> dict[Site, Tail]:
    """Run a module on its first image, and return what follows each of its convolutions elementwise.

    The forward is run once; twice where it cannot be watched, which is no error: the tails are then empty and say why.
    A step is one if it gives, for the readings of the map taken one by one, what it gave for the map. Numbers that a
    forward takes out of tensors (``.item()``) are taken for constants.

    Args:
        call: The module and its input; what the forward leaves behind in it is for the caller to put back.
        probes: Attached hooks.
        sites: Those that are wanted; None for all.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU6(), nn.Conv2d(3, 1, 3)).eval()
        >>> probes = Probes({"0": net[0], "3": net[3]}, {})
        >>> probes.attach()
        >>> found = tails(EntryCall("", net, (torch.rand(1, 1, 8, 8),), {}), probes)
        >>> found["0", 0].names, found["0", 0].ends
        (('batch_norm', 'hardtanh'), 'conv2d')
        >>> found["0", 0](torch.full((2, 3), 99.0)).shape
        torch.Size([2, 3])
        >>> found["3", 0].names, found["3", 0].ends
        ((), 'the end')
    """
    device = call.images.device
    with torch.no_grad(), random_states_kept([device.index] if device.type == "cuda" else []):
        found = _follow(call, probes)
    return found if sites is None else {site: found.get(site, Tail(ends="not called")) for site in sites}


def _follow(call: EntryCall, probes: Probes) -> dict[Site, Tail]:
    why = "compiled code cannot be watched"
    if probes.watched and not runs_compiled(call.module):
        try:
            follower = _Follower(call.module)
            with _eagerly(), follower:
                output = _run(call, probes, _numbered(follower.begin))
            return follower.tails(output)
        except Exception as error:  # a function that is compiled, perhaps
            why = f"the forward cannot be watched: {error}"
    seen: dict[Site, Tail] = {}
    with suppress(Exception):  # whoever measures the model will hear of it
        _run(call, probes, _numbered(lambda site, _: seen.update({site: Tail(ends=why)})))
    return seen


def _numbered(listener: Callable[[Site, LayerCall], None]) -> Listener:
    """Return a listener that hands on calls of layers with their sites."""
    calls: Counter[str] = Counter()

    def listen(name: str, layer_call: LayerCall) -> None:
        calls[name] += 1
        listener((name, calls[name] - 1), layer_call)

    return listen


def _run(call: EntryCall, probes: Probes, listener: Listener) -> Any:
    one = call.first(1).copied()
    probes.listen(listener)
    try:
        return getattr(one.module, one.method)(*one.args, **one.kwargs)
    finally:
        probes.listen(None)


@contextmanager
def _eagerly() -> Iterator[None]:
    """Run compiled functions as they are written; with a function mode on, what watches would be compiled with them."""
    known = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")  # from torch 2.6 on
    with torch.compiler.set_stance("force_eager") if known else nullcontext():
        yield


class _Call(NamedTuple):
    """A call that was seen: what it made, of what, and which values were followed no further for it."""

    name: str
    made: Tensor
    given: list[Tensor]
    stopped: list[Node]


class _Follower(TorchFunctionMode):
    """Sees all calls of a forward, and follows what is made of the maps of sites.

    It knows tensors by weak references, so that it keeps none for long that the forward lets go of.

    Args:
        module: The module that runs.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._tracks: dict[Site, Track] = {}
        self._known: MutableMapping[Tensor, Live] = WeakTensorKeyDictionary()
        self._laid_out: MutableMapping[Tensor, Node] = WeakTensorKeyDictionary()
        self._constant: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()  # what does not depend on the image
        self._weights = {id(x): name for name, x in weights_of(module).items()}
        self._constant.update(dict.fromkeys((*module.parameters(), *module.buffers()), True))
        self._numbers = False  # whether the forward looked into what does not depend on the image
        self._last: deque[_Call] = deque(maxlen=4)
        self._resting = False

    def begin(self, site: Site, call: LayerCall) -> None:
        """Follow the map of a site from here on."""
        self._resting = True
        axes, x = dimensions(call.conv), call.output
        changes = (axes == 1) + (call.given is not None and call.given.ndim == axes + 1)  # by LayerCall.of
        for _ in range(2 * changes):  # of the input and of the output, by turns
            if self._last and self._last[-1].name in ("getitem", "unsqueeze"):
                own = self._last.pop()
                x = own.given[0] if own.made is x else x
                for node in own.stopped:
                    node.stops.pop()
        if x in self._known:
            self._known[x].node.stops.append("a layer around it")
        self._tracks[site] = track = Track(x.shape, axes)
        self._known[x] = track.begin(x)
        self._last.clear()
        self._resting = False

    def tails(self, output: Any) -> dict[Site, Tail]:
        """Return what was found, after the forward.

        Args:
            output: What it returned.
        """
        for node in {self._known[x].node: True for x in tensors_in(output) if x in self._known}:
            node.stops.append("the end")
        found = {site: Tail(*track.path(), track.axes) for site, track in self._tracks.items()}
        return {site: replace(tail, lasting=self._lasts(tail)) for site, tail in found.items()}

    def _lasts(self, tail: Tail) -> bool:
        constants = (constant for step in tail.steps for constant in step.constants)
        return not self._numbers and all(constant.name is not None for constant in constants)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._resting or name == "__get__" and not isinstance(func(*args, **kwargs), Tensor):
            return func(*args, **kwargs)
        given = tensors_in((args, kwargs))
        self._numbers |= name in _NUMBERS and any(x in self._constant for x in given)
        used = self._used(given)  # before the call, which may write into it
        output = func(*args, **kwargs)
        made = given[:1] if name == "__setitem__" else tensors_in(output)
        if made:
            self._note(Step(_name(func), func, args, kwargs), given, used, made)
        return output

    def _used(self, given: list[Tensor]) -> list[Live]:
        """Return what is known of tensors, and forget it of those that hold it no more."""
        found: dict[Node, Live] = {}
        for x in given:
            live = self._known.get(x)
            if live is not None and live.is_in(x):
                found[live.node] = live
            elif live is not None:
                live.node.stops.append("written into by what could not be watched")
                del self._known[x]
        return list(found.values())

    def _note(self, call: Step, given: list[Tensor], used: list[Live], made: list[Tensor]) -> None:
        """Note what a call made of what."""
        for node in {self._laid_out.pop(x): True for x in given if x in self._laid_out}:
            node.stops[-1] += f", then {call.name}"
        constant = all(x in self._constant for x in given) and not _RANDOM.search(call.name)
        live = self._made(call, given, used, made) if used else None
        stopped: list[Node] = []
        if isinstance(live, str):
            stopped = [node for node, _ in used]
            for node in stopped:
                node.stops.append(live)
        for x in made:
            self._known.pop(x, None)
            self._constant.pop(x, None)
            if isinstance(live, Live):
                self._known[x] = live
            elif constant:
                self._constant[x] = True
            elif used and call.name in _LAID_OUT:
                self._laid_out[x] = used[0].node
        self._last.append(_Call(call.name, made[0], given, stopped))

    def _made(self, call: Step, given: list[Tensor], used: list[Live], made: list[Tensor]) -> Live | str:
        """Return what came of values of a site, or why they are followed no further."""
        track, x = used[0].node.track, made[0]
        others = any(one not in self._known and one not in self._constant for one in given)
        others |= any(live.node.track is not track for live in used)
        wide = "conv" in call.name or "pool" in call.name
        if others or wide or len(made) > 1 or x.shape != track.shape or call.kwargs.get("out") is not None:
            return call.name
        try:
            same = call.name in _SAME and given[0] in self._known and x.dtype == given[0].dtype
            if same and torch.equal(x, given[0]):
                return used[0]
            if call.name in _LAID_OUT:  # to the same shape by chance
                return call.name
            step = Step(call.name, call.function, *mapped((call.args, call.kwargs), self._frozen))
            live = track.grow(step, used, x)
        except Exception as error:  # a map on another device, perhaps
            return f"{call.name}: {error}"
        return f"{call.name}: {live}" if isinstance(live, str) else live

    def _frozen(self, leaf: Any) -> Any:
        """Return an argument as a step keeps it."""
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf in self._known:
            return Slot(self._known[leaf].node.number)
        return Constant(copied(leaf), self._weights.get(id(leaf)))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def traits_of(module: nn.Module) -> list[Any]:
    """Return what a forward may depend on beside its weights: classes, numbers and functions of all modules below."""
    return [(name, type(part), _plain(vars(part))) for name, part in module.named_modules()]


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that are numbers, texts, functions, or tuples and lists of such."""
    kinds = (int, float, complex, str, type(None), FunctionType, BuiltinFunctionType, torch.dtype)
    listed = {key: (*value,) for key, value in attributes.items() if type(value) in (tuple, list)}
    plain = {key: value for key, value in attributes.items() if isinstance(value, kinds)}
    return plain | {key: value for key, value in listed.items() if all(isinstance(one, kinds) for one in value)}


def _name(func: Callable[..., Any]) -> str:
    """Return the name of a function of torch, without what says that it writes in place, or is an operator."""
    name = getattr(func, "__name__", type(func).__name__)
    name = func.__self__.__name__ if name == "__get__" else name  # type: ignore[attr-defined]  # of an attribute
    return str(name).strip("_")
