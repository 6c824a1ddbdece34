"""Device code for GPUs in Triton: the pointwise halves of the recurrences, and a whole step of a ConvLSTM.

Imported only where Triton is installed; `convlstm.engines.triton.launch` launches what is here.
Everything is stored by
pixel, channels last, as `convlstm.engines.plain` describes it, in float32, bfloat16 or float16; memory and
peepholes are float32, and so is all arithmetic. Positions are 64 bits wide wherever P and C multiply.
"""

from functools import cache

import triton
import triton.language as tl

# One compiled kernel serves all batches and sizes of frames.
_RUNTIME = ("P", "Q", "H", "W")
_kernel = triton.jit(do_not_specialize=_RUNTIME)


@cache
def at_any_place(kernel):
    """The same kernel for tensors at any place in memory.

    The usual one is compiled again for every choice of tensors that do not begin at 16 bytes. Where steps of
    a sequence begin anywhere, that are many.
    """
    tensors = [name for name in kernel.arg_names if name.islower()]
    return triton.jit(kernel.fn, do_not_specialize=_RUNTIME, do_not_specialize_on_alignment=tensors)


@triton.jit
def _sigmoid(x):
    t = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0, 1.0, t) / (1.0 + t)


@triton.jit
def value(x, NAME: tl.constexpr):
    """An activation at x."""
    y = x
    if NAME == "sigmoid":
        y = _sigmoid(x)
    elif NAME == "tanh":
        t = tl.exp(-2.0 * tl.abs(x))
        y = tl.where(x >= 0, 1.0 - t, t - 1.0) / (1.0 + t)
    elif NAME == "hard_sigmoid":
        y = tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, 1.0, x / 6.0 + 0.5))
    elif NAME == "hard_tanh":
        y = tl.where(x < -1.0, -1.0, tl.where(x > 1.0, 1.0, x))
    elif NAME == "relu":
        y = tl.where(x < 0.0, 0.0, x)
    elif NAME == "leaky_relu":
        y = tl.where(x > 0.0, x, 0.01 * x)
    elif NAME == "elu":
        y = tl.where(x > 0.0, x, tl.exp(-tl.abs(x)) - 1.0)
    elif NAME == "silu":
        y = x * _sigmoid(x)
    elif NAME == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif NAME == "softsign":
        y = x / (1.0 + tl.abs(x))
    else:
        tl.static_assert(NAME == "identity")
    return y


@triton.jit
def slope(x, y, NAME: tl.constexpr):
    """The derivative of an activation at x, where its value is y."""
    d = tl.full(x.shape, 1.0, tl.float32)
    if NAME == "sigmoid":
        d = y * (1.0 - y)
    elif NAME == "tanh":
        d = 1.0 - y * y
    elif NAME == "hard_sigmoid":
        d = tl.where(tl.abs(x) < 3.0, 1.0 / 6.0, 0.0)
    elif NAME == "hard_tanh":
        d = tl.where(tl.abs(x) < 1.0, 1.0, 0.0)
    elif NAME == "relu":
        d = tl.where(x > 0.0, 1.0, 0.0)
    elif NAME == "leaky_relu":
        d = tl.where(x > 0.0, 1.0, 0.01)
    elif NAME == "elu":
        d = tl.where(x > 0.0, 1.0, y + 1.0)
    elif NAME == "silu":
        s = _sigmoid(x)
        d = s * (1.0 + x * (1.0 - s))
    elif NAME == "gelu":
        d = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + 0.3989422804014327 * x * tl.exp(-0.5 * x * x)
    elif NAME == "softsign":
        t = 1.0 + tl.abs(x)
        d = 1.0 / (t * t)
    return d


@triton.jit
def _elements(P, C: tl.constexpr, BLOCK: tl.constexpr):
    """Elements of (P, C) that a program computes, their pixels, and which of them there are."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return n, n // C, n < P.to(tl.int64) * C


@triton.jit
def _get(rows, at, there):
    return tl.load(rows + at, there).to(tl.float32)


@triton.jit
def _sum(sums, more, at, there):
    """One sum, with the other part of it if there is one, as it would have been stored."""
    x = _get(sums, at, there)
    if more is not None:
        x = (x + _get(more, at, there)).to(sums.dtype.element_ty).to(tl.float32)
    return x


@triton.jit
def _peek(x, peepholes, at, there, c):
    """X with what a gate sees of the memory, if there are peepholes."""
    if peepholes is not None:
        x += tl.load(peepholes + at, there) * c
    return x


@_kernel
def lstm_forward(
    sums, more, c, h, kept, peepholes, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `convlstm.engines.plain.PlainKernels.lstm_forward`; ``more`` is a second part of the sums."""
    n, p, there = _elements(P, C, BLOCK)
    s, w, weights = n + p * (3 * C), n + (p % Q - p) * C, Q.to(tl.int64) * C
    i, f = _sum(sums, more, s, there), _sum(sums, more, s + C, there)
    o, g = _sum(sums, more, s + 2 * C, there), _sum(sums, more, s + 3 * C, there)
    if kept is not None:
        tl.store(kept + s, i, there)
        tl.store(kept + s + C, f, there)
        tl.store(kept + s + 2 * C, o, there)
        tl.store(kept + s + 3 * C, g, there)
    before = tl.load(c + n, there)
    i = _peek(i, peepholes, w, there, before)
    f = _peek(f, peepholes, w + weights, there, before)
    after = value(f, GATE) * before + value(i, GATE) * value(g, CANDIDATE)
    tl.store(c + n, after, there)
    o = _peek(o, peepholes, w + 2 * weights, there, after)
    tl.store(h + n, value(o, GATE) * value(after, OUTPUT), there)


@_kernel
def lstm_replay(
    sums, c, new_c, peepholes, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `convlstm.engines.plain.PlainKernels.lstm_replay`."""
    n, p, there = _elements(P, C, BLOCK)
    s, w, weights = n + p * (3 * C), n + (p % Q - p) * C, Q.to(tl.int64) * C
    before, g = tl.load(c + n, there), _get(sums, s + 3 * C, there)
    i = _peek(_get(sums, s, there), peepholes, w, there, before)
    f = _peek(_get(sums, s + C, there), peepholes, w + weights, there, before)
    tl.store(new_c + n, value(f, GATE) * before + value(i, GATE) * value(g, CANDIDATE), there)


@_kernel
def lstm_backward(
    sums, c, d_output, d_h, d_c, d_sums, peepholes, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `convlstm.engines.plain.PlainKernels.lstm_backward`."""
    n, p, there = _elements(P, C, BLOCK)
    s, w, weights = n + p * (3 * C), n + (p % Q - p) * C, Q.to(tl.int64) * C
    before = tl.load(c + n, there)
    i_sum = _peek(_get(sums, s, there), peepholes, w, there, before)
    f_sum = _peek(_get(sums, s + C, there), peepholes, w + weights, there, before)
    o_sum, g_sum = _get(sums, s + 2 * C, there), _get(sums, s + 3 * C, there)
    i, f, g = value(i_sum, GATE), value(f_sum, GATE), value(g_sum, CANDIDATE)
    after = f * before + i * g
    o_sum = _peek(o_sum, peepholes, w + 2 * weights, there, after)
    o, out = value(o_sum, GATE), value(after, OUTPUT)
    dh = _get(d_output, n, there) + _get(d_h, n, there)
    do = dh * out * slope(o_sum, o, GATE)
    dc = tl.load(d_c + n, there) + dh * o * slope(after, out, OUTPUT)
    dc = _peek(dc, peepholes, w + 2 * weights, there, do)
    di = dc * g * slope(i_sum, i, GATE)
    df = dc * before * slope(f_sum, f, GATE)
    dg = dc * i * slope(g_sum, g, CANDIDATE)
    tl.store(d_sums + s, di, there)
    tl.store(d_sums + s + C, df, there)
    tl.store(d_sums + s + 2 * C, do, there)
    tl.store(d_sums + s + 3 * C, dg, there)
    dc = _peek(dc * f, peepholes, w, there, di)
    tl.store(d_c + n, _peek(dc, peepholes, w + weights, there, df), there)


@triton.jit
def _proposal(r, x, y, GATE: tl.constexpr, CANDIDATE: tl.constexpr):
    """The gate and the new part of a GRU's state, and the sum that enters the latter's nonlinearity."""
    reset = value(r, GATE)
    total = x + reset * y
    return reset, total, value(total, CANDIDATE)


@_kernel
def gru_forward(
    a, b, bias, m, h, kept, P, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `convlstm.engines.plain.PlainKernels.gru_forward`; ``b`` is left as it is."""
    n, p, there = _elements(P, C, BLOCK)
    s, k = n + p * (2 * C), n + p * (3 * C)
    # Rounded as they are kept, so that `gru_replay` finds the same state.
    stored = a.dtype.element_ty
    r = (_get(a, s, there) + _get(b, s, there)).to(stored).to(tl.float32)
    z = (_get(a, s + C, there) + _get(b, s + C, there)).to(stored).to(tl.float32)
    x = _get(a, s + 2 * C, there)
    y = (_get(b, s + 2 * C, there) + tl.load(bias + (n - p * C), there)).to(stored).to(tl.float32)
    if kept is not None:
        tl.store(kept + k, r, there)
        tl.store(kept + k + C, z, there)
        tl.store(kept + k + 2 * C, x, there)
        tl.store(kept + k + 3 * C, y, there)
    _, _, new = _proposal(r, x, y, GATE, CANDIDATE)
    after = new + value(z, GATE) * (tl.load(m + n, there) - new)
    tl.store(m + n, after, there)
    tl.store(h + n, after, there)


@_kernel
def gru_replay(
    sums, m, new_m, P, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `convlstm.engines.plain.PlainKernels.gru_replay`."""
    n, p, there = _elements(P, C, BLOCK)
    k = n + p * (3 * C)
    r, z = _get(sums, k, there), _get(sums, k + C, there)
    x, y = _get(sums, k + 2 * C, there), _get(sums, k + 3 * C, there)
    _, _, new = _proposal(r, x, y, GATE, CANDIDATE)
    tl.store(new_m + n, new + value(z, GATE) * (tl.load(m + n, there) - new), there)


@_kernel
def gru_backward(
    sums, m, d_output, d_h, d_m, d_a, d_b, P, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `convlstm.engines.plain.PlainKernels.gru_backward`."""
    n, p, there = _elements(P, C, BLOCK)
    s, k = n + p * (2 * C), n + p * (3 * C)
    r_sum, z_sum = _get(sums, k, there), _get(sums, k + C, there)
    x, y = _get(sums, k + 2 * C, there), _get(sums, k + 3 * C, there)
    r, n_sum, new = _proposal(r_sum, x, y, GATE, CANDIDATE)
    z = value(z_sum, GATE)
    d = tl.load(d_m + n, there) + _get(d_output, n, there) + _get(d_h, n, there)
    dz = d * (tl.load(m + n, there) - new) * slope(z_sum, z, GATE)
    dn = d * (1.0 - z) * slope(n_sum, new, CANDIDATE)
    dr = dn * y * slope(r_sum, r, GATE)
    tl.store(d_a + s, dr, there)
    tl.store(d_a + s + C, dz, there)
    tl.store(d_a + s + 2 * C, dn, there)
    tl.store(d_b + s, dr, there)
    tl.store(d_b + s + C, dz, there)
    tl.store(d_b + s + 2 * C, dn * r, there)
    tl.store(d_m + n, d * z, there)


@_kernel
def lstm_step(
    a, h, packed, c, new_h, kept, peepholes, P, H, W, Q, C: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A convolution of h and the gates behind it: BLOCK_M pixels by BLOCK_N channels of all four gates.

    See `convlstm.engines.triton.launch.TritonKernels.lstm_step`.
    P = B H W pixels, a kernel of KH x KW taps, DY and DX
    pixels apart; BLOCK_K channels of h at a time. C is a multiple of BLOCK_N and of BLOCK_K.
    """
    tiles: tl.constexpr = C // BLOCK_N
    parts: tl.constexpr = C // BLOCK_K
    program = tl.program_id(0)  # those of the same pixels side by side, as they read the same of h
    first, channel = program // tiles * BLOCK_M, program % tiles * BLOCK_N
    row, k, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_N)
    p = first + row
    x, y, there = p % W, p // W % H, p < P
    # Tensors may be too large for 32 bits; from a program's first pixel on, they suffice.
    begin = first.to(tl.int64) * C
    a += 4 * begin + channel
    h += begin
    s = row[:, None] * (4 * C) + n[None, :]
    # Behind the loop, these numbers would need more registers than there are.
    i, f = _get(a, s, there[:, None]), _get(a, s + C, there[:, None])
    o, g = _get(a, s + 2 * C, there[:, None]), _get(a, s + 3 * C, there[:, None])
    packed += channel + k[:, None] * (4 * C) + n[None, :]
    for step in range(KH * KW * parts):
        tap = step // parts
        dy, dx = (tap // KW - KH // 2) * DY, (tap % KW - KW // 2) * DX
        inside = there & (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
        pixel = row + (dy * W + dx)
        seen = tl.load(h + pixel[:, None] * C + (step % parts * BLOCK_K + k)[None, :], inside[:, None], 0.0)
        w = packed + step * (BLOCK_K * 4 * C)
        i = tl.dot(seen, tl.load(w), i, input_precision="ieee")
        f = tl.dot(seen, tl.load(w + C), f, input_precision="ieee")
        o = tl.dot(seen, tl.load(w + 2 * C), o, input_precision="ieee")
        g = tl.dot(seen, tl.load(w + 3 * C), g, input_precision="ieee")
    there = there[:, None]
    stored = a.dtype.element_ty
    i, f, o, g = i.to(stored), f.to(stored), o.to(stored), g.to(stored)
    if kept is not None:
        kept += 4 * begin + channel
        tl.store(kept + s, i, there)
        tl.store(kept + s + C, f, there)
        tl.store(kept + s + 2 * C, o, there)
        tl.store(kept + s + 3 * C, g, there)
    n = row[:, None] * C + n[None, :]
    c += begin + channel
    before = tl.load(c + n, there)
    w, weights = n + channel + (p % Q - row)[:, None] * C, Q.to(tl.int64) * C
    i = _peek(i.to(tl.float32), peepholes, w, there, before)
    f = _peek(f.to(tl.float32), peepholes, w + weights, there, before)
    after = value(f, GATE) * before + value(i, GATE) * value(g.to(tl.float32), CANDIDATE)
    tl.store(c + n, after, there)
    o = _peek(o.to(tl.float32), peepholes, w + 2 * weights, there, after)
    tl.store(new_h + begin + channel + n, value(o, GATE) * value(after, OUTPUT), there)
