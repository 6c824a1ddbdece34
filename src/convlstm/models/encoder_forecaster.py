"""The encoder-forecaster: a recurrent network that reads a past and one that unrolls the future from it."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.cells import Cell, CellFactory, ConvLSTMCell
from convlstm.engines import ENGINES, SAVES
from convlstm.errors import OptionError, check_name
from convlstm.functional.motion import Trajectory, advect, dynamic_filter, motion_field
from convlstm.layers import ScanOptions, scan
from convlstm.layers.frames import map_frames
from convlstm.layers.state import has_memory
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.options import OUTPUTS, check_widths
from convlstm.validation import check_bool, check_callable, check_non_negative, check_positive, is_integer

_MOST_WEIGHTS = 2**31
_RECENT = 3  # observed frames before the newest one that motion is estimated from
_NEAR_ADVECTION = 0.01  # of the usual first weights of the head
#: One state of the cell's kind per level, finest first; None for the initial one.
States = list[Any]


class Carry(NamedTuple):
    """Carry of an `EncoderForecaster`.

    Attributes:
        encoder: states of the encoder's levels.
        forecaster: states of the forecaster's levels; None before the first forecast, which starts from the
            encoder's.
        recent: (B, at most 3, C, H, W), with ``advection`` the observed frames before the newest one.
        motion: with ``advection`` what moves; None before the first forecast.
    """

    encoder: States
    forecaster: States | None
    recent: Tensor | None = None
    motion: "Motion | None" = None


class Motion(NamedTuple):
    """The newest observed frame on its way along the motion of the past.

    Attributes:
        observed: that frame, (B, C, H, W).
        advected: it has moved to the time of the newest frame, (B, C, H, W).
        trajectory: from there back to its time.
    """

    observed: Tensor
    advected: Tensor
    trajectory: Trajectory


def remembering_lstm(input_dim: int, hidden_dim: int, kernel_size: tuple[int, ...], bias: bool) -> Cell:
    """A ConvLSTM cell initialised with forget_bias=1, with which a forecaster trains several times faster."""
    return ConvLSTMCell(input_dim, hidden_dim, kernel_size, bias, forget_bias=1.0 if bias else 0.0)


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
        skip: connect encoder and forecaster at equal resolution.
        filter_radius: radius of the dynamic local filter (CDNA; Finn et al. 2016, arXiv:1605.07157); 0 for
            none. Each pixel of a forecast is a weighted mean of its neighbourhood in the frame before, with
            weights from the last convolution, plus the output of that convolution: shapes need not pass
            through the states, and stay sharp for longer.
        advection: move each frame along the motion of the last observed frames (`convlstm.functional.motion`)
            before it is filtered, so that the network forecasts what differs from advection. For rain and
            clouds, which move further in a step than a filter reaches. Motion is estimated from the whole
            frame: such a model cannot forecast by tiles.
        zero_outside: with ``advection``, zeros come in from outside in evaluation mode, where a value at the
            border would be repeated as a streak: for rain, on scales whose zero is dry. In training, whose
            frames may be crops of wider ones, the border is repeated in any case.
        output: activation of the last convolution: ``linear``, ``sigmoid`` (values in [0, 1]) or ``relu``
            (values of at least 0). Linear learns sparse frames several times faster: the other two saturate
            at the blank forecast.
        cell: cell of the layers, called with (input_dim, hidden_dim, kernel_size, bias), without a
            spatiotemporal memory; one for all levels or one per level. By default a ConvLSTM cell with a
            forget bias of 1.
        extra_channels: E, extra input channels that are known for the past and the future, such as the mask
            of measured pixels, the hour or a land mask.
        engine: of the layers, as for `convlstm.ConvLSTM`.
        save: what training keeps of each step of the layers, as for `convlstm.ConvLSTM`: ``state`` computes
            the gates again in the backward pass, for less memory.
        transport: earlier name of ``filter_radius``.

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
        filter_radius: int = 2,
        output: str = "linear",
        cell: CellFactory | Sequence[CellFactory] = remembering_lstm,
        *,
        advection: bool = False,
        zero_outside: bool = False,
        extra_channels: int = 0,
        engine: str = "auto",
        save: str = "auto",
        transport: int | None = None,
    ) -> None:
        super().__init__()
        if transport is not None:
            warnings.warn(
                f"transport is the earlier name of filter_radius: write filter_radius={transport!r}",
                DeprecationWarning,
                stacklevel=2,
            )
            filter_radius = transport
        self.channels = check_positive(channels, "channels")
        self.extra_channels = check_non_negative(extra_channels, "extra_channels")
        self.patch_size = check_positive(patch_size, "patch_size")
        self.filter_radius = check_non_negative(filter_radius, "filter_radius")
        self.skip, self.advection = check_bool(skip, "skip"), check_bool(advection, "advection")
        self.zero_outside = _check_outside(zero_outside, advection)
        self.output = check_name(output, OUTPUTS, "output")
        self.engine, self.save = check_name(engine, ENGINES, "engine"), check_name(save, SAVES, "save")
        hidden_dim = check_widths(hidden_dim, "level")
        kernels = list(kernel_size) if isinstance(kernel_size, Sequence) else [kernel_size] * len(hidden_dim)
        if len(kernels) != len(hidden_dim):
            raise OptionError(
                f"kernel_size must have one entry per level ({len(hidden_dim)}); received {kernels}: give as "
                "many as hidden_dim has"
            )
        inputs = [(channels + extra_channels) * patch_size**2, *hidden_dim[:-1]]
        filter_size = (2 * filter_radius + 1) ** 2 if filter_radius else 0
        _check_size(inputs, hidden_dim, kernels, filter_size * patch_size**2)
        self.encoder = _cells(cell, inputs, hidden_dim, kernels)
        self.size_multiple = patch_size * 2 ** (len(hidden_dim) - 1)
        self.down = nn.ModuleList(nn.Conv2d(h, h, 3, stride=2, padding=1) for h in hidden_dim[:-1])
        from_below = [*hidden_dim[1:], 0]
        widths = [n + (h if skip or not n else 0) for n, h in zip(from_below, hidden_dim, strict=True)]
        self.forecaster = _cells(cell, widths, hidden_dim, kernels)
        self.up = nn.ModuleList(nn.ConvTranspose2d(h, h, 4, stride=2, padding=1) for h in hidden_dim[1:])
        self.head = nn.Conv2d(hidden_dim[0], (filter_size + channels) * patch_size**2, 1)
        if self.head.bias is not None:
            with torch.no_grad():
                self._start_near_the_frame(self.head.bias.view(-1, patch_size**2), filter_size)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments as plain data, ``transport`` by its present name."""
        arguments = super().hyperparameters
        if type(self).__init__ is EncoderForecaster.__init__:
            radius = arguments.pop("transport", None)
            arguments |= {} if radius is None else {"filter_radius": radius}
        return arguments

    def _start_near_the_frame(self, bias: Tensor, filter_size: int) -> None:
        """First weights with which the filter is near the identity, and forecasts near advection.

        The filter is a softmax: e^3 gives the middle of 5 x 5 taps 0.46 of the weight, e^7 0.98.
        """
        if filter_size:
            bias[filter_size // 2] += 7.0 if self.advection else 3.0
        if self.advection:
            self.head.weight.mul_(_NEAR_ADVECTION)
            bias[-self.channels :].mul_(_NEAR_ADVECTION)

    def start(self, past: Tensor) -> Carry:
        """The carry after all frames of the past (B, K, C, H, W) but the last."""
        encoder = self._read(past[:, :-1], [None] * len(self.encoder))
        recent = past[:, -1 - _RECENT : -1, : self.channels] if self.advection else None
        return Carry(encoder, None, recent)

    def observe(self, frame: Tensor, carry: Carry) -> Carry:
        """The carry after an observed frame (B, C, H, W), which only the encoder reads."""
        encoder = self._read(frame.unsqueeze(1), carry.encoder)
        recent = None if carry.recent is None else self._with(frame, carry.recent)[:, -_RECENT:]
        return Carry(encoder, None, recent)

    def step(self, frame: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Forecast the frame (B, C, H, W) after the newest one."""
        encoder = self._read(frame.unsqueeze(1), carry.encoder)
        forecaster = encoder if carry.forecaster is None else carry.forecaster
        moved, motion = frame[:, : self.channels], carry.motion
        if carry.recent is not None:
            if motion is None:
                trajectory = Trajectory.start(motion_field(self._with(frame, carry.recent)))
                motion = Motion(moved, moved, trajectory)
            moved, motion = _advance(moved, motion, zero_outside=self.zero_outside and not self.training)
        forecast, forecaster = self._write(moved, [state.h for state in encoder], forecaster)
        return forecast, Carry(encoder, forecaster, carry.recent, motion)

    def _read(self, frames: Tensor, states: States) -> States:
        """The encoder's states after more frames (B, T, C, H, W); T may be 0."""
        if not frames.shape[1]:
            return states
        x, new = F.pixel_unshuffle(frames, self.patch_size), []
        for level, cell in enumerate(self.encoder):
            x, state = self._scan(cell, x, states[level])
            new.append(state)
            if level < len(self.down):
                x = F.leaky_relu(map_frames(self.down[level], x), 0.2)
        return new

    def _scan(self, cell: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return scan(cell, x, state, options=ScanOptions(save=self.save), engine=self.engine)

    def _with(self, frame: Tensor, recent: Tensor) -> Tensor:
        """Recent frames (B, K, C, H, W) and the newest one, (B, C, H, W) or with extra inputs, after them."""
        return torch.cat([recent, frame[:, None, : self.channels]], dim=1)

    def _write(self, frame: Tensor, features: list[Tensor], states: States) -> tuple[Tensor, States]:
        """The frame after ``frame`` (B, C, H, W), from the encoder's outputs and the forecaster's states."""
        x = features[-1]
        new = list(states)
        for level in reversed(range(len(states))):
            if level < len(self.up):
                x = F.leaky_relu(self.up[level](x), 0.2)
                x = torch.cat([x, features[level]], dim=1) if self.skip else x
            y, new[level] = self._scan(self.forecaster[level], x.unsqueeze(1), states[level])
            x = y.squeeze(1)
        forecast = F.pixel_shuffle(self.head(x), self.patch_size)
        if self.filter_radius:
            weights, forecast = forecast[:, : -self.channels], forecast[:, -self.channels :]
            forecast = forecast + dynamic_filter(frame, torch.softmax(weights, dim=1))
        elif self.advection:
            forecast = forecast + frame
        return OUTPUTS[self.output](forecast), new


def _advance(frame: Tensor, motion: Motion, *, zero_outside: bool) -> tuple[Tensor, Motion]:
    """A frame (B, C, H, W) one step further along the motion.

    The observed frame is interpolated once for all steps, as interpolation lowers its peaks, and only what
    the newest frame differs from it by is moved from step to step.
    """
    trajectory = motion.trajectory.step()
    advected = trajectory.sample(motion.observed, zero_outside=zero_outside)
    change = advect(frame - motion.advected, trajectory.velocity, 1, zero_outside=zero_outside)[:, 0]
    return advected + change, Motion(motion.observed, advected, trajectory)


def _cells(
    cell: CellFactory | Sequence[CellFactory],
    inputs: Sequence[int],
    hidden_dim: Sequence[int],
    kernels: Sequence[int],
) -> nn.ModuleList:
    """One cell per level; OptionError for no factory, or cells with a spatiotemporal memory."""
    factories = list(cell) if isinstance(cell, Sequence) else [cell] * len(hidden_dim)
    for make in factories:
        check_callable(make, "cell", "pass a class of cells, or a functools.partial of it")
    if len(factories) != len(hidden_dim):
        raise OptionError(
            f"cell must be one for all levels or one per level ({len(hidden_dim)}); received "
            f"{len(factories)}: give as many as hidden_dim has"
        )
    sizes = zip(factories, inputs, hidden_dim, kernels, strict=True)
    built = [make(n, h, (k, k), True) for make, n, h, k in sizes]
    if any(map(has_memory, built)):
        raise OptionError(
            "a cell at levels of several resolutions must have no spatiotemporal memory, which passes from "
            "layer to layer; received one that has: use it in the layers of a ConvLSTM"
        )
    return nn.ModuleList(built)


def _check_outside(zero_outside: bool, advection: bool) -> bool:
    """``zero_outside``, which nothing but advection reads."""
    if check_bool(zero_outside, "zero_outside") and not advection:
        raise OptionError(
            "zero_outside needs advection=True, as nothing else moves frames; received advection=False: "
            "leave zero_outside out"
        )
    return zero_outside


def _check_size(
    inputs: Sequence[int], hidden_dim: Sequence[int], kernels: Sequence[int], filter_channels: int
) -> None:
    """Refuse more weights than fit in memory, before any is allocated."""
    if not all(map(is_integer, (*hidden_dim, *kernels))):
        return  # the cells raise an error for these
    levels = zip(inputs, hidden_dim, kernels, strict=True)
    weights = sum(4 * h * (n + h) * k * k for n, h, k in levels) + hidden_dim[0] * filter_channels
    if weights > _MOST_WEIGHTS:
        raise OptionError(
            f"a forecaster must have at most {_MOST_WEIGHTS} weights; channels, hidden_dim, kernel_size, "
            f"patch_size and filter_radius make about {weights:.1e}: lower one of them"
        )
