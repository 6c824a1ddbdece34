"""Archives of frames: one labelled, lazy array from files, folders or arrays in memory."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlstm.data.discovery import as_dataset, discover
from convlstm.data.files import IMAGES
from convlstm.data.readers.arrays import array_dataset
from convlstm.data.readers.gridded import labelled_dataset
from convlstm.data.readers.lazy import FileArray
from convlstm.data.readers.packing import without
from convlstm.data.units import check_unit, time_text
from convlstm.data.windows import check_one_step
from convlstm.errors import DataError, OptionError
from convlstm.extras import check_installed
from convlstm.validation import is_number, received

if TYPE_CHECKING:
    import xarray as xr
    from dask.array import Array

    Frames: TypeAlias = (
        str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | xr.DataArray | xr.Dataset | NDArray[Any]
    )

_FRAME, _GAP = np.timedelta64(10**9, "ns"), np.timedelta64(86400 * 10**9, "ns")
_MEMORY = Path("the array in memory")
_PER_CHANNEL = ("units", "cell_methods", "dtype", "dry_value", "valid_range", "period_s", "periods_s")


def open_frames(
    path: "Frames",
    *,
    reader: str | Callable[[Path], Any] | None = None,
    variable: str | Sequence[str] | None = None,
    missing: float | Sequence[float] = (),
    units: str | None = None,
    skip_bad: bool = False,
) -> "xr.DataArray":
    """Open frames as one labelled array; only labels are read, values when they are asked for.

    Files that have no dates are put one after the other in the order of the numbers in their names: files of
    one frame a second apart, others with a gap of a day between them.

    Args:
        path: a file, a folder (with the folders in it; hidden ones are left out), a pattern such as
            ``radar/2021*/*.h5``, or a list of these; or frames in memory: a DataArray or Dataset with named
            axes, or an array (T, H, W) or (T, C, H, W).
        reader: name of a reader, or a function of your own, or its dotted path, that takes the path of a file
            and returns a DataArray; None to find the reader by the content of the first file.
        variable: name of the variable, or names of several, which become channels; None for the only one.
        missing: values that stand for "not measured" in the files, beside those that the format names.
        units: of values whose files state none; others keep theirs.
        skip_bad: leave out damaged files with a warning; frames whose damage shows only when their values are
            read become NaN.

    Returns:
        (time, channel, y, x), float32, backed by dask, NaN where not measured, sorted by time. Coordinates
        are ``time`` (datetime64[ns], or timedelta64[ns] where the files have no dates), ``channel`` (names),
        ``y``, ``x``, where known ``crs``, ``lat`` and ``lon`` (y, x) of curvilinear grids, and ``event``
        (time,), dates of the events that undated frames belong to. Attributes, as far as known: ``units``,
        ``cell_methods`` and ``dtype`` in the file (joined by ", " where channels differ), ``dry_value`` and
        ``valid_range`` (where channels do not differ), ``period_s``, the seconds that an amount covers, or
        ``periods_s``, the least and the most where frames or channels cover different times, ``long_name``,
        ``standard_name``, ``grid_mapping``, and always ``reader``, ``files`` and ``skipped`` (counts).

    Raises:
        DataError: no files, none that a reader recognises, a variable that is not there, mixed grids, units
            or channels, duplicate times, or a damaged file.
        OptionError: an unknown reader or an unfit option.
    """
    check_installed("xarray", "frames need xarray")
    import xarray as xr

    codes = np.array(missing_codes(missing), np.float32)
    names = (variable,) if isinstance(variable, str) else None if variable is None else tuple(variable)
    parts: list[_Part] = []
    skipped = 0
    if isinstance(path, xr.DataArray | xr.Dataset | np.ndarray):
        found = "memory"
        parts = [_part(_in_memory(path), names, _MEMORY, 0)]
    else:
        files, found, read = discover(path, reader)
        for k, file in enumerate(files):
            try:
                part = _part(read(file), names, file, k)
            except DataError as error:
                if not skip_bad:
                    raise
                warnings.warn(f"left out: {error}", stacklevel=2)
                skipped += 1
                continue
            if parts:
                _check_alike(parts[0], part)
            parts.append(part)
        if not parts:
            raise DataError(f"frames must come from readable files; all {len(files)} of {path} are damaged")
    frames = _joined(parts, careful=skip_bad)
    frames = without_codes(frames, codes)
    frames.data = _in_one_layer(frames.data)
    frames.attrs |= {"reader": found, "files": len(parts), "skipped": skipped}
    if units is not None and not frames.attrs.get("units"):
        frames.attrs["units"] = check_unit(units)
    return frames


def without_codes(frames: "xr.DataArray", codes: Sequence[float] | NDArray[np.float32]) -> "xr.DataArray":
    """Frames that are NaN, not measured, where they hold one of some codes."""
    if not len(codes):
        return frames
    found = np.asarray(codes, np.float32)
    return frames.copy(data=frames.data.map_blocks(without, found, dtype=np.float32))


def missing_codes(missing: Any) -> tuple[float, ...]:
    """Values that stand for "not measured", from a number or several.

    Raises:
        OptionError: anything else.
    """
    entries = (missing,) if is_number(missing) else missing
    if not isinstance(entries, list | tuple) or not all(is_number(each) for each in entries):
        raise OptionError(
            f"missing must be numbers; received {received(missing)}: give 255, say, or (255, -1)"
        )
    return tuple(float(each) for each in entries)


def _in_memory(frames: "xr.DataArray | xr.Dataset | NDArray[Any]") -> "xr.Dataset":
    if isinstance(frames, np.ndarray):
        dtype = frames.dtype
        if isinstance(frames, np.ma.MaskedArray) and dtype.kind in "biuf":
            frames = np.ma.filled(frames.astype(np.float32), np.nan)
        array = FileArray(_MEMORY, frames.shape, frames.__getitem__)
        return array_dataset({"frames": (array, dtype)}, None, _MEMORY)
    return labelled_dataset(as_dataset(frames), _MEMORY)


@dataclass(frozen=True)
class _Part:
    """Frames of one file: arrays ([T, [C,]] H, W) of its variables, and what is compared between files."""

    path: Path
    index: int  # among the files found
    variables: tuple[str, ...]
    times: NDArray[Any]
    arrays: "list[Array]"
    channels: tuple[str, ...]
    attributes: dict[str, tuple[Any, ...]]  # one entry per channel
    dataset: "xr.Dataset"


def _part(dataset: "xr.Dataset", names: tuple[str, ...] | None, path: Path, index: int) -> _Part:
    chosen = _chosen(dataset, names, path)
    channels: list[str] = []
    attributes: dict[str, tuple[Any, ...]] = dict.fromkeys(_PER_CHANNEL, ())
    for name in chosen:
        variable = dataset.variables[name]
        labels = [name]
        if "channel" in variable.dims:
            own = (
                dataset["channel"].values if "channel" in dataset.coords else range(dataset.sizes["channel"])
            )
            labels = [str(each) if len(chosen) == 1 else f"{name}_{each}" for each in own]
        channels += labels
        for key in _PER_CHANNEL:
            value = variable.attrs.get(key)
            value = tuple(value) if isinstance(value, np.ndarray | list) else value
            attributes[key] += (value,) * len(labels)
    arrays = [dataset.variables[name].data for name in chosen]
    times = dataset.variables["time"].values
    if not times.size or any(0 in array.shape for array in arrays):
        raise DataError(f"frames must have pixels and times; {path} has none: leave it out")
    return _Part(path, index, chosen, times, arrays, tuple(channels), attributes, dataset)


def main_variables(dataset: "xr.Dataset") -> tuple[str, ...]:
    """The variables that change with time and accompany no other, as flags of quality do; or ``frames``."""
    found = [str(name) for name in dataset.data_vars]
    variables = dataset.data_vars.values()
    ancillary = {name for v in variables for name in v.attrs.get("ancillary_variables", "").split()}
    moving = [name for name in found if "time" in dataset[name].dims and name not in ancillary] or found
    return ("frames",) if "frames" in moving else tuple(moving)


def _chosen(dataset: "xr.Dataset", names: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    """The variables asked for; without a choice the only one that changes with time, or ``frames``."""
    found = [str(name) for name in dataset.data_vars]
    if names is None:
        candidates = main_variables(dataset)
        if len(candidates) > 1:
            raise DataError(
                f"one variable must be chosen where there are several; {path} holds {', '.join(candidates)}: "
                "name one, or several that become channels, with --data.variable"
            )
        return candidates
    for name in names:
        if name in dataset.attrs.get("refused", {}):
            raise DataError(dataset.attrs["refused"][name])
        if name not in found:
            near = get_close_matches(name, found, n=1)
            hint = f"did you mean {near[0]}?" if near else "name one of these"
            raise DataError(
                f"variable must be one that the files hold; {path} holds {', '.join(found)}, not {name!r}: "
                f"{hint}"
            )
    return names


def _check_alike(first: _Part, part: _Part) -> None:
    """Refuse a file whose grid, channels or units are others than the first file's."""

    def differs(what: str, here: Any, there: Any) -> None:
        raise DataError(
            f"files of one archive must have one {what}; {first.path} has {here}, {part.path} has {there}: "
            "open them apart"
        )

    if first.channels != part.channels:
        differs("set of channels", ", ".join(first.channels), ", ".join(part.channels))
    shapes = [each.arrays[0].shape[-2:] for each in (first, part)]
    if shapes[0] != shapes[1]:
        differs("grid", *(" x ".join(map(str, shape)) for shape in shapes))
    for axis in ("y", "x"):
        if axis in first.dataset.coords and axis in part.dataset.coords:
            here, there = (each.dataset.variables[axis].values for each in (first, part))
            tolerance = 1e-3 * abs(here[-1] - here[0]) / max(1, len(here) - 1)
            if not np.allclose(here, there, rtol=0, atol=tolerance):
                differs(
                    "grid", f"{axis} from {here[0]} to {here[-1]}", f"{axis} from {there[0]} to {there[-1]}"
                )
    for axis in ("lat", "lon"):  # of each pixel
        if axis in first.dataset.coords and axis in part.dataset.coords:
            here, there = (each.dataset.variables[axis].values for each in (first, part))
            low, high = np.nanmin(here), np.nanmax(here)  # NaN beside the disk of a satellite
            tolerance = 1e-3 * (high - low) / max(here.shape)
            if not np.allclose(here, there, rtol=0, atol=tolerance, equal_nan=True):
                other = f"{np.nanmin(there):g} to {np.nanmax(there):g}"
                differs("grid", f"{axis} from {low:g} to {high:g}", f"{axis} from {other}")
    mappings = [each.dataset.variables["crs"].attrs for each in (first, part) if "crs" in each.dataset.coords]
    if len(mappings) == 2 and mappings[0] != mappings[1]:
        differs("grid mapping", *(each.get("grid_mapping_name", "another") for each in mappings))
    if first.path.suffix.lower() in IMAGES:
        left, right = (each.dataset.variables[each.variables[0]].attrs for each in (first, part))
        alike = left.get("valid_range") == right.get("valid_range")
        if not (alike or left.get("bilevel") or right.get("bilevel")):  # of one bit: black alone, say
            kinds_of = [f"{each.get('dtype')} in {each.get('valid_range')}" for each in (left, right)]
            differs("kind of values", *kinds_of)
    if first.attributes["units"] != part.attributes["units"]:
        differs("unit", *(", ".join(map(str, each.attributes["units"])) for each in (first, part)))
    periods = [each.attributes["period_s"] for each in (first, part)]
    if None not in [entry for period in periods for entry in period] and periods[0] != periods[1]:
        differs(
            "time that amounts cover", *(", ".join(time_text(entry) for entry in each) for each in periods)
        )
    if first.times.dtype.kind != part.times.dtype.kind:
        kinds = {"M": "dates", "m": "no dates"}
        differs("kind of times", kinds[first.times.dtype.kind], kinds[part.times.dtype.kind])


def _values(parts: list[_Part], *, careful: bool) -> "Array":
    """Values (T, C, H, W) of all files."""
    from dask.array import broadcast_to, concatenate

    channels: list[Array] = []
    for k, name in enumerate(parts[0].variables):
        arrays = [part.arrays[k] for part in parts]
        labelled = ["channel" in part.dataset.variables[name].dims for part in parts]
        arrays = [
            array
            if "time" in part.dataset.variables[name].dims
            else broadcast_to(array, (len(part.times), *array.shape))  # type: ignore[no-untyped-call]
            for array, part in zip(arrays, parts, strict=True)
        ]
        arrays = [_nan_where_damaged(array) for array in arrays] if careful else arrays
        if any(labelled) and not all(labelled):
            arrays = [a if there else a[:, None] for a, there in zip(arrays, labelled, strict=True)]
        values = concatenate(arrays)  # type: ignore[no-untyped-call]
        channels.append(values if any(labelled) else values[:, None])
    joined: Array = concatenate(channels, axis=1)  # type: ignore[no-untyped-call]
    return joined


def _joined(parts: list[_Part], *, careful: bool) -> "xr.DataArray":
    """Frames of all files along time, sorted."""
    import xarray as xr

    first = parts[0]
    if first.times.dtype.kind == "m":
        parts = _after_each_other(parts)
    parts = sorted(parts, key=lambda part: part.times.min())
    times = np.concatenate([part.times for part in parts])
    order = _order(times, parts)
    values = _values(parts, careful=careful)
    values = values if order is None else values[order]
    coordinates = {k: v for k, v in first.dataset.variables.items() if k in ("y", "x", "crs", "lat", "lon")}
    for axis, size in zip(("y", "x"), values.shape[-2:], strict=True):
        numbers = {"long_name": f"number of the {'row' if axis == 'y' else 'column'}", "units": "1"}
        coordinates.setdefault(axis, xr.Variable(axis, np.arange(size), numbers))
    time = xr.Variable("time", times if order is None else times[order], first.dataset["time"].attrs)
    coordinates |= {"time": time, "channel": xr.Variable("channel", list(first.channels))}
    if all("event" in part.dataset.coords for part in parts):
        events = np.concatenate([part.dataset["event"].values for part in parts])
        coordinates["event"] = xr.Variable("time", events if order is None else events[order])
    attributes: dict[str, Any] = {}
    for key, entries in (first.attributes | _periods(parts)).items():
        if len(set(entries)) == 1 and entries[0] is not None:
            attributes[key] = entries[0]
        elif key in ("units", "cell_methods", "dtype") and any(entries):
            attributes[key] = ", ".join(str(entry or "") for entry in entries)
    own = first.dataset.variables[first.variables[0]].attrs
    kept = ("long_name", "standard_name", "grid_mapping") if len(first.variables) == 1 else ("grid_mapping",)
    attributes |= {key: own[key] for key in kept if key in own}
    name = first.variables[0] if len(first.variables) == 1 else "frames"
    return xr.DataArray(values, coordinates, ("time", "channel", "y", "x"), name, attributes)


def _periods(parts: list[_Part]) -> dict[str, tuple[Any, ...]]:
    """Times that amounts cover in all files, ``period_s`` or ``periods_s`` of each channel."""
    found: dict[str, tuple[Any, ...]] = {"period_s": (), "periods_s": ()}
    for channel in range(len(parts[0].channels)):
        stated = [[part.attributes[key][channel] for key in found] for part in parts]
        ends = [end for one, several in stated for end in (several or (one,)) if end is not None]
        differ = len(set(ends)) > 1 or any(several for _, several in stated)
        found["period_s"] += (None if differ or not ends else ends[0],)
        found["periods_s"] += ((min(ends), max(ends)) if differ else None,)
    pairs = {*zip(*found.values(), strict=True)} - {(None, None)}
    if len(pairs) > 1:  # of the channels
        ends = [end for one, several in pairs for end in (several or (one,))]
        found = {"period_s": (None,), "periods_s": ((min(ends), max(ends)),)}
    return found


def _after_each_other(parts: list[_Part]) -> list[_Part]:
    """Undated files in their order: single frames of a folder a second apart, others a day."""
    check_one_step({str(part.path): part.times for part in parts})
    placed = parts[:1]
    for before, part in pairwise(parts):
        single = len(before.times) == len(part.times) == 1 and before.path.parent == part.path.parent
        apart = _FRAME * (part.index - before.index) if single else _GAP
        placed.append(replace(part, times=placed[-1].times.max() + apart + part.times))
    return placed


def _order(times: NDArray[Any], parts: list[_Part]) -> NDArray[np.intp] | None:
    """Order of the times; None if they are sorted already."""
    steps = np.diff(times).astype(np.int64)
    if (steps > 0).all():
        return None
    order = np.argsort(times, kind="stable")
    twice = np.flatnonzero(np.diff(times[order]).astype(np.int64) == 0)
    if len(twice):
        owner = np.repeat(np.arange(len(parts)), [len(part.times) for part in parts])
        more = f" (and {len(twice) - 1} others)" if len(twice) > 1 else ""
        places = [parts[owner[k]].path for k in order[twice[0] : twice[0] + 2]]
        files = " and in ".join(map(str, dict.fromkeys(places)))
        raise DataError(
            f"times must differ; {_text(times[order][twice[0]])}{more} stands "
            f"{'twice ' * (places[0] == places[1])}in {files}: leave one of them out"
        )
    return order


def _text(time: Any) -> str:
    """A date to the second, or the seconds after the first frame."""
    return str(time.astype("datetime64[s]")) if time.dtype.kind == "M" else f"{time / _FRAME:.12g} s"


def _nan_where_damaged(values: "Array") -> "Array":
    """Values whose parts that cannot be read are NaN, with a warning."""
    from dask.array import map_blocks

    def load(block_id: tuple[int, ...]) -> NDArray[np.float32]:
        block = values.blocks[block_id]
        try:
            return np.asarray(block.compute(scheduler="synchronous"))
        except DataError as error:
            warnings.warn(f"taken as not measured: {error}", stacklevel=2)
            return np.full(block.shape, np.nan, np.float32)

    meta = np.empty((0,) * values.ndim, np.float32)
    found: Array = map_blocks(load, chunks=values.chunks, dtype=np.float32, meta=meta)  # type: ignore[no-untyped-call]
    return found


def _in_one_layer(values: "Array") -> "Array":
    """The same array; dask walks through all layers of a graph, one a file, for each part that it reads."""
    from dask.array import Array

    return Array(dict(values.dask), values.name, values.chunks, meta=values._meta)  # type: ignore[no-untyped-call]
