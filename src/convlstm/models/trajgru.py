"""TrajGRU: an encoder-forecaster of trajectory GRUs."""

from collections.abc import Sequence
from functools import partial

from convlstm.cells.trajgru import TrajGRUCell
from convlstm.models.encoder_forecaster import EncoderForecaster
from convlstm.validation import check_positive


class TrajGRUForecaster(EncoderForecaster):
    """Encoder and forecaster of `TrajGRUCell` at several resolutions (Shi et al. 2017, arXiv:1706.03458).

    By default as the authors train it on MovingMNIST++: levels of 64, 96 and 96 channels at full, half and
    quarter resolution, 13 links, no connections between encoder and forecaster but the states. They train
    with Adam at 1e-4, beta_1 0.5, gradients clipped to 1, batches of 4. Other than theirs, the encoder goes
    on reading the forecast, as in every `EncoderForecaster`, and level 0 reads the frame itself.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each level, finest first.
        kernel_size: of the convolutions over the input, one for all levels or one per level.
        patch_size, skip, filter_radius, output: as for `EncoderForecaster`.
        links: of `TrajGRUCell`.
        extra_channels, engine: as for `EncoderForecaster`.

    Example:
        >>> import torch
        >>> model = TrajGRUForecaster(hidden_dim=[4, 6], links=3)
        >>> model(torch.rand(2, 4, 1, 18, 20), steps=3).shape
        torch.Size([2, 3, 1, 18, 20])
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (64, 96, 96),
        kernel_size: int | Sequence[int] = 3,
        patch_size: int = 1,
        skip: bool = False,
        filter_radius: int = 0,
        output: str = "linear",
        links: int = 13,
        *,
        extra_channels: int = 0,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            channels,
            hidden_dim,
            kernel_size,
            patch_size,
            skip,
            filter_radius,
            output,
            partial(TrajGRUCell, links=check_positive(links, "links")),
            extra_channels=extra_channels,
            engine=engine,
        )
