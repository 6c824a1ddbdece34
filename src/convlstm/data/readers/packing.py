"""Packed and valid values of gridded data, by the CF conventions and the NetCDF user guide."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.hdf5 import fill_of

if TYPE_CHECKING:
    import xarray as xr
    from dask.array import Array

#: Limits that leave out what was not written, 9.97e36, -32767 and -2147483647 by the NetCDF library.
_GREATEST = np.nextafter(np.float32(9.969209968386869e36), np.float32(0))
_LEAST = {"i2": np.int16(-32766), "i4": np.int32(-2147483392)}  # the next number of float32
#: Of dtypes whose values may well be these: what was not written, where the file says so, and the limit.
_STORED = {
    "u2": (65535, "valid_max", np.uint16(65534)),
    "u4": (4294967295, "valid_max", np.uint32(4294967040)),
    "u8": (18446744073709551614, "valid_max", np.uint64(18446742974197923840)),
    "i8": (-9223372036854775806, "valid_min", np.int64(-9223371487098961920)),
}
_TEXTS = ("units", "long_name", "standard_name", "cell_methods", "ancillary_variables")
_NUMBERS = {"dry_value": 1, "period_s": 1, "periods_s": 2}
_PACKING = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")


def open_zarr(path: Path, **decoding: Any) -> "xr.Dataset":
    """Open a Zarr group, whose zeros are measured unless values are packed or an attribute states otherwise.

    Zarr itself fills with 0 what was not written. xarray takes the fill value of version 2 for the one that
    stands for not measured, as nothing in it tells the two apart, and dry pixels would be missing, and the
    zero of a time or another coordinate, packed or not.

    Args:
        path: of the group.
        decoding: options of ``xarray.decode_cf``.
    """
    import xarray as xr
    import zarr

    # Not the consolidated metadata: those of each array are the newer ones.
    stored = xr.open_dataset(path, engine="zarr", consolidated=False, decode_cf=False)
    filled = [name for name, each in stored.variables.items() if each.attrs.get("_FillValue") == 0]
    group: Any = zarr.open_group(path, mode="r")
    for name in filled:
        variable = stored.variables[name]
        packed = {"scale_factor", "add_offset"} & {*variable.attrs} and name not in stored.dims
        if not packed and "_FillValue" not in group[name].attrs:
            del variable.attrs["_FillValue"]
    return xr.decode_cf(stored, **decoding)


def limit_to_written(dataset: "xr.Dataset", path: Path | None = None) -> None:
    """Limits of valid values of variables without a fill value: what was not written has that of NetCDF.

    Args:
        dataset: as it was opened.
        path: of the file, if it is HDF5, which states what stands for values that were not written.
    """
    for name, variable in dataset.data_vars.items():
        dtype = np.dtype(variable.encoding.get("dtype", variable.dtype))
        if "_FillValue" in variable.encoding:
            continue
        if dtype.kind == "f" and dtype.itemsize > 2:
            variable.attrs.setdefault("valid_max", _GREATEST)
        elif {"missing_value", "_Unsigned"} & (variable.encoding.keys() | variable.attrs.keys()):
            continue  # another integer, or another sign, so that this one may be measured
        elif dtype.str[1:] in _LEAST:
            variable.attrs.setdefault("valid_min", _LEAST[dtype.str[1:]])
        elif dtype.str[1:] in _STORED and path is not None:
            fill, end, limit = _STORED[dtype.str[1:]]
            if fill_of(path, str(name)) == fill:
                variable.attrs.setdefault(end, limit)


def stated(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a variable that are kept: texts, also where a file has a number; numbers if they are."""
    found: dict[str, Any] = {}
    for name in _TEXTS:
        values = np.ravel(attributes.get(name, ())).tolist()
        text = " ".join(v.decode("latin-1") if isinstance(v, bytes) else _plain(v) for v in values)
        found |= {name: text} if values and text != "unknown" else {}
    for name, count in _NUMBERS.items():
        numbers = np.ravel(attributes.get(name, ()))
        if numbers.size == count and numbers.dtype.kind in "iuf" and np.isfinite(numbers).all():
            found[name] = float(numbers[0]) if count == 1 else tuple(map(float, numbers))
    return found


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def packing_of(variable: "xr.Variable | xr.DataArray") -> set[str]:
    """Names of the attributes by which an undecoded variable is packed; floats have their scale already."""
    return variable.attrs.keys() & {*(_PACKING[:2] if variable.dtype.kind == "f" else _PACKING)}


def decoded_dtype(variable: "xr.DataArray") -> np.dtype[Any]:
    """The dtype of decoded values: of packed integers float32, else that of the variable."""
    packed = variable.dtype.kind != "f" and packing_of(variable)
    return np.dtype(np.float32) if packed else np.dtype(variable.dtype)


def without_packing(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of values that are decoded."""
    return {name: value for name, value in attributes.items() if name not in _PACKING}


def unpacked(variable: "xr.Variable") -> "xr.Variable":
    """A variable decoded, if it was opened undecoded."""
    import xarray as xr

    packing = packing_of(variable)
    if not packing:
        return variable
    stored = variable.copy(deep=False)
    stored.attrs = without_packing(variable.attrs) | {name: variable.attrs[name] for name in packing}
    stored.encoding = {}
    return xr.conventions.decode_cf_variable("frames", stored, decode_times=False, decode_timedelta=False)


def valid_limits(variable: "xr.Variable") -> tuple[float, float]:
    """Limits of valid values by ``valid_min``, ``valid_max`` and ``valid_range``; infinite where not stated.

    Those of packed values are in their units, by the NetCDF user guide, unless they are floats where the file
    packs into integers. What lies outside is not measured.
    """
    attributes, packing = variable.attrs, variable.encoding
    ends = (attributes.get("valid_min", -np.inf), attributes.get("valid_max", np.inf))
    whole = np.asarray(attributes.get("valid_range", ()))
    limits: list[float] = []
    kinds = set()
    for end, none in zip(whole if whole.size == 2 else ends, (-np.inf, np.inf), strict=True):
        limit = np.asarray(end).ravel()
        if limit.size != 1 or limit.dtype.kind not in "iuf" or np.isnan(limit[0]):
            limit = np.array([none])
        if limit.dtype.kind == "i" and str(packing.get("_Unsigned", "")).lower() == "true":
            limit = limit.view(f"u{limit.dtype.itemsize}")
        kinds |= {limit.dtype.kind} if np.isfinite(limit[0]) else set()
        limits.append(float(limit[0]))
    scale, offset = packing.get("scale_factor"), packing.get("add_offset")
    floats = np.dtype(packing.get("dtype", "i2")).kind == "f"
    if (scale, offset) != (None, None) and (floats or "f" not in kinds):
        # Half a step further, as decoded values may be rounded otherwise.
        limits = sorted(
            (limit + half) * float(1 if scale is None else scale) + float(offset or 0)
            for limit, half in zip(limits, (-0.5, 0.5), strict=True)
        )
    return limits[0], limits[1]


def within(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Values within limits, others NaN."""
    inside = (values >= np.float32(low)) & (values <= np.float32(high))
    return np.where(inside, values, np.float32(np.nan))


def without(values: NDArray[np.float32], codes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values that are none of some codes, others NaN."""
    return np.where(np.isin(values, codes), np.float32(np.nan), values)


def valid_values(values: "Array", variable: "xr.Variable", limits: tuple[float, float]) -> "Array":
    """Decoded values of a variable, NaN beyond its limits and where xarray does not find its missing value.

    That one is stated in 64 bits then, and rounded in values of 32: 1e20, say.
    """
    if limits != (-np.inf, np.inf):
        values = values.map_blocks(within, *limits, dtype=np.float32)  # type: ignore[arg-type]
    dtype = np.dtype(variable.encoding.get("dtype", variable.dtype))
    stated = np.ravel(variable.encoding.get("missing_value", ()))
    scaled = {"scale_factor", "add_offset"} & variable.encoding.keys()
    if dtype.kind != "f" or stated.dtype.kind != "f" or scaled:
        return values
    with np.errstate(over="ignore"):
        codes = stated.astype(dtype)
    codes = codes[(codes != stated) & np.isfinite(codes)].astype(np.float32)
    return values.map_blocks(without, codes, dtype=np.float32) if codes.size else values  # type: ignore[arg-type]
