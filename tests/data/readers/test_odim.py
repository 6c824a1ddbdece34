"""ODIM composites: values, places and times of files written here and of the real ones."""

import numpy as np
import pytest
from pyproj import CRS, Transformer

from convlstm.data import Archive, open_frames
from convlstm.data.readers.odim import ODIM
from convlstm.errors import DataError
from convlstm.testing import check_reader

RATE = np.array([[-9999000.0, -8888000.0, 0.0], [0.25, 1205.22, -8888000.0]])
RATE_WHAT = {"quantity": b"RATE", "gain": 1.0, "offset": 0.0, "nodata": -9999000.0, "undetect": -8888000.0}
DBZ = np.array([[0, 1, 66], [254, 255, 2]], np.uint8)
DBZ_WHAT = {"quantity": "DBZH", "gain": 0.5, "offset": -33.0, "nodata": 255.0, "undetect": 0.0}


def read(path, name):
    dataset = ODIM().read(path)
    return dataset, dataset[name].values[0]


OPERA = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000"


def test_rates_undetected_and_no_data(tmp_path, write_odim):
    path = write_odim(tmp_path / "a.hdf", {"dataset1/data1": (RATE, {}), "dataset1": (None, RATE_WHAT)})
    dataset, values = read(path, "rainfall_rate")
    np.testing.assert_array_equal(values, np.float32([[np.nan, 0, 0], [0.25, 1205.22, 0]]))
    assert dataset.time.values == [np.datetime64("2018-08-24T18:00")]
    frames = dataset["rainfall_rate"]
    assert (frames.attrs["units"], frames.attrs["dry_value"]) == ("mm/h", 0.0)


def test_scaled_reflectivity(tmp_path, write_odim):
    path = write_odim(tmp_path / "a.h5", {"dataset1/data1": (DBZ, DBZ_WHAT)})
    dataset, values = read(path, "reflectivity")
    np.testing.assert_array_equal(values, np.float32([[-32, -32.5, 0], [94, np.nan, -32]]))
    assert (dataset["reflectivity"].attrs["units"], dataset["reflectivity"].attrs["dry_value"]) == (
        "dBZ",
        -32.0,
    )


def test_accumulations(tmp_path, write_odim):
    what = {**DBZ_WHAT, "quantity": b"ACRR", "gain": 0.1, "offset": -0.1}
    dataset, values = read(write_odim(tmp_path / "a.h5", {"dataset1/data1": (DBZ, what)}), "precipitation")
    np.testing.assert_array_equal(values, np.float32([[0, 0, 6.5], [25.3, np.nan, 0.1]]))
    assert dataset["precipitation"].attrs["cell_methods"] == "time: sum"
    assert "period_s" not in dataset["precipitation"].attrs


@pytest.mark.parametrize("group", ["dataset1", "dataset1/data1"])
def test_the_time_that_an_amount_covers(tmp_path, write_odim, group):
    period = {"startdate": "20180823", "starttime": "234500", "enddate": "20180824", "endtime": b"004500"}
    what = {**DBZ_WHAT, "quantity": "ACRR"}
    fields = {"dataset1/data1": (DBZ, what), "dataset1/data2": (DBZ, DBZ_WHAT)}
    fields |= {group: (fields.get(group, (None,))[0], (what if "data1" in group[8:] else {}) | period)}
    dataset = ODIM().read(write_odim(tmp_path / "a.h5", fields))
    assert dataset["precipitation"].attrs["period_s"] == 3600
    assert "period_s" not in dataset["reflectivity"].attrs


def test_several_quantities_and_quality(tmp_path, write_odim):
    """Undetected is NaN where there is no dry value; a second field of a quantity is named by its place."""
    quality = {"gain": 1 / 255, "offset": 0.0}
    path = write_odim(
        tmp_path / "a.h5",
        {
            "dataset1/data1": (DBZ, DBZ_WHAT),
            "dataset1/data2": (DBZ, {**DBZ_WHAT, "quantity": "HGHT"}),
            "dataset1/quality1": (DBZ, quality),
            "dataset2/data1": (DBZ, DBZ_WHAT),
        },
    )
    dataset = ODIM().read(path)
    assert list(dataset) == ["reflectivity", "hght", "reflectivity_dataset2_data1", "quality"]
    np.testing.assert_array_equal(dataset["hght"][0], np.float32([[np.nan, -32.5, 0], [94, np.nan, -32]]))
    np.testing.assert_array_equal(dataset["quality"][0], (DBZ / 255).astype(np.float32))
    assert "units" not in dataset["hght"].attrs
    assert dataset["quality"].attrs["units"] == "1"


def test_places_from_either_corner(tmp_path, write_odim):
    fields = {"dataset1/data1": (DBZ, DBZ_WHAT)}
    dataset = ODIM().read(write_odim(tmp_path / "upper.h5", fields))
    assert dataset.x.values.tolist() == [1000.0, 3000.0, 5000.0]
    assert dataset.y.values.tolist() == [-1000.0, -3000.0]
    degrees = {"projdef": "+proj=latlong", "xscale": 0.5, "yscale": 0.25, "LL_lon": 4.0, "LL_lat": 50.0}
    dataset = ODIM().read(write_odim(tmp_path / "lower.h5", fields, degrees))
    assert dataset.x.values.tolist() == [4.25, 4.75, 5.25]
    assert dataset.y.values.tolist() == [50.375, 50.125]
    assert dataset.y.attrs == {"standard_name": "latitude", "units": "degrees_north"}
    assert dataset.crs.attrs["grid_mapping_name"] == "latitude_longitude"


def test_codes_of_values_are_not_those_of_their_quality(tmp_path, write_odim):
    """Codes 0 and 255, undetected and no data of the values, are the least and the greatest quality."""
    codes = np.array([[0, 1, 2], [3, 254, 255]], np.uint8)
    fields = {"dataset1/data1": (codes, {**DBZ_WHAT, "nodata": 255.0, "undetect": 0.0})}
    fields |= {"dataset1/data1/quality1": (codes, {"gain": 1 / 255, "offset": 0.0})}
    dataset = ODIM().read(write_odim(tmp_path / "a.h5", fields))
    assert np.isnan(dataset["reflectivity"].values).sum() == 1
    np.testing.assert_array_equal(dataset["quality"][0], (codes / 255).astype(np.float32))


def test_quality_of_every_group_accompanies_the_values(tmp_path, write_odim):
    """A data set and its data may each have some, and none of them is a choice of frames."""
    quality = (DBZ, {"gain": 1 / 255, "offset": 0.0})
    fields = {"dataset1/data1": (DBZ, DBZ_WHAT), "dataset1/data1/quality1": quality}
    path = write_odim(
        tmp_path / "a.h5", fields | {"dataset1/quality1": quality, "dataset1/quality2": quality}
    )
    assert len(ODIM().read(path)) == 4
    assert open_frames(path).name == "reflectivity"


def test_amounts_of_different_times_in_one_file_become_no_rates(tmp_path, write_odim):
    """Each channel covers another time, not the one between frames."""
    fields = {}
    for k, start in enumerate(("170000", "120000"), 1):
        period = {"startdate": "20180824", "starttime": start, "enddate": "20180824", "endtime": "180000"}
        fields[f"dataset{k}/data1"] = DBZ, {**DBZ_WHAT, "quantity": "ACRR", **period}
    path = write_odim(tmp_path / "a.h5", fields)
    names = ["precipitation", "precipitation_dataset2_data1"]
    frames = open_frames(path, variable=names)
    assert frames.attrs["periods_s"] == (3600, 21600)
    with pytest.raises(DataError, match="must cover one time to become mm/h; these cover 3600 to 21600 s"):
        Archive(path, names, units="mm/h")


def test_places_in_kilometres(tmp_path, write_odim):
    """Pixels are in the unit of the projection."""
    where = {"projdef": f"{OPERA} +units=km +ellps=WGS84", "xscale": 2.0, "yscale": 2.0}
    where |= {"UL_lon": -39.5357864125034, "UL_lat": 67.02283275830867}
    dataset = ODIM().read(write_odim(tmp_path / "a.h5", {"dataset1/data1": (DBZ, DBZ_WHAT)}, where))
    assert dataset.x.values.tolist() == [1000.0, 3000.0, 5000.0]
    assert dataset.y.values.tolist() == [-1000.0, -3000.0]
    assert dataset.x.attrs["units"] == "m"
    assert {axis.unit_name for axis in CRS.from_cf(dataset.crs.attrs).axis_info} == {"metre"}


def test_polar_volumes_are_refused(tmp_path, write_odim):
    path = write_odim(tmp_path / "a.h5", {"dataset1/data1": (DBZ, DBZ_WHAT)}, kind="PVOL")
    assert ODIM().recognises(path, path.read_bytes()[:4096])
    with pytest.raises(
        DataError, match=r"data must be on a grid \(COMP or IMAGE\); .*a\.h5 has the object PVOL: make"
    ):
        ODIM().read(path)


@pytest.mark.parametrize("what", ["time", "fields", "projection"])
def test_files_that_lack_something(tmp_path, write_odim, what):
    fields = {} if what == "fields" else {"dataset1/data1": (DBZ, DBZ_WHAT)}
    where = {"xscale": 1.0} if what == "projection" else None
    path = write_odim(tmp_path / "a.h5", fields, where, time="99" if what == "time" else "180000")
    problem = {
        "time": 'datetime string "2018-08-24T99::"',
        "fields": "no datasets",
        "projection": "no attribute projdef",
    }
    with pytest.raises(DataError, match=rf"a\.h5 must be a whole, readable file; .*{problem[what]}"):
        ODIM().read(path)


def test_contract(tmp_path, write_odim):
    check_reader(ODIM(), write_odim(tmp_path / "a.h5", {"dataset1/data1": (DBZ, DBZ_WHAT)}))


def test_real_files(real):
    datasets = [ODIM().read(file) for file in real("radar/opera/*.hdf")]
    times = np.concatenate([dataset.time.values for dataset in datasets])
    assert (len(times), times[0]) == (6, np.datetime64("2018-08-24T18:00"))
    assert set(np.diff(times)) == {np.timedelta64(15, "m")}
    dataset = datasets[0]
    assert list(dataset) == ["rainfall_rate", "quality"]
    values, quality = dataset["rainfall_rate"].values, dataset["quality"].values
    assert values.shape == (1, 2200, 1900)
    assert np.nanmax(values) == np.float32(1205.22)
    assert (np.isnan(values).sum(), (values > 0).sum()) == (2085857, 488154 - 6055)
    assert (np.nanmin(quality), np.nanmax(quality)) == (0.0, np.float32(0.9))
    crs = CRS.from_cf(dataset.crs.attrs)
    to_grid = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    # The file's other three corners: upper right, lower right, lower left.
    corners = [(57.81196475014995, 67.62103710275053), (29.421038635578032, 31.98765027794496)]
    corners.append((-10.434576838640398, 31.746215319325056))
    east, south = dataset.x.values[-1] + 1000, dataset.y.values[-1] - 1000
    for corner, place in zip(corners, [(east, 0), (east, south), (0, south)], strict=True):
        assert np.hypot(*np.subtract(to_grid.transform(*corner), place)) < 0.01
