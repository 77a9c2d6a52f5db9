"""A differentiable price on border behaviour, for a loss; :mod:`~pan_callbacks.suppression.price` has the price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import check_fits, pad_modules, select, why_unpadded
from pan_callbacks.measurement.calls import LayerCall
from pan_callbacks.measurement.pads import PadTracker
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
        found = _may_be_padded(model, layers)
        if not found:
            why = f"layers={layers!r} selects none" if layers is not None else "this model has none"
            raise PANError(f"no padded convolution to penalise: {why}")
        self._all_layers = layers is None
        self._pads = PadTracker()
        self._taps = {name: _Tap(name, kind, max_images, self._pads) for name in found}
        self._step = 0
        self.set_neurons(model, neurons)
        self._handles = [conv.register_forward_hook(self._taps[n], with_kwargs=True) for n, conv in found.items()]
        self._handles += self._pads.attach(model)

    def set_neurons(self, model: nn.Module, neurons: Mapping[str, Sequence[int]] | None) -> None:
        """Penalise some neurons alone, or all of them again; the step begins anew.

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
        self.begin(self._step)

    def begin(self, step: int) -> None:
        """Begin a step: forget what was seen, and look at the forwards from now on if the step is due.

        Args:
            step: Number of the step; every ``every_n_steps``-th from 0 on is due.
        """
        self.rest()
        self._step = step
        if step % self.every_n_steps == 0:
            for tap in self._taps.values():
                tap.looking = tap.channels is None or len(tap.channels) > 0
            self._pads.watch()

    def rest(self) -> None:
        """Forget what was seen, and look at nothing until the next :meth:`begin`."""
        for tap in self._taps.values():
            tap.rest()
        self._pads.watch(False)

    @property
    def idle(self) -> bool:
        """Whether no forward is looked at now: the step is not due, or there is nothing to penalise."""
        return not any(tap.looking for tap in self._taps.values())

    @property
    def collected(self) -> bool:
        """Whether anything was seen that :meth:`take` has not taken."""
        return any(tap.seen for tap in self._taps.values())

    def holds(self, layer: str) -> bool:
        """Return whether something of this layer was seen that :meth:`take` has not taken."""
        return bool(self._taps[layer].seen)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are looked at."""
        return tuple(self._taps)

    @property
    def ran(self) -> bool:
        """Whether any penalised layer ran with gradients in this step."""
        return any(tap.ran for tap in self._taps.values())

    def left_out(self) -> dict[str, str]:
        """Return layer name to the reason why this step has no penalty for it, for the layers that were looked for."""
        taps = {name: tap for name, tap in self._taps.items() if tap.looking and not tap.seen}
        return {name: tap.nothing or "padding unknown" if tap.ran else "did not run" for name, tap in taps.items()}

    def forward(self) -> Tensor:
        """Return the penalty of what was seen since the last call, and begin the next step.

        Returns:
            Sum over layers of the mean over neurons of the sum over sides of the price, a float32 scalar with
            gradient; 0 in a step that is not due.

        Raises:
            PANError: If the step is due and no penalised layer ran with gradients.
        """
        if not self.idle and not self.ran:
            raise PANError(
                "the penalty saw no forward with gradients. Call it after the model's forward, outside "
                "torch.no_grad(), and make it before the model first runs compiled, which ignores later hooks"
            )
        value = self.take()
        self.begin(self._step + 1)
        return torch.zeros(()) if value is None else value

    def take(self, loss: Tensor | None = None) -> Tensor | None:
        """Return the penalty of what was seen, which is then forgotten; None if that is nothing.

        Args:
            loss: Take just the calls that this loss was computed from, and keep the others: if several networks run
                before several backward passes, each is penalised once, with its own.
        """
        nodes = None if loss is None else _graph(loss)
        prices: list[Tensor] = []
        for tap in self._taps.values():
            taken = [view for view in tap.seen if nodes is None or view.node is None or view.node in nodes]
            tap.seen = [view for view in tap.seen if not any(view is other for other in taken)]
            prices += [price / len(taken) for view in taken if (price := view.price(tap.channels)) is not None]
        return self.every_n_steps * torch.stack(prices).sum() if prices else None

    def check_checkpoint(self, loss: Tensor) -> None:
        """Raise PANError if the layers that are looked for ran inside a reentrant checkpoint that made this loss.

        Such a checkpoint runs its layers without gradients, inside an autograd function that is a node of the graph.
        """
        blind = next((name for name, tap in self._taps.items() if tap.ran_blind and not tap.ran), None)
        if blind is not None and any("Checkpoint" in type(node).__name__ for node in _graph(loss)):
            raise _reentrant(blind)

    def detach(self) -> None:
        """Take the hooks off the model, and forget what was seen."""
        self.rest()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Tap:
    """Forward hook of one layer: keeps a small view of each of its calls while it looks.

    Attributes:
        looking: Whether it looks at what runs now.
        seen: Calls that nobody has taken yet.
        ran: Whether the layer ran with gradients in this step.
        ran_blind: Whether it ran without.
        nothing: Why the last call left nothing to see.
        channels: The neurons to penalise, None for all.
    """

    def __init__(self, name: str, kind: str, max_images: int, pads: PadTracker) -> None:
        self.name, self.kind, self.max_images, self.pads = name, kind, max_images, pads
        self.channels: Tensor | None = None
        self.nothing: str | None = None
        self._ever_ran = False
        self.rest()

    def rest(self) -> None:
        """Look at nothing, and forget what was seen."""
        self.looking = self.ran = self.ran_blind = False
        self.seen: list[CallView] = []

    def __call__(self, conv: nn.Conv2d, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Is called by torch after the layer's forward; changes nothing."""
        if not self.looking:
            return
        compiling = torch.compiler.is_compiling()
        if not torch.is_grad_enabled():
            self.ran_blind = True
        elif not compiling and torch._C._current_graph_task_id() != -1:
            # a checkpoint runs it once more for a backward pass; without a first time the penalty got lost
            if not self._ever_ran:
                raise _reentrant(self.name)
        else:
            self.ran = self._ever_ran = True
            view = self._view(LayerCall.of(conv, args, kwargs, output), None if compiling else output.grad_fn)
            if view is not None:
                self.seen.append(view)

    def _view(self, call: LayerCall, node: Any) -> CallView | None:
        pad = self.pads.pad_of(call)
        self.nothing = why_unpadded(call.conv, pad)
        view = None if self.nothing else CallView.of(call, pad, node, self.kind, self.max_images)
        if view is None and self.nothing is None:
            self.nothing = "no interior to compare with in its map of {}×{}".format(*call.output.shape[-2:])
        return view

    def __getstate__(self) -> dict[str, Any]:
        """Give a copy of the module a hook that keeps nothing."""
        return {**self.__dict__, "looking": False, "seen": []}


def _reentrant(layer: str) -> PANError:
    return PANError(
        f"layer {layer} runs under a reentrant activation checkpoint, where its penalty would get "
        "lost; use checkpoint(..., use_reentrant=False), or leave the layer out with layers="
    )


def _may_be_padded(model: nn.Module, layers: str | Iterable[str] | None) -> dict[str, nn.Conv2d]:
    """Return the convolutions that are padded layers, or may be fed by a pad module, which shows when they run."""
    pads, found = pad_modules(model), select(model, layers)
    return {name: conv for name, conv in found.items() if why_unpadded(conv) is None or pads and _is_fed(conv)}


def _graph(loss: Tensor) -> set[Any]:
    """Every node of the graph that a loss was computed by."""
    nodes: set[Any] = set()
    open_nodes: list[Any] = [loss.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            open_nodes += [parent for parent, _ in node.next_functions]
    return nodes


def check_arguments(kind: str, max_images: int, every_n_steps: int) -> None:
    """Raise ValueError for an argument out of range, naming it."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    for name, value in (("max_images", max_images), ("every_n_steps", every_n_steps)):
        if value < 1 or value != int(value):
            raise ValueError(f"{name}={value!r}: a whole number from 1 on is needed")


def _is_fed(conv: nn.Conv2d) -> bool:
    """Whether a convolution may be one that a pad module feeds: it has a window, and adds nothing itself."""
    return max(conv.kernel_size) > 1 and (conv.padding == "valid" or not any(conv._reversed_padding_repeated_twice))
