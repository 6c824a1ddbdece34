"""The physical cell of PhyDNet."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell
from convlstm.cells.convgru import GRUState
from convlstm.cells.convolutions import same_convolution
from convlstm.cells.group_norm import GroupNorm


class PhyCell(Cell):
    """One step of a partial differential equation with correction by data (Le Guen and Thome 2020).

    arXiv:2003.01460, equations 4 to 8: the state h moves by a learnt equation F and is drawn to the frame x
    by a gain K, as in a Kalman filter. F is a linear combination of spatial derivatives, by as many filters
    as the kernel has pixels, whose moments `moment_loss` draws to those of the derivatives. With ``*`` a
    convolution and GN group normalisation::

        F(h) = W_F GN(D * h + b_D) + b_F
        h~   = h + F(h)
        K    = sigmoid(W_x * x + W_h * h + b_K)
        h'   = h~ + K (x - h~)

    W_F is 1x1, W_x and W_h are 3x3, and groups have as many filters as D has rows, all as published. There x
    has the channels of h; an x of other channels first passes through a 1x1 convolution.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h.
        kernel_size: of the filters D; 7 is published.
        bias: True to have the biases b.

    Example:
        >>> import torch
        >>> cell = PhyCell(8, 8, 7)
        >>> cell(torch.zeros(2, 8, 16, 20)).h.shape, cell.moment_loss().shape
        (torch.Size([2, 8, 16, 20]), torch.Size([]))
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, kernel_size: int | tuple[int, ...], bias: bool = True
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        n, kernel = self.hidden_dim, self.kernel_size
        ones, threes, filters = (1,) * len(kernel), (3,) * len(kernel), math.prod(kernel)
        same = self.input_dim == n
        self.embed = nn.Identity() if same else same_convolution(self.input_dim, n, ones, bias)
        self.derivatives: Any = same_convolution(n, filters, kernel, bias)
        self.norm = GroupNorm(filters // kernel[0], filters)
        self.combine = same_convolution(filters, n, ones, bias)
        self.gain_x = same_convolution(n, n, threes, bias)
        self.gain_h = same_convolution(n, n, threes, bias=False)

    def initial_state(self, x: Tensor) -> GRUState:
        """Zeros, (B, hidden_dim, *S)."""
        return GRUState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x: Tensor) -> Tensor:
        """The frame in the channels of the state and its part of the gain, (N, 2 hidden_dim, *S)."""
        x = self.embed(x)
        return torch.cat([x, self.gain_x(x)], dim=1)

    def step(self, p: Tensor, state: Any) -> GRUState:
        """The new hidden state, (B, hidden_dim, *S)."""
        (h,) = state
        x, gain_x = p.chunk(2, dim=1)
        predicted = h + self.combine(self.norm(self.derivatives(h)))
        gain = torch.sigmoid(gain_x + self.gain_h(h))
        self.record_values(predicted=predicted, gain=gain)
        return GRUState(predicted + gain * (x - predicted))

    def moment_loss(self) -> Tensor:
        """Squared distance of the moments of the filters from those of derivatives, a number.

        A filter w that approximates the derivative of orders (a, b) has, among the moments
        ``M(w)[i, j] = sum_uv w[u, v] u^i v^j / (i! j!)`` around its centre, ``M[a, b] = 1`` and zeros else
        (Long et al. 2018, arXiv:1710.09668). Filter by filter of a channel, one for each pair of orders below
        the size of the kernel; a mean over filters and moments, summed over the channels of h.
        """
        weight = self.derivatives.weight
        moments = weight.to(torch.promote_types(weight.dtype, torch.float32))
        for size in self.kernel_size:  # the first axis of the kernel moves to the end
            moments = torch.tensordot(moments, _powers(size).to(moments), dims=([2], [1]))
        filters = weight.shape[0]
        target = torch.eye(filters, device=moments.device, dtype=moments.dtype)
        distance = moments.flatten(2) - target.unsqueeze(1)
        loss: Tensor = distance.square().mean(dim=(0, 2)).sum()
        return loss


def _powers(size: int) -> Tensor:
    """Row i holds u^i / i! of the offsets u of an axis of a kernel from its centre."""
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) // 2
    return torch.stack([offset**i / math.factorial(i) for i in range(size)])
