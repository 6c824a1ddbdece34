"""The convolutional LSTM."""

from typing import NamedTuple

import torch
from torch import Tensor

from convlstm.cells.base import Cell, conv_module
from convlstm.errors import OptionError
from convlstm.functional.conv import same_conv
from convlstm.functional.gates import lstm_gates


class LSTMState(NamedTuple):
    """State of an LSTM: output ``h`` and memory ``c``, each (B, hidden_dim, *S)."""

    h: Tensor
    c: Tensor


class ConvLSTMCell(Cell):
    """One step of a convolutional LSTM (Shi et al. 2015, arXiv:1506.04214, equation 3, without peepholes).

    With ``*`` a convolution that keeps the size and the four gates stacked in the order **i, f, o, g**::

        i, f, o, g = W * [x, h] + b
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    ``conv.weight`` is (4 hidden_dim, input_dim + hidden_dim, *kernel_size) and ``conv.bias`` (4 hidden_dim,):
    the layout of the widely copied single-file ConvLSTM, so that its weights load unchanged.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h and c.
        kernel_size: one integer per space axis, one to three; a single integer is a square kernel in 2-D.
        bias: whether the gates have a bias.
        forget_bias: added to the initial bias of the forget gate; 1 lets a fresh cell remember (Jozefowicz et
            al. 2015), 0 is the initialisation of the single-file original.

    Example:
        >>> import torch
        >>> h, c = ConvLSTMCell(3, 8, (3, 3))(torch.zeros(2, 3, 16, 20))
        >>> h.shape
        torch.Size([2, 8, 16, 20])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.conv = conv_module(input_dim + hidden_dim, 4 * hidden_dim, self.kernel_size, bias)
        if forget_bias and not bias:
            raise OptionError(
                f"forget_bias needs bias=True; received forget_bias={forget_bias} with bias=False"
            )
        if self.conv.bias is not None:
            with torch.no_grad():
                self.conv.bias[hidden_dim : 2 * hidden_dim] += forget_bias

    def initial_state(self, x: Tensor) -> LSTMState:
        """Zeros, (B, hidden_dim, *S)."""
        zeros = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        return LSTMState(zeros, zeros)

    def init_hidden(self, batch_size: int, image_size: tuple[int, ...]) -> LSTMState:
        """Zeros for a batch and an image size, with the parameters' device and dtype."""
        zeros = self.conv.weight.new_zeros(batch_size, self.hidden_dim, *image_size)
        return LSTMState(zeros, zeros)

    def project(self, x: Tensor) -> Tensor:
        """The input's part of the four gates, (N, 4 hidden_dim, *S)."""
        return same_conv(x, self.conv.weight[:, : self.input_dim], self.conv.bias)

    def step(self, p: Tensor, state: tuple[Tensor, Tensor]) -> LSTMState:
        """Add the hidden state's part and update the memory."""
        h, c = state
        gates = p + same_conv(h, self.conv.weight[:, self.input_dim :])
        return LSTMState(*lstm_gates(gates, c))
