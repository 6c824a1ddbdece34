"""MAU: motion-aware units between strided convolutions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells import Cell, MAUCell
from convlstm.errors import OptionError
from convlstm.layers import ConvLSTM
from convlstm.layers.frames import map_frames
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.options import check_widths
from convlstm.validation import check_bool, check_callable, check_integer, check_non_negative, check_positive


class MAU(AutoregressiveForecaster):
    """Layers of `MAUCell` between strided convolutions (Chang et al. 2021, NeurIPS 34).

    By default as the authors train it on Moving MNIST: frames at a quarter of their size, four layers of 64,
    kernels of 5, attention over five steps. They train with scheduled sampling over all next frames, Adam at
    1e-3.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each layer, lowest first; the encoder has those of the first layer, the
            decoder those of the last.
        kernel_size: of the recurrent layers.
        levels: number of convolutions that halve the frames, and of transposed ones that double them. Frames
            of other sizes than multiples of 2^levels are padded by repeating the border, and forecasts
            cropped.
        tau: steps that the attention of the cells looks back.
        recall: True to add the encoder's maps to the decoder's of the same size (the paper's information
            recalling scheme); first and last layer then have the same channels.
        cell: of the layers, called with ``tau`` too.
        extra_channels: E, extra input channels that are known for the past and the future.
        engine: of the layers, as for `convlstm.ConvLSTM`.

    Raises:
        OptionError: an option out of its range; ``recall`` with layers that do not fit.

    Example:
        >>> import torch
        >>> MAU(hidden_dim=[8, 8])(torch.rand(2, 10, 1, 50, 60), steps=3).shape
        torch.Size([2, 3, 1, 50, 60])
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (64, 64, 64, 64),
        kernel_size: int = 5,
        levels: int = 2,
        tau: int = 5,
        *,
        recall: bool = False,
        cell: Callable[..., Cell] = MAUCell,
        extra_channels: int = 0,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.channels = check_positive(channels, "channels")
        self.extra_channels = check_non_negative(extra_channels, "extra_channels")
        self.levels = check_integer(levels, "levels", least=0, most=16)
        self.size_multiple = 2**self.levels
        self.recall = check_bool(recall, "recall")
        hidden, unit = check_widths(hidden_dim), partial(check_callable(cell, "cell"), tau=tau)
        self.layers = ConvLSTM(hidden[0], hidden, kernel_size, batch_first=True, cell=unit, engine=engine)
        first, last = self.layers.hidden_dim[0], self.layers.hidden_dim[-1]
        if self.recall and first != last:
            raise OptionError(
                f"recall needs a first and a last layer of the same hidden_dim; received {first} and {last}: "
                "give equal ones, or recall=False"
            )
        enter = nn.Conv2d(self.channels + self.extra_channels, first, 1)
        down = [nn.Conv2d(first, first, 3, stride=2, padding=1) for _ in range(self.levels)]
        self.encoder = nn.ModuleList(nn.Sequential(conv, nn.LeakyReLU(0.2)) for conv in [enter, *down])
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(last, last, 3, stride=2, padding=1, output_padding=1)
            for _ in range(self.levels)
        )
        self.head = nn.Conv2d(last, self.channels, 1)

    def start(self, past: Tensor) -> Any:
        """The layers' states after all frames of the past (B, K, C, H, W) but the last."""
        if past.shape[1] == 1:
            return None
        return self.layers(map_frames(lambda x: self.encode(x)[-1], past[:, :-1]))[1]

    def step(self, frame: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        maps = self.encode(frame)
        output, carry = self.layers.step(maps[-1], carry)
        return self.decode(output, maps), carry

    def observe(self, frame: Tensor, carry: Any) -> Any:
        """The layers' states after an observed frame (B, C, H, W)."""
        return self.layers.step(self.encode(frame)[-1], carry)[1]

    def encode(self, frame: Tensor) -> list[Tensor]:
        """The encoder's maps of frames (N, C, H, W), finest first."""
        maps = [frame]
        for conv in self.encoder:
            maps.append(conv(maps[-1]))
        return maps[1:]

    def decode(self, output: Tensor, maps: list[Tensor]) -> Tensor:
        """The frame (B, C, H, W) from the last layer's output and the encoder's maps."""
        for level, conv in enumerate(self.decoder):
            output = conv(output)
            if level + 1 < self.levels:
                output = F.leaky_relu(output, 0.2)
            if self.recall:
                output = output + maps[-2 - level]
        frame: Tensor = self.head(output)
        return frame
