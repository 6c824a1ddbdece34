"""The causal LSTM and the gradient highway unit of PredRNN++."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, register_state
from convlstm.cells.convolutions import same_convolution
from convlstm.cells.st_lstm import check_memory_width
from convlstm.errors import check_name
from convlstm.validation import check_number

#: Differences of published code from the equations, which weights trained with it need.
_BUGS = ("memory",)


class CausalLSTMState(NamedTuple):
    """State of a causal LSTM: output ``h`` and cell state ``c``, each (B, hidden_dim, *S)."""

    h: Tensor
    c: Tensor


class GHUState(NamedTuple):
    """State of a gradient highway unit: its output ``h``, (B, hidden_dim, *S)."""

    h: Tensor


register_state(CausalLSTMState, "convlstm.cells")
register_state(GHUState, "convlstm.cells")


class CausalLSTMCell(Cell):
    """One step of a causal LSTM (PredRNN++, Wang et al. 2018, arXiv:1804.06300).

    The spatiotemporal memory m is computed from the new cell state c', and the output from both: a step is
    two LSTMs in a row. With ``*`` a convolution and b the forget bias::

        i, f, g, i', f', g', o = W_x * x
        i_h, f_h, g_h, o_h = W_h * h        i_c, f_c, g_c = W_c * c
        c' = sigmoid(f + f_h + f_c + b) c + sigmoid(i + i_h + i_c) tanh(g + g_h + g_c)
        i_m, f_m, m_m = W_m * m             i_2, g_2, f_2, o_2 = W_2 * c'
        m' = sigmoid(f' + f_m + f_2 + b) tanh(m_m) + sigmoid(i' + i_m + i_2) tanh(g' + g_2)
        o  = tanh(o + o_h + o_2 + W_o * m')
        h' = o tanh(W_1 [c', m'])

    All layers of a stack have the same hidden_dim. Gates are stacked in the order of the equations, that of
    the authors' code, which has no biases; as for `STLSTMCell`, its layer normalisation is left out.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h, c and m.
        kernel_size: one odd integer per space axis; of all convolutions but W_1, which is 1x1.
        bias: True to give the gates a bias.
        forget_bias: b, constant.
        published_bug: ``memory`` for the gates of OpenSTL up to version 0.3.0, whose W_c reads m in place of
            c; for weights trained with it.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> layers = ConvLSTM(1, 8, 5, 3, True, cell=[CausalLSTMCell, GHUCell, CausalLSTMCell])
        >>> layers(torch.zeros(2, 6, 1, 16, 16))[0][0].shape
        torch.Size([2, 6, 8, 16, 16])
    """

    spatiotemporal_memory = True

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        forget_bias: float = 1.0,
        published_bug: str | None = None,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        kernel, n = self.kernel_size, self.hidden_dim
        self.forget_bias = check_number(forget_bias, "forget_bias")
        self.published_bug = published_bug
        if published_bug is not None:
            check_name(published_bug, _BUGS, "published_bug")
        self.conv_x = same_convolution(self.input_dim, 7 * n, kernel, bias)
        self.conv_h = same_convolution(n, 4 * n, kernel, bias=False)
        self.conv_c = same_convolution(n, 3 * n, kernel, bias=False)
        self.conv_m = same_convolution(n, 3 * n, kernel, bias=False)
        self.conv_c2m = same_convolution(n, 4 * n, kernel, bias=False)
        self.conv_om = same_convolution(n, n, kernel, bias=False)
        self.conv_last = same_convolution(2 * n, n, (1,) * len(kernel), bias=False)

    def initial_state(self, x: Tensor) -> CausalLSTMState:
        """Zeros, (B, hidden_dim, *S)."""
        zeros = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        return CausalLSTMState(zeros, zeros.clone())

    def project(self, x: Tensor) -> Tensor:
        """The gates' part from the input, (N, 7 hidden_dim, *S)."""
        gates: Tensor = self.conv_x(x)
        return gates

    def step(self, p: Tensor, state: Any, memory: Tensor) -> tuple[CausalLSTMState, Tensor]:  # type: ignore[override]
        """The new state and spatiotemporal memory, (B, hidden_dim, *S)."""
        check_memory_width(self, memory)
        h, c = state
        n = self.hidden_dim
        of_c, i_x, f_x, g_x, o = p.split_with_sizes((3 * n, n, n, n, n), dim=1)
        of_h, o_h = self.conv_h(h).split_with_sizes((3 * n, n), dim=1)
        of_old = self.conv_c(memory if self.published_bug == "memory" else c)
        i, f, g = (of_c + of_h + of_old).chunk(3, dim=1)
        i, f, g = torch.sigmoid(i), torch.sigmoid(f + self.forget_bias), torch.tanh(g)
        c = torch.addcmul(f * c, i, g)
        i_m, f_m, m_m = self.conv_m(memory).chunk(3, dim=1)
        i_2, g_2, f_2, o_2 = self.conv_c2m(c).chunk(4, dim=1)
        f_m = torch.sigmoid(f_x + f_m + f_2 + self.forget_bias)
        i_m, g_m = torch.sigmoid(i_x + i_m + i_2), torch.tanh(g_x + g_2)
        memory = torch.addcmul(f_m * torch.tanh(m_m), i_m, g_m)
        o = torch.tanh(o + o_h + o_2 + self.conv_om(memory))
        self.record_values(i=i, f=f, o=o, g=g, i_m=i_m, f_m=f_m, g_m=g_m)
        h = o * torch.tanh(self.conv_last(torch.cat([c, memory], dim=1)))
        return CausalLSTMState(h, c), memory

    def extra_repr(self) -> str:
        """The options."""
        bug = f", published_bug={self.published_bug!r}" if self.published_bug else ""
        return f"forget_bias={self.forget_bias}{bug}"


class GHUCell(Cell):
    """One step of a gradient highway unit (PredRNN++, Wang et al. 2018, arXiv:1804.06300).

    Between the layers of a stack it gives gradients a short way back through time. With ``*`` a convolution::

        p, u = W_x * x + W_h * h
        h' = sigmoid(u) tanh(p) + (1 - sigmoid(u)) h

    Weights are drawn evenly from -0.001 to 0.001, as by the authors, who have no biases.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h.
        kernel_size: one odd integer per space axis.
        bias: True to give p and u a bias.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.conv_x = same_convolution(self.input_dim, 2 * self.hidden_dim, self.kernel_size, bias)
        self.conv_h = same_convolution(self.hidden_dim, 2 * self.hidden_dim, self.kernel_size, bias=False)
        for conv in (self.conv_x, self.conv_h):
            nn.init.uniform_(conv.get_parameter("weight"), -0.001, 0.001)

    def initial_state(self, x: Tensor) -> GHUState:
        """Zeros, (B, hidden_dim, *S)."""
        return GHUState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x: Tensor) -> Tensor:
        """The part from the input, (N, 2 hidden_dim, *S)."""
        gates: Tensor = self.conv_x(x)
        return gates

    def step(self, p: Tensor, state: Any) -> GHUState:
        """The new state."""
        candidate, update = (p + self.conv_h(state.h)).chunk(2, dim=1)
        p, u = torch.tanh(candidate), torch.sigmoid(update)
        self.record_values(p=p, u=u)
        return GHUState(torch.addcmul(state.h, u, p - state.h))
