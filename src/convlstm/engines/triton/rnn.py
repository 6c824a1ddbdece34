"""The plain recurrence in Triton: pointwise kernels."""

import triton.language as tl

from convlstm.engines.recurrences.rnn import RNN
from convlstm.engines.triton.device import activation, derivative, elements, kernel, load, load_sum
from convlstm.engines.triton.launch import TritonKernels


@kernel
def rnn_forward(
    a, b, state, h, saved, parameter, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.forward`; ``b`` is None if ``a`` is the sum of both parts."""
    n, _, mask = elements(P, C, BLOCK)
    x = load_sum(a, b, n, mask)
    if saved is not None:
        tl.store(saved + n, x, mask)
    after = activation(x, OUTPUT)
    tl.store(state + n, after, mask)
    tl.store(h + n, after, mask)


@kernel
def rnn_recompute(
    saved, state, new_state, parameter, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.recompute`."""
    n, _, mask = elements(P, C, BLOCK)
    tl.store(new_state + n, activation(load(saved, n, mask), OUTPUT), mask)


@kernel
def rnn_backward(
    saved, state, d_output, d_h, d_state, d_a, d_b, parameter, P, Q, C: tl.constexpr,
    GATE: tl.constexpr, CANDIDATE: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See `Recurrence.backward`."""
    n, _, mask = elements(P, C, BLOCK)
    x = load(saved, n, mask)
    d = tl.load(d_state + n, mask) + load(d_output, n, mask) + load(d_h, n, mask)
    tl.store(d_a + n, d * derivative(x, activation(x, OUTPUT), OUTPUT), mask)
    tl.store(d_state + n, tl.zeros_like(d), mask)


class TritonRNN(TritonKernels, RNN):
    """See `TritonKernels` and `RNN`."""

    kernels = rnn_forward, rnn_recompute, rnn_backward
