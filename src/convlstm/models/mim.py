"""MIM: layers of memories in memories above a spatiotemporal LSTM."""

from collections.abc import Sequence

from convlstm.cells import MIMCell, STLSTMCell
from convlstm.models.options import equal_widths
from convlstm.models.stacked import StackForecaster


class MIM(StackForecaster):
    """A layer of `STLSTMCell` and above it layers of `MIMCell` (Wang et al. 2019, arXiv:1811.07490).

    By default as OpenSTL trains it on Moving MNIST: four layers of 128, kernels of 5, patches of 4, no
    biases. It trains with scheduled sampling over all next frames, Adam at 5e-4.

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
        hidden_dim = equal_widths(hidden_dim)
        super().__init__(
            channels,
            hidden_dim,
            kernel_size,
            patch_size,
            output,
            [STLSTMCell] + [MIMCell] * (len(hidden_dim) - 1),
            bias=bias,
            extra_channels=extra_channels,
            engine=engine,
        )
