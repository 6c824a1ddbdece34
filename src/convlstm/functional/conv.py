"""Convolutions that keep the size of their input, in one, two or three space dimensions."""

import torch.nn.functional as F
from torch import Tensor

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with zero padding to the size of the input.

    An even kernel reaches one pixel further behind than before.

    Args:
        x: (N, C_in, *S).
        weight: (C_out, C_in, *kernel), one to three kernel axes.
        bias: (C_out,) or None.

    Returns:
        (N, C_out, *S).
    """
    kernel = weight.shape[2:]
    if any(k % 2 == 0 for k in kernel):  # the border is uneven: one more behind than before, on each axis
        x = F.pad(x, [side for k in reversed(kernel) for side in ((k - 1) // 2, k // 2)])
        return _CONV[len(kernel)](x, weight, bias)
    return _CONV[len(kernel)](x, weight, bias, padding=[k // 2 for k in kernel])
