"""The plain recurrence h' = activation(W * [x, h] + b)."""

from torch import Tensor

from convlstm.cells.convgru import ConvRNNCell
from convlstm.engines.recurrences.activations import activation, activation_backward
from convlstm.engines.recurrences.base import Recurrence, StepBuffers, StepGradients


class RNN(Recurrence):
    """See `Recurrence`; its activation is that of the output, and the cell state is h."""

    name, cell_class = "rnn", ConvRNNCell
    activation_attributes = "", "", "activation"
    gates = saved_gates = 1

    def forward(self, buffers: StepBuffers) -> None:
        """See `Recurrence.forward`."""
        a, _, cell_state, h, saved, _ = buffers
        if saved is not None:
            saved.copy_(a)
        self.recompute(a, cell_state, cell_state, None)
        h.copy_(cell_state)

    def recompute(self, saved: Tensor, before: Tensor, after: Tensor, parameter: Tensor | None) -> None:
        """See `Recurrence.recompute`."""
        after.copy_(activation(self.output, saved.to(before.dtype)))

    def backward(self, gradients: StepGradients) -> None:
        """See `Recurrence.backward`."""
        saved, cell_state, d_output, d_h, d_cell_state, d_a, _, _ = gradients
        x = saved.to(cell_state.dtype)
        d = d_cell_state.add_(d_output).add_(d_h)
        d_a.copy_(activation_backward(self.output, d, x, activation(self.output, x)))
        d_cell_state.zero_()
