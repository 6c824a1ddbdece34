"""Forecasts as NetCDF and Zarr by the CF conventions 1.11 (https://cfconventions.org)."""

import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.atomic_write import replacing, write_atomically
from convlstm.errors import RunError

if TYPE_CHECKING:
    import xarray as xr

CONVENTIONS = "CF-1.11"
_ATTRIBUTES = ("long_name", "standard_name", "cell_methods", "grid_mapping")
_VALUES = ("period_s", "dry_value")  # for which the conventions have no attribute; readers know them
_STORES = ("zarr.json", ".zgroup")  # what a Zarr store of version 3 or 2 begins with
_EPOCH = "since 1970-01-01 00:00:00"


def cf_dataset(forecast: "xr.DataArray", *, source: str = "", history: str = "") -> "xr.Dataset":
    """A forecast as the data set that a file holds: a variable for each channel.

    Times of frames without dates, of a video, say, are seconds after the first one, for which the conventions
    have no place; they are not named then.

    Args:
        forecast: ([realization,] time, channel, y, x) with the coordinates of `convlstm.forecasting.fields.
            labelled`; NaN where not measured.
        source: the model and its version.
        history: when and by which command it was made.
    """
    import xarray as xr

    names = [str(name) for name in forecast["channel"].values]
    units = _of_each(str(forecast.attrs.get("units", "1")), len(names))
    methods = _of_each(str(forecast.attrs.get("cell_methods", "time: point")), len(names))
    variables: dict[str, xr.DataArray] = {}
    taken = {str(name) for name in (*forecast.dims, *forecast.coords)}
    for k, name in enumerate(names):
        values = forecast.isel(channel=k, drop=True).astype(np.float32)
        attributes = {key: str(forecast.attrs[key]) for key in _ATTRIBUTES if key in forecast.attrs}
        attributes = {"long_name": name} | attributes | {"units": units[k], "cell_methods": methods[k]}
        name = _named(name, k)
        while {name, f"{name}_valid"} & taken:
            name += f"_{k}"
        taken |= {name, f"{name}_valid"}
        first = values.isel({axis: 0 for axis in values.dims if axis not in ("y", "x")}, drop=True)
        mask = first.notnull().astype(np.int8)
        mask.attrs = {
            "standard_name": "status_flag",
            "long_name": f"{attributes['long_name']}, measured in the past",
            "flag_values": np.array([0, 1], np.int8),
            "flag_meanings": "not_measured measured",
        }
        mask.attrs |= {"grid_mapping": attributes["grid_mapping"]} if "grid_mapping" in attributes else {}
        kept = {key: float(forecast.attrs[key]) for key in _VALUES if key in forecast.attrs}
        values.attrs = attributes | kept | {"ancillary_variables": f"{name}_valid"}
        variables |= {name: values, f"{name}_valid": mask}
    dataset = xr.Dataset(variables)
    dated = forecast["time"].dtype.kind == "M"
    dataset.attrs = ({"Conventions": CONVENTIONS} if dated else {}) | {
        "title": f"Forecast of {', '.join(names)}",
        "source": source or "convlstm",
        "history": history,
    }
    return _encoded(_with_coordinates(dataset))


def write_cf(
    path: Path, forecast: "xr.DataArray", *, source: str = "", history: str = "", overwrite: bool = False
) -> Path:
    """Write a forecast as NetCDF (``.nc``) or Zarr (``.zarr``), in its place only once it is complete.

    Args:
        path: file, or folder of the Zarr store.
        forecast: as of `cf_dataset`.
        source: the model and its version.
        history: when and by which command it was made.
        overwrite: replace a file or a Zarr store.

    Raises:
        RunError: it exists and ``overwrite`` is off, it is a folder that is no Zarr store, or it cannot be
            written.
    """
    check_replaceable(path, overwrite=overwrite)
    dataset = cf_dataset(forecast, source=source, history=history)
    if path.suffix.lower() == ".zarr":
        with replacing(path, overwrite=overwrite) as scratch:
            dataset.to_zarr(scratch, mode="w-", consolidated=False)
    else:
        write_atomically(path, _netcdf(dataset))
    return path


def _netcdf(dataset: "xr.Dataset") -> bytes:
    """A NetCDF file, made in memory: on a full disk, HDF5 ends the process by a segmentation fault."""
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    content = io.BytesIO()
    with h5netcdf.File(content, "w") as file:
        dataset.dump_to_store(H5NetCDFStore(file, mode="w"))
    return content.getvalue()


def check_replaceable(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there, unless asked to replace a file or a Zarr store.

    Raises:
        RunError: it must not be replaced.
    """
    store = path.suffix.lower() == ".zarr" and any((path / name).is_file() for name in _STORES)
    if path.is_dir() and not store:
        raise RunError(f"a forecast must go to a file; {path} is a folder: choose another name")
    if os.path.lexists(path) and not overwrite:
        raise RunError(
            "a forecast must not replace a file unasked; "
            f"{path} exists: choose another name or pass overwrite"
        )


def _of_each(text: str, channels: int) -> list[str]:
    """An attribute of each channel, of those joined by ", " where they differ; comments may hold one too."""
    parts = re.split(r", (?![^(]*\))", text)
    return parts if len(parts) == channels else [text] * channels


def _storable(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """The attributes that a file can hold: texts and numbers, flags as these."""
    kept: dict[str, Any] = {}
    for name, value in attributes.items():
        array = np.asarray(value.decode("latin-1") if isinstance(value, bytes) else value)
        array = array.astype(np.int8) if array.dtype.kind == "b" else array
        if isinstance(name, str) and name and array.dtype.kind in "iufU" and array.size:
            kept[name] = array.tolist() if array.dtype.kind == "U" else array[()]
    return kept


def _named(name: str, index: int) -> str:
    """Name of a variable in letters, digits and underscores."""
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return plain if plain[:1].isalpha() else f"channel_{plain or index}"


def _with_coordinates(dataset: "xr.Dataset") -> "xr.Dataset":
    """Coordinates with the attributes that the conventions ask for."""
    dated = dataset["time"].dtype.kind == "M"
    for name in ("time", "forecast_reference_time"):
        axis = dataset[name]
        named = {"standard_name": name, "long_name": "valid time" if name == "time" else "time of last frame"}
        if dated:
            named["units_metadata"] = "leap_seconds: none"
        else:  # seconds after the first frame of the past
            axis = axis.copy(data=axis.values / np.timedelta64(1, "s"))
            named = {"long_name": f"{named['long_name']}, after the first frame", "units": "s"}
        dataset = dataset.assign_coords({name: axis.variable})
        dataset[name].attrs = named
    minutes = dataset["forecast_period"].values / np.timedelta64(1, "m")
    dataset["forecast_period"] = dataset["forecast_period"].copy(data=minutes)
    dataset["forecast_period"].attrs = {
        "standard_name": "forecast_period",
        "long_name": "lead time",
        "units": "minutes",
    }
    if "realization" in dataset.dims:
        dataset = dataset.assign_coords(realization=np.arange(dataset.sizes["realization"], dtype=np.int32))
        dataset["realization"].attrs = {"standard_name": "realization", "long_name": "member", "units": "1"}
    if "crs" in dataset.coords:
        dataset["crs"].attrs = {"long_name": "grid mapping"} | _whole(dataset["crs"].attrs)
    axes = {"y": "Y", "x": "X"} | ({"time": "T"} if "time" in dataset.dims and dated else {})
    for name, letter in axes.items():
        if name in dataset.coords:
            dataset[name].attrs["axis"] = letter
    for axis in dataset.coords.values():
        axis.attrs = _storable(axis.attrs)
    return dataset


def _whole(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A grid mapping with the pole that PROJ leaves out, which the conventions ask for."""
    pole = math.copysign(90.0, mapping.get("standard_parallel", 90.0))
    polar = mapping.get("grid_mapping_name") == "polar_stereographic"
    return ({"latitude_of_projection_origin": pole} if polar else {}) | dict(mapping)


def time_encoding(times: NDArray[Any]) -> dict[str, Any]:
    """Encoding of dates: in seconds, or in microseconds as integers, as floats hold no parts of seconds."""
    whole = (times == times.astype("datetime64[s]")).all()
    unit, dtype = ("seconds", "f8") if whole else ("microseconds", "i8")
    # Coordinates are never missing.
    return {"units": f"{unit} {_EPOCH}", "calendar": "standard", "dtype": dtype, "_FillValue": None}


def _encoded(dataset: "xr.Dataset") -> "xr.Dataset":
    """Set the encoding of the values: floats compressed, a frame a chunk, times in whole units."""
    for variable in dataset.variables.values():
        variable.encoding = {}
    for name in ("time", "forecast_reference_time"):
        if dataset[name].dtype.kind == "M":
            dataset[name].encoding = time_encoding(dataset[name].values)
    for key, variable in dataset.variables.items():
        if key in dataset.data_vars and variable.dtype.kind == "f":
            frame = (1,) * (variable.ndim - 2) + variable.shape[-2:]
            variable.encoding = {"_FillValue": np.float32(np.nan), "chunks": frame}  # of Zarr
            variable.encoding |= {"zlib": True, "complevel": 4, "shuffle": True, "chunksizes": frame}
        elif variable.dtype.kind == "f":
            variable.encoding = {"_FillValue": None}
    return dataset
