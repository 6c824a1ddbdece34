"""Film strips of a report: one picture per row and block, with texts for the template."""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlstm.pictures.colours import (
    BYTES,
    DIVERGING,
    GREY,
    MISSING,
    UNIT,
    Pixels,
    channel_names,
    channel_scales,
    error_scales,
    paint,
)
from convlstm.pictures.frames import divide
from convlstm.pictures.radar import DRY, NOT_MEASURED, TABLES, paint_radar
from convlstm.pictures.sizes import enlarge, resize
from convlstm.plots.curves import display_name
from convlstm.plots.run_record import RunRecord
from convlstm.scores.digits import in_text, short_ends
from convlstm.verification.cases import Case

_MARGIN = 2
_SIDE = 96  # pixels of the longer side of a frame, at least


def film_strips(record: RunRecord) -> dict[str, Any]:
    """Values of the template's section of forecasts; ``record`` has at least one case."""
    return _FilmStrips(record).values()


class _Strip(NamedTuple):
    """Frames (T, C, H, W), differences if signed, with the texts beside and in place of their picture."""

    name: str
    alt: str
    frames: NDArray[Any]
    note: str = ""
    signed: bool = False


class _FilmStrips:
    """Film strips of all cases, with the same colours and the same order of baselines."""

    def __init__(self, record: RunRecord) -> None:
        cases, scores = record.cases, record.verification
        names = list(cases[0].forecasts)
        self.cases = cases
        self.unit, self.step_s = (scores.unit, scores.step_s) if scores else ("", None)
        self.radar = TABLES.get(self.unit)
        self.gaps = any(np.isnan(case.truth).any() for case in cases)
        self.model = scores.model if scores else names[0]
        mse = scores.scores["mse"].overall if scores else {}
        baselines = sorted(
            (name for name in names if name != self.model),
            key=lambda name: value if math.isfinite(value := mse.get(name, math.nan)) else math.inf,
        )
        self.constant = [n for n in baselines if all(_is_constant(case.forecasts[n]) for case in cases)]
        self.baselines = [name for name in baselines if name not in self.constant]
        values = [frames for case in cases for frames in (case.past, case.truth)]
        errors = [case.forecasts[self.model].astype(np.float64) - case.truth for case in cases]
        self.scales = channel_scales(*values, unit=self.unit)
        self.error_scales = error_scales(errors, values, len(self.scales))

    def values(self) -> dict[str, Any]:
        """Notes, colour bars and film strips."""
        shown, times = resize({"": self.cases[0].truth}, side=_SIDE)
        reduced = shown[""].shape[3]
        return {
            "notes": self._notes(math.ceil(self.cases[0].truth.shape[3] / reduced)),
            "bars": list(self._bars()),
            "classes": self._classes(),
            "cell": reduced * times + 2 * _MARGIN,
            "enlarged": times > 1,
            "cases": [self._case(case) for case in self.cases],
        }

    def _case(self, case: Case) -> dict[str, Any]:
        model = _scored(case.forecasts[self.model], case.truth)
        error = model.astype(np.float64) - case.truth
        baselines = [_baseline(case, name) for name in self.baselines]
        past = [_Strip("past", f"Past: the {len(case.past)} frames given, {case.label} case", case.past)]
        future = [
            _Strip("truth", "Truth", case.truth),
            _Strip("forecast", f"Forecast of {display_name(self.model)}", model),
            _Strip("error", "Error, forecast minus truth", error, signed=True),
            *baselines[:1],
        ]
        blocks = self._blocks(case, past, past=True) + self._blocks(case, future)
        return {
            "title": f"{case.label.capitalize()} case",
            "facts": f"test case {case.index:,} · MSE {in_text(case.mse)}",
            "blocks": blocks,
            "more": self._blocks(case, baselines[1:]),
            "columns": max(len(block["labels"]) for block in blocks),
        }

    def _blocks(self, case: Case, strips: Sequence[_Strip], *, past: bool = False) -> list[dict[str, Any]]:
        """Pictures and texts of rows, divided into blocks of columns."""
        if not strips:
            return []
        frames_of = {str(k): strip.frames for k, strip in enumerate(strips)}
        logarithmic = self.radar is not None and self.radar.logarithmic
        unsigned = [key for key in frames_of if not strips[int(key)].signed]
        shown, times = resize(frames_of, side=_SIDE, decibels=unsigned if logarithmic else ())
        painted = {}
        for (key, frames), strip in zip(shown.items(), strips, strict=True):
            channels = self._painted(frames, signed=strip.signed)
            painted[key] = [enlarge(pixels, times) for pixels in channels]
        blocks = []
        for block in divide(painted, past=past, step_s=self.step_s):
            counted = "frames " * (self.step_s is None)
            ends = f"{block.labels[0]} to {block.labels[-1]}"
            place = "" if past else f": {counted}{ends} of the {case.label} case"
            texts_of_rows = []
            for key, channel, pixels in block.rows:
                strip = strips[int(key)]
                notes = [channel, strip.note if channel in ("", "channel 1") else ""]
                alt = ", ".join(filter(None, (strip.alt + place, channel)))
                texts = {"name": strip.name, "notes": list(filter(None, notes)), "alt": alt}
                texts_of_rows.append(texts | _png(pixels))
            labels = [label.replace("-", "−") for label in block.labels]
            blocks.append({"labels": labels, "rows": texts_of_rows})
        return blocks

    def _painted(self, frames: NDArray[Any], *, signed: bool) -> list[Pixels]:
        """Colours of frames (T, C, H, W), one picture per channel."""
        if self.radar is None:
            return paint(frames, self.error_scales if signed else self.scales, signed=signed)
        if not signed:
            return paint_radar(frames, self.radar)
        channels = paint(frames, self.error_scales, signed=True)
        for c, pixels in enumerate(channels):
            pixels[np.isnan(frames[:, c])] = NOT_MEASURED
        return channels

    def _notes(self, reduction: int) -> str:
        """Sentences on the colours and on rows that are left out."""
        channels = self.cases[0].truth.shape[1]
        notes = []
        if channels > 1:
            separate = (
                "each with a row of its own" if len(self.scales) > 1 else "shown as red, green and blue"
            )
            notes.append(f"Frames have {channels} channels, {separate}.")
        if reduction > 1:
            notes.append(f"Frames are shown at 1/{reduction} of their size.")
        notes.append(
            "All frames share these colours; errors are blue where the forecast is too low and orange where "
            "it is too high."
        )
        if self.radar is not None:
            notes.append(
                f"Rain in {self.unit} has the colours of a weather radar, in classes on a logarithmic scale."
            )
        elif any(scale not in (UNIT, BYTES) for scale in self.scales):
            notes.append(
                "Black and white are the 0.5th percentile of the values and the 99.5th of those above it; "
                "values beyond them have these colours too."
            )
        if self.constant:
            *most, last = map(display_name, self.constant)
            listed = f"{', '.join(most)} and {last}" if most else last
            notes.append(f"Not shown: {listed}, the same frame at every lead time.")
        return " ".join(notes)

    def _bars(self) -> Iterator[dict[str, str]]:
        coloured = len(self.scales) == 1 and self.cases[0].truth.shape[1] == 3
        # Red, green and blue need no explanation, and classes have one of their own.
        scales = [] if coloured or self.radar is not None else self.scales
        for kind, stops, ends in (("value", GREY, scales), ("error", DIVERGING, self.error_scales)):
            for name, scale in zip(channel_names(kind, len(ends)), ends, strict=True):
                yield {
                    "name": f"{name} ({self.unit})" if self.unit not in ("", "1") else name,
                    "low": short_ends(*scale[:2])[0],
                    "high": short_ends(*scale[:2])[1],
                    "colours": ", ".join(f"rgb{colour}" for _, colour in stops),
                    "note": "square-root scale" if scale.root else "",
                }

    def _classes(self) -> dict[str, Any] | None:
        """Colour bar of the classes of rain, and the colour of pixels that were not measured."""
        missing = f"rgb{MISSING if self.radar is None else NOT_MEASURED}" if self.gaps else ""
        if self.radar is None:
            return {"name": "", "steps": [], "missing": missing} if missing else None
        steps = [("dry", f"rgb{DRY}")]
        steps += [
            (f"{bound:g}", f"rgb{colour}")
            for bound, colour in zip(self.radar.bounds, self.radar.colours, strict=True)
        ]
        return {"name": f"rain ({self.unit})", "steps": steps, "missing": missing}


def _baseline(case: Case, name: str) -> _Strip:
    frames = _scored(case.forecasts[name], case.truth)
    return _Strip(display_name(name), f"Forecast of {name}", frames, f"MSE {in_text(case.mse_of(name))}")


def _scored(forecast: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    """A forecast without the pixels that no score counts, as the truth was not measured there."""
    missing = np.isnan(truth)
    return np.where(missing, np.float32(np.nan), forecast) if missing.any() else forecast


def _is_constant(frames: NDArray[np.floating]) -> bool:
    """True if all frames are equal or, of a single frame, all pixels."""
    first = frames[:1] if len(frames) > 1 else frames[:, :, :1, :1]
    return bool((frames == first).all())


def _png(pixels: Pixels) -> dict[str, Any]:
    """Frames (T, H, W, 3) beside each other as a base64 PNG, each with a transparent margin."""
    from PIL import Image

    framed = np.pad(pixels, ((0, 0), (0, 0), (_MARGIN, _MARGIN), (0, 1)))
    framed[:, :, _MARGIN:-_MARGIN, 3] = 255
    strip = np.concatenate(list(framed), axis=1)
    grey = (strip[..., :1] == strip[..., :3]).all()
    picture = Image.fromarray(np.ascontiguousarray(strip[..., [0, 3]] if grey else strip))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return {
        "data": base64.b64encode(file.getvalue()).decode(),
        "width": strip.shape[1],
        "height": strip.shape[0],
        "count": len(pixels),
    }
