"""SA-ConvLSTM: layers of ConvLSTMs with a self-attention memory."""

from collections.abc import Sequence
from functools import partial

from convlstm.cells import SAConvLSTMCell
from convlstm.models.stacked import StackForecaster


class SAConvLSTMForecaster(StackForecaster):
    """Layers of `SAConvLSTMCell` with a peephole weight per channel.

    SA-ConvLSTM (Lin et al. 2020, doi:10.1609/aaai.v34i07.6819). Every pixel attends to every other,
    so time and memory of a step grow with the square of the number of patches: take larger patches for larger
    frames. By default two layers of 64 and kernels of 3, as in the public code
    tsugumi-sys/SA-ConvLSTM-Pytorch, on patches of 4.

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
