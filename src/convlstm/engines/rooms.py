"""Room for the large buffers of a sequence, used again from call to call."""

import math
import weakref
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

# Fresh memory comes from the system page by page, which on a CPU costs as much as the arithmetic on it.
# Buffers of at least _LARGE bytes are therefore kept when nobody holds them any more, _KEPT bytes at most.
_LARGE = 1 << 20
_KEPT = 1 << 30
_ALIGNED = 64  # bytes, a vector register of the widest kind

_free: dict[int, list[np.ndarray]] = defaultdict(list)


def room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor that holds anything, as of `torch.empty`; devices reuse their own memory anyway."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    try:
        memory = _free[size].pop()
    except IndexError:
        whole = np.empty(size + _ALIGNED, dtype=np.uint8)
        begin = -whole.ctypes.data % _ALIGNED
        memory = whole[begin : begin + size]
    lent = memory[:]  # lives as long as the storage of the tensor, whoever holds that: graphs, views, users
    weakref.finalize(lent, _take_back, memory).atexit = False
    return torch.from_numpy(lent).view(dtype).view(shape)


def _take_back(memory: np.ndarray) -> None:
    if free_bytes() + memory.size <= _KEPT:
        _free[memory.size].append(memory)
    else:  # sizes that are no longer asked for make place for one that was
        _free.clear()
        _free[memory.size].append(memory)


def free_bytes() -> int:
    """How much memory is kept for the next call."""
    return sum(size * len(buffers) for size, buffers in list(_free.items()))
