"""The trajectory GRU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.cells.base import Cell
from convlstm.cells.convgru import GRUState
from convlstm.cells.convolutions import same_convolution
from convlstm.errors import OptionError
from convlstm.functional.motion import warp
from convlstm.validation import check_positive

_FLOW_KERNEL = (5, 5)


class TrajGRUCell(Cell):
    """One step of a trajectory GRU (Shi et al. 2017, arXiv:1706.03458, equations 4 and 5).

    A network of two layers sees the frame and the state and gives each pixel the flow of L links; the
    recurrent convolution reads the state at the ends of these links in place of a fixed neighbourhood. With
    ``*`` a convolution, ``a`` the leaky ReLU of slope 0.2, ``warp`` bilinear with zeros beyond the border and
    W_1 of 1x1::

        q  = a(W_qx * x + W_qh * h + b_q)
        flow_1, ..., flow_L = W_f * q + b_f
        r_h, z_h, n_h = W_1 [warp(h, -flow_1), ..., warp(h, -flow_L)] + b_h
        r_x, z_x, n_x = W_x * x + b_x
        r  = sigmoid(r_x + r_h)
        z  = sigmoid(z_x + z_h)
        n  = a(n_x + r n_h)
        h' = (1 - z) n + z h

    The convolutions of the flow network are 5x5, as published. Frames have two space axes.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h.
        kernel_size: of W_x.
        bias: True to have the biases b.
        links: L; published are 5 to 17, 13 in most layers.
        flow_dim: channels of q.

    Example:
        >>> import torch
        >>> (h,) = TrajGRUCell(3, 8, 3, links=5)(torch.zeros(2, 3, 16, 20))
        >>> h.shape
        torch.Size([2, 8, 16, 20])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        links: int = 13,
        flow_dim: int = 32,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        if len(self.kernel_size) != 2:
            raise OptionError(
                "a TrajGRUCell must have two space axes; received kernel_size="
                f"{self.kernel_size}: use a ConvGRUCell for one or three"
            )
        n = self.hidden_dim
        self.links, self.flow_dim = check_positive(links, "links"), check_positive(flow_dim, "flow_dim")
        self.conv_x = same_convolution(self.input_dim, 3 * n, self.kernel_size, bias)
        self.conv_h = same_convolution(self.links * n, 3 * n, (1, 1), bias)
        self.flow_x = same_convolution(self.input_dim, self.flow_dim, _FLOW_KERNEL, bias)
        self.flow_h = same_convolution(n, self.flow_dim, _FLOW_KERNEL, bias=False)
        self.flow = same_convolution(self.flow_dim, 2 * self.links, _FLOW_KERNEL, bias)

    def initial_state(self, x: Tensor) -> GRUState:
        """Zeros, (B, hidden_dim, H, W)."""
        return GRUState(x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:]))

    def project(self, x: Tensor) -> Tensor:
        """The input's part of gates and flow network, (N, 3 hidden_dim + flow_dim, H, W)."""
        return torch.cat([self.conv_x(x), self.flow_x(x)], dim=1)

    def step(self, p: Tensor, state: Any) -> GRUState:
        """The new hidden state, (B, hidden_dim, H, W)."""
        (h,) = state
        r_x, z_x, n_x, q = torch.split(p, [self.hidden_dim] * 3 + [self.flow_dim], dim=1)
        q = F.leaky_relu(q + self.flow_h(h), 0.2)
        flow = self.flow(q)
        links = torch.unflatten(flow, 1, (self.links, 2))
        r_h, z_h, n_h = self.conv_h(warp(h, -links).flatten(1, 2)).chunk(3, dim=1)
        r = torch.sigmoid(r_x + r_h)
        z = torch.sigmoid(z_x + z_h)
        n = F.leaky_relu(n_x + r * n_h, 0.2)
        self.record_values(r=r, z=z, n=n, flow=flow)
        return GRUState((1 - z) * n + z * h)

    def extra_repr(self) -> str:
        """The options."""
        return f"links={self.links}, flow_dim={self.flow_dim}"
