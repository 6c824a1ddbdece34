"""Weights of convolutions over channels-last frames, and the direct convolution, which is torch's."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from convlstm.engines.dry_run import DryTensor
from convlstm.functional.conv import must_be_padded, pad, pad_gradient, same_conv

Value = TypeVar("Value")

# oneDNN's convolution that accumulates into its output; other convolutions allocate theirs. It is not public:
# without it the result is added by a second operation.
_ADD: Any = getattr(getattr(torch.ops.mkldnn, "_convolution_pointwise_", None), "binary", None)


class ConvWeight(ABC):
    """A weight (C_out, C_in, *kernel) as an algorithm takes it, and the convolution by that algorithm.

    Frames are channels-last, (..., *S, C), and the convolution keeps their size S.
    """

    @abstractmethod
    def into(self, out: Tensor | None, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The convolution of (..., *S, C_in), written into ``out`` (..., *S, C_out), or a new tensor."""

    @abstractmethod
    def add(self, out: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``out`` (..., *S, C_out), with the convolution of (..., *S, C_in) added in place."""

    @abstractmethod
    def input_gradient(self, out: Tensor, d: Tensor) -> Tensor:
        """Gradient of the input from that of the result, (..., *S, C_out), into ``out`` (..., *S, C_in)."""

    @abstractmethod
    def gradients(
        self, d: Tensor, x: Tensor, needed: tuple[bool, bool] = (True, True)
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the weight and the bias: those needed, None for the other.

        Args:
            d: gradient of the result, (..., *S, C_out).
            x: the input, (..., *S, C_in).
            needed: of weight, bias.
        """


class computed_once(Generic[Value]):  # noqa: N801  # a decorator
    """An attribute that is computed when it is first needed, and kept on its object.

    In Python 3.11 `functools.cached_property` holds one lock for all objects while it computes: threads would
    wait for one another, and a process that is forked meanwhile for ever.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute, self.name = compute, compute.__name__

    def __get__(self, owner: Any, kind: type) -> Value:
        value = owner.__dict__[self.name] = self.compute(owner)
        return value


def bias_gradient(d: Tensor) -> Tensor:
    """Gradient of the bias from that of the result, (..., C_out)."""
    return d.flatten(0, -2).sum(0)


@dataclass(frozen=True, eq=False)
class DirectWeight(ConvWeight):
    """A weight of the direct convolution; two or three space axes.

    Attributes:
        taps: (C_out, C_in, *kernel), in channels-last memory format.
        dilation: distance between the taps, by space axis.
        padding_mode: by space axis.
    """

    taps: Tensor
    dilation: tuple[int, ...]
    padding_mode: tuple[str, ...]

    @classmethod
    def of(cls, weight: Tensor, dilation: tuple[int, ...], padding_mode: tuple[str, ...]) -> "DirectWeight":
        """A weight in any memory format."""
        return cls(_channels_last_format(weight), dilation, padding_mode)

    def into(self, out: Tensor | None, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `ConvWeight.into`."""
        if out is None:
            return self._convolve(x, bias)
        if accumulates_in_place(out):
            return self.add(out.zero_(), x, bias)
        return out.copy_(self._convolve(x, bias))

    def add(self, out: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `ConvWeight.add`."""
        if not accumulates_in_place(out):
            return out.add_(self._convolve(x, bias))
        image, padding = self._padded(self._to_images(x))
        to, ones = self._to_images(out), [1] * len(padding)
        bias = None if bias is None else bias.contiguous()  # the operator reads it as if it were
        if isinstance(out, DryTensor):
            return out
        _ADD(to, image, self.taps, bias, padding, ones, self.dilation, 1, "add", 1.0, None, [], None)
        return out

    def input_gradient(self, out: Tensor, d: Tensor) -> Tensor:
        """See `ConvWeight.input_gradient`."""
        if self._is_padded_by_operator:
            return self._flipped.into(out, d)
        found, _, _ = self._backward(d, out, (True, False, False))
        assert found is not None
        return out.copy_(found)

    def gradients(
        self, d: Tensor, x: Tensor, needed: tuple[bool, bool] = (True, True)
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `ConvWeight.gradients`."""
        if needed == (False, True):  # torch would compute that of the weight too
            return None, bias_gradient(d)
        return self._backward(d, x, (False, *needed))[1:]

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        image, dilation, modes = self._to_images(x), self.dilation, self.padding_mode
        return _to_channels_last(same_conv(image, self.taps, bias, dilation=dilation, padding_mode=modes), x)

    @computed_once
    def _flipped(self) -> "DirectWeight":
        """The weight of the convolution that gives the gradient of the input, if the operator pads."""
        taps = self.taps.flip(tuple(range(2, self.taps.ndim))).transpose(0, 1)
        return replace(self, taps=_channels_last_format(taps))

    def _backward(
        self, d: Tensor, x: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of input, weight and bias by torch; values of ``x`` are read for the weight's alone."""
        image = self._to_images(x)
        padded, padding = self._padded(image)
        ones, zeros = [1] * len(padding), [0] * len(padding)
        options = [len(self.taps)], ones, padding, list(self.dilation), False, zeros, 1, list(needed)
        dx, dw, db = torch.ops.aten.convolution_backward(self._to_images(d), padded, self.taps, *options)
        if dx is not None and padded is not image:
            dx = pad_gradient(dx, self._reach, self.padding_mode)
        return None if dx is None else _to_channels_last(dx, x), dw, db

    def _padded(self, image: Tensor) -> tuple[Tensor, list[int]]:
        """An image, padded unless the operator pads it, and the operator's padding by axis."""
        if self._is_padded_by_operator and not must_be_padded(image, self.taps):
            return image, [r // 2 for r in self._reach]
        return pad(image, self._reach, self.padding_mode), [0] * len(self._reach)

    @computed_once
    def _reach(self) -> list[int]:
        return [d * (k - 1) for d, k in zip(self.dilation, self.taps.shape[2:], strict=True)]

    @computed_once
    def _is_padded_by_operator(self) -> bool:
        return all(r % 2 == 0 for r in self._reach) and set(self.padding_mode) == {"zeros"}

    def _to_images(self, x: Tensor) -> Tensor:
        """(..., *S, C) as (N, C, *S), with as many space axes as the weight has."""
        first = x.ndim - self.taps.ndim + 1
        return x.flatten(0, first - 1).movedim(-1, 1) if first > 1 else x.movedim(-1, 1)


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


def _channels_last_format(weight: Tensor) -> Tensor:
    memory = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    return weight.contiguous(memory_format=memory)


def _to_channels_last(images: Tensor, like: Tensor) -> Tensor:
    """(N, C, *S) as contiguous (..., *S, C) with the leading axes of another tensor."""
    x = images.movedim(1, -1).contiguous()
    return x.view(*like.shape[:-1], x.shape[-1])
