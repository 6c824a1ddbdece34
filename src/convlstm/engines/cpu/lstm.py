"""The LSTM in C++; see ``csrc/lstm.h``."""

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv
from convlstm.engines.cpu.bindings import GatedCpuKernels, prototype
from convlstm.engines.recurrences import Weight
from convlstm.engines.recurrences.lstm import LSTM

_SIZES = "float* peepholes, int64_t peephole_pixels, int64_t P, int64_t C, int threads"


class CpuLSTM(GatedCpuKernels, LSTM):
    """See `CpuKernels` and `LSTM`."""

    prototypes = {  # noqa: RUF012
        "lstm_forward_{T}": prototype(f"T* preactivations, float* cell_state, T* h, T* saved, {_SIZES}"),
        "lstm_recompute_{T}": prototype(f"T* saved, float* cell_state, float* new_cell_state, {_SIZES}"),
        "lstm_backward_{T}": prototype(
            "T* saved, float* cell_state, T* d_output, T* d_h, float* d_cell_state, T* d_preactivations, "
            + _SIZES
        ),
        "lstm_step": prototype(
            "bfloat16* x, bfloat16* h, bfloat16* weight, float* bias, float* cell_state, bfloat16* new_h, "
            "bfloat16* saved, float* peepholes, int32_t* rows, int32_t* columns, ConvShape* shape, "
            "int64_t peephole_pixels, int threads"
        ),
    }

    def step(
        self,
        conv: SameConv,
        a: Tensor,
        b: Tensor | None,
        h: Tensor | None,
        weight: Weight,
        cell_state: Tensor,
        new_h: Tensor,
        saved: Tensor | None,
        parameter: Tensor | None,
    ) -> None:
        """See `Recurrence.step`."""
        if weight.input is not None:
            super().step(conv, a, b, h, weight, cell_state, new_h, saved, parameter)
            return
        _, packed, bias, shape, rows, columns = self._fused_weight(weight.hidden, h)
        tensors = a, h, packed, bias, cell_state, new_h, saved, parameter, rows, columns
        self._library.lstm_step(*tensors, shape, _pixels(parameter), torch.get_num_threads())

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
        self._call("lstm_forward", a, cell_state, h, saved, *_sizes(parameter, cell_state))

    def recompute(
        self, saved: Tensor, cell_state: Tensor, new_cell_state: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.recompute`."""
        self._call("lstm_recompute", saved, cell_state, new_cell_state, *_sizes(parameter, cell_state))

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
        tensors = saved, cell_state, d_output, d_h, d_cell_state, d_a
        self._call("lstm_backward", *tensors, *_sizes(parameter, cell_state))


def _pixels(peepholes: Tensor | None) -> int:
    return 1 if peepholes is None else peepholes.shape[1]


def _sizes(peepholes: Tensor | None, cell_state: Tensor) -> tuple[Tensor | None, int, int, int]:
    channels = cell_state.shape[-1]
    return peepholes, _pixels(peepholes), cell_state.numel() // channels, channels
