"""The memory in memory (MIM): its two modules, and the cell that is made of them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, register_state
from convlstm.cells.convlstm import LSTMState
from convlstm.cells.convolutions import same_convolution
from convlstm.cells.st_lstm import check_memory_width
from convlstm.validation import check_number


class MIMNState(NamedTuple):
    """State of `MIMNCell`.

    Attributes:
        h: the output, (B, hidden_dim, *S).
        c: the cell state, (B, hidden_dim, *S).
        x: the input of the step before, (B, input_dim, *S).
        begun: (B,) bool, true after the first step.
    """

    h: Tensor
    c: Tensor
    x: Tensor
    begun: Tensor


class MIMState(NamedTuple):
    """State of `MIMCell`.

    Attributes:
        h: the output, and c: the cell state, (B, hidden_dim, *S).
        d: the output of the non-stationary module, and n: its cell state, (B, hidden_dim, *S).
        s: the cell state of the stationary module, (B, hidden_dim, *S).
        x: the input of the step before, (B, input_dim, *S).
        begun: (B,) bool, true after the first step.
    """

    h: Tensor
    c: Tensor
    d: Tensor
    n: Tensor
    s: Tensor
    x: Tensor
    begun: Tensor


register_state(MIMNState, "convlstm.cells")
register_state(MIMState, "convlstm.cells")


class MIMSCell(Cell):
    """One step of the stationary module of MIM (Wang et al. 2019, arXiv:1811.07490), an LSTM with peepholes.

    With ``*`` a convolution, w the peepholes and b the forget bias::

        i, g, f, o = W_x * x + W_h * h
        c' = sigmoid(f + w_f c + b) c + sigmoid(i + w_i c) tanh(g)
        h' = sigmoid(o + w_o c') tanh(c')

    Gates and peepholes are stacked in the order of the authors' code. There each pixel has its own peepholes,
    which tie the code to one size of frames; here each channel has.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h and c.
        kernel_size: one odd integer per space axis.
        bias: True to give the gates a bias.
        forget_bias: b, constant.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        n, axes = self.hidden_dim, len(self.kernel_size)
        self.forget_bias = check_number(forget_bias, "forget_bias")
        self.conv_x = same_convolution(self.input_dim, 4 * n, self.kernel_size, bias)
        self.conv_h = same_convolution(n, 4 * n, self.kernel_size, bias=False)
        self.peephole = nn.Parameter(torch.zeros(3, n, *(1,) * axes))

    def initial_state(self, x: Tensor) -> LSTMState:
        """Zeros, (B, hidden_dim, *S)."""
        zeros = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        return LSTMState(zeros, zeros.clone())

    def project(self, x: Tensor) -> Tensor:
        """The gates' part from the input, (N, 4 hidden_dim, *S)."""
        gates: Tensor = self.conv_x(x)
        return gates

    def step(self, p: Tensor, state: Any) -> LSTMState:
        """The new output and cell state."""
        h, c = state
        w_i, w_f, w_o = self.peephole.unbind()
        i, g, f, o = (p + self.conv_h(h)).chunk(4, dim=1)
        i, f, g = torch.sigmoid(i + w_i * c), torch.sigmoid(f + w_f * c + self.forget_bias), torch.tanh(g)
        c = f * c + i * g
        o = torch.sigmoid(o + w_o * c)
        self.record_values(i=i, f=f, o=o, g=g)
        return LSTMState(o * torch.tanh(c), c)

    def extra_repr(self) -> str:
        """The options."""
        return f"forget_bias={self.forget_bias}"


class MIMNCell(Cell):
    """One step of the non-stationary module of MIM (Wang et al. 2019): a `MIMSCell` that reads differences.

    Its input is ``x_t - x_(t-1)``, zero at the first step::

        d_t, n_t = lstm(x_t - x_(t-1), d_(t-1), n_(t-1))

    Args:
        input_dim, hidden_dim, kernel_size, bias, forget_bias: as for `MIMSCell`.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.lstm = MIMSCell(input_dim, hidden_dim, kernel_size, bias, forget_bias=forget_bias)

    def initial_state(self, x: Tensor) -> MIMNState:
        """Zeros, and no step before."""
        begun = x.new_zeros(x.shape[0], dtype=torch.bool)
        return MIMNState(*self.lstm.initial_state(x), x.new_zeros(x.shape), begun)

    def project(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def step(self, p: Tensor, state: Any) -> MIMNState:
        """The new output and cell state, and the input for the next difference."""
        h, c, before, begun = state
        as_flag = begun.view(-1, *(1,) * (p.ndim - 1))
        change = torch.where(as_flag, p - before, 0)
        h, c = self.lstm.step(self.lstm.project(change), LSTMState(h, c))
        return MIMNState(h, c, p.to(before.dtype), torch.ones_like(begun))


class MIMCell(Cell):
    """One step of a memory in memory (Wang et al. 2019, arXiv:1811.07490, equations 3 to 5).

    An ST-LSTM whose forget gate is replaced by two modules: the non-stationary one reads how the input
    changes, the stationary one reads that and the cell state. With b the forget bias::

        d, n = MIMN(x, d, n)                               the change of x since the step before
        t, s = MIMS(d, c, s)                               with c in the place of its output
        i, g, f, o = W_x * x
        i_h, g_h, o_h = W_h * h
        i_m, g_m, f_m, o_m = W_m * m
        c' = t + sigmoid(i + i_h) tanh(g + g_h)
        m' = sigmoid(f + f_m + b) m + sigmoid(i + i_m) tanh(g + g_m)
        h' = sigmoid(o + o_h + o_m) tanh(W_1 [c', m'])

    The gates are those of the authors' code. Three things differ from public code. Each layer reads the
    difference of its own input, as in the paper's equations; there all but the lowest read the output of the
    lower layer's non-stationary module instead. Peepholes are per channel, there per pixel. And all that is
    remembered is in the state; OpenSTL's keeps s on the module, from one batch to the next.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h, c, m and the two modules.
        kernel_size: one odd integer per space axis; of all convolutions but W_1, which is 1x1.
        bias: True to give the gates a bias.
        forget_bias: b, constant, in all three places.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> from convlstm.cells import STLSTMCell
        >>> layers = ConvLSTM(1, [8, 8], 5, batch_first=True, cell=[STLSTMCell, MIMCell])
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
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        kernel, n = self.kernel_size, self.hidden_dim
        self.forget_bias = check_number(forget_bias, "forget_bias")
        self.non_stationary = MIMNCell(self.input_dim, n, kernel, bias, forget_bias=forget_bias)
        self.stationary = MIMSCell(n, n, kernel, bias, forget_bias=forget_bias)
        self.conv_x = same_convolution(self.input_dim, 4 * n, kernel, bias)
        self.conv_h = same_convolution(n, 3 * n, kernel, bias=False)
        self.conv_m = same_convolution(n, 4 * n, kernel, bias=False)
        self.conv_last = same_convolution(2 * n, n, (1,) * len(kernel), bias=False)

    def initial_state(self, x: Tensor) -> MIMState:
        """Zeros, and no step before."""
        d, n, before, begun = self.non_stationary.initial_state(x)
        return MIMState(d.clone(), d.clone(), d, n, d.clone(), before, begun)

    def project(self, x: Tensor) -> Tensor:
        """The input itself, of which the step needs the change too."""
        return x

    def step(self, p: Tensor, state: Any, memory: Tensor) -> tuple[MIMState, Tensor]:  # type: ignore[override]
        """The new state and spatiotemporal memory, (B, hidden_dim, *S)."""
        _, _, d, n, _, before, begun = state
        return self.update(p, state, memory, self.non_stationary.step(p, MIMNState(d, n, before, begun)))

    def update(self, p: Tensor, state: Any, memory: Tensor, change: MIMNState) -> tuple[MIMState, Tensor]:
        """A step after that of the non-stationary module, whose new state is ``change``."""
        check_memory_width(self, memory)
        h, c, _, _, s, _, _ = state
        d, n, before, begun = change
        t, s = self.stationary.step(self.stationary.project(d), LSTMState(c, s))
        i, g, f, o = self.conv_x(p).chunk(4, dim=1)
        i_h, g_h, o_h = self.conv_h(h).chunk(3, dim=1)
        i_m, g_m, f_m, o_m = self.conv_m(memory).chunk(4, dim=1)
        i_m, f_m, g_m = torch.sigmoid(i + i_m), torch.sigmoid(f + f_m + self.forget_bias), torch.tanh(g + g_m)
        i, g = torch.sigmoid(i + i_h), torch.tanh(g + g_h)
        c, memory = t + i * g, f_m * memory + i_m * g_m
        both = torch.cat([c, memory], dim=1)
        o = torch.sigmoid(o + o_h + o_m)
        self.record_values(i=i, o=o, g=g, i_m=i_m, f_m=f_m, g_m=g_m)
        h = o * torch.tanh(self.conv_last(both))
        return MIMState(h, c, d, n, s, before, begun), memory

    def extra_repr(self) -> str:
        """The options."""
        return f"forget_bias={self.forget_bias}"
