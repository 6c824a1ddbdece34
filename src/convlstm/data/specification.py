"""Specification of labelled data: all that a model folder stores of what its model was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convlstm.data.climatology import Anomaly, unpacked
from convlstm.data.transforms import Floored, Linear, Logarithm, SquareRoot, Transform
from convlstm.data.units import ZR, time_text
from convlstm.errors import OptionError, RunError

#: Stands for the times and the fingerprint of frames that are generated.
GENERATED = "generated"
#: Ways to treat missing frames.
GAPS = ("refuse", "mask")
#: Transforms by the name that is stored.
KINDS: Mapping[str, type[Transform]] = {
    "linear": Linear,
    "floored": Floored,
    "logarithm": Logarithm,
    "square_root": SquareRoot,
    "anomaly": Anomaly,
}

#: Thresholds of verification by unit, unless others are given.
THRESHOLDS: Mapping[str, tuple[float, ...]] = {
    "mm/h": (0.5, 1.0, 2.5, 5.0, 10.0),
    "dBZ": (15.0, 25.0, 35.0, 45.0),
}


@dataclass(frozen=True, kw_only=True)
class Specification:
    """Specification of the frames that a model was trained on.

    Attributes:
        variables: name of each channel.
        units: of the values.
        transform: kind (of `KINDS`) and arguments of the transform, as plain data.
        dry_value: value that stands for measured and dry, in the unit; None if there is none.
        step_s: seconds between frames.
        dated: True if frames have dates, False if times count from the first frame.
        grid: ``spacing`` [rows, columns], ``units`` and ``crs`` where known, ``shape`` [H, W], and on a
            geographic grid ``latitude`` [first row, last row], or of every row where these are uneven.
        missing: codes that were taken for not measured.
        data_range: largest minus smallest value of the data, for PSNR and SSIM.
        past: K, frames of the past of a window.
        steps: L, frames of its future.
        inputs: names of the extra input channels, ``static`` for each static field.
        static: these fields (S, H, W) on the grid, as `convlstm.data.climatology.packed` gives them.
        zr: a, b and dry_dbz of the Z-R relation, where one was used.
        cell_methods: of the variables, such as ``time: sum``.
        period_s: seconds that an amount covers, where the files state it.
        parts: of a mixture, ``grid``, ``dated``, ``splits``, ``static``, ``missing`` and ``gaps`` of each
            archive.
        gaps: ``refuse`` if the training left out windows with missing frames, ``mask`` if it took these as
            not measured.
        splits: frames, windows, first and last time of each split.
        fingerprint: of the times that statistics were computed from.
    """

    variables: tuple[str, ...]
    units: str
    transform: Mapping[str, Any]
    dry_value: float | None
    step_s: float
    dated: bool
    grid: Mapping[str, Any]
    missing: tuple[float, ...]
    data_range: float
    past: int
    steps: int
    inputs: tuple[str, ...] = ()
    zr: tuple[float, float, float] | None = None
    cell_methods: str = ""
    splits: Mapping[str, Sequence[Any]]
    fingerprint: str
    static: str | None = None
    period_s: float | None = None
    parts: tuple[Mapping[str, Any], ...] = ()
    gaps: str = "refuse"

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON holds."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, plain: object) -> Self:
        """Inverse of `to_dict`.

        Raises:
            RunError: something else, or of another version.
        """
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not isinstance(plain, dict) or not needed <= plain.keys() <= names:
            found = ", ".join(map(str, plain)) if isinstance(plain, dict) else repr(plain)
            raise RunError(
                f"a specification of data must hold {', '.join(sorted(names))}; received {found[:300]}: copy "
                "the folder again"
            )
        lists = ("variables", "missing", "inputs", "zr", "parts")
        values: dict[str, Any] = {
            name: tuple(value) if name in lists and value is not None else value
            for name, value in plain.items()
        }
        return cls(**values)

    def built_transform(self) -> Transform:
        """The transform.

        Raises:
            RunError: it is none of `KINDS`, or cannot be built.
        """
        name, arguments = self.transform["kind"], dict(self.transform["arguments"])
        try:
            return KINDS[name](**arguments)
        except (LookupError, TypeError, OptionError) as error:
            raise RunError(
                f"a transform must be one of {', '.join(KINDS)} with its arguments; {name} gave '{error}': "
                "copy the folder again"
            ) from error

    def on(self, grid: Mapping[str, Any]) -> list[Self]:
        """Specifications of the archives of a mixture on a grid; this one where there are none."""
        found = [replace(self, **part, parts=()) for part in self.parts if same_grid(part["grid"], grid)]
        return found or [self]

    def static_fields(self) -> NDArray[np.float32] | None:
        """The static fields (S, H, W) that are extra inputs, in their units; None if there are none.

        Raises:
            DataError: they are damaged.
        """
        if self.static is None:
            return None
        fields: NDArray[np.float32] = unpacked(
            self.static, (self.inputs.count("static"), *self.grid["shape"])
        ).numpy()
        return fields

    def to_units(self, values: Tensor, times: Tensor | None = None) -> Tensor:
        """Values (..., T, C, H, W) in the unit, from the scale of the network; none below a dry value of 0.

        Args:
            values: in the scale of the network.
            times: (..., T), seconds since 1970-01-01.
        """
        found = self.built_transform().inverse(values, times)
        return found.clamp(min=0) if self.dry_value == 0 else found

    @property
    def known_step_s(self) -> float | None:
        """Seconds between frames; None for frames without times."""
        return known_step(self.step_s, dated=self.dated)

    @property
    def covered_s(self) -> float:
        """Seconds that an amount covers; those between frames where the files do not state it."""
        return self.period_s or self.step_s

    @property
    def dry_text(self) -> str:
        """Values that count as measured and dry, in words; empty if none does."""
        if self.dry_value is None:
            return ""
        least = getattr(self.built_transform(), "least", None)
        return f"dry at {self.dry_value:g}" + ("" if least is None else f" and wherever below {least:g}")

    def relation(self) -> ZR | None:
        """The Z-R relation, where one was used."""
        return None if self.zr is None else ZR(*self.zr)

    def lines(self) -> list[str]:
        """The decisions in five lines."""
        arguments = {
            name: value for name, value in self.transform["arguments"].items() if name != "coefficients"
        }
        numbers = ", ".join(f"{name} {_short(value)}" for name, value in arguments.items())
        missing = ", ".join(f"{code:g}" for code in self.missing)
        height, width = self.grid["shape"]
        spacing = grid_text(self.grid)
        generated = self.fingerprint == GENERATED
        splits = "; ".join(
            f"{name} {windows} window{'s' * (windows > 1)}"
            + ("" if generated else f" in {frames} frames, {span_text(first, last)}")
            for name, (frames, windows, first, last) in self.splits.items()
        )
        dry = f", {self.dry_text}" if self.dry_text else ""
        return [
            f"values: {', '.join(self.variables)} in {unit_text(self.units)}{dry}, "
            f"range {self.data_range:.4g}" + (f", codes {missing} not measured" if missing else ""),
            f"scale of the network: {self.transform['kind']} ({numbers})",
            f"grid: {height} x {width}" + (f", {spacing}" if spacing else ""),
            f"time: a frame every {interval_text(self.step_s)}, {self.past} in, {self.steps} out"
            + (f"; extra inputs {', '.join(self.inputs)}" if self.inputs else "")
            + ("; missing frames as not measured" if self.gaps == "mask" else ""),
            f"splits: {splits}; "
            + ("all generated" if generated else f"statistics of training only, {self.fingerprint}"),
        ]


def plain_transform(transform: Transform) -> dict[str, Any]:
    """Kind and arguments of a transform as plain data."""
    kinds = {kind: name for name, kind in KINDS.items()}
    arguments = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in transform._convlstm_arguments.items()
    }
    return {"kind": kinds[type(transform)], "arguments": arguments}


def known_step(step_s: float, *, dated: bool) -> float | None:
    """The time step; None for frames without times, which are counted as one a second."""
    return step_s if dated or step_s != 1 else None


def same_grid(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True for equal grids; of rows of latitude the ends count, which alone earlier versions stored."""
    grids = [dict(one), dict(other)]
    for grid in grids:
        if "latitude" in grid:
            grid["latitude"] = [grid["latitude"][0], grid["latitude"][-1]]
    return grids[0] == grids[1]


def grid_text(grid: Mapping[str, Any]) -> str:
    """Spacing of a grid with its unit; empty if unknown."""
    units = str(grid.get("units", ""))
    units = "degrees" if "latitude" in grid else units
    return (" x ".join(f"{value:g}" for value in grid.get("spacing", [])) + f" {units}").strip()


def unit_text(units: str) -> str:
    """A unit as people read it."""
    return "no unit" if units in ("", "1") else units


def span_text(first: str, last: str) -> str:
    """From one time to another: without zero seconds, with hours unless both are zero, a date only once."""
    if first.endswith("T00:00:00") and last.endswith("T00:00:00"):
        first, last = first[:10], last[:10]
    ends = [end.replace("T", " ").removesuffix(":00") if "T" in end else end for end in (first, last)]
    same = "T" in first and first[:10] == last[:10]
    return f"{ends[0]} to {ends[1][11 * same :]}" if first != last else ends[0]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def interval_text(seconds: float) -> str:
    """Time between two frames, as said after "every"."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")) if seconds < 864000 else ():
        if seconds >= size and seconds % size == 0:
            count = round(seconds / size)
            return name if count == 1 else f"{count} {name}s"
    return time_text(seconds)
