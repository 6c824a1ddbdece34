"""ConvLSTM layers with a Transformer block at the coarsest level."""

from collections.abc import Sequence
from functools import partial

from convlstm.cells import SpaceTimeAttentionCell
from convlstm.models.encoder_forecaster import EncoderForecaster, remembering_lstm
from convlstm.models.options import check_list


class ConvLSTMTransformer(EncoderForecaster):
    """An `EncoderForecaster` with ConvLSTM cells for motion and a Transformer block at the coarsest level.

    The finer levels are recurrent convolutions, which follow what moves; at the coarsest level each frame
    attends within windows of space and each pixel to its own past (`SpaceTimeAttentionCell`), in the encoder
    and in the forecaster, which goes on from the encoder's keys and values. Any size, any number of steps;
    one frame at a time gives what a call gives. A design of this library, not of a paper.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each level, finest first; the last is a multiple of ``heads``.
        kernel_size: of the recurrent layers; one for all levels or one per level.
        heads, window, history: of the coarsest level, as for `SpaceTimeAttentionCell`.
        patch_size, skip, filter_radius, output, advection, zero_outside, extra_channels: as for
            `EncoderForecaster`.
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (64, 64),
        kernel_size: int | Sequence[int] = 3,
        heads: int = 4,
        window: int = 4,
        history: int = 8,
        *,
        patch_size: int = 2,
        skip: bool = True,
        filter_radius: int = 2,
        output: str = "linear",
        advection: bool = False,
        zero_outside: bool = False,
        extra_channels: int = 0,
    ) -> None:
        attention = partial(SpaceTimeAttentionCell, heads=heads, window=window, history=history)
        super().__init__(
            channels,
            hidden_dim,
            kernel_size,
            patch_size,
            skip,
            filter_radius,
            output,
            [*[remembering_lstm] * (len(check_list(hidden_dim, "hidden_dim")) - 1), attention],
            advection=advection,
            zero_outside=zero_outside,
            extra_channels=extra_channels,
        )
