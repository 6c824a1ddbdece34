"""A recurrence over a sequence in preallocated buffers; `convlstm.engines.backward` has its gradients.

Tensors are time-major and channels-last, (T, B, *S, C). A step is one convolution of the input, one of h, and
one pointwise kernel, or one kernel for all three.

Saved for the backward pass are h, checkpoints of the cell state (at the beginning of each chunk) and, unless
they are recomputed, the pre-activations, from which the cell state of every step is recomputed exactly.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

import convlstm.engines.cpu.sequence as sequence
from convlstm.engines.buffer_pool import empty
from convlstm.engines.direct import accumulates_in_place
from convlstm.engines.plan import Inputs, Plan
from convlstm.engines.recurrences import StepBuffers, Weight


class Saved(NamedTuple):
    """Tensors that the forward pass saves for the backward pass.

    Attributes:
        h: (T + 1, B, *S, C), before the first step and after each frame; see `Plan.slots`.
        checkpoints: (chunks, B, *S, C), the cell state before the first step of each chunk.
        preactivations: (T, B, *S, saved_gates C), each step's in the layout of the kernels; None if they are
            recomputed.
    """

    h: Tensor
    checkpoints: Tensor
    preactivations: Tensor | None = None


def forward(
    plan: Plan, inputs: Inputs, *, keep: bool
) -> tuple[Tensor | None, tuple[Tensor, ...], Saved | None]:
    """Outputs (B, T, C, *S), the state after the last step, and if ``keep`` the saved tensors."""
    if plan.is_one_call(inputs):
        outputs, state, tensors = sequence.forward(plan, inputs, keep=keep)
        return outputs, state, Saved(*tensors) if keep else None
    return _step_by_step(plan, inputs, keep)


def _step_by_step(
    plan: Plan, inputs: Inputs, keep: bool
) -> tuple[Tensor | None, tuple[Tensor, ...], Saved | None]:
    """See `forward`."""
    x, device, kernels = inputs.x, inputs.x.device, plan.kernels
    batch, steps = x.shape[:2]
    chunk, input_chunk = plan.chunk_length(inputs), plan.input_chunk_length(inputs)
    bias = None if inputs.bias is None else inputs.bias.to(plan.compute_dtype)
    cell_state = plan.channels_last(inputs.state[-1], plan.state_dtype)
    parameter = kernels.prepare(inputs.parameter, cell_state)
    shape = tuple(cell_state.shape)
    # On a GPU all outputs are copied at once at the end, in fewer and larger kernels.
    whole = keep or plan.any_layout or (device.type != "cpu" and not plan.last_only)
    slots = steps + 1 if whole else 2
    h = empty((slots, *shape), plan.compute_dtype, device)
    kernels.to_channels_last(inputs.state[0], h[plan.slots(steps - 1 if plan.reverse else 0)[0] % slots])
    preactivations = checkpoints = outputs = None
    if keep and plan.saves_gates(inputs):
        saved_gates = (steps, *shape[:-1], kernels.saved_gates * shape[-1])
        preactivations = empty(saved_gates, plan.compute_dtype, device)
    if keep:
        checkpoints = empty((-(-steps // chunk), *shape), plan.state_dtype, device)
    if not (plan.last_only or plan.any_layout):
        outputs = empty((batch, steps, shape[-1], *shape[1:-1]), plan.output_dtype, device)
    weight = kernels.prepare_weight(
        plan.conv(steps, x), inputs.weight, inputs.bias, parameter, h[0], save=keep
    )
    # Buffers of the pre-activations; without convolutions in place, those that convolutions allocate.
    gates = (*shape[:-1], kernels.gates * shape[-1])
    in_place = accumulates_in_place(h) and weight.input is not None
    a_buffer = empty((min(input_chunk, steps), *gates), plan.compute_dtype, device) if in_place else None
    b = empty(gates, plan.compute_dtype, device) if in_place and not kernels.only_added else None
    done = 0
    for frames in plan.chunks(steps, input_chunk):
        first = min(frames)
        a = plan.time_major(x, first, max(frames) + 1)
        if weight.input is not None:
            out = None if a_buffer is None else a_buffer[: len(frames)]
            a = weight.input.into(out, a, bias)
        for t in frames:
            if checkpoints is not None and done % chunk == 0:
                checkpoints[done // chunk].copy_(cell_state)
            before, after = (slot % slots for slot in plan.slots(t))
            saved = None if preactivations is None else preactivations[t]
            buffers = StepBuffers(a[t - first], b, cell_state, h[after], saved, parameter)
            _step(plan, inputs, t, weight, h[before], buffers, zero_state=plan.zero_state and not done)
            if outputs is not None and device.type == "cpu":  # while h is in cache
                kernels.to_channels_first(h[after], outputs[:, t])
            done += 1
    state = (cell_state,) if len(inputs.state) == 1 else (h[after], cell_state)
    if whole and not plan.last_only:
        frames_first = (h[:-1] if plan.reverse else h[1:]).transpose(0, 1).movedim(-1, 2)
        if outputs is None:
            outputs = frames_first
        elif device.type != "cpu":
            outputs.copy_(frames_first)
    found = None if checkpoints is None else Saved(h, checkpoints, preactivations)
    return outputs, tuple(plan.channels_first(tensor) for tensor in state), found


def _step(
    plan: Plan, inputs: Inputs, t: int, weight: Weight, h: Tensor, buffers: StepBuffers, zero_state: bool
) -> None:
    """`Recurrence.step` at frame t with its flags; ``zero_state``: h and the cell state are zero."""
    cell_state, new_h = buffers.cell_state, buffers.h
    if inputs.reset is not None:
        h = where_flag(inputs.reset[:, t], None, h)
        cell_state.copy_(where_flag(inputs.reset[:, t], None, cell_state))
    old = None if inputs.mask is None else cell_state.clone()
    plan.kernels.step(weight, None if zero_state else h, buffers)
    if inputs.mask is not None:
        cell_state.copy_(where_flag(inputs.mask[:, t], cell_state, old))
        new_h.copy_(where_flag(inputs.mask[:, t], new_h, h))


def where_flag(flags: Tensor, yes: Tensor | None, no: Tensor | None) -> Tensor:
    """The first tensor where the flag (B,) or (T, B) is set, else the second; None is zero."""
    like: Any = no if yes is None else yes
    flags = flags[(..., *(None,) * (like.ndim - flags.ndim))]
    # `torch.where` may return the flags' order of axes; kernels need contiguous tensors.
    return torch.where(flags, 0 if yes is None else yes, 0 if no is None else no).contiguous()
