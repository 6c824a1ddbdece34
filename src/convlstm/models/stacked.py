"""A forecaster of one stack of recurrent layers at one resolution."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells import CellFactory, ConvLSTMCell
from convlstm.errors import check_name
from convlstm.layers import ConvLSTM
from convlstm.layers.frames import map_frames
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.options import OUTPUTS, check_list, check_widths
from convlstm.validation import check_non_negative, check_positive


class StackForecaster(AutoregressiveForecaster):
    """Recurrent layers one above the other, from which a 1x1 convolution reads the next frame.

    The structure that PredRNN and its successors share (Wang et al. 2017, NeurIPS 30): frames are cut into
    patches, whose pixels become channels; each layer has a cell, the last layer's output gives the next
    frame.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each layer, lowest first.
        kernel_size: of the recurrent layers; one for all or one per layer.
        patch_size: pixels along the side of a patch; 1 for none. Frames of other sizes are padded by
            repeating the border, and forecasts cropped.
        output: activation of the last convolution: ``linear``, ``sigmoid`` or ``relu``.
        cell: cell of the layers, called with (input_dim, hidden_dim, kernel_size, bias), or one per layer.
        bias: True to give gates and the last convolution a bias.
        extra_channels: E, extra input channels that are known for the past and the future.
        engine: of the layers, as for `convlstm.ConvLSTM`.

    Example:
        >>> import torch
        >>> from convlstm.cells import STLSTMCell
        >>> model = StackForecaster(hidden_dim=[8, 8], cell=STLSTMCell)
        >>> model(torch.rand(2, 10, 1, 50, 60), steps=3).shape
        torch.Size([2, 3, 1, 50, 60])
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (64, 64),
        kernel_size: int | Sequence[int] = 3,
        patch_size: int = 4,
        output: str = "linear",
        cell: CellFactory | Sequence[CellFactory] = ConvLSTMCell,
        *,
        bias: bool = True,
        extra_channels: int = 0,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.channels = check_positive(channels, "channels")
        self.extra_channels = check_non_negative(extra_channels, "extra_channels")
        self.patch_size = self.size_multiple = check_positive(patch_size, "patch_size")
        self.output = check_name(output, OUTPUTS, "output")
        kernels: Any = kernel_size
        if not isinstance(kernel_size, int):
            kernels = [(k, k) for k in check_list(kernel_size, "kernel_size")]
        pixels = patch_size**2
        self.layers = ConvLSTM(
            (channels + extra_channels) * pixels,
            check_widths(hidden_dim),
            kernels,
            batch_first=True,
            bias=bias,
            cell=cell,
            engine=engine,
        )
        self.head = nn.Conv2d(hidden_dim[-1], channels * pixels, 1, bias=bias)

    def start(self, past: Tensor) -> Any:
        """The layers' states after all frames of the past (B, K, C, H, W) but the last."""
        return self.layers(self.patches(past[:, :-1]))[1] if past.shape[1] > 1 else None

    def step(self, frame: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        output, carry = self.layers.step(F.pixel_unshuffle(frame, self.patch_size), carry)
        return self.read_out(output), carry

    def observe(self, frame: Tensor, carry: Any) -> Any:
        """The layers' states after an observed frame (B, C, H, W)."""
        return self.layers.step(F.pixel_unshuffle(frame, self.patch_size), carry)[1]

    def patches(self, frames: Tensor) -> Tensor:
        """Frames (B, T, C, H, W) cut into patches, whose pixels become channels."""
        return map_frames(lambda x: F.pixel_unshuffle(x, self.patch_size), frames)

    def read_out(self, output: Tensor) -> Tensor:
        """The frame (B, C, H, W) that the last layer's output (B, hidden_dim, h, w) stands for."""
        return OUTPUTS[self.output](F.pixel_shuffle(self.head(output), self.patch_size))
