"""The LSTM of `convlstm.functional.gates.lstm_gates`. The parameter besides the convolution are peepholes."""

import torch
from torch import Tensor

from convlstm.cells.convlstm import ConvLSTMCell
from convlstm.engines.recurrences.activations import activation, activation_backward
from convlstm.engines.recurrences.base import (
    Recurrence,
    StepBuffers,
    StepGradients,
    by_gate,
    flatten_pixels,
    saved_planes,
)


class LSTM(Recurrence):
    """See `Recurrence`; gates in the order i, f, o, g, saved without peepholes.

    The parameter is (3, C, *S) or (3, C, 1, ...); prepared it is (3, Q, C), weights of each pixel (Q = 1) or
    of each of the Q pixels of a frame.
    """

    name, cell_class, parameter_attribute = "lstm", ConvLSTMCell, "peephole_weight"
    gates = saved_gates = 4

    @classmethod
    def prepare(cls, parameter: Tensor | None, cell_state: Tensor) -> Tensor | None:
        """See `Recurrence.prepare`."""
        return None if parameter is None else parameter.flatten(2).mT.to(cell_state.dtype).contiguous()

    def forward(self, buffers: StepBuffers) -> None:
        """See `Recurrence.forward`."""
        a, _, cell_state, h, saved, parameter = buffers
        c, planes = flatten_pixels(cell_state), by_gate(a, 4).transpose(0, 1)
        if saved is None:  # contiguous planes, over which torch runs twice as fast
            planes = planes.to(c.dtype, copy=True, memory_format=torch.contiguous_format)
        else:
            planes = saved_planes(saved, 4).copy_(planes).to(c.dtype)
        o = planes[2]
        self._new_cell_state(planes, c, c, parameter)
        if parameter is not None:
            o = _add_peephole(o, parameter[2], c)
        torch.mul(activation(self.gate, o), activation(self.output, c), out=flatten_pixels(h))

    def recompute(self, saved: Tensor, before: Tensor, after: Tensor, parameter: Tensor | None) -> None:
        """See `Recurrence.recompute`."""
        c, new_c = flatten_pixels(before), flatten_pixels(after)
        self._new_cell_state(saved_planes(saved, 4).to(c.dtype), c, new_c, parameter)

    def _new_cell_state(self, planes: Tensor, c: Tensor, out: Tensor, parameter: Tensor | None) -> None:
        i, f, _, g = planes
        if parameter is not None:
            i, f = _add_peephole(i, parameter[0], c), _add_peephole(f, parameter[1], c)
        new = activation(self.gate, i).mul_(activation(self.candidate, g))
        torch.addcmul(new, activation(self.gate, f), c, out=out)

    def backward(self, gradients: StepGradients) -> None:
        """See `Recurrence.backward`."""
        saved, *pixels, d_a, _, parameter = gradients
        c, d_output, d_h, d_c = map(flatten_pixels, pixels)
        i_in, f_in, o_in, g_in = saved_planes(saved, 4).to(c.dtype)
        if parameter is not None:
            i_in, f_in = _add_peephole(i_in, parameter[0], c), _add_peephole(f_in, parameter[1], c)
        i, f = activation(self.gate, i_in), activation(self.gate, f_in)
        g = activation(self.candidate, g_in)
        new = torch.addcmul(i * g, f, c)
        if parameter is not None:
            o_in = _add_peephole(o_in, parameter[2], new)
        o, out = activation(self.gate, o_in), activation(self.output, new)
        dh = d_output.to(c.dtype) + d_h
        do = activation_backward(self.gate, dh * out, o_in, o)
        d_c.add_(activation_backward(self.output, dh.mul_(o), new, out))
        if parameter is not None:
            d_c.copy_(_add_peephole(d_c, parameter[2], do))
        di = activation_backward(self.gate, d_c * g, i_in, i)
        df = activation_backward(self.gate, d_c * c, f_in, f)
        dg = activation_backward(self.candidate, d_c * i, g_in, g)
        for n, d in enumerate((di, df, do, dg)):
            by_gate(d_a, 4)[:, n].copy_(d)
        d_c.mul_(f)
        if parameter is not None:
            d_c.copy_(_add_peephole(_add_peephole(d_c, parameter[0], di), parameter[1], df))

    def add_parameter_gradient(
        self, total: Tensor, saved: Tensor, cell_states: Tensor, d_b: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.add_parameter_gradient`."""
        assert parameter is not None
        new = torch.empty_like(cell_states)
        for before, after, step_saved in zip(cell_states, new, saved, strict=True):
            self.recompute(step_saved, before, after, parameter)
        _, pixels, channels = parameter.shape
        d = d_b.view(-1, pixels, 4, channels)
        for n, c in enumerate((cell_states, cell_states, new)):
            products = d[:, :, n] * c.view(-1, pixels, channels)
            total[n] += products.sum(dim=0).t().reshape(total.shape[1:])


def _add_peephole(x: Tensor, weight: Tensor, c: Tensor) -> Tensor:
    """X + weight c, (P, C), with a weight (Q, C) for each of the Q pixels of a frame."""
    frames = (-1, *weight.shape)
    return torch.addcmul(x.view(frames), weight, c.view(frames)).view(c.shape)
