"""Decisions about labelled data: transform, data range, grid, and whether frames fit a model."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.base import Split
from convlstm.data.climatology import fit_anomaly
from convlstm.data.extra_inputs import standardised
from convlstm.data.frame_store import FrameStore
from convlstm.data.specification import Specification, grid_text, plain_transform
from convlstm.data.transforms import Floored, Linear, Logarithm, SquareRoot, Transform
from convlstm.data.units import AMOUNTS, ZR, conversion, least_rain, same_axis_unit, time_text, unit_named
from convlstm.data.windows import fingerprint
from convlstm.errors import DataError, OptionError

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float32]
TRANSFORMS = ("auto", "none", "range", "standard", "log", "sqrt", "anomaly")
_SAMPLED = 256  # frames that statistics are computed from
_BATCH = 32  # frames read at once
_MOST_VALUES = 2**25  # of those that statistics are computed from; of large frames every n-th pixel
_RAIN = ("rain", "precip", "snowfall")
_SCALE_MMH, _TOP_MMH = 0.1, 100.0


def specify(
    frames: "xr.DataArray",
    store: FrameStore,
    times: NDArray[np.float64],
    windows: Mapping[Split, NDArray[np.int64]],
    *,
    step_s: float,
    units: str,
    transform: str,
    past: int,
    missing: tuple[float, ...],
    inputs: tuple[str, ...],
    relation: ZR | None,
) -> Specification:
    """Decide what is unknown from frames of the training split alone.

    Args:
        frames: labelled frames.
        store: their values in the unit.
        times: (N,), of all frames.
        windows: (W, K + L) of each split, indices of frames.
        step_s: seconds between frames.
        units: the unit.
        transform: of `TRANSFORMS`.
        past: K.
        missing: codes of not measured.
        inputs: names of the extra inputs.
        relation: Z-R relation, where the unit was converted by one.

    Raises:
        DataError: nothing measured in a split, negative rain, or too little for the transform.
    """
    sampled, values = _sample(store, windows["train"], whole=transform == "anomaly")
    valid = np.isfinite(values)
    values = np.where(valid, values, np.float32(np.nan))  # nor is what is infinite in the windows
    for name, found in windows.items():
        if not (valid.any() if name == "train" else _any_measured(store, found)):
            raise DataError(
                f"every split must hold measured values; {name} holds none: check --data.missing and "
                "--data.split"
            )
    low, high = float(values[valid].min()), float(values[valid].max())
    rain = is_rain(frames, units)
    dry = frames.attrs.get("dry_value", 0.0 if rain else None)
    if rain and low < least_rain(units):
        raise DataError(
            f"rain must not be negative; received {low:g} {units}: declare such a code by --data.missing"
        )
    labels = frames.coords.get("event", frames["time"]).values
    period_s = frames.attrs.get("period_s") if units in AMOUNTS else None
    covered_s = frames.attrs.get("period_s", step_s)
    made = _transform(transform, values, times[sampled], units, covered_s, rain, frames, (low, high))
    limits = frames.attrs.get("valid_range", (low, high))
    return Specification(
        variables=variables(frames),
        units=units,
        transform=plain_transform(made),
        dry_value=made.dry if made.dry is not None else dry,
        step_s=step_s,
        dated=frames["time"].dtype.kind == "M",
        grid=grid_of(frames),
        missing=missing,
        data_range=float(limits[1] - limits[0]) or 1.0,
        past=past,
        steps=windows["train"].shape[1] - past,
        inputs=inputs,
        zr=None if relation is None else (relation.a, relation.b, relation.dry_dbz),
        cell_methods=frames.attrs.get("cell_methods", ""),
        splits={name: _extent(found, labels) for name, found in windows.items()},
        fingerprint=fingerprint(times[sampled]),
        period_s=None if period_s is None else float(period_s),
    )


def _sample(
    store: FrameStore, windows: NDArray[np.int64], *, whole: bool
) -> tuple[NDArray[np.int64], Floats]:
    """Indices of frames spread evenly over the windows, and their values (T, C, H, W).

    Args:
        store: of the frames.
        windows: (W, K + L), indices of frames.
        whole: every pixel, and as many frames as memory allows; of large frames every n-th pixel otherwise.
    """
    used = np.unique(windows[windows >= 0])
    size = int(np.prod(store.shape))
    count = min(len(used), max(_SAMPLED, _MOST_VALUES // size) if whole else _SAMPLED)
    stride = 1 if whole else math.ceil(math.sqrt(count * size / _MOST_VALUES))
    sampled = used[np.linspace(0, len(used) - 1, count).round().astype(int)]
    # In batches, as neighbours are read together from many formats.
    batches = np.array_split(sampled, math.ceil(len(sampled) / _BATCH))
    frames = (frame for batch in batches for frame in store.read(batch.tolist()) if frame is not None)
    return sampled, np.stack([frame[:, ::stride, ::stride].copy() for frame in frames])


def _any_measured(store: FrameStore, windows: NDArray[np.int64]) -> bool:
    """True if the frames of windows hold a measured value; they are read up to the first that does."""
    indices = np.unique(windows[windows >= 0]).tolist()
    return any(np.isfinite(frame).any() for index in indices for frame in store.read([index]))  # type: ignore[arg-type]


def variables(frames: "xr.DataArray") -> tuple[str, ...]:
    """Names of the channels."""
    return tuple(str(name) for name in frames["channel"].values)


def grid_of(frames: "xr.DataArray") -> dict[str, Any]:
    """Grid of frames: shape, spacing, unit and direction of its axes, and the grid mapping, where known."""
    grid: dict[str, Any] = {"shape": [int(frames.sizes["y"]), int(frames.sizes["x"])]}
    axes = [frames.coords[axis] for axis in ("y", "x") if axis in frames.coords]
    if len(axes) == 2 and all(
        axis.ndim == 1 and axis.size > 1 and axis.attrs.get("units", "1") != "1" for axis in axes
    ):
        lengths = [_length(axis) for axis in axes]
        grid["spacing"] = [abs(length) / (axis.size - 1) for length, axis in zip(lengths, axes, strict=True)]
        grid["units"] = str(axes[0].attrs["units"])
        grid["ascending"] = [length > 0 for length in lengths]
        if grid["units"].lower().replace("_", "").startswith(("degreen", "degreesn")):
            rows = np.asarray(axes[0].values, np.float64)
            even = np.abs(rows - np.linspace(rows[0], rows[-1], len(rows))).max() < 0.01 * grid["spacing"][0]
            grid["latitude"] = rows[[0, -1]].tolist() if even else rows.tolist()
    if "crs" in frames.coords:
        grid["crs"] = {name: _plain(value) for name, value in frames.coords["crs"].attrs.items()}
    return grid


def _length(axis: "xr.DataArray") -> float:
    """From the first to the last coordinate; longitudes may wrap round, from 359 to 0 or from 179 to -180."""
    values = np.asarray(axis.values, np.float64)
    if str(axis.attrs["units"]).lower().startswith("degree"):
        values = np.unwrap(values, period=360)
    return float(values[-1] - values[0])


def check_fits(frames: "xr.DataArray", step_s: float, specification: Specification) -> None:
    """Refuse frames that a model was not trained for.

    Raises:
        DataError: other channels, another time step, amounts of another time, pixels of another size or in
            another order; any shape is taken, unless the transform belongs to places.
    """
    if frames.shape[1] != len(specification.variables):
        raise DataError(
            f"frames must have the channels of the model, {', '.join(specification.variables)}; received "
            f"{', '.join(variables(frames))}: choose them by --data.variable"
        )
    if len(frames) > 1 and abs(step_s - specification.step_s) > 0.1 * specification.step_s:
        raise DataError(
            f"frames must be {time_text(specification.step_s)} apart, as in training; received "
            f"{time_text(step_s)}: give frames of that time step"
        )
    period_s, trained_s = frames.attrs.get("period_s"), specification.period_s
    amounts = {unit_named(frames.attrs.get("units", "")), specification.units} <= {*AMOUNTS}
    if amounts and period_s and trained_s and abs(period_s - trained_s) > 0.1 * trained_s:
        raise DataError(
            f"amounts must cover {time_text(trained_s)}, as in training; received {time_text(period_s)}: "
            "give amounts of that time, or rates"
        )
    grid, trained = grid_of(frames), specification.grid
    if "spacing" in grid and "spacing" in trained:
        apart = [abs(a - b) > 0.01 * b for a, b in zip(grid["spacing"], trained["spacing"], strict=True)]
        if any(apart) or not same_axis_unit(grid.get("units"), trained.get("units")):
            raise DataError(
                f"pixels must be {grid_text(trained)}, as in training; received {grid_text(grid)}: bring the "
                "frames to that grid"
            )
    ends = grid.get("ascending", ()), trained.get("ascending", ())
    for axis, here, there in zip("yx", *ends, strict=False):
        if here != there:
            raise DataError(
                f"coordinates must {'as' if there else 'des'}cend along {axis}, as in training; they "
                f"{'as' if here else 'des'}cend: turn the frames by frames.isel({axis}=slice(None, None, -1))"
            )


def static_inputs(
    specification: Specification, given: Floats | None, size: Sequence[int], option: str = "--static"
) -> Floats | None:
    """The static fields (S, H, W) that a model reads, scaled as in training; None if it reads none.

    Args:
        specification: of the data that the model was trained on.
        given: (S, H, W), fields in their units; those of the training if None.
        size: H and W of the frames.
        option: by which fields are given, for messages.

    Raises:
        OptionError: the model reads some, none are given and none are stored; or the other way round.
        DataError: as many others, or on another grid.
    """
    wanted, stored = specification.inputs.count("static"), specification.static_fields()
    fields = stored if given is None else given
    if (fields is None) != (wanted == 0):
        remedy = f"give {option} FILE" if wanted else f"leave {option} out"
        raise OptionError(
            f"static fields must be given to a model that reads some; this one reads {wanted} and received "
            f"{'none' if fields is None else len(fields)}: {remedy}"
        )
    if fields is None:
        return None
    if fields.shape != (wanted, *size):
        raise DataError(
            f"static fields must be the {wanted} that the model reads, on the grid of the frames, "
            f"{' x '.join(map(str, size))}; those {'of the training' if given is None else 'given'} have "
            f"{' x '.join(map(str, fields.shape))}: give {option} FILE with fields of that grid"
        )
    return standardised(fields, fields if stored is None else stored)


def _transform(
    name: str,
    values: Floats,
    times: NDArray[np.float64],
    units: str,
    covered_s: float,
    rain: bool,
    frames: "xr.DataArray",
    limits: tuple[float, float],
) -> Transform:
    """The transform of a name, fitted to values (T, C, H, W)."""
    if name == "auto":
        name = "log" if rain or units == "dBZ" else "range" if "valid_range" in frames.attrs else "standard"
    low, high = limits
    if name == "none":
        return Linear()
    if name == "range":
        low, high = frames.attrs.get("valid_range", limits)
        return Linear(float(low), float(high - low) or 1.0)
    if name == "anomaly":
        return fit_anomaly(values, times)
    if name == "log" and units == "dBZ":
        return Floored(dry=float(frames.attrs.get("dry_value", -32.0)))
    if name in ("log", "sqrt"):
        convert = conversion("mm/h", units, step_s=covered_s) if rain and units != "1" else lambda ends: ends
        scale, top = convert(np.array([_SCALE_MMH, _TOP_MMH], np.float32)).tolist()
        return Logarithm(scale, top) if name == "log" else SquareRoot(top)
    axes = (0, 2, 3)
    if not (there := np.isfinite(values).any(axes)).all():
        raise DataError(
            "every channel must hold measured values in training, of which its scale is made; "
            f"{variables(frames)[int(there.argmin())]} holds none: choose the others by --data.variable, or "
            "use --data.transform none"
        )
    # By a power of two, which rounds nothing: 32 bits do not hold the squares of 1e20 and 1e-25.
    _, power = np.frexp(np.nan_to_num(np.nanmax(np.abs(values), axes)))
    values = np.ldexp(values, -power[:, None, None])
    mean, deviation = (np.ldexp(found(values, axes), power) for found in (np.nanmean, np.nanstd))
    return Linear(mean.tolist(), np.where(deviation > 0, deviation, 1).tolist())


def is_rain(frames: "xr.DataArray", units: str) -> bool:
    """True for rain rates and amounts; a flux described without a word of rain is another, as evaporation."""
    described = " ".join(str(frames.attrs.get(name, "")) for name in ("standard_name", "long_name")).lower()
    words = f"{described} {' '.join(variables(frames)).lower()}"
    named = any(word in words for word in _RAIN)
    flux = named or not described.strip()
    source = unit_named(frames.attrs.get("units", ""))
    of_rates = source in ("mm/h", "dBZ") or (source == "kg m-2 s-1" and flux)
    return units == "mm/h" or (units == "kg m-2 s-1" and flux) or (units in AMOUNTS and (of_rates or named))


def _extent(windows: NDArray[np.int64], times: NDArray[Any]) -> list[Any]:
    """Frames and windows of a split, its first and last time, or seconds since the first frame of all."""
    used = np.unique(windows[windows >= 0])
    ends = times[used].min(), times[used].max()
    if times.dtype.kind == "m":
        return [len(used), len(windows), *(f"{end / np.timedelta64(1, 's'):.12g} s" for end in ends)]
    whole = (times == times.astype("datetime64[s]")).all()
    unit = "datetime64[s]" if whole else "datetime64[us]"  # several frames a second
    return [len(used), len(windows), *(str(end.astype(unit)) for end in ends)]


def _plain(value: Any) -> Any:
    """An attribute as JSON holds it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
