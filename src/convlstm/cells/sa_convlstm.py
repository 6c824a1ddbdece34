"""The convolutional LSTM with a self-attention memory."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, register_state
from convlstm.cells.convlstm import ConvLSTMCell, LSTMState
from convlstm.cells.original import takes_no_input_size
from convlstm.functional.attention import attend, sa_memory_update
from convlstm.validation import check_positive


class SAState(NamedTuple):
    """State of `SAConvLSTMCell`: output, LSTM memory and attention memory, each (B, hidden_dim, *S)."""

    h: Tensor
    c: Tensor
    m: Tensor


register_state(SAState, "convlstm.cells")


class SAConvLSTMCell(Cell):
    """One step of a self-attention ConvLSTM (Lin et al. 2020, doi:10.1609/aaai.v34i07.6819).

    A `ConvLSTMCell` gives h and c'. Every pixel of h then looks at every pixel of h and of the memory m, with
    queries, keys and values from 1x1 convolutions, and what it finds updates m and the output::

        z_h = softmax(q(h) k(h)^T) v(h)
        z_m = softmax(q(h) k_m(m)^T) v_m(m)
        i, g, o = W * [U * [z_h, z_m], h] + b
        m' = (1 - sigmoid(i)) m + sigmoid(i) tanh(g)
        h' = sigmoid(o) m'

    Time of a step grows with the square of the number of pixels: use it on small maps. The softmax, of as
    many values, is kept for the backward pass only if it is small.

    Args:
        input_dim, hidden_dim, kernel_size, bias: of the LSTM, as for `ConvLSTMCell`.
        attention_dim: channels of queries and keys; a quarter of hidden_dim (at least 1) if None.
        mix_dim: channels that U gives; hidden_dim if None, as in the paper.
        options: further options of `ConvLSTMCell`, such as ``peephole="channel"`` (the paper has peepholes).
    """

    @takes_no_input_size
    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        attention_dim: int | None = None,
        mix_dim: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        if attention_dim is None:
            attention_dim = max(1, hidden_dim // 4)
        width = check_positive(attention_dim, "attention_dim")
        self.lstm = ConvLSTMCell(input_dim, hidden_dim, kernel_size, bias, **options)
        self.query = nn.Conv1d(hidden_dim, width, 1)
        self.key, self.key_m = nn.Conv1d(hidden_dim, width, 1), nn.Conv1d(hidden_dim, width, 1)
        self.value, self.value_m = nn.Conv1d(hidden_dim, hidden_dim, 1), nn.Conv1d(hidden_dim, hidden_dim, 1)
        mixed = check_positive(hidden_dim if mix_dim is None else mix_dim, "mix_dim")
        self.mix = nn.Conv1d(2 * hidden_dim, mixed, 1)
        self.gates = nn.Conv1d(mixed + hidden_dim, 3 * hidden_dim, 1)

    def initial_state(self, x: Tensor) -> SAState:
        """Zeros, (B, hidden_dim, *S)."""
        h, c = self.lstm.initial_state(x)
        return SAState(h, c, h.clone())

    def project(self, x: Tensor) -> Tensor:
        """`project` of the LSTM."""
        return self.lstm.project(x)

    def step(self, p: Tensor, state: Any) -> SAState:
        """The LSTM's step, then self-attention over h and the memory."""
        h, c, m = state
        h, c = self.lstm.step(p, LSTMState(h, c))
        h_BCN, m_BCN = h.flatten(2), m.flatten(2)
        query = self.query(h_BCN)
        recorder = partial(self._recorder, h.shape[2:])
        z_h = attend(query, self.key(h_BCN), self.value(h_BCN), recorder("attention"))
        z_m = attend(query, self.key_m(m_BCN), self.value_m(m_BCN), recorder("attention_m"))
        z = self.mix(torch.cat([z_h, z_m], dim=1))
        h_BCN, m_BCN = sa_memory_update(
            self.gates(torch.cat([z, h_BCN], dim=1)),
            m_BCN,
            record=recorder("i_m", "g_m", "o_m"),
        )
        return SAState(h_BCN.view_as(h), c, m_BCN.view_as(m))

    def _recorder(self, size: torch.Size, *names: str) -> Callable[..., None] | None:
        """A function that records (B, C, pixels) under names, as (B, C, *S); None if nothing is recorded."""
        if not self._recorders:
            return None

        def record(*values: Tensor, **named: Tensor) -> None:
            pairs = zip(names, (*values, *named.values()), strict=True)
            self.record_values(**{name: (x, lambda x: x.unflatten(2, size)) for name, x in pairs})

        return record
