"""A price on border behaviour, for a loss; :mod:`~pan_callbacks.suppression.yardstick` computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from pan_callbacks.errors import PANError
from pan_callbacks.layers import Convolution, check_fits, pad_modules, select, why_unpadded
from pan_callbacks.measurement.pads import PadTracker
from pan_callbacks.suppression.cap import Cap
from pan_callbacks.suppression.graph import nodes_of
from pan_callbacks.suppression.pad_calls import PadCalls
from pan_callbacks.suppression.presence import Presence
from pan_callbacks.suppression.taps import Tap, may_be_padded, not_penalised, reentrant, unpadded


class PaddingBiasPenalty(nn.Module):
    """How far padding moves the neurons of a model beyond a margin, with a gradient that takes them back.

    The gradient is the way of each kernel to the nearest one that padding moves no further than the margin
    (:mod:`~pan_callbacks.suppression.yardstick`). As with weight decay, it is one in the layer's own kernel alone, and
    does not depend on how many layers and neurons there are besides; in a backward pass of a task it is at most 1.5
    times as long as the task's (:mod:`~pan_callbacks.suppression.cap`), so that no weight breaks a network. Hooks on
    the padded convolutions measure on a few images what padding adds to their inputs, and how much readings vary.

    Args:
        model: Model to penalise; it is not made a submodule, so parameters and state dict stay its own.
        layers: Glob or globs over layer names; None for all.
        neurons: Layer name to channels, to penalise these alone; ``report.neurons_by_layer()`` gives those of a report.
        max_images: Images of a batch that are measured, the first ones. 16 give 48 readings of an edge.
        every_n_steps: Look at every n-th step only, at a fraction of the cost. Of a layer that does not run in every
            step, every n-th of those in which it runs.
        beside_task: Whether a task is in every backward pass. Then a kernel that it has no gradient for (before a norm
            that begins with 0, or a dead one) gets none of the penalty; else it gets all of that until it has one.

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

    __call__: Callable[..., Tensor]  # a module's may return anything

    def __init__(
        self,
        model: nn.Module,
        layers: str | Iterable[str] | None = None,
        neurons: Mapping[str, Sequence[int]] | None = None,
        max_images: int = 16,
        every_n_steps: int = 1,
        beside_task: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(max_images, every_n_steps)
        self.max_images, self.every_n_steps, self._cap = max_images, every_n_steps, Cap(beside_task)
        self._layers = [layers] if isinstance(layers, str) else layers if layers is None else list(layers)
        found, self._apart = may_be_padded(model, self._layers), not_penalised(model, self._layers)
        if not found:
            why = f"layers={layers!r} selects none" if layers is not None else "this model has none"
            apart = "".join(f"; {name}: {reason}" for name, reason in list(self._apart.items())[:3])
            raise PANError(f"no padded convolution to penalise: {why}{apart}")
        self._pads, self._hooks, self._pad_hooks = PadTracker(), Presence(model), Presence(model)
        self._pad_calls = PadCalls(model, self._pads)
        self._taps = {name: self._tap(name) for name in found}
        self._fed: set[str] = set()  # layers that pad by no means of their own
        self._step, self._in_step, self._neurons = 0, False, neurons
        self.set_neurons(model, neurons)
        self._attach(model, found)

    def _tap(self, name: str) -> Tap:
        return Tap(name, self.max_images, self._cap, self._pads, self._pad_calls.scope)

    def _attach(self, model: nn.Module, found: Mapping[str, Convolution]) -> None:
        """Put hooks on some convolutions, and on the pad modules that have none."""
        taps, known = self._taps, self._pad_hooks.modules
        self._hooks.add({n: (m, m.register_forward_hook(taps[n], with_kwargs=True), taps[n]) for n, m in found.items()})
        self._fed |= {name for name, conv in found.items() if why_unpadded(conv) is not None}
        pads = {name: pad for name, pad in pad_modules(model).items() if name not in known}
        self._pad_hooks.add({n: (m, m.register_forward_hook(self._pads), self._pads) for n, m in pads.items()})

    def follow(self, model: nn.Module, strict: bool = True) -> dict[str, str]:
        """Take up layers that came to the model since, and those that were replaced while nothing was asked of them.

        Args:
            model: The model that the penalty was made for.
            strict: Whether to refuse what :meth:`check_there` refuses; else all that was replaced is taken up.

        Returns:
            Layer name to what happened to it, for those that were replaced.
        """
        if strict:
            self.check_there()
        lost = self._hooks.lost()
        for name in lost:
            self._hooks.remove(name)
            self._taps.pop(name)
        for name in self._pad_hooks.lost():
            self._pad_hooks.remove(name)
        found = may_be_padded(model, self._layers)
        new = {name: conv for name, conv in found.items() if name not in self._taps}
        for name in new:
            self._taps[name] = self._tap(name)
            self._taps[name].channels = None if self._neurons is None else torch.empty(0, dtype=torch.long)
        self._taps = {name: self._taps[name] for name in found}  # in the model's order
        self._attach(model, new)
        self._pad_calls.follow(model)
        return lost

    def running(self, module: nn.Module) -> AbstractContextManager[None]:
        """See the calls of ``F.pad`` in a method of a module that is not its forward, while the context lasts."""
        return self._pad_calls.running(module)

    def check_there(self) -> None:
        """Look whether all that is penalised is still seen.

        Raises:
            PANError: If a layer, or a pad module that may feed one, was replaced or lost its hooks, or if neurons that
                are penalised by number lost their number.
        """
        wanted = {name: tap for name, tap in self._taps.items() if tap.wanted}
        lost = self._hooks.lost(wanted)
        lost |= self._hooks.lost([name for name, tap in wanted.items() if tap.channels is not None], indexed=True)
        lost |= self._pad_hooks.lost() if self._fed & wanted.keys() else {}
        for name, why in lost.items():
            raise PANError(
                f"the penalty of layer {name} is gone: {why}. Change the model before the penalty is put on it (before "
                "fit), or leave the layer out with layers="
            )

    def set_neurons(self, model: nn.Module, neurons: Mapping[str, Sequence[int]] | None) -> None:
        """Penalise some neurons alone, or all of them again; the step begins anew.

        Args:
            model: The model that the penalty was made for.
            neurons: Layer name to channels; None for all. Layers that ``layers`` left out stay left out.

        Raises:
            PANError: If they do not fit the model.
        """
        convs, asked = select(model), select(model, self._layers)
        for name, channels in (neurons or {}).items():
            check_fits(convs, name, channels)
            if name in asked and name not in self._taps:
                raise unpadded(name, self._apart.get(name))
        for name, tap in self._taps.items():
            tap.channels = None if neurons is None else torch.tensor(sorted(neurons.get(name, ())), dtype=torch.long)
        self._neurons = neurons
        self.rest()  # no layer missed the step that begins anew
        self.begin(self._step)

    def begin(self, step: int) -> None:
        """Begin a step: forget what was seen, and look at the forwards from now on where the step is due.

        Args:
            step: Number of the step; every ``every_n_steps``-th from 0 on is due, less for each layer the steps in
                which it did not run.
        """
        self.end()
        self._step, self._in_step = step, True
        for tap in self._taps.values():
            tap.begin((step - tap.missed) % self.every_n_steps == 0)
        self._cap.sweep(due=not self.idle)
        self._pads.watch(not self.idle)

    def end(self) -> None:
        """End a step, if one was begun: note which layers did not run in it, and :meth:`rest`."""
        for tap in self._taps.values():
            if self._in_step and not tap.ran:
                tap.missed = (tap.missed + 1) % self.every_n_steps
        self.rest()

    def rest(self) -> None:
        """Forget what was seen, and look at nothing until the next :meth:`begin`."""
        for tap in self._taps.values():
            tap.rest()
        self._in_step = False
        self._pads.watch(False)

    def state(self) -> dict[str, Any]:
        """Return by how many steps each layer's schedule is late, and its strengths, for a checkpoint."""
        return {name: {"missed": tap.missed, **tap.strength.state()} for name, tap in self._taps.items()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state` told; layers that are no longer there are left out."""
        for name, of_layer in state.items():
            if name in self._taps:
                self._taps[name].missed = of_layer["missed"] % self.every_n_steps
                self._taps[name].strength.resume(of_layer)

    @property
    def idle(self) -> bool:
        """Whether no forward is looked at now: the step is due for no layer, or there is nothing to penalise."""
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

    def modules_by_layer(self) -> dict[str, nn.Module]:
        """Return the convolutions that are looked at, by layer name."""
        return self._hooks.modules

    @property
    def ran(self) -> bool:
        """Whether any penalised layer ran with gradients in this step."""
        return any(tap.ran for tap in self._taps.values() if tap.wanted)

    def left_out(self) -> dict[str, str]:
        """Return layer name to the reason why this step has no penalty for it, for layers that ran and were due."""
        taps = {name: tap for name, tap in self._taps.items() if tap.looking and tap.ran}
        why = {name: tap.nothing or "frozen: its kernel needs no gradient" for name, tap in taps.items()}
        apart = {} if self.idle or self._neurons is not None else self._apart
        return {name: why[name] for name, tap in taps.items() if tap.frozen or tap.nothing and not tap.seen} | apart

    def never_ran(self) -> list[str]:
        """Return the layers to penalise that ran with gradients in no step so far."""
        return [name for name, tap in self._taps.items() if tap.wanted and not tap.ever_ran]

    def forward(self, loss: Tensor | None = None) -> Tensor:
        """Return the penalty of what was seen since the last call, and begin the next step.

        Args:
            loss: Penalise just the calls that this loss was computed from; None for all.

        Returns:
            How far neurons are beyond their margins, in margins, on average (of a layer that was called several times
            also over its calls): a float32 scalar with the gradient described above; 0 in a step that is not due.

        Raises:
            PANError: If the step is due and no penalised layer ran with gradients, or one is no longer there.
        """
        self.check_there()
        if not self.idle and not self.ran:
            raise PANError(
                "the penalty saw no forward with gradients. Call it after the model's forward, outside "
                "torch.no_grad(), and make it before the model first runs compiled, which ignores later hooks"
            )
        value = self.take(loss)
        self.begin(self._step + 1)
        return torch.zeros(()) if value is None else value

    def take(self, loss: Tensor | None = None) -> Tensor | None:
        """Return the penalty of what was seen, which is then forgotten; None if that is nothing.

        Args:
            loss: Take just the calls that this loss was computed from, and keep the others: if several networks run
                before several backward passes, each is penalised once, with its own. None for all.
        """
        nodes = None if loss is None else nodes_of(loss.grad_fn)
        found = [pair for tap in self._taps.values() for pair in tap.prices(tap.take(nodes))]
        if not found:
            return None
        total = torch.stack([price.to(found[0][0].device) for price, _ in found]).sum()
        mean = total.detach() / sum(neurons for _, neurons in found)
        return mean + (total - total.detach())  # a neuron's gradient is its own, and not that of a mean

    def check_checkpoint(self, loss: Tensor) -> None:
        """Raise PANError if the layers that are looked for ran inside a reentrant checkpoint that made this loss.

        Such a checkpoint runs its layers without gradients, inside an autograd function that is a node of the graph.
        """
        blind = next((name for name, tap in self._taps.items() if tap.ran_blind and not tap.ran), None)
        if blind is not None and any("Checkpoint" in type(node).__name__ for node in nodes_of(loss.grad_fn)):
            raise reentrant(blind)

    def detach(self) -> None:
        """Take the hooks off the model, and forget what was seen."""
        self.rest()
        self._cap.clear()
        self._hooks.clear()
        self._pad_hooks.clear()
        self._pad_calls.detach()


def check_arguments(max_images: int, every_n_steps: int) -> None:
    """Raise ValueError for an argument out of range, naming it."""
    for name, value in (("max_images", max_images), ("every_n_steps", every_n_steps)):
        if value < 1 or value != int(value):
            raise ValueError(f"{name}={value!r}: a whole number from 1 on is needed")
