"""Cells whose gates are one convolution over input and hidden state."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convlstm.cells.attention import Attention, apply_attention, attention_module
from convlstm.cells.base import Cell, like_frame
from convlstm.cells.convolutions import CONV, SAME_CONV, SameConvNd
from convlstm.cells.original import check_built
from convlstm.cells.overrides import are_replaced, has_hooks, methods_of
from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.functional.conv import check_padding_modes, check_reach
from convlstm.functional.gates import ACTIVATIONS, Activation
from convlstm.validation import check_bool, check_integers, check_positive, check_tensor, received


class ConvCell(Cell):
    """A cell whose gates are ``conv``, one convolution over input and hidden state, concatenated.

    ``conv.weight`` is (gates hidden_dim, input_dim + hidden_dim, *kernel_size), ``conv.bias``
    (gates hidden_dim,). The module is called at each step, so that hooks, pruning, parametrizations, adapters
    and a module put in its place act as on any convolution.

    Attributes:
        bias: True if the gates have a bias, as in the single-file original.
        padding: pixels before the frame by which a convolution over it keeps the size, one per space axis.
        gates: number of gates.
        state_class: the kind of state, a NamedTuple of tensors (B, hidden_dim, *S).

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of the hidden state.
        kernel_size: one integer per space axis, one to three; a single integer is a square kernel in 2-D.
        bias: True to give the gates a bias.
        dilation: distance between the kernel's taps, for all axes or per space axis.
        padding_mode: zeros, replicate, reflect or circular, for all axes or per space axis.
        recurrent_init: ``default`` (that of torch's convolutions) or ``orthogonal`` (each gate's kernel over
            the hidden state has orthonormal rows, Saxe et al. 2014, arXiv:1312.6120).
        attention: weighs the hidden state before the gates: ``spatial``, ``channel``, a module (copied, so
            that layers never share one) or what builds a module from hidden_dim.
    """

    gates: ClassVar[int]
    state_class: ClassVar[Any]

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
        attention: Attention | None = None,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        axes = len(self.kernel_size)
        if isinstance(dilation, int):
            dilation = (check_positive(dilation, "dilation"),) * axes
        self.dilation = check_integers(dilation, axes, "dilation")
        self.padding_mode = check_padding_modes(padding_mode, axes)
        self.bias = check_bool(bias, "bias")
        self.padding = tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        standard = set(self.padding_mode) == {"zeros"} and all(k % 2 for k in self.kernel_size)
        self.conv: _ConvNd = (CONV if standard else SAME_CONV)[axes](
            self.input_dim + self.hidden_dim,
            self.gates * self.hidden_dim,
            self.kernel_size,
            padding=self.padding if standard else "same",
            padding_mode=self.padding_mode[0],
            dilation=self.dilation,
            bias=self.bias,
        )
        if isinstance(self.conv, SameConvNd):
            self.conv.padding_modes = self.padding_mode
        self._conv_built = type(self.conv), _settings(self.conv)
        if check_name(recurrent_init, ("default", "orthogonal"), "recurrent_init") == "orthogonal":
            with torch.no_grad():
                for kernel in self.conv.weight[:, self.input_dim :].split(self.hidden_dim):
                    kernel.copy_(nn.init.orthogonal_(torch.empty_like(kernel)))
        self.attention = attention_module(attention, self.hidden_dim, axes)

    def initial_state(self, x: Tensor) -> Any:
        """Zeros, (B, hidden_dim, *S) each tensor, or the state that a subclass's `init_hidden` returns."""
        check_built(self, "_conv_built")
        check_tensor(x, "x (B, C, *S)")
        if x.ndim != 2 + len(self.kernel_size):
            raise ShapeError(
                f"x must be (B, C, *S) with {len(self.kernel_size)} space axes; received shape "
                f"{tuple(x.shape)}: pass one frame of each sequence"
            )
        if getattr(self.init_hidden, "__func__", None) is ConvCell.init_hidden:
            return self._zeros(x, x.shape)
        return self.state_class(
            *(like_frame(tensor, x) for tensor in self.init_hidden(x.shape[0], tuple(x.shape[2:])))
        )

    def init_hidden(self, batch_size: int, image_size: Sequence[int]) -> Any:
        """The initial state for a batch and an image size, with the parameters' device and dtype."""
        if not torch.compiler.is_compiling():  # a graph must not depend on the sizes
            check_positive(batch_size, "batch_size")
            check_integers(image_size, len(self.kernel_size), "image_size")
        like, shape = next(self.parameters()), (batch_size, self.input_dim, *image_size)
        kind = type(self)
        if kind.initial_state is not ConvCell.initial_state and kind.init_hidden is ConvCell.init_hidden:
            return self.initial_state(like.new_empty(shape))
        return self._zeros(like, shape)

    def _zeros(self, like: Tensor, shape: Sequence[int]) -> Any:
        batch, _, *size = shape
        shape = (batch, self.hidden_dim, *size)
        return self.state_class(*[like.new_zeros(shape) for _ in self.state_class._fields])

    def check_size(self, size: Sequence[int]) -> None:
        """Check that frames of a size can be convolved.

        Raises:
            ShapeError: frames smaller than the border that a padding mode takes from inside them.
        """
        if {*self.padding_mode} != {"zeros"}:
            reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            check_reach(tuple(size), reach, self.padding_mode)

    def project(self, x: Tensor) -> Tensor:
        """The frame itself, which ``conv`` reads together with the hidden state."""
        return x

    def preactivations(self, x: Tensor, h: Tensor) -> Tensor:
        """Pre-activations of all gates from a frame and the hidden state, (B, gates hidden_dim, *S)."""
        gates: Tensor = self.conv(torch.cat([x, apply_attention(self.attention, h)], dim=1))
        return gates

    @property
    def calls_conv(self) -> bool:
        """True if ``conv`` has hooks, other methods or is another module than the one built here."""
        conv = self.conv  # looked up once: each time costs half a microsecond
        kind, settings = self._conv_built
        # torch.export replaces the method of all modules, which is no other convolution.
        if has_hooks(conv) or type(conv).__call__ is not nn.Module.__call__:
            return True
        return are_replaced(conv, _METHODS[kind]) or _settings(conv) != settings

    def extra_repr(self) -> str:
        """The activations; those that are modules are shown by themselves."""
        own = {name: value for name, value in self.__dict__.items() if name.endswith("activation")}
        return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in own.items())


# Methods that compute a convolution, by class.
_METHODS = {
    kind: methods_of(kind, "forward", "_conv_forward") for kind in (*CONV.values(), *SAME_CONV.values())
}


def _settings(conv: nn.Module) -> tuple[Any, ...]:
    """All that determines a convolution's result, but for its methods and weights."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode", "padding_modes")
    return tuple(map(conv.__dict__.get, names))


def activation_function(activation: Any, name: str) -> Activation:
    """An activation from a name, a function, a module (copied) or a class of modules (built).

    Raises:
        OptionError: anything else, or a module that changes its input, which the backward pass needs.
    """
    if isinstance(activation, str):
        return ACTIVATIONS[check_name(activation, ACTIVATIONS, name)]
    made = activation.func if isinstance(activation, partial) else activation
    built = copy.deepcopy(activation) if isinstance(activation, nn.Module) else activation
    if isinstance(made, type) and issubclass(made, nn.Module):
        built = activation()
    if not callable(built):
        raise OptionError(
            f"{name} must be a name, a function or a module; received {received(activation)}: pass one"
        )
    if getattr(built, "inplace", False):
        raise OptionError(
            f"{name} must leave its input as it is for the backward pass; received {activation}: leave "
            "inplace out"
        )
    function: Callable[[Tensor], Tensor] = built
    return function
