"""A differentiable price on border behaviour, for a loss; :mod:`~pan_callbacks.suppression.price` has the price."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import PaddedLayer, check_fits, pad_modules, select, why_unpadded
from pan_callbacks.suppression.price import CallView

KINDS = ("both", "effect", "moments")


class PaddingBiasPenalty(nn.Module):
    """Mean price of the border behaviour that a model showed in its last forward.

    Hooks on the padded convolutions keep, of every forward with gradients, the border strips of a few images and a
    sample of the interior; the call of the penalty turns them into one number and forgets them.

    Args:
        model: Model to penalise; it is not made a submodule, so parameters and state dict stay its own.
        kind: ``"effect"``: what the layer's own padding adds on average, against neutral padding of the same input,
            which no position-dependent content can sway. ``"moments"``: the border's mean and standard deviation
            against the reference's, which also reaches neurons that inherit the border from earlier layers.
            ``"both"``, the default: their sum, which won on every task tried.
        layers: Glob or globs over layer names; None for all.
        neurons: Layer name to channels, to penalise these alone; ``report.neurons_by_layer()`` gives those of a report.
        max_images: Images of a batch whose border strips are looked at, the first ones.
        every_n_steps: Look at every n-th forward only, and count it n times: a gradient without bias at a fraction of
            the cost.

    Raises:
        ValueError: If an argument is out of range.
        PANError: If there is no padded layer, a glob matches nothing, or ``neurons`` do not fit the model.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
        >>> penalty = PaddingBiasPenalty(net)
        >>> images = torch.randn(8, 1, 16, 16)
        >>> loss = net(images).square().mean() + 0.1 * penalty()
        >>> loss.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str = "both",
        layers: str | Iterable[str] | None = None,
        neurons: Mapping[str, Sequence[int]] | None = None,
        max_images: int = 16,
        every_n_steps: int = 1,
    ) -> None:
        super().__init__()
        check_arguments(kind, max_images, every_n_steps)
        self.kind, self.max_images, self.every_n_steps = kind, max_images, every_n_steps
        pads = pad_modules(model)
        selected = select(model, layers)
        found = {name: conv for name, conv in selected.items() if why_unpadded(conv) is None or pads and _is_fed(conv)}
        if not found:
            why = f"layers={layers!r} selects none" if layers is not None else "this model has none"
            raise PANError(f"no padded convolution to penalise: {why}")
        self._all_layers = layers is None
        self._feeds = _Feeds()
        self._taps = {name: _Tap(name, kind, max_images, self._feeds) for name in found}
        self.step = 0
        self.set_neurons(model, neurons)
        self._handles = [conv.register_forward_hook(self._taps[n], with_kwargs=True) for n, conv in found.items()]
        self._handles += [pad.register_forward_hook(self._feeds) for pad in pads.values()]

    def set_neurons(self, model: nn.Module, neurons: Mapping[str, Sequence[int]] | None) -> None:
        """Penalises some neurons alone, or all of them again; forgets what was seen.

        Args:
            model: The model that the penalty was made for.
            neurons: Layer name to channels; None for all. Layers that ``layers`` left out stay left out.

        Raises:
            PANError: If they do not fit the model.
        """
        convs = select(model)
        for name, channels in (neurons or {}).items():
            check_fits(convs, name, channels)
            if self._all_layers and name not in self._taps:
                raise PANError(f"layer {name!r} has no padding, so its neurons cannot be penalised")
        for name, tap in self._taps.items():
            chosen = None if neurons is None else sorted(neurons.get(name, ()))
            tap.channels = None if chosen is None else torch.tensor(chosen, dtype=torch.long)
        self.collect(True)

    def collect(self, on: bool) -> None:
        """Turns looking on or off, and forgets what was seen.

        Args:
            on: Whether forwards from now on are looked at; those that this step is not due for are not.
        """
        on = on and self.step % self.every_n_steps == 0
        for tap in self._taps.values():
            tap.seen, tap.ran = [], False
            tap.collecting = on and (tap.channels is None or len(tap.channels) > 0)
        self._feeds.collecting, self._feeds.latest = on, None

    @property
    def expects(self) -> bool:
        """Whether a forward now would be looked at."""
        return any(tap.collecting for tap in self._taps.values())

    @property
    def collected(self) -> bool:
        """Whether anything was seen that :meth:`take` has not taken."""
        return any(tap.seen for tap in self._taps.values())

    def holds(self, layer: str) -> bool:
        """Whether something of this layer was seen that :meth:`take` has not taken."""
        return bool(self._taps[layer].seen)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are looked at."""
        return tuple(self._taps)

    @property
    def ran(self) -> bool:
        """Whether any penalised layer ran with gradients since looking began."""
        return any(tap.ran for tap in self._taps.values())

    def left_out(self) -> dict[str, str]:
        """Layer name to the reason why this step has no penalty for it, for the layers that were looked for."""
        taps = {name: tap for name, tap in self._taps.items() if tap.collecting and not tap.seen}
        return {name: tap.nothing or "padding unknown" if tap.ran else "did not run" for name, tap in taps.items()}

    def forward(self) -> Tensor:
        """The penalty of what was seen since the last call, a scalar with gradient; then looks for the next step.

        Returns:
            Sum over layers of the mean over neurons of the sum over sides of the price, float32; 0 in a step that is
            not due.

        Raises:
            PANError: If the step is due and no penalised layer ran with gradients.
        """
        if self.expects and not self.ran:
            raise PANError(
                "the penalty saw no forward with gradients. Call it after the model's forward, outside "
                "torch.no_grad(), and make it before the model first runs compiled, which ignores later hooks"
            )
        value = self.take()
        self.step += 1
        self.collect(True)
        return torch.zeros(()) if value is None else value

    def take(self, loss: Tensor | None = None) -> Tensor | None:
        """The penalty of what was seen, which is then forgotten; None if that is nothing.

        Args:
            loss: Take just the calls that this loss was computed from, and keep the others: where several networks run
                before several backward passes, each is penalised once, with its own.
        """
        nodes = None if loss is None else _graph(loss)
        prices = []
        for tap in self._taps.values():
            taken = [view for view in tap.seen if nodes is None or view.node is None or view.node in nodes]
            tap.seen = [view for view in tap.seen if not any(view is other for other in taken)]
            prices += [price / len(taken) for view in taken if (price := view.price(tap.channels)) is not None]
        return self.every_n_steps * torch.stack(prices).sum() if prices else None

    def detach(self) -> None:
        """Takes the hooks off the model, and forgets what was seen."""
        self.collect(False)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Feeds:
    """Forward hook of pad modules: knows which of them made a tensor."""

    def __init__(self) -> None:
        self.collecting = False
        self.latest: tuple[Tensor, nn.Module] | None = None

    def __call__(self, pad: nn.Module, args: tuple, output: Tensor) -> None:
        """Called by torch after the pad module's forward; changes nothing."""
        if self.collecting:
            self.latest = output, pad

    def pad_of(self, x: Tensor) -> nn.Module | None:
        """The pad module that a convolution's input comes from directly."""
        return self.latest[1] if self.latest is not None and self.latest[0] is x else None

    def __getstate__(self) -> dict:
        """A copy of the module gets a hook that keeps nothing."""
        return {"collecting": False, "latest": None}


class _Tap:
    """Forward hook of one layer: keeps a small view of each of its calls while collecting."""

    def __init__(self, name: str, kind: str, max_images: int, feeds: _Feeds) -> None:
        self.name, self.kind, self.max_images, self.feeds = name, kind, max_images, feeds
        self.collecting = self.ran = False
        self.nothing: str | None = None
        self.channels: Tensor | None = None
        self.seen: list[CallView] = []

    def __call__(self, conv: nn.Conv2d, args: tuple, kwargs: dict, output: Tensor) -> None:
        """Called by torch after the layer's forward; changes nothing."""
        if not self.collecting:
            return
        compiling = torch.compiler.is_compiling()
        if not torch.is_grad_enabled():
            if not compiling and _in_reentrant_checkpoint():
                raise PANError(
                    f"layer {self.name} runs under a reentrant activation checkpoint, where its penalty would get "
                    "lost; use checkpoint(..., use_reentrant=False), or leave the layer out with layers="
                )
        elif compiling or torch._C._current_graph_task_id() == -1:  # else a checkpoint runs it once more
            self.ran = True
            x = args[0] if args else kwargs["input"]
            batched = (x, output) if output.ndim == 4 else (x[None], output[None])
            view = self._view(conv, *batched, None if compiling else output.grad_fn)
            if view is not None:
                self.seen.append(view)

    def _view(self, conv: nn.Conv2d, x: Tensor, output: Tensor, node: Any) -> CallView | None:
        layer = PaddedLayer(conv, self.feeds.pad_of(x))
        self.nothing = why_unpadded(conv, layer.pad)
        view = None if self.nothing else CallView.of(layer, x, output, node, self.kind, self.max_images)
        if view is None and self.nothing is None:
            self.nothing = f"no interior to compare with in its map of {output.shape[-2]}×{output.shape[-1]}"
        return view

    def __getstate__(self) -> dict:
        """A copy of the module gets a hook that keeps nothing."""
        return {**self.__dict__, "collecting": False, "seen": []}


def _in_reentrant_checkpoint() -> bool:
    """Whether we are within the forward of an autograd function that runs a function: a reentrant checkpoint."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and {"ctx", "run_function"} <= set(code.co_varnames[: code.co_argcount]):
            return True
        frame = frame.f_back
    return False


def _graph(loss: Tensor) -> set:
    """Every node of the graph that a loss was computed by."""
    nodes, open_nodes = set(), [loss.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            open_nodes += [parent for parent, _ in node.next_functions]
    return nodes


def check_arguments(kind: str, max_images: int, every_n_steps: int) -> None:
    """Raises ValueError for an argument out of range, naming it."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    for name, value in (("max_images", max_images), ("every_n_steps", every_n_steps)):
        if value < 1 or value != int(value):
            raise ValueError(f"{name}={value!r}: a whole number from 1 on is needed")


def _is_fed(conv: nn.Conv2d) -> bool:
    """Whether a convolution may be one that a pad module feeds: it has a window, and adds nothing itself."""
    return max(conv.kernel_size) > 1 and (conv.padding == "valid" or not any(conv._reversed_padding_repeated_twice))
