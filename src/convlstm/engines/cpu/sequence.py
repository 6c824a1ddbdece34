"""Whole sequences of small layers in one call of C++: see ``csrc/sequence.h``."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from convlstm.engines.cpu.library import SequenceShape
from convlstm.engines.dry_run import DryTensor
from convlstm.engines.plan import Inputs, Plan


def forward(
    plan: Plan, inputs: Inputs, *, keep: bool
) -> tuple[Tensor | None, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Outputs, state and saved tensors of `convlstm.engines.forward.forward`, if ``keep``."""
    x, weight, parameter, shape = _prepared(plan, inputs)
    kernels, (batch, steps, _, *size), hidden = plan.kernels, x.shape, shape.C
    bias = None if inputs.bias is None else inputs.bias.contiguous()
    state = [part.contiguous() for part in inputs.state]
    h = x.new_empty(steps + 1, batch, *size, hidden)
    saved: tuple[Tensor, ...] = ()
    if keep:
        cell_states = x.new_empty(steps, batch, *size, hidden)
        saved = cell_states, x.new_empty(steps, batch, *size, kernels.saved_gates * hidden)
    outputs = None
    if not (plan.last_only or plan.any_layout):
        outputs = x.new_empty(batch, steps, hidden, *size)
    after = [torch.empty_like(part) for part in state]
    last_h = after[0] if len(after) > 1 else None
    if not isinstance(h, DryTensor):
        function = getattr(kernels.library, f"{kernels.name}_sequence")
        given = x, weight, bias, parameter, state[0], state[-1]
        function(*given, outputs, last_h, after[-1], h, *(saved or (None, None)), shape)
    if plan.any_layout and not plan.last_only:
        outputs = (h[:-1] if plan.reverse else h[1:]).transpose(0, 1).movedim(-1, 2)
    return outputs, tuple(after), (h, *saved)


def backward(
    plan: Plan,
    inputs: Inputs,
    saved: Sequence[Tensor],
    needed: tuple[bool, bool, bool, bool],
    d_outputs: Tensor | None,
    d_state: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of x, weight, bias, parameter and state; None for those not needed.

    Args:
        plan: of the call.
        inputs: of the call.
        saved: by `forward`.
        needed: gradients needed, of x, weight, bias, state.
        d_outputs: gradient of the outputs; None for zero.
        d_state: the same for the state after the last step.
    """
    x, weight, parameter, shape = _prepared(plan, inputs)
    kernels, (h, cell_states, preactivations) = plan.kernels, saved
    d_outputs, *d_last = (None if d is None else d.contiguous() for d in (d_outputs, *d_state))
    d_a = x.new_empty(*cell_states.shape[:-1], kernels.gates * shape.C)
    d_b = None if kernels.only_added else torch.empty_like(d_a)
    d_x = torch.empty_like(x) if needed[0] else None
    d_weight = torch.empty_like(weight) if needed[1] else None
    d_bias = x.new_empty(len(weight)) if needed[2] else None
    first = [torch.empty_like(part.contiguous()) if needed[3] else None for part in inputs.state]
    one = len(first) == 1
    if not isinstance(x, DryTensor):
        function = getattr(kernels.library, f"{kernels.name}_sequence_backward")
        given = x, weight, parameter, h, cell_states, preactivations
        results = d_x, d_weight, d_bias, None if one else first[0], first[-1]
        function(*given, d_outputs, None if one else d_last[0], d_last[-1], *results, d_a, d_b, shape)
    d_parameter = None if inputs.parameter is None else torch.zeros_like(inputs.parameter)
    if d_parameter is not None:
        of_hidden = d_a if d_b is None else d_b
        kernels.add_parameter_gradient(d_parameter, preactivations, cell_states, of_hidden, parameter)
    return [d_x, d_weight, d_bias, d_parameter, *first]


def _prepared(plan: Plan, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None, Any]:
    """Frames, weight and parameter as C++ takes them, and the shape of the sequence."""
    x, weight, kernels = inputs.x.contiguous(), inputs.weight.contiguous(), plan.kernels
    batch, steps, channels, *size = x.shape
    last = inputs.state[-1]
    parameter = kernels.prepare(inputs.parameter, last.new_empty(0, last.shape[1]))
    pixels = 1 if parameter is None else parameter.shape[-2]
    options = not kernels.only_added, pixels, plan.reverse, plan.zero_state
    gates = kernels.gates, kernels.saved_gates
    shape = _shape(batch, steps, *size, channels, last.shape[1], *weight.shape[2:], *gates, *options)
    return x, weight, parameter, shape


_shape: Any = lru_cache(maxsize=64)(SequenceShape)
