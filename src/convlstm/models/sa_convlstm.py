"""SA-ConvLSTM: layers of ConvLSTMs with a self-attention memory."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convlstm.cells import SAConvLSTMCell
from convlstm.errors import ShapeError
from convlstm.layers import ConvLSTM
from convlstm.models.base import Forecaster
from convlstm.models.options import check_widths
from convlstm.models.stacked import StackForecaster
from convlstm.validation import check_integers, check_positive, check_tensor


class SAConvLSTMForecaster(StackForecaster):
    """Layers of `SAConvLSTMCell` with a peephole weight per channel.

    SA-ConvLSTM (Lin et al. 2020, doi:10.1609/aaai.v34i07.6819). Every pixel attends to every other,
    so time and memory of a step grow with the square of the number of patches: take larger patches for larger
    frames. Sizes of the paper are not published. By default two layers of 64 and kernels of 3, as in the
    example of tsugumi-sys/SA-ConvLSTM-Pytorch; that one has queries of 2 channels, ReLU, a normalisation of
    the whole clip and no patches (`PublishedSAConvLSTM`).

    Args:
        channels: C of the frames.
        hidden_dim: channels of each layer.
        kernel_size: of the recurrent layers; one for all or one per layer.
        patch_size, output: as for `StackForecaster`.
        attention_dim: channels of queries and keys; a quarter of a layer's channels if None.
        bias, extra_channels, engine: as for `StackForecaster`.

    Example:
        >>> import torch
        >>> model = SAConvLSTMForecaster(hidden_dim=[4, 6])
        >>> model(torch.rand(2, 4, 1, 18, 20), steps=3).shape
        torch.Size([2, 3, 1, 18, 20])
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (64, 64),
        kernel_size: int | Sequence[int] = 3,
        patch_size: int = 4,
        output: str = "linear",
        attention_dim: int | None = None,
        *,
        bias: bool = True,
        extra_channels: int = 0,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            channels,
            hidden_dim,
            kernel_size,
            patch_size,
            output,
            partial(SAConvLSTMCell, attention_dim=attention_dim, peephole="channel"),
            bias=bias,
            extra_channels=extra_channels,
            engine=engine,
        )


class PublishedSAConvLSTM(Forecaster):
    """SA-ConvLSTM as tsugumi-sys/SA-ConvLSTM-Pytorch has it, for its weights: the next frame from a clip.

    After each layer of `SAConvLSTMCell` all frames of the clip are normalised together, with a weight for
    every pixel of each; a convolution over 3 frames of 3x3 pixels and a sigmoid follow. A clip and its frames
    have one size, and a forecast of several frames reads all of the clip again for each.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each layer.
        kernel_size: of the recurrent layers.
        attention_dim: channels of queries and keys.
        past: frames of the clip; of a longer past the last ones are read.
        image_size: rows and columns of the frames.
        activation: of the LSTMs, in place of tanh.
        peephole: False to leave out the peepholes, which the code drops on a GPU.
    """

    def __init__(
        self,
        channels: int,
        hidden_dim: Sequence[int],
        kernel_size: int,
        attention_dim: int,
        past: int,
        image_size: Sequence[int],
        activation: str = "relu",
        *,
        peephole: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.past = check_positive(channels, "channels"), check_positive(past, "past")
        hidden, self.image_size = check_widths(hidden_dim), check_integers(image_size, 2, "image_size")
        pixels: dict[str, Any] = {"peephole": "pixel", "image_size": self.image_size} if peephole else {}
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in zip([channels, *hidden], hidden, strict=False):
            cell = partial(
                SAConvLSTMCell,
                attention_dim=attention_dim,
                mix_dim=2 * outputs,
                candidate_activation=activation,
                output_activation=activation,
                **pixels,
            )
            self.layers.append(ConvLSTM(inputs, outputs, kernel_size, batch_first=True, cell=cell))
            self.norms.append(nn.LayerNorm([outputs, self.past, *self.image_size]))
        self.head = nn.Conv3d(hidden[-1], self.channels, 3, padding=1)

    def forward(self, past: Tensor, steps: int) -> Tensor:
        """Forecast (B, steps, C, H, W) from (B, K, C, H, W), K at least that of the clip."""
        check_positive(steps, "steps")
        expected = (self.channels, *self.image_size)
        if check_tensor(past, "past").ndim != 5 or past.shape[1] < self.past or past.shape[2:] != expected:
            raise ShapeError(
                f"past must be (B, {self.past} or more, {', '.join(map(str, expected))}), as the weights are "
                f"tied to the clips of their training; received {tuple(past.shape)}: give such frames"
            )
        frames = list(past[:, -self.past :].unbind(1))
        for _ in range(steps):
            clip = torch.stack(frames[-self.past :], dim=1)
            for layer, norm in zip(self.layers, self.norms, strict=True):
                clip = norm(layer(clip)[0][-1].transpose(1, 2)).transpose(1, 2)
            frames.append(torch.sigmoid(self.head(clip.transpose(1, 2))[:, :, -1]))
        return torch.stack(frames[self.past :], dim=1).to(past.dtype)  # under autocast they have 16 bits
