"""Launches of Triton kernels."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv
from convlstm.engines.recurrences import Recurrence, Weight

#: Arguments of which one compiled kernel serves all values.
RUNTIME = ("P", "Q", "H", "W")
BLOCK = 1024  # elements of a program of the pointwise kernels: eight for each thread, 16 bytes of bfloat16
H100_SHARED_BYTES = 227 << 10  # shared memory of one program


def unavailable() -> str | None:
    """The reason why Triton cannot run here, or None."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    return None if torch.cuda.is_available() and torch.version.hip is None else "torch finds no NVIDIA GPU"


class TritonKernels(Recurrence):
    """A recurrence whose pointwise part is one kernel; saved pre-activations are channels-last."""

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
        """See `Recurrence.step`; the pointwise kernel adds the two parts of the pre-activations."""
        if self.only_added and h is not None:
            b = conv.into(None, h, weight.hidden)
            return self.forward(a, b, cell_state, new_h, saved, parameter)
        return super().step(conv, a, b, h, weight, cell_state, new_h, saved, parameter)


def pointwise(kernel: Any, like: Tensor, *arguments: Any) -> None:
    """Run a kernel of one program for `BLOCK` elements of a tensor, which is its last argument."""
    if like.shape[-1] % 8:
        kernel = _without_alignment(kernel)
    run(kernel, -(-like.numel() // BLOCK), like, *arguments, BLOCK)


@cache
def _without_alignment(kernel: Any) -> Any:
    """The kernel without specialisation on alignment: steps of a sequence have all combinations of it."""
    import triton

    tensors = [name for name in kernel.arg_names if name.islower()]
    return triton.jit(kernel.fn, do_not_specialize=RUNTIME, do_not_specialize_on_alignment=tensors)


def run(kernel: Any, programs: int, like: Tensor, *arguments: Any, **options: int) -> None:
    """Launch a kernel on the device of a tensor, on torch's current stream there."""
    device = like.get_device()
    if device < 0 or device == torch.cuda.current_device():
        kernel[(programs,)](*arguments, **options)
    else:
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **options)


def sizes(cell_state: Tensor) -> tuple[int, int]:
    """Pixels and channels."""
    channels = cell_state.shape[-1]
    return cell_state.numel() // channels, channels


@cache
def shared_memory(device: int) -> int:
    """Bytes of shared memory of one program on a device."""
    if device < 0:
        return H100_SHARED_BYTES
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)
