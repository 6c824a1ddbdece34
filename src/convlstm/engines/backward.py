"""The gradients of `convlstm.engines.forward`.

The pointwise part and the gradient of the previous h are computed step by step, gradients of weight, bias and
input for a chunk of steps at once (as in Appleyard et al. 2016, arXiv:1604.01946, for dense LSTMs).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

import convlstm.engines.cpu.sequence as sequence
from convlstm.engines.buffer_pool import empty
from convlstm.engines.cpu.winograd import WinogradWeight
from convlstm.engines.direct import ConvWeight, DirectWeight, is_channels_first_faster
from convlstm.engines.forward import Saved, where_flag
from convlstm.engines.plan import Inputs, Plan
from convlstm.engines.recurrences import StepBuffers, StepGradients


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
        saved: by its forward pass, as `Saved`.
        needed: by input.
        gradients: of the outputs, unless ``last_only``, and of the state after the last step; None for zero.
    """
    d_outputs, *d_state = (None, *gradients) if plan.last_only else gradients
    x, weight, bias, _, *state = needed
    wanted = x, weight, bias, any(state)
    if plan.is_one_call(inputs):
        computed = sequence.backward(plan, inputs, saved, wanted, d_outputs, d_state)
    else:
        computed = Backward(plan, inputs, Saved(*saved), wanted).run(d_outputs, d_state)
    found = zip(computed, inputs.tensors()[2:], needed, strict=True)
    return [d.to(t.dtype) if use and d is not None and t is not None else None for d, t, use in found]


class Backward:
    """The gradients of one call.

    Args:
        plan: of the call.
        inputs: of the call.
        saved: by its forward pass.
        needed: gradients needed, of x, weight, bias, state.
    """

    def __init__(
        self, plan: Plan, inputs: Inputs, saved: Saved, needed: tuple[bool, bool, bool, bool]
    ) -> None:
        self.plan, self.inputs, self.saved, self.needed = plan, inputs, saved, needed
        x, weight = inputs.x, inputs.weight
        self.batch, self.steps, self.channels = x.shape[:3]
        self.shape = tuple(saved.h.shape[1:])
        self.kernels = plan.kernels
        self.parameter = self.kernels.prepare(inputs.parameter, saved.checkpoints)
        conv = plan.conv(self.steps, x)
        self.w_x, self.w_h = conv.split_weight(weight, saved.h[0])
        self.bias = None if inputs.bias is None else inputs.bias.to(plan.compute_dtype)
        self.weight = None
        if saved.preactivations is None:
            self.weight = self.kernels.prepare_weight(
                conv, weight, inputs.bias, self.parameter, saved.h[0], save=True
            )
        self.d_x = self._empty(self.steps, self.channels) if needed[0] else None
        self.d_weight = torch.zeros_like(weight, dtype=plan.state_dtype) if needed[1] else None
        self.d_bias = weight.new_zeros(len(weight), dtype=plan.state_dtype) if needed[2] else None
        parameter = inputs.parameter
        self.d_parameter = None if parameter is None else torch.zeros_like(parameter, dtype=plan.state_dtype)

    def _empty(self, steps: int, channels: int, dtype: torch.dtype | None = None) -> Tensor:
        shape = (steps, *self.shape[:-1], channels)
        return empty(shape, dtype or self.plan.compute_dtype, self.inputs.x.device)

    def run(self, d_outputs: Tensor | None, d_state: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of all inputs from those of outputs (B, T, C, *S) and last state; None for zero."""
        plan = self.plan
        *d_last_h, d_last = d_state
        self.d_cell_state = self._channels_last(d_last, plan.state_dtype)
        self.d_h = self._channels_last(d_last_h[0] if d_last_h else None, plan.compute_dtype)
        chunks = plan.chunks(self.steps, plan.chunk_length(self.inputs))
        for n in range(len(chunks))[::-1]:
            self._chunk(n, chunks[n], d_outputs)
        state: tuple[Tensor | None, ...] = (None,) * len(d_state)
        if self.needed[3]:
            found = (self.d_h, self.d_cell_state) if d_last_h else (self.d_cell_state.add_(self.d_h),)
            state = tuple(d.movedim(-1, 1) for d in found)
        d_x = None if self.d_x is None else self.d_x.transpose(0, 1).movedim(-1, 2)
        return [d_x, self.d_weight, self.d_bias, self.d_parameter, *state]

    def _channels_last(self, frames: Tensor | None, dtype: torch.dtype) -> Tensor:
        if frames is None:
            return torch.zeros(self.shape, dtype=dtype, device=self.inputs.x.device)
        return self.plan.channels_last(frames, dtype)

    def _chunk(self, n: int, frames: range, d_outputs: Tensor | None) -> None:
        """Chunk n: the steps in reverse order, then the gradients of weight, bias and input."""
        plan, kernels, inputs = self.plan, self.kernels, self.inputs
        first, last = min(frames), max(frames) + 1
        x = plan.time_major(inputs.x, first, last)
        h = self.saved.h[first + 1 : last + 1] if plan.reverse else self.saved.h[first:last]
        if inputs.reset is not None:
            h = where_flag(inputs.reset[:, first:last].t(), None, h)
        saved, cell_states = self._recompute(n, frames, x, h)
        d_a = self._empty(len(frames), kernels.gates * self.shape[-1])
        d_b = d_a if kernels.only_added else self._empty(len(frames), kernels.gates * self.shape[-1])
        if d_outputs is None:
            d_out = torch.zeros(len(frames), *self.shape, dtype=plan.compute_dtype, device=x.device)
        else:
            d_out = plan.time_major(d_outputs, first, last)
        for t in frames[::-1]:
            k, is_first = t - first, n == 0 and t == frames[0]
            d_after = d_out[k], self.d_h, self.d_cell_state
            gradients = StepGradients(saved[k], cell_states[k], *d_after, d_a[k], d_b[k], self.parameter)
            self._step(t, gradients, before=self.needed[3] or not is_first)
        self._collect(first, last, x, h, d_a, d_b, zero_state=plan.zero_state and n == 0)
        if self.d_parameter is not None:
            kernels.add_parameter_gradient(self.d_parameter, saved, cell_states, d_b, self.parameter)

    def _recompute(self, n: int, frames: range, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Saved pre-activations of chunk n, and the cell state before each of its frames."""
        inputs, hidden, first = self.inputs, self.shape[-1], min(frames)
        c, preactivations = self.saved.checkpoints[n], self.saved.preactivations
        cell_states = self._empty(len(frames), hidden, self.plan.state_dtype)
        if preactivations is not None:
            saved = preactivations[first : first + len(frames)]
        else:
            saved = self._empty(len(frames), self.kernels.saved_gates * hidden)
            new_h, run_step = self._empty(1, hidden)[0], self._step_function(x, h, n, frames)
        if preactivations is not None and inputs.reset is None and inputs.mask is None:
            cell_states[frames[0] - first].copy_(c)
            for t, after in pairwise(frames):
                before, new = cell_states[t - first], cell_states[after - first]
                self.kernels.recompute(saved[t - first], before, new, self.parameter)
            return saved, cell_states
        new = self._empty(1, hidden, self.plan.state_dtype)[0]
        for t in frames:
            k = t - first
            cell_states[k].copy_(c if inputs.reset is None else where_flag(inputs.reset[:, t], None, c))
            if preactivations is None:
                run_step(k, new.copy_(cell_states[k]), new_h, saved[k])
            elif t != frames[-1]:
                self.kernels.recompute(saved[k], cell_states[k], new, self.parameter)
            c = new if inputs.mask is None else where_flag(inputs.mask[:, t], new, cell_states[k])
        return saved, cell_states

    def _step_function(
        self, x: Tensor, h: Tensor, n: int, frames: range
    ) -> Callable[[int, Tensor, Tensor, Tensor], None]:
        """Step k of chunk n of the forward pass, as a function of k, cell state, new h and saved."""
        kernels, weight, parameter = self.kernels, self.weight, self.parameter
        if weight is not None and weight.input is None:
            zero = frames[0] - min(frames) if self.plan.zero_state and n == 0 else -1
            return lambda k, c, new_h, saved: kernels.step(
                weight, None if k == zero else h[k], StepBuffers(x[k], None, c, new_h, saved, parameter)
            )
        a = self.w_x.into(self._empty(len(frames), kernels.gates * self.shape[-1]), x, self.bias)
        if kernels.only_added:
            self.w_h.add(a, h)
        b = None if kernels.only_added else self.w_h.into(torch.empty_like(a), h)
        return lambda k, c, new_h, saved: kernels.forward(
            StepBuffers(a[k], None if b is None else b[k], c, new_h, saved, parameter)
        )

    def _step(self, t: int, gradients: StepGradients, before: bool) -> None:
        """Gradients before frame t, if ``before``, from those after it; writes d_a and d_b."""
        mask = None if self.inputs.mask is None else self.inputs.mask[:, t]
        unchanged = None
        if mask is not None:
            d_h, d_cell_state = gradients.d_output + self.d_h, self.d_cell_state
            unchanged = where_flag(mask, None, d_h), where_flag(mask, None, d_cell_state)
            self.d_cell_state = where_flag(mask, d_cell_state, None)
            gradients = gradients._replace(
                d_output=where_flag(mask, d_h, None),
                d_h=torch.zeros_like(d_h),
                d_cell_state=self.d_cell_state,
            )
        self.kernels.backward(gradients)
        if not before:
            return
        self.d_h = self.w_h.input_gradient(torch.empty_like(gradients.d_output), gradients.d_b)
        if unchanged is not None:
            self.d_h, self.d_cell_state = self.d_h + unchanged[0], self.d_cell_state + unchanged[1]
        if self.inputs.reset is not None:
            reset = self.inputs.reset[:, t]
            self.d_h = where_flag(reset, None, self.d_h)
            self.d_cell_state = where_flag(reset, None, self.d_cell_state)

    def _collect(
        self, first: int, last: int, x: Tensor, h: Tensor, d_a: Tensor, d_b: Tensor, zero_state: bool
    ) -> None:
        """Add a chunk's gradients of weight and bias, and write those of its frames."""
        if self.d_x is not None:
            self.w_x.input_gradient(self.d_x[first:last], d_a)
        if self.d_weight is None and self.d_bias is None:
            return
        without_h = zero_state and last - first == 1
        if not without_h and self._add_whole_weight(x, h, d_a, d_b):
            return
        zero = (last - first - 1 if self.plan.reverse else 0) if zero_state else -1  # frame whose h is zero
        weights = self.w_x, self.w_h
        small = [w for w in weights if isinstance(w, DirectWeight) and w.taps[0, 0].numel() <= 9]
        if len(small) == 2 and is_channels_first_faster(self.plan.compute_dtype, x.device.type):
            # Torch also goes by the memory format of the weight, whose values are not read.
            small = [replace(w, taps=w.taps.clone(memory_format=torch.contiguous_format)) for w in small]
            for k in range(last - first):
                a, frame, frame_h = (self._in_channels_first_memory(part[k]) for part in (d_a, x, h))
                b = a if d_b is d_a else self._in_channels_first_memory(d_b[k])
                self._add_weights(frame, None if k == zero else frame_h, a, b, small)
            return
        if zero_state:
            nonzero = slice(0, -1) if self.plan.reverse else slice(1, None)
            h, d_b = h[nonzero], d_b[nonzero]
        self._add_weights(x, h if len(h) else None, d_a, d_b, weights)

    def _add_whole_weight(self, x: Tensor, h: Tensor, d_a: Tensor, d_b: Tensor) -> bool:
        """Add to the gradients of weight and bias by one transform of ``d_a``; False if none is faster."""
        if self.d_weight is None or d_b is not d_a or not isinstance(self.w_h, WinogradWeight):
            return False
        frames = self._empty(len(x), self.channels + self.shape[-1])
        frames[..., : self.channels], frames[..., self.channels :] = x, h
        found = replace(self.w_h, weight=self.inputs.weight).weight_gradient(d_a, frames)
        if found is None:
            return False
        self.d_weight += found
        if self.d_bias is not None:
            self.d_bias += d_a.flatten(0, -2).sum(0)
        return True

    def _in_channels_first_memory(self, x: Tensor) -> Tensor:
        """(B, *S, C) as a view of contiguous (B, C, *S)."""
        frames = torch.empty(len(x), x.shape[-1], *x.shape[1:-1], dtype=x.dtype)
        self.kernels.to_channels_first(x, frames)
        return frames.movedim(1, -1)

    def _add_weights(
        self, x: Tensor, h: Tensor | None, d_a: Tensor, d_b: Tensor, weights: Sequence[ConvWeight]
    ) -> None:
        """Add to the gradients of weight and bias those of some frames; h is None for zero."""
        w_x, w_h = weights
        of_x, of_bias = w_x.gradients(d_a, x, self.needed[1:3])
        if self.d_bias is not None and of_bias is not None:
            self.d_bias += of_bias
        if self.d_weight is not None and of_x is not None:
            self.d_weight[:, : self.channels] += of_x
        if self.d_weight is not None and h is not None:
            of_h, _ = w_h.gradients(d_b, h, (True, False))
            assert of_h is not None
            self.d_weight[:, self.channels :] += of_h
