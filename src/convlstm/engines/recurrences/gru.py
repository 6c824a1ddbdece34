"""The GRU whose reset gate acts after the convolution. The parameter besides the convolution is a bias."""

from typing import Any

import torch
from torch import Tensor

from convlstm.cells.convgru import ConvGRUCell
from convlstm.engines.recurrences.activations import activation, activation_backward
from convlstm.engines.recurrences.base import (
    Recurrence,
    StepBuffers,
    StepGradients,
    by_gate,
    flatten_pixels,
    saved_planes,
)


class GRU(Recurrence):
    """See `Recurrence`; gates in the order r, z, n.

    The cell state is h. The parameter is the bias (C,) of the hidden state's part of n; prepared it is
    (1, C), zeros for None. Saved are the pre-activations of r and z, and the two parts of n.
    """

    name, cell_class, parameter_attribute = "gru", ConvGRUCell, "reset_bias"
    gates, saved_gates = 3, 4
    only_added = False

    @classmethod
    def not_supported_reasons(cls, cell: Any) -> list[str]:
        """See `Recurrence.not_supported_reasons`."""
        reasons = super().not_supported_reasons(cell)
        return reasons if cell.reset_after else [*reasons, "it has no reset_after=False"]

    @classmethod
    def prepare(cls, parameter: Tensor | None, cell_state: Tensor) -> Tensor:
        """See `Recurrence.prepare`."""
        zeros = cell_state.new_zeros(1, cell_state.shape[-1])
        return zeros if parameter is None else zeros.copy_(parameter)

    def forward(self, buffers: StepBuffers) -> None:
        """See `Recurrence.forward`."""
        a, b, cell_state, h, saved, parameter = buffers
        assert b is not None
        assert parameter is not None
        a, b, state = by_gate(a, 3), by_gate(b, 3), flatten_pixels(cell_state)
        r, z = b[:, 0].add_(a[:, 0]), b[:, 1].add_(a[:, 1])
        x, y = a[:, 2], b[:, 2].add_(parameter.to(b.dtype))
        planes = torch.stack((r, z, x, y), out=None if saved is None else saved_planes(saved, 4))
        self._new_state(planes.to(state.dtype), state, state)
        h.copy_(cell_state)

    def recompute(self, saved: Tensor, before: Tensor, after: Tensor, parameter: Tensor | None) -> None:
        """See `Recurrence.recompute`."""
        state, out = flatten_pixels(before), flatten_pixels(after)
        self._new_state(saved_planes(saved, 4).to(state.dtype), state, out)

    def _new_state(self, planes: Tensor, state: Tensor, out: Tensor) -> None:
        r, z, x, y = planes
        z = activation(self.gate, z)
        n = activation(self.candidate, torch.addcmul(x, activation(self.gate, r), y))
        torch.add(n, z.mul_(state - n), out=out)

    def backward(self, gradients: StepGradients) -> None:
        """See `Recurrence.backward`."""
        saved, *pixels, d_a, d_b, _ = gradients
        state, d_output, d_h, d_state = map(flatten_pixels, pixels)
        r_in, z_in, x, y = saved_planes(saved, 4).to(state.dtype)
        r, z = activation(self.gate, r_in), activation(self.gate, z_in)
        n_in = torch.addcmul(x, r, y)
        n = activation(self.candidate, n_in)
        d_state.add_(d_output).add_(d_h)
        dz = activation_backward(self.gate, d_state * (state - n), z_in, z)
        dn = activation_backward(self.candidate, d_state * (1 - z), n_in, n)
        dr = activation_backward(self.gate, dn * y, r_in, r)
        for part, n_part in ((d_a, dn), (d_b, dn * r)):
            for k, d in enumerate((dr, dz, n_part)):
                by_gate(part, 3)[:, k].copy_(d)
        d_state.mul_(z)

    def add_parameter_gradient(
        self, total: Tensor, saved: Tensor, cell_states: Tensor, d_b: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.add_parameter_gradient`."""
        total += by_gate(d_b, 3)[:, 2].sum(dim=0, dtype=total.dtype)
