"""The convolutions of cells, which keep the size of frames."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from convlstm.errors import OptionError
from convlstm.functional.conv import must_be_padded, same_conv
from convlstm.validation import check_bool


class Conv3d(nn.Conv3d):
    """Torch's convolution over three space axes, also of frames that are shorter than its kernel."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode == "zeros" and not isinstance(padding, str) and must_be_padded(x, weight):
            padded = F.pad(x, [n for n in reversed(padding) for _ in range(2)])
            return F.conv3d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)
        result: Tensor = super()._conv_forward(x, weight, bias)
        return result


#: The convolution for one, two and three space axes.
CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: Conv3d}


def same_convolution(
    input_dim: int, output_dim: int, kernel_size: tuple[int, ...], bias: bool = True
) -> nn.Module:
    """A convolution, with an odd kernel, that keeps the size of frames (N, input_dim, *S) padded by zeros."""
    if not all(k % 2 for k in kernel_size):
        raise OptionError(
            f"kernel_size must be odd, so that a kernel has a centre; received {kernel_size}: use 3 or 5"
        )
    padding, bias = tuple(k // 2 for k in kernel_size), check_bool(bias, "bias")
    conv: nn.Module = CONV[len(kernel_size)](input_dim, output_dim, kernel_size, padding=padding, bias=bias)
    return conv


class SameConvNd(_ConvNd):
    """A convolution to the size of its input with an even kernel or a padding mode for each space axis."""

    padding_modes: tuple[str, ...] | None = None

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return same_conv(x, weight, bias, dilation=self.dilation, padding_mode=self.padding_modes)


class SameConv1d(SameConvNd, nn.Conv1d):
    """`SameConvNd` over one space axis."""


class SameConv2d(SameConvNd, nn.Conv2d):
    """`SameConvNd` over two space axes."""


class SameConv3d(SameConvNd, nn.Conv3d):
    """`SameConvNd` over three space axes."""


#: Likewise, with even kernels and any padding modes.
SAME_CONV: dict[int, Any] = {1: SameConv1d, 2: SameConv2d, 3: SameConv3d}
