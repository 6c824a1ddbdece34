"""The convolution of `convlstm.functional.conv` with its gradients by hand, as they are needed in parts."""

from typing import NamedTuple

import torch
from torch import Tensor

from convlstm.functional.conv import _pad, same_conv


class SameConv(NamedTuple):
    """A convolution that keeps the size of its input.

    Attributes:
        dilation: distance between the kernel's taps, one per space axis.
        padding_mode: one per space axis.
    """

    dilation: tuple[int, ...]
    padding_mode: tuple[str, ...]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(N, C_in, *S) -> (N, C_out, *S)."""
        return same_conv(x, weight, bias, dilation=self.dilation, padding_mode=self.padding_mode)

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the input, the weight and the bias: those needed, None for the others.

        Args:
            gradient: of the result, (N, C_out, *S).
            x: the input (N, C_in, *S); where only its own gradient is needed, anything of its shape.
            weight: (C_out, C_in, *kernel).
            needed: of input, weight, bias.
        """
        axes = x.ndim - 2
        reach = [d * (k - 1) for d, k in zip(self.dilation, weight.shape[2:], strict=True)]
        inside = all(r % 2 == 0 for r in reach) and set(self.padding_mode) == {"zeros"}
        padding = [r // 2 for r in reach] if inside else [0] * axes
        padded = x if inside else _pad(x, reach, self.padding_mode)
        ones, zeros = [1] * axes, [0] * axes
        dx, dw, db = torch.ops.aten.convolution_backward(
            gradient,
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
        if dx is not None and not inside:
            with torch.enable_grad():  # padding is linear: its gradient does not depend on what is padded
                probe = torch.zeros_like(x).requires_grad_()
                (dx,) = torch.autograd.grad(_pad(probe, reach, self.padding_mode), probe, dx)
        return dx, dw, db
