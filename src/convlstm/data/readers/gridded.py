"""Grids labelled by the CF conventions or usual names: NetCDF, Zarr, GRIB and HDF5 with dimension scales."""

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convlstm.data.readers.accumulations import covered_by_bounds, covered_by_steps
from convlstm.data.readers.base import Reader, frames_name, not_numbers, time_in_name
from convlstm.data.readers.lazy import FileArray, frames_at_once, late, numbered
from convlstm.data.readers.packing import (
    limit_to_written,
    open_zarr,
    stated,
    unpacked,
    valid_limits,
    valid_values,
)
from convlstm.data.readers.times import decoding, nanoseconds
from convlstm.errors import DataError, reading

if TYPE_CHECKING:
    import xarray as xr

_ENGINES = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy", b"GRIB": "cfgrib"}
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")
_USUAL = {
    "time": ("time", "valid_time", "t", "date", "dates", "datetime", "times", "timestamp"),
    "y": ("y", "lat", "latitude", "rlat", "nlat", "nj", "j", "south_north", "row", "rows", "northing"),
    "x": ("x", "lon", "longitude", "rlon", "nlon", "ni", "i", "west_east", "column", "columns", "easting"),
    "channel": ("channel", "channels", "band", "bands"),
}
_GEOGRAPHIC = {
    "latitude": ("lat", "latitude", "xlat", "nav_lat", "gphit"),
    "longitude": ("lon", "longitude", "xlong", "nav_lon", "glamt"),
}
#: Keys by which cfgrib tells the messages of a GRIB file apart.
_FIELD = (
    *("paramId", "typeOfLevel", "level", "dataDate", "dataTime", "validityDate", "validityTime", "number"),
    *("stepType", "dataType", "gridType", "numberOfPoints", "directionNumber", "frequencyNumber"),
)
_ANONYMOUS = re.compile(r"(phony_)?dim_\d+")


class Gridded(Reader):
    """Grids in files that name their axes; scaled values decoded, fill values NaN."""

    name = "gridded"
    title = "NetCDF, Zarr, GRIB, HDF5 with dimension scales (CF conventions or usual names)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True by the first four bytes, or for a folder with the metadata of a Zarr group."""
        return _engine(path, head) is not None

    def read(self, path: Path) -> "xr.Dataset":
        """All variables with rows and columns, as `labelled_dataset` returns them."""
        import xarray as xr

        with reading(path):
            if path.is_dir():
                engine = _engine(path, b"")
            else:
                with path.open("rb") as file:
                    engine = _engine(path, file.read(4))
            if engine == "cfgrib":
                return _merged([_labelled(part, path) for part in _open_grib(path)], path)
            options: dict[str, Any] = {"decode_timedelta": False}
            if engine == "h5netcdf":
                import h5netcdf  # noqa: F401

                options["phony_dims"] = "sort"
            with decoding(path):
                if engine == "zarr":
                    dataset = open_zarr(path, **options)
                else:
                    dataset = xr.open_dataset(path, engine=engine, **options)
                    limit_to_written(dataset, path if engine == "h5netcdf" else None)
            with dataset:  # opened again when it is read
                return labelled_dataset(dataset, path)


def _engine(path: Path, head: bytes) -> str | None:
    """Name of xarray's engine for a file, by its first bytes, or a folder."""
    if path.is_dir():
        return "zarr" if any((path / name).is_file() for name in _ZARR) else None
    return next((engine for start, engine in _ENGINES.items() if head.startswith(start)), None)


def _open_grib(path: Path) -> "list[xr.Dataset]":
    """One data set for each variable and kind of level; no index is written beside the file."""
    from cfgrib.xarray_store import open_variable_datasets

    own = {"indexpath": "", "errors": "raise"}
    _check_messages(path)
    parts: list[xr.Dataset] = open_variable_datasets(str(path), backend_kwargs=own, decode_timedelta=False)
    taken: set[Hashable] = set()
    steps: dict[tuple[str, str], dict[str, Any]] = {}
    for k, part in enumerate(parts):
        for name, variable in part.data_vars.items():
            if variable.attrs.get("GRIB_stepType") == "accum":
                steps = steps or covered_by_steps(path)
                key = variable.attrs["GRIB_cfVarName"], variable.attrs["GRIB_typeOfLevel"]
                variable.attrs |= {"cell_methods": "time: sum"} | steps.get(key, {})
            if name in taken:  # the same quantity at another kind of level, or of another kind
                other = f"{name}_{variable.attrs.get('GRIB_typeOfLevel', k)}"
                parts[k] = part.rename({name: f"{name}_{k}" if other in taken else other})
            # Which cfgrib sorts.
            if variable.attrs.get("GRIB_iScansNegatively") and part["longitude"].ndim == 1:
                parts[k] = parts[k].assign_coords(longitude=np.sort(part["longitude"])[::-1])
        taken |= set(parts[k].data_vars)
    return parts


def _check_messages(path: Path) -> None:
    """Refuse messages of one field, of which cfgrib takes the first.

    Raises:
        DataError: with the first that is there twice.
    """
    from cfgrib.messages import FileStream

    found = set()
    for _, message in FileStream(str(path)).items():  # noqa: PERF102 - it has no values()
        field = tuple(message.get(key) for key in _FIELD)
        if field in found:
            raise DataError(
                f"fields of a GRIB file must differ in quantity, level, time or member; {path} holds "
                f"{message['shortName']} of {message['validityDate']} {message['validityTime']:04} twice: "
                "leave one of them out, as grib_copy -w does"
            )
        found.add(field)


def _merged(parts: "list[xr.Dataset]", path: Path) -> "xr.Dataset":
    """Variables of one grid and the same times; others are refused, as `labelled_dataset` does."""
    whole = next((part for part in parts if part.data_vars), parts[0])
    for part in parts:
        whole.attrs["refused"] |= part.attrs["refused"]
        alike = all(part[axis].equals(whole[axis]) for axis in ("time", "y", "x") if axis in whole.coords)
        for name, variable in part.data_vars.items():
            if alike:
                whole[name] = variable.variable
            else:
                whole.attrs["refused"][str(name)] = (
                    f"variables of one file must have one grid and the same times; {name} of {path} has "
                    f"others than {next(iter(whole.data_vars))}: save it in a file of its own"
                )
    return _not_empty(whole)


def _not_empty(dataset: "xr.Dataset") -> "xr.Dataset":
    if not dataset.data_vars:
        raise DataError(next(iter(dataset.attrs["refused"].values())))
    return dataset


def labelled_dataset(dataset: "xr.Dataset", path: Path | str) -> "xr.Dataset":
    """Frames of any data set whose axes are named, with the labels of `Reader.read`.

    Dimensions are found by CF attributes (``axis``, ``standard_name``, ``units``), else by usual names
    (``lat``, ``longitude``, ``valid_time``, ...), unnamed ones by their order (time, y, x). Other dimensions
    of size 1 are dropped; variables with larger ones stand in the attribute ``refused`` of the data set, each
    with a sentence. Variables without time, beside others with it, are (y, x).

    Args:
        dataset: decoded by the CF conventions.
        path: where it comes from, for messages and, where it has no times, for the time in a file's name.

    Raises:
        DataError: no variable has rows and columns, or a time cannot be represented.
    """
    return _not_empty(_labelled(dataset, path))


def _labelled(dataset: "xr.Dataset", path: Path | str) -> "xr.Dataset":
    """The same, but empty where all variables are refused."""
    import xarray as xr

    roles = axis_roles(dataset)
    named = _time_name(dataset, roles)
    time = _times(dataset, roles, named, path)
    last = str(dataset.attrs.get("last_valid_timestep", ""))[:19]
    if last and "time" in roles:  # an archive by mlcast's specification, whose times go on without data
        time = time[: int((time.values <= np.datetime64(last)).sum())]
        dataset = dataset.isel({roles["time"]: slice(time.size)})
    frames: dict[Hashable, xr.Variable] = {}
    refused: dict[str, str] = {}
    places = [_geographic(dataset, name) for name in _GEOGRAPHIC]  # also where the file names no coordinates
    placing = {grid.name for grid in places if grid is not None}
    for name, variable in dataset.data_vars.items():
        if name in placing:
            continue
        if not {roles.get("y"), roles.get("x")} <= set(variable.dims):
            if {"y", "x"} <= roles.keys() and roles.get("time") in variable.dims and variable.ndim > 2:
                refused[str(name)] = (
                    f"variables of one file must have one grid; {name} of {path} has the axes "
                    f"{', '.join(map(str, variable.dims))}, others {roles['y']} and {roles['x']}: save "
                    "it in a file of its own"
                )
            continue
        if variable.dtype.kind not in "biuf":
            refused[str(name)] = not_numbers(str(name), path, variable.dtype)
            continue
        others = {axis: size for axis, size in variable.sizes.items() if axis not in roles.values()}
        if max(others.values(), default=1) > 1:
            sizes = ", ".join(f"{axis} ({size})" for axis, size in others.items() if size > 1)
            refused[str(name)] = (
                f"frames must have the axes time, y and x; {name} of {path} has {sizes} too: select one "
                "entry of each with xarray's isel and pass the result, or save it in a file"
            )
            continue
        frame = frames[frames_name(name)] = _frames(
            unpacked(variable.isel(dict.fromkeys(others, 0)).variable), roles, path
        )
        frame.attrs |= covered_by_bounds(dataset, frame, named)
    if not frames and not refused:
        found = ", ".join(f"{name} {variable.dims}" for name, variable in dataset.data_vars.items())
        raise DataError(
            f"a file of frames must hold a variable with rows and columns; {path} holds "
            f"{found or 'none'}: name its dimensions time, y, x or time, lat, lon"
        )
    if not any("time" in variable.dims for variable in frames.values()):
        frames = _one_frame(frames, time.size, refused, path)
    coordinates = {"time": time, **grid_coordinates(dataset, roles)}
    mapping = _grid_mapping(dataset, frames)
    if mapping is not None:
        coordinates["crs"] = xr.Variable((), np.int32(0), mapping)
        for frame in frames.values():
            frame.attrs["grid_mapping"] = "crs"
    return xr.Dataset(frames, coordinates, {"refused": refused})


def _one_frame(
    frames: "dict[Hashable, xr.Variable]", times: int, refused: dict[str, str], path: Path | str
) -> "dict[Hashable, xr.Variable]":
    """Variables without time as frames of the one time; none, and why, where there are several."""
    if times == 1:
        return {name: each.set_dims(("time", *each.dims)) for name, each in frames.items()}  # type: ignore[no-untyped-call]
    for name in frames:
        refused[str(name)] = (
            f"frames must have the axes time, y and x; {name} of {path} has no time, of which there are "
            f"{times}: name another variable, or give it as static fields"
        )
    return {}


def axis_roles(dataset: "xr.Dataset") -> dict[str, Hashable]:
    """Dimension of time, y, x and channel, as far as there are any."""
    import cf_xarray  # noqa: F401

    axes, coordinates = dataset.cf.axes, dataset.cf.coordinates
    by_attributes = {
        "time": [*coordinates.get("time", ()), *axes.get("T", ())],
        "y": [*axes.get("Y", ()), *coordinates.get("latitude", ())],
        "x": [*axes.get("X", ()), *coordinates.get("longitude", ())],
    }
    roles: dict[str, Hashable] = {}
    for role, usual in _USUAL.items():
        named = by_attributes.get(role, [])
        candidates = [dataset[name].dims[0] for name in named if dataset[name].ndim == 1]
        candidates += [axis for name in usual for axis in dataset.dims if str(axis).lower() == name]
        candidates = [axis for axis in candidates if axis not in roles.values()]
        if candidates:
            roles[role] = candidates[0]
    latitude = _geographic(dataset, "latitude")
    if latitude is not None and not {"y", "x"} <= set(roles):
        roles["y"], roles["x"] = latitude.dims[-2:]
    shapes = [variable.dims for variable in dataset.data_vars.values() if variable.ndim >= 2]
    unnamed = [axis for axis in max(shapes, key=len, default=()) if _ANONYMOUS.fullmatch(str(axis))]
    for role in ("x", "y", "time"):
        if role not in roles and unnamed:
            roles[role] = unnamed.pop()
    return roles


def _time_name(dataset: "xr.Dataset", roles: dict[str, Hashable]) -> Hashable | None:
    """Name of the variable with time's standard name, else of its dimension; None without times."""
    axis = roles.get("time")
    by_attributes = (*dataset.cf.coordinates.get("time", ()), *dataset.cf.axes.get("T", ()))
    named: list[Hashable] = [*by_attributes, axis, *_USUAL["time"]]
    fitting = [(axis,), ()] if axis is None or dataset.sizes[axis] == 1 else [(axis,)]
    found = [name for name in named if name in dataset.variables and dataset[name].dims in fitting]
    if found:
        return found[0]
    # Names in capitals, such as those of WRF; else the only dates along the axis.
    along = [name for name, variable in dataset.variables.items() if variable.dims == (axis,)]
    usual = [name for name in along if str(name).lower() in _USUAL["time"]]
    dates = [name for name in along if dataset[name].dtype.kind == "M"]
    return next(iter(usual or (dates if len(dates) == 1 else ())), None)


def _times(
    dataset: "xr.Dataset", roles: dict[str, Hashable], named: Hashable | None, path: Path | str
) -> "xr.Variable":
    """Coordinate of the time, from the variable of a name."""
    import xarray as xr

    axis = roles.get("time")
    if named is None:
        count = 1 if axis is None else dataset.sizes[axis]
        dated = time_in_name(Path(path).name)
        if count == 1 and dated is not None:
            return xr.Variable("time", np.array([dated]), {"standard_name": "time"})
        return xr.Variable("time", numbered(count))
    with reading(path):
        index: Any = dataset.indexes.get(named)
        zoned = getattr(index, "tz", None) is not None  # as pandas has them
        values = index.tz_convert(None).to_numpy() if zoned else np.atleast_1d(dataset[named].values)
        attributes = {"standard_name": "time"}
        attributes |= {k: v for k, v in dataset[named].attrs.items() if k == "long_name"}
        units = dataset[named].attrs.get("units", "")
        return xr.Variable("time", nanoseconds(values, units, path), attributes)


def _frames(variable: "xr.Variable", roles: dict[str, Hashable], path: Path | str) -> "xr.Variable":
    """Values as ([time, [channel,]] y, x), float32, read late."""
    import xarray as xr

    attributes = stated(variable.attrs)
    low, high = valid_limits(variable)
    scaled = {"scale_factor", "add_offset"} & variable.encoding.keys()  # its range is of packed values
    if "valid_range" in variable.attrs and not scaled and np.isfinite((low, high)).all():
        attributes["valid_range"] = (low, high)
    if "cell_methods" in attributes:  # which name the axis as it is called in the file
        named = re.escape(str(roles.get("time", "time")))
        attributes["cell_methods"] = re.sub(rf"\b{named}:", "time:", attributes["cell_methods"])
    mapping = variable.attrs.get("grid_mapping", variable.encoding.get("grid_mapping"))
    attributes |= {"grid_mapping": str(mapping)} if mapping else {}
    attributes["dtype"] = str(variable.attrs.get("dtype", variable.encoding.get("dtype", variable.dtype)))
    stored = variable.encoding.get("preferred_chunks", {})
    if variable.chunks is None:
        sizes = {axis: stored.get(axis, size) for axis, size in variable.sizes.items()}
        axis = roles.get("time")
        if axis in variable.dims:
            shape = [variable.sizes[axis], *(size for name, size in variable.sizes.items() if name != axis)]
            sizes[axis] = frames_at_once(shape, stored.get(axis, 1))
        values = late(
            FileArray(path, variable.shape, variable.__getitem__), [sizes[a] for a in variable.dims]
        )
    else:
        values = variable.data.astype(np.float32)
    values = valid_values(values, variable, (low, high))
    names = {axis: role for role, axis in roles.items()}
    late_variable = xr.Variable([names[axis] for axis in variable.dims], values, attributes)
    return late_variable.transpose("time", "channel", "y", "x", missing_dims="ignore")


def grid_coordinates(dataset: "xr.Dataset", roles: dict[str, Hashable]) -> "dict[str, xr.Variable]":
    """Coordinates of the rows, columns and channels, and latitude and longitude of curvilinear grids."""
    import xarray as xr

    found = {}
    for role in ("y", "x", "channel"):
        axis = roles.get(role)
        if axis not in dataset.coords or dataset[axis].ndim != 1:
            continue
        if role == "channel" or dataset[axis].dtype.kind in "iuf":  # rows and columns may have names
            attributes = {k: v for k, v in dataset[axis].attrs.items() if k != "bounds"}
            attributes |= stated({"units": attributes["units"]}) if "units" in attributes else {}
            for name, usual in _GEOGRAPHIC.items():
                if str(axis).lower() in usual and role != "channel":
                    attributes = {"standard_name": name, "units": f"degrees_{_direction(name)}"} | attributes
            found[role] = xr.Variable((role,), dataset[axis].values, attributes)
    names = {roles.get("y"): "y", roles.get("x"): "x"}
    for short, name in (("lat", "latitude"), ("lon", "longitude")):
        grid = _geographic(dataset, name)
        if grid is not None and set(grid.dims) == set(names):
            attributes = {"standard_name": name, "units": f"degrees_{_direction(name)}"}
            found[short] = xr.Variable([names[axis] for axis in grid.dims], grid.values, attributes)
    return found


def _direction(name: str) -> str:
    """Direction in which latitude or longitude grows, as units name it."""
    return "north" if name == "latitude" else "east"


def _geographic(dataset: "xr.Dataset", name: str) -> "xr.DataArray | None":
    """Latitude or longitude of each pixel, (H, W); None if there is none."""
    usual = [each for each in dataset.variables if str(each).lower() in _GEOGRAPHIC[name]]
    for found in (*dataset.cf.coordinates.get(name, ()), *usual):
        grid: xr.DataArray = dataset[found]
        grid = grid.isel(dict.fromkeys(grid.dims[:-2], 0))  # grids that models repeat at each time
        if grid.ndim == 2:
            return grid
    return None


def _grid_mapping(dataset: "xr.Dataset", frames: "dict[Hashable, xr.Variable]") -> dict[str, Any] | None:
    """CF attributes of the grid mapping that the first variable names."""
    names: Iterable[str] = [v.attrs.pop("grid_mapping", "") for v in frames.values()]
    for name in names:
        name = name.partition(":")[0].strip()
        if name in dataset.variables and dataset[name].attrs:
            attributes = dataset[name].attrs  # arrays as lists, which compare
            return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
    return None
