"""Line charts as inline SVG whose colours are CSS variables of the page, for light and dark themes."""

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.pictures.frames import clip_text
from convlstm.scores.digits import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = NDArray[np.float64]
Reference = tuple[float, str] | None  # value and name of a horizontal line

SLOTS = 8
_WIDTH, _HEIGHT = 5.0, 3.2  # inches of 72 units each
_AXES = (0.125, 0.155, 0.605, 0.72)  # left, bottom, width, height; names are at the right
_NAMES = (-0.12, 1.05)  # lowest and highest centre of a name, in axes coordinates
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.5)))
# Matplotlib has no CSS variables: it draws in placeholder colours that are replaced in its SVG.
_COLOURS = {"ink": "#00a001", "muted": "#00a002", "rule": "#00a003", "paper": "#00a004"} | {
    f"line-{k}": f"#00b00{k}" for k in range(SLOTS)
}


_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "convlstm",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": _COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["rule"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.labelpad": 5,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _COLOURS["rule"],
    "lines.markeredgewidth": 0,
    "lines.solid_capstyle": "round",
} | {
    f"{axis}.{name}": value
    for axis in ("xtick", "ytick")
    for name, value in {"color": _COLOURS["muted"], "major.size": 0, "major.pad": 6, "minor.size": 0}.items()
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart.

    Attributes:
        name: text at its right end.
        values: a y for every x; a gap if not finite.
        slot: index of the colour; 0 is the model and drawn heavier, baselines count from 1.
        far: ignored when the range of the axis is chosen.
        band: low and high around every value, drawn as a band; none if empty.
    """

    name: str
    values: Sequence[float]
    slot: int
    far: bool = False
    band: Sequence[tuple[float, float]] = ()


def display_name(name: str) -> str:
    """Name of a forecaster without underscores."""
    return str(name).replace("_", " ")


def line_chart(
    x: Sequence[float],
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    reference: Reference = None,
    floor: float | None = None,
    log: bool = False,
    log_x: bool = False,
) -> str:
    """Draw lines over x.

    Args:
        x: rising.
        lines: one or more.
        x_label: label of the x axis.
        y_label: label above the y axis, with the unit.
        reference: value and name of a thin horizontal line.
        floor: lowest y to show; lines may leave the chart below it, as may those that are ``far``.
        log: logarithmic y axis, named in its label, if all values are positive and span a factor above 25.
        log_x: logarithmic x axis, with ticks at powers of 2; x is linear and has ticks at integers otherwise.

    Returns:
        an ``<svg>`` element for a page that defines ``--ink``, ``--muted``, ``--rule``, ``--paper`` and
        ``--line-0`` to ``--line-7``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    values, finite = _values(lines)
    logarithmic = bool(log and finite.size and finite.min() > 0 and finite.max() > 25 * finite.min())
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.add_axes(_AXES)
        axes.set_xlabel(x_label)
        figure.text(0, 0.975, clip_text(y_label + " (log scale)" * logarithmic, 58), va="top")
        _x_axis(axes, x, log=log_x)
        if finite.size:
            _range(axes, finite, logarithmic, reference, floor)
            _lines(axes, x, lines, values)
            _names(axes, x, lines, values, reference)
        else:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center")
        file = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _inline(file.getvalue())


def _x_axis(axes: "Axes", x: Sequence[float], *, log: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    if log:
        axes.set_xscale("log", base=2)
        axes.set_xlim(x[0] / 1.05, x[-1] * 1.05)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        pad = (x[-1] - x[0]) * 0.03 or 0.5
        axes.set_xlim(x[0] - pad, x[-1] + pad)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=11, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:.0f}")


def outside(lines: Sequence[Line]) -> list[Line]:
    """Lines with ``far`` that leave the range of the others."""
    values, finite = _values(lines)
    if not finite.size:
        return []
    low, high = _from_zero(finite.min(), finite.max()), finite.max()
    pad = 0.06 * (high - low)
    left = ((values > high + pad) | (values < low - pad)).any(axis=1)
    return [line for line, leaves in zip(lines, left, strict=True) if leaves and line.far]


def _values(lines: Sequence[Line]) -> tuple[Values, Values]:
    """All values, (lines, x), and the finite ones that choose the range: without far lines, if others are."""
    values = np.array([line.values for line in lines], dtype=np.float64)
    near = values[[not line.far for line in lines]]
    chosen = near if np.isfinite(near).any() else values
    bands = [end for line in lines if not line.far for pair in line.band for end in pair]
    found = np.concatenate([chosen.ravel(), np.array(bands, dtype=np.float64)])
    return values, found[np.isfinite(found)]


def _range(axes: "Axes", finite: Values, log: bool, reference: Reference, floor: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = float(finite.min()), float(finite.max())
    if log:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, high * 1.25)
        subs = (1, 2, 5) if high / low < 200 else (1, 3) if high / low < 2000 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        if reference is not None:
            low, high = min(low, reference[0]), max(high, reference[0])
        if floor is not None:
            low, high = max(low, floor), max(high, floor + 0.1)
        low = _from_zero(low, high)
        pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        axes.set_ylim(low - (0 if low == 0 else pad), high + pad)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    # A tick at zero may be a rounding error away from it.
    nothing = 1e-9 * max(abs(low), abs(high))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v if abs(v) > nothing else 0.0)))


def _from_zero(low: float, high: float) -> float:
    """Lower end of an axis: zero if that widens the axis little."""
    return 0.0 if 0 < low < 0.6 * high else low


def _lines(axes: "Axes", x: Sequence[float], lines: Sequence[Line], values: Values) -> None:
    low, high = axes.get_ylim()
    # Points far beyond an axis are clipped anyway: clip their coordinates too, which may overflow otherwise.
    with np.errstate(over="ignore", under="ignore"):
        if axes.get_yscale() == "log":
            ends = (low * (low / high), high * (high / low))
        else:
            ends = (low - (high - low), high + (high - low))
    for line, y in zip(lines, values, strict=True):
        dotted = len(x) <= 12 or not np.isfinite(y).all()
        model = line.slot == 0
        if line.band:
            low_T, high_T = np.clip(np.array(line.band, dtype=np.float64).T, *ends)
            axes.fill_between(x, low_T, high_T, color=_colour(line.slot), alpha=0.16, linewidth=0, zorder=2)
        axes.plot(
            x,
            np.where(np.isfinite(y), np.clip(y, *ends), np.nan),
            color=_colour(line.slot),
            linewidth=3.0 if model else 1.5,
            linestyle=_DASHES[line.slot % len(_DASHES)],
            marker="o" if dotted else "",
            markersize=5.5 if model else 3.5,
            zorder=4 if model else 3,
        )


def _names(
    axes: "Axes", x: Sequence[float], lines: Sequence[Line], values: Values, reference: Reference
) -> None:
    """Write each name beside the end of its line, without overlaps."""
    places: list[tuple[float, str, str, str]] = []  # end of the line, name, colour, weight
    for line, y in zip(lines, values, strict=True):
        ends = np.flatnonzero(np.isfinite(y))
        if ends.size and line.name:
            low, high = axes.get_ylim()
            last = y[ends[-1]]
            shown = axes.transScale.transform((x[ends[-1]], min(max(last, low), high)))
            height = float(axes.transLimits.transform(shown)[1])
            arrow = " ↑" if last > high else " ↓" if last < low else ""
            name = "\n".join(wrap(line.name, 14, max_lines=2, placeholder="…")) + arrow
            places.append((height, name, _colour(line.slot), "bold" if line.slot == 0 else "normal"))
    if reference is not None:
        height = float(axes.transLimits.transform((0, reference[0]))[1])
        axes.axhline(reference[0], color=_COLOURS["muted"], linewidth=1.0, zorder=2)
        places.append((height, reference[1], _COLOURS["muted"], "normal"))
    places.sort(key=lambda place: place[0])
    placed = _spread([place[0] for place in places], [0.078 * (1 + p[1].count("\n")) for p in places])
    for middle, (end, name, colour, weight) in zip(placed, places, strict=True):
        options: dict[str, Any] = {"color": colour, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.005, 1.035], [end, middle], linewidth=0.8, **options)
        axes.text(1.05, middle, name, va="center_baseline", weight=weight, linespacing=1.0, **options)


def _spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Heights nearest to those wanted (rising) at which names of these sizes do not overlap."""
    if not wanted:
        return []
    # Isotonic regression (pool adjacent violators) of the heights minus the sizes of the names below.
    below = np.cumsum([0.0, *((low + high) / 2 for low, high in pairwise(sizes))])
    pools: list[list[float]] = []
    for height in np.asarray(wanted) - below:
        pools.append([height])
        while len(pools) > 1 and fmean(pools[-2]) >= fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    free = np.array([fmean(pool) for pool in pools for _ in pool])
    free = np.maximum(np.minimum(free, _NAMES[1] - below[-1]), _NAMES[0])
    return [float(height) for height in free + below]


def _colour(slot: int) -> str:
    return _COLOURS[f"line-{slot if slot < SLOTS else 1 + (slot - 1) % (SLOTS - 1)}"]


def _inline(svg: str) -> str:
    """The ``<svg>`` element alone: no prologue, no size, no unused identifiers, variables for colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    # Identifiers must be unique among the charts of a page.
    mark = f"c{zlib.crc32(svg.encode()):x}"
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{mark}", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg).strip()
