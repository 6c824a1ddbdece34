"""Device functions that the Triton kernels of all recurrences share.

Imported only where Triton is installed. Tensors are channels-last, (P, gates, C), in float32, bfloat16 or
float16; the cell state and peepholes are float32, and so is all arithmetic. Offsets are 64 bits wide where P
and C multiply.
"""

import triton
import triton.language as tl

from convlstm.engines.triton.launch import RUNTIME

kernel = triton.jit(do_not_specialize=RUNTIME)


@triton.jit
def _sigmoid(x):
    t = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0, 1.0, t) / (1.0 + t)


@triton.jit
def activation(x, NAME: tl.constexpr):
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
def derivative(x, y, NAME: tl.constexpr):
    """Derivative of an activation at x, where its value is y."""
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
def elements(P, C: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets of the program's elements of (P, C), their pixels, and the mask of those within bounds."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return n, n // C, n < P.to(tl.int64) * C


@triton.jit
def load(x, offsets, mask):
    """Elements as float32."""
    return tl.load(x + offsets, mask).to(tl.float32)


@triton.jit
def load_sum(x, more, offsets, mask):
    """Elements of x, plus those of another tensor if there is one, rounded to their dtype."""
    y = load(x, offsets, mask)
    if more is not None:
        y = (y + load(more, offsets, mask)).to(x.dtype.element_ty).to(tl.float32)
    return y


@triton.jit
def store_four(x, offsets, mask, C: tl.constexpr, a, b, c, d):
    """Four gates of (P, 4, C), from the offsets of the first."""
    tl.store(x + offsets, a, mask)
    tl.store(x + offsets + C, b, mask)
    tl.store(x + offsets + 2 * C, c, mask)
    tl.store(x + offsets + 3 * C, d, mask)


@triton.jit
def store_three(x, offsets, mask, C: tl.constexpr, a, b, c):
    """Three gates of (P, 3, C), from the offsets of the first."""
    tl.store(x + offsets, a, mask)
    tl.store(x + offsets + C, b, mask)
    tl.store(x + offsets + 2 * C, c, mask)
