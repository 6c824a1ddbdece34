"""What the families of cells are made of: one convolution for all gates, activations, attention."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convlstm.cells.base import Cell, is_count, like_frame
from convlstm.cells.original import check_built
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.functional.conv import PADDING_MODES, check_reach, same_conv
from convlstm.functional.gates import ACTIVATIONS, Activation

#: From this many channels on, a frame is convolved together with h: fewer leave vector registers half empty.
_JOINED = 8

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ConvCell(Cell):
    """A cell whose gates are one convolution over input and hidden state.

    ``conv.weight`` is (gates hidden_dim, input_dim + hidden_dim, *kernel_size), ``conv.bias``
    (gates hidden_dim,). The part over the input is `project`, the part over the hidden state `recur`; the
    module ``conv`` is called itself, on both beside each other, where somebody listens to it by hooks (not
    where padding modes differ by axis) or has put another in its place. A cell that needs the two parts
    apart calls an adapter (a module that holds the convolution built here as ``base_layer``, as peft's do)
    on each beside zeros.

    Attributes:
        bias: whether the gates have a bias, as in the single-file original.
        padding: pixels before the frame by which a convolution over it keeps the size, one per space axis.
        gates: how many.
        state_class: the kind of state, a NamedTuple of tensors (B, hidden_dim, *S).
        one_sum: whether each gate is one sum over input and hidden state, so that ``conv`` may be called.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of the hidden state.
        kernel_size: one integer per space axis, one to three; a single integer is a square kernel in 2-D.
        bias: whether the gates have a bias.
        dilation: distance between the kernel's taps, for all axes or per space axis.
        padding_mode: zeros, replicate, reflect or circular, for all axes or per space axis.
        recurrent_init: ``default`` (that of torch's convolutions) or ``orthogonal`` (each gate's kernel over
            the hidden state has orthonormal rows, Saxe et al. 2014, arXiv:1312.6120).
        attention: weighs the hidden state before the gates see it: ``spatial``, ``channel``, a module
            (copied, so that layers never share one) or what builds a module from hidden_dim.
    """

    gates: ClassVar[int]
    state_class: ClassVar[Any]
    one_sum: ClassVar[bool] = True

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        dilation: int | Sequence[int] = 1,
        padding_mode: str | Sequence[str] = "zeros",
        recurrent_init: str = "default",
        attention: str | nn.Module | Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        axes = len(self.kernel_size)
        self.dilation = _per_axis(dilation, axes, "dilation", Integral)
        if not all(map(is_count, self.dilation)):
            raise OptionError(f"dilation must be at least 1; received {dilation!r}: use integers")
        self.dilation = tuple(map(int, self.dilation))
        self.padding_mode = _per_axis(padding_mode, axes, "padding_mode", str)
        for mode in self.padding_mode:
            check_name(mode, PADDING_MODES, "padding_mode")
        # Holds the parameters under the original's names; `project` and `recur` apply them.
        self.bias = bias
        self.padding = tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        plain = set(self.padding_mode) == {"zeros"} and all(k % 2 for k in self.kernel_size)
        self.conv: _ConvNd = _CONV[axes](
            input_dim + hidden_dim,
            self.gates * hidden_dim,
            self.kernel_size,
            padding=self.padding if plain else "same",
            padding_mode=self.padding_mode[0],
            dilation=self.dilation,
            bias=bias,
        )
        self._conv_built = _kind(self.conv)
        if check_name(recurrent_init, ("default", "orthogonal"), "recurrent_init") == "orthogonal":
            with torch.no_grad():
                for kernel in self.conv.weight[:, input_dim:].split(hidden_dim):
                    kernel.copy_(nn.init.orthogonal_(torch.empty_like(kernel)))
        self.attention = attention_module(attention, hidden_dim, axes)

    def initial_state(self, x: Tensor) -> Any:
        """Zeros, (B, hidden_dim, *S) each tensor, or what a subclass's `init_hidden` gives."""
        if getattr(self.init_hidden, "__func__", None) is ConvCell.init_hidden:
            return self._zeros(x, x.shape)
        return self.state_class(
            *(like_frame(tensor, x) for tensor in self.init_hidden(x.shape[0], tuple(x.shape[2:])))
        )

    def _zeros(self, like: Tensor, shape: Sequence[int]) -> Any:
        shape = (shape[0], self.hidden_dim, *shape[2:])
        return self.state_class(*(like.new_zeros(shape) for _ in self.state_class._fields))

    def check_size(self, size: Sequence[int]) -> None:
        """Check that frames of a size can be convolved.

        Raises:
            ShapeError: they are smaller than what a padding mode has to repeat.
        """
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        check_reach(tuple(size), reach, self.padding_mode)

    def init_hidden(self, batch_size: int, image_size: Sequence[int]) -> Any:
        """The initial state for a batch and an image size, with the parameters' device and dtype."""
        like, shape = next(self.parameters()), (batch_size, self.input_dim, *image_size)
        kind = type(self)
        if kind.initial_state is not ConvCell.initial_state and kind.init_hidden is ConvCell.init_hidden:
            return self.initial_state(like.new_empty(shape))
        return self._zeros(like, shape)

    def prepare(self) -> None:
        """Let hooks compute a weight that they keep in parts, as `torch.nn.utils.prune` does.

        They wait for a call of the convolution, which a cell applies in two halves and does not call.
        """
        check_built(self, "_conv_built")
        for hook in self.conv._forward_pre_hooks.values():
            if _computes_weight(hook):
                hook(self.conv, ())

    def extra_repr(self) -> str:
        """The activations; those that are modules are shown by themselves."""
        own = {name: value for name, value in vars(self).items() if name.endswith("activation")}
        return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in own.items())

    def project(self, x: Tensor) -> Tensor:
        """The input's part of the gates, (N, gates hidden_dim, *S); or the input where `sums` convolves both.

        That is where ``conv`` is called, and without gradients in fp32 on a CPU, where one convolution takes
        less time. In training two halves do, as the gradient of a frame that nobody asks for is not
        computed.
        """
        how = self._how_applied()
        if how == "whole" or (how == "by weights" and self._joins(x)):
            return x
        if how == "by halves":
            return self._half(x, 0)
        return self._convolve(x, self.conv.weight[:, : self.input_dim], self.conv.bias)

    def recur(self, h: Tensor, gates: slice = slice(None)) -> Tensor:
        """The hidden state's part of the gates, or of those whose rows of the weight are given."""
        h = self._attended(h)
        if self._how_applied() == "by halves":
            return self._half(h, 1)[:, gates]
        return self._convolve(h, self.conv.weight[gates, self.input_dim :], None)

    def sums(self, p: Tensor, h: Tensor) -> Tensor:
        """Of all gates, (B, gates hidden_dim, *S): `project`'s result for a frame with the part of h."""
        how = self._how_applied()
        # By the channels, not by the mode, which may have changed since `project`; see `_joins`.
        joined = p.shape[1] == self.input_dim != self.gates * self.hidden_dim
        if how != "whole" and not joined:
            return p + self.recur(h)
        both = torch.cat([p, self._attended(h)], dim=1)
        sums: Tensor = (
            self.conv(both) if how == "whole" else self._convolve(both, self.conv.weight, self.conv.bias)
        )
        return sums

    def _attended(self, h: Tensor) -> Tensor:
        if self.attention is None:
            return h
        weighed: Tensor = self.attention(h)
        if getattr(weighed, "shape", None) != h.shape:
            received = tuple(weighed.shape) if isinstance(weighed, Tensor) else f"a {type(weighed).__name__}"
            raise ShapeError(
                f"attention must map the hidden state (B, C, *S) = {tuple(h.shape)} to the same shape; "
                f"received {received} from a {type(self.attention).__name__}: return weights * h"
            )
        return weighed

    def _joins(self, x: Tensor) -> bool:
        """True where frame and hidden state are convolved together though ``conv`` is not called itself."""
        return (
            self.one_sum
            and _JOINED <= self.input_dim != self.gates * self.hidden_dim
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.is_grad_enabled()
            and not self._has_own_rules()
        )

    def _has_own_rules(self) -> bool:
        """True for a user's subclass, which may rely on `project` giving the input's part of the gates."""
        rules = ("project", "recur", "sums", "step", "_convolve")
        return any(not getattr(type(self), rule).__module__.startswith("convlstm.cells.") for rule in rules)

    @property
    def calls_conv(self) -> bool:
        """Whether ``conv`` itself is called: it has hooks, or is not the one that was built here.

        Raises:
            OptionError: another convolution in a cell that needs its two halves.
        """
        return self._how_applied() != "by weights"

    def _how_applied(self) -> str:
        """How ``conv`` is applied: ``by weights`` (of its halves), or called, ``whole`` or ``by halves``."""
        ours = _kind(self.conv) == self._conv_built
        if ours and not _has_listeners(self.conv):
            return "by weights"
        adapts = not ours and _kind(_adapted(self.conv)) == self._conv_built
        one_mode = len(set(self.padding_mode)) == 1
        if adapts and not one_mode:
            raise OptionError(
                "a conv that an adapter calls must have one padding_mode for all axes; received "
                f"{self.padding_mode} in a {type(self).__name__}: merge the adapter into its weights"
            )
        if self.one_sum and not self._has_own_rules() and (not ours or one_mode):
            return "whole"
        if not ours and not adapts and not self.one_sum:
            raise OptionError(
                f"the conv of a {type(self).__name__}, whose halves it applies apart, must stay as it was "
                f"built; received {self.conv}: wrap it in an adapter that holds it as base_layer, or write a "
                "cell with a step of its own"
            )
        return "by halves" if adapts else "by weights"

    def _half(self, x: Tensor, half: int) -> Tensor:
        """An adapter's part of the gates from the frame (0, with bias) or the hidden state (1, without).

        Adapters are affine in their input, as the convolution that they hold is.
        """
        missing = x.new_zeros(x.shape[0], (self.hidden_dim, self.input_dim)[half], *x.shape[2:])
        sums: Tensor = self.conv(torch.cat([missing, x] if half else [x, missing], dim=1))
        if not half:
            return sums
        bias: Tensor = self.conv(x.new_zeros(1, self.input_dim + self.hidden_dim, *x.shape[2:]))
        return sums - bias

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return same_conv(x, weight, bias, dilation=self.dilation, padding_mode=self.padding_mode)


def _kind(conv: nn.Module) -> tuple[Any, ...]:
    """What a convolution does, but for its weights."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    return vars(conv).get("forward", type(conv).forward), *(getattr(conv, name, None) for name in names)


def _adapted(conv: nn.Module) -> nn.Module:
    """The convolution inside an adapter, or inside several."""
    while isinstance(inner := conv._modules.get("base_layer"), nn.Module):
        conv = inner
    return conv


def _computes_weight(hook: Any) -> bool:
    return hasattr(hook, "apply_mask") or hasattr(hook, "compute_weight")


def _has_listeners(conv: nn.Module) -> bool:
    if any(not _computes_weight(hook) for hook in conv._forward_pre_hooks.values()):
        return True
    return bool(conv._forward_hooks or conv._backward_hooks or conv._backward_pre_hooks)


class SpatialAttention(nn.Module):
    """One weight per pixel: 1x1 convolution to fewer channels, ReLU, 1x1 convolution to one map, sigmoid.

    Args:
        channels: C of the hidden state.
        axes: number of space axes.
    """

    def __init__(self, channels: int, axes: int = 2) -> None:
        super().__init__()
        fewer = max(1, channels // 4)
        self.reduce = _CONV[axes](channels, fewer, 1)
        self.map = _CONV[axes](fewer, 1, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Weigh ``h`` (B, C, *S)."""
        return h * torch.sigmoid(self.map(torch.relu(self.reduce(h))))


class ChannelAttention(nn.Module):
    """One weight per channel, from its mean over space (Hu et al. 2018, arXiv:1709.01507).

    Args:
        channels: C of the hidden state.
        axes: number of space axes.
    """

    def __init__(self, channels: int, axes: int = 2) -> None:
        super().__init__()
        fewer = max(1, channels // 4)
        self.squeeze = nn.Linear(channels, fewer)
        self.excite = nn.Linear(fewer, channels)
        self.axes = axes

    def forward(self, h: Tensor) -> Tensor:
        """Weigh ``h`` (B, C, *S)."""
        weight = torch.sigmoid(self.excite(torch.relu(self.squeeze(h.flatten(2).mean(2)))))
        return h * weight[(..., *(None,) * self.axes)]


def attention_module(
    attention: str | nn.Module | Callable[[int], nn.Module] | None, channels: int, axes: int
) -> nn.Module | None:
    """The attention asked for, as a module of its own."""
    if attention is None:
        return None
    if not callable(attention) and not isinstance(attention, str):
        raise OptionError(
            f"attention must be spatial, channel, a module or what builds one; received {attention!r}"
        )
    if isinstance(attention, str):
        named = {"spatial": SpatialAttention, "channel": ChannelAttention}
        return named[check_name(attention, named, "attention")](channels, axes)
    return copy.deepcopy(attention) if isinstance(attention, nn.Module) else attention(channels)


def activation_function(activation: Any, name: str) -> Activation:
    """An activation given by name, as a function, a module (copied) or a class of modules (built)."""
    if isinstance(activation, str):
        return ACTIVATIONS[check_name(activation, ACTIVATIONS, name)]
    if isinstance(activation, nn.Module):
        return _checked(copy.deepcopy(activation), name)
    made = activation.func if isinstance(activation, partial) else activation
    built: Activation = activation() if isinstance(made, type) and issubclass(made, nn.Module) else activation
    if not callable(built):
        raise OptionError(f"{name} must be a name, a function or a module; received {activation!r}")
    return _checked(built, name)


def _checked(activation: Activation, name: str) -> Activation:
    if getattr(activation, "inplace", False):
        raise OptionError(
            f"{name} must leave its input as it is, which the step still needs; received {activation}: leave "
            "inplace out"
        )
    return activation


def _per_axis(value: Any, axes: int, name: str, kind: type) -> tuple[Any, ...]:
    values = (value,) * axes if isinstance(value, kind) else value
    if not isinstance(values, Sequence) or len(values) != axes:
        raise OptionError(f"{name} must have one entry per space axis ({axes}); received {value!r}")
    return tuple(values)
