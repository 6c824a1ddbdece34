"""The GRU in C++; see ``csrc/gru.h``."""

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv
from convlstm.engines.cpu.bindings import GatedCpuKernels, prototype
from convlstm.engines.recurrences import Weight
from convlstm.engines.recurrences.gru import GRU, bias_or_zeros

_SIZES = "int64_t P, int64_t C, int threads"


class CpuGRU(GatedCpuKernels, GRU):
    """See `CpuKernels` and `GRU`."""

    prototypes = {  # noqa: RUF012
        "gru_forward_{T}": prototype(f"T* a, T* b, float* bias, float* state, T* h, T* saved, {_SIZES}"),
        "gru_recompute_{T}": prototype(f"T* saved, float* state, float* new_state, {_SIZES}"),
        "gru_backward_{T}": prototype(
            f"T* saved, float* state, T* d_output, T* d_h, float* d_state, T* d_a, T* d_b, {_SIZES}"
        ),
        "gru_step": prototype(
            "bfloat16* x, bfloat16* h, bfloat16* weight, float* bias, float* state, bfloat16* new_h, "
            "bfloat16* saved, int32_t* rows, int32_t* columns, ConvShape* shape, int threads"
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
        tensors = a, h, packed, bias, cell_state, new_h, saved, rows, columns
        self._library.gru_step(*tensors, shape, torch.get_num_threads())

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
        bias = bias_or_zeros(parameter, cell_state)
        self._call("gru_forward", a, b, bias, cell_state, h, saved, *_sizes(cell_state))

    def recompute(
        self, saved: Tensor, cell_state: Tensor, new_cell_state: Tensor, parameter: Tensor | None
    ) -> None:
        """See `Recurrence.recompute`."""
        self._call("gru_recompute", saved, cell_state, new_cell_state, *_sizes(cell_state))

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
        tensors = saved, cell_state, d_output, d_h, d_cell_state, d_a, d_b
        self._call("gru_backward", *tensors, *_sizes(cell_state))


def _sizes(cell_state: Tensor) -> tuple[int, int]:
    channels = cell_state.shape[-1]
    return cell_state.numel() // channels, channels
