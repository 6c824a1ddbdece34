"""Film strips of a report: one picture a row, in boxes that scroll sideways."""

import base64
import io
import math
from html import escape

import numpy as np
from numpy.typing import NDArray

from convlstm.plots.curves import number, spoken
from convlstm.plots.record import Case, Record
from convlstm.plots.strips import (
    DIVERGING,
    GREY,
    GREY_LIMITS,
    SEQUENTIAL,
    Pixels,
    enlarge,
    error_limit,
    magnification,
    paint,
    past_label,
    value_limits,
)

_MARGIN = 2
_LONGEST = 192


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
        self.baselines = sorted(
            (name for name in names if name != self.model),
            key=lambda name: value if math.isfinite(value := mse.get(name, math.nan)) else math.inf,
        )
        self.limits = value_limits(*(frames for case in cases for frames in (case.past, case.truth)))
        self.bound = error_limit(
            *(case.forecasts[self.model].astype(np.float64) - case.truth for case in cases)
        )
        self.channels, height, width = cases[0].truth.shape[1:]
        self.shrink = max(1, -(-max(height, width) // _LONGEST))
        self.times = magnification(height, width)
        self.cell = max(width // self.shrink, 1) * self.times + 2 * _MARGIN

    def case(self, case: Case) -> str:
        past, lead = len(case.past), len(case.truth)
        model, best = case.forecasts[self.model], self.baselines[:1]
        heading = f"{case.label.capitalize()} case"
        facts = f"test case {case.index:,} · MSE {number(case.mse)}"
        span = f"frames +1 to +{lead} of the {case.label} case"
        rows = _labels([past_label(k, past).replace("-", "−") for k in range(past)])
        rows += self._row("past", "", case.past, f"Past: the {past} frames given, {case.label} case")
        rows += _labels([f"+{k + 1}" for k in range(lead)])
        rows += self._row("truth", "", case.truth, f"Truth: {span}")
        rows += self._row("forecast", "", model, f"Forecast of {spoken(self.model)}: {span}")
        rows += self._row(
            "error",
            "",
            model.astype(np.float64) - case.truth,
            f"Error, forecast minus truth: {span}",
            signed=True,
        )
        rows += "".join(self._baseline(case, name, span) for name in best)
        more = "".join(self._baseline(case, name, span) for name in self.baselines[1:])
        if more:
            more = _labels([f"+{k + 1}" for k in range(lead)]) + more
            more = _reel(more, heading, lead, self.cell)
            more = f"<details><summary>Other baselines on this case</summary>{more}</details>"
        return (
            f"<article><h3>{escape(heading)} <small>{escape(facts)}</small></h3>"
            f"{_reel(rows, heading, max(past, lead), self.cell)}{more}</article>"
        )

    def legend(self) -> str:
        """How to read the colours."""
        first = "" if self.channels in (1, 3) else f"Frames show the first of {self.channels} channels. "
        reduced = f"Frames are shown at 1/{self.shrink} of their size. " if self.shrink > 1 else ""
        bars = ""
        if self.channels != 3:
            bars += _bar("value", GREY if self.limits in GREY_LIMITS else SEQUENTIAL, *self.limits, "")
        bars += _bar("error", DIVERGING, -self.bound, self.bound, "blue: forecast too low, orange: too high")
        return f'<p>{first}{reduced}All cases share these colours.</p><div class="legend">{bars}</div>'

    def _baseline(self, case: Case, name: str, span: str) -> str:
        frames = case.forecasts[name]
        mse = np.mean((frames.astype(np.float64) - case.truth) ** 2)
        return self._row(spoken(name), f"MSE {number(float(mse))}", frames, f"Forecast of {name}: {span}")

    def _row(
        self, name: str, note: str, frames: NDArray[np.floating], alt: str, *, signed: bool = False
    ) -> str:
        limits = (-self.bound, self.bound) if signed else self.limits
        pixels = enlarge(paint(_reduce(frames, self.shrink), limits, signed=signed), self.times)
        small = f"<small>{escape(note)}</small>" if note else ""
        data, width, height = _picture(pixels)
        return (
            f'<div class="name">{escape(name)}{small}</div><img src="data:image/png;base64,{data}" '
            f'width="{width}" height="{height}" style="--count:{len(frames)}" alt="{escape(alt)}">'
        )


def _reel(rows: str, label: str, most: int, cell: int) -> str:
    """A box around rows, ``most`` frames wide at most, ``cell`` pixels a frame."""
    sizes = f"--most:{most};--cell:{cell}px"
    return (
        f'<div class="reel" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<div style="{sizes}">{rows}</div></div>'
    )


def _labels(names: list[str]) -> str:
    spans = "".join(f"<span>{name}</span>" for name in names)
    return f'<div class="name"></div><div class="leads" style="--count:{len(names)}">{spans}</div>'


def _bar(
    name: str, stops: tuple[tuple[float, tuple[int, int, int]], ...], low: float, high: float, note: str
) -> str:
    colours = ", ".join(f"rgb{colour}" for _, colour in stops)
    return (
        f'<span><b>{name}</b> {number(low)}<i style="background: linear-gradient(90deg, {colours})"></i>'
        f"{number(high)} <small>{note}</small></span>"
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
