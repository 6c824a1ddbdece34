"""The eidetic LSTM of E3D-LSTM."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, register_state
from convlstm.cells.convolutions import SAME_CONV
from convlstm.cells.group_norm import GroupNorm
from convlstm.cells.st_lstm import check_memory_width
from convlstm.functional.attention import attend
from convlstm.validation import check_bool, check_number, check_positive


class E3DLSTMState(NamedTuple):
    """State of `E3DLSTMCell`.

    Attributes:
        h: the output, (B, hidden_dim, *S).
        c: the last cell states, oldest first, (B, history, hidden_dim, *S).
        steps: (B,) int64, the number of steps so far, which tells how many of them there are.
    """

    h: Tensor
    c: Tensor
    steps: Tensor


register_state(E3DLSTMState, "convlstm.cells")


class E3DLSTMCell(Cell):
    """One step of an eidetic LSTM (E3D-LSTM, Wang et al. 2019, ICLR, equations 2 to 5).

    Its convolutions are meant for clips: three space axes, of which the first is time within a window. Each
    position of the recall gate r looks at all positions of the cell states C of the last steps. The
    spatiotemporal memory m, the paper's global memory, comes from the layer below, and from the top layer of
    the step before for the lowest one. With ``*`` a convolution, b the forget bias and LN a layer
    normalisation::

        i, g, r, o, i', g', f' = W_x * x
        i_h, g_h, r_h, o_h = W_h * h
        i_m, f_m, g_m, m_m = W_m * m
        recall = softmax(sigmoid(r + r_h) C^T) C
        c' = LN(c + recall) + sigmoid(i + i_h) tanh(g + g_h)
        m' = sigmoid(f' + f_m + b) tanh(m_m) + sigmoid(i' + i_m) tanh(g' + g_m)
        o  = sigmoid(tanh(o + o_h + W_o * [c', m']))
        h' = o tanh(W_1 [c', m'])

    The equations are those of the authors' code (the paper forgets m itself, and has no tanh in o). In it and
    in OpenSTL's the memory never changes, as a step returns the one that it was given; OpenSTL's recall also
    mixes channels with positions. Both are right here, so weights trained with that code mean something else
    (`convlstm.models.from_published` repeats it). The authors' code recalls all steps, and memory and time
    grow with their number; here the last ``history`` ones. Convolutions keep the size of all axes by zeros
    around them; OpenSTL's have no border along the window, and repeat the one map that they give for a window
    of two. A recall takes time as history times the square of the number of positions, and of it the cell
    states alone are kept for the backward pass. LN has a weight per channel, as in the authors' code, for
    frames of any size.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h, c and m.
        kernel_size: one integer per space axis; of all convolutions but W_1, which is 1x1. An even one
            reaches one position further towards the end of its axis than towards the start.
        bias: True to give the gates a bias.
        history: number of cell states that are recalled.
        forget_bias: b, constant.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> layers = ConvLSTM(1, [8, 8], (2, 5, 5), batch_first=True, cell=E3DLSTMCell)
        >>> layers(torch.zeros(1, 4, 1, 2, 8, 8))[0][0].shape
        torch.Size([1, 4, 8, 2, 8, 8])
    """

    spatiotemporal_memory = True

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        history: int = 5,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        n, bias, axes = self.hidden_dim, check_bool(bias, "bias"), len(self.kernel_size)
        self.history = check_positive(history, "history")
        self.forget_bias = check_number(forget_bias, "forget_bias")

        def convolution(inputs: int, outputs: int, kernel: tuple[int, ...], bias: bool = False) -> nn.Module:
            conv: nn.Module = SAME_CONV[axes](inputs, outputs, kernel, padding="same", bias=bias)
            return conv

        self.conv_x = convolution(self.input_dim, 7 * n, self.kernel_size, bias)
        self.conv_h = convolution(n, 4 * n, self.kernel_size)
        self.conv_m = convolution(n, 4 * n, self.kernel_size, bias)
        self.conv_o = convolution(2 * n, n, self.kernel_size)
        self.conv_last = convolution(2 * n, n, (1,) * axes)
        self.norm: nn.Module = GroupNorm(1, n)

    def initial_state(self, x: Tensor) -> E3DLSTMState:
        """Zeros, and a history of one cell state, which is zero."""
        h = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        c = x.new_zeros(x.shape[0], self.history, self.hidden_dim, *x.shape[2:])
        return E3DLSTMState(h, c, x.new_zeros(x.shape[0], dtype=torch.int64))

    def project(self, x: Tensor) -> Tensor:
        """The gates' part from the input, (N, 7 hidden_dim, *S)."""
        gates: Tensor = self.conv_x(x)
        return gates

    def step(self, p: Tensor, state: Any, memory: Tensor) -> tuple[E3DLSTMState, Tensor]:  # type: ignore[override]
        """The new state and spatiotemporal memory, (B, hidden_dim, *S)."""
        check_memory_width(self, memory)
        h, history, steps = state
        i, g, r, o, i_m, g_m, f_m = p.chunk(7, dim=1)
        i_h, g_h, r_h, o_h = self.conv_h(h).chunk(4, dim=1)
        r, i, g = torch.sigmoid(r + r_h), torch.sigmoid(i + i_h), torch.tanh(g + g_h)
        recalled = self._recall(r, history, steps)
        before = history.unbind(1)
        c = self.norm(before[-1] + recalled) + i * g
        i_mm, f_mm, g_mm, m = self.conv_m(memory).chunk(4, dim=1)
        f_m = torch.sigmoid(f_m + f_mm + self.forget_bias)
        i_m, g_m = torch.sigmoid(i_m + i_mm), torch.tanh(g_m + g_mm)
        memory = f_m * torch.tanh(m) + i_m * g_m
        both = torch.cat([c, memory], dim=1)
        o = torch.sigmoid(torch.tanh(o + o_h + self.conv_o(both)))
        self.record_values(i=i, r=r, o=o, g=g, i_m=i_m, f_m=f_m, g_m=g_m)
        h = o * torch.tanh(self.conv_last(both))
        history = torch.stack([*before[1:], c.to(history.dtype)], dim=1)
        return E3DLSTMState(h, history, steps + 1), memory

    def _recall(self, query: Tensor, history: Tensor, steps: Tensor) -> Tensor:
        """For each position of a query (B, C, *S), the mean of the history that the softmax weighs."""
        size, query_BCP = query.shape[2:], query.flatten(2)

        def record(weights: Tensor) -> None:  # maps of each query and step of the history
            self.record_values(attention=(weights, lambda w: w.reshape(len(w), -1, *size)))

        fewest, most = self._filled(steps)
        memories_BCN = history[:, self.history - most :].transpose(1, 2).flatten(2)
        empty_B1N = None
        if fewest < most:
            age = torch.arange(most - 1, -1, -1, device=steps.device)
            empty_BJ1 = (age > steps[:, None])[:, :, None]
            empty_B1N = empty_BJ1.expand(-1, -1, query_BCP.shape[2]).flatten(1).unsqueeze(1)
        recalled_BCP = attend(
            query_BCP, memories_BCN, memories_BCN, record if self._recorders else None, empty=empty_B1N
        )
        return recalled_BCP.view_as(query)

    def _filled(self, steps: Tensor) -> tuple[int, int]:
        """The fewest and the most cell states in the history of a sample.

        None and all where Python cannot tell, and where weights are recorded, of equal shape at each step.
        """
        if self._recorders or not _can_be_read(steps):
            return 0, self.history
        fewest, most = (min(self.history, int(end) + 1) for end in steps.aminmax())
        return fewest, most

    def extra_repr(self) -> str:
        """The options."""
        return f"history={self.history}, forget_bias={self.forget_bias}"


def _can_be_read(x: Tensor) -> bool:
    """True if Python may decide by a tensor's values: on a CPU, while nothing is traced or transformed."""
    if torch.compiler.is_compiling():  # asked alone, as what follows breaks the graph of a compiler
        return False
    traced = torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack()
    traced = traced or torch._C._are_functorch_transforms_active()
    return type(x) is Tensor and x.device.type == "cpu" and not traced
