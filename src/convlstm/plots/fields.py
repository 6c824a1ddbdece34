"""Figures of frames and forecasts: film strips, differences, hits and misses."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.errors import OptionError, ShapeError
from convlstm.pictures.colours import channel_names, check_frames, paint
from convlstm.pictures.frames import Limits, check_rows, past_label, row_scales
from convlstm.pictures.radar import RadarTable
from convlstm.plots.figures import Colours, FigureRow, draw_grid, picked, rgb, value_colours
from convlstm.scores.frames import least_event
from convlstm.scores.lead_times import lead_text
from convlstm.validation import check_number, is_integer, received

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

#: Colours of pixels, which differ for every kind of colour vision (Okabe and Ito 2008).
_EVENTS = {
    "hit": (0, 114, 178),
    "miss": (213, 94, 0),
    "false alarm": (240, 190, 40),
    "neither": (236, 238, 241),
    "not measured": (128, 128, 128),
}


def film_strip(
    rows: Mapping[str, ArrayLike],
    *,
    past: ArrayLike | None = None,
    signed: Collection[str] = ("error",),
    limits: Limits = None,
    unit: str = "",
    frames: Sequence[int] | None = None,
    step_s: float | None = None,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Frames in rows, over time, with colour bars: `convlstm.pictures.film_strip` as a figure.

    Args:
        rows: name to (T, C, H, W); rows may differ in T, not in H and W. Three channels within [0, 1] are
            red, green and blue; otherwise each channel has a row.
        past: (K, C, H, W), drawn above, under the labels t-K+1 ... t.
        signed: names of the rows that hold differences; their colours are symmetric about zero.
        limits: values of black and white, or a table of `RADAR`; None takes them from the past and the first
            row.
        unit: of the values, at the colour bar.
        frames: indices of the frames to show of each row; None for at most ten.
        step_s: seconds between frames: lead times are +5 min, +10 min ... then, and +1, +2 ... without.
        figure: to draw on; None for a new one.

    Returns:
        the figure.

    Raises:
        ShapeError: a row is not (T, C, H, W), or frames differ in size.
        OptionError: no row at all, or matplotlib is not installed.
    """
    return draw_grid(_rows(rows, past, signed, limits, unit, frames, step_s), figure)[0]


def differences(
    forecast: ArrayLike,
    truth: ArrayLike,
    *,
    limits: Limits = None,
    unit: str = "",
    frames: Sequence[int] | None = None,
    step_s: float | None = None,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Truth, forecast and their difference by lead time, with the root mean square error of each frame.

    Args:
        forecast: (L, C, H, W).
        truth: (L, C, H, W), NaN where not measured.
        limits: as in `film_strip`, and so are ``unit``, ``frames``, ``step_s`` and ``figure``.
        unit: of the values.
        frames: indices of the frames to show.
        step_s: seconds between frames.
        figure: to draw on.

    Returns:
        the figure.

    Raises:
        ShapeError: not (L, C, H, W), or of different shapes.
    """
    predicted, observed = _pair(forecast, truth)
    error = predicted.astype(np.float64) - observed
    rows = {"truth": observed, "forecast": predicted, "difference": error}
    drawn = _rows(rows, None, ["difference"], limits, unit, frames, step_s)
    shown = picked(len(predicted), frames, "frames")
    squares = [np.square(error[k][np.isfinite(error[k])]) for k in shown]
    under = [f"RMSE {np.sqrt(square.mean()):.3g}" if square.size else "no value" for square in squares]
    drawn[-1] = FigureRow(drawn[-1].name, drawn[-1].frames, drawn[-1].labels, drawn[-1].colours, under)
    return draw_grid(drawn, figure, cell=1.15)[0]


def events(
    forecast: ArrayLike,
    truth: ArrayLike,
    threshold: float,
    *,
    channel: int = 0,
    limits: Limits = None,
    unit: str = "",
    frames: Sequence[int] | None = None,
    step_s: float | None = None,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Hits, misses and false alarms by lead time, with the critical success index of each frame.

    An event is a value of at least the threshold, as in `convlstm.scores`; the index is hits / (hits + misses
    + false alarms), and a dash where there is no event at all.

    Args:
        forecast: (L, C, H, W).
        truth: (L, C, H, W), NaN where not measured.
        threshold: in the unit of the values.
        channel: that is shown.
        limits: as in `film_strip`, and so are ``unit``, ``frames``, ``step_s`` and ``figure``.
        unit: of the values and the threshold.
        frames: indices of the frames to show.
        step_s: seconds between frames.
        figure: to draw on.

    Returns:
        the figure.

    Raises:
        ShapeError: not (L, C, H, W), or of different shapes.
        OptionError: a channel that there is not.
    """
    predicted, observed = _pair(forecast, truth)
    threshold = check_number(threshold, "threshold")
    if not is_integer(channel) or not 0 <= channel < predicted.shape[1]:
        raise OptionError(
            f"channel must be from 0 to {predicted.shape[1] - 1}; received {received(channel)}: name "
            "one of the frames"
        )
    predicted, observed = predicted[:, channel : channel + 1], observed[:, channel : channel + 1]
    rows = _rows({"truth": observed, "forecast": predicted}, None, (), limits, unit, frames, step_s)
    shown = picked(len(predicted), frames, "frames")
    a, b = (each[shown, 0] >= least_event(threshold) for each in (predicted, observed))
    kinds = np.select([a & b, b, a], [0, 1, 2], 3)
    kinds[np.isnan(predicted[shown, 0]) | np.isnan(observed[shown, 0])] = 4
    totals = [int((kind < 3).sum()) for kind in kinds]
    hits = [int((kind == 0).sum()) for kind in kinds]
    under = [f"CSI {hit / n:.2f}" if n else "CSI –" for hit, n in zip(hits, totals, strict=True)]
    colours = np.array(list(_EVENTS.values()), np.uint8)[kinds]
    unit = limits.unit if isinstance(limits, RadarTable) else unit
    name = f"≥ {threshold:g} {unit}".rstrip()
    figure, _ = draw_grid([*rows, FigureRow(name, colours, rows[0].labels, None, under)], figure, bottom=0.32)
    _event_legend(figure, [k for k in range(len(_EVENTS)) if k < 4 or (kinds == k).any()])
    return figure


def _event_legend(figure: "FigureBase", kinds: Sequence[int]) -> None:
    from matplotlib.patches import Patch

    names = [list(_EVENTS)[k] for k in kinds]
    patches = [Patch(facecolor=rgb(_EVENTS[name]), edgecolor="0.75", label=name) for name in names]
    figure.legend(handles=patches, loc="lower center", ncols=len(patches), frameon=False, fontsize=9)


def _rows(
    rows: Mapping[str, ArrayLike],
    past: ArrayLike | None,
    signed: Collection[str],
    limits: Limits,
    unit: str,
    frames: Sequence[int] | None,
    step_s: float | None,
) -> list[FigureRow]:
    """Rows of a grid, a row per channel unless channels are colours, in the colours of `pictures`."""
    values = check_rows(rows, past, signed, limits)
    made: dict[Any, Colours] = {}
    drawn = []
    for name, scales in row_scales(values, signed, limits).items():
        row, is_signed = values[name], name in signed
        shown = picked(len(row), frames if name else None, "frames")
        labels = [lead_text(k + 1, step_s) if name else past_label(k, len(row), step_s) for k in shown]
        if not isinstance(scales, RadarTable) and len(scales) == 1 and row.shape[1] == 3:
            drawn.append(FigureRow(name or "past", paint(row[shown], scales, signed=is_signed)[0], labels))
            continue
        each: Sequence[Any] = [scales] * row.shape[1] if isinstance(scales, RadarTable) else scales
        names = channel_names(name or "past", row.shape[1])
        for channel, (text, scale) in enumerate(zip(names, each, strict=True)):
            colours = made.setdefault((scale, is_signed), value_colours(scale, unit, signed=is_signed))
            drawn.append(FigureRow(text.replace(", ", "\n"), row[shown, channel], labels, colours))
    return drawn


def _pair(forecast: ArrayLike, truth: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    predicted, observed = check_frames(forecast, "forecast"), check_frames(truth, "truth")
    if predicted.shape != observed.shape:
        raise ShapeError(
            f"forecast and truth must have one shape (L, C, H, W); received {predicted.shape} and "
            f"{observed.shape}: cut them to the same lead times"
        )
    return predicted, observed
