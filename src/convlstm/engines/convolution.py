"""The choice of an algorithm for the convolution of `convlstm.functional.conv` over channels-last frames."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import convlstm.engines.config as config
import convlstm.engines.cpu.winograd as winograd
import convlstm.engines.fourier as fourier
from convlstm.engines.direct import ConvWeight, DirectWeight


class SameConv(NamedTuple):
    """A convolution that keeps the size of its input; two or three space axes.

    Attributes:
        dilation: distance between the kernel's taps, one per space axis.
        padding_mode: one per space axis.
        steps: of the recurrence: times that it convolves frames of a batch with one weight.
        library: of C++ kernels, `Recurrence.library`; None for convolutions by torch alone.
    """

    dilation: tuple[int, ...]
    padding_mode: tuple[str, ...]
    steps: int = 1
    library: Any = None

    def split_weight(self, weight: Tensor, h: Tensor) -> tuple[ConvWeight, ConvWeight]:
        """The parts of a weight over the frame's channels and over h, each by the fastest algorithm.

        Args:
            weight: (C_out, C_in + C, *kernel).
            h: (B, *S, C), of which only shape, dtype and device matter.
        """
        channels = weight.shape[1] - h.shape[-1]
        return self._weight(weight[:, :channels], h), self._weight(weight[:, channels:], h)

    def _weight(self, weight: Tensor, h: Tensor) -> ConvWeight:
        batch, *size, _ = h.shape
        if h.dtype == torch.float32 and h.device.type == "cpu":
            algorithm = self.algorithm(weight.shape, size, batch, compiled=self.library is not None)
            if algorithm == "Fourier":
                return fourier.Spectrum.of(weight.float(), tuple(size))
            if algorithm == "Winograd":
                outputs, inputs, *kernel = weight.shape
                of_gradient = self.algorithm((inputs, outputs, *kernel), size, batch, compiled=True)
                direct = set(self.padding_mode) != {"zeros"} or of_gradient != "Winograd"
                return winograd.WinogradWeight(
                    self.library,
                    weight.float(),
                    self.padding_mode,
                    reused=self.steps == 1,
                    direct_gradient=direct,
                )
        return DirectWeight.of(weight.to(h.dtype), self.dilation, self.padding_mode)

    def algorithm(self, shape: Sequence[int], size: Sequence[int], batch: int, *, compiled: bool) -> str:
        """The algorithm for float32 on a processor: ``"direct"``, ``"Fourier"`` or ``"Winograd"``.

        Args:
            shape: of the weight, (C_out, C_in, *kernel).
            size: of the frames.
            batch: frames that are convolved together.
            compiled: there are C++ kernels.
        """
        if config.direct_convolution or set(self.dilation) != {1}:
            return "direct"
        padded = set(self.padding_mode) == {"zeros"}
        return _algorithm(tuple(shape), tuple(size), batch, self.steps, compiled, padded)


@lru_cache(maxsize=1024)
def _algorithm(
    shape: tuple[int, ...],
    size: tuple[int, ...],
    batch: int,
    steps: int,
    compiled: bool,
    zero_padding: bool,
) -> str:
    """`SameConv.algorithm` without dilation, which every call of a layer asks for."""
    if compiled and winograd.is_faster(shape, size, batch, steps):
        return "Winograd"
    odd = all(k % 2 for k in shape[2:])
    return "Fourier" if zero_padding and odd and fourier.is_faster(shape, size, batch, steps) else "direct"
