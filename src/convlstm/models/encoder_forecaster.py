"""The encoder-forecaster: a recurrent network that reads a past and one that unrolls the future from it."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells import Cell, CellFactory, ConvLSTMCell
from convlstm.engines import ENGINES
from convlstm.errors import OptionError, check_name
from convlstm.functional.motion import dynamic_filter
from convlstm.layers import scan
from convlstm.models.autoregressive import AutoregressiveForecaster

_MOST_WEIGHTS = 2**31
_OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda y: y,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


def remembering_lstm(input_dim: int, hidden_dim: int, kernel_size: tuple[int, ...], bias: bool) -> Cell:
    """A ConvLSTM cell whose forget gate starts open, which a forecaster learns from several times faster."""
    return ConvLSTMCell(input_dim, hidden_dim, kernel_size, bias, forget_bias=1.0 if bias else 0.0)


def _check_size(inputs: int, hidden_dim: Sequence[int], kernels: list[Any], transport: int) -> None:
    """Refuse sizes that no memory holds, before any of it is taken."""
    if not all(isinstance(size, Integral) for size in (*hidden_dim, *kernels)):
        return  # cells say what is wrong
    levels = zip([inputs, *hidden_dim[:-1]], hidden_dim, kernels, strict=True)
    weights = sum(4 * h * (n + h) * k * k for n, h, k in levels) + hidden_dim[0] * (2 * transport + 1) ** 2
    if weights > _MOST_WEIGHTS:
        raise OptionError(
            f"a forecaster must have at most {_MOST_WEIGHTS} weights; channels, hidden_dim, kernel_size, "
            f"patch_size and transport make about {weights:.1e}: lower one of them"
        )


class Carry(NamedTuple):
    """Carry of an `EncoderForecaster`.

    Attributes:
        encoder: states of the encoder's levels, finest first; None for the initial ones.
        forecaster: states of the forecaster's levels; None before the first forecast, which starts from the
            encoder's.
    """

    encoder: list[Any]
    forecaster: list[Any] | None


class EncoderForecaster(AutoregressiveForecaster):
    """Encoder and forecaster of convolutional recurrent layers at several resolutions.

    The structure of Shi et al. (2015, arXiv:1506.04214, section 3.2) with levels of resolution (Shi et al.
    2017, arXiv:1706.03458) and the feedback of sequence-to-sequence models. Frames are cut into patches
    (``patch_size``); level 0 works at that resolution and each further level at half of the one before.

    * The **encoder** reads the past, one recurrent layer per level, downsampling between them. It goes on
      reading during the forecast, where its input is the forecast itself.
    * The **forecaster** has a layer per level as well, starts from the encoder's states, h *and* c, and runs
      from the coarsest level up to a convolution that makes the next frame. With ``skip``, a layer also sees
      the encoder's output of the same level and step.

    Frames of any size are padded by repeating the border to a multiple of what the levels need, and
    forecasts are cropped back.

    Args:
        channels: C of the frames.
        hidden_dim: channels of each level, finest first.
        kernel_size: of the recurrent layers; one for all levels or one per level.
        patch_size: pixels along the side of a patch; 1 for none.
        skip: whether the forecaster sees the encoder's outputs at equal resolution.
        transport: how many pixels far a forecast can move what the frame before showed; 0 makes every frame
            from nothing. Each pixel becomes a weighted mean of its neighbourhood in the frame before, with
            weights from the last convolution, plus what that convolution adds (Finn et al. 2016,
            arXiv:1605.07157): shapes need not pass through the states, and stay sharp for longer.
        output: what the last convolution passes through: ``linear``, ``sigmoid`` (values in [0, 1]) or
            ``relu`` (values of at least 0). Linear learns sparse frames several times faster: the other two
            saturate at the blank forecast.
        cell: what each layer runs; called with (input_dim, hidden_dim, kernel_size, bias). By default a
            ConvLSTM cell with a forget bias of 1.
        engine: what does the arithmetic of the layers, as for `convlstm.ConvLSTM`.

    Example:
        >>> import torch
        >>> model = EncoderForecaster(hidden_dim=[8, 16])
        >>> model(torch.rand(2, 10, 1, 50, 60), steps=3).shape
        torch.Size([2, 3, 1, 50, 60])
    """

    def __init__(
        self,
        channels: int = 1,
        hidden_dim: Sequence[int] = (64, 64),
        kernel_size: int | Sequence[int] = 3,
        patch_size: int = 2,
        skip: bool = True,
        transport: int = 2,
        output: str = "linear",
        cell: CellFactory = remembering_lstm,
        *,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        check_name(output, _OUTPUTS, "output")
        if not isinstance(hidden_dim, Sequence) or not hidden_dim:
            raise OptionError(
                f"hidden_dim must hold the channels of each level; received {hidden_dim!r}: one level is [64]"
            )
        least = {"channels": (channels, 1), "patch_size": (patch_size, 1), "transport": (transport, 0)}
        for name, (value, low) in least.items():
            if value < low:
                raise OptionError(f"{name} must be at least {low}; received {value}")
        self.channels, self.patch_size, self.skip, self.output = channels, patch_size, skip, output
        self.transport, self.engine = transport, check_name(engine, ENGINES, "engine")
        one = not isinstance(kernel_size, Sequence)
        kernels: list[Any] = [kernel_size] * len(hidden_dim) if one else [*kernel_size]  # type: ignore[misc]
        if len(kernels) != len(hidden_dim):
            raise OptionError(
                f"kernel_size must have one entry per level ({len(hidden_dim)}); received {kernels}"
            )
        _check_size(channels * patch_size**2, hidden_dim, kernels, transport * patch_size)
        patch_channels = channels * patch_size**2
        inputs = [patch_channels, *hidden_dim[:-1]]
        from_below = [*hidden_dim[1:], 0]
        self.encoder = nn.ModuleList(
            cell(n, h, (k, k), True) for n, h, k in zip(inputs, hidden_dim, kernels, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(h, h, 3, stride=2, padding=1) for h in hidden_dim[:-1])
        self.forecaster = nn.ModuleList(
            cell(below + (h if skip or not below else 0), h, (k, k), True)
            for below, h, k in zip(from_below, hidden_dim, kernels, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(h, h, 4, stride=2, padding=1) for h in hidden_dim[1:])
        weights = (2 * transport + 1) ** 2 if transport else 0
        self.head = nn.Conv2d(hidden_dim[0], (weights + channels) * patch_size**2, 1)
        if any(getattr(cell, "spatiotemporal_memory", False) for cell in (*self.encoder, *self.forecaster)):
            raise OptionError(
                "a cell at levels of several resolutions must have no spatiotemporal memory, which passes "
                "from layer to layer; received one that has: use it in the layers of a ConvLSTM"
            )
        if self.head.bias is not None and weights:
            with torch.no_grad():  # at first every pixel mostly stays where it is
                self.head.bias.view(-1, patch_size**2)[weights // 2] += 3.0

    def start(self, past: Tensor) -> Carry:
        """The carry after all frames of the past (B, K, C, H, W) but the last."""
        return Carry(self._read(past[:, :-1], [None] * len(self.encoder)), None)

    def observe(self, frame: Tensor, carry: Carry) -> Carry:
        """The carry after an observed frame (B, C, H, W), which only the encoder reads."""
        return Carry(self._read(frame.unsqueeze(1), carry.encoder), None)

    def step(self, frame: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        encoder = self._read(frame.unsqueeze(1), carry.encoder)
        forecaster = encoder if carry.forecaster is None else carry.forecaster
        forecast, forecaster = self._write(frame, [state.h for state in encoder], forecaster)
        return forecast, Carry(encoder, forecaster)

    def pad(self, frames: Tensor) -> Tensor:
        """Frames (B, T, C, H, W) with bottom and right borders repeated to whole pixels at every level."""
        unit = self.patch_size * 2 ** len(self.down)
        bottom, right = (-frames.shape[-2] % unit, -frames.shape[-1] % unit)
        if not bottom and not right:
            return frames
        flat = F.pad(frames.flatten(0, 1), (0, right, 0, bottom), mode="replicate")
        return flat.view(*frames.shape[:2], *flat.shape[1:])

    def _read(self, frames: Tensor, states: list[Any]) -> list[Any]:
        """The encoder's states after more frames (B, T, C, H, W); T may be 0."""
        if not frames.shape[1]:
            return states
        x, new = F.pixel_unshuffle(frames, self.patch_size), []
        for level, cell in enumerate(self.encoder):
            x, state = scan(cast(Cell, cell), x, states[level], engine=self.engine)
            new.append(state)
            if level < len(self.down):
                x = F.leaky_relu(self.down[level](x.flatten(0, 1)), 0.2)
                x = x.view(*frames.shape[:2], *x.shape[1:])
        return new

    def _write(self, frame: Tensor, features: list[Tensor], states: list[Any]) -> tuple[Tensor, list[Any]]:
        """The frame after ``frame``, from the encoder's outputs and the forecaster's states."""
        x: Tensor | None = None
        new = list(states)
        for level in reversed(range(len(states))):
            if x is None:
                x = features[level]
            else:
                x = F.leaky_relu(self.up[level](x), 0.2)
                x = torch.cat([x, features[level]], dim=1) if self.skip else x
            cell = cast(Cell, self.forecaster[level])
            y, new[level] = scan(cell, x.unsqueeze(1), states[level], engine=self.engine)
            x = y.squeeze(1)
        made = F.pixel_shuffle(self.head(x), self.patch_size)
        if self.transport:
            weights, made = made[:, : -self.channels], made[:, -self.channels :]
            made = made + dynamic_filter(frame, torch.softmax(weights, dim=1))
        return _OUTPUTS[self.output](made), new
