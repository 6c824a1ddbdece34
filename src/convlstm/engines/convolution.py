"""The convolution of `convlstm.functional.conv` over channels-last tensors, in place, and its gradients."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import convlstm.engines.config as config
import convlstm.engines.cpu.winograd as winograd
import convlstm.engines.fourier as fourier
from convlstm.engines.cpu.winograd import WinogradWeight
from convlstm.engines.dry_run import DryTensor
from convlstm.engines.fourier import Spectrum
from convlstm.functional.conv import _pad, _pad_gradient, same_conv

#: A weight, or its transform for an algorithm that takes less time than a direct convolution.
ConvWeight = Tensor | Spectrum | WinogradWeight

# oneDNN's convolution that accumulates into its output; other convolutions allocate theirs. It is not public:
# without it the result is added by a second operation.
_ADD: Any = getattr(getattr(torch.ops.mkldnn, "_convolution_pointwise_", None), "binary", None)


def accumulates_in_place(out: Tensor) -> bool:
    """True if a convolution can be accumulated into a tensor without a temporary."""
    if _ADD is None or out.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if out.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return out.dtype == torch.float32


def is_channels_first_faster(dtype: torch.dtype, device: str) -> bool:
    """True for fp32 on an x86 processor with AVX2 and no AVX-512.

    There oneDNN's channels-last convolutions are slower than channels-first ones, measured on an AMD EPYC
    held to AVX2, one core, channels first against channels last, in GFLOP/s: weight gradients of 3x3
    kernels 87 against 48 (64 channels, 96x96) and 83 against 63 (48 channels, 48x80), forward convolutions of
    5x5 kernels 105 to 114 against 84 to 90. With AVX-512 the two are equal, apart from the copies.
    """
    return dtype == torch.float32 and device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


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
        """The parts of a weight over the frame's channels and over h, as the other methods take them.

        Args:
            weight: (C_out, C_in + C, *kernel).
            h: (B, *S, C), of which only shape, dtype and device matter.
        """
        channels = weight.shape[1] - h.shape[-1]
        w_x, w_h = (self.prepared(part, h) for part in (weight[:, :channels], weight[:, channels:]))
        return w_x, w_h

    def prepared(self, weight: Tensor, h: Tensor) -> ConvWeight:
        """A weight for the fastest algorithm; directly convolved ones are in channels-last memory format."""
        batch, *size, _ = h.shape
        if h.dtype == torch.float32 and h.device.type == "cpu":
            algorithm = self.algorithm(weight.shape, size, batch, compiled=self.library is not None)
            if algorithm == "Fourier":
                return Spectrum.of(weight.float(), tuple(size))
            if algorithm == "Winograd":
                return WinogradWeight(self.library, weight.float(), self.padding_mode, reused=self.steps == 1)
        return weight.to(h.dtype).contiguous(memory_format=_channels_last_format(weight))

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

    def into(self, out: Tensor | None, x: Tensor, weight: ConvWeight, bias: Tensor | None = None) -> Tensor:
        """The convolution of (..., *S, C_in), written into ``out`` (..., *S, C_out), or a new tensor."""
        if isinstance(weight, WinogradWeight):
            out = x.new_empty(*x.shape[:-1], weight.shape.outputs) if out is None else out
            return weight.convolve(x, out, bias, add=False)
        if out is None:
            return self._apply(x, weight, bias)
        if accumulates_in_place(out) and isinstance(weight, Tensor):
            return self.add(out.zero_(), x, weight, bias)
        return out.copy_(self._apply(x, weight, bias))

    def add(self, out: Tensor, x: Tensor, weight: ConvWeight, bias: Tensor | None = None) -> Tensor:
        """``out`` (..., *S, C_out), with the convolution of (..., *S, C_in) added in place."""
        if isinstance(weight, WinogradWeight):
            return weight.convolve(x, out, bias, add=True)
        if isinstance(weight, Spectrum) or not accumulates_in_place(out):
            return out.add_(self._apply(x, weight, bias))
        image, padding = self._padded(_to_images(x, weight), weight)
        to, ones = _to_images(out, weight), [1] * len(padding)
        if isinstance(out, DryTensor):
            return out
        _ADD(to, image, weight, bias, padding, ones, self.dilation, 1, "add", 1.0, None, [], None)
        return out

    def _apply(self, x: Tensor, weight: Tensor | Spectrum, bias: Tensor | None) -> Tensor:
        if isinstance(weight, Spectrum):
            y = weight.convolve(_to_batch(x, weight)).reshape(*x.shape[:-1], -1)
            return y if bias is None else y.add_(bias)
        image, dilation, modes = _to_images(x, weight), self.dilation, self.padding_mode
        return _to_channels_last(same_conv(image, weight, bias, dilation=dilation, padding_mode=modes), x)

    def _padded(self, image: Tensor, weight: Tensor) -> tuple[Tensor, list[int]]:
        """An image, padded unless the operator pads it, and the operator's padding by axis."""
        reach = self._reach(weight)
        if self._is_padded_by_operator(reach):
            return image, [r // 2 for r in reach]
        return _pad(image, reach, self.padding_mode), [0] * len(reach)

    def _reach(self, weight: Tensor) -> list[int]:
        return [d * (k - 1) for d, k in zip(self.dilation, weight.shape[2:], strict=True)]

    def _is_padded_by_operator(self, reach: list[int]) -> bool:
        return all(r % 2 == 0 for r in reach) and set(self.padding_mode) == {"zeros"}

    def flipped_weight(self, weight: ConvWeight, h: Tensor) -> ConvWeight | None:
        """The weight of the convolution that computes the gradient of the input; None if none does.

        Args:
            weight: of `split_weight`.
            h: see `split_weight`.
        """
        if isinstance(weight, Spectrum):
            return weight.flip()
        if isinstance(weight, WinogradWeight):
            batch, *size, _ = h.shape
            outputs, inputs, *kernel = weight.weight.shape
            if set(self.padding_mode) != {"zeros"}:
                return None
            if winograd.is_faster((inputs, outputs, *kernel), size, batch, self.steps):
                return weight.flip()
            weight = weight.weight
        if not self._is_padded_by_operator(self._reach(weight)):
            return None
        flipped = weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1)
        return flipped.contiguous(memory_format=_channels_last_format(weight))

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: ConvWeight, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the input, the weight and the bias: those needed, None for the others.

        Args:
            gradient: of the result, (..., *S, C_out).
            x: the input, (..., *S, C_in); its values are not read if only its gradient is needed.
            weight: (C_out, C_in, *kernel), or its transform; a `Spectrum` has no gradient of the input.
            needed: of input, weight, bias.
        """
        d_x = d_weight = None
        if isinstance(weight, Spectrum):
            if needed[1]:
                d_weight = weight.weight_gradient(_to_batch(x, weight), _to_batch(gradient, weight))
        else:
            taps = weight if isinstance(weight, Tensor) else weight.weight
            if needed[1] and isinstance(weight, WinogradWeight):
                d_weight = weight.weight_gradient(x, gradient)
            if needed[1] and d_weight is None:
                return self._gradients(gradient, x, taps, needed)
            if needed[0]:
                d_x, _, _ = self._gradients(gradient, x, taps, (True, False, False))
        # For the bias's gradient alone torch would compute that of the weight too.
        return d_x, d_weight, gradient.flatten(0, -2).sum(0) if needed[2] else None

    def _gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """`gradients` by torch."""
        image = _to_images(x, weight)
        padded, padding = self._padded(image, weight)
        ones, zeros = [1] * len(padding), [0] * len(padding)
        options = [weight.shape[0]], ones, padding, list(self.dilation), False, zeros, 1, list(needed)
        dx, dw, db = torch.ops.aten.convolution_backward(
            _to_images(gradient, weight), padded, weight, *options
        )
        if dx is not None and padded is not image:
            dx = _pad_gradient(dx, self._reach(weight), self.padding_mode)
        return None if dx is None else _to_channels_last(dx, x), dw, db


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


def _channels_last_format(weight: Tensor) -> torch.memory_format:
    return torch.channels_last if weight.ndim == 4 else torch.channels_last_3d


def _to_batch(x: Tensor, weight: Spectrum) -> Tensor:
    """(..., *S, C) as (N, *S, C), with as many space axes as the weight has."""
    return x.flatten(0, x.ndim - len(weight.size) - 2)


def _to_images(x: Tensor, weight: Tensor) -> Tensor:
    """(..., *S, C) as (N, C, *S), with as many space axes as the weight has."""
    first = x.ndim - weight.ndim + 1
    return x.flatten(0, first - 1).movedim(-1, 1) if first > 1 else x.movedim(-1, 1)


def _to_channels_last(images: Tensor, like: Tensor) -> Tensor:
    """(N, C, *S) as contiguous (..., *S, C) with the leading axes of another tensor."""
    x = images.movedim(1, -1).contiguous()
    return x.view(*like.shape[:-1], x.shape[-1])
