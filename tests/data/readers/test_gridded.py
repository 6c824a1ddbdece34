"""Reader of gridded files against the arrays that were written."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from pyproj import CRS

from convlstm.data.opening import open_frames
from convlstm.data.readers.base import in_nanoseconds
from convlstm.data.readers.gridded import Gridded, labelled_dataset
from convlstm.data.specify import grid_of
from convlstm.errors import DataError
from convlstm.testing.layers import judge
from convlstm.testing.readers import READER_CHECKS

REAL = Path(os.environ.get("CONVLSTM_DATA", "absent"))
TIMES = np.arange("2020-02-27", "2020-03-03", dtype="datetime64[D]").astype("datetime64[ns]")  # 5 days
VALUES = np.random.default_rng(0).normal(280, 10, (5, 3, 4)).astype(np.float32)
LATITUDE, LONGITUDE = np.array([52.0, 51.0, 50.0]), np.array([178.0, 179.0, -180.0, -179.0])


def dataset(names=("time", "lat", "lon"), **variables):
    variables = variables or {"t2m": VALUES.copy()}
    coordinates = dict(zip(names, (TIMES, LATITUDE, LONGITUDE), strict=True))
    variables = {name: (names, values, {"units": "K"}) for name, values in variables.items()}
    return xr.Dataset(variables, coordinates)


def write_grib(path, levels=(0,), kind="surface", name="2t", **others):
    """Messages of one field for each day and level, by ECMWF's library itself."""
    eccodes = importlib.import_module("eccodes")  # after pyproj, as in the reader

    with path.open("wb") as file:
        for day, frame in zip(TIMES, VALUES, strict=True):
            for level in levels:
                message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib1")
                keys = {
                    "Ni": 4,
                    "Nj": 3,
                    "iDirectionIncrementInDegrees": 1,
                    "jDirectionIncrementInDegrees": 1,
                }
                keys |= {"latitudeOfFirstGridPointInDegrees": 52, "longitudeOfFirstGridPointInDegrees": 2}
                keys |= {"latitudeOfLastGridPointInDegrees": 50, "longitudeOfLastGridPointInDegrees": 5}
                keys |= {"dataDate": int(str(day)[:10].replace("-", "")), "dataTime": 600}
                keys |= {"typeOfLevel": kind, "level": level, "shortName": name, "bitsPerValue": 24}
                for key, value in (keys | others).items():
                    eccodes.codes_set(message, key, value)
                eccodes.codes_set_values(message, frame.astype(float).ravel() + level)
                eccodes.codes_write(message, file)
                eccodes.codes_release(message)


def write(path, data):
    if path.suffix == ".zarr":
        data.to_zarr(path, zarr_format=2 if "2" in path.stem else 3, consolidated=False)
    elif "classic" in path.stem:
        data.to_netcdf(path, engine="scipy")
    else:
        data.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize("name", ["a.nc", "classic.nc", "a2.zarr", "a3.zarr"])
@pytest.mark.parametrize(
    "names",
    [("time", "lat", "lon"), ("t", "Latitude", "LONGITUDE"), ("valid_time", "nj", "ni"), ("date", "y", "x")],
)
def test_usual_names(tmp_path, name, names):
    path = write(tmp_path / name, dataset(names))
    head = b"" if path.is_dir() else path.read_bytes()[:4096]
    assert Gridded().recognises(path, head)
    frames = Gridded().read(path)
    assert frames.t2m.dims == ("time", "y", "x")
    assert frames.t2m.dtype == np.float32
    assert frames.t2m.chunks is not None
    np.testing.assert_array_equal(frames.t2m, VALUES)
    np.testing.assert_array_equal(frames.time, TIMES)
    assert frames.time.dtype == "datetime64[ns]"
    np.testing.assert_array_equal(frames.y, LATITUDE)
    np.testing.assert_array_equal(frames.x, LONGITUDE)  # as they are, where they wrap round
    assert frames.t2m.attrs == {"units": "K", "dtype": "float32"}
    if names[1].lower() in ("lat", "latitude"):
        assert frames.y.attrs == {"standard_name": "latitude", "units": "degrees_north"}
        assert frames.x.attrs == {"standard_name": "longitude", "units": "degrees_east"}


@pytest.mark.parametrize("dtype", ["f4", "u1"])
@pytest.mark.parametrize(("fill", "missing"), [(0, None), (0, 5), (3, 3)])
def test_zeros_of_zarr_2_are_measured_where_they_fill(tmp_path, dtype, fill, missing):
    """Zarr's default fill value of 0 made all dry pixels missing."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    stored = group.create_array("rain", shape=(2, 3, 4), chunks=(1, 3, 4), dtype=dtype, fill_value=fill)
    stored.attrs.update(_ARRAY_DIMENSIONS=["time", "y", "x"], units="mm/h")
    stored.attrs.update({} if missing is None else {"missing_value": missing})
    stored[:] = values = np.arange(24).reshape(2, 3, 4)
    rain = Gridded().read(tmp_path / "a.zarr").rain
    np.testing.assert_array_equal(rain, np.where(values == missing, np.nan, values))
    assert (rain.attrs["units"], rain.dtype) == ("mm/h", np.float32)


@pytest.mark.parametrize("packing", [{}, {"scale_factor": 0.5}])
def test_zeros_of_coordinates_of_zarr_2_are_not_missing_where_they_fill(tmp_path, packing):
    """The first time, and places at 0, were not there, as Zarr's default fill value is 0."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    units = {"time": {"units": "hours since 2020-01-01"}, "y": packing, "x": packing}
    for name, count in {"time": 2, "y": 3, "x": 4}.items():
        stored = group.create_array(name, data=np.arange(count, dtype="i4"), fill_value=0)
        stored.attrs.update(_ARRAY_DIMENSIONS=[name], **units[name])
    stored = group.create_array("rain", data=np.zeros((2, 3, 4), np.float32))
    stored.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    found, step = Gridded().read(tmp_path / "a.zarr"), packing.get("scale_factor", 1)
    assert found.time.values[0] == np.datetime64("2020-01-01")
    np.testing.assert_array_equal(found.y, step * np.arange(3))
    np.testing.assert_array_equal(found.x, step * np.arange(4))


def test_zeros_of_zarr_2_are_not_measured_where_an_attribute_says_so(tmp_path):
    """As the NetCDF library writes it, beside the fill value of Zarr."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    stored = group.create_array("rain", data=np.arange(24.0).reshape(2, 3, 4), fill_value=0)
    stored.attrs.update(_ARRAY_DIMENSIONS=["time", "y", "x"], _FillValue=0.0)
    rain = Gridded().read(tmp_path / "a.zarr").rain
    np.testing.assert_array_equal(rain, [[[np.nan, *range(1, 4)], [4, 5, 6, 7], [8, 9, 10, 11]], stored[1]])


def test_zeros_of_packed_zarr_2_are_not_measured_where_they_fill(tmp_path):
    values = np.array([[[np.nan, 0.5], [1.0, 1.5]]], np.float32)
    packing = {"dtype": "u1", "scale_factor": 0.5, "_FillValue": 0}
    data = xr.Dataset({"rain": (("time", "y", "x"), values)})
    data.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False, encoding={"rain": packing})
    np.testing.assert_array_equal(Gridded().read(tmp_path / "a.zarr").rain, values)


@pytest.mark.parametrize(
    "attributes",
    [
        [{"axis": "T"}, {"axis": "Y"}, {"axis": "X"}],
        [{"standard_name": "time"}, {"standard_name": "latitude"}, {"standard_name": "longitude"}],
        [
            {"standard_name": "time"},
            *({"standard_name": f"projection_{a}_coordinate", "units": "m"} for a in "yx"),
        ],
        [{}, {"units": "degrees_north"}, {"units": "degrees_east"}],
    ],
)
def test_cf_attributes_count_more_than_names_and_order(tmp_path, attributes):
    data = dataset(("time", "a", "b")).rename(time="c")
    for name, found in zip("cab", attributes, strict=True):
        data[name].attrs |= found
    if not attributes[0]:
        data = data.rename(c="time")
    frames = Gridded().read(write(tmp_path / "a.nc", data.transpose("b", "a", ...)))
    assert frames.t2m.dims == ("time", "y", "x")
    np.testing.assert_array_equal(frames.t2m, VALUES)
    assert frames.y.attrs["units" if "units" in attributes[1] else next(iter(attributes[1]))]


def test_scale_offset_and_fill(tmp_path):
    data = dataset()
    data["t2m"][2, 1, 3] = np.nan
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -32768}
    data.to_netcdf(tmp_path / "a.nc", encoding={"t2m": packed}, engine="h5netcdf")
    found = Gridded().read(tmp_path / "a.nc").t2m
    np.testing.assert_allclose(found, data.t2m, atol=0.0051)
    assert np.flatnonzero(np.isnan(found)).tolist() == [2 * 12 + 1 * 4 + 3]
    assert found.attrs["dtype"] == "int16"


def test_hdf5_with_dimension_scales(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rain"] = VALUES
        scales = {"time": np.arange(5) * 300, "lat": LATITUDE, "lon": LONGITUDE}
        for k, (name, values) in enumerate(scales.items()):
            file[name] = values
            file[name].make_scale(name)
            file["rain"].dims[k].attach_scale(file[name])
        file["time"].attrs["units"] = "seconds since 2021-02-01 20:05:00"
    frames = Gridded().read(tmp_path / "a.h5")
    np.testing.assert_array_equal(frames.rain, VALUES)
    assert str(frames.time.values[-1]) == "2021-02-01T20:25:00.000000000"
    np.testing.assert_array_equal(frames.y, LATITUDE)


def test_hdf5_without_them_is_taken_in_its_order(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = VALUES
    frames = Gridded().read(tmp_path / "a.h5")
    assert frames.frames.dims == ("time", "y", "x")
    np.testing.assert_array_equal(frames.frames, VALUES)
    np.testing.assert_array_equal(frames.time, np.arange(5).astype("timedelta64[s]"))


def test_grib(tmp_path):
    write_grib(tmp_path / "a.grib")
    frames = Gridded().read(tmp_path / "a.grib")
    np.testing.assert_allclose(frames.t2m, VALUES, atol=1e-4)
    np.testing.assert_array_equal(frames.time, TIMES + np.timedelta64(6, "h"))
    np.testing.assert_array_equal(frames.y, LATITUDE)
    assert frames.t2m.attrs == {"units": "K", "long_name": "2 metre temperature", "dtype": "float32"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.grib"]  # no index beside it


def test_fields_of_grib_that_are_there_twice_are_refused(tmp_path):
    write_grib(tmp_path / "a.grib", levels=(0, 0))
    with pytest.raises(
        DataError, match=r"fields of a GRIB file must differ .*a.grib holds 2t of 20200227 0600"
    ):
        Gridded().read(tmp_path / "a.grib")


def test_grib_from_east_to_west(tmp_path):
    ends = {"longitudeOfFirstGridPointInDegrees": 5, "longitudeOfLastGridPointInDegrees": 2}
    write_grib(tmp_path / "a.grib", iScansNegatively=1, **ends)
    frames = Gridded().read(tmp_path / "a.grib")
    np.testing.assert_allclose(frames.t2m, VALUES, atol=1e-3)
    np.testing.assert_array_equal(frames.x, [5, 4, 3, 2])


def test_grib_of_several_kinds_of_level(tmp_path):
    parts = {"2t": ("surface", (0,)), "t": ("isobaricInhPa", (500, 850)), "tp": ("surface", (0,))}
    with (tmp_path / "all.grib").open("wb") as file:
        for name, (kind, levels) in parts.items():
            write_grib(tmp_path / "part.grib", levels, kind, name)
            file.write((tmp_path / "part.grib").read_bytes())
    frames = Gridded().read(tmp_path / "all.grib")
    assert set(frames.data_vars) == {"t2m", "tp"}
    np.testing.assert_allclose(frames.t2m, VALUES, atol=1e-4)
    assert "t of" in frames.attrs["refused"]["t"]
    assert "isobaricInhPa (2)" in frames.attrs["refused"]["t"]


def write_amounts(path, ranges, sample="regular_ll_sfc_grib2", hours=None):
    """Messages of total precipitation over steps of a forecast, such as 0-1."""
    eccodes = importlib.import_module("eccodes")
    with path.open("wb") as file:
        for k, steps in enumerate(ranges):
            message = eccodes.codes_grib_new_from_samples(sample)
            keys = {"Ni": 4, "Nj": 3, "dataDate": 20200301, "dataTime": 100 * (hours or [0] * 9)[k]}
            keys |= {"shortName": "tp", "stepType": "accum", "stepRange": steps}
            for key, value in keys.items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, np.full(12, 1.0 + k))
            eccodes.codes_write(message, file)
            eccodes.codes_release(message)


@pytest.mark.parametrize(
    ("ranges", "options", "stated"),
    [
        (["0-1", "1-2", "2-3"], {}, {"period_s": 3600.0}),
        (["0-1"] * 3, {"hours": [0, 1, 2], "sample": "regular_ll_sfc_grib1"}, {"period_s": 3600.0}),
        (["0-6", "6-12", "12-18"], {}, {"period_s": 21600.0}),
        (["0m-5m", "5m-10m", "10m-15m"], {}, {"period_s": 300.0}),
        (["0-1", "0-2", "0-3"], {}, {"periods_s": (3600.0, 10800.0)}),  # since the start of the forecast
    ],
)
def test_the_time_that_amounts_of_grib_cover(tmp_path, ranges, options, stated):
    write_amounts(tmp_path / "a.grib", ranges, **options)
    attributes = Gridded().read(tmp_path / "a.grib").tp.attrs
    assert attributes["cell_methods"] == "time: sum"
    assert {k: v for k, v in attributes.items() if k.startswith("period")} == stated
    frames = open_frames(tmp_path / "a.grib")
    assert {k: v for k, v in frames.attrs.items() if k.startswith("period")} == stated


HOURS = np.datetime64("2020-03-01T00", "ns") + np.arange(5) * np.timedelta64(3600, "s")


def amounts(lengths, methods="time: sum", times=HOURS, **attributes):
    """Amounts over intervals of so many hours that end at times."""
    before = times - np.asarray(lengths) * np.timedelta64(3600, "s")
    data = xr.Dataset(
        {"pr": (("time", "lat", "lon"), VALUES, {"units": "mm", "cell_methods": methods} | attributes)},
        {"time": ("time", times, {"bounds": "time_bnds"}), "lat": LATITUDE, "lon": LONGITUDE},
    )
    data["time_bnds"] = (("time", "bnds"), np.stack([before, times], axis=1))
    data["time"].encoding["units"] = "minutes since 2000-01-01"
    return data


@pytest.mark.parametrize(
    ("data", "stated"),
    [
        (amounts([1] * 5), {"period_s": 3600.0}),
        (amounts([1] * 5, "area: mean time: sum (interval: 5 minutes)"), {"period_s": 3600.0}),
        (amounts([1 / 12] * 5), {"period_s": 300.0}),
        (amounts([1] * 5, period_s=300.0), {"period_s": 300.0}),
        (amounts([1, 2, 3, 4, 5]), {"periods_s": (3600.0, 18000.0)}),
        (amounts([24 * 31] * 5), {"periods_s": (2678400.0, 2678400.0)}),
        (amounts([1] * 5, "time: mean"), {}),
        (amounts([2] * 5, "valid_time: sum").rename(time="valid_time"), {"period_s": 7200.0}),
        (amounts([0] * 5), {}),
        (amounts([1] * 5).drop_vars("time_bnds"), {}),
    ],
)
def test_the_time_that_amounts_cover_by_the_bounds_of_their_times(tmp_path, data, stated):
    write(tmp_path / "a.nc", data)
    attributes = Gridded().read(tmp_path / "a.nc").pr.attrs
    assert {k: v for k, v in attributes.items() if k.startswith("period")} == stated
    assert "time: " in attributes["cell_methods"]
    assert list(open_frames(tmp_path / "a.nc")["channel"].values) == ["pr"]


def test_other_axes_of_size_one_are_dropped_and_larger_ones_refused(tmp_path):
    one = dataset().expand_dims(level=[2.0], number=[0])
    np.testing.assert_array_equal(Gridded().read(write(tmp_path / "a.nc", one)).t2m, VALUES)
    more = dataset().expand_dims(number=[0, 1, 2], axis=1)
    with pytest.raises(DataError, match=r"t2m of .*more.nc has number \(3\) too: select one entry.*isel"):
        Gridded().read(write(tmp_path / "more.nc", more))


def test_curvilinear_grids(tmp_path):
    grid = np.add.outer(np.arange(3.0), np.arange(4) / 10)
    data = xr.Dataset(
        {"rain": (("time", "nj", "ni"), VALUES)},
        {"time": TIMES, "nav_lat": (("nj", "ni"), 50 + grid), "nav_lon": (("nj", "ni"), 5 - grid)},
    )
    frames = Gridded().read(write(tmp_path / "a.nc", data))
    assert frames.lat.dims == frames.lon.dims == ("y", "x")
    np.testing.assert_array_equal(frames.lat, 50 + grid)
    np.testing.assert_array_equal(frames.lon, 5 - grid)
    assert frames.lat.attrs == {"standard_name": "latitude", "units": "degrees_north"}
    renamed = data.rename(nj="first", ni="second")  # dimensions known by the grid alone
    np.testing.assert_array_equal(Gridded().read(write(tmp_path / "b.nc", renamed)).rain, VALUES)


@pytest.mark.parametrize("names", [("lat", "lon"), ("latitude", "longitude")])
@pytest.mark.parametrize("frames", [5, 1])
def test_places_that_a_file_does_not_name_as_coordinates(tmp_path, names, frames):
    grid = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    places = {name: (("y", "x"), values) for name, values in zip(names, grid, strict=True)}
    data = dataset(("time", "y", "x")).drop_vars(["y", "x"]).assign(places)
    found = open_frames(write(tmp_path / "a.nc", data if frames > 1 else data.isel(time=2)))
    np.testing.assert_array_equal(found[:, 0], VALUES if frames > 1 else VALUES[2:3])
    np.testing.assert_array_equal(found["lat"], grid[0])
    np.testing.assert_array_equal(found["lon"], grid[1])


@pytest.mark.parametrize("name", ["x", "y", "time", "crs", 5])
def test_variables_with_names_of_coordinates_or_numbers(tmp_path, name):
    frames = xr.DataArray(VALUES, dims=("t", "rows", "columns"), name=name)
    np.testing.assert_array_equal(open_frames(frames)[:, 0], VALUES)
    assert open_frames(frames).name == ("5" if name == 5 else f"{name}_frames")
    np.savez(tmp_path / "a.npz", x=VALUES, y=2 * VALUES)
    np.testing.assert_array_equal(open_frames(tmp_path / "a.npz", variable="y_frames")[:, 0], 2 * VALUES)


@pytest.mark.parametrize("kind", [str, "date", "classic"])
def test_times_as_text_or_days(tmp_path, kind):
    texts = np.array([str(time)[:10] for time in TIMES])
    times = [time.astype("datetime64[D]").item() for time in TIMES] if kind == "date" else list(texts)
    data = dataset().assign_coords(time=np.array(times, object))
    if kind == "classic":
        data = dataset().assign_coords(time=texts)
        found = Gridded().read(write(tmp_path / "classic.nc", data))
    else:
        found = labelled_dataset(data, "a")
    np.testing.assert_array_equal(found.time, TIMES)


def test_grid_mapping_and_attributes(tmp_path):
    data = dataset(("time", "y", "x"))
    data["stereo"] = (), 0, {"grid_mapping_name": "polar_stereographic", "false_easting": 0.0}
    data.t2m.attrs |= {"grid_mapping": "stereo", "cell_methods": "time: mean", "note": "left out"}
    frames = Gridded().read(write(tmp_path / "a.nc", data))
    assert frames.t2m.attrs["grid_mapping"] == "crs"
    assert frames.t2m.attrs["cell_methods"] == "time: mean"
    assert "note" not in frames.t2m.attrs
    assert frames.crs.attrs["grid_mapping_name"] == "polar_stereographic"


def test_variables_on_other_rows_or_columns_are_refused_by_name(tmp_path):
    wider = np.zeros((5, 3, 5), np.float32)
    data = dataset().assign(u=(("time", "lat", "lon_u"), wider))
    path = write(tmp_path / "a.nc", data)
    np.testing.assert_array_equal(open_frames(path)[:, 0], VALUES)
    with pytest.raises(
        DataError, match="must have one grid; u of .* has the axes time, lat, lon_u, others lat"
    ):
        open_frames(path, variable="u")


@pytest.mark.parametrize("levels", [True, False])
def test_what_does_not_change_is_no_frame_of_many_times(tmp_path, levels):
    data = dataset().isel(time=0, drop=True).assign_coords(time=TIMES)
    sentence = "t2m of .* has no time, of which there are 5: name another variable"
    if levels:
        data = data.assign(u=(("time", "level", "lat", "lon"), np.zeros((5, 2, 3, 4))))[["u", "t2m"]]
        sentence = r"frames must have the axes time, y and x; u of .* has level \(2\) too"
    with pytest.raises(DataError, match=sentence):
        Gridded().read(write(tmp_path / "a.nc", data))
    with pytest.raises(DataError, match=sentence):
        open_frames(data)


def test_variables_without_time_beside_others(tmp_path):
    data = dataset()
    data["mask"] = ("lat", "lon"), VALUES[0] > 280
    frames = Gridded().read(write(tmp_path / "a.nc", data))
    assert frames.mask.dims == ("y", "x")
    np.testing.assert_array_equal(frames.mask, VALUES[0] > 280)


def test_one_frame_with_its_time_in_the_name_or_as_a_scalar(tmp_path):
    data = dataset().isel(time=3)
    scalar = Gridded().read(write(tmp_path / "a.nc", data))
    np.testing.assert_array_equal(scalar.time, TIMES[3:4])
    named = Gridded().read(write(tmp_path / "radar_202102012005.nc", data.drop_vars("time")))
    assert named.time.values.astype(str).tolist() == ["2021-02-01T20:05:00.000000000"]
    assert named.t2m.dims == ("time", "y", "x")


@pytest.mark.parametrize("names", [["Times", "XTIME"], ["XTIME"], ["moment"], ["Times"]])
def test_dates_under_other_names(tmp_path, names):
    """Those of WRF, in text or as numbers, and the only dates along the axis."""
    dates = {"Times": [str(time)[:19].replace("T", "_").encode() for time in TIMES]}
    times = {name: ("Time", dates.get(name, TIMES)) for name in names}
    data = xr.Dataset({"T2": (("Time", "south_north", "west_east"), VALUES)}).assign(times)
    np.testing.assert_array_equal(Gridded().read(write(tmp_path / "a.nc", data)).time, TIMES)
    two = data.assign(a=("Time", TIMES), b=("Time", TIMES)).drop_vars(names)  # of which none is told
    assert Gridded().read(write(tmp_path / "b.nc", two)).time.dtype.kind == "m"


def test_calendars(tmp_path):
    days = xr.date_range("2021-02-26", periods=5, calendar="noleap", use_cftime=True)
    frames = Gridded().read(write(tmp_path / "a.nc", dataset().assign_coords(time=days)))
    np.testing.assert_array_equal(frames.time, pd.date_range("2021-02-26", periods=5))
    short = xr.date_range("2021-02-28", periods=5, calendar="360_day", use_cftime=True)
    with pytest.raises(DataError, match="Gregorian calendar; received '360_day'.*convert_calendar"):
        Gridded().read(write(tmp_path / "b.nc", dataset().assign_coords(time=short)))


@pytest.mark.parametrize(("units", "step"), [("hours", 3600), ("min", 60), ("Weeks", 604800), ("", 1)])
def test_times_without_dates_count_from_the_first(tmp_path, units, step):
    data = dataset().assign_coords(time=("time", np.array([3, 4, 5, 7, 9]), {"units": units}))
    found = Gridded().read(write(tmp_path / "a.nc", data)).time
    np.testing.assert_array_equal(found, (np.array([0, 1, 2, 4, 6]) * step).astype("timedelta64[s]"))


def test_one_time_is_not_that_of_many_frames():
    """That of the start of a forecast, say, whose lead times have no labels."""
    data = dataset(("t", "lat", "lon")).drop_vars("t").assign_coords(time=TIMES[0])
    np.testing.assert_array_equal(labelled_dataset(data, "a").time, np.arange(5).astype("timedelta64[s]"))
    assert labelled_dataset(data.isel(t=[3]), "a").time.values == TIMES[:1]


def test_days_in_floats_are_whole_microseconds(tmp_path):
    times = ("time", 18000 + np.arange(1, 6) / 288, {"units": "days since 1970-01-01"})
    found = Gridded().read(write(tmp_path / "a.nc", dataset().assign_coords(time=times))).time
    minutes = np.arange(1, 6) * np.timedelta64(5, "m")
    np.testing.assert_array_equal(found, np.datetime64("2019-04-14T00:00") + minutes)
    assert np.isnat(in_nanoseconds(np.array(["NaT", "2021"], "datetime64[s]"))).tolist() == [True, False]


@pytest.mark.parametrize(
    ("times", "units"),
    [
        (np.arange(5, dtype=np.uint16)[::-1], "hours"),
        (np.array([-120, -60, 0, 60, 120], np.int8), "min"),
        (np.float32([1001, 1002, 1003, 1004, 1006]), "hours"),
    ],
)
def test_times_in_small_numbers_are_exact(tmp_path, times, units):
    data = dataset().assign_coords(time=("time", times, {"units": units}))
    found = Gridded().read(write(tmp_path / "a.nc", data)).time
    since = times.astype(np.int64) - int(times.min())
    np.testing.assert_array_equal(found, (since * {"hours": 3600, "min": 60}[units]).astype("timedelta64[s]"))


@pytest.mark.parametrize(
    "units", ["months", "months since 2010-01-01", "days since start", "day as %Y%m%d.%f"]
)
def test_times_of_unknown_units_are_refused(tmp_path, units):
    path = write(tmp_path / "a.nc", dataset().assign_coords(time=("time", np.arange(5), {"units": units})))
    with pytest.raises(
        DataError, match=f"times must be dates, or in a unit .*a.nc has them in '{units}': give"
    ):
        Gridded().read(path)


def test_times_beyond_nanoseconds(tmp_path):
    data = dataset().assign_coords(time=np.arange("1066-01-01", "1066-01-06", dtype="datetime64[s]")[::86400])
    with pytest.raises(DataError, match="between 1678 and 2262; received 1066"):
        labelled_dataset(data, "a")


def test_archives_by_the_specification_of_mlcast(tmp_path):
    """Version 1.0: GeoZarr, a part a step, latitude and longitude beside y and x, times without data yet."""
    wkt = CRS("EPSG:28992").to_wkt()
    data = xr.Dataset(
        {
            "rainfall_rate": (
                ("time", "y", "x"),
                np.where(VALUES > 285, np.nan, VALUES),
                {
                    "standard_name": "rainfall_flux",
                    "long_name": "rain",
                    "units": "mm h-1",
                    "grid_mapping": "crs",
                },
            ),
            "crs": ((), 0, {"spatial_ref": wkt, "crs_wkt": wkt}),
        },
        {
            "time": TIMES,
            "y": (
                "y",
                [2e3, 1e3, 0.0],
                {"standard_name": "projection_y_coordinate", "axis": "Y", "units": "m"},
            ),
            "x": ("x", np.arange(4e3, step=1e3), {"standard_name": "projection_x_coordinate", "units": "m"}),
            "lat": (("y", "x"), np.ones((3, 4)), {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": (("y", "x"), np.zeros((3, 4)), {"standard_name": "longitude", "units": "degrees_east"}),
        },
        {
            "last_valid_timestep": "2020-02-29T00:00:00Z",
            "license": "CC-BY-4.0",
            "mlcast_dataset_version": "1.0",
        },
    )
    data.chunk(time=1).to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=True)
    frames = Gridded().read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(frames.time, TIMES[:3])
    np.testing.assert_array_equal(frames.rainfall_rate, data.rainfall_rate[:3])
    names = ("units", "standard_name", "long_name", "grid_mapping")
    assert [frames.rainfall_rate.attrs[n] for n in names] == ["mm h-1", "rainfall_flux", "rain", "crs"]
    assert CRS.from_cf(frames.crs.attrs).to_epsg() == 28992
    assert frames.lat.dims == ("y", "x")
    assert frames.y.attrs["units"] == "m"


def test_parts_that_are_read_at_once(tmp_path):
    frames = np.zeros((40, 128, 128), np.float32)  # 16 of these are 1 MiB
    data = xr.Dataset({"v": (("time", "y", "x"), frames)})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert Gridded().read(tmp_path / "a.nc").v.chunks == ((16, 16, 8), (128,), (128,))
    data.to_netcdf(tmp_path / "b.nc", engine="h5netcdf", encoding={"v": {"chunksizes": (5, 128, 128)}})
    assert Gridded().read(tmp_path / "b.nc").v.chunks[0] == (15, 15, 10)  # whole parts of the file
    data.to_netcdf(tmp_path / "c.nc", engine="h5netcdf", encoding={"v": {"chunksizes": (40, 128, 64)}})
    assert Gridded().read(tmp_path / "c.nc").v.chunks == ((40,), (128,), (64, 64))


@pytest.mark.parametrize("name", ["a.nc", "classic.nc", "a2.zarr", "a3.zarr", "a.grib"])
def test_the_contract(tmp_path, name):
    path = tmp_path / name
    if name == "a.grib":
        write_grib(path)
    else:
        write(path, dataset().assign_coords(lon=np.arange(4.0)))  # which do not wrap round
    # HDF5 is recognised by its first bytes, whatever follows them.
    checks = [check for check in READER_CHECKS if check.__name__ != "only_its_own_format_is_recognised"]
    judge(checks, (Gridded(), path))


def test_nothing_like_frames(tmp_path):
    xr.Dataset({"a": ("n", np.zeros(3))}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"variable with rows and columns; .*a.nc holds a \('n',\): name its"):
        Gridded().read(tmp_path / "a.nc")
    assert not Gridded().recognises(tmp_path, b"")
    assert not Gridded().recognises(tmp_path / "a.txt", b"text about a GRIB")


@pytest.mark.parametrize("name", ["a.nc", "classic.nc", "a.grib"])
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    if name == "a.grib":
        write_grib(path)
        path.write_bytes(path.read_bytes()[:60])
    else:
        write(path, dataset())
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{name} must be a whole, readable file; reading gave"):
        Gridded().read(path).t2m.values  # noqa: B018


def test_projections_work_after_grib_was_read():
    """Without care PROJ of ecCodes takes the place of pyproj's, and the process ends."""
    code = (
        "import sys, eccodes; from convlstm.extras import load_pyproj; assert 'pyproj' not in sys.modules; "
        "flags = sys.getdlopenflags(); load_pyproj(); assert sys.getdlopenflags() == flags; "
        "from pyproj import CRS; print(CRS('EPSG:3035').to_cf()['grid_mapping_name'])"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "lambert_azimuthal_equal_area"


@pytest.mark.skipif(not REAL.is_dir(), reason="CONVLSTM_DATA names no folder of real files")
@pytest.mark.parametrize(
    ("name", "variable", "units", "shape", "first", "missing"),
    [
        ("era5-2mt-2019-03-uk.grib", "t2m", "K", (744, 33, 49), "2019-03-01T00", 0),
        ("oisst_tasman_1982_2013.nc", "sst", "degC", (11688, 32, 32), "1982-01-01T00", 83 / 1024),
        ("t_in_Celsius_1.nc", "tC", "degC", (40, 96, 192), "2001-01-01T00", 0),
        ("ostia_monthly.nc", "surface_temperature", "K", (54, 18, 432), "2006-04-16T00", 2055 / 7776),
    ],
)
def test_real_files(name, variable, units, shape, first, missing):
    frames = Gridded().read(REAL / "grids" / name)[variable]
    assert frames.shape == shape
    assert frames.attrs["units"] == units
    assert str(frames.time.values[0].astype("datetime64[h]")) == first
    assert frames.y.attrs["standard_name"] == "latitude"
    assert frames.x.attrs["standard_name"] == "longitude"
    assert float(frames[0].isnull().mean()) == pytest.approx(missing, abs=1e-6)
    inside = frames[0].mean() - (273.15 if units == "K" else 0)
    assert -5 < inside < 30


def test_a_valid_range_is_kept_unless_it_is_that_of_packed_values(tmp_path):
    frames = xr.DataArray(
        np.ones((2, 3, 4), np.float32), dims=("time", "y", "x"), name="t", attrs={"valid_range": [0, 6000]}
    )
    for packing, kept in (({}, [0, 6000]), ({"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1}, None)):
        path = tmp_path / "a.nc"
        frames.to_netcdf(path, engine="h5netcdf", encoding={"t": packing})
        found = Gridded().read(path)["t"].attrs.get("valid_range")
        assert (found if found is None else list(found)) == kept


def test_units_of_coordinates_that_are_numbers():
    frames = dataset().drop_vars("time")
    frames["lat"].attrs["units"], frames["lon"].attrs["units"] = 1, ["degrees_east"]
    found = labelled_dataset(frames, "a")
    assert (found["y"].attrs["units"], found["x"].attrs["units"]) == ("1", "degrees_east")


@pytest.mark.parametrize("rows", [["a", "b", "c"], np.arange(3).astype("datetime64[D]"), [True, False, True]])
def test_coordinates_that_are_no_numbers(rows):
    frames = dataset().assign_coords(lat=rows)
    frames["lat"].attrs["units"] = "degrees_north"
    found = open_frames(frames)
    np.testing.assert_array_equal(found["y"], [0, 1, 2])
    assert grid_of(found) == {"shape": [3, 4]}


def test_the_valid_range_of_unsigned_values_in_signed_bytes():
    codes = np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 4)
    attributes = {"_Unsigned": "true", "valid_range": np.int8([0, -2])}  # 254
    frames = labelled_dataset(xr.Dataset({"t": (("time", "y", "x"), codes, attributes)}), "a").t
    assert frames.attrs["valid_range"] == (0, 254)
    np.testing.assert_array_equal(frames, np.where(codes == -1, np.nan, codes.view(np.uint8)))


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({"units": 1}, {"units": "1"}),
        ({"units": np.float32(1)}, {"units": "1"}),
        ({"units": ["mm/h", "mm"]}, {"units": "mm/h mm"}),
        ({"units": np.bytes_("mm/h")}, {"units": "mm/h"}),
        ({"ancillary_variables": 3, "long_name": 2.5}, {"ancillary_variables": "3", "long_name": "2.5"}),
        ({"valid_range": "0 to 3"}, {}),
        ({"valid_range": [0.0, 1.0, 2.0]}, {}),
        ({"valid_range": [5.0]}, {}),
        ({"valid_range": [0.0, np.nan]}, {}),
        ({"valid_range": [0.0, np.inf]}, {}),
        ({"dry_value": "zero", "period_s": "300 s"}, {}),
        ({"dry_value": [0], "period_s": np.int32(300)}, {"dry_value": 0.0, "period_s": 300.0}),
    ],
)
def test_attributes_of_other_kinds_than_usual(attributes, kept):
    frames = xr.DataArray(VALUES, dims=("time", "y", "x"), name="t", attrs=attributes)
    found = labelled_dataset(frames.to_dataset(), "a").t.attrs
    assert {name: found[name] for name in found if name != "dtype"} == kept


TENTHS = {"scale_factor": 0.1, "add_offset": 2.0}
FLOATS, CODES = np.float32([-9, 0, 1, 2, 3, 900]), np.int16([-110, -20, -10, 0, 10, 8980])
BYTES = np.int8([0, 9, 127, -56, -55, -1])


@pytest.mark.parametrize(
    ("attributes", "stored", "valid"),
    [
        ({"valid_min": np.float32(1)}, FLOATS, [1, 2, 3, 900]),
        ({"valid_max": np.float64(3)}, FLOATS, [-9, 0, 1, 2, 3]),
        ({"valid_range": np.float32([0, 3])}, FLOATS, [0, 1, 2, 3]),
        ({"valid_range": np.float32([0, 3]), "valid_max": np.float32(1)}, FLOATS, [0, 1, 2, 3]),
        ({"valid_range": "0 to 3"}, FLOATS, [-9, 0, 1, 2, 3, 900]),
        # In the units of packed values, unless they are floats.
        ({"valid_range": np.int16([-20, 10])} | TENTHS, CODES, [0, 1, 2, 3]),
        ({"valid_range": np.float64([0, 3])} | TENTHS, CODES, [0, 1, 2, 3]),
        ({"valid_min": np.int16(0), "scale_factor": -0.1}, CODES, [0, -1, -898]),
        ({"valid_max": np.int8(-56), "_Unsigned": "true"}, BYTES, [0, 9, 127, 200]),
        ({"valid_max": np.int8(-56), "_Unsigned": "true", "scale_factor": 5.0}, BYTES, [0, 45, 635, 1000]),
    ],
)
@pytest.mark.parametrize("opened", [True, False], ids=["file", "memory"])
def test_what_lies_outside_the_valid_range_is_not_measured(tmp_path, attributes, stored, valid, opened):
    """By the CF conventions and the NetCDF user guide, and as netCDF4 does where it follows them."""
    frames = xr.DataArray(stored.reshape(1, 2, 3), dims=("time", "y", "x"), name="t", attrs=attributes)
    path = tmp_path / "a.nc"
    frames.to_netcdf(path, engine="h5netcdf")
    if opened:
        found = Gridded().read(path)["t"]
    else:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            found = labelled_dataset(dataset.load(), path)["t"]
    np.testing.assert_allclose(found.values[np.isfinite(found)], valid, rtol=1e-6)
    limits = [value for name, value in attributes.items() if name.startswith("valid")]
    if stored is not BYTES and not isinstance(limits[0], str) and limits[0].dtype.kind == stored.dtype.kind:
        with pytest.importorskip("netCDF4").Dataset(path) as dataset:
            masked = np.ma.getmaskarray(dataset["t"][:])
        np.testing.assert_array_equal(np.isnan(found), masked)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [(VALUES + 1j, "take their magnitude, numpy.abs, or"), (VALUES.astype(str), "convert them to float32")],
)
def test_complex_values_and_text_are_refused(values, remedy):
    frames = xr.Dataset({"t2m": (("time", "y", "x"), values)})
    with pytest.raises(DataError, match=f"must be integers or floats; t2m of memory holds .*: {remedy}"):
        labelled_dataset(frames, "memory")
    beside = frames.assign(rain=(("time", "y", "x"), VALUES))
    assert list(labelled_dataset(beside, "memory")) == ["rain"]


def test_times_with_an_offset_are_those_of_utc():
    """As of pandas, of the standard library and as text, when summer time begins; others are taken as UTC."""
    utc = np.datetime64("2021-03-28T00:50", "ns") + np.arange(5) * np.timedelta64(5, "m")
    zone = pd.DatetimeIndex(utc).tz_localize("UTC").tz_convert("Europe/Berlin")
    text = np.array([moment.isoformat() for moment in zone])
    assert text[1].endswith("+01:00")
    assert text[2].endswith("+02:00")
    naive = np.array([f"{moment}Z" for moment in utc.astype("M8[s]")])
    for times in (zone, np.array(zone.to_pydatetime(), object), text, naive, utc.astype(str)):
        frames = xr.DataArray(VALUES, {"time": times}, ("time", "y", "x"), "t2m")
        np.testing.assert_array_equal(labelled_dataset(frames.to_dataset(), "memory")["time"], utc)
    frames = xr.DataArray(VALUES, {"time": ["first", *text[1:]]}, ("time", "y", "x"), "t2m")
    with pytest.raises(DataError, match="must be dates or ISO 8601 text .*; memory holds 'first': convert"):
        labelled_dataset(frames.to_dataset(), "memory")


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
@pytest.mark.parametrize("dtype", [">f4", "<f8", "i2", "i4"])
def test_what_was_not_written_is_not_measured(tmp_path, engine, dtype):
    """It has the fill value of the NetCDF library where the file states none; a stated one alone counts."""
    fill = 9.969209968386869e36 if "f" in dtype else {"i2": -32767, "i4": -2147483647}[dtype]
    stored = np.arange(60).reshape(5, 3, 4).astype(dtype)
    stored[1, 2] = fill
    for stated in (None, stored.dtype.type(7)):
        written = xr.Dataset({"t2m": (("time", "lat", "lon"), stored)}, {"time": TIMES})
        written.t2m.encoding["_FillValue"] = stated
        path = tmp_path / f"{stated}.nc"
        written.to_netcdf(path, engine=engine)
        missing = stored == (fill if stated is None else 7)
        expected = np.where(missing, np.nan, stored.astype(np.float32))
        np.testing.assert_array_equal(Gridded().read(path).t2m, expected)


@pytest.mark.parametrize(("dtype", "kept"), [("f4", False), ("i2", True)])
def test_what_was_not_written_beside_a_missing_value(tmp_path, dtype, kept):
    """That is no fill value; integers of 16 bits are packed into all their range, though."""
    stored = np.arange(60).reshape(5, 3, 4).astype(dtype)
    stored[1, 2, 0], stored[0, 0, 0] = 9.969209968386869e36 if dtype == "f4" else -32767, -99
    written = xr.Dataset({"t2m": (("time", "lat", "lon"), stored, {"missing_value": stored.dtype.type(-99)})})
    written.t2m.encoding["_FillValue"] = None
    written.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    found = Gridded().read(tmp_path / "a.nc").t2m.values
    assert np.isnan(found[0, 0, 0])
    assert np.isfinite(found[1, 2, 0]) == kept


@pytest.mark.parametrize("code", [1e20, -9999.9, -999.0])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("opened", [True, False], ids=["file", "memory"])
def test_missing_values_that_32_bits_round(tmp_path, code, dtype, opened):
    stored = VALUES.astype(dtype)
    stored[1, 2, 3] = code
    data = dataset(t2m=stored)
    data.t2m.attrs["missing_value"], data.t2m.encoding["_FillValue"] = np.float64(code), None
    found = Gridded().read(write(tmp_path / "a.nc", data)) if opened else labelled_dataset(data, "a")
    expected = VALUES.copy()
    expected[1, 2, 3] = np.nan
    np.testing.assert_array_equal(found.t2m, expected)


def test_unsigned_integers_of_16_bits_without_a_fill_value(tmp_path):
    """No limit of signed ones is theirs."""
    stored = (np.arange(60) * 1000 % 65536).astype(np.uint16).reshape(5, 3, 4)
    data = dataset(t2m=stored.view(np.int16))
    data.t2m.attrs["_Unsigned"], data.t2m.encoding["_FillValue"] = "true", None
    np.testing.assert_array_equal(Gridded().read(write(tmp_path / "a.nc", data)).t2m, stored)


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("u2", 2**16 - 1), ("u4", 2**32 - 1), ("u8", 2**64 - 2), ("i8", 2 - 2**63)],
)
@pytest.mark.parametrize("stated", [True, False])
def test_integers_that_were_not_written(tmp_path, dtype, fill, stated):
    """They may well be measured, so that they count where the file says that they stand for it."""
    stored = np.arange(60).reshape(5, 3, 4).astype(dtype)
    stored[1, 2] = fill
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_dataset("t2m", data=stored, fillvalue=fill if stated else None)
        for k, (name, size) in enumerate(zip(("time", "lat", "lon"), stored.shape, strict=True)):
            file[name] = np.arange(size)
            file[name].make_scale(name)
            file["t2m"].dims[k].attach_scale(file[name])
    values = stored.astype(np.float32)
    expected = np.where(stored == fill, np.nan, values) if stated else values
    np.testing.assert_array_equal(Gridded().read(tmp_path / "a.nc").t2m, expected)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_undecoded_frames_in_memory_are_decoded(tmp_path, dtype, lazy):
    """As rioxarray gives them, and xarray with mask_and_scale=False; floats that state a scale have it."""
    stored = np.arange(60).reshape(5, 3, 4).astype(dtype)
    attributes = {"units": "K", "_FillValue": stored.dtype.type(7), "scale_factor": 0.5, "add_offset": 10.0}
    attributes |= {"valid_min": np.int16(3)} if dtype == "i2" else {}
    frames = xr.DataArray(stored, {"time": TIMES}, ("time", "y", "x"), "t", attributes)
    found = open_frames(frames.chunk(time=1) if lazy else frames)
    expected = stored * 0.5 + 10 if dtype == "i2" else stored
    missing = (stored == 7) | ((stored < 3) & (dtype == "i2"))
    np.testing.assert_array_equal(found[:, 0], np.where(missing, np.nan, expected))
    assert found.attrs["dtype"] == np.dtype(dtype).name


def test_days_as_numbers_without_a_unit_are_no_seconds(tmp_path):
    days = [20210130, 20210131, 20210201, 20210202, 20210203]
    frames = xr.DataArray(VALUES, {"time": days}, ("time", "y", "x"), "t", {"units": "K"})
    frames.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"times must be dates, .*a\.nc has them in '%Y%m%d': give dates, or"):
        Gridded().read(tmp_path / "a.nc")
    seconds = frames.assign_coords(time=np.array(days) - 20210000)  # some of which would be no days
    assert open_frames(seconds).time.dtype.kind == "m"
