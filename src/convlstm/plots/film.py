"""Film strips of a report: one picture a row, in boxes that scroll sideways."""

import base64
import io
import math
from html import escape

import numpy as np
from numpy.typing import NDArray

from convlstm.forecasting.colours import (
    BYTES,
    DIVERGING,
    GREY,
    UNIT,
    Pixels,
    Scale,
    channel_names,
    channel_scales,
    error_scales,
    paint,
)
from convlstm.plots.curves import spoken
from convlstm.plots.record import Case, Record
from convlstm.plots.strips import enlarge, magnification, past_label
from convlstm.scores.digits import number

_MARGIN = 2
_LONGEST = 192
_COLUMNS = 10  # frames beside each other; the next ones go on below


def forecasts(record: Record) -> str:
    """The section of forecasts: the cases of ``record``, of which there must be one."""
    view = _View(record)
    return view.legend() + "".join(view.case(case) for case in record.cases)


class _View:
    """What all cases share: the model, the order of the baselines, the colours."""

    def __init__(self, record: Record) -> None:
        cases, scores = record.cases, record.verification
        names = list(cases[0].forecasts)
        self.model = scores.model if scores else names[0]
        mse = scores.scores["mse"].overall if scores else {}
        baselines = sorted(
            (name for name in names if name != self.model),
            key=lambda name: value if math.isfinite(value := mse.get(name, math.nan)) else math.inf,
        )
        same = {name: all(_is_constant(case.forecasts[name]) for case in cases) for name in baselines}
        self.constant = [name for name in baselines if same[name]]
        self.baselines = [name for name in baselines if not same[name]]
        values = [frames for case in cases for frames in (case.past, case.truth)]
        errors = [case.forecasts[self.model].astype(np.float64) - case.truth for case in cases]
        self.scales = channel_scales(*values)
        self.errors = error_scales(errors, values, len(self.scales))
        self.channels, height, width = cases[0].truth.shape[1:]
        self.shrink = max(1, -(-max(height, width) // _LONGEST))
        self.times = magnification(height, width)
        self.cell = max(width // self.shrink, 1) * self.times + 2 * _MARGIN

    def case(self, case: Case) -> str:
        past, lead = len(case.past), len(case.truth)
        heading = f"{case.label.capitalize()} case"
        facts = f"test case {case.index:,} · MSE {number(case.mse)}"
        rows = ""
        for first, last in _blocks(past):
            rows += _labels([past_label(k, past).replace("-", "−") for k in range(first, last)])
            alt = f"Past: the {past} frames given, {case.label} case"
            rows += self._row("past", "", case.past[first:last], alt)
        model = case.forecasts[self.model]
        error = model.astype(np.float64) - case.truth
        more = ""
        for first, last in _blocks(lead):
            span = f"frames +{first + 1} to +{last} of the {case.label} case"
            labels = _labels([f"+{k + 1}" for k in range(first, last)])
            rows += labels + self._row("truth", "", case.truth[first:last], f"Truth: {span}")
            rows += self._row("forecast", "", model[first:last], f"Forecast of {spoken(self.model)}: {span}")
            alt = f"Error, forecast minus truth: {span}"
            rows += self._row("error", "", error[first:last], alt, signed=True)
            best, *others = [self._baseline(case, name, first, last, span) for name in self.baselines] or [""]
            rows += best
            more += labels + "".join(others) if others else ""
        columns = min(max(past, lead), _COLUMNS)
        if more:
            more = self._reel(more, f"{heading}, other baselines", columns)
            more = f"<details><summary>Other baselines on this case</summary>{more}</details>"
        return (
            f"<article><h3>{escape(heading)} <small>{escape(facts)}</small></h3>"
            f"{self._reel(rows, heading, columns)}{more}</article>"
        )

    def legend(self) -> str:
        """How to read the colours, and what is not shown."""
        notes = []
        if self.channels > 1:
            shown = "each with a row of its own" if len(self.scales) > 1 else "shown as red, green and blue"
            notes.append(f"Frames have {self.channels} channels, {shown}.")
        if self.shrink > 1:
            notes.append(f"Frames are shown at 1/{self.shrink} of their size.")
        notes.append(
            "All cases share these colours; errors are blue where the forecast is too low and orange where "
            "it is too high."
        )
        own = any(scale not in (UNIT, BYTES) for scale in self.scales)
        if own:
            notes.append(
                "Black and white are the 0.5th percentile of the values and the 99.5th of those above it; "
                "what lies beyond has these colours too."
            )
        if self.constant:
            notes.append(f"Not shown: {_listed(self.constant)}, the same frame at every lead time.")
        bars = ""
        if self.channels != 3 or len(self.scales) == 3:
            for name, scale in zip(channel_names("value", len(self.scales)), self.scales, strict=True):
                bars += _bar(name, GREY, scale, "square-root scale" if scale.root else "")
        for name, scale in zip(channel_names("error", len(self.errors)), self.errors, strict=True):
            bars += _bar(name, DIVERGING, scale)
        return f'<p>{escape(" ".join(notes))}</p><div class="legend">{bars}</div>'

    def _reel(self, rows: str, label: str, columns: int) -> str:
        """A box around rows of at most ``columns`` frames; where it is too narrow, frames become smaller."""
        sizes = f"--most:{columns};--cell:{self.cell}px"
        # Whole pixels where frames are enlarged, smooth ones where they may be reduced.
        kind = "reel enlarged" if self.times > 1 else "reel"
        label = escape(label)
        return (
            f'<div class="{kind}" role="group" aria-label="{label}"><div style="{sizes}">{rows}</div></div>'
        )

    def _baseline(self, case: Case, name: str, first: int, last: int, span: str) -> str:
        mse = np.mean((case.forecasts[name].astype(np.float64) - case.truth) ** 2)
        frames = case.forecasts[name][first:last]
        return self._row(spoken(name), f"MSE {number(float(mse))}", frames, f"Forecast of {name}: {span}")

    def _row(
        self, name: str, note: str, frames: NDArray[np.floating], alt: str, *, signed: bool = False
    ) -> str:
        """A picture a channel, each with its name at the left."""
        pictures = paint(_reduce(frames, self.shrink), self.errors if signed else self.scales, signed=signed)
        rows = ""
        for label, pixels in zip(channel_names("", len(pictures)), pictures, strict=True):
            texts = (label.removeprefix(", "), note if label in ("", ", channel 1") else "")
            small = "".join(f"<small>{escape(text)}</small>" for text in texts if text)
            data, width, height = _picture(enlarge(pixels, self.times))
            size = f'width="{width}" height="{height}" style="--count:{len(frames)}"'
            rows += (
                f'<div class="name">{escape(name)}{small}</div>'
                f'<img src="data:image/png;base64,{data}" {size} alt="{escape(alt + label)}">'
            )
        return rows


def _is_constant(frames: NDArray[np.floating]) -> bool:
    """True if nothing changes: over lead time or, for a single frame, over space."""
    first = frames[:1] if len(frames) > 1 else frames[:, :, :1, :1]
    return bool((frames == first).all())


def _listed(names: list[str]) -> str:
    """Names in a sentence."""
    *most, last = [spoken(name) for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def _blocks(length: int) -> list[tuple[int, int]]:
    """First frame and end of every block of rows."""
    return [(first, min(first + _COLUMNS, length)) for first in range(0, length, _COLUMNS)]


def _labels(names: list[str]) -> str:
    spans = "".join(f"<span>{name}</span>" for name in names)
    return f'<div class="name"></div><div class="leads" style="--count:{len(names)}">{spans}</div>'


def _bar(
    name: str, stops: tuple[tuple[float, tuple[int, int, int]], ...], scale: Scale, note: str = ""
) -> str:
    colours = ", ".join(f"rgb{colour}" for _, colour in stops)
    small = f"<small>{note}</small>" if note else ""
    return (
        f"<span><b>{name}</b> {number(scale.low)}"
        f'<i style="background: linear-gradient(90deg, {colours})"></i>{number(scale.high)}{small}</span>'
    )


def _reduce(frames: NDArray[np.floating], step: int) -> NDArray[np.floating]:
    """Means of blocks of step x step pixels; what is left over at the edges is cut."""
    if step == 1:
        return frames
    length, channels, height, width = frames.shape
    rows, columns = max(height // step, 1), max(width // step, 1)
    down, across = min(step, height), min(step, width)
    cut = frames[:, :, : rows * down, : columns * across]
    means: NDArray[np.floating] = cut.reshape(length, channels, rows, down, columns, across).mean(axis=(3, 5))
    return means


def _picture(pixels: Pixels) -> tuple[str, int, int]:
    """Frames (T, H, W, 3) side by side as base64 PNG, a see-through margin around each; width and height."""
    from PIL import Image

    length, height, width, _ = pixels.shape
    cells = np.zeros((length, height, width + 2 * _MARGIN, 4), np.uint8)
    cells[:, :, _MARGIN:-_MARGIN, :3] = pixels
    cells[:, :, _MARGIN:-_MARGIN, 3] = 255
    strip = np.concatenate(list(cells), axis=1)
    grey = (strip[..., 0] == strip[..., 1]).all() and (strip[..., 1] == strip[..., 2]).all()
    picture = Image.fromarray(
        np.ascontiguousarray(strip[..., [0, 3]] if grey else strip), "LA" if grey else "RGBA"
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode(), strip.shape[1], strip.shape[0]
