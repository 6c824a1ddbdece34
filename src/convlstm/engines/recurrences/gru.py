"""The GRU whose reset gate acts after the convolution. The parameter besides the convolution is a bias."""

from typing import Any

import torch
from torch import Tensor

from convlstm.cells.convgru import ConvGRUCell
from convlstm.engines.recurrences.activations import activation, activation_backward
from convlstm.engines.recurrences.base import Recurrence, by_gate, flatten_pixels, saved_planes
from convlstm.functional.gates import Activation


class GRU(Recurrence):
    """See `Recurrence`; gates in the order r, z, n.

    The cell state is h. The parameter is the bias of the hidden state's part of n, (C,). Saved are the
    pre-activations of r and z, and the two parts of n.
    """

    name, cell_class = "gru", ConvGRUCell
    gates, saved_gates = 3, 4
    only_added = False

    @classmethod
    def activations(cls, cell: Any) -> tuple[Activation, Activation, Activation]:
        """See `Recurrence.activations`."""
        return cell.gate_activation, cell.candidate_activation, torch.tanh

    @classmethod
    def parameter(cls, cell: Any) -> Tensor | None:
        """The second bias (C,), or None."""
        bias: Tensor | None = cell.reset_bias
        return bias

    @classmethod
    def not_supported_reasons(cls, cell: Any) -> list[str]:
        """See `Recurrence.not_supported_reasons`."""
        reasons = super().not_supported_reasons(cell)
        return reasons if cell.reset_after else [*reasons, "it has no reset_after=False"]

    @classmethod
    def prepare(cls, parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """See `Recurrence.prepare`."""
        return None if parameter is None else parameter.to(dtype).contiguous()

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
        a, b, state = by_gate(a, 3), by_gate(b, 3), flatten_pixels(cell_state)
        r, z = b[:, 0].add_(a[:, 0]), b[:, 1].add_(a[:, 1])
        x, y = a[:, 2], b[:, 2].add_(bias_or_zeros(parameter, state).to(b.dtype))
        planes = torch.stack((r, z, x, y), out=None if saved is None else saved_planes(saved, 4))
        self._new_state(planes.to(state.dtype), state, state)
        h.copy_(cell_state)

    def recompute(
        self, saved: Tensor, cell_state: Tensor, new_cell_state: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.recompute`."""
        state, out = flatten_pixels(cell_state), flatten_pixels(new_cell_state)
        self._new_state(saved_planes(saved, 4).to(state.dtype), state, out)

    def _new_state(self, planes: Tensor, state: Tensor, out: Tensor) -> None:
        r, z, x, y = planes
        z = activation(self.gate, z)
        n = activation(self.candidate, torch.addcmul(x, activation(self.gate, r), y))
        torch.add(n, z.mul_(state - n), out=out)

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
        state, d_output, d_h, d_state = map(flatten_pixels, (cell_state, d_output, d_h, d_cell_state))
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


def bias_or_zeros(parameter: Tensor | None, cell_state: Tensor) -> Tensor:
    """The second bias (C,), zeros for None."""
    return cell_state.new_zeros(cell_state.shape[-1]) if parameter is None else parameter
