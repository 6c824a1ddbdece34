"""Scans of recurrences that are linear in their state, in Triton.

A program runs a block of elements of one sample through all frames, some at once by an associative scan. See
``csrc/linear.h`` for the rules, and `convlstm.engines.linear.linear_states`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

import convlstm.engines.triton.launch as launch
from convlstm.engines.triton.device import _sigmoid, load
from convlstm.functional.linear_recurrence import PLANES

FRAMES, ELEMENTS = 16, 64  # of a tile

kernel = triton.jit(do_not_specialize=("T",))


@triton.jit
def _positive(n):
    """The positive function of the candidate, and its derivative."""
    s = _sigmoid(n)
    return tl.where(n < 0.0, s, n + 0.5), tl.where(n < 0.0, s * (1.0 - s), 1.0)


@triton.jit
def _log_sigmoid(x):
    return tl.where(x < 0.0, x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _log_ratio(x, offsets, mask, N, RULE: tl.constexpr):
    """The logarithm of a / (1 - a), and the offset of the candidate's plane."""
    if RULE == "min_gru":
        ratio = -load(x, offsets, mask)
        candidate = offsets + N
    else:
        f, i = load(x, offsets, mask), load(x, offsets + N, mask)
        candidate = offsets + 2 * N
        if RULE == "min_lstm":
            ratio = _log_sigmoid(f) - _log_sigmoid(i)
        else:
            tl.static_assert(RULE == "min_exp_lstm")
            ratio = f - i
    return ratio, candidate


@triton.jit
def _coefficients(x, offsets, mask, N, RULE: tl.constexpr):
    """Coefficients a and b, from the offsets of the first plane."""
    if RULE == "affine":
        a, b = load(x, offsets, mask), load(x, offsets + N, mask)
    else:
        ratio, candidate = _log_ratio(x, offsets, mask, N, RULE)
        value, _ = _positive(load(x, candidate, mask))
        a, b = _sigmoid(ratio), _sigmoid(-ratio) * value
    return a, b


@triton.jit
def _store_gradients(x, d_x, offsets, mask, valid, d, h, N, RULE: tl.constexpr):
    """Gradients of the planes of valid frames, from that of the state after the step and the state before."""
    d = tl.where(valid, d, 0.0)
    if RULE == "affine":
        tl.store(d_x + offsets, d * h, mask)
        tl.store(d_x + offsets + N, d, mask)
    else:
        ratio, candidate = _log_ratio(x, offsets, mask, N, RULE)
        value, derivative = _positive(load(x, candidate, mask))
        a, b = _sigmoid(ratio), _sigmoid(-ratio)
        d_ratio = d * (h - value) * a * b
        tl.store(d_x + candidate, d * b * derivative, mask)
        if RULE == "min_gru":
            tl.store(d_x + offsets, -d_ratio, mask)
        elif RULE == "min_lstm":
            tl.store(d_x + offsets, d_ratio * _sigmoid(-load(x, offsets, mask)), mask)
            tl.store(d_x + offsets + N, -d_ratio * _sigmoid(-load(x, offsets + N, mask)), mask)
        else:
            tl.store(d_x + offsets, d_ratio, mask)
            tl.store(d_x + offsets + N, -d_ratio, mask)


@triton.jit
def _then(a, b, next_a, next_b):
    """Two steps as one."""
    return a * next_a, next_a * b + next_b


@triton.jit
def _flag(flags, frame, inside, missing: tl.constexpr):
    """A flag of each frame; ``missing`` without flags and outside."""
    if flags is None:
        found = tl.full(frame.shape, missing, tl.int1)
    else:
        found = tl.load(flags + frame, inside, missing) != 0
    return found


@triton.jit
def _last_row(y, FRAMES: tl.constexpr):
    """The last row of a tile."""
    return tl.sum(tl.where(tl.arange(0, FRAMES)[:, None] == FRAMES - 1, y, 0.0), 0)


@kernel
def scan_forward(
    x, state, mask, reset, h, last, T, N,
    RULE: tl.constexpr, PLANES: tl.constexpr, REVERSE: tl.constexpr,
    FRAMES: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """States after each frame and the last one."""
    blocks = tl.cdiv(N, ELEMENTS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    n = (tl.program_id(0) % blocks) * ELEMENTS + tl.arange(0, ELEMENTS)
    s = tl.load(state + sample * N + n, n < N, 0.0)
    for first in range(0, T, FRAMES):
        step = first + tl.arange(0, FRAMES)
        frame = sample * T + (T - 1 - step if REVERSE else step)
        there = step < T
        inside = there[:, None] & (n < N)[None, :]
        offsets = frame[:, None] * N * PLANES + n[None, :]
        a, b = _coefficients(x, offsets, inside, N, RULE)
        valid = (_flag(mask, frame, there, True) & there)[:, None]
        a, b = tl.where(valid, a, 1.0), tl.where(valid, b, 0.0)
        a = tl.where(_flag(reset, frame, there, False)[:, None], 0.0, a)
        a, b = tl.associative_scan((a, b), 0, _then)
        y = a * s[None, :] + b
        tl.store(h + frame[:, None] * N + n[None, :], y, inside)
        s = _last_row(y, FRAMES)
    tl.store(last + sample * N + n, s, n < N)


@kernel
def scan_backward(
    x, state, mask, reset, h, d_h, d_last, d_x, d_state, T, N,
    RULE: tl.constexpr, PLANES: tl.constexpr, REVERSE: tl.constexpr,
    FRAMES: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Gradients of planes and the state before, from those of the results, of which None is zero.

    That of each state is the recurrence from the last step to the first, by the coefficient of the next step.
    """
    blocks = tl.cdiv(N, ELEMENTS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    n = (tl.program_id(0) % blocks) * ELEMENTS + tl.arange(0, ELEMENTS)
    carry = tl.zeros((ELEMENTS,), tl.float32)
    if d_last is not None:
        carry = tl.load(d_last + sample * N + n, n < N, 0.0)
    # The last tile ends at step -1, whose state is that before the first step.
    for first in range(0, T + 1, FRAMES):
        step = T - 1 - first - tl.arange(0, FRAMES)
        frame = sample * T + (T - 1 - step if REVERSE else step)
        later = frame - 1 if REVERSE else frame + 1
        there, has_later = step >= 0, (step >= -1) & (step < T - 1)
        inside = there[:, None] & (n < N)[None, :]
        offsets = later[:, None] * N * PLANES + n[None, :]
        a, _ = _coefficients(x, offsets, has_later[:, None] & (n < N)[None, :], N, RULE)
        valid = (_flag(mask, later, has_later, True) & has_later)[:, None]
        a = tl.where(valid, a, 1.0)
        a = tl.where(_flag(reset, later, has_later, False)[:, None], 0.0, a)
        d = tl.zeros((FRAMES, ELEMENTS), tl.float32)
        if d_h is not None:
            d = tl.load(d_h + frame[:, None] * N + n[None, :], inside, 0.0)
        a, d = tl.associative_scan((a, d), 0, _then)
        d = a * carry[None, :] + d
        carry = _last_row(d, FRAMES)
        earlier = frame + 1 if REVERSE else frame - 1
        before = tl.load(h + earlier[:, None] * N + n[None, :], inside & (step > 0)[:, None], 0.0)
        at_first = tl.load(state + sample * N + n[None, :], (n < N)[None, :], 0.0)
        before = tl.where((step == 0)[:, None], at_first, before)
        before = tl.where(_flag(reset, frame, there, False)[:, None], 0.0, before)
        valid = _flag(mask, frame, there, True)[:, None]
        offsets = frame[:, None] * N * PLANES + n[None, :]
        _store_gradients(x, d_x, offsets, inside, valid, d, before, N, RULE)
    tl.store(d_state + sample * N + n, carry, n < N)


class TritonLinear:
    """The kernels; see `convlstm.engines.cpu.linear.CpuLinear`, which has the same methods."""

    def forward(
        self, rule: str, planes: Tensor, h: Tensor, mask: Tensor | None, reset: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        """The states after each frame and the last one."""
        states, last = h.new_empty(*planes.shape[:2], *h.shape[1:]), torch.empty_like(h)
        _launch(scan_forward, rule, reverse, planes, h, mask, reset, states, last)
        return states, last

    def backward(
        self,
        rule: str,
        planes: Tensor,
        h: Tensor,
        mask: Tensor | None,
        reset: Tensor | None,
        reverse: bool,
        states: Tensor,
        d_states: Tensor | None,
        d_last: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of planes and h from those of the results of `forward`; None is zero."""
        d_planes, d_h = torch.empty_like(planes), torch.empty_like(h)
        inputs = planes, h, mask, reset, states, d_states, d_last
        _launch(scan_backward, rule, reverse, *inputs, d_planes, d_h)
        return d_planes, d_h


def _launch(
    kernel: object, rule: str, reverse: bool, planes: Tensor, h: Tensor, *tensors: Tensor | None
) -> None:
    mask, reset, *others = (t if t is None else t.contiguous() for t in tensors)
    batch, steps, elements = *planes.shape[:2], h[0].numel()
    sizes = steps, elements, rule, PLANES[rule], reverse, FRAMES, ELEMENTS
    programs = batch * -(-elements // ELEMENTS)
    launch.run(kernel, programs, h, planes, h, mask, reset, *others, *sizes)
