"""Parts that figures share: colours of values, and grids of frames."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import OptionError
from convlstm.extras import check_installed
from convlstm.pictures.colours import DIVERGING, GREY, MISSING, Scale
from convlstm.pictures.radar import DRY, NOT_MEASURED, RadarTable
from convlstm.validation import is_integer, received

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure, FigureBase

MAX_COLUMNS = 10
_MUTED, _EDGE = "0.5", "0.75"
_TEXT, _GAP, _BAR = 0.24, 0.06, 0.1  # inches of a line of text, between frames, of a colour bar
_STYLE: Any = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 9}


@dataclass(frozen=True)
class Colours:
    """A colour map of values.

    Attributes:
        cmap: from a position to a colour.
        norm: from a value to a position.
        label: of the colour bar.
        ticks: of the colour bar; None for matplotlib's own.
    """

    cmap: "Colormap"
    norm: "Normalize"
    label: str
    ticks: Sequence[float] | None = None


@dataclass(frozen=True)
class FigureRow:
    """A row of frames in a grid.

    Attributes:
        name: at its left.
        frames: (T, H, W) values, or (T, H, W, 3) colours.
        labels: above the frames.
        colours: of the values; None for frames that are colours.
        under: texts below the frames; none if empty.
    """

    name: str
    frames: NDArray[Any]
    labels: Sequence[str]
    colours: Colours | None = None
    under: Sequence[str] = ()


def figure_of(size: tuple[float, float], figure: "FigureBase | None", layout: Any = None) -> "FigureBase":
    """The figure to draw on: a given one, or a new one of so many inches and a layout engine.

    Raises:
        OptionError: matplotlib is not installed, or something else was given.
    """
    check_installed("matplotlib", "figures need matplotlib")
    from matplotlib.figure import Figure, FigureBase

    if figure is None:
        new = Figure(figsize=size, layout=layout)
        new._repr_png_ = partial(_png, new)  # type: ignore[attr-defined]
        return new
    if not isinstance(figure, FigureBase):
        raise OptionError(
            f"figure must be a matplotlib Figure or SubFigure; received {received(figure)}: leave it out for "
            "a new one"
        )
    return figure


def _png(figure: "Figure") -> bytes:
    """The picture of a figure in a notebook, which draws by itself only those that pyplot made."""
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def style() -> Any:
    """Context in which the texts of a figure are made."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def value_colours(scale: Scale | RadarTable, unit: str = "", *, signed: bool = False) -> Colours:
    """Colours of values or of differences, those of `convlstm.pictures`.

    Args:
        scale: ends of the colours, or a table of rain.
        unit: of the values, written at the colour bar.
        signed: True for differences.
    """
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, Normalize, PowerNorm
    from matplotlib.ticker import MaxNLocator

    if isinstance(scale, RadarTable):
        classes = ListedColormap([rgb(colour) for colour in (DRY, *scale.colours)], name="rain")
        norm: Normalize = BoundaryNorm(scale.bounds, classes.N, extend="both")
        return Colours(classes.with_extremes(bad=rgb(NOT_MEASURED)), norm, scale.unit, scale.bounds)
    stops = DIVERGING if signed else GREY
    first, last = stops[0][0], stops[-1][0]
    colours = [((place - first) / (last - first), rgb(colour)) for place, colour in stops]
    cmap = LinearSegmentedColormap.from_list("differences" if signed else "values", colours, N=1024)
    power = PowerNorm(0.5, scale.low, scale.high, clip=True)
    norm = power if scale.root else Normalize(scale.low, scale.high, clip=True)
    # A clipped norm places ticks beyond an end, which matplotlib would draw, at the end.
    ticks = [
        tick for tick in MaxNLocator(5).tick_values(scale.low, scale.high) if scale.low <= tick <= scale.high
    ]
    return Colours(cmap.with_extremes(bad=rgb(MISSING)), norm, unit, ticks)


def draw_grid(
    rows: Sequence[FigureRow],
    figure: "FigureBase | None",
    title: str = "",
    cell: float | None = None,
    bottom: float = 0.0,
) -> "tuple[FigureBase, NDArray[Any]]":
    """Draw rows of frames below each other, with a colour bar beside the rows of equal colours.

    Args:
        rows: of frames of one size, one or more.
        figure: to draw on; None for a new one.
        title: above all.
        cell: inches of the width of a frame in a new figure; None for those that make a usual page.
        bottom: inches left free below.

    Returns:
        the figure and its axes (rows, columns).
    """
    columns, ratio = max(len(row.frames) for row in rows), rows[0].frames.shape[1] / rows[0].frames.shape[2]
    left = 0.2 + 0.075 * max(len(line) for row in rows for line in row.name.split("\n"))
    labels = [row.colours.label for row in rows if row.colours is not None]
    right = (0.9 if any(labels) else 0.7) if labels else 0.06
    top, foot = 0.06 + 0.3 * bool(title), 0.06 + bottom + _TEXT * bool(rows[-1].under)
    starts = [k == 0 or row.labels != rows[k - 1].labels for k, row in enumerate(rows)]
    above = [_TEXT if start else _GAP for start in starts]
    for k in range(1, len(rows)):  # texts between rows, and numbers at the ends of two colour bars
        ends = rows[k].colours is not rows[k - 1].colours and not starts[k]
        above[k] += _TEXT * bool(rows[k - 1].under) + _GAP * 2 * ends
    rest = left + right + columns * _GAP, top + foot + sum(above)
    if figure is None:
        cell = min(cell or min(2.2, max(1.0, 8 / columns)), 2.5 / ratio)
        size = rest[0] + columns * cell, rest[1] + len(rows) * cell * ratio
        figure = figure_of(size, None)
    else:
        box: Any = figure_of((0, 0), figure)
        size = box.bbox.width / box.dpi, box.bbox.height / box.dpi
        cell = min((size[0] - rest[0]) / columns, (size[1] - rest[1]) / len(rows) / ratio)
        cell = max(cell, 0.05)
    tall = cell * ratio
    grid = figure.add_gridspec(
        2 * len(rows),
        columns + 1,
        left=left / size[0],
        right=(left + columns * (cell + _GAP) + _BAR) / size[0],
        top=1 - top / size[1],
        bottom=1 - (top + sum(above) + len(rows) * tall) / size[1],
        hspace=0,
        wspace=_GAP * (columns + 1) / (columns * cell + _BAR),
        width_ratios=[*[cell] * columns, _BAR],
        height_ratios=[part for space in above for part in (space, tall)],
    )
    with style():
        axes = np.array(
            [[figure.add_subplot(grid[2 * k + 1, t]) for t in range(columns)] for k in range(len(rows))]
        )
        images = [_draw_row(axes[k], row, named=starts[k]) for k, row in enumerate(rows)]
        for first, last in _runs([row.colours for row in rows]):
            colours = rows[first].colours
            if colours is not None:
                place = figure.add_subplot(grid[2 * first + 1 : 2 * last + 2, columns])
                _draw_bar(figure, images[first], place, colours)
        if title:
            figure.suptitle(title, x=0.01, y=1 - 0.06 / size[1], ha="left", va="top", fontsize=10)
    return figure, axes


def _draw_row(axes: "Sequence[Axes]", row: FigureRow, *, named: bool) -> Any:
    """Draw the frames of a row; the last image."""
    image = None
    for t, place in enumerate(axes):
        if t >= len(row.frames):
            place.set_axis_off()
            continue
        image = _draw_frame(place, row, t)
        if named:
            place.set_title(row.labels[t], color=_MUTED, pad=3)
    axes[0].set_ylabel(row.name, rotation=0, ha="right", va="center", labelpad=5)
    return image


def _runs(items: Sequence[Any]) -> list[tuple[int, int]]:
    """First and last index of each run of one item."""
    starts = [k for k in range(len(items)) if k == 0 or items[k] is not items[k - 1]]
    return list(zip(starts, [k - 1 for k in (*starts[1:], len(items))], strict=True))


def _draw_frame(axes: "Axes", row: FigureRow, t: int) -> Any:
    frame = row.frames[t]
    if row.colours is None:
        image = axes.imshow(frame)
    else:
        image = axes.imshow(np.ma.masked_invalid(frame), cmap=row.colours.cmap, norm=row.colours.norm)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_EDGE)
    if row.under:
        axes.set_xlabel(row.under[t], color=_MUTED, labelpad=3)
    return image


def _draw_bar(figure: "FigureBase", image: Any, place: "Axes", colours: Colours) -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(image, cax=place, ticks=colours.ticks)
    bar.outline.set_edgecolor(_EDGE)
    if colours.ticks is not None:
        bar.ax.set_yticklabels(_tick_texts(colours.ticks))
    else:
        bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    bar.ax.tick_params(labelsize=8, length=2, color=_MUTED)
    bar.set_label(colours.label)


def _tick_texts(ticks: Sequence[float]) -> list[str]:
    """Round numbers as text, with as many digits as tell neighbours apart."""
    apart = min(np.diff(ticks), default=0)
    size = max(map(abs, ticks)) / apart if apart > 0 else 1.0
    count = min(max(6, 2 + math.ceil(math.log10(max(size, 1.0)))), 15)
    return [f"{tick:.{count}g}" for tick in ticks]


def picked(length: int, wanted: Sequence[int] | None, name: str) -> list[int]:
    """Indices of frames to show: those wanted, or at most ten at equal distances, the last among them.

    Raises:
        OptionError: one beyond the length.
    """
    if wanted is None:
        return list(range(length - 1, -1, -math.ceil(length / MAX_COLUMNS)))[::-1]
    indices = list(wanted) if isinstance(wanted, (list, tuple, range)) else []
    if not indices or not all(is_integer(k) and 0 <= k < length for k in indices):
        raise OptionError(
            f"{name} must be a list of integers from 0 to {length - 1}; received {received(wanted)}: pass at "
            "least one, or leave it out"
        )
    return indices


def rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour of 8 bits a part as matplotlib takes it."""
    red, green, blue = (part / 255 for part in colour)
    return red, green, blue
