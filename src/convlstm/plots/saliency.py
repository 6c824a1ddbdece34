"""Saliency: which pixels of the past a forecast pixel depends on."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from convlstm.errors import OptionError, ShapeError
from convlstm.models.base import evaluation_mode
from convlstm.pictures.colours import channel_scales, check_frames, error_scale, paint
from convlstm.pictures.frames import past_label
from convlstm.plots.figures import FigureRow, draw_grid, picked, value_colours
from convlstm.validation import check_callable, check_integer, check_positive, check_tensor

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase


def saliency(
    model: Callable[..., Tensor],
    past: Tensor,
    lead: int,
    pixel: Sequence[int],
    *,
    channel: int = 0,
    **options: Any,
) -> Tensor:
    """The gradient of one forecast pixel by the pixels of the past.

    A pixel of the past at which it is positive raises the forecast where it is brighter. The model runs in
    evaluation mode; gradients of its parameters stay as they are.

    Args:
        model: a forecaster, or any function of (past, steps) that returns (B, steps, C, H, W).
        past: (K, C, H, W), or (1, K, C, H, W).
        lead: number of the forecast frame, from 1.
        pixel: its row and column.
        channel: of the forecast.
        options: passed to the model, such as ``inputs``.

    Returns:
        (K, C, H, W).

    Raises:
        ShapeError: a past that is not that of one sequence, or that the model refuses.
        OptionError: a pixel or a channel beyond the forecast, or a model without gradients.
    """
    check_callable(model, "model", "pass a forecaster")
    check_tensor(past, "past (K, C, H, W)")
    if not past.is_floating_point():
        raise ShapeError(f"past must hold floats, for gradients; received {past.dtype}: pass past.float()")
    lead = check_positive(lead, "lead")
    batch = past if past.ndim == 5 else past[None]
    if batch.ndim != 5 or len(batch) != 1:
        raise ShapeError(
            f"past must be (K, C, H, W), one sequence; received {tuple(past.shape)}: pick one of the batch"
        )
    x = batch.detach().clone().requires_grad_()
    with evaluation_mode(model) if isinstance(model, nn.Module) else nullcontext(), torch.enable_grad():
        forecast = model(x, lead, **options)
        place = _place(forecast, pixel, channel)
        value = forecast[(0, lead - 1, *place)]
        if not value.requires_grad:
            raise OptionError(
                f"a model must compute with gradients; received {type(model).__name__}, whose forecast has "
                "none: use a trained network, and no torch.no_grad inside it"
            )
        (gradient,) = torch.autograd.grad(value, x, allow_unused=True)
    return torch.zeros_like(x[0]) if gradient is None else gradient[0]


def saliency_maps(
    past: ArrayLike,
    gradient: ArrayLike,
    pixel: Sequence[int] | None = None,
    *,
    unit: str = "",
    frames: Sequence[int] | None = None,
    step_s: float | None = None,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """The past above the gradient by it, which `saliency` computes, with each frame's share of the whole.

    Channels are summed; red, green and blue are shown as colours.

    Args:
        past: (K, C, H, W).
        gradient: (K, C, H, W), of a forecast pixel by the past.
        pixel: row and column of the forecast pixel, which is marked; None for no mark.
        unit: of the past.
        frames: indices of the frames to show; None for at most ten.
        step_s: seconds between frames, by which they are labelled; None for numbers of frames.
        figure: to draw on; None for a new one.

    Returns:
        the figure. Shares are those of the sum of absolute values.

    Raises:
        ShapeError: not (K, C, H, W), or of different shapes.
        OptionError: a pixel beyond the frames.
    """
    values, slopes = check_frames(past, "past"), check_frames(gradient, "gradient").astype(np.float64)
    if values.shape != slopes.shape:
        raise ShapeError(
            f"past and gradient must have one shape (K, C, H, W); received {values.shape} and "
            f"{slopes.shape}: pass the past that saliency had"
        )
    shown = picked(len(values), frames, "frames")
    sums = np.abs(slopes).sum(axis=(1, 2, 3))
    shares = [f"{share:.0%}" for share in sums[shown] / (sums.sum() or 1)]
    labels = [past_label(k, len(values), step_s) for k in shown]
    scales = channel_scales(values)
    if values.shape[1] == 3 and len(scales) == 1:
        above = FigureRow("past", paint(values[shown], scales)[0], labels)
    else:
        total = values.sum(axis=1)
        colours = value_colours(channel_scales(total[:, None])[0], unit)
        above = FigureRow("past", total[shown], labels, colours)
    slopes = slopes.sum(axis=1)
    colours = value_colours(error_scale([slopes]), "gradient", signed=True)
    figure, axes = draw_grid([above, FigureRow("gradient", slopes[shown], labels, colours, shares)], figure)
    if pixel is not None:
        row, column = _pixel(pixel, values.shape[2:])
        for place in axes.flat:
            place.plot(column, row, "o", markersize=9, markerfacecolor="none", markeredgecolor="#35d06f")
    return figure


def _place(forecast: Any, pixel: Sequence[int], channel: int) -> tuple[int, int, int]:
    """Channel, row and column of a forecast (1, L, C, H, W)."""
    if not isinstance(forecast, Tensor) or forecast.ndim != 5:
        found = tuple(forecast.shape) if isinstance(forecast, Tensor) else f"a {type(forecast).__name__}"
        raise ShapeError(f"a forecast must be (B, L, C, H, W); received {found}: pass a forecaster")
    checked = check_integer(channel, "channel", least=0, most=forecast.shape[2] - 1)
    return checked, *_pixel(pixel, forecast.shape[3:])


def _pixel(pixel: Any, size: Sequence[int]) -> tuple[int, int]:
    """Row and column of a pixel in frames of a size."""
    if not isinstance(pixel, (tuple, list)) or len(pixel) != 2:
        raise OptionError(f"pixel must be a row and a column; received {pixel!r}: pass (12, 30)")
    names = ("the row of pixel", "the column of pixel")
    row, column = (
        check_integer(value, name, least=0, most=length - 1)
        for name, value, length in zip(names, pixel, size, strict=True)
    )
    return row, column
