"""A recurrence over a sequence, forwards and backwards, in buffers written in place.

Inside, numbers lie in rows (T, B, *S, C): time first, channels last. A step is one convolution of the input,
one of h, and one pass of a kernel over all pixels, unless there is a kernel for all three. Backwards, only
the pass over the pixels and the gradient of the previous h go step by step; those of weights, bias and input
are one convolution for a chunk of steps (as in Appleyard et al. 2016, arXiv:1604.01946, for dense LSTMs).

What is kept for the backward pass are the outputs h, the memory at the beginning of each chunk, and, unless
they are to be computed again, the sums of the gates. From these the memory of every step follows exactly.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv, adds_in_place, split
from convlstm.engines.families import Family
from convlstm.engines.plain import Weight
from convlstm.engines.rooms import room


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
        sums: (T, B, *S, kept C), of the gates; None where they are to be computed again.
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
    in_place = adds_in_place(h) and weight.frame is not None
    inputs = room((min(plan.piece, steps), *gates), plan.compute, device) if in_place else None
    b = room(gates, plan.compute, device) if in_place and not family.one_sum else None
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
        h = _where(given.starts[:, t], None, h)
        memory.copy_(_where(given.starts[:, t], None, memory))
    old = None if given.valid is None else memory.clone()
    family.step(plan.conv, *sums, None if fresh else h, weight, memory, new_h, kept)
    if old is not None:
        assert given.valid is not None
        memory.copy_(_where(given.valid[:, t], memory, old))
        new_h.copy_(_where(given.valid[:, t], new_h, h))


class Gradients(NamedTuple):
    """Of everything a call is given; those of parameters at least in 32 bits. None where not asked for."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    extra: Tensor | None
    states: tuple[Tensor | None, ...]


class Backward:
    """The gradients of one call.

    Args:
        plan: of the call.
        given: to the call.
        kept: by its forward pass.
        needed: whether gradients of x, weight, bias, states are asked for.
    """

    def __init__(self, plan: Plan, given: Given, kept: Kept, needed: tuple[bool, bool, bool, bool]) -> None:
        self.plan, self.given, self.kept, self.needed = plan, given, kept, needed
        x, weight = given.x, given.weight
        self.batch, self.steps, self.channels = x.shape[:3]
        self.shape = tuple(kept.h.shape[1:])
        self.family = plan.family.prepared(given.extra, plan.exact)
        self.w_x, self.w_h = split(weight, self.channels, plan.compute)
        self.turned_x, self.turned_h = (plan.conv.turned(w) for w in (self.w_x, self.w_h))
        self.bias = None if given.bias is None else given.bias.to(plan.compute)
        self.d_x = self._room(self.steps, self.channels) if needed[0] else None
        self.d_weight = torch.zeros_like(weight, dtype=plan.exact) if needed[1] else None
        self.d_bias = weight.new_zeros(len(weight), dtype=plan.exact) if needed[2] else None
        self.d_extra = None if given.extra is None else torch.zeros_like(given.extra, dtype=plan.exact)

    def _room(self, steps: int, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        shape = (steps, *self.shape[:-1], channels)
        return room(shape, dtype or self.plan.compute, self.given.x.device)

    def run(self, d_outputs: Tensor | None, d_ends: Sequence[Tensor | None]) -> Gradients:
        """From the gradients of outputs (B, T, C, *S) and of the last states (None for zero)."""
        plan = self.plan
        *d_last_h, d_last = d_ends
        self.d_memory = self._rows_or_zeros(d_last, plan.exact)
        self.d_h = self._rows_or_zeros(d_last_h[0] if d_last_h else None, plan.compute)
        chunks = plan.parts(self.steps, plan.chunk)
        for n in range(len(chunks))[::-1]:
            self._chunk(n, chunks[n], d_outputs)
        states: tuple[Tensor | None, ...] = (None,) * len(d_ends)
        if self.needed[3]:
            rows = (self.d_h, self.d_memory) if d_last_h else (self.d_memory.add_(self.d_h),)
            states = tuple(d.movedim(-1, 1) for d in rows)
        d_x = None if self.d_x is None else self.d_x.transpose(0, 1).movedim(-1, 2)
        return Gradients(d_x, self.d_weight, self.d_bias, self.d_extra, states)

    def _rows_or_zeros(self, frames: Tensor | None, dtype: torch.dtype) -> Tensor:
        if frames is None:
            return torch.zeros(self.shape, dtype=dtype, device=self.given.x.device)
        return self.plan.rows(frames, dtype)

    def _chunk(self, n: int, frames: range, d_outputs: Tensor | None) -> None:
        """Chunk n: its gradients step by step, and what it adds to those of weights, bias and input."""
        plan, family, given = self.plan, self.family, self.given
        first, last = min(frames), max(frames) + 1
        x = plan.sequence_rows(given.x, first, last)
        before = self.kept.h[first + 1 : last + 1] if plan.reverse else self.kept.h[first:last]
        if given.starts is not None:
            flags = given.starts[:, first:last].t()
            before = torch.where(flags[(..., *(None,) * (before.ndim - 2))], 0, before)
        sums, memory = self._again(n, frames, x, before)
        hidden = self.shape[-1]
        d_a = self._room(len(frames), family.gates * hidden)
        d_b = d_a if family.one_sum else self._room(len(frames), family.gates * hidden)
        if d_outputs is None:
            d_out = torch.zeros((), dtype=plan.compute, device=x.device).expand(len(frames), *self.shape)
            d_out = d_out.contiguous()
        else:
            d_out = plan.sequence_rows(d_outputs, first, last)
        for t in frames[::-1]:
            k = t - first
            begins = n == 0 and t == frames[0]
            self._step(t, sums[k], memory[k], d_out[k], d_a[k], d_b[k], back=self.needed[3] or not begins)
        self._collect(first, last, x, before, d_a, d_b, fresh=plan.fresh and n == 0)
        if self.d_extra is not None:
            family.add_extra(self.d_extra, sums, memory, d_b)

    def _again(self, n: int, frames: range, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of a chunk, and the memory before each of its frames, as the forward pass had them."""
        plan, family, given = self.plan, self.family, self.given
        hidden, first, m = self.shape[-1], min(frames), self.kept.memory[n]
        memory = self._room(len(frames), hidden, plan.exact)
        new = self._room(1, hidden, plan.exact)[0]
        if self.kept.sums is not None:
            sums = self.kept.sums[first : first + len(frames)]
        else:
            sums = self._room(len(frames), family.kept * hidden)
            a = plan.conv.into(self._room(len(frames), family.gates * hidden), x, self.w_x, self.bias)
            if family.one_sum:
                b = plan.conv.add(a, before, self.w_h)
            else:
                b = plan.conv.into(torch.empty_like(a), before, self.w_h)
            h = self._room(1, hidden)[0]
        if self.kept.sums is not None and given.starts is None and given.valid is None:
            memory[frames[0] - first].copy_(m)
            for t, after in pairwise(frames):
                family.replay(sums[t - first], memory[t - first], memory[after - first])
            return sums, memory
        for t in frames:
            k = t - first
            memory[k].copy_(m if given.starts is None else _where(given.starts[:, t], None, m))
            if self.kept.sums is None:
                family.forward(a[k], b[k], new.copy_(memory[k]), h, sums[k])
            elif t != frames[-1]:
                family.replay(sums[k], memory[k], new)
            m = new if given.valid is None else _where(given.valid[:, t], new, memory[k])
        return sums, memory

    def _step(
        self, t: int, sums: Tensor, memory: Tensor, d_out: Tensor, d_a: Tensor, d_b: Tensor, back: bool
    ) -> None:
        """From the gradients after frame t to those before it, if these are wished; fills in d_a and d_b."""
        there = None if self.given.valid is None else self.given.valid[:, t]
        carried = None
        if there is not None:
            d_out = d_out + self.d_h
            carried = _where(there, None, d_out), _where(there, None, self.d_memory)
            d_out, self.d_memory = _where(there, d_out, None), _where(there, self.d_memory, None)
            self.d_h = torch.zeros_like(d_out)
        self.family.backward(sums, memory, d_out, self.d_h, self.d_memory, d_a, d_b)
        if not back:
            return
        self.d_h = self._input_gradient(torch.empty_like(d_out), d_b, self.w_h, self.turned_h)
        if carried is not None:
            self.d_h, self.d_memory = self.d_h + carried[0], self.d_memory + carried[1]
        if self.given.starts is not None:
            start = self.given.starts[:, t]
            self.d_h, self.d_memory = _where(start, None, self.d_h), _where(start, None, self.d_memory)

    def _input_gradient(self, room: Tensor, d: Tensor, weight: Tensor, turned: Tensor | None) -> Tensor:
        """That of what was convolved, from that of the sums, into ``room``."""
        if turned is not None:
            return self.plan.conv.into(room, d, turned)
        found, _, _ = self.plan.conv.gradients(d, room, weight, (True, False, False))
        assert found is not None
        return room.copy_(found)

    def _collect(
        self, first: int, last: int, x: Tensor, before: Tensor, d_a: Tensor, d_b: Tensor, fresh: bool
    ) -> None:
        """What a chunk adds to the gradients of weight and bias, and its frames' own."""
        if self.d_x is not None:
            self._input_gradient(self.d_x[first:last], d_a, self.w_x, self.turned_x)
        if self.d_weight is None and self.d_bias is None:
            return
        _, of_w, of_b = self.plan.conv.gradients(d_a, x, self.w_x, (False, *self.needed[1:3]))
        if self.d_bias is not None and of_b is not None:
            self.d_bias += of_b
        if self.d_weight is not None and of_w is not None:
            self.d_weight[:, : self.channels] += of_w
        if fresh:  # the first h, which is zero
            begin, end = (0, -1) if self.plan.reverse else (1, last - first)
            before, d_b = before[begin:end], d_b[begin:end]
        if self.d_weight is not None and len(before):
            _, of_h, _ = self.plan.conv.gradients(d_b, before, self.w_h, (False, True, False))
            assert of_h is not None
            self.d_weight[:, self.channels :] += of_h


def _where(flags_B: Tensor, yes: Tensor | None, no: Tensor | None) -> Tensor:
    """For each sample the first tensor where the flag is set, else the second; None is zero."""
    like: Any = no if yes is None else yes
    flags = flags_B[(..., *(None,) * (like.ndim - 1))]
    return torch.where(flags, 0 if yes is None else yes, 0 if no is None else no)
