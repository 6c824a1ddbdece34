"""A Transformer block as a recurrence: attention over space within a frame, over time for each pixel."""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells.base import Cell, register_state
from convlstm.cells.convolutions import same_convolution
from convlstm.errors import OptionError
from convlstm.functional.attention import window_attention, window_maps
from convlstm.validation import check_positive


class AttentionState(NamedTuple):
    """State of `SpaceTimeAttentionCell`.

    Attributes:
        h: output, (B, hidden_dim, H, W).
        keys: of the last frames, oldest first, (B, history, hidden_dim, H, W); zeros before the first frame.
        values: likewise.
    """

    h: Tensor
    keys: Tensor
    values: Tensor


register_state(AttentionState, "convlstm.cells")


class SpaceTimeAttentionCell(Cell):
    """One frame of a Transformer block with windowed attention over space and causal attention over time.

    Attention is divided over space and time (Bertasius et al. 2021, arXiv:2102.05095): within windows of a
    frame (Liu et al. 2021, arXiv:2103.14030), then for each pixel over its own past. Keys and values of the
    last frames are the state, so that one frame at a time gives what a whole sequence gives. With ``*`` a
    convolution, LN a normalisation over channels, a the age of a frame, 0 for the present one, d the channels
    of a head and b a learned number for each head and age::

        u  = W * x
        u  = u + W_s attention within windows(LN u)
        q  = W_q [LN u, h]         k, v = W_kv LN u
        z  = sum_a softmax_a(q k_a / sqrt(d) + b_a) v_a         a = 0, ..., history
        y  = u + W_z z
        h' = y + W_2 gelu(W_1 LN y)

    Places of the history before the first frame hold zeros: their value is zero, and their score b_a alone.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of the output, a multiple of ``heads``.
        kernel_size: of W, two integers or one.
        bias: True to give W a bias.
        heads: of both kinds of attention.
        window: pixels along the side of a window.
        history: frames that attention over time reaches back.

    Example:
        >>> import torch
        >>> from convlstm import ConvLSTM
        >>> layers = ConvLSTM(1, 8, 3, 2, batch_first=True, cell=SpaceTimeAttentionCell)
        >>> layers(torch.zeros(2, 6, 1, 16, 20))[0][0].shape
        torch.Size([2, 6, 8, 16, 20])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        heads: int = 1,
        window: int = 4,
        history: int = 8,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        n = self.hidden_dim
        if len(self.kernel_size) != 2:
            raise OptionError(
                f"windows have two space axes; received kernel_size={kernel_size}: give two integers"
            )
        self.heads, self.window = check_positive(heads, "heads"), check_positive(window, "window")
        self.history = check_positive(history, "history")
        if n % heads:
            raise OptionError(
                f"hidden_dim must be a multiple of heads={heads}; received {n}: use {n - n % heads + heads}"
            )
        self.conv = same_convolution(self.input_dim, n, self.kernel_size, bias)
        self.norms = nn.ModuleList(nn.LayerNorm(n) for _ in range(3))
        self.space, self.space_out = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.time, self.time_h, self.time_out = nn.Linear(n, 3 * n), nn.Linear(n, n), nn.Linear(n, n)
        self.age_bias = nn.Parameter(torch.zeros(heads, self.history + 1))
        self.up, self.down = nn.Linear(n, 2 * n), nn.Linear(2 * n, n)

    def initial_state(self, x: Tensor) -> AttentionState:
        """Zeros."""
        h = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        past = h.new_zeros(h.shape[0], self.history, *h.shape[1:])
        return AttentionState(h, past, past.clone())

    def project(self, x: Tensor) -> Tensor:
        """Attention over space, and queries, keys and values of the frame, (N, 4 hidden_dim, H, W)."""
        u = self.conv(x)
        qkv = _pixelwise(self.space, _pixelwise(self.norms[0], u))
        maps = partial(window_maps, window=self.window, shift=0, size=x.shape[2:])
        seen = window_attention(
            qkv,
            self.window,
            heads=self.heads,
            record=lambda weights: self.record_values(attention_space=(weights, maps)),
        )
        u = u + _pixelwise(self.space_out, seen)
        return torch.cat([u, _pixelwise(self.time, _pixelwise(self.norms[1], u))], dim=1)

    def step(self, p: Tensor, state: Any) -> AttentionState:
        """Attention over time, and the perceptron of each pixel."""
        u, query, key, value = p.chunk(4, dim=1)
        query = query + _pixelwise(self.time_h, state.h)
        keys, values = (
            torch.cat([past, new.unsqueeze(1)], dim=1)
            for past, new in ((state.keys, key), (state.values, value))
        )
        heads = (self.heads, -1)
        scores_BAhHW = torch.unflatten(query.unsqueeze(1) * keys, 2, heads).sum(3)
        scores_BAhHW = scores_BAhHW * (self.hidden_dim // self.heads) ** -0.5
        scores_BAhHW = scores_BAhHW + self.age_bias.t()[..., None, None]
        weights_BAhHW = torch.softmax(scores_BAhHW, dim=1)
        self.record_values(attention_time=(weights_BAhHW, lambda weights: weights.flatten(1, 2)))
        z = (weights_BAhHW.unsqueeze(3) * torch.unflatten(values, 2, heads)).sum(1).flatten(1, 2)
        y = u + _pixelwise(self.time_out, z)
        h = y + _pixelwise(self.down, F.gelu(_pixelwise(self.up, _pixelwise(self.norms[2], y))))
        return AttentionState(h, keys[:, 1:], values[:, 1:])

    def extra_repr(self) -> str:
        """The options."""
        return f"heads={self.heads}, window={self.window}, history={self.history}"


def _pixelwise(module: nn.Module, x: Tensor) -> Tensor:
    """A module over channels, applied to every pixel of (N, C, H, W)."""
    y: Tensor = module(x.movedim(1, -1))
    return y.movedim(-1, 1)
