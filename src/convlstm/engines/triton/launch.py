"""Launches of Triton kernels."""

from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from convlstm.engines.recurrences import Recurrence, StepBuffers, StepGradients, Weight, sizes

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
    """A recurrence whose pointwise part is one kernel; saved pre-activations are channels-last.

    Attributes:
        kernels: of forward, recompute and backward. They take the tensors of these methods in their order, P,
            Q, C (see `sizes`) and the activations.
    """

    kernels: ClassVar[tuple[Any, Any, Any]]

    def step(self, weight: Weight, h: Tensor | None, buffers: StepBuffers) -> None:
        """See `Recurrence.step`; the pointwise kernel adds the two parts of the pre-activations."""
        if self.only_added and h is not None:
            return self.forward(buffers._replace(b=weight.hidden.into(None, h)))
        return super().step(weight, h, buffers)

    def forward(self, buffers: StepBuffers) -> None:
        """See `Recurrence.forward`; ``b`` is not overwritten."""
        self._launch(self.kernels[0], buffers.cell_state, *buffers)

    def recompute(self, saved: Tensor, before: Tensor, after: Tensor, parameter: Tensor | None) -> None:
        """See `Recurrence.recompute`."""
        self._launch(self.kernels[1], before, saved, before, after, parameter)

    def backward(self, gradients: StepGradients) -> None:
        """See `Recurrence.backward`."""
        self._launch(self.kernels[2], gradients.cell_state, *gradients)

    def _launch(self, kernel: Any, cell_state: Tensor, *tensors: Tensor | None) -> None:
        """Run a kernel of one program for `BLOCK` elements on tensors, of which the parameter is the last."""
        if cell_state.shape[-1] % 8:
            kernel = _without_alignment(kernel)
        constants = *sizes(cell_state, tensors[-1]), self.gate, self.candidate, self.output, BLOCK
        run(kernel, -(-cell_state.numel() // BLOCK), cell_state, *tensors, *constants)


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


@cache
def shared_memory(device: int) -> int:
    """Bytes of shared memory of one program on a device."""
    if device < 0:
        return H100_SHARED_BYTES
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)
