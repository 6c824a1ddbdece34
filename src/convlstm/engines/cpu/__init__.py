"""Recurrences in C++, which the machine's compiler compiles when they are first used."""

import torch

from convlstm.engines.cpu.bindings import DTYPES, CpuKernels, load_kernels
from convlstm.engines.recurrences.gru import GRU
from convlstm.engines.recurrences.lstm import LSTM
from convlstm.engines.recurrences.rnn import RNN


class CpuLSTM(CpuKernels, LSTM):
    """The LSTM in C++; see ``csrc/lstm.h``."""


class CpuGRU(CpuKernels, GRU):
    """The GRU in C++; see ``csrc/gru.h``."""


class CpuRNN(CpuKernels, RNN):
    """The plain recurrence in C++; see ``csrc/rnn.h``."""


#: Kernels by the name of their recurrence.
KERNELS: dict[str, type[CpuKernels]] = {kind.name: kind for kind in (CpuLSTM, CpuGRU, CpuRNN)}


def kernels(recurrence: str, activations: tuple[str, str, str], dtype: torch.dtype) -> CpuKernels | None:
    """A recurrence's kernels for pre-activations of a dtype; None if there are none."""
    library = load_kernels(*activations) if dtype in DTYPES else None
    return None if library is None else KERNELS[recurrence](activations, library, dtype)
