"""Archives of forecasts from many initial times, written by several processes."""

import os
import subprocess
import sys

import numpy as np
import pyproj  # noqa: F401  # before ecCodes, which xarray imports: see `convlstm.extras.load_pyproj`
import pytest
import xarray as xr

from convlstm.errors import DataError, RunError
from convlstm.forecasting.archive import create_archive, write_to_archive
from convlstm.forecasting.fields import labelled_forecast

START, STEP = np.datetime64("2021-02-04T20:05", "ns"), np.timedelta64(300, "s")
TIMES = START + STEP * np.arange(6)
POLE = {"straight_vertical_longitude_from_pole": 0.0, "standard_parallel": 60.0}
LEADS, SIZE = 3, (6, 8)
WRITER = """if True:
    import sys
    import numpy as np
    sys.path.insert(0, {folder!r})
    from test_archive import TIMES, forecast
    from convlstm.forecasting.archive import write_to_archive
    for number in map(int, sys.argv[2:]):
        write_to_archive(__import__("pathlib").Path(sys.argv[1]), forecast(number))
    from pyproj import CRS  # crashes after ecCodes, which older xarray imports with its engines
    CRS("EPSG:3035")
"""


def forecast(number, leads=LEADS, size=SIZE):
    """Labelled forecast of the initial time of a number, one pixel not measured."""
    coordinates = {
        "time": TIMES[[number]],
        "channel": ["rain"],
        "y": ("y", 1000.0 * np.arange(size[0]), {"units": "m", "standard_name": "projection_y_coordinate"}),
        "x": ("x", 1000.0 * np.arange(size[1]), {"units": "m", "standard_name": "projection_x_coordinate"}),
        "crs": ((), 0, {"grid_mapping_name": "polar_stereographic"} | POLE),
    }
    attributes = {"units": "mm/h", "grid_mapping": "crs"}
    dims = ("time", "channel", "y", "x")
    last = xr.DataArray(np.zeros((1, 1, *size), np.float32), coordinates, dims, "rain", attributes)
    values = np.random.default_rng(number).random((leads, 1, *size)).astype(np.float32)
    values[:, :, 0, number] = np.nan
    return labelled_forecast(values, last, 300.0)


def opened(path):
    return xr.open_zarr(path, consolidated=False, decode_timedelta=False)


def test_processes_fill_an_archive_together(tmp_path):
    path = create_archive(tmp_path / "a.zarr", forecast(0), TIMES, source="model 1", history="made")
    code = WRITER.format(folder=os.path.dirname(__file__))
    command = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen([*command, *numbers]) for numbers in (["0", "2"], ["1", "5"])]
    assert [writer.wait() for writer in writers] == [0, 0]
    with opened(path) as archive:
        assert archive["rain"].dims == ("forecast_reference_time", "forecast_period", "y", "x")
        np.testing.assert_array_equal(archive["forecast_reference_time"], TIMES)
        np.testing.assert_array_equal(archive["forecast_period"], [5, 10, 15])
        assert archive["time"].dims == archive["rain"].dims[:2]
        np.testing.assert_array_equal(archive["time"], TIMES[:, None] + STEP * np.arange(1, 4))
        for number in range(6):
            made = forecast(number)[:, 0].values if number in (0, 1, 2, 5) else np.full((3, *SIZE), np.nan)
            np.testing.assert_array_equal(archive["rain"][number], made)
            np.testing.assert_array_equal(archive["rain_valid"][number], np.isfinite(made[0]))
        assert archive["rain"].attrs["ancillary_variables"] == "rain_valid"
        assert (archive["rain"].dtype, archive["rain_valid"].dtype) == (np.float32, np.int8)
        assert archive.attrs["source"] == "model 1"
        assert "crs" in archive.coords


def test_initial_times_with_parts_of_seconds(tmp_path):
    times = TIMES + np.arange(len(TIMES)) * np.timedelta64(123, "ms")
    made = [forecast(k) for k in range(2)]
    late = times[1] - TIMES[1]
    made[1] = made[1].assign_coords(
        {name: made[1][name] + late for name in ("time", "forecast_reference_time")}
    )
    path = create_archive(tmp_path / "a.zarr", made[0], times)
    write_to_archive(path, made[1])
    with opened(path) as archive:
        np.testing.assert_array_equal(archive["forecast_reference_time"], times)
        np.testing.assert_array_equal(archive["rain"][1], made[1][:, 0].values)


def test_members_are_an_axis_of_the_archive(tmp_path):
    members = [xr.concat([forecast(k), 2 * forecast(k)], "realization") for k in range(2)]
    path = create_archive(tmp_path / "a.zarr", members[0], TIMES)
    write_to_archive(path, members[1])
    with opened(path) as archive:
        assert archive["rain"].dims[2] == "realization"
        np.testing.assert_array_equal(archive["rain"][1, :, 1], 2 * forecast(1)[:, 0].values)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_compliance_checker_of_ioos_passes(tmp_path):
    """It reads no Zarr of version 3: the same data set as NetCDF."""
    from compliance_checker.runner import CheckSuite, ComplianceChecker

    path = create_archive(tmp_path / "a.zarr", forecast(0), TIMES, source="model 1", history="made")
    write_to_archive(path, forecast(0))
    with opened(path) as archive:
        archive = archive.load()
    for name, variable in archive.variables.items():
        kept = {key: variable.encoding[key] for key in ("units", "_FillValue") if key in variable.encoding}
        if "flag_values" in variable.attrs:  # JSON has no types
            variable.attrs["flag_values"] = np.array(variable.attrs["flag_values"], variable.dtype)
        variable.encoding = kept | ({"_FillValue": None} if name in archive.coords else {})
    archive.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    CheckSuite.load_all_available_checkers()
    passed, errors = ComplianceChecker.run_checker(str(tmp_path / "a.nc"), ["cf:1.11"], 0, "lenient")
    assert passed
    assert not errors


def test_what_does_not_belong_to_an_archive_is_refused(tmp_path):
    path = create_archive(tmp_path / "a.zarr", forecast(0), TIMES[:3])
    for other in (forecast(4), forecast(1, leads=2), forecast(1, size=(6, 9))):
        with pytest.raises(DataError, match="must be of the initial times, lead times, variables and grid"):
            write_to_archive(path, other)
    with opened(path) as archive:
        assert np.isnan(archive["rain"]).all()
    with pytest.raises(RunError, match="make one with create_archive"):
        write_to_archive(tmp_path / "none.zarr", forecast(0))
    with pytest.raises(RunError, match="exists"):
        create_archive(path, forecast(0), TIMES)
    with pytest.raises(DataError, match="ascending initial times"):
        create_archive(tmp_path / "b.zarr", forecast(0), TIMES[::-1])
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]
