"""The gradients of `convlstm.engines.forward`.

Only the pass over the pixels and the gradient of the previous h go step by step; those of weights, bias and
input are one convolution for a chunk of steps (as in Appleyard et al. 2016, arXiv:1604.01946, for dense
LSTMs).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.convolution import is_narrow, split
from convlstm.engines.forward import Kept, chosen
from convlstm.engines.plan import Inputs, Plan


def backward(
    plan: Plan,
    inputs: Inputs,
    saved: Sequence[Tensor],
    needed: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of x, weight, bias, parameter and state; None for those not needed.

    Args:
        plan: of the call.
        inputs: of the call.
        saved: by its forward pass.
        needed: by input.
        gradients: of the outputs, unless ``last_only``, and of the state after the last step; None for zero.
    """
    d_outputs, *d_state = (None, *gradients) if plan.last_only else gradients
    x, weight, bias, _, *state = needed
    computed = Backward(plan, inputs, Kept(*saved), (x, weight, bias, any(state))).run(d_outputs, d_state)
    found = zip(computed, inputs.tensors()[2:], needed, strict=True)
    return [d.to(t.dtype) if wanted and d is not None and t is not None else None for d, t, wanted in found]


class Backward:
    """The gradients of one call.

    Args:
        plan: of the call.
        inputs: to the call.
        kept: by its forward pass.
        needed: whether gradients of x, weight, bias, states are asked for.
    """

    def __init__(self, plan: Plan, inputs: Inputs, kept: Kept, needed: tuple[bool, bool, bool, bool]) -> None:
        self.plan, self.inputs, self.kept, self.needed = plan, inputs, kept, needed
        x, weight = inputs.x, inputs.weight
        self.batch, self.steps, self.channels = x.shape[:3]
        self.shape = tuple(kept.h.shape[1:])
        self.family = plan.family.prepared(inputs.parameter, plan.state_dtype)
        self.w_x, self.w_h = split(weight, self.channels, plan.compute_dtype)
        self.turned_x, self.turned_h = (plan.conv.turned(w) for w in (self.w_x, self.w_h))
        self.bias = None if inputs.bias is None else inputs.bias.to(plan.compute_dtype)
        self.weight = None
        if kept.sums is None:
            self.weight = self.family.weight(plan.conv, weight, inputs.bias, kept.h[0], keep=True)
        self.d_x = self._empty(self.steps, self.channels) if needed[0] else None
        self.d_weight = torch.zeros_like(weight, dtype=plan.state_dtype) if needed[1] else None
        self.d_bias = weight.new_zeros(len(weight), dtype=plan.state_dtype) if needed[2] else None
        parameter = inputs.parameter
        self.d_extra = None if parameter is None else torch.zeros_like(parameter, dtype=plan.state_dtype)

    def _empty(self, steps: int, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        shape = (steps, *self.shape[:-1], channels)
        return empty(shape, dtype or self.plan.compute_dtype, self.inputs.x.device)

    def run(self, d_outputs: Tensor | None, d_ends: Sequence[Tensor | None]) -> list[Tensor | None]:
        """From the gradients of outputs (B, T, C, *S) and of the last states (None for zero)."""
        plan = self.plan
        *d_last_h, d_last = d_ends
        self.d_memory = self._rows_or_zeros(d_last, plan.state_dtype)
        self.d_h = self._rows_or_zeros(d_last_h[0] if d_last_h else None, plan.compute_dtype)
        chunks = plan.chunks(self.steps, plan.chunk_length(self.inputs))
        for n in range(len(chunks))[::-1]:
            self._chunk(n, chunks[n], d_outputs)
        states: tuple[Tensor | None, ...] = (None,) * len(d_ends)
        if self.needed[3]:
            rows = (self.d_h, self.d_memory) if d_last_h else (self.d_memory.add_(self.d_h),)
            states = tuple(d.movedim(-1, 1) for d in rows)
        d_x = None if self.d_x is None else self.d_x.transpose(0, 1).movedim(-1, 2)
        return [d_x, self.d_weight, self.d_bias, self.d_extra, *states]

    def _rows_or_zeros(self, frames: Tensor | None, dtype: torch.dtype) -> Tensor:
        if frames is None:
            return torch.zeros(self.shape, dtype=dtype, device=self.inputs.x.device)
        return self.plan.channels_last(frames, dtype)

    def _chunk(self, n: int, frames: range, d_outputs: Tensor | None) -> None:
        """Chunk n: its gradients step by step, and what it adds to those of weights, bias and input."""
        plan, family, inputs = self.plan, self.family, self.inputs
        first, last = min(frames), max(frames) + 1
        x = plan.time_major(inputs.x, first, last)
        before = self.kept.h[first + 1 : last + 1] if plan.reverse else self.kept.h[first:last]
        if inputs.reset is not None:
            before = chosen(inputs.reset[:, first:last].t(), None, before)
        sums, memory = self._again(n, frames, x, before)
        hidden = self.shape[-1]
        d_a = self._empty(len(frames), family.gates * hidden)
        d_b = d_a if family.one_sum else self._empty(len(frames), family.gates * hidden)
        if d_outputs is None:
            d_out = torch.zeros(len(frames), *self.shape, dtype=plan.compute_dtype, device=x.device)
        else:
            d_out = plan.time_major(d_outputs, first, last)
        for t in frames[::-1]:
            k = t - first
            begins = n == 0 and t == frames[0]
            self._step(t, sums[k], memory[k], d_out[k], d_a[k], d_b[k], back=self.needed[3] or not begins)
        self._collect(first, last, x, before, d_a, d_b, fresh=plan.zero_state and n == 0)
        if self.d_extra is not None:
            family.add_extra(self.d_extra, sums, memory, d_b)

    def _again(self, n: int, frames: range, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of a chunk, and the memory before each of its frames, as the forward pass had them."""
        plan, family, inputs = self.plan, self.family, self.inputs
        hidden, first, m = self.shape[-1], min(frames), self.kept.memory[n]
        memory = self._empty(len(frames), hidden, plan.state_dtype)
        if self.kept.sums is not None and inputs.reset is None and inputs.mask is None:
            sums = self.kept.sums[first : first + len(frames)]
            memory[frames[0] - first].copy_(m)
            for t, after in pairwise(frames):
                family.replay(sums[t - first], memory[t - first], memory[after - first])
            return sums, memory
        new = self._empty(1, hidden, plan.state_dtype)[0]
        if self.kept.sums is not None:
            sums = self.kept.sums[first : first + len(frames)]
        else:
            sums, h = self._empty(len(frames), family.kept * hidden), self._empty(1, hidden)[0]
            again = self._steps_again(x, before, n, frames)
        for t in frames:
            k = t - first
            memory[k].copy_(m if inputs.reset is None else chosen(inputs.reset[:, t], None, m))
            if self.kept.sums is None:
                again(k, new.copy_(memory[k]), h, sums[k])
            elif t != frames[-1]:
                family.replay(sums[k], memory[k], new)
            m = new if inputs.mask is None else chosen(inputs.mask[:, t], new, memory[k])
        return sums, memory

    def _steps_again(
        self, x: Tensor, before: Tensor, n: int, frames: range
    ) -> Callable[[int, Tensor, Tensor, Tensor], None]:
        """The step k of a chunk of the forward pass, into memory, h and sums."""
        plan, family, weight = self.plan, self.family, self.weight
        if weight is not None and weight.frame is None:
            zero = frames[0] - min(frames) if plan.zero_state and n == 0 else -1
            return lambda k, *into: family.step(
                plan.conv, x[k], None, None if k == zero else before[k], weight, *into
            )
        a = plan.conv.into(self._empty(len(frames), family.gates * self.shape[-1]), x, self.w_x, self.bias)
        add = plan.conv.add if family.one_sum else plan.conv.into
        b = add(a if family.one_sum else torch.empty_like(a), before, self.w_h)
        return lambda k, *into: family.forward(a[k], b[k], *into)

    def _step(
        self, t: int, sums: Tensor, memory: Tensor, d_out: Tensor, d_a: Tensor, d_b: Tensor, back: bool
    ) -> None:
        """From the gradients after frame t to those before it, if these are wished; fills in d_a and d_b."""
        there = None if self.inputs.mask is None else self.inputs.mask[:, t]
        carried = None
        if there is not None:
            d_out = d_out + self.d_h
            carried = chosen(there, None, d_out), chosen(there, None, self.d_memory)
            d_out, self.d_memory = chosen(there, d_out, None), chosen(there, self.d_memory, None)
            self.d_h = torch.zeros_like(d_out)
        self.family.backward(sums, memory, d_out, self.d_h, self.d_memory, d_a, d_b)
        if not back:
            return
        self.d_h = self._input_gradient(torch.empty_like(d_out), d_b, self.w_h, self.turned_h)
        if carried is not None:
            self.d_h, self.d_memory = self.d_h + carried[0], self.d_memory + carried[1]
        if self.inputs.reset is not None:
            start = self.inputs.reset[:, t]
            self.d_h, self.d_memory = chosen(start, None, self.d_h), chosen(start, None, self.d_memory)

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
        begins = (last - first - 1 if self.plan.reverse else 0) if fresh else -1  # the first h, which is zero
        if is_narrow(self.plan.compute_dtype, x.device.type) and self.w_h[0, 0].numel() <= 9:
            # Torch goes by the layout of the weight, whose values are not read, as well.
            plain = tuple(w.clone(memory_format=torch.contiguous_format) for w in (self.w_x, self.w_h))
            for k in range(last - first):
                a, frame, h = (self._as_frames(rows[k]) for rows in (d_a, x, before))
                b = a if d_b is d_a else self._as_frames(d_b[k])
                self._add_weights(frame, None if k == begins else h, a, b, plain)
            return
        if fresh:
            kept = slice(0, -1) if self.plan.reverse else slice(1, None)
            before, d_b = before[kept], d_b[kept]
        self._add_weights(x, before if len(before) else None, d_a, d_b, (self.w_x, self.w_h))

    def _as_frames(self, rows: Tensor) -> Tensor:
        """Rows (B, *S, C) whose memory is that of frames (B, C, *S)."""
        frames = torch.empty(len(rows), rows.shape[-1], *rows.shape[1:-1], dtype=rows.dtype)
        self.family.kernels.to_frames(rows, frames)
        return frames.movedim(1, -1)

    def _add_weights(
        self, x: Tensor, before: Tensor | None, d_a: Tensor, d_b: Tensor, weights: Sequence[Tensor]
    ) -> None:
        """Add to the gradients of weight and bias those of some frames; ``before`` is h, or None for zero."""
        w_x, w_h = weights
        _, of_w, of_b = self.plan.conv.gradients(d_a, x, w_x, (False, *self.needed[1:3]))
        if self.d_bias is not None and of_b is not None:
            self.d_bias += of_b
        if self.d_weight is not None and of_w is not None:
            self.d_weight[:, : self.channels] += of_w
        if self.d_weight is not None and before is not None:
            _, of_h, _ = self.plan.conv.gradients(d_b, before, w_h, (False, True, False))
            assert of_h is not None
            self.d_weight[:, self.channels :] += of_h
