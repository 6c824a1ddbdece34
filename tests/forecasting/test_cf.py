"""Forecasts as NetCDF and Zarr: the compliance checker, what is in the file, what is left after an error."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pyproj  # noqa: F401  # before ecCodes, which xarray imports: see `convlstm.extras.load_pyproj`
import pytest
import xarray as xr

from convlstm.data.opening import open_frames
from convlstm.data.readers.base import RADAR, projected
from convlstm.errors import RunError
from convlstm.forecasting.cf import write_cf
from convlstm.forecasting.fields import labelled_forecast

SIZE, STEPS = (6, 8), 3
PROJ = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378140 +b=6356750"


def radar(dated=True):
    """Labelled rain rates as a reader gives them, with the grid mapping of KNMI's composites."""
    labels = projected(PROJ, (0.0, -3650000.0), (1000.0, 1000.0), SIZE)
    time = np.arange(5) * np.timedelta64(300 * 10**9, "ns")
    crs = xr.Variable((), np.int32(0), labels.pop("crs"))
    values = np.random.default_rng(0).gamma(0.5, 3.0, (5, *SIZE)).astype(np.float32)
    values[:, 0, 0] = np.nan
    coordinates = {**labels, "crs": crs, "time": np.datetime64("2021-02-04T20:05") + time if dated else time}
    attributes = RADAR["rainfall_rate"] | {"grid_mapping": "crs"}
    frames = xr.DataArray(values, coordinates, ("time", "y", "x"), "rainfall_rate", attributes)
    return open_frames(frames)


def geographic():
    coordinates = {
        "time": np.datetime64("2011-01-01", "ns") + np.arange(5) * np.timedelta64(86400 * 10**9, "ns"),
        "lat": ("lat", np.linspace(-40, -35, SIZE[0]), {"units": "degrees_north"}),
        "lon": ("lon", np.linspace(150, 157, SIZE[1]), {"units": "degrees_east"}),
    }
    values = np.random.default_rng(0).normal(15, 2, (5, *SIZE)).astype(np.float32)
    attributes = {"units": "degC", "standard_name": "sea_surface_temperature", "cell_methods": "time: mean"}
    return open_frames(xr.DataArray(values, coordinates, ("time", "lat", "lon"), "sst", attributes))


def curvilinear():
    grid = np.meshgrid(np.linspace(150, 157, SIZE[1]), np.linspace(-40, -35, SIZE[0]))
    frames = geographic().isel(channel=0, drop=True).drop_vars(["y", "x"])
    coordinates = {
        "nav_lon": (("y", "x"), grid[0], {"standard_name": "longitude", "units": "degrees_east"}),
        "nav_lat": (("y", "x"), grid[1], {"standard_name": "latitude", "units": "degrees_north"}),
    }
    return open_frames(frames.assign_coords(coordinates))


def channels():
    frames = radar().isel(channel=0, drop=True)
    names = {"rain rate (mm/h)": frames, "2m temperature": (frames + 270).assign_attrs(units="K")}
    return open_frames(xr.Dataset(names), variable=list(names))


def forecast(frames):
    count = frames.sizes["channel"]
    values = np.random.default_rng(1).gamma(0.5, 3.0, (STEPS, count, *SIZE)).astype(np.float32)
    step_s = float((frames["time"].values[1] - frames["time"].values[0]) / np.timedelta64(1, "s"))
    values[..., 0, 0] = np.nan
    return labelled_forecast(values, frames, step_s)


def members():
    made = forecast(radar())
    return xr.concat([made, 2 * made], "realization")


CASES = {
    "radar": lambda: forecast(radar()),
    "members": members,
    "geographic": lambda: forecast(geographic()),
    "curvilinear": lambda: forecast(curvilinear()),
    "channels": lambda: forecast(channels()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_compliance_checker_of_ioos_passes(tmp_path, name):
    from compliance_checker.runner import CheckSuite, ComplianceChecker

    CheckSuite.load_all_available_checkers()
    path = write_cf(tmp_path / "f.nc", CASES[name](), source="model, convlstm 1", history="now: made")
    versions = [each for each in CheckSuite.checkers if each.startswith("cf:1.")]
    newest = max(versions, key=lambda each: int(each.removeprefix("cf:1.")))
    said = io.StringIO()
    with redirect_stdout(said):
        passed, errors = ComplianceChecker.run_checker(
            str(path), [newest], 0, "lenient", output_format="text"
        )
    assert passed, said.getvalue()
    assert not errors, said.getvalue()
    assert int(newest.removeprefix("cf:1.")) >= 11


@pytest.mark.parametrize("ending", ["nc", "zarr"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_labels_are_in_the_file(tmp_path, name, ending):
    made = CASES[name]()
    path = write_cf(tmp_path / f"f.{ending}", made, source="model 1", history="now: made")
    options = {"engine": "h5netcdf"} if ending == "nc" else {"engine": "zarr", "consolidated": False}
    with xr.open_dataset(path, decode_coords="all", decode_timedelta=False, **options) as file:
        assert (file.attrs["Conventions"], file.attrs["source"]) == ("CF-1.11", "model 1")
        assert file.attrs["history"] == "now: made"
        names = [each for each in file.data_vars if not str(each).endswith("_valid")]
        assert len(names) == made.sizes["channel"]
        if name == "channels":  # a folder lists them in any order
            names.sort(key=lambda each: list(made["channel"].values).index(file[each].attrs["long_name"]))
        for k, each in enumerate(names):
            values = made.isel(channel=k)
            np.testing.assert_array_equal(file[each].values, values.values)
            assert file[each].dims == (*(["realization"] if name == "members" else []), "time", "y", "x")
            assert file[each].attrs["units"] == str(made.attrs["units"]).split(", ")[k]
            assert file[each].attrs["ancillary_variables"] == f"{each}_valid"
            assert file[each].attrs["cell_methods"].startswith("time: ")
            valid = file[f"{each}_valid"]
            assert valid.dims == ("y", "x")
            assert valid.values.sum() == valid.size - 1
            assert valid.values[0, 0] == 0
        np.testing.assert_array_equal(file["time"].values, made["time"].values)
        assert file["forecast_reference_time"].values == made["forecast_reference_time"].values
        assert file["forecast_period"].attrs["units"] == "minutes"
        minutes = made["forecast_period"].values / np.timedelta64(1, "m")
        np.testing.assert_array_equal(file["forecast_period"].values, minutes)
        for axis in ("y", "x"):
            np.testing.assert_array_equal(file[axis].values, made[axis].values)
        if name == "radar":
            assert file["crs"].attrs["grid_mapping_name"] == "polar_stereographic"
            assert file["crs"].attrs["crs_wkt"] == made["crs"].attrs["crs_wkt"]
        if name == "curvilinear":
            np.testing.assert_array_equal(file["lat"].values, made["lat"].values)


@pytest.mark.parametrize("ending", ["nc", "zarr"])
@pytest.mark.parametrize("dated", [True, False])
def test_a_forecast_file_opens_as_frames_do(tmp_path, ending, dated):
    made = forecast(radar(dated=dated)).assign_attrs(period_s=600.0)  # of the amounts of another model, say
    frames = open_frames(write_cf(tmp_path / f"f.{ending}", made), variable="rainfall_rate")
    np.testing.assert_array_equal(frames.values, made.values)
    kind = "M" if dated else "m"
    assert frames["time"].dtype.kind == kind
    np.testing.assert_array_equal(np.diff(frames["time"]), np.diff(made["time"]))
    assert frames.attrs["units"] == "mm/h"
    assert (frames.attrs["period_s"], frames.attrs["dry_value"]) == (600, 0)
    assert frames["crs"].attrs["standard_parallel"] == 60


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_files_appear_when_they_are_complete_and_replace_others_only_if_asked(tmp_path, monkeypatch, ending):
    path, made = tmp_path / f"f.{ending}", forecast(radar())
    write_cf(path, made)
    with pytest.raises(RunError, match="must not replace a file unasked.*exists"):
        write_cf(path, made)
    before = open_frames(path, variable="rainfall_rate").values

    replace = os.replace

    def full(source, target):  # Zarr renames files of its own
        if target == path:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match="No space left on device.*free space"):
            write_cf(path, made * 2, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(open_frames(path, variable="rainfall_rate").values, before)
    write_cf(path, made * 2, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(open_frames(path, variable="rainfall_rate").values, 2 * made.values)


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    for name in ("f.zarr", "f.nc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("x")
        with pytest.raises(RunError, match="is a folder: choose another name"):
            write_cf(tmp_path / name, forecast(radar()), overwrite=True)
        assert (tmp_path / name / "mine").exists()


def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing(tmp_path):
    """In a process of its own, whose files may have 8 KiB: HDF5 would end it."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_cf import forecast, radar, write_cf
made = forecast(radar())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    write_cf(Path({str(tmp_path / "f.nc")!r}), made)
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "RunError" in ended.stdout
    assert "File too large" in ended.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "names", [("a b", "a_b"), ("é1", "è1"), ("u", "u_valid"), ("x", "y"), ("time", "forecast_period")]
)
@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_no_channel_takes_the_name_of_another_or_of_a_coordinate(tmp_path, names, ending):
    made = forecast(channels()).assign_coords(channel=list(names))
    path = write_cf(tmp_path / f"a.{ending}", made)
    options = {"engine": "zarr", "consolidated": False} if ending == "zarr" else {"engine": "h5netcdf"}
    with xr.open_dataset(path, decode_timedelta=False, **options) as found:
        values = {v.attrs["long_name"]: v for v in found.data_vars.values() if v.dtype.kind == "f"}
        assert len(values) == 2
        for k, name in enumerate(names):
            variable = values[name]
            np.testing.assert_array_equal(variable, made[:, k])
            mask = found[variable.attrs["ancillary_variables"]]
            np.testing.assert_array_equal(mask, np.isfinite(made[0, k]))


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_attributes_that_files_cannot_hold(tmp_path, ending):
    """Those of a Zarr store may be flags, mappings and null, those in memory anything."""
    own = {"flag": True, "none": None, "nested": {"a": 1}, "date": np.datetime64("2021-01-01"), "": 1, 3: 2}
    frames = geographic().assign_coords(crs=((), 0, {"grid_mapping_name": "latitude_longitude"} | own))
    frames["y"].attrs |= own | {"bytes": b"text", "numbers": np.arange(3), "texts": ["a", "b"]}
    write_cf(tmp_path / f"a{ending}", forecast(frames))
    options = {"consolidated": False} if ending == ".zarr" else {}
    with xr.open_dataset(tmp_path / f"a{ending}", decode_timedelta=False, **options) as found:
        kept = {"flag", "bytes", "numbers", "texts"}
        assert found["y"].attrs.keys() & {*own, *kept} == kept
        assert (found["y"].attrs["flag"], found["y"].attrs["bytes"]) == (1, "text")
        assert list(found["y"].attrs["numbers"]) == [0, 1, 2]
        assert found["y"].attrs["units"] == "degrees_north"


def test_cell_methods_with_a_comma_in_a_comment(tmp_path):
    methods = ["time: mean (comment: a, b)", "time: sum"]
    frames = geographic()
    both = xr.Dataset(
        {
            name: frames[:, 0].drop_vars("channel").assign_attrs(cell_methods=m)
            for name, m in zip("ab", methods, strict=True)
        }
    )
    write_cf(tmp_path / "a.nc", forecast(open_frames(both, variable=["a", "b"])))
    write_cf(tmp_path / "b.nc", forecast(open_frames(both, variable="a")))
    with xr.open_dataset(tmp_path / "a.nc", decode_timedelta=False) as found:
        assert [found[name].attrs["cell_methods"] for name in "ab"] == methods
    with xr.open_dataset(tmp_path / "b.nc", decode_timedelta=False) as found:
        assert found["a"].attrs["cell_methods"] == methods[0]


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_times_with_parts_of_seconds_are_exact(tmp_path, ending):
    frames = geographic()
    frames = frames.assign_coords(time=frames["time"] + np.timedelta64(123, "ms"))
    written = forecast(frames)
    write_cf(tmp_path / f"a{ending}", written)
    np.testing.assert_array_equal(open_frames(tmp_path / f"a{ending}").time, written.time)
