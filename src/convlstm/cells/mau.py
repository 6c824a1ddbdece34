"""The motion-aware unit."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convlstm.cells.base import Cell, register_state
from convlstm.cells.convolutions import same_convolution
from convlstm.cells.group_norm import GroupNorm
from convlstm.validation import autocast, check_positive


class MAUState(NamedTuple):
    """State of `MAUCell`.

    Attributes:
        h: the output, which is the spatial state for the layer above, (B, hidden_dim, *S).
        t: the temporal states of the last ``tau`` steps, oldest first, (B, tau, hidden_dim, *S).
        s: the inputs of these steps, which are the spatial states from below, (B, tau, input_dim, *S).
    """

    h: Tensor
    t: Tensor
    s: Tensor


register_state(MAUState, "convlstm.cells")


class MAUCell(Cell):
    """One step of a motion-aware unit (Chang et al. 2021, NeurIPS 34, equations 1 to 6).

    The input S is the spatial state of the layer below. A temporal state T, which remembers, and the spatial
    state, which rises through the layers, exchange what they know. With N the layer normalisation, LN, of a
    convolution with bias, d the number of elements of S, and j = 1 ... tau the steps before::

        a_j    = softmax_j(<S_(t-j), N_q(S)> / sqrt(d))
        trend  = sum_j a_j T_(t-j)
        u      = sigmoid(N_u(T_(t-1)))
        fused  = u T_(t-1) + (1 - u) trend
        g, t_t, t_s  = N_t(fused)
        g', s_t, s_s = N_s(S)
        T_t = sigmoid(g) t_t + (1 - sigmoid(g)) s_t
        h   = sigmoid(g') s_s + (1 - sigmoid(g')) t_s

    Before the first step T and S are zero. The authors' code has normalisations with a weight for every
    pixel, which tie it to one size of frames. Here they have one per channel (group normalisation with one
    group): the same statistics, and the same numbers where a channel's weights are equal.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of the output and of T.
        kernel_size: one odd integer per space axis, of all convolutions.
        bias: True to give the convolutions a bias.
        tau: steps that the attention looks back; with 1 there is no choice, and N_q and N_u have no effect.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> layers = ConvLSTM(1, 8, 5, 2, batch_first=True, cell=MAUCell)
        >>> layers(torch.rand(2, 6, 1, 16, 16))[0][0].shape
        torch.Size([2, 6, 8, 16, 16])
    """

    reads_output = False

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        tau: int = 5,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        self.tau = check_positive(tau, "tau")
        kernel, n = self.kernel_size, self.hidden_dim

        def normalised(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(same_convolution(inputs, outputs, kernel, bias), GroupNorm(1, outputs))

        self.conv_t = normalised(n, 3 * n)
        self.conv_t_next = normalised(n, n)
        self.conv_s = normalised(self.input_dim, 3 * n)
        self.conv_s_next = normalised(self.input_dim, self.input_dim)

    def initial_state(self, x: Tensor) -> MAUState:
        """Zeros."""
        h = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        t = x.new_zeros(x.shape[0], self.tau, self.hidden_dim, *x.shape[2:])
        return MAUState(h, t, x.new_zeros(x.shape[0], self.tau, self.input_dim, *x.shape[2:]))

    def project(self, x: Tensor) -> Tensor:
        """The input S, the query N_q(S) and N_s(S), (N, 2 input_dim + 3 hidden_dim, *S)."""
        return torch.cat([x, self.conv_s_next(x), self.conv_s(x)], dim=1)

    def step(self, p: Tensor, state: Any) -> MAUState:
        """The new output, and the histories with this step's T and S in place of the oldest ones."""
        n, m = self.hidden_dim, self.input_dim
        x, query, g_s, s_t, s_s = torch.split(p, [m, m, n, n, n], dim=1)
        s_before, t_before = state.s.unbind(1), state.t.unbind(1)
        before = t_before[-1]
        # Autocast would copy both histories to 16 bits at every step, which takes longer than the products.
        with torch.autocast(p.device.type, enabled=False) if autocast(p) else nullcontext():
            query_BD1 = query.to(state.s.dtype).flatten(1).unsqueeze(2)
            scores_BJ1 = state.s.flatten(2) @ query_BD1 * query_BD1.shape[1] ** -0.5
            weights_B1J = torch.softmax(scores_BJ1, dim=1).transpose(1, 2)
            trend = (weights_B1J @ state.t.flatten(2)).view_as(before)
        u = torch.sigmoid(self.conv_t_next(before))
        g_t, t_t, t_s = self.conv_t(trend + u * (before - trend)).chunk(3, dim=1)
        g_t, g_s = torch.sigmoid(g_t), torch.sigmoid(g_s)
        attention = (weights_B1J, lambda w: w.reshape(*w.shape[::2], *(1,) * (before.ndim - 2)))
        self.record_values(attention=attention, u=u, g_t=g_t, g_s=g_s)
        t = s_t + g_t * (t_t - s_t)
        h = t_s + g_s * (s_s - t_s)
        return MAUState(h, _history(t_before, t), _history(s_before, x))

    def extra_repr(self) -> str:
        """The options."""
        return f"tau={self.tau}"


def _history(before: Sequence[Tensor], newest: Tensor) -> Tensor:
    """The history (B, tau, C, *S) without its oldest entry and with a new one at its end."""
    return torch.stack([*before[1:], newest.to(before[0].dtype)], dim=1)
