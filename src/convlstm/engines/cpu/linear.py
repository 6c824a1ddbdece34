"""Scans of recurrences that are linear in their state, in C++: see ``csrc/linear.h``."""

from typing import Any

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import empty
from convlstm.engines.cpu.library import DTYPES, load_kernels
from convlstm.engines.dry_run import DryTensor


class CpuLinear:
    """The kernels of a library of `load_kernels`."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def forward(
        self, rule: str, planes: Tensor, h: Tensor, mask: Tensor | None, reset: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        """The states after each frame and the last one; see `convlstm.engines.linear.linear_states`."""
        states, last = empty((*planes.shape[:2], *h.shape[1:]), h.dtype, h.device), torch.empty_like(h)
        self._call(f"{rule}_scan", reverse, planes, h, mask, reset, states, last)
        return states, last

    def backward(
        self,
        rule: str,
        planes: Tensor,
        h: Tensor,
        mask: Tensor | None,
        reset: Tensor | None,
        reverse: bool,
        states: Tensor,
        d_states: Tensor | None,
        d_last: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of planes and h from those of the results of `forward`; None is zero."""
        d_planes, d_h = empty(tuple(planes.shape), planes.dtype, h.device), torch.empty_like(h)
        inputs = planes, h, mask, reset, states, d_states, d_last
        self._call(f"{rule}_scan_backward", reverse, *inputs, d_planes, d_h)
        return d_planes, d_h

    def _call(self, kernel: str, reverse: bool, planes: Tensor, h: Tensor, *tensors: Tensor | None) -> None:
        if isinstance(planes, DryTensor):
            return
        function = getattr(self._library, f"{kernel}_{DTYPES[planes.dtype]}")
        flags = [t if t is None else t.contiguous() for t in tensors[:2]]
        sizes = *planes.shape[:2], h[0].numel(), reverse, torch.get_num_threads()
        function(planes, h, *flags, *tensors[2:], *sizes)


def kernels() -> CpuLinear | None:
    """The kernels, or None, after one warning, if they do not compile."""
    library = load_kernels("sigmoid", "tanh", "tanh")
    return None if library is None else CpuLinear(library)
