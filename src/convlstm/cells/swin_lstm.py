"""The LSTM of Swin Transformer blocks."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells.base import Cell
from convlstm.cells.convlstm import LSTMState
from convlstm.cells.convolutions import same_convolution
from convlstm.cells.recordable import Recordable
from convlstm.errors import OptionError
from convlstm.functional.attention import attend_in_windows, from_windows, to_windows, window_maps
from convlstm.validation import check_positive

_CHANNELS_PER_HEAD = 32
_MLP_RATIO = 4


class SwinLSTMCell(Cell):
    """One step of a SwinLSTM (Tang et al. 2023, arXiv:2308.09891, equations 1 to 5): one gate, by attention.

    A chain of ``depth`` Swin Transformer blocks (Liu et al. 2021, arXiv:2103.14030) sees the frame and the
    state; blocks 1, 3, ... have shifted windows. With R a linear map of two vectors of a pixel to one, LN
    layer normalisation of each pixel's channels and A attention within windows with a bias by relative
    position::

        z_0 = block_0(x, h)
        z_k = block_k(z_{k-1}, x)       k even
        z_k = block_k(z_{k-1})          k odd
        f   = sigmoid(z)
        c'  = f (c + tanh(z))
        h'  = f tanh(c')

        block(y, u): y = y + A(R [LN y, LN u])  or, alone,  y = y + A(LN y);   y + MLP(LN y)

    Frames of any size are padded to whole windows, and no pixel attends to the padding; windows are not
    shifted where one is as wide or as high as the frame. As in the authors' code; their stochastic depth is
    left out. There x has the channels of h; an x of other channels first passes through a 1x1 convolution.
    Two space axes only.

    Args:
        input_dim: channels of the input.
        hidden_dim: channels of h and c.
        kernel_size: pixels along the side of a window, a square; 4 is published.
        bias: True to give queries, keys and values a bias.
        depth: blocks.
        heads: of the attention; one per 32 channels if None.

    Example:
        >>> import torch
        >>> h, c = SwinLSTMCell(8, 8, 4, heads=2)(torch.zeros(2, 8, 10, 14))
        >>> h.shape
        torch.Size([2, 8, 10, 14])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        kernel_size: int | tuple[int, ...],
        bias: bool = True,
        *,
        depth: int = 2,
        heads: int | None = None,
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size)
        n, window = self.hidden_dim, self.kernel_size
        if len(window) != 2 or window[0] != window[1]:
            raise OptionError(
                f"a SwinLSTMCell must have square windows on two space axes; received kernel_size={window}: "
                "give one integer"
            )
        self.heads = check_positive(max(1, n // _CHANNELS_PER_HEAD) if heads is None else heads, "heads")
        if n % self.heads:
            raise OptionError(
                f"hidden_dim must be a multiple of heads={self.heads}; received {n}: give another heads"
            )
        self.depth = check_positive(depth, "depth")
        self.embed = nn.Identity() if self.input_dim == n else same_convolution(self.input_dim, n, (1, 1))
        self.blocks: Any = nn.ModuleList(
            SwinBlock(n, window[0], self.heads, k % 2 * (window[0] // 2), k % 2 == 0, bias)
            for k in range(self.depth)
        )

    def initial_state(self, x: Tensor) -> LSTMState:
        """Zeros, (B, hidden_dim, H, W)."""
        zeros = x.new_zeros(x.shape[0], self.hidden_dim, *x.shape[2:])
        return LSTMState(zeros, zeros.clone())

    def project(self, x: Tensor) -> Tensor:
        """The frame in the channels of the state, (N, hidden_dim, H, W)."""
        frame: Tensor = self.embed(x)
        return frame

    def step(self, p: Tensor, state: Any) -> LSTMState:
        """The new state, (B, hidden_dim, H, W)."""
        h, c = state
        x_BHWC, h_BHWC = p.movedim(1, -1), h.movedim(1, -1)
        first, *others = self.blocks
        z_BHWC = first(x_BHWC, h_BHWC)
        for block in others:
            z_BHWC = block(z_BHWC, x_BHWC)
        z = z_BHWC.movedim(-1, 1)
        f, g = torch.sigmoid(z), torch.tanh(z)
        self.record_values(f=f, g=g)
        c = f * (c + g)
        return LSTMState(f * torch.tanh(c), c)

    def extra_repr(self) -> str:
        """The options."""
        return f"depth={self.depth}, heads={self.heads}"


class SwinBlock(Recordable):
    """A Swin Transformer block of frames (B, H, W, C), of one or two inputs.

    Args:
        dim: C.
        window: pixels along the side of a window.
        heads: of the attention.
        shift: pixels that windows are shifted by.
        reads_two: True to read a second input.
        bias: True to give queries, keys and values a bias.
    """

    def __init__(self, dim: int, window: int, heads: int, shift: int, reads_two: bool, bias: bool) -> None:
        super().__init__()
        self.window, self.heads, self.shift = window, heads, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.red = nn.Linear(2 * dim, dim) if reads_two else None
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias), nn.Linear(dim, dim)
        self.position_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.fc1, self.fc2 = nn.Linear(dim, _MLP_RATIO * dim), nn.Linear(_MLP_RATIO * dim, dim)

    def forward(self, y_BHWC: Tensor, u_BHWC: Tensor) -> Tensor:
        """The block of an input, and of a second one if it reads two."""
        x = self.norm1(y_BHWC)
        if self.red is not None:
            both = torch.cat([x, self.norm1(u_BHWC)], dim=-1)
            x = self.red(both.flatten(0, 2)).view_as(x)
        y_BHWC = y_BHWC + self._attended(x)
        z = self.fc2(F.gelu(self.fc1(self.norm2(y_BHWC).flatten(0, 2))))
        y: Tensor = y_BHWC + z.view_as(y_BHWC)
        return y

    def _attended(self, x_BHWC: Tensor) -> Tensor:
        """Attention within windows, (B, H, W, C)."""
        size = x_BHWC.shape[1:3]
        shift = self.shift if min(size) > self.window else 0
        maps = partial(window_maps, window=self.window, shift=shift, size=size)
        windows = to_windows(x_BHWC, self.window, shift)
        qkv: Tensor = self.qkv(windows.reshape(-1, windows.shape[-1]))
        found = attend_in_windows(
            qkv.view(*windows.shape[:-1], -1),
            size,
            heads=self.heads,
            shift=shift,
            bias=self._bias(),
            record=lambda weights: self.record_values(attention=(weights, maps)),
        )
        return from_windows(self.proj(found.flatten(0, 4)).view_as(windows), size, shift)

    def _bias(self) -> Tensor:
        """Bias of each query (row by row of the window) for each key, (heads, window^2, window^2).

        That of a query at (i, j) for a key at (k, l) is row i - k, column j - l of the table.
        """
        side = self.window
        table = self.position_bias.view(2 * side - 1, 2 * side - 1, -1)
        bias_ijHkl = table.unfold(0, side, 1).unfold(1, side, 1).flip(-2, -1)
        return bias_ijHkl.permute(2, 0, 1, 3, 4).reshape(-1, side**2, side**2)
