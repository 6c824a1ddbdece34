"""The GRU whose reset gate acts after the convolution, in Triton: pointwise kernels."""

import triton
import triton.language as tl

from convlstm.engines.recurrences.gru import GRU
from convlstm.engines.triton.device import (
    activation,
    derivative,
    elements,
    kernel,
    load,
    store_four,
    store_three,
)
from convlstm.engines.triton.launch import TritonKernels


@triton.jit
def _candidate(r, x, y, GATE: tl.constexpr, CANDIDATE: tl.constexpr):
    """The reset gate, the candidate's pre-activation, and the candidate."""
    reset = activation(r, GATE)
    total = x + reset * y
    return reset, total, activation(total, CANDIDATE)


@triton.jit
def _new_state(r, z, x, y, before, GATE: tl.constexpr, CANDIDATE: tl.constexpr):
    _, _, new = _candidate(r, x, y, GATE, CANDIDATE)
    return new + activation(z, GATE) * (before - new)


@kernel
def gru_forward(
    a, b, state, h, saved, bias, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.forward`; ``b`` is not overwritten."""
    n, p, mask = elements(P, C, BLOCK)
    s, k = n + p * (2 * C), n + p * (3 * C)
    # Rounded as they are saved, so that `gru_recompute` computes the same state.
    dtype = a.dtype.element_ty
    r = (load(a, s, mask) + load(b, s, mask)).to(dtype).to(tl.float32)
    z = (load(a, s + C, mask) + load(b, s + C, mask)).to(dtype).to(tl.float32)
    x = load(a, s + 2 * C, mask)
    y = (load(b, s + 2 * C, mask) + tl.load(bias + (n - p * C), mask)).to(dtype).to(tl.float32)
    if saved is not None:
        store_four(saved, k, mask, C, r, z, x, y)
    after = _new_state(r, z, x, y, tl.load(state + n, mask), GATE, CANDIDATE)
    tl.store(state + n, after, mask)
    tl.store(h + n, after, mask)


@kernel
def gru_recompute(
    saved, state, new_state, bias, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.recompute`."""
    n, p, mask = elements(P, C, BLOCK)
    k = n + p * (3 * C)
    r, z = load(saved, k, mask), load(saved, k + C, mask)
    x, y = load(saved, k + 2 * C, mask), load(saved, k + 3 * C, mask)
    tl.store(new_state + n, _new_state(r, z, x, y, tl.load(state + n, mask), GATE, CANDIDATE), mask)


@kernel
def gru_backward(
    saved, state, d_output, d_h, d_state, d_a, d_b, bias, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.backward`."""
    n, p, mask = elements(P, C, BLOCK)
    s, k = n + p * (2 * C), n + p * (3 * C)
    r_in, z_in = load(saved, k, mask), load(saved, k + C, mask)
    x, y = load(saved, k + 2 * C, mask), load(saved, k + 3 * C, mask)
    r, n_in, new = _candidate(r_in, x, y, GATE, CANDIDATE)
    z = activation(z_in, GATE)
    d = tl.load(d_state + n, mask) + load(d_output, n, mask) + load(d_h, n, mask)
    dz = d * (tl.load(state + n, mask) - new) * derivative(z_in, z, GATE)
    dn = d * (1.0 - z) * derivative(n_in, new, CANDIDATE)
    dr = dn * y * derivative(r_in, r, GATE)
    store_three(d_a, s, mask, C, dr, dz, dn)
    store_three(d_b, s, mask, C, dr, dz, dn * r)
    tl.store(d_state + n, d * z, mask)


class TritonGRU(TritonKernels, GRU):
    """See `TritonKernels` and `GRU`."""

    kernels = gru_forward, gru_recompute, gru_backward
