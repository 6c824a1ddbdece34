"""The plain recurrence h' = activation(W * [x, h] + b)."""

from typing import Any

import torch
from torch import Tensor

from convlstm.cells.convgru import ConvRNNCell
from convlstm.engines.recurrences.activations import activation, activation_backward
from convlstm.engines.recurrences.base import Recurrence
from convlstm.functional.gates import Activation


class RNN(Recurrence):
    """See `Recurrence`; its activation is that of the output, and the cell state is h."""

    name, cell_class = "rnn", ConvRNNCell
    gates = saved_gates = 1

    @classmethod
    def activations(cls, cell: Any) -> tuple[Activation, Activation, Activation]:
        """See `Recurrence.activations`."""
        return torch.sigmoid, torch.tanh, cell.activation

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        cell_state: Tensor,
        h: Tensor,
        saved: Tensor | None,
        parameter: Tensor | None,
    ) -> None:
        """See `Recurrence.forward`."""
        if saved is not None:
            saved.copy_(a)
        self.recompute(a, cell_state, cell_state, None)
        h.copy_(cell_state)

    def recompute(
        self, saved: Tensor, cell_state: Tensor, new_cell_state: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.recompute`."""
        new_cell_state.copy_(activation(self.output, saved.to(cell_state.dtype)))

    def backward(
        self,
        saved: Tensor,
        cell_state: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_cell_state: Tensor,
        d_a: Tensor,
        d_b: Tensor,
        parameter: Tensor | None,
    ) -> None:
        """See `Recurrence.backward`."""
        x = saved.to(cell_state.dtype)
        d = d_cell_state.add_(d_output).add_(d_h)
        d_a.copy_(activation_backward(self.output, d, x, activation(self.output, x)))
        d_cell_state.zero_()
