"""Figures of the inside of a model: feature maps, gates over time, what the forget gate keeps."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.pictures.colours import DIVERGING, Scale, error_scale, value_scale
from convlstm.plots.figures import FigureRow, draw_grid, figure_of, picked, rgb, style, value_colours
from convlstm.plots.recorder import Tape
from convlstm.validation import check_instance, check_integer, check_number, is_integer, received

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

Array = NDArray[np.float64]
_MAPS = 8  # channels shown at most
_BINS = 40
_LINE, _MARK = rgb(DIVERGING[1][1]), rgb(DIVERGING[3][1])
#: Names of gates that say how much of a state stays: of an LSTM, a GRU, a linear recurrence.
_KEEPING = ("f", "z", "a", "f_m", "lstm.f", "stationary.f")


def feature_maps(
    source: Tape | ArrayLike,
    layer: str | None = None,
    value: str = "h",
    *,
    sample: int = 0,
    channels: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    limits: tuple[float, float] | None = None,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """A grid of the channels of a value, over time.

    Values of both signs are blue below zero, orange above and dark at zero, others from black to white.

    Args:
        source: a tape of `convlstm.record`, or an array (B, T, C, H, W).
        layer: name of a recorded layer; None for the last one.
        value: name of a recorded value.
        sample: index in the batch.
        channels: indices of the channels to show; None for the eight that vary most.
        steps: indices of the frames to show among the recorded ones; None for at most ten.
        limits: values of both ends of the colours; None for those that nearly all values lie within.
        figure: to draw on; None for a new one.

    Returns:
        the figure.

    Raises:
        OptionError: a layer, a value, a sample, a channel or a step that is not there.
        ShapeError: a value that has not two space axes.
    """
    maps, times, name = _maps(source, layer, value, sample)
    if maps.ndim != 4:
        raise ShapeError(
            f"feature maps must be (B, T, C, H, W); received {(1, *maps.shape)}: choose two space axes, and "
            "pass the array"
        )
    times_shown = picked(len(maps), steps, "steps")
    if channels is None:
        spread = np.nan_to_num(maps[times_shown], posinf=0, neginf=0).var(axis=(0, 2, 3))
        shown = sorted(np.argsort(-spread, kind="stable")[:_MAPS].tolist())
    else:
        shown = picked(maps.shape[1], channels, "channels")
    values = maps[np.ix_(times_shown, shown)]
    signed = bool((values < 0).any())
    scale = error_scale([values]) if signed else value_scale(values)
    if limits is not None:
        scale = _scale_of(limits)
    colours = value_colours(scale, value, signed=signed)
    labels = [f"{times[t]}" for t in times_shown]
    rows = [FigureRow(f"channel {c}", values[:, k], labels, colours) for k, c in enumerate(shown)]
    return draw_grid(rows, figure, f"{name} by frame".strip())[0]


def histograms(
    source: Tape | Mapping[str, ArrayLike],
    layer: str | None = None,
    values: Sequence[str] | None = None,
    *,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Histograms of gates over time: how much of a layer is open, shut or saturated, with the mean as a line.

    Args:
        source: a tape of `convlstm.record`, or arrays (B, T, ...) by name.
        layer: name of a recorded layer; None for the last one.
        values: names of values; None for all but the state, attention maps and flows.
        figure: to draw on; None for a new one.

    Returns:
        the figure.

    Raises:
        OptionError: a layer or a value that is not there.
    """
    gates, times, title = _gates(source, layer, values)
    from matplotlib.colors import PowerNorm

    columns = len(gates) if len(gates) < 4 else math.ceil(math.sqrt(len(gates)))
    rows = -(-len(gates) // columns)
    figure = figure_of((1 + 2.2 * columns, 0.7 + 2.0 * rows), figure, "constrained")
    with style():
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        edges = np.arange(len(times) + 1) - 0.5
        drawn = {}
        for name, array in gates.items():
            ends = _range(array)
            shares = np.stack([_shares(frame, *ends) for frame in array.swapaxes(0, 1)], axis=1)
            drawn[name] = shares, np.linspace(*ends, _BINS + 1)
        # The square root shows small shares, too.
        norm = PowerNorm(0.5, 0, max(shares.max() for shares, _ in drawn.values()))
        for place, (name, (shares, levels)) in zip(axes.flat, drawn.items(), strict=False):
            mesh = place.pcolormesh(edges, levels, shares, cmap=_blues(), norm=norm)
            place.plot(range(len(times)), _mean(gates[name]), color=_MARK, linewidth=1.6)
            place.set_title(name)
            _time_axis(place, times)
        for place in axes.flat[len(gates) :]:
            place.set_axis_off()
        bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30, format="{x:.0%}")
        bar.set_label("share of the values")
        bar.outline.set_edgecolor("0.75")
        figure.supxlabel("frame", fontsize=9)
        figure.suptitle(f"{title}, line: mean" if title else "line: mean", x=0.01, ha="left", fontsize=10)
    return figure


def forgetting(
    source: Tape | ArrayLike,
    layer: str | None = None,
    value: str | None = None,
    *,
    start: int = 0,
    figure: "FigureBase | None" = None,
) -> "FigureBase":
    """Figure of a forget gate over time, and of the part of a frame's state that is left later.

    The part left after frame t of the state after frame ``start`` is the product of the gates of the frames
    ``start + 1`` to t, for each channel and pixel. Lines are means, bands hold half and nine tenths of all.

    Args:
        source: a tape of `convlstm.record`, or an array (B, T, ...) of a forget gate.
        layer: name of a recorded layer; None for the last one.
        value: name of the gate; None for the one that keeps the state: f of an LSTM, z of a GRU, a of a
            linear recurrence.
        start: place among the recorded frames.
        figure: to draw on; None for a new one.

    Returns:
        the figure.

    Raises:
        OptionError: a layer or a gate that is not there, frames that do not follow each other, or a start
            beyond them.
    """
    if isinstance(source, Tape):
        layer = _layer(source, layer)
        names = source.values(layer)
        known = [name for name in _KEEPING if name in names]
        if value is None and not known:
            raise OptionError(
                f"a layer must have a gate that keeps its state; received {layer!r} with "
                f"{', '.join(names)}: name one of these as value="
            )
        value = value or known[0]
    gates, times, title = _gates(source if isinstance(source, Tape) else {"f": source}, layer, [value or "f"])
    gate = next(iter(gates.values()))
    start = check_integer(start, "start", least=0, most=len(times) - 1)
    if times != list(range(times[0], times[0] + len(times))):
        raise OptionError(
            f"frames must follow each other for what is left of a state; received steps {times}: record all, "
            "or a range"
        )
    left = np.cumprod(np.where(np.isfinite(gate), gate, 1.0)[:, start + 1 :], axis=1, dtype=np.float64)
    left = np.concatenate([np.ones_like(gate[:, :1]), left], axis=1)
    figure = figure_of((7.2, 2.9), figure, "constrained")
    with style():
        above, below = figure.subplots(1, 2)
        _band(above, times, gate)
        above.set_title(f"gate {next(iter(gates))}", loc="left")
        _band(below, times[start:], left)
        below.set_title(f"part of the state after frame {times[start]} that is left", loc="left")
        half = np.flatnonzero(_mean(left) < 0.5)
        if half.size:
            place = times[start + int(half[0])]
            below.axvline(place, color="0.5", linewidth=0.8, linestyle=":")
            offset: Any = {"xytext": (4, 0), "textcoords": "offset points", "color": "0.5"}
            below.annotate(f"half at frame {place}", (place, 0.94), **offset)
        for axes in (above, below):
            axes.set_xlabel("frame")
            low, high = _range(gate)
            axes.set_ylim(min(0.0, low), max(1.0, high))
        above.legend(loc="best", frameon=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _band(axes: "Axes", times: Sequence[int], array: Array) -> None:
    """The mean over time, and the ranges of half and of nine tenths of the values."""
    from matplotlib.ticker import MaxNLocator

    flat = array.swapaxes(0, 1).reshape(array.shape[1], -1)
    flat = np.where(np.isfinite(flat), flat, np.nan)
    ranges = np.full((4, len(flat)), np.nan)
    some = np.isfinite(flat).any(axis=1)  # frames that any sample has
    ranges[:, some] = np.nanquantile(flat[some], [0.05, 0.25, 0.75, 0.95], axis=1)
    low, first, third, high = ranges
    axes.fill_between(times, low, high, color=_LINE, alpha=0.2, linewidth=0, label="90 % of the values")
    axes.fill_between(times, first, third, color=_LINE, alpha=0.35, linewidth=0, label="50 % of the values")
    axes.plot(times, _mean(array), color=_LINE, linewidth=1.8, label="mean")
    axes.margins(x=0.02)
    _plain(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _time_axis(axes: "Axes", times: Sequence[int]) -> None:
    """Ticks at some of the frames, with their indices."""
    ticks = range(0, len(times), -(-len(times) // 6))
    axes.set_xticks(ticks, [str(times[k]) for k in ticks])
    _plain(axes)


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2, color="0.6")


def _blues() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shares", [(1, 1, 1), _LINE, (0.03, 0.1, 0.25)])


def _shares(frame: Array, low: float, high: float) -> Array:
    """Histogram of the values of a frame: shares of all that are numbers."""
    finite = frame[np.isfinite(frame)]
    counts = np.histogram(finite, _BINS, (low, high))[0]
    return np.asarray(counts / max(1, finite.size), dtype=np.float64)


def _range(array: Array) -> tuple[float, float]:
    """[0, 1] or [-1, 1] if all values lie within, as those of gates do, else the values' own range."""
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    for ends in ((0.0, 1.0), (-1.0, 1.0)):
        if ends[0] <= low and high <= ends[1]:
            return ends
    return low, high if high > low else low + 1


def _mean(array: Array) -> Array:
    """Mean over all but time; NaN for a frame without values."""
    flat = array.swapaxes(0, 1).reshape(array.shape[1], -1)
    finite = np.isfinite(flat)
    count = finite.sum(axis=1)
    mean = np.where(finite, flat, 0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _layer(tape: Tape, layer: str | None) -> str:
    return tape.layers[-1] if layer is None and tape.layers else layer or ""


def _maps(
    source: Tape | ArrayLike, layer: str | None, value: str, sample: int
) -> tuple[Array, list[int], str]:
    """A value of a sample (T, C, ...), the indices of its frames, and a title."""
    if isinstance(source, Tape):
        layer = _layer(source, layer)
        array, times = _numbers(source[layer, value]), source.steps(layer)
        title = f"{value} of {layer}" if layer else value
    else:
        array, title = _numbers(source), ""
        times = list(range(array.shape[1] if array.ndim > 1 else 0))
    if array.ndim < 3 or not array.size:
        raise ShapeError(
            f"values must be (B, T, C, ...), no axis empty; received {array.shape}: add the axes that lack"
        )
    if not is_integer(sample) or not 0 <= sample < len(array):
        raise OptionError(
            f"sample must be from 0 to {len(array) - 1}; received {received(sample)}: name one of the batch"
        )
    return array[sample], times, title


def _gates(
    source: Tape | Mapping[str, ArrayLike], layer: str | None, values: Sequence[str] | None
) -> tuple[dict[str, Array], list[int], str]:
    """Arrays (B, T, ...) by name, the indices of the frames, and a title."""
    if isinstance(source, Tape):
        layer = _layer(source, layer)
        names = values or _gate_names(source, layer)
        gates = {name: _numbers(source[layer, name]) for name in names}
        times, title = source.steps(layer), layer
    else:
        check_instance(source, Mapping, "source", "pass a tape, or arrays by name such as {'f': array}")
        chosen = list(source) if values is None else values
        gates = {name: _numbers(source[check_name(name, source, "values")]) for name in chosen}
        times, title = [], ""
    if not gates or any(array.ndim < 3 or not array.size for array in gates.values()):
        raise ShapeError(
            f"gates must be arrays (B, T, ...) by name; received {[a.shape for a in gates.values()]}: pass "
            "at least one"
        )
    if len({array.shape[1] for array in gates.values()}) > 1:
        raise ShapeError(
            "gates must have one number of frames T, (B, T, ...); received "
            f"{[array.shape for array in gates.values()]}: draw the others on a figure of their own"
        )
    if not times:
        times = list(range(next(iter(gates.values())).shape[1]))
    return gates, times, title


def _gate_names(tape: Tape, layer: str) -> list[str]:
    """Values that are gates or candidates: as large as the output, and not of the state."""
    names, like = tape.values(layer), ("i", "f", "o", "g", "r", "z", "n", "a", "b", "u", "p", "gain")
    ends = {name: name.rpartition(".")[2].removesuffix("_m") for name in names}
    found = [name for name in names if ends[name] in like or name in ("g_t", "g_s")]
    if not found:
        raise OptionError(
            f"a layer must have recorded gates; received {layer!r} with {', '.join(names)}: name some of "
            "these as values="
        )
    return found


def _scale_of(limits: Any) -> Scale:
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise OptionError(f"limits must be two numbers; received {received(limits)}: pass (0, 1)")
    low = check_number(limits[0], "limits")
    return Scale(low, check_number(limits[1], "limits", above=low))


def _numbers(array: Any) -> Array:
    """Real numbers as float64."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array if array.is_complex() else array.double()).numpy()
    try:
        numbers = np.asarray(array)
    except (TypeError, ValueError):  # a list of lists of different lengths
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "biuf":
        found = "complex numbers" if numbers.dtype.kind == "c" else received(array)
        raise ShapeError(
            f"values must be an array of real numbers; received {found}: of complex numbers pass abs(array), "
            "say"
        )
    return numbers.astype(np.float64)
