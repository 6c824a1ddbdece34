"""Kernels of `convlstm.engines.triton.kernels` on GPUs, which Triton compiles when they first run."""

import math
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from convlstm.engines.convolution import SameConv
from convlstm.engines.cpu.compiler import warn_once
from convlstm.engines.plain import PlainKernels, Weight, by_gate, flat

_BLOCK = 1024  # elements of a program of the pointwise kernels: eight for each thread, 16 bytes of bfloat16
_SHARED = 227 << 10  # bytes of an H100's for one program
_BUSY = 120  # programs that keep its 132 processors busy enough
#: Products in a sum, and pixels, up to which one kernel is faster than cuDNN's convolution and a pointwise
#: kernel. On an H200 a forward pass at both limits takes 0.9 of their time; with 128 channels it takes 1.5
#: times as long, with 65,536 pixels 1.1 times.
_SUMMANDS, _PIXELS = 64 * 3 * 3, 1 << 14
#: Dtypes of h whose steps are fused; torch convolves float32 faster, as TF32 or not.
FUSED = (torch.bfloat16, torch.float16)


def unavailable() -> str | None:
    """Why there are no kernels of Triton's here, or None."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    return None if torch.cuda.is_available() and torch.version.hip is None else "torch finds no NVIDIA GPU"


@cache
def kernels(activations: tuple[str, str, str]) -> PlainKernels:
    """Triton's, or, after one warning, torch's own if Triton cannot compile them.

    It also needs a C compiler, which a machine may lack, and a driver that it knows.
    """
    try:
        made = TritonKernels(activations)
        sums = torch.zeros(1, 4, 8, device="cuda")
        made.lstm_replay(sums, sums[:, 0], torch.empty_like(sums[:, 0]), None)
    except Exception as error:  # of Triton's, the compiler's, the system's or the driver's
        line = (str(error).strip() or repr(error)).splitlines()[-1]
        warn_once(
            "convlstm runs without Triton's kernels, slower and with the same numbers, because Triton "
            f"failed: {line}"
        )
        return PlainKernels(activations)
    return made


class TritonKernels(PlainKernels):
    """The same passes over all pixels in one kernel each; float64 goes the plain way.

    Args:
        activations: names of those of the gates, the candidate and the output.
    """

    def __init__(self, activations: tuple[str, str, str]) -> None:
        super().__init__(activations)
        import convlstm.engines.triton.kernels as device

        self._device: Any = device

    def _launch(self, kernel: Any, rows: Tensor, *arguments: Any) -> None:
        """Run a pointwise kernel over rows (P, C), whose arguments end with C and the activations."""
        if rows.shape[-1] % 8:
            kernel = self._device.at_any_place(kernel)
        _run(kernel, -(-rows.numel() // _BLOCK), rows, *arguments, _BLOCK)

    def lstm_forward(
        self, sums: Tensor, c: Tensor, h: Tensor, kept: Tensor | None, peepholes: Tensor | None
    ) -> None:
        """See `PlainKernels.lstm_forward`."""
        self._lstm_forward(sums, None, c, h, kept, peepholes)

    def _lstm_forward(
        self,
        sums: Tensor,
        more: Tensor | None,
        c: Tensor,
        h: Tensor,
        kept: Tensor | None,
        peepholes: Tensor | None,
    ) -> None:
        if c.dtype == torch.float64:
            return super().lstm_forward(sums if more is None else sums + more, c, h, kept, peepholes)
        sizes = len(c), _pixels(peepholes), c.shape[1]
        names = self.gate, self.candidate, self.output
        tensors = sums, more, c, h, kept, peepholes
        return self._launch(self._device.lstm_forward, c, *tensors, *sizes, *names)

    def lstm_replay(self, sums: Tensor, c: Tensor, new_c: Tensor, peepholes: Tensor | None) -> None:
        """See `PlainKernels.lstm_replay`."""
        if c.dtype == torch.float64:
            return super().lstm_replay(sums, c, new_c, peepholes)
        sizes = len(c), _pixels(peepholes), c.shape[1]
        names = self.gate, self.candidate
        return self._launch(self._device.lstm_replay, c, sums, c, new_c, peepholes, *sizes, *names)

    def lstm_backward(
        self,
        sums: Tensor,
        c: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_c: Tensor,
        d_sums: Tensor,
        peepholes: Tensor | None,
    ) -> None:
        """See `PlainKernels.lstm_backward`."""
        tensors = sums, c, d_output, d_h, d_c, d_sums, peepholes
        if c.dtype == torch.float64:
            return super().lstm_backward(*tensors)
        sizes = len(c), _pixels(peepholes), c.shape[1]
        names = self.gate, self.candidate, self.output
        return self._launch(self._device.lstm_backward, c, *tensors, *sizes, *names)

    def gru_forward(
        self, a: Tensor, b: Tensor, bias: Tensor, m: Tensor, h: Tensor, kept: Tensor | None
    ) -> None:
        """See `PlainKernels.gru_forward`; ``b`` is left as it is."""
        if m.dtype == torch.float64:
            return super().gru_forward(a, b, bias, m, h, kept)
        arguments = a, b, bias, m, h, kept, *m.shape
        return self._launch(self._device.gru_forward, m, *arguments, self.gate, self.candidate)

    def gru_replay(self, sums: Tensor, m: Tensor, new_m: Tensor) -> None:
        """See `PlainKernels.gru_replay`."""
        if m.dtype == torch.float64:
            return super().gru_replay(sums, m, new_m)
        arguments = sums, m, new_m, *m.shape
        return self._launch(self._device.gru_replay, m, *arguments, self.gate, self.candidate)

    def gru_backward(
        self,
        sums: Tensor,
        m: Tensor,
        d_output: Tensor,
        d_h: Tensor,
        d_m: Tensor,
        d_a: Tensor,
        d_b: Tensor,
    ) -> None:
        """See `PlainKernels.gru_backward`."""
        tensors = sums, m, d_output, d_h, d_m, d_a, d_b
        if m.dtype == torch.float64:
            return super().gru_backward(*tensors)
        return self._launch(self._device.gru_backward, m, *tensors, *m.shape, self.gate, self.candidate)

    def kept(self, rows: Tensor) -> Tensor:
        """See `PlainKernels.kept`; by pixel."""
        return by_gate(rows, 4)

    def lstm_weight(
        self, conv: SameConv, weight: Tensor, bias: Tensor | None, h: Tensor, keep: bool
    ) -> Weight:
        """See `PlainKernels.lstm_weight`; (KH, KW, C, 4, C) for the kernel of a step where it is faster."""
        w_x, w_h, _ = super().lstm_weight(conv, weight, bias, h, keep)
        gates, channels, *kernel = w_h.shape
        fused = (
            not keep
            and len(kernel) == 2
            and gates == 4 * channels
            and channels % 16 == 0
            and channels * math.prod(kernel) <= _SUMMANDS
            and h[..., 0].numel() <= _PIXELS
            and all(size % 2 for size in kernel)
            and set(conv.padding_mode) == {"zeros"}
            and w_h.dtype in FUSED
        )
        if not fused:
            return Weight(w_x, w_h)
        packed = w_h.view(4, channels, channels, *kernel).permute(3, 4, 2, 0, 1).contiguous()
        return Weight(w_x, packed, in_place=False)

    def lstm_step(
        self,
        conv: SameConv,
        a: Tensor,
        h: Tensor | None,
        weight: Weight,
        c: Tensor,
        new_h: Tensor,
        kept: Tensor | None,
        peepholes: Tensor | None,
    ) -> None:
        """See `PlainKernels.lstm_step`; one kernel, with the gates behind the convolution, where it can."""
        packed: Tensor = weight.hidden
        if h is None or h.ndim != 4 or packed.ndim != 5:
            sums, more = by_gate(a, 4), None if h is None else by_gate(conv.into(None, h, packed), 4)
            kept = None if kept is None else self.kept(kept)
            return self._lstm_forward(sums, more, flat(c), flat(new_h), kept, peepholes)
        batch, height, width, channels = h.shape
        pixels = batch * height * width
        shared = _shared_memory(h.get_device())
        block_m, block_n, block_k, warps, stages = blocks(
            pixels, channels, h.itemsize, peepholes is not None, shared
        )
        return _run(
            self._device.lstm_step,
            -(-pixels // block_m) * (channels // block_n),
            *(h, a, h, packed, c, new_h, kept, peepholes),
            *(pixels, height, width, _pixels(peepholes), channels, *packed.shape[:2], *conv.dilation),
            *(self.gate, self.candidate, self.output, block_m, block_n, block_k),
            num_warps=warps,
            num_stages=stages,
        )


@lru_cache(maxsize=256)
def blocks(
    pixels: int, channels: int, size: int = 2, peepholes: bool = False, shared: int = _SHARED
) -> tuple[int, int, int, int, int]:
    """For `lstm_step`: pixels, channels and summands of a program, its warps, and loads under way at once.

    Large tiles read less, small ones keep all processors of the GPU busy; so it is the largest that does.

    Args:
        pixels: P.
        channels: C, a multiple of 16.
        size: of a number of h, in bytes.
        peepholes: whether there are any, which take registers.
        shared: memory that a program may take, in bytes.
    """
    if size == 4:  # not on the tensor cores
        return 64, 16 if channels % 32 else 32, 16, 8, 3
    narrow = 32 if peepholes else 64
    tiles = [
        (m, n) for m, n in ((128, 64), (128, 32), (64, 32), (64, 16)) if channels % n == 0 and n <= narrow
    ]
    busy = [(m, n) for m, n in tiles if -(-pixels // m) * (channels // n) >= _BUSY]
    block_m, block_n = (busy or tiles[-1:])[0]
    block_k = next(k for k in (64, 32, 16) if channels % k == 0)
    stages = min(4, shared // (size * block_k * (block_m + 4 * block_n)))
    return block_m, block_n, block_k, block_m // 16, stages


@cache
def _shared_memory(device: int) -> int:
    if device < 0:
        return _SHARED
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def _run(kernel: Any, programs: int, like: Tensor, *arguments: Any, **options: int) -> None:
    """Launch a kernel on the device of a tensor, on torch's stream there."""
    device = like.get_device()
    if device < 0 or device == torch.cuda.current_device():
        kernel[(programs,)](*arguments, **options)
    else:
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **options)


def _pixels(peepholes: Tensor | None) -> int:
    return 1 if peepholes is None else peepholes.shape[1]
