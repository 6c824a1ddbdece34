"""PredRNN: layers of spatiotemporal LSTMs."""

from collections.abc import Sequence

from convlstm.cells import STLSTMCell
from convlstm.models.options import equal_widths
from convlstm.models.stacked import StackForecaster


class PredRNN(StackForecaster):
    """Layers of `STLSTMCell`, whose memory rises through them and returns to the lowest.

    PredRNN (Wang et al. 2017, NeurIPS 30).

    By default as the authors train it on Moving MNIST: four layers of 128, kernels of 5, patches of 4, no
    biases. They train with scheduled sampling over all next frames, Adam at 3e-4.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each layer, all equal.
        kernel_size: of the recurrent layers.
        patch_size, output, bias, extra_channels, engine: as for `StackForecaster`.
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (128, 128, 128, 128),
        kernel_size: int = 5,
        patch_size: int = 4,
        output: str = "linear",
        *,
        bias: bool = False,
        extra_channels: int = 0,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            channels,
            equal_widths(hidden_dim),
            kernel_size,
            patch_size,
            output,
            STLSTMCell,
            bias=bias,
            extra_channels=extra_channels,
            engine=engine,
        )
