"""The convolution of `convlstm.functional.conv` over rows (..., *S, C), in place, and its gradients."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convlstm.functional.conv import _pad, _pad_gradient, same_conv

# oneDNN's convolution that adds to what is there; without it, every convolution is fresh memory. It is not
# public: a version of torch without it takes the longer way.
_ADD: Any = getattr(getattr(torch.ops.mkldnn, "_convolution_pointwise_", None), "binary", None)


def adds_in_place(room: Tensor) -> bool:
    """Whether a convolution can be added to what a tensor holds, without memory of its own."""
    if _ADD is None or room.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if room.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return room.dtype == torch.float32


def is_narrow(dtype: torch.dtype, device: str) -> bool:
    """True for fp32 on an x86 processor with AVX2 and no AVX-512.

    There oneDNN's channels-last convolutions reach less of the processor than those of plain frames, measured
    on an AMD EPYC held to AVX2, one core, plain against channels last, in GFLOP/s: weight gradients of 3x3
    kernels 87 against 48 (64 channels, 96x96) and 83 against 63 (48 channels, 48x80), forward convolutions of
    5x5 kernels 105 to 114 against 84 to 90. With AVX-512 the two are equal, but for the copies.
    """
    return dtype == torch.float32 and device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"


class SameConv(NamedTuple):
    """A convolution that keeps the size of its input; two or three space axes.

    Attributes:
        dilation: distance between the kernel's taps, one per space axis.
        padding_mode: one per space axis.
    """

    dilation: tuple[int, ...]
    padding_mode: tuple[str, ...]

    def into(self, room: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The convolution of rows (..., *S, C_in), written into ``room``, rows (..., *S, C_out), or new."""
        if room is None:
            return self._apply(x, weight, bias)
        if adds_in_place(room):
            return self.add(room.zero_(), x, weight, bias)
        return room.copy_(self._apply(x, weight, bias))

    def add(self, room: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``room``, rows (..., *S, C_out), with the convolution of rows (..., *S, C_in) added in place."""
        if not adds_in_place(room):
            return room.add_(self._apply(x, weight, bias))
        image, padding = self._padded(_images(x, weight), weight)
        to, ones = _images(room, weight), [1] * len(padding)
        _ADD(to, image, weight, bias, padding, ones, self.dilation, 1, "add", 1.0, None, [], None)
        return room

    def _apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = same_conv(
            _images(x, weight), weight, bias, dilation=self.dilation, padding_mode=self.padding_mode
        )
        return _rows(y, x)

    def _padded(self, image: Tensor, weight: Tensor) -> tuple[Tensor, list[int]]:
        """An image with what the convolution does not pad by itself, and by how much it pads each axis."""
        reach = self._reach(weight)
        if self._pads_by_itself(reach):
            return image, [r // 2 for r in reach]
        return _pad(image, reach, self.padding_mode), [0] * len(reach)

    def _reach(self, weight: Tensor) -> list[int]:
        return [d * (k - 1) for d, k in zip(self.dilation, weight.shape[2:], strict=True)]

    def _pads_by_itself(self, reach: list[int]) -> bool:
        return all(r % 2 == 0 for r in reach) and set(self.padding_mode) == {"zeros"}

    def turned(self, weight: Tensor) -> Tensor | None:
        """The weight of the convolution that is the gradient of this one by its input, where that is one."""
        if not self._pads_by_itself(self._reach(weight)):
            return None
        layout = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
        return weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1).contiguous(memory_format=layout)

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the input, the weight and the bias: those needed, None for the others.

        Args:
            gradient: of the result, rows (..., *S, C_out).
            x: the input, rows (..., *S, C_in); where only its own gradient is needed, anything of its shape.
            weight: (C_out, C_in, *kernel).
            needed: of input, weight, bias.
        """
        axes = weight.ndim - 2
        image = _images(x, weight)
        padded, padding = self._padded(image, weight)
        ones, zeros = [1] * axes, [0] * axes
        dx, dw, db = torch.ops.aten.convolution_backward(
            _images(gradient, weight),
            padded,
            weight,
            [weight.shape[0]],
            ones,
            padding,
            list(self.dilation),
            False,
            zeros,
            1,
            list(needed),
        )
        if dx is not None and padded is not image:
            dx = _pad_gradient(dx, self._reach(weight), self.padding_mode)
        return None if dx is None else _rows(dx, x), dw, db


def split(weight: Tensor, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The parts of a weight over the frame's channels and over h, packed for convolutions of rows."""
    layout = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    w_x, w_h = (w.to(dtype) for w in (weight[:, :channels], weight[:, channels:]))
    return w_x.contiguous(memory_format=layout), w_h.contiguous(memory_format=layout)


@lru_cache(maxsize=256)
def padded_places(size: int, reach: int, mode: str) -> Tensor:
    """For each place of an axis as `SameConv` pads it, the one it has its value from; -1 for zero."""
    places = torch.arange(1, size + 1, dtype=torch.float32, device="cpu").view(1, 1, size)
    return _pad(places, [reach], (mode,)).flatten().int() - 1


def _images(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows (..., *S, C) as images (N, C, *S), as many space axes as the weight has."""
    first = rows.ndim - weight.ndim + 1
    return rows.flatten(0, first - 1).movedim(-1, 1) if first > 1 else rows.movedim(-1, 1)


def _rows(images: Tensor, like: Tensor) -> Tensor:
    """Images (N, C, *S) as rows (..., *S, C) with the leading axes of other rows."""
    rows = images.movedim(1, -1).contiguous()
    return rows.view(*like.shape[:-1], rows.shape[-1])
