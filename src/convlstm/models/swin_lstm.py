"""SwinLSTM: cells of Swin Transformer blocks at several resolutions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convlstm.cells.swin_lstm import SwinLSTMCell
from convlstm.errors import OptionError, check_name
from convlstm.layers import scan
from convlstm.layers.frames import map_frames
from convlstm.layers.norm import ChannelNorm
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.options import OUTPUTS, check_list
from convlstm.validation import check_non_negative, check_positive


class SwinLSTM(AutoregressiveForecaster):
    """Layers of `SwinLSTMCell` at one resolution after the other, down and up again.

    SwinLSTM (Tang et al. 2023, arXiv:2308.09891). Patches are embedded; on the way down each cell is followed
    by patch merging, which halves the resolution and doubles the channels, on the way up by patch expanding.
    By default the authors' deep variant as they train it on Moving MNIST, SwinLSTM-D; ``depths_up=()`` leaves
    out merging and the way up, and ``SwinLSTM(depths=(12,), depths_up=(), heads=(4,))`` is SwinLSTM-B. They
    train over all next frames with Adam at 1e-4 and feed forecasts back, with a stochastic depth of 0.1 that
    is left out here.

    Args:
        channels: C of the frames.
        hidden_dim: channels of the embedding.
        depths: blocks of the cells on the way down, finest first.
        depths_up: blocks of the cells on the way up, coarsest last, as many as depths; or none.
        heads: of the cells of each level, finest first.
        window: pixels along the side of a window.
        patch_size: pixels along the side of a patch.
        output: activation of the forecast: ``linear``, ``sigmoid`` or ``relu``.
        extra_channels: E, extra input channels that are known for the past and the future.

    Example:
        >>> import torch
        >>> model = SwinLSTM(hidden_dim=8, depths=[1, 2], depths_up=[2, 1], heads=[1, 2])
        >>> model(torch.rand(2, 4, 1, 18, 21), steps=3).shape
        torch.Size([2, 3, 1, 18, 21])
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: int = 128,
        depths: Sequence[int] = (2, 6),
        depths_up: Sequence[int] = (6, 2),
        heads: Sequence[int] = (4, 8),
        window: int = 4,
        patch_size: int = 2,
        output: str = "sigmoid",
        *,
        extra_channels: int = 0,
    ) -> None:
        super().__init__()
        self.channels = check_positive(channels, "channels")
        self.extra_channels = check_non_negative(extra_channels, "extra_channels")
        self.patch_size = check_positive(patch_size, "patch_size")
        self.output = check_name(output, OUTPUTS, "output")
        for name, per_level in (("depths", depths), ("depths_up", depths_up), ("heads", heads)):
            check_list(per_level, name)
        n, levels = check_positive(hidden_dim, "hidden_dim"), len(depths)
        if not levels or len(heads) != levels or len(depths_up) not in (0, levels):
            raise OptionError(
                f"depths, depths_up and heads must have one entry per level; received {list(depths)}, "
                f"{list(depths_up)} and {list(heads)}: give as many heads and depths_up as depths"
            )
        self.embed = nn.Sequential(
            nn.Conv2d(channels + extra_channels, n, patch_size, patch_size), ChannelNorm(n)
        )
        merges = bool(depths_up)
        self.size_multiple = patch_size * 2 ** (levels if merges else 0)
        widths = [n * 2**level if merges else n for level in range(levels + 1)]
        cell = partial(_cell, window=window)
        self.down = nn.ModuleList(map(cell, widths, depths, heads))
        self.merge = nn.ModuleList(map(PatchMerging, widths[:-1] if merges else []))
        # The last entries of depths_up and heads are those of the coarsest level.
        upwards = zip(widths[:0:-1], depths_up[::-1], heads[::-1], strict=False)
        self.up = nn.ModuleList(cell(*sizes) for sizes in upwards)
        self.expand = nn.ModuleList(map(PatchExpanding, widths[:0:-1] if merges else []))
        # The authors' kernel of 3, for patches of 2, would not reach all pixels of larger ones.
        kernel = max(3, patch_size + 1)
        beyond = patch_size + 2 - kernel
        self.head = nn.ConvTranspose2d(n, channels, kernel, patch_size, padding=1, output_padding=beyond)

    def start(self, past: Tensor) -> Any:
        """The cells' states after all frames of the past (B, K, C, H, W) but the last."""
        states = [None] * (len(self.down) + len(self.up))
        return self._read(past[:, :-1], states)[1] if past.shape[1] > 1 else states

    def observe(self, frame: Tensor, carry: Any) -> Any:
        """The cells' states after an observed frame (B, C, H, W)."""
        return self._read(frame.unsqueeze(1), carry)[1]

    def step(self, frame: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        features, carry = self._read(frame.unsqueeze(1), carry)
        return OUTPUTS[self.output](self.head(features[:, 0])), carry

    def _read(self, frames: Tensor, states: Sequence[Any]) -> tuple[Tensor, list[Any]]:
        """Features (B, T, hidden_dim, h, w) of frames (B, T, C, H, W), and the states after them."""
        x, new = map_frames(self.embed, frames), []
        resample = [*self.merge, *self.expand]
        for k, cell in enumerate([*self.down, *self.up]):
            x, state = scan(cell, x, states[k], any_layout=True)
            new.append(state)
            if resample:
                x = map_frames(resample[k], x)
        return x, new


def _cell(dim: int, depth: int, heads: int, *, window: int) -> SwinLSTMCell:
    return SwinLSTMCell(dim, dim, window, depth=depth, heads=heads)


class PatchMerging(nn.Module):
    """Four neighbouring pixels of (B, C, H, W) as one of twice the channels, (B, 2C, H/2, W/2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge; the order of the four is column by column."""
        x = x.movedim(1, -1)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        y: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return y.movedim(-1, 1)


class PatchExpanding(nn.Module):
    """A pixel of (B, C, H, W) as four of half the channels, (B, C/2, 2H, 2W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand, self.norm = nn.Linear(dim, 2 * dim, bias=False), nn.LayerNorm(dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Expand; the order of the four is row by row."""
        batch, _, height, width = x.shape
        four = self.expand(x.movedim(1, -1)).view(batch, height, width, 2, 2, -1)
        y: Tensor = self.norm(four.transpose(2, 3).reshape(batch, 2 * height, 2 * width, -1))
        return y.movedim(-1, 1)
