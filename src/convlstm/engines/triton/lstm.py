"""The LSTM in Triton: pointwise kernels, a step fused with its convolution, and their launches."""

import math
from functools import lru_cache
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

import convlstm.engines.config as config
import convlstm.engines.triton.launch as launch
from convlstm.engines.convolution import SameConv
from convlstm.engines.recurrences import StepBuffers, Weight, sizes
from convlstm.engines.recurrences.lstm import LSTM
from convlstm.engines.triton.device import (
    activation,
    derivative,
    elements,
    kernel,
    load,
    load_sum,
    store_four,
)
from convlstm.engines.triton.launch import TritonKernels

_MIN_PROGRAMS = 120  # that occupy an H100's 132 multiprocessors well enough
#: Length of the reduction, and pixels, up to which the fused step is faster than cuDNN's convolution and a
#: pointwise kernel. On an H200 a forward pass at both limits takes 0.9 of their time; with 128 channels 1.5,
#: with 65,536 pixels 1.1 of it.
_MAX_REDUCTION, _MAX_PIXELS = 64 * 3 * 3, 1 << 14


@triton.jit
def _add_peephole(x, peepholes, offsets, mask, c):
    """X plus peephole times cell state, if there are peepholes."""
    if peepholes is not None:
        x += tl.load(peepholes + offsets, mask) * c
    return x


@triton.jit
def _new_cell_state(i, f, g, before, GATE: tl.constexpr, CANDIDATE: tl.constexpr):
    return activation(f, GATE) * before + activation(i, GATE) * activation(g, CANDIDATE)


@kernel
def lstm_forward(
    a, b, c, h, saved, peepholes, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.forward`; ``b`` is None if ``a`` is the sum of both parts."""
    n, p, mask = elements(P, C, BLOCK)
    s, w, weights = n + p * (3 * C), n + (p % Q - p) * C, Q.to(tl.int64) * C
    i, f = load_sum(a, b, s, mask), load_sum(a, b, s + C, mask)
    o, g = load_sum(a, b, s + 2 * C, mask), load_sum(a, b, s + 3 * C, mask)
    if saved is not None:
        store_four(saved, s, mask, C, i, f, o, g)
    before = tl.load(c + n, mask)
    i = _add_peephole(i, peepholes, w, mask, before)
    f = _add_peephole(f, peepholes, w + weights, mask, before)
    after = _new_cell_state(i, f, g, before, GATE, CANDIDATE)
    tl.store(c + n, after, mask)
    o = _add_peephole(o, peepholes, w + 2 * weights, mask, after)
    tl.store(h + n, activation(o, GATE) * activation(after, OUTPUT), mask)


@kernel
def lstm_recompute(
    saved, c, new_c, peepholes, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.recompute`."""
    n, p, mask = elements(P, C, BLOCK)
    s, w, weights = n + p * (3 * C), n + (p % Q - p) * C, Q.to(tl.int64) * C
    before, g = tl.load(c + n, mask), load(saved, s + 3 * C, mask)
    i = _add_peephole(load(saved, s, mask), peepholes, w, mask, before)
    f = _add_peephole(load(saved, s + C, mask), peepholes, w + weights, mask, before)
    tl.store(new_c + n, _new_cell_state(i, f, g, before, GATE, CANDIDATE), mask)


@kernel
def lstm_backward(
    saved, c, d_output, d_h, d_c, d_a, d_b, peepholes, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.backward`."""
    n, p, mask = elements(P, C, BLOCK)
    s, w, weights = n + p * (3 * C), n + (p % Q - p) * C, Q.to(tl.int64) * C
    before = tl.load(c + n, mask)
    i_in = _add_peephole(load(saved, s, mask), peepholes, w, mask, before)
    f_in = _add_peephole(load(saved, s + C, mask), peepholes, w + weights, mask, before)
    o_in, g_in = load(saved, s + 2 * C, mask), load(saved, s + 3 * C, mask)
    i, f, g = activation(i_in, GATE), activation(f_in, GATE), activation(g_in, CANDIDATE)
    after = f * before + i * g
    o_in = _add_peephole(o_in, peepholes, w + 2 * weights, mask, after)
    o, out = activation(o_in, GATE), activation(after, OUTPUT)
    dh = load(d_output, n, mask) + load(d_h, n, mask)
    do = dh * out * derivative(o_in, o, GATE)
    dc = tl.load(d_c + n, mask) + dh * o * derivative(after, out, OUTPUT)
    dc = _add_peephole(dc, peepholes, w + 2 * weights, mask, do)
    di = dc * g * derivative(i_in, i, GATE)
    df = dc * before * derivative(f_in, f, GATE)
    dg = dc * i * derivative(g_in, g, CANDIDATE)
    store_four(d_a, s, mask, C, di, df, do, dg)
    dc = _add_peephole(dc * f, peepholes, w, mask, di)
    tl.store(d_c + n, _add_peephole(dc, peepholes, w + weights, mask, df), mask)


@kernel
def lstm_step(
    a, h, packed, c, new_h, saved, peepholes, P, H, W, Q, C: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A step fused with its convolution of h: BLOCK_M pixels by BLOCK_N channels of all four gates.

    P = B H W pixels; a kernel of KH x KW taps with dilations DY and DX; BLOCK_K channels of h at a time. C is
    a multiple of BLOCK_N and of BLOCK_K. See `Recurrence.step`.
    """
    channel_tiles: tl.constexpr = C // BLOCK_N
    parts: tl.constexpr = C // BLOCK_K
    program = tl.program_id(0)  # programs of the same pixels are adjacent, as they load the same h
    first, channel = program // channel_tiles * BLOCK_M, program % channel_tiles * BLOCK_N
    row, k, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_N)
    p = first + row
    x, y, mask = p % W, p // W % H, p < P
    # Offsets from the program's first pixel fit in 32 bits.
    begin = first.to(tl.int64) * C
    a += 4 * begin + channel
    h += begin
    s = row[:, None] * (4 * C) + n[None, :]
    # Loaded after the loop, these values would need more registers than there are.
    i, f = load(a, s, mask[:, None]), load(a, s + C, mask[:, None])
    o, g = load(a, s + 2 * C, mask[:, None]), load(a, s + 3 * C, mask[:, None])
    packed += channel + k[:, None] * (4 * C) + n[None, :]
    for step in range(KH * KW * parts):
        tap = step // parts
        dy, dx = (tap // KW - KH // 2) * DY, (tap % KW - KW // 2) * DX
        inside = mask & (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
        pixel = row + (dy * W + dx)
        h_tile = tl.load(h + pixel[:, None] * C + (step % parts * BLOCK_K + k)[None, :], inside[:, None], 0.0)
        w = packed + step * (BLOCK_K * 4 * C)
        i = tl.dot(h_tile, tl.load(w), i, input_precision="ieee")
        f = tl.dot(h_tile, tl.load(w + C), f, input_precision="ieee")
        o = tl.dot(h_tile, tl.load(w + 2 * C), o, input_precision="ieee")
        g = tl.dot(h_tile, tl.load(w + 3 * C), g, input_precision="ieee")
    mask = mask[:, None]
    stored = a.dtype.element_ty
    i, f, o, g = i.to(stored), f.to(stored), o.to(stored), g.to(stored)
    if saved is not None:
        saved += 4 * begin + channel
        store_four(saved, s, mask, C, i, f, o, g)
    n = row[:, None] * C + n[None, :]
    c += begin + channel
    before = tl.load(c + n, mask)
    w, weights = n + channel + (p % Q - row)[:, None] * C, Q.to(tl.int64) * C
    i = _add_peephole(i.to(tl.float32), peepholes, w, mask, before)
    f = _add_peephole(f.to(tl.float32), peepholes, w + weights, mask, before)
    after = _new_cell_state(i, f, g.to(tl.float32), before, GATE, CANDIDATE)
    tl.store(c + n, after, mask)
    o = _add_peephole(o.to(tl.float32), peepholes, w + 2 * weights, mask, after)
    tl.store(new_h + begin + channel + n, activation(o, GATE) * activation(after, OUTPUT), mask)


class FusedWeight(NamedTuple):
    """A weight over h for `lstm_step`.

    Attributes:
        packed: (KH, KW, C, 4, C).
        dilation: see `SameConv`.
    """

    packed: Tensor
    dilation: tuple[int, ...]


class TritonLSTM(TritonKernels, LSTM):
    """See `TritonKernels` and `LSTM`."""

    kernels = lstm_forward, lstm_recompute, lstm_backward

    def prepare_weight(
        self,
        conv: SameConv,
        weight: Tensor,
        bias: Tensor | None,
        parameter: Tensor | None,
        h: Tensor,
        save: bool,
    ) -> Weight:
        """See `Recurrence.prepare_weight`; a `FusedWeight` where the fused step is faster."""
        prepared = super().prepare_weight(conv, weight, bias, parameter, h, save)
        taps = prepared.hidden.taps
        gates, channels, *kernel = taps.shape
        fused = (
            not save
            and len(kernel) == 2
            and gates == 4 * channels
            and channels % 16 == 0
            and channels * math.prod(kernel) <= _MAX_REDUCTION
            and h[..., 0].numel() <= _MAX_PIXELS
            and all(size % 2 for size in kernel)
            and set(conv.padding_mode) == {"zeros"}
            and taps.dtype in config.fused_step_dtypes
        )
        if not fused:
            return prepared
        packed = taps.view(4, channels, channels, *kernel).permute(3, 4, 2, 0, 1).contiguous()
        return prepared._replace(hidden=FusedWeight(packed, conv.dilation), in_place=False)

    def step(self, weight: Weight, h: Tensor | None, buffers: StepBuffers) -> None:
        """See `Recurrence.step`."""
        if h is None or not isinstance(weight.hidden, FusedWeight):
            return super().step(weight, h, buffers)
        packed, dilation = weight.hidden
        a, _, cell_state, new_h, saved, parameter = buffers
        _, height, width, _ = h.shape
        pixels, parameter_pixels, channels = sizes(h, parameter)
        shared = launch.shared_memory(h.get_device())
        tiles = block_sizes(pixels, channels, h.itemsize, parameter is not None, shared)
        block_m, block_n, block_k, warps, stages = tiles
        return launch.run(
            lstm_step,
            -(-pixels // block_m) * (channels // block_n),
            *(h, a, h, packed, cell_state, new_h, saved, parameter),
            *(pixels, height, width, parameter_pixels, channels, *packed.shape[:2], *dilation),
            *(self.gate, self.candidate, self.output, block_m, block_n, block_k),
            num_warps=warps,
            num_stages=stages,
        )


@lru_cache(maxsize=256)
def block_sizes(
    pixels: int, channels: int, size: int = 2, peepholes: bool = False, shared: int = launch.H100_SHARED_BYTES
) -> tuple[int, int, int, int, int]:
    """BLOCK_M, BLOCK_N and BLOCK_K of `lstm_step`, its warps and its pipeline stages.

    The largest tile, which loads least, of those that occupy all multiprocessors; else the smallest.

    Args:
        pixels: P.
        channels: C, a multiple of 16.
        size: bytes of an element of h.
        peepholes: True if there are any, which take registers.
        shared: bytes of shared memory of a program.
    """
    if size == 4:  # without tensor cores
        return 64, 16 if channels % 32 else 32, 16, 8, 3
    narrow = 32 if peepholes else 64
    tiles = [
        (m, n) for m, n in ((128, 64), (128, 32), (64, 32), (64, 16)) if channels % n == 0 and n <= narrow
    ]
    filling = [(m, n) for m, n in tiles if -(-pixels // m) * (channels // n) >= _MIN_PROGRAMS]
    block_m, block_n = (filling or tiles[-1:])[0]
    block_k = next(k for k in (64, 32, 16) if channels % k == 0)
    stages = min(4, shared // (size * block_k * (block_m + 4 * block_n)))
    return block_m, block_n, block_k, block_m // 16, stages
