"""The convolutional GRU and the plain convolutional RNN."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convlstm.cells.attention import apply_attention
from convlstm.cells.base import register_state
from convlstm.cells.conv_cell import ConvCell, activation_function
from convlstm.cells.original import takes_no_input_size
from convlstm.errors import OptionError
from convlstm.functional.conv import convolve
from convlstm.functional.gates import Activation
from convlstm.validation import check_bool


class GRUState(NamedTuple):
    """State of a GRU or a plain RNN: the output ``h``, (B, hidden_dim, *S)."""

    h: Tensor


register_state(GRUState, "convlstm.cells")


class ConvGRUCell(ConvCell):
    """One step of a convolutional GRU (Ballas et al. 2016, arXiv:1511.06432, equations 7 to 10).

    With the gates stacked in the order **r, z, n**::

        r  = sigmoid(W_r * x + U_r * h + b_r)
        z  = sigmoid(W_z * x + U_z * h + b_z)
        n  = tanh(W_n * x + b_n + r (U_n * h + b_u))      reset_after=True, as torch.nn.GRU: one convolution
        n  = tanh(W_n * x + b_n + U_n * (r h))            reset_after=False, as in the paper: two
        h' = (1 - z) n + z h

    Some write h' = (1 - z) h + z n: `gru_weights` converts weights of such a cell and of most public ones.

    ``conv.weight`` is (3 hidden_dim, input_dim + hidden_dim, *kernel_size), [W, U], whose two parts are
    applied separately; ``conv.bias`` is (3 hidden_dim,); ``reset_bias`` (hidden_dim,) is b_u. If ``conv`` has
    hooks or was replaced (by another convolution, or an adapter as of peft), it is called as [x, 0], [0, h]
    and [0, 0], whose result is subtracted: it must be affine in its input.

    Args:
        input_dim, hidden_dim, kernel_size, bias: as for `ConvLSTMCell`.
        reset_after: True to apply the reset gate after the convolution over the hidden state.
        gate_activation: of r and z; as for `ConvLSTMCell`.
        candidate_activation: of n.
        options: dilation, padding_mode, recurrent_init and attention, as for `ConvLSTMCell`.
    """

    gates = 3
    state_class = GRUState

    @takes_no_input_size
    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        reset_after: bool = True,
        gate_activation: str | Activation = "sigmoid",
        candidate_activation: str | Activation = "tanh",
        **options: Any,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias, **options)
        self.reset_after = check_bool(reset_after, "reset_after")
        self.gate_activation = activation_function(gate_activation, "gate_activation")
        self.candidate_activation = activation_function(candidate_activation, "candidate_activation")
        has_bias = self.reset_after and self.bias
        self.reset_bias = nn.Parameter(torch.zeros(self.hidden_dim)) if has_bias else None

    def project(self, x: Tensor) -> Tensor:
        """The input's part of the pre-activations, (N, 3 hidden_dim, *S)."""
        if self.calls_conv:
            return self._call_conv(x, x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))
        return self._convolve(x, self.conv.weight[:, : self.input_dim], self.conv.bias)

    def project_hidden(self, h: Tensor, gates: slice = slice(None)) -> Tensor:
        """The hidden state's part of the pre-activations of the given rows of gates, (B, ?, *S)."""
        h = apply_attention(self.attention, h)
        if self.calls_conv:
            x = h.new_zeros(h.shape[0], self.input_dim, *h.shape[2:])
            return (self._call_conv(x, h) - self._call_conv(x[:1], torch.zeros_like(h[:1])))[:, gates]
        return self._convolve(h, self.conv.weight[gates, self.input_dim :], None)

    def _call_conv(self, x: Tensor, h: Tensor) -> Tensor:
        if not isinstance(self.conv, _ConvNd) and not hasattr(self.conv, "base_layer"):  # may not be affine
            raise OptionError(
                f"the conv of a {type(self).__name__} must be a convolution or an adapter that holds one as "
                f"base_layer; received a {type(self.conv).__name__}: write a cell with a step of its own"
            )
        result: Tensor = self.conv(torch.cat([x, h], dim=1))
        return result

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(x, weight, bias, self.dilation, self.padding_mode)

    def step(self, p: Tensor, state: Any) -> GRUState:
        """The new hidden state from the input's part of the pre-activations and the old hidden state."""
        (h,) = state
        rz, n = slice(0, 2 * self.hidden_dim), slice(2 * self.hidden_dim, None)
        if self.reset_after:
            q = self.project_hidden(h)
            r, z = map(self.gate_activation, (p[:, rz] + q[:, rz]).chunk(2, dim=1))
            q_n = q[:, n]
            if self.reset_bias is not None:
                q_n = q_n + self.reset_bias.view(-1, *(1,) * len(self.kernel_size))
            candidate = self.candidate_activation(p[:, n] + r * q_n)
        else:
            r, z = map(self.gate_activation, (p[:, rz] + self.project_hidden(h, rz)).chunk(2, dim=1))
            candidate = self.candidate_activation(p[:, n] + self.project_hidden(r * h, n))
        self.record_values(r=r, z=z, n=candidate)
        return GRUState((1 - z) * candidate + z * h)


class ConvRNNCell(ConvCell):
    """One step of a plain convolutional RNN: h' = tanh(W * [x, h] + b).

    Args:
        input_dim, hidden_dim, kernel_size, bias: as for `ConvLSTMCell`.
        activation: in place of tanh; a name, a function, a module (copied) or a class of modules.
        options: dilation, padding_mode, recurrent_init and attention, as for `ConvLSTMCell`.
    """

    gates = 1
    state_class = GRUState

    @takes_no_input_size
    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        activation: str | Activation = "tanh",
        **options: Any,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias, **options)
        self.activation = activation_function(activation, "activation")

    def step(self, p: Tensor, state: Any) -> GRUState:
        """The new hidden state from the frame and the old hidden state."""
        (h,) = state
        new = self.activation(self.preactivations(p, h))
        return GRUState(new.to(torch.promote_types(new.dtype, h.dtype)))  # under autocast that of the state
