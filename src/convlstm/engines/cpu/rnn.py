"""The plain recurrence in C++; see ``csrc/rnn.h``."""

from torch import Tensor

from convlstm.engines.cpu.bindings import CpuKernels, prototype
from convlstm.engines.recurrences.rnn import RNN

_SIZES = "int64_t P, int64_t C, int threads"


class CpuRNN(CpuKernels, RNN):
    """See `CpuKernels` and `RNN`."""

    prototypes = {  # noqa: RUF012
        "rnn_forward_{T}": prototype(f"T* preactivations, float* state, T* h, T* saved, {_SIZES}"),
        "rnn_recompute_{T}": prototype(f"T* saved, float* new_state, {_SIZES}"),
        "rnn_backward_{T}": prototype(
            f"T* saved, T* d_output, T* d_h, float* d_state, T* d_preactivations, {_SIZES}"
        ),
    }

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        cell_state: Tensor,
        h: Tensor,
        saved: Tensor | None,
        parameter: Tensor | None,
    ) -> None:
        """See `Recurrence.forward`."""
        self._call("rnn_forward", a, cell_state, h, saved, *_sizes(cell_state))

    def recompute(
        self, saved: Tensor, cell_state: Tensor, new_cell_state: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.recompute`."""
        self._call("rnn_recompute", saved, new_cell_state, *_sizes(cell_state))

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
        self._call("rnn_backward", saved, d_output, d_h, d_cell_state, d_a, *_sizes(cell_state))


def _sizes(cell_state: Tensor) -> tuple[int, int]:
    channels = cell_state.shape[-1]
    return cell_state.numel() // channels, channels
