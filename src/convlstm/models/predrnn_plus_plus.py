"""PredRNN++: layers of causal LSTMs with a gradient highway."""

from collections.abc import Sequence
from functools import partial

from convlstm.cells import CausalLSTMCell, GHUCell
from convlstm.models.options import equal_widths
from convlstm.models.stacked import StackForecaster


class PredRNNPlusPlus(StackForecaster):
    """Layers of `CausalLSTMCell`, a `GHUCell` above the lowest (Wang et al. 2018, arXiv:1804.06300).

    By default as OpenSTL has it for Moving MNIST: four layers of 128, kernels of 5, patches of 4, no biases;
    trained with scheduled sampling over all next frames, Adam at 1e-4.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each causal LSTM, all equal; the gradient highway, a layer more, has as many.
        kernel_size: of the recurrent layers.
        patch_size, output, bias, extra_channels, engine: as for `StackForecaster`.
        published_bug: of the cells, for weights of earlier versions of OpenSTL; see `CausalLSTMCell`.
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
        published_bug: str | None = None,
    ) -> None:
        lowest, *others = equal_widths(hidden_dim)
        causal = partial(CausalLSTMCell, published_bug=published_bug)
        super().__init__(
            channels,
            [lowest, lowest, *others],
            kernel_size,
            patch_size,
            output,
            [causal, GHUCell, *[causal] * len(others)],
            bias=bias,
            extra_channels=extra_channels,
            engine=engine,
        )
