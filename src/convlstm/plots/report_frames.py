"""Film strips of a report: one picture per row and block, with texts for the template."""

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.pictures.colours import (
    BYTES,
    DIVERGING,
    GREY,
    UNIT,
    Pixels,
    Scale,
    Stops,
    channel_names,
    channel_scales,
    error_scales,
    paint,
)
from convlstm.pictures.frames import Block, divide, enlarge, resize
from convlstm.plots.curves import display_name
from convlstm.plots.run_record import RunRecord
from convlstm.scores.digits import in_text, short
from convlstm.verification.verify import Case

_MARGIN = 2


def film_strips(record: RunRecord) -> dict[str, Any]:
    """Values of the template's section of forecasts; ``record`` has at least one case."""
    return _FilmStrips(record).values()


class _FilmStrips:
    """Film strips of all cases, with the same colours and the same order of baselines."""

    def __init__(self, record: RunRecord) -> None:
        cases, scores = record.cases, record.verification
        names = list(cases[0].forecasts)
        self.cases = cases
        self.model = scores.model if scores else names[0]
        mse = scores.scores["mse"].overall if scores else {}
        baselines = sorted(
            (name for name in names if name != self.model),
            key=lambda name: value if math.isfinite(value := mse.get(name, math.nan)) else math.inf,
        )
        constant = {name: all(_is_constant(case.forecasts[name]) for case in cases) for name in baselines}
        self.constant = [name for name in baselines if constant[name]]
        self.baselines = [name for name in baselines if not constant[name]]
        values = [frames for case in cases for frames in (case.past, case.truth)]
        errors = [case.forecasts[self.model].astype(np.float64) - case.truth for case in cases]
        self.scales = channel_scales(*values)
        self.error_scales = error_scales(errors, values, len(self.scales))

    def values(self) -> dict[str, Any]:
        """Notes, colour bars and film strips."""
        shown, times = resize({"": self.cases[0].truth})
        reduced = shown[""].shape[3]
        return {
            "notes": self._notes(math.ceil(self.cases[0].truth.shape[3] / reduced)),
            "bars": [*self._bars(signed=False), *self._bars(signed=True)],
            "cell": reduced * times + 2 * _MARGIN,
            "enlarged": times > 1,
            "cases": [self._case(case) for case in self.cases],
        }

    def _case(self, case: Case) -> dict[str, Any]:
        model = case.forecasts[self.model]
        best, others = self.baselines[:1], self.baselines[1:]
        future = {"truth": case.truth, "forecast": model, "error": model.astype(np.float64) - case.truth}
        # The prefix, as in cases.npz, separates baselines from the rows above whatever their names.
        future |= {f"forecast_{name}": case.forecasts[name] for name in best}
        past = [self._block(case, block) for block in divide(self._paint({"past": case.past}), past=True)]
        columns = max(len(block["labels"]) for block in past)
        blocks = past + [self._block(case, block) for block in divide(self._paint(future))]
        more = {f"forecast_{name}": case.forecasts[name] for name in others}
        return {
            "title": f"{case.label.capitalize()} case",
            "facts": f"test case {case.index:,} · MSE {in_text(case.mse)}",
            "blocks": blocks,
            "more": [self._block(case, block) for block in divide(self._paint(more))] if more else [],
            "columns": max(columns, *(len(block["labels"]) for block in blocks)),
        }

    def _paint(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, list[Pixels]]:
        shown, times = resize(rows)
        painted = {}
        for name, frames in shown.items():
            scales = self.error_scales if name == "error" else self.scales
            channels = paint(frames, scales, signed=name == "error")
            painted[name] = [enlarge(pixels, times) for pixels in channels]
        return painted

    def _block(self, case: Case, block: Block) -> dict[str, Any]:
        rows = []
        for name, channel, pixels in block.rows:
            notes = [channel] if channel else []
            baseline = name.removeprefix("forecast_")
            if baseline != name and channel in ("", "channel 1"):
                mse = np.mean((case.forecasts[baseline].astype(np.float64) - case.truth) ** 2)
                notes.append(f"MSE {in_text(float(mse))}")
            alt = self._alt(name, case, block.start + 1, block.start + len(block.labels))
            alt = f"{alt}, {channel}" if channel else alt
            rows.append({"name": display_name(baseline), "notes": notes, "alt": alt} | _png(pixels))
        return {"labels": [label.replace("-", "−") for label in block.labels], "rows": rows}

    def _alt(self, name: str, case: Case, first: int, last: int) -> str:
        """Text that stands for a picture."""
        if name == "past":
            return f"Past: the {len(case.past)} frames given, {case.label} case"
        title = {
            "truth": "Truth",
            "forecast": f"Forecast of {display_name(self.model)}",
            "error": "Error, forecast minus truth",
        }.get(name, f"Forecast of {name.removeprefix('forecast_')}")
        return f"{title}: frames +{first} to +{last} of the {case.label} case"

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
            "All cases share these colours; errors are blue where the forecast is too low and orange where "
            "it is too high."
        )
        if any(scale not in (UNIT, BYTES) for scale in self.scales):
            notes.append(
                "Black and white are the 0.5th percentile of the values and the 99.5th of those above it; "
                "values beyond them have these colours too."
            )
        if self.constant:
            *most, last = map(display_name, self.constant)
            listed = f"{', '.join(most)} and {last}" if most else last
            notes.append(f"Not shown: {listed}, the same frame at every lead time.")
        return " ".join(notes)

    def _bars(self, *, signed: bool) -> list[dict[str, str]]:
        scales = self.error_scales if signed else self.scales
        if not signed and len(scales) == 1 and self.cases[0].truth.shape[1] == 3:
            return []  # red, green and blue need no explanation
        names = channel_names("error" if signed else "value", len(scales))
        return [
            _bar(name, DIVERGING if signed else GREY, scale)
            for name, scale in zip(names, scales, strict=True)
        ]


def _bar(name: str, stops: Stops, scale: Scale) -> dict[str, str]:
    return {
        "name": name,
        "low": short(scale.low),
        "high": short(scale.high),
        "colours": ", ".join(f"rgb{colour}" for _, colour in stops),
        "note": "square-root scale" if scale.root else "",
    }


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
