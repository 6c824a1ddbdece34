"""A recurrence over a sequence in buffers written in place; `convlstm.engines.backward` has its gradients.

Inside, numbers lie in rows (T, B, *S, C): time first, channels last. A step is one convolution of the input,
one of h, and one pass of a kernel over all pixels, unless there is a kernel for all three.

What is kept for the backward pass are the outputs h, the memory at the beginning of each chunk, and, unless
they are to be computed again, the sums of the gates. From these the memory of every step follows exactly.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import room
from convlstm.engines.convolution import SameConv, adds_in_place
from convlstm.engines.families import Family
from convlstm.engines.plain import Weight


class Plan(NamedTuple):
    """How a call is computed.

    Attributes:
        family: the recurrence, with the kernels that run it.
        conv: the convolution of all gates.
        compute: dtype of convolutions, sums of gates and h.
        exact: dtype of the memory and the arithmetic on gates, at least 32 bits.
        result: dtype of outputs and states.
        reverse: whether the last frame comes first.
        last_only: whether outputs are left out, as the state at the end says all.
        inner: whether only another layer reads the outputs, which then stay in rows and in ``compute``.
        fresh: whether the states before are zero, so that the first step need not convolve h.
        keep_sums: whether the sums of the gates are kept for the backward pass, or computed again.
        chunk: steps that the backward pass computes together.
        piece: steps whose input is convolved at once.
    """

    family: Family
    conv: SameConv
    compute: torch.dtype
    exact: torch.dtype
    result: torch.dtype
    reverse: bool
    last_only: bool
    inner: bool
    fresh: bool
    keep_sums: bool
    chunk: int
    piece: int

    def parts(self, steps: int, length: int) -> list[range]:
        """The frames in parts of a length, parts and frames in the order in which they are read."""
        order = range(steps)[::-1] if self.reverse else range(steps)
        return [order[begin : begin + length] for begin in range(0, steps, length)]

    def slots(self, t: int) -> tuple[int, int]:
        """Where h before frame t and after it stand among all h, of which one is the first."""
        return (t + 1, t) if self.reverse else (t, t + 1)

    def rows(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """Frames (N, C, *S) as new rows (N, *S, C)."""
        rows = room((len(frames), *frames.shape[2:], frames.shape[1]), dtype, frames.device)
        self.family.kernels.to_rows(frames, rows)
        return rows

    def sequence_rows(self, x: Tensor, first: int, last: int) -> Tensor:
        """Frames first to last of (B, T, C, *S) as rows (T, B, *S, C), which is free behind another layer."""
        rows = x.movedim(2, -1).transpose(0, 1)
        if rows.dtype == self.compute and rows.is_contiguous():
            return rows[first:last]
        made = room((last - first, *rows.shape[1:]), self.compute, x.device)
        for t in range(first, last):
            self.family.kernels.to_rows(x[:, t], made[t - first])
        return made

    def frames(self, rows: Tensor) -> Tensor:
        """Rows (N, *S, C) as new frames (N, C, *S) for the outside."""
        shape = (len(rows), rows.shape[-1], *rows.shape[1:-1])
        frames = torch.empty(shape, dtype=self.result, device=rows.device)
        self.family.kernels.to_frames(rows, frames)
        return frames


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
    sums: Tensor | None


class Given(NamedTuple):
    """The tensors of a call: of frames, parameters, the states, and flags (see `convlstm.layers.scan`)."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    extra: Tensor | None
    states: tuple[Tensor, ...]
    valid: Tensor | None
    starts: Tensor | None

    def tensors(self) -> list[Tensor | None]:
        """All of them: flags, frames, parameters, states."""
        return [self.valid, self.starts, self.x, self.weight, self.bias, self.extra, *self.states]

    @classmethod
    def of(cls, tensors: Sequence[Any]) -> "Given":
        """From what `tensors` returned."""
        valid, starts, x, weight, bias, extra, *states = tensors
        return cls(x, weight, bias, extra, tuple(states), valid, starts)


def forward(plan: Plan, given: Given, *, keep: bool) -> tuple[Tensor | None, tuple[Tensor, ...], Kept | None]:
    """Outputs (B, T, C, *S), the states at the end, and what the backward pass needs."""
    x, device = given.x, given.x.device
    batch, steps = x.shape[:2]
    bias = None if given.bias is None else given.bias.to(plan.compute)
    family = plan.family.prepared(given.extra, plan.exact)
    memory = plan.rows(given.states[-1], plan.exact)
    shape = tuple(memory.shape)
    # On a GPU every output is handed on at once at the end, which takes fewer and larger kernels.
    whole = keep or plan.inner or (device.type != "cpu" and not plan.last_only)
    slots = steps + 1 if whole else 2
    h = room((slots, *shape), plan.compute, device)
    family.kernels.to_rows(given.states[0], h[plan.slots(steps - 1 if plan.reverse else 0)[0] % slots])
    keep_sums = keep and plan.keep_sums
    sums = room((steps, *shape[:-1], family.kept * shape[-1]), plan.compute, device) if keep_sums else None
    marks = room((-(-steps // plan.chunk), *shape), plan.exact, device) if keep else None
    outputs = None
    if not (plan.last_only or plan.inner):
        outputs = room((batch, steps, shape[-1], *shape[1:-1]), plan.result, device)
    done = 0
    weight = family.weight(plan.conv, given.weight, given.bias, h[0], keep)
    # Where convolutions cannot write in place, what they return is used.
    gates = (*shape[:-1], family.gates * shape[-1])
    adds = adds_in_place(h) and weight.frame is not None
    inputs = room((min(plan.piece, steps), *gates), plan.compute, device) if adds else None
    b = room(gates, plan.compute, device) if adds and not family.one_sum else None
    for part in plan.parts(steps, plan.piece):
        first = min(part)
        rows = plan.sequence_rows(x, first, max(part) + 1)
        a = rows
        if weight.frame is not None:
            a = plan.conv.into(None if inputs is None else inputs[: len(part)], rows, weight.frame, bias)
        for t in part:
            if marks is not None and done % plan.chunk == 0:
                marks[done // plan.chunk].copy_(memory)
            before, after = (slot % slots for slot in plan.slots(t))
            kept = None if sums is None else sums[t]
            fresh = plan.fresh and not done
            step(plan, family, given, t, (a[t - first], b), weight, h[before], memory, h[after], kept, fresh)
            if outputs is not None and device.type == "cpu":  # while h is near
                family.kernels.to_frames(h[after], outputs[:, t])
            done += 1
    ends = (memory,) if len(given.states) == 1 else (h[after], memory)
    if whole and not plan.last_only:
        frames = (h[:-1] if plan.reverse else h[1:]).transpose(0, 1).movedim(-1, 2)
        if outputs is None:
            outputs = frames
        elif device.type != "cpu":
            outputs.copy_(frames)
    saved = Kept(h, marks, sums) if marks is not None else None
    return outputs, tuple(plan.frames(end) for end in ends), saved


def step(
    plan: Plan,
    family: Family,
    given: Given,
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
        given: to the call; of it the flags are read.
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
    if given.starts is not None:
        h = chosen(given.starts[:, t], None, h)
        memory.copy_(chosen(given.starts[:, t], None, memory))
    old = None if given.valid is None else memory.clone()
    family.step(plan.conv, *sums, None if fresh else h, weight, memory, new_h, kept)
    if old is not None:
        assert given.valid is not None
        memory.copy_(chosen(given.valid[:, t], memory, old))
        new_h.copy_(chosen(given.valid[:, t], new_h, h))


def chosen(flags: Tensor, yes: Tensor | None, no: Tensor | None) -> Tensor:
    """Rows of the first tensor where the flag, (B,) or (T, B), is set, else of the second; None is zero."""
    like: Any = no if yes is None else yes
    flags = flags[(..., *(None,) * (like.ndim - flags.ndim))]
    # Torch may give the result the flags' order of axes; kernels read rows.
    return torch.where(flags, 0 if yes is None else yes, 0 if no is None else no).contiguous()
