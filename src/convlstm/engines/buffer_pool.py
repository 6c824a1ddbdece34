"""Room for the large buffers of a sequence, used again from call to call."""

import math
import os
import threading
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

# Fresh memory comes from the system page by page, which on a CPU costs as much as the arithmetic on it.
# Buffers of at least _LARGE bytes are therefore lent again when nobody holds them any more. Those that wait,
# with those that are lent, never take more than were lent at once before: what a call needed, the next needs.
_LARGE = 1 << 20
_ALIGNED = 64  # bytes, a vector register of the widest kind


class _Shelf:
    """Buffers that wait, the one that came back first in front."""

    def __init__(self) -> None:
        self.waiting: list[np.ndarray] = []
        self.lent = self.most = 0
        self._lock = threading.Lock()
        # Buffers come back whenever Python finds that nobody holds them, in any thread and between any two
        # lines of this file: they are only put down here, and sorted in by whoever borrows next.
        self._returned: deque[np.ndarray] = deque()

    def lend(self, size: int) -> np.ndarray:
        """The smallest buffer of at least ``size`` bytes that does not waste half of itself, or a new one."""
        with self._lock:
            memory = self._found_or_new(size)
        lent = memory[:size]  # lives as long as a tensor's storage, whoever holds that: graphs, views, users
        weakref.finalize(lent, self._returned.append, memory).atexit = False
        return lent

    def _found_or_new(self, size: int) -> np.ndarray:
        self._sort_in()
        fitting = [n for n, memory in enumerate(self.waiting) if size <= memory.size <= 2 * size]
        if fitting:
            memory = self.waiting.pop(min(fitting, key=lambda n: self.waiting[n].size))
        else:
            whole = np.empty(size + _ALIGNED, dtype=np.uint8)
            begin = -whole.ctypes.data % _ALIGNED
            memory = whole[begin : begin + size]
        self.lent += memory.size
        self.most = max(self.most, self.lent)
        self._give_up()
        return memory

    def _sort_in(self) -> None:
        while self._returned:
            memory = self._returned.popleft()
            self.lent -= memory.size
            self.waiting.append(memory)
            self._give_up()

    def _give_up(self) -> None:
        while self.waiting and self._waiting() + self.lent > self.most:
            self.waiting.pop(0)

    def bytes_waiting(self) -> int:
        """How much memory is kept for the next call."""
        with self._lock:
            self._sort_in()
            return self._waiting()

    def clear(self) -> None:
        """Release the waiting buffers."""
        with self._lock:
            self._sort_in()
            self.waiting.clear()

    def _waiting(self) -> int:
        return sum(memory.size for memory in self.waiting)


_shelf = _Shelf()
if hasattr(os, "register_at_fork"):  # a child must not wait for a thread that only its parent has
    os.register_at_fork(after_in_child=lambda: setattr(_shelf, "_lock", threading.Lock()))


def room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor that holds anything, as of `torch.empty`; devices reuse their own memory anyway."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(_shelf.lend(size)).view(dtype).view(shape)
