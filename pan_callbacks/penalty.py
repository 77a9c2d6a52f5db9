"""A differentiable price on border behaviour, for a loss.

Both kinds compare, neuron by neuron and side by side, a gap with the spread of the reference, the inner half of the
same map, and price it with ``log(1 + gap² / variance)``: zero where there is no gap, the same at every gain of the
channel, and flat enough at the far end that a few strong padding aware neurons do not drown the task
(docs/suppression.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pan_callbacks.layers import PaddedLayer, PANError, pad_modules, select, why_unpadded
from pan_callbacks.masking import check_fits
from pan_callbacks.padding import SIDES, Geometry, padding_effect
from pan_callbacks.references import inner_half

KINDS = ("both", "effect", "moments")
#: Variance is never taken for less than this share of the squared gap: a constant channel has a finite price.
FLOOR = 1e-4
#: What the price of a moment counts against that of an effect: so that one weight suits every kind.
MOMENT_SHARE = 0.2


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
        self._taps: dict[str, _Tap] = {}
        self._feeds = _Feeds()
        self._handles, self._kernels = [], []
        for name, conv in select(model, layers).items():
            if why_unpadded(conv) is None or pads and _is_fed(conv):
                self._taps[name] = tap = _Tap(name, kind, max_images, self._feeds)
                self._kernels.append(conv.weight)
                self._handles.append(conv.register_forward_hook(tap, with_kwargs=True))
        if not self._taps:
            raise PANError(
                "no padded convolution to penalise: "
                + (f"layers={layers!r} selects none" if layers is not None else "this model has none")
            )
        for pad in pads.values():
            self._handles.append(pad.register_forward_hook(self._feeds))
        self.step = 0
        self.set_neurons(model, neurons)
        self.collect(True)

    def set_neurons(self, model: nn.Module, neurons: Mapping[str, Sequence[int]] | None) -> None:
        """Penalises some neurons alone, or all of them again.

        Args:
            model: The model that the penalty was made for.
            neurons: Layer name to channels; None for all.

        Raises:
            PANError: If they do not fit the model.
        """
        convs = select(model)
        for name, channels in (neurons or {}).items():
            check_fits(convs, name, channels)
        for name, tap in self._taps.items():
            chosen = None if neurons is None else sorted(neurons.get(name, ()))
            tap.channels = None if chosen is None else torch.tensor(chosen, dtype=torch.long)

    def collect(self, on: bool) -> None:
        """Turns looking on or off, and forgets what was seen.

        Args:
            on: Whether forwards from now on are looked at; those that this step is not due for are not.
        """
        on = on and self.step % self.every_n_steps == 0
        for tap in self._taps.values():
            tap.seen.clear()
            tap.collecting = on and (tap.channels is None or len(tap.channels) > 0)
        self._feeds.collecting, self._feeds.latest = on, None

    @property
    def collected(self) -> bool:
        """Whether a forward was looked at since the last call."""
        return any(tap.seen for tap in self._taps.values())

    @property
    def expects(self) -> bool:
        """Whether a forward now would be looked at."""
        return any(tap.collecting for tap in self._taps.values())

    def forward(self) -> Tensor:
        """The penalty of what was seen since the last call, a scalar with gradient; then looks for the next step.

        Returns:
            Sum over layers of the mean over neurons of the sum over sides of the price, float32; 0 in a step that is
            not due.

        Raises:
            PANError: If the step is due and no penalised layer ran with gradients.
        """
        if self.expects and not self.collected:
            raise PANError(
                "the penalty saw no forward with gradients. Call it after the model's forward, outside "
                "torch.no_grad(), and make it before the model first runs compiled, which ignores later hooks"
            )
        value = self.take()
        self.step += 1
        self.collect(True)
        return torch.zeros(()) if value is None else value

    def take(self) -> Tensor | None:
        """The penalty of what was seen, which is then forgotten; None if that is nothing."""
        prices = []
        for tap in self._taps.values():
            seen, tap.seen = tap.seen, []
            prices += [price / len(seen) for view in seen if (price := view.price(tap.channels)) is not None]
        return self.every_n_steps * torch.stack(prices).sum() if prices else None

    def gradients(self) -> list[Tensor | None]:
        """Gradients of the penalised kernels as they are now."""
        return [kernel.grad for kernel in self._kernels]

    def detach(self) -> None:
        """Takes the hooks off the model, and forgets what was seen."""
        self.collect(False)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


@dataclass
class _View:
    """What is kept of one call of a layer until the penalty is computed: small tensors with gradient.

    They are made by slicing, averaging and copying alone, which saves nothing for the backward pass: activation
    checkpointing counts what is saved.

    Args:
        layer: The convolution with its padding.
        geometry: Its geometry at this size.
        reference: Inner half of some maps, at most 8×8 positions (images, channels, rows, columns).
        strips: Side to border strip of the same maps, for ``"moments"``.
        mean_input: Mean over the images of the layer's input (1, in channels, height, width), for ``"effect"``.
    """

    layer: PaddedLayer
    geometry: Geometry
    reference: Tensor
    strips: dict[str, Tensor]
    mean_input: Tensor | None

    def price(self, channels: Tensor | None) -> Tensor | None:
        """Price of this call, a scalar; None where no side has a border."""
        with torch.autocast(self.reference.device.type, enabled=False):
            variance, mean = torch.var_mean(self.reference, (0, 2, 3), correction=0)
            prices = [MOMENT_SHARE * price(_moment_gap(s, mean, variance), variance) for s in self.strips.values()]
            if self.mean_input is not None:
                effects = (self._effect(side) for side in SIDES)
                prices += [price(effect.square(), variance) for effect in effects if effect is not None]
            if not prices:
                return None
            of_neurons = torch.stack(prices).sum(0)
            return (of_neurons if channels is None else of_neurons[channels.to(of_neurons.device)]).mean()

    def _effect(self, side: str) -> Tensor | None:
        """Mean padding effect of a side (channels,). It is affine in the input, so that of the mean input is it."""
        layer = self.layer
        effect = padding_effect(
            self.mean_input,
            layer.weight(self.mean_input).float(),
            self.geometry,
            side,
            mode=layer.mode,
            value=layer.value,
            groups=layer.module.groups,
        )
        return None if effect is None else effect.mean((0, 2, 3))


def price(squared_gap: Tensor, variance: Tensor) -> Tensor:
    """``log(1 + gap² / variance)``, with a finite value and gradient where the variance is 0.

    Args:
        squared_gap: Any shape.
        variance: Of the reference, broadcast to it.

    Example:
        >>> price(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 1.0]))
        tensor([0.0000, 1.6091])
    """
    scale = variance + FLOOR * squared_gap
    safe = torch.where(scale > 0, scale, 1.0)  # both are 0: no gap, no price, and no 0 / 0 in the gradient
    return torch.log1p(squared_gap / safe)


def _moment_gap(strip: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance (channels,) of two normal distributions with these moments."""
    own_variance, own_mean = torch.var_mean(strip, (0, 2, 3), correction=0)
    return (own_mean - mean).square() + (_root(own_variance) - _root(variance)).square()


def _root(variance: Tensor) -> Tensor:
    """Square root with gradient 0 at 0."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


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
        self.collecting = False
        self.channels: Tensor | None = None
        self.seen: list[_View] = []
        self._ran_without_grad = False

    def __call__(self, conv: nn.Conv2d, args: tuple, kwargs: dict, output: Tensor) -> None:
        """Called by torch after the layer's forward; changes nothing."""
        if not self.collecting:
            return
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            self._in_backward()
        elif torch.is_grad_enabled():
            self._ran_without_grad = False
            view = self._view(conv, args[0] if args else kwargs["input"], output)
            if view is not None:
                self.seen.append(view)
        else:
            self._ran_without_grad = True

    def _in_backward(self) -> None:
        """A checkpointed layer is run again; a reentrant checkpoint ran it without gradients the first time."""
        if self._ran_without_grad:
            raise PANError(
                f"layer {self.name} runs under a reentrant activation checkpoint, where its penalty would get lost; "
                "use torch.utils.checkpoint.checkpoint(..., use_reentrant=False), or leave the layer out with layers="
            )

    def _view(self, conv: nn.Conv2d, x: Tensor, output: Tensor) -> _View | None:
        layer = PaddedLayer(conv, self.feeds.pad_of(x))
        if why_unpadded(conv, layer.pad) is not None:
            return None
        x = layer.unpadded(x)
        geometry = layer.geometry(*x.shape[-2:])
        rows, cols = inner_half(geometry.rows), inner_half(geometry.cols)
        some = output[: self.max_images]
        reference = _copy(some[:, :, rows, cols])
        if reference.numel() == 0 or geometry.output_size != tuple(output.shape[-2:]):
            return None
        borders = {side: border for side in SIDES if (border := geometry.border(side)) is not None}
        strips = {}
        if self.kind != "effect":
            strips = {side: _copy(some[:, :, rows, cols]) for side, (rows, cols) in borders.items()}
        mean_input = x.mean(0, keepdim=True, dtype=torch.float32) if self.kind != "moments" else None
        return _View(layer, geometry, reference, strips, mean_input)

    def __getstate__(self) -> dict:
        """A copy of the module gets a hook that keeps nothing."""
        return {**self.__dict__, "collecting": False, "seen": []}


def _copy(part: Tensor) -> Tensor:
    """A copy in float32 that does not keep alive what it is a part of."""
    return part.to(torch.float32, copy=True)


def check_arguments(kind: str, max_images: int, every_n_steps: int) -> None:
    """Raises ValueError for an argument out of range, naming it."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if max_images < 1:
        raise ValueError(f"max_images={max_images!r}: at least one image is needed")
    if every_n_steps < 1:
        raise ValueError(f"every_n_steps={every_n_steps!r}: at least 1 is needed")


def _is_fed(conv: nn.Conv2d) -> bool:
    """Whether a convolution may be one that a pad module feeds: it has a window, and adds nothing itself."""
    return max(conv.kernel_size) > 1 and (conv.padding == "valid" or not any(conv._reversed_padding_repeated_twice))
