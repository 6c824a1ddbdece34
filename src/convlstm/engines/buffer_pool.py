"""Large buffers on a CPU, reused from call to call."""

import math
import os
import threading
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

import convlstm.engines.config as config
from convlstm.engines.dry_run import active

_ALIGNMENT = 64  # bytes


class _UsedBuffer(weakref.ref[np.ndarray]):
    """A buffer in use, and a weak reference to the memory of its tensor."""

    __slots__ = ("buffer",)
    buffer: np.ndarray


class BufferPool:
    """Free list of buffers, first in first out.

    The system maps new memory page by page, which costs as much as the arithmetic on it; the gain is measured
    by ``python -m benchmarks buffers``. A buffer is reused once its tensor and all views of it are freed.
    Free and used buffers together never take more than the most that was in use at once.
    """

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []
        self.used_bytes = self.peak_bytes = 0
        self.lock = threading.Lock()
        self._used: dict[int, _UsedBuffer] = {}
        # Memory is freed in any thread and between any two lines, also of this class: it is only appended
        # here, without a line of Python, in which Ctrl-C would be lost.
        self._returned: deque[_UsedBuffer] = deque()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor."""
        size = math.prod(shape) * dtype.itemsize
        with self.lock:
            buffer = self._free_or_new(size)
            taken = buffer[:size]  # lives as long as the storage of the tensor made from it
            used = _UsedBuffer(taken, self._returned.append)
            used.buffer = buffer
            self._used[id(used)] = used
        return torch.from_numpy(taken).view(dtype).view(shape)

    def _free_or_new(self, size: int) -> np.ndarray:
        """The smallest free buffer of ``size`` bytes to twice as many, or a new one."""
        self._collect()
        fitting = [n for n, buffer in enumerate(self.free) if size <= buffer.size <= 2 * size]
        if fitting:
            buffer = self.free.pop(min(fitting, key=lambda n: self.free[n].size))
        else:
            memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
            begin = -memory.ctypes.data % _ALIGNMENT
            buffer = memory[begin : begin + size]
        self.used_bytes += buffer.size
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self._trim()
        return buffer

    def _collect(self) -> None:
        """Move returned buffers to the free list."""
        while self._returned:
            returned = self._returned.popleft()
            del self._used[id(returned)]
            buffer = returned.buffer
            self.used_bytes -= buffer.size
            self.free.append(buffer)
            self._trim()

    def _trim(self) -> None:
        while self.free and self._free_bytes() + self.used_bytes > self.peak_bytes:
            self.free.pop(0)

    def free_bytes(self) -> int:
        """Bytes of free buffers."""
        with self.lock:
            self._collect()
            return self._free_bytes()

    def clear(self) -> None:
        """Release the free buffers."""
        with self.lock:
            self._collect()
            self.free.clear()

    def _free_bytes(self) -> int:
        return sum(buffer.size for buffer in self.free)


pool = BufferPool()
if hasattr(os, "register_at_fork"):  # a child must not wait for a thread that only its parent has
    os.register_at_fork(after_in_child=lambda: setattr(pool, "lock", threading.Lock()))


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised contiguous tensor: `torch.empty`, or on a CPU from the pool if it is large."""
    large = math.prod(shape) * dtype.itemsize >= config.min_pooled_bytes
    if large and device.type == "cpu" and config.buffer_pool:
        run = active()
        return pool.empty(shape, dtype) if run is None else run.empty_of_pool(shape, dtype)
    return torch.empty(shape, dtype=dtype, device=device)
