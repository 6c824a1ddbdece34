"""A recurrence over a sequence in buffers written in place; `convlstm.engines.backward` has its gradients.

Inside, numbers lie in rows (T, B, *S, C): time first, channels last. A step is one convolution of the input,
one of h, and one pass of a kernel over all pixels, unless there is a kernel for all three.

What is kept for the backward pass are the outputs h, the memory at the beginning of each chunk, and, unless
they are to be computed again, the sums of the gates. From these the memory of every step follows exactly.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.convolution import adds_in_place
from convlstm.engines.families import Family
from convlstm.engines.plain import Weight
from convlstm.engines.plan import Inputs, Plan


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass, in rows.

    Attributes:
        h: (T + 1, B, *S, C), the one before the first step and those after each frame; see `Plan.slots`.
        memory: (chunks, B, *S, C), before the first step of each chunk.
        sums: (T, B, *S, kept C), of the gates, each step's as `PlainKernels.kept` lays them out; None where
            they are to be computed again.
    """

    h: Tensor
    memory: Tensor
    sums: Tensor | None = None


def forward(
    plan: Plan, inputs: Inputs, *, keep: bool
) -> tuple[Tensor | None, tuple[Tensor, ...], Kept | None]:
    """Outputs (B, T, C, *S), the states at the end, and what the backward pass needs."""
    x, device = inputs.x, inputs.x.device
    batch, steps = x.shape[:2]
    chunk, input_chunk = plan.chunk_length(inputs), plan.input_chunk_length(inputs)
    bias = None if inputs.bias is None else inputs.bias.to(plan.compute_dtype)
    family = plan.family.prepared(inputs.parameter, plan.state_dtype)
    memory = plan.channels_last(inputs.state[-1], plan.state_dtype)
    shape = tuple(memory.shape)
    # On a GPU every output is handed on at once at the end, which takes fewer and larger kernels.
    whole = keep or plan.any_layout or (device.type != "cpu" and not plan.last_only)
    slots = steps + 1 if whole else 2
    h = empty((slots, *shape), plan.compute_dtype, device)
    family.kernels.to_rows(inputs.state[0], h[plan.slots(steps - 1 if plan.reverse else 0)[0] % slots])
    keep_sums = keep and plan.saves_gates(inputs)
    saved_gates = (steps, *shape[:-1], family.kept * shape[-1])
    sums = empty(saved_gates, plan.compute_dtype, device) if keep_sums else None
    marks = empty((-(-steps // chunk), *shape), plan.state_dtype, device) if keep else None
    outputs = None
    if not (plan.last_only or plan.any_layout):
        outputs = empty((batch, steps, shape[-1], *shape[1:-1]), plan.output_dtype, device)
    done = 0
    weight = family.weight(plan.conv, inputs.weight, inputs.bias, h[0], keep)
    # Where convolutions cannot write in place, what they return is used.
    gates = (*shape[:-1], family.gates * shape[-1])
    adds = adds_in_place(h) and weight.frame is not None
    sums_x = empty((min(input_chunk, steps), *gates), plan.compute_dtype, device) if adds else None
    b = empty(gates, plan.compute_dtype, device) if adds and not family.one_sum else None
    for part in plan.chunks(steps, input_chunk):
        first = min(part)
        rows = plan.time_major(x, first, max(part) + 1)
        a = rows
        if weight.frame is not None:
            a = plan.conv.into(None if sums_x is None else sums_x[: len(part)], rows, weight.frame, bias)
        for t in part:
            if marks is not None and done % chunk == 0:
                marks[done // chunk].copy_(memory)
            before, after = (slot % slots for slot in plan.slots(t))
            kept = None if sums is None else sums[t]
            fresh = plan.zero_state and not done
            step(plan, family, inputs, t, (a[t - first], b), weight, h[before], memory, h[after], kept, fresh)
            if outputs is not None and device.type == "cpu":  # while h is near
                family.kernels.to_frames(h[after], outputs[:, t])
            done += 1
    ends = (memory,) if len(inputs.state) == 1 else (h[after], memory)
    if whole and not plan.last_only:
        frames = (h[:-1] if plan.reverse else h[1:]).transpose(0, 1).movedim(-1, 2)
        if outputs is None:
            outputs = frames
        elif device.type != "cpu":
            outputs.copy_(frames)
    saved = Kept(h, marks, sums) if marks is not None else None
    return outputs, tuple(plan.channels_first(end) for end in ends), saved


def step(
    plan: Plan,
    family: Family,
    inputs: Inputs,
    t: int,
    sums: tuple[Tensor, Tensor | None],
    weight: Weight,
    h: Tensor,
    memory: Tensor,
    new_h: Tensor,
    kept: Tensor | None,
    fresh: bool = False,
) -> None:
    """The step at frame t: into memory, new_h and kept; all (B, *S, ?).

    Args:
        plan: of the call.
        family: with its own parameter prepared.
        inputs: to the call; of it the flags are read.
        t: the frame.
        sums: the input's part of the sums, or the frame (see `Weight`), and room for the hidden state's part
            where that is not added to it.
        weight: as the family made it.
        h: before the step.
        memory: before the step; becomes that after it.
        new_h: written to.
        kept: written to, or None.
        fresh: whether h and the memory are zero.
    """
    if inputs.reset is not None:
        h = chosen(inputs.reset[:, t], None, h)
        memory.copy_(chosen(inputs.reset[:, t], None, memory))
    old = None if inputs.mask is None else memory.clone()
    family.step(plan.conv, *sums, None if fresh else h, weight, memory, new_h, kept)
    if old is not None:
        assert inputs.mask is not None
        memory.copy_(chosen(inputs.mask[:, t], memory, old))
        new_h.copy_(chosen(inputs.mask[:, t], new_h, h))


def chosen(flags: Tensor, yes: Tensor | None, no: Tensor | None) -> Tensor:
    """Rows of the first tensor where the flag, (B,) or (T, B), is set, else of the second; None is zero."""
    like: Any = no if yes is None else yes
    flags = flags[(..., *(None,) * (like.ndim - flags.ndim))]
    # Torch may give the result the flags' order of axes; kernels read rows.
    return torch.where(flags, 0 if yes is None else yes, 0 if no is None else no).contiguous()
