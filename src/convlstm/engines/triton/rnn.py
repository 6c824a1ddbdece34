"""The plain recurrence in Triton: pointwise kernels and their launches."""

import triton.language as tl
from torch import Tensor

import convlstm.engines.triton.launch as launch
from convlstm.engines.recurrences.rnn import RNN
from convlstm.engines.triton.device import activation, derivative, elements, kernel, load, load_sum
from convlstm.engines.triton.launch import TritonKernels


@kernel
def rnn_forward(a, b, state, h, saved, P, C: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr):
    """See `Recurrence.forward`; ``b`` is None if ``a`` is the sum of both parts."""
    n, _, mask = elements(P, C, BLOCK)
    x = load_sum(a, b, n, mask)
    if saved is not None:
        tl.store(saved + n, x, mask)
    after = activation(x, OUTPUT)
    tl.store(state + n, after, mask)
    tl.store(h + n, after, mask)


@kernel
def rnn_recompute(saved, new_state, P, C: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr):
    """See `Recurrence.recompute`."""
    n, _, mask = elements(P, C, BLOCK)
    tl.store(new_state + n, activation(load(saved, n, mask), OUTPUT), mask)


@kernel
def rnn_backward(
    saved, d_output, d_h, d_state, d_a, P, C: tl.constexpr, OUTPUT: tl.constexpr, BLOCK: tl.constexpr
):
    """See `Recurrence.backward`."""
    n, _, mask = elements(P, C, BLOCK)
    x = load(saved, n, mask)
    d = tl.load(d_state + n, mask) + load(d_output, n, mask) + load(d_h, n, mask)
    tl.store(d_a + n, d * derivative(x, activation(x, OUTPUT), OUTPUT), mask)
    tl.store(d_state + n, tl.zeros_like(d), mask)


class TritonRNN(TritonKernels, RNN):
    """See `TritonKernels` and `RNN`."""

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        cell_state: Tensor,
        h: Tensor,
        saved: Tensor | None,
        parameter: Tensor | None,
    ) -> None:
        """See `Recurrence.forward`; ``b`` is not overwritten."""
        tensors = a, None if b is a else b, cell_state, h, saved
        launch.pointwise(rnn_forward, cell_state, *tensors, *launch.sizes(cell_state), self.output)

    def recompute(
        self, saved: Tensor, cell_state: Tensor, new_cell_state: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.recompute`."""
        sizes = launch.sizes(cell_state)
        launch.pointwise(rnn_recompute, cell_state, saved, new_cell_state, *sizes, self.output)

    def backward(
        self,
        saved: Tensor,
        cell_state: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_cell_state: Tensor,
        d_a: Tensor,
        d_b: Tensor,
        parameter: Tensor | None,
    ) -> None:
        """See `Recurrence.backward`."""
        tensors = saved, d_output, d_h, d_cell_state, d_a
        launch.pointwise(rnn_backward, cell_state, *tensors, *launch.sizes(cell_state), self.output)
