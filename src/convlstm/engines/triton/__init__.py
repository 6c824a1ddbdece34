"""Recurrences in Triton for NVIDIA GPUs, compiled when they first run."""

from functools import cache
from typing import Any

import torch

from convlstm.engines.cpu.compiler import warn_once
from convlstm.engines.recurrences import Recurrence
from convlstm.engines.triton.launch import unavailable


@cache
def kernels(recurrence: str, activations: tuple[str, str, str], dtype: torch.dtype) -> Recurrence | None:
    """A recurrence's kernels for a dtype of the cell state.

    None if there are none or, after one warning, if they fail: Triton needs a C compiler, which a machine may
    lack, and a driver that it supports.
    """
    if dtype != torch.float32 or unavailable() is not None:
        return None
    try:
        from convlstm.engines.triton.gru import TritonGRU
        from convlstm.engines.triton.lstm import TritonLSTM
        from convlstm.engines.triton.rnn import TritonRNN

        found = {kind.name: kind for kind in (TritonLSTM, TritonGRU, TritonRNN)}[recurrence](activations)
        state = torch.zeros(1, 8, device="cuda")
        found.recompute(state.new_zeros(1, found.saved_gates * 8), state, torch.empty_like(state), None)
    except Exception as error:  # of Triton, the compiler, the system or the driver
        _warn(error)
        return None
    return found


@cache
def linear_kernels() -> Any:
    """Scans of linear recurrences; None if there are none or, after one warning, if they fail."""
    if unavailable() is not None:
        return None
    try:
        from convlstm.engines.triton.linear import TritonLinear

        found, h = TritonLinear(), torch.zeros(1, 8, device="cuda")
        found.forward("affine", h.new_zeros(1, 1, 16), h, None, None, False)
    except Exception as error:  # of Triton, the compiler, the system or the driver
        _warn(error)
        return None
    return found


def _warn(error: Exception) -> None:
    line = (str(error).strip() or repr(error)).splitlines()[-1]
    warn_once(
        "convlstm runs without Triton's kernels, slower and with the same numbers, because Triton "
        f"failed: {line}"
    )
