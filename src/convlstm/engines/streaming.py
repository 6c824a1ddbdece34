"""Layers applied to one frame per call, in preallocated buffers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.call import Call
from convlstm.engines.plan import Inputs, Plan, arguments_of, make_plan
from convlstm.engines.recurrences import StepBuffers

#: Steps that pay for what is computed of the weights at construction.
_STEPS = 100


class LayerStepper:
    """One layer of `Stepper`.

    Args:
        plan: of a call with such frames.
        inputs: of such a call, (B, 1, C, *S); the frame is not read.
    """

    def __init__(self, plan: Plan, inputs: Inputs) -> None:
        kernels = plan.kernels
        self.plan, self.parts = plan, len(inputs.state)
        self.bias = None if inputs.bias is None else inputs.bias.to(plan.compute_dtype)
        self.cell_state = plan.channels_last(inputs.state[-1], plan.state_dtype)
        self.h = plan.channels_last(inputs.state[0], plan.compute_dtype)
        self.parameter = kernels.prepare(inputs.parameter, self.cell_state)
        self.weight = kernels.prepare_weight(
            plan.conv(_STEPS), inputs.weight, inputs.bias, self.parameter, self.h, save=False
        )
        self.new_h = self.h if self.weight.in_place else torch.empty_like(self.h)
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        if self.weight.input is not None:
            gates = (*self.h.shape[:-1], kernels.gates * self.h.shape[-1])
            self.a = empty(gates, plan.compute_dtype, self.h.device)
            self.b = None if kernels.only_added else torch.empty_like(self.a)

    def __call__(self, frame: Tensor) -> Tensor:
        """The output (B, *S, hidden_dim), which the next call overwrites, for a frame (B, *S, C)."""
        w_x = self.weight.input
        a = frame if w_x is None else w_x.into(self.a, frame, self.bias)
        buffers = StepBuffers(a, self.b, self.cell_state, self.new_h, None, self.parameter)
        self.plan.kernels.step(self.weight, self.h, buffers)
        if self.h.is_cuda and self.new_h is not self.h:
            self.h.copy_(self.new_h)  # a CUDA graph reads and writes fixed addresses
        else:
            self.h, self.new_h = self.new_h, self.h
        return self.h

    def state(self) -> tuple[Tensor, ...]:
        """The state in new tensors (B, hidden_dim, *S)."""
        parts = (self.cell_state,) if self.parts == 1 else (self.h, self.cell_state)
        return tuple(self.plan.channels_first(part) for part in parts)

    def load(self, state: Sequence[Tensor]) -> None:
        """Set the state (B, hidden_dim, *S)."""
        self.plan.kernels.to_channels_last(state[-1], self.cell_state)
        self.plan.kernels.to_channels_last(state[0], self.h)


class Stepper:
    """Layers applied to one frame per call, in preallocated buffers and without gradients.

    The weights are those at construction.

    Args:
        cells: of all layers, each one that the fast engines support.
        frame: (B, C, *S), of the shape, dtype and device of all frames.
        states: one per layer, before the first frame.
        compiled: use compiled kernels where there are any.
    """

    def __init__(self, cells: Sequence[Any], frame: Tensor, states: Sequence[Any], compiled: bool) -> None:
        self.one_axis, self.layers, self.kinds = frame.ndim == 3, [], [type(state) for state in states]
        x = frame.unsqueeze(1)
        with torch.no_grad():
            for cell, state in zip(cells, states, strict=True):
                call = Call(cell, x, state)
                arguments, inputs = arguments_of(call, compiled)
                self.layers.append(LayerStepper(make_plan(*arguments), inputs))
                x = x.new_empty(x.shape[0], 1, cell.hidden_dim, *x.shape[3:])
            first, last = self.layers[0], self.layers[-1]
            self.plan = first.plan
            self.frame = first.plan.channels_last(self._axes(frame), first.plan.compute_dtype)
            self.output = last.plan.channels_first(last.h)

    def _axes(self, frame: Tensor) -> Tensor:
        return frame.unsqueeze(-2) if self.one_axis else frame

    def __call__(self, frame: Tensor) -> Tensor:
        """The last layer's output (B, hidden_dim, *S), which the next call overwrites."""
        kernels, x = self.plan.kernels, self.frame
        with torch.no_grad(), torch.autocast(frame.device.type, enabled=False):
            kernels.to_channels_last(self._axes(frame), x)
            for layer in self.layers:
                x = layer(x)
            kernels.to_channels_first(x, self.output)
        return self.output.squeeze(-2) if self.one_axis else self.output

    @property
    def states(self) -> list[Any]:
        """One state per layer, in new tensors."""
        return [
            kind(*(s.squeeze(-2) if self.one_axis else s for s in layer.state()))
            for kind, layer in zip(self.kinds, self.layers, strict=True)
        ]

    def load(self, states: Sequence[Any]) -> None:
        """Set the states."""
        with torch.no_grad():
            for layer, state in zip(self.layers, states, strict=True):
                layer.load([self._axes(tensor) for tensor in state])
