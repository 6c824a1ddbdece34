"""Recurrences in C++, which the machine's compiler compiles when they are first used."""

import torch

from convlstm.engines.cpu.bindings import DTYPES, CpuKernels, load_kernels
from convlstm.engines.cpu.gru import CpuGRU
from convlstm.engines.cpu.lstm import CpuLSTM
from convlstm.engines.cpu.rnn import CpuRNN

#: Kernels by the name of their recurrence.
KERNELS: dict[str, type[CpuKernels]] = {kind.name: kind for kind in (CpuLSTM, CpuGRU, CpuRNN)}


def kernels(recurrence: str, activations: tuple[str, str, str], dtype: torch.dtype) -> CpuKernels | None:
    """A recurrence's kernels for pre-activations of a dtype; None if there are none."""
    library = load_kernels(*activations) if dtype in DTYPES else None
    return None if library is None else KERNELS[recurrence](activations, library, dtype)
