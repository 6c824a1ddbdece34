"""Page that shows the inside of a forecast: frames, states and gates, step by step, in one HTML file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import OptionError
from convlstm.pictures.colours import (
    DIVERGING,
    GREY,
    MISSING,
    UNIT,
    Scale,
    channel_scales,
    error_scale,
    error_scales,
    paint,
    value_scale,
)
from convlstm.pictures.frames import past_label
from convlstm.pictures.radar import DRY, NOT_MEASURED, TABLES
from convlstm.plots.packing import Maps, Packed, Precision, encode, pack, quantise, reduce
from convlstm.plots.pages import template
from convlstm.scores.digits import short_ends
from convlstm.scores.lead_times import lead_text

Floats = NDArray[np.floating[Any]]

#: Bytes of a page, at most.
LIMIT = 15_000_000
_FRAMES = LIMIT // 3  # of the frames alone
_TEMPLATE, _CHANNEL = 90_000, 40  # bytes of a page without numbers, and of the ends and name of a channel
_GENERATOR = '<meta name="generator" content="convlstm inspect">'
_LEVELS = 2**16 - 1  # of frames; the code after the last is "not measured"
_TITLES = {
    "h": "hidden state h",
    "c": "cell state c",
    "i": "input gate i",
    "f": "forget gate f",
    "o": "output gate o",
    "g": "candidate g",
    "memory": "spatiotemporal memory",
}
_GRU_TITLES = {"r": "reset gate r", "z": "update gate z", "n": "candidate n"}


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A forecast and what the layers held meanwhile.

    Args:
        model: name of the model.
        past: (K, C, H, W), frames that the model received, NaN where not measured.
        forecast: (L, C, H, W).
        values: maps (T, channels, h, w) by layer and value, such as ``("encoder.0", "f")``; the last of T
            belongs to the step that makes the last forecast.
        cells: class of each layer's cell, if known.
        truth: (at most L, C, H, W), frames that followed.
        variables: name of each channel; numbers if empty.
        units: of the frames, or of each channel, separated by ", "; empty or "1" for pure numbers.
        times: of the K + L frames, as people read them; empty if unknown.
        data: a line on the frames, such as their file.
        step_s: seconds between frames; None if unknown.
    """

    model: str
    past: Floats = field(repr=False)
    forecast: Floats = field(repr=False)
    values: Maps = field(repr=False)
    cells: Mapping[str, str] = field(default_factory=dict)
    truth: Floats | None = field(default=None, repr=False)
    variables: Sequence[str] = ()
    units: str = ""
    times: Sequence[str] = ()
    data: str = ""
    step_s: float | None = None

    @property
    def steps(self) -> int:
        """Steps of the forecast: each reads a frame, from that of the past's last on it makes the next."""
        return len(self.past) + len(self.forecast) - 1


def inspector_page(inside: Inside, limit: int = LIMIT) -> str:
    """The page as HTML, which needs no network.

    Args:
        inside: what it shows. Names of any text are safe.
        limit: bytes of the page. Maps that do not fit are stored with fewer levels, then averaged over
            squares of pixels, then left out by channel; the page says so.

    Raises:
        OptionError: no maps of two axes of space, as of a model without recurrent cells.
    """
    maps = {name: values for name, values in inside.values.items() if values.ndim == 4 and values.size}
    if not maps:
        raise OptionError(
            f"an inspected model must have recurrent cells with states (B, C, H, W); received {inside.model} "
            "without any: use a model of convlstm.models with recurrent layers"
        )
    frames = _Frames(inside, min(_FRAMES, limit // 3))
    rest = _TEMPLATE + _CHANNEL * sum(min(values.shape[1], 256) for values in maps.values())
    left = limit - rest - sum(len(text) for kind in frames.texts.values() for text in kind)
    packed, precision = pack({name: _aligned(values, inside.steps) for name, values in maps.items()}, left)
    skipped = sorted({value for _, value in inside.values.keys() - maps.keys()})
    stops = {name: ", ".join(f"rgb{colour}" for _, colour in s) for name, s in _STOPS.items()}
    return template("inspector.html.j2").render(
        generator=_GENERATOR,
        model=inside.model,
        data=inside.data,
        summary=_summary(inside, packed),
        steps=inside.steps,
        height=frames.shown[0],
        width=frames.shown[1],
        pictures=frames.names,
        bars=[frames.bars(k, stops) for k in range(len(frames.names))],
        classes=frames.classes(),
        missing=f"rgb{frames.missing_colour}" if frames.gaps else "",
        notes=_notes(frames, maps, packed, precision, skipped),
        page=frames.page()
        | {
            "steps": inside.steps,
            "past": len(inside.past),
            "times": list(inside.times),
            "leads": _leads(inside),
            "levels": precision.levels,
            "layers": _layers(inside, maps, packed, precision),
        },
    )


def _leads(inside: Inside) -> list[str]:
    """Labels of the frames of past and forecast: t-1, t, +1, or -5 min, 0 min, +5 min."""
    past = [past_label(k, len(inside.past), inside.step_s) for k in range(len(inside.past))]
    future = [lead_text(k + 1, inside.step_s) for k in range(len(inside.forecast))]
    return [label.replace("-", "−") for label in (*past, *future)]


_STOPS = {"grey": GREY, "diverging": DIVERGING}


def _table(name: str) -> str:
    """The 256 colours of a map as base64, painted by the rule of all pictures."""
    signed = name == "diverging"
    ramp = np.linspace(-1 if signed else 0, 1, 256).reshape(1, 1, 1, 256)
    (pixels,) = paint(ramp, [Scale(-1, 1) if signed else UNIT], signed=signed)
    return base64.b64encode(pixels.tobytes()).decode()


def _scale(scale: Scale, table: str) -> dict[str, Any]:
    return {"table": table, "low": float(scale.low), "high": float(scale.high), "root": bool(scale.root)}


class _Frames:
    """Frames of past, forecast and truth, with the scales of their colours."""

    def __init__(self, inside: Inside, limit: int) -> None:
        kinds = {"past": inside.past, "forecast": inside.forecast}
        kinds |= {} if inside.truth is None else {"truth": inside.truth}
        channels = inside.past.shape[1]
        units = inside.units.split(", ")
        self.units = [
            "" if unit == "1" else unit
            for unit in (units if len(units) == channels else [inside.units] * channels)
        ]
        self.radar = TABLES.get(inside.units)
        self.missing_colour = NOT_MEASURED if self.radar else MISSING
        self.size = inside.past.shape[-2:]
        self.gaps = any(np.isnan(frames).any() for frames in kinds.values())
        known = [frames for name, frames in kinds.items() if name != "forecast"]
        self.scales = channel_scales(*known, unit=inside.units)
        truth = inside.truth
        errors = [] if truth is None else [inside.forecast[: len(truth)].astype(np.float64) - truth]
        self.error_scales = error_scales(errors, known, len(self.scales))
        together = len(self.scales) == 1 and channels == 3
        variables = list(inside.variables) or [f"channel {c}" for c in range(channels)]
        self.channels = [list(range(channels))] if together else [[c] for c in range(channels)]
        self.names = ["red, green and blue" if together else name for name in variables][: len(self.channels)]
        self.reduction = 1
        while (size := self._encode(kinds)) > limit and self.reduction < max(self.size):
            self.reduction = max(self.reduction + 1, int(self.reduction * (size / limit) ** 0.5))

    def _encode(self, kinds: Mapping[str, Floats]) -> int:
        """Make the texts of all frames; their length."""
        shown = {name: self._reduced(frames) for name, frames in kinds.items()}
        whole = np.concatenate(list(shown.values()))
        finite = np.where(np.isfinite(whole), whole, np.nan)
        with np.errstate(all="ignore"):
            low, high = (np.nan_to_num(f.reduce(finite, axis=(0, 2, 3))) for f in (np.fmin, np.fmax))
        self.low, self.high, self.shown = low.tolist(), high.tolist(), whole.shape[-2:]
        ends = low[:, None, None], high[:, None, None]
        self.texts = {
            name: [encode(quantise(f, *ends, _LEVELS, _LEVELS).astype(np.uint16)) for f in frames]
            for name, frames in shown.items()
        }
        return sum(len(text) for texts in self.texts.values() for text in texts)

    def _reduced(self, frames: Floats) -> Floats:
        """Means of squares in float64; of decibels by their power."""
        frames = frames.astype(np.float64)
        if self.reduction > 1 and self.radar is not None and self.radar.logarithmic:
            return np.asarray(10 * np.log10(reduce(np.power(10, frames / 10), self.reduction)))
        return reduce(frames, self.reduction)

    def page(self) -> dict[str, Any]:
        """Values of the script."""
        radar = self.radar
        classes = None if radar is None else [DRY, *radar.colours]
        pictures = [
            {
                "name": name,
                "unit": self.units[channels[0]],
                "channels": channels,
                "scale": _scale(scale, "grey"),
                "error": _scale(error, "diverging"),
            }
            for name, channels, scale, error in zip(
                self.names, self.channels, self.scales, self.error_scales, strict=True
            )
        ]
        frames = {"size": self.size, "shown": self.shown, "reduction": self.reduction, "pictures": pictures}
        frames |= {"low": self.low, "high": self.high, "truth": [], **self.texts}
        colours = {name: _table(name) for name in _STOPS}
        more = {"missing": self.missing_colour, "classes": classes, "bounds": radar.bounds if radar else ()}
        return {"frames": frames, "colours": colours | more}

    def bars(self, k: int, stops: Mapping[str, str]) -> list[dict[str, str]]:
        """Colour bars of a picture: of its values, unless they are colours or classes, and of the error."""
        unit = self.units[self.channels[k][0]]
        ends = [("error", self.error_scales[k], "diverging")]
        if len(self.channels[k]) == 1 and self.radar is None:
            ends.insert(0, ("value", self.scales[k], "grey"))
        return [
            {
                "name": f"{name} ({unit})" if unit else name,
                "low": short_ends(*scale[:2])[0],
                "high": short_ends(*scale[:2])[1],
                "colours": stops[table],
                "note": "square-root scale" if scale.root else "",
            }
            for name, scale, table in ends
        ]

    def classes(self) -> dict[str, Any] | None:
        """Classes of rain and their colours."""
        if self.radar is None:
            return None
        steps = [("dry", f"rgb{DRY}")]
        steps += [
            (f"{bound:g}", f"rgb{colour}")
            for bound, colour in zip(self.radar.bounds, self.radar.colours, strict=True)
        ]
        return {"name": f"value ({self.radar.unit})", "steps": steps}


def _aligned(values: Floats, steps: int) -> Floats:
    """Maps of the last steps, one a step: of several calls of a cell in a step the last."""
    every = max(1, len(values) // steps)
    return values[len(values) - 1 - every * (min(len(values), steps) - 1) :: every]


def _layers(
    inside: Inside, maps: Maps, packed: Mapping[tuple[str, str], Packed], precision: Precision
) -> list[dict[str, Any]]:
    """Values of the script by layer."""
    layers: dict[str, dict[str, Any]] = {}
    for (layer, value), each in packed.items():
        values = maps[layer, value]
        cell = inside.cells.get(layer, "")
        shown = layers.setdefault(layer, {"name": f"{layer} ({cell})" if cell else layer, "values": []})
        shown["first"] = inside.steps - len(each.steps)
        pixels = [-(-n // m) for n, m in zip(inside.past.shape[-2:], values.shape[-2:], strict=True)]
        scale = _map_scale(values)
        shown["values"].append(
            {
                "name": _title(maps, layer, value),
                "steps": each.steps,
                "channels": each.channels,
                "low": each.low,
                "high": each.high,
                "size": each.size,
                "extent": [n * k * precision.reduction for n, k in zip(each.size, pixels, strict=True)],
                "scale": scale,
            }
        )
    return list(layers.values())


def _title(maps: Maps, layer: str, value: str) -> str:
    """Name of a value with its meaning, where its letter has only one."""
    gru = all((layer, name) in maps for name in _GRU_TITLES)
    return (_TITLES | (_GRU_TITLES if gru else {})).get(value, value)


def _map_scale(values: Floats) -> dict[str, Any]:
    """Colours of all channels and steps: signed about zero if some are below it."""
    with np.errstate(invalid="ignore"):
        signed = bool((values < 0).any())
    if signed:
        return _scale(error_scale([values]), "diverging")
    return _scale(value_scale(values), "grey")


def _summary(inside: Inside, packed: Mapping[tuple[str, str], Packed]) -> str:
    """Sentence on frames and layers."""
    height, width = inside.past.shape[-2:]
    layers = len({layer for layer, _ in packed})
    unit = inside.units if inside.units not in ("", "1") else ""
    what = ", ".join(inside.variables) + (f" in {unit}" if unit and inside.variables else "")
    last = "" if inside.step_s is None else f" (to {lead_text(len(inside.forecast), inside.step_s)})"
    text = f"{len(inside.past)} frames in, {len(inside.forecast)} out{last}, {height} x {width} pixels"
    return f"{what + ': ' if what else ''}{text}; {layers} recurrent layer{'s' * (layers != 1)}."


def _notes(
    frames: _Frames,
    maps: Maps,
    packed: Mapping[tuple[str, str], Packed],
    precision: Precision,
    skipped: Sequence[str],
) -> list[str]:
    """Lines on the contents of the page, their precision, and what was left out."""
    notes = [
        "A step reads one frame, the newest; in the future this is the forecast itself. Layers show what "
        "they hold after reading it.",
        "Values of layers are pure numbers. Grey is from black to white; values that may be negative are "
        "blue below zero, orange above and dark at zero, up to the 99.5th percentile of their size. All "
        "channels and steps of a value share a scale unless each has its own. Channels count from 0, as in "
        "Python.",
        f"Each channel of a layer's value is stored in {precision.levels} levels between its least and its "
        f"greatest value: numbers are exact to {50 / (precision.levels - 1):.2g}\u202f% of that range.",
    ]
    if precision.reduction > 1:
        r = precision.reduction
        notes.append(f"Left out: maps of layers are means of {r} x {r} pixels.")
    fewer: dict[tuple[str, int, int], list[str]] = {}
    for name, values in maps.items():
        kept, count = len(packed[name].channels), values.shape[1]
        if kept < count:
            fewer.setdefault((name[0], kept, count), []).append(_title(maps, *name))
    for (layer, kept, count), titles in fewer.items():
        notes.append(
            f"Left out: of the {count} channels of {layer}, {', '.join(titles)}, all but the {kept} that "
            f"vary most{' of each' * (len(titles) > 1)}."
        )
    if frames.reduction > 1:
        notes.append(f"Left out: frames are means of {frames.reduction} x {frames.reduction} pixels.")
    if skipped:
        notes.append(f"Left out: {', '.join(skipped)}, which are no maps with rows and columns.")
    if frames.radar is None:
        notes.append(
            "Black and white of frames are the 0.5th percentile of the values and the 99.5th of those above "
            "it, or 0 and 1; errors are blue where the forecast is too low and orange where it is too high."
        )
    return notes
