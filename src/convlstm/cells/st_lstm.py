"""The spatiotemporal LSTM of PredRNN."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.cells.base import Cell, register_state
from convlstm.cells.convolutions import same_convolution
from convlstm.errors import ShapeError
from convlstm.validation import check_number


class STLSTMState(NamedTuple):
    """State of an ST-LSTM: output ``h`` and cell state ``c``, each (B, hidden_dim, *S)."""

    h: Tensor
    c: Tensor


register_state(STLSTMState, "convlstm.cells")


class STLSTMIncrements(NamedTuple):
    """Increments of the cell state and of the spatiotemporal memory in a step, (B, hidden_dim, *S) each."""

    c: Tensor
    m: Tensor


class STLSTMCell(Cell):
    """One step of a spatiotemporal LSTM (PredRNN, Wang et al. 2017, NeurIPS 30; 2022, arXiv:2103.09504).

    The spatiotemporal memory m comes from the layer below, and from the top layer of the step before for the
    lowest one, so all layers have the same hidden_dim. With ``*`` a convolution and b the forget bias::

        i, f, g, i', f', g', o = W_x * x
        c' = sigmoid(f + f_h + b) c + sigmoid(i + i_h) tanh(g + g_h)        i_h, f_h, g_h, o_h = W_h * h
        m' = sigmoid(f' + f_m + b) m + sigmoid(i' + i_m) tanh(g' + g_m)     i_m, f_m, g_m = W_m * m
        o  = sigmoid(o + o_h + W_o * [c', m'])
        h' = o tanh(W_1 [c', m'])

    Gates are stacked in the order of the equations, that of the authors' code, which has no biases. Their
    layer normalisation over channels and pixels is left out, as its weights are tied to one size of frames.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h, c and m.
        kernel_size: one odd integer per space axis; of all convolutions but W_1, which is 1x1.
        bias: True to give the gates a bias.
        forget_bias: b, constant.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> layers = ConvLSTM(1, 8, 5, 3, batch_first=True, cell=STLSTMCell)
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
        self.conv_x = same_convolution(self.input_dim, 7 * n, kernel, bias)
        self.conv_h = same_convolution(n, 4 * n, kernel, bias=False)
        self.conv_m = same_convolution(n, 3 * n, kernel, bias=False)
        self.conv_o = same_convolution(2 * n, n, kernel, bias=False)
        self.conv_last = same_convolution(2 * n, n, (1,) * len(kernel), bias=False)

    def initial_state(self, x: Tensor) -> STLSTMState:
        """Zeros, (B, hidden_dim, *S)."""
        zeros = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        return STLSTMState(zeros, zeros.clone())

    def project(self, x: Tensor) -> Tensor:
        """The gates' part from the input, (N, 7 hidden_dim, *S)."""
        gates: Tensor = self.conv_x(x)
        return gates

    def step(self, p: Tensor, state: Any, memory: Tensor) -> tuple[STLSTMState, Tensor]:  # type: ignore[override]
        """The new state and spatiotemporal memory, (B, hidden_dim, *S)."""
        return self.update(p, state, memory)[:2]

    def update(
        self, p: Tensor, state: STLSTMState, memory: Tensor
    ) -> tuple[STLSTMState, Tensor, STLSTMIncrements]:
        """A step, with what it adds to the two memories, which the decoupling loss of PredRNN-V2 compares."""
        check_memory_width(self, memory)
        h, c = state
        n = self.hidden_dim
        of_c, of_m, o = p.split_with_sizes((3 * n, 3 * n, n), dim=1)
        of_h, o_h = self.conv_h(h).split_with_sizes((3 * n, n), dim=1)
        i, f, g = (of_c + of_h).chunk(3, dim=1)
        i, f, g = torch.sigmoid(i), torch.sigmoid(f + self.forget_bias), torch.tanh(g)
        add_c = i * g
        c = torch.addcmul(add_c, f, c)
        i_m, f_m, g_m = (of_m + self.conv_m(memory)).chunk(3, dim=1)
        i_m, f_m, g_m = torch.sigmoid(i_m), torch.sigmoid(f_m + self.forget_bias), torch.tanh(g_m)
        add_m = i_m * g_m
        memory = torch.addcmul(add_m, f_m, memory)
        both = torch.cat([c, memory], dim=1)
        o = torch.sigmoid(o + o_h + self.conv_o(both))
        self.record_values(i=i, f=f, o=o, g=g, i_m=i_m, f_m=f_m, g_m=g_m)
        h = o * torch.tanh(self.conv_last(both))
        return STLSTMState(h, c), memory, STLSTMIncrements(add_c, add_m)

    def extra_repr(self) -> str:
        """The options."""
        return f"forget_bias={self.forget_bias}"


def check_memory_width(cell: Cell, memory: Tensor) -> None:
    """Check that a spatiotemporal memory has as many channels as the cell.

    Raises:
        ShapeError: it comes from a layer of another hidden_dim.
    """
    if memory.shape[1] != cell.hidden_dim:
        raise ShapeError(
            f"the spatiotemporal memory must have hidden_dim={cell.hidden_dim} channels; received "
            f"{memory.shape[1]}: give all layers of the stack the same hidden_dim"
        )
