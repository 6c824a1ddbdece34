"""The convolutional GRU and the plain convolutional RNN."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import register_state
from convlstm.cells.conv_cell import ConvCell, activation_function
from convlstm.cells.original import takes_no_input_size
from convlstm.functional.gates import Activation


class GRUState(NamedTuple):
    """State of a GRU or a plain recurrence: the output ``h``, (B, hidden_dim, *S)."""

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

    ``conv.weight`` is (3 hidden_dim, input_dim + hidden_dim, *kernel_size), [W, U], whose halves are applied
    apart, so that hooks on ``conv`` hear nothing; ``conv.bias`` is (3 hidden_dim,); ``reset_bias``
    (hidden_dim,) is b_u. An adapter around ``conv``, as of peft, is called on each half beside zeros.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h.
        kernel_size: one integer per space axis, one to three; a single integer is a square kernel in 2-D.
        bias: whether the gates have a bias.
        reset_after: whether the reset gate acts after the convolution over the hidden state.
        gate_activation: of r and z; as for `ConvLSTMCell`.
        candidate_activation: of n.
        dilation: distance between the kernel's taps, for all axes or per space axis.
        padding_mode: zeros, replicate, reflect or circular, for all axes or per space axis.
        recurrent_init: ``default`` or ``orthogonal``.
        attention: on the hidden state before the gates: ``spatial``, ``channel``, a module (copied) or what
            builds one from hidden_dim.
    """

    gates = 3
    state_class = GRUState
    one_sum = False

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
        dilation: int | Sequence[int] = 1,
        padding_mode: str | Sequence[str] = "zeros",
        recurrent_init: str = "default",
        attention: str | nn.Module | Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__(
            input_dim,
            hidden_dim,
            kernel_size,
            bias,
            dilation=dilation,
            padding_mode=padding_mode,
            recurrent_init=recurrent_init,
            attention=attention,
        )
        self.reset_after = reset_after
        self.gate_activation = activation_function(gate_activation, "gate_activation")
        self.candidate_activation = activation_function(candidate_activation, "candidate_activation")
        self.reset_bias = nn.Parameter(torch.zeros(hidden_dim)) if reset_after and bias else None

    def step(self, p: Tensor, state: Any) -> GRUState:
        """Reset, propose, and mix with the old state."""
        (h,) = state
        two = 2 * self.hidden_dim
        p_rz, p_n = p[:, :two], p[:, two:]
        if self.reset_after:
            sums = self.recur(h)
            r, z = map(self.gate_activation, (p_rz + sums[:, :two]).chunk(2, dim=1))
            proposal = sums[:, two:]
            if self.reset_bias is not None:
                proposal = proposal + self.reset_bias.view(-1, *(1,) * len(self.kernel_size))
            n = self.candidate_activation(p_n + r * proposal)
        else:
            r, z = map(self.gate_activation, (p_rz + self.recur(h, slice(0, two))).chunk(2, dim=1))
            n = self.candidate_activation(p_n + self.recur(r * h, slice(two, None)))
        return GRUState((1 - z) * n + z * h)


class ConvRNNCell(ConvCell):
    """One step of a plain convolutional recurrence: h' = tanh(W * [x, h] + b).

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h.
        kernel_size: one integer per space axis, one to three; a single integer is a square kernel in 2-D.
        bias: whether there is a bias.
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
        """Add the hidden state's part and squash."""
        (h,) = state
        return GRUState(self.activation(self.sums(p, h)))
