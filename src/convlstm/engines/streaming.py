"""Layers that are given one frame after another, in buffers made once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import room
from convlstm.engines.call import Call, plan_of, request_of, tensors_of
from convlstm.engines.forward import Given, Plan, step


class Stepper:
    """Frames through a cell one by one, in buffers made once.

    Args:
        plan: of a call with such frames.
        given: to such a call, (B, 1, C, *S); the frame is not read.
    """

    def __init__(self, plan: Plan, given: Given) -> None:
        device = given.x.device
        # Of what is given, only that there are no flags is asked again.
        self.plan, self.given, self.parts = plan, given._replace(x=given.x[:0], states=()), len(given.states)
        self.bias = None if given.bias is None else given.bias.to(plan.compute)
        self.family = plan.family.prepared(given.extra, plan.exact)
        self.memory, self.h = (
            plan.rows(given.states[-1], plan.exact),
            plan.rows(given.states[0], plan.compute),
        )
        self.weight = self.family.weight(plan.conv, given.weight, given.bias, self.h, keep=False)
        self.new_h = self.h if self.weight.in_place else torch.empty_like(self.h)
        self.a = self.b = self.h[:0]
        if self.weight.frame is not None:
            sums = (*self.h.shape[:-1], self.family.gates * self.h.shape[-1])
            self.a = room(sums, plan.compute, device)
            self.b = self.a if self.family.one_sum else room(sums, plan.compute, device)

    def __call__(self, rows: Tensor) -> Tensor:
        """The output, rows (B, *S, C_h) that the next call overwrites, at a frame in rows (B, *S, C)."""
        w_x = self.weight.frame
        a = rows if w_x is None else self.plan.conv.into(self.a, rows, w_x, self.bias)
        sums = (a, self.b)
        step(self.plan, self.family, self.given, 0, sums, self.weight, self.h, self.memory, self.new_h, None)
        if self.h.is_cuda and self.new_h is not self.h:
            self.h.copy_(self.new_h)  # a recording reads the same place each time
        else:
            self.h, self.new_h = self.new_h, self.h
        return self.h

    def states(self) -> tuple[Tensor, ...]:
        """The state in new tensors (B, C, *S), as `forward` returns it."""
        rows = (self.memory,) if self.parts == 1 else (self.h, self.memory)
        return tuple(self.plan.frames(part) for part in rows)

    def load(self, states: Sequence[Tensor]) -> None:
        """Go on from another state (B, C, *S)."""
        self.plan.family.kernels.to_rows(states[-1], self.memory)
        self.plan.family.kernels.to_rows(states[0], self.h)


class Steppers:
    """Layers that are given one frame after another, in buffers made once.

    The weights are those at the time of making. No gradients.

    Args:
        cells: of all layers, each one that `refusal` lets pass.
        frame: (B, C, *S), of the kind that follows.
        states: one per layer, before the first frame.
        compiled: whether to use compiled kernels where there are any.
    """

    def __init__(self, cells: Sequence[Any], frame: Tensor, states: Sequence[Any], compiled: bool) -> None:
        self.flat, self.steppers, self.kinds = frame.ndim == 3, [], [type(state) for state in states]
        x = frame.unsqueeze(1)
        with torch.no_grad():
            for cell, state in zip(cells, states, strict=True):
                call = Call(cell, x, state)
                tensors = tensors_of(call)
                plan = plan_of(request_of(call, compiled), tensors[0], cell.hidden_dim, "state")
                self.steppers.append(Stepper(plan, Given.of((None, None, *tensors))))
                x = x.new_empty(x.shape[0], 1, cell.hidden_dim, *x.shape[3:])
            first, last = self.steppers[0], self.steppers[-1]
            self.plan = first.plan
            self.rows = first.plan.rows(self._axes(frame), first.plan.compute)
            self.output = last.plan.frames(last.h)

    def _axes(self, frame: Tensor) -> Tensor:
        return frame.unsqueeze(-2) if self.flat else frame

    def __call__(self, frame: Tensor) -> Tensor:
        """The last layer's output (B, C_h, *S), which the next call overwrites."""
        kernels, rows = self.plan.family.kernels, self.rows
        with torch.no_grad(), torch.autocast(frame.device.type, enabled=False):
            kernels.to_rows(self._axes(frame), rows)
            for step in self.steppers:
                rows = step(rows)
            kernels.to_frames(rows, self.output)
        return self.output.squeeze(-2) if self.flat else self.output

    @property
    def states(self) -> list[Any]:
        """One state per layer, in tensors of their own."""
        return [
            kind(*(s.squeeze(-2) if self.flat else s for s in step.states()))
            for kind, step in zip(self.kinds, self.steppers, strict=True)
        ]

    def load(self, states: Sequence[Any]) -> None:
        """Go on from other states."""
        with torch.no_grad():
            for step, state in zip(self.steppers, states, strict=True):
                step.load([self._axes(tensor) for tensor in state])
