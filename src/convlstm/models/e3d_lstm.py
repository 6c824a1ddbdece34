"""E3D-LSTM: eidetic LSTMs over short clips."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells import Cell, E3DLSTMCell
from convlstm.layers import ConvLSTM
from convlstm.layers.frames import map_frames
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.options import equal_widths
from convlstm.validation import check_callable, check_non_negative, check_positive


class E3DLSTM(AutoregressiveForecaster):
    """Layers of `E3DLSTMCell` over the last frames, stacked on an axis of depth (Wang et al. 2019, ICLR).

    Each step reads a clip of ``window`` frames, (B, C, window, H, W), with zeros before the first frame; a
    convolution over the depth of the last layer's output gives the next frame.

    By default as OpenSTL trains it on Moving MNIST: four layers of 128, kernels of 2 x 5 x 5 over windows of
    two frames, patches of 4, no biases, a history that holds all steps of 10 frames after 10; but for the
    convolutions' border along the window, which OpenSTL leaves out (`E3DLSTMCell`). It trains with scheduled
    sampling over all next frames, squared and absolute error, Adam at 1e-4. The memory that this
    takes grows with the history: make it smaller for large frames.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each layer, all equal.
        kernel_size: of the recurrent layers over height and width; over depth it is ``window``.
        patch_size: pixels along the side of a patch, whose pixels become channels; 1 for none. Frames of
            other sizes are padded by repeating the border, and forecasts cropped.
        window: frames that a step reads.
        history: cell states that each layer recalls.
        cell: of the layers, called with ``history`` too.
        bias: True to give gates and the last convolution a bias.
        extra_channels: E, extra input channels that are known for the past and the future.
        engine: of the layers, as for `convlstm.ConvLSTM`.

    Example:
        >>> import torch
        >>> model = E3DLSTM(hidden_dim=[8, 8], history=3)
        >>> model(torch.rand(2, 4, 1, 30, 32), steps=3).shape
        torch.Size([2, 3, 1, 30, 32])
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (128, 128, 128, 128),
        kernel_size: int = 5,
        patch_size: int = 4,
        window: int = 2,
        history: int = 20,
        *,
        cell: Callable[..., Cell] = E3DLSTMCell,
        bias: bool = False,
        extra_channels: int = 0,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.channels = check_positive(channels, "channels")
        self.extra_channels = check_non_negative(extra_channels, "extra_channels")
        self.patch_size = self.size_multiple = check_positive(patch_size, "patch_size")
        self.window = check_positive(window, "window")
        pixels = self.patch_size**2
        self.layers = ConvLSTM(
            (self.channels + self.extra_channels) * pixels,
            equal_widths(hidden_dim),
            (self.window, kernel_size, kernel_size),
            batch_first=True,
            bias=bias,
            cell=partial(check_callable(cell, "cell"), history=history),
            engine=engine,
        )
        depth = (self.window, 1, 1)
        self.head = nn.Conv3d(self.layers.hidden_dim[-1], self.channels * pixels, depth, bias=bias)

    def start(self, past: Tensor) -> Any:
        """The last ``window - 1`` frames in patches and the layers' states, before the newest frame."""
        patches = map_frames(lambda x: F.pixel_unshuffle(x, self.patch_size), past)
        before = patches.new_zeros(len(patches), self.window - 1, *patches.shape[2:])
        patches = torch.cat([before, patches[:, :-1]], dim=1)
        last = patches[:, patches.shape[1] - self.window + 1 :]
        if past.shape[1] == 1:
            return last, None
        clips = patches.unfold(1, self.window, 1).movedim(-1, 3)
        return last, self.layers(clips)[1]

    def step(self, frame: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        output, carry = self._read(frame, carry)
        return F.pixel_shuffle(self.head(output).squeeze(2), self.patch_size), carry

    def observe(self, frame: Tensor, carry: Any) -> Any:
        """The carry after an observed frame (B, C, H, W)."""
        return self._read(frame, carry)[1]

    def _read(self, frame: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """The last layer's output (B, hidden_dim, window, h, w) for the clip that ends with a frame."""
        last, states = carry
        clip = torch.cat([last, F.pixel_unshuffle(frame, self.patch_size).unsqueeze(1)], dim=1)
        output, states = self.layers.step(clip.transpose(1, 2), states)
        return output, (clip[:, 1:], states)
