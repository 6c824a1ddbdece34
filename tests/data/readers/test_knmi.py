"""Composites of KNMI, both kinds: values, places and times of files written here and of the real ones."""

import h5py
import numpy as np
import pytest
from pyproj import CRS, Transformer

from convlstm.data.readers.knmi import KNMI
from convlstm.errors import DataError
from convlstm.testing import check_reader

RAIN = np.array([[0, 1, 128], [65534, 65535, 7]], np.uint16)
REFLECTIVITY = np.array([[0, 1, 64], [254, 255, 78]], np.uint8)


def test_accumulations(tmp_path, write_knmi):
    dataset = KNMI().read(write_knmi(tmp_path / "rain.h5", RAIN, "26-AUG-2010;07:35:00.000"))
    assert list(dataset) == ["precipitation"]
    frames = dataset["precipitation"]
    np.testing.assert_array_equal(frames, np.float32([[[0.0, 0.01, 1.28], [655.34, np.nan, 0.07]]]))
    assert dataset.time.values == [np.datetime64("2010-08-26T07:35")]
    assert frames.attrs["units"] == "mm"
    assert frames.attrs["cell_methods"] == "time: sum"
    assert frames.attrs["dry_value"] == 0
    assert "period_s" not in frames.attrs
    with h5py.File(tmp_path / "rain.h5", "a") as file:
        file["overview"].attrs["product_datetime_start"] = np.bytes_("26-AUG-2010;07:30:00.000")
    assert KNMI().read(tmp_path / "rain.h5")["precipitation"].attrs["period_s"] == 300


def test_code_0_of_reflectivity_is_dry_and_255_not_measured(tmp_path, write_knmi):
    dataset = KNMI().read(write_knmi(tmp_path / "dbz.hf5", REFLECTIVITY))
    frames = dataset["reflectivity"]
    np.testing.assert_array_equal(frames, np.float32([[[-32, -31.5, 0], [95, np.nan, 7]]]))
    assert (frames.attrs["units"], frames.attrs["dry_value"]) == ("dBZ", -32.0)
    assert "cell_methods" not in frames.attrs


def test_code_0_is_dry_in_files_whose_formula_begins_half_a_dbz_above(tmp_path, write_knmi):
    """Pixels without an echo were -31.5 dBZ there, above the dry value, and so wet."""
    path = write_knmi(tmp_path / "dbz.h5", REFLECTIVITY)
    with h5py.File(path, "a") as file:
        formula = np.bytes_("GEO=0.500000*PV+-31.500000")
        file["image1/calibration"].attrs["calibration_formulas"] = formula
    frames = KNMI().read(path)["reflectivity"]
    np.testing.assert_array_equal(frames, np.float32([[[-32, -31, 0.5], [95.5, np.nan, 7.5]]]))


def test_both_kinds_are_on_one_grid(tmp_path, write_knmi):
    """Files of 2021 round the ellipsoid; a model trained on both needs equal coordinates."""
    kinds = [write_knmi(tmp_path / f"{k}.h5", codes) for k, codes in enumerate((RAIN, REFLECTIVITY))]
    first, second = (KNMI().read(path) for path in kinds)
    assert first.x.values.tolist() == second.x.values.tolist() == [500.0, 1500.0, 2500.0]
    assert first.y.values.tolist() == second.y.values.tolist() == [-3650500.0, -3651500.0]
    assert first.x.attrs == {"standard_name": "projection_x_coordinate", "units": "m"}
    assert first.crs.attrs == second.crs.attrs


def test_the_one_image_of_a_quantity_is_read(tmp_path, write_knmi):
    path = write_knmi(tmp_path / "a.h5", RAIN, image2="QUALITY_[-]")
    assert list(KNMI().read(path)) == ["precipitation"]
    path = write_knmi(tmp_path / "b.h5", RAIN, image2="ACCUMULATED_PRECIPITATION_[MM]")
    with pytest.raises(
        DataError, match=r"must hold one image of REFLECTIVITY or .*b\.h5 holds ACC.*, ACC.*: write"
    ):
        KNMI().read(path)


@pytest.mark.parametrize("codes", [RAIN, REFLECTIVITY])
def test_contract(tmp_path, write_knmi, codes):
    check_reader(KNMI(), write_knmi(tmp_path / "a.h5", codes))


# Corners in the files of both kinds: south-west, north-west, north-east, south-east.
CORNERS = [(0, 49.362), (0, 55.974), (10.856, 55.389), (9.009, 48.895)]


@pytest.mark.parametrize(
    ("pattern", "name", "count", "first", "last", "outside", "most"),
    [
        ("knmi2010/*.h5", "precipitation", 92, "2010-08-26T00:00", "2010-08-26T07:35", 398271, 2.45),
        ("knmi2021/2021-02-01/*", "reflectivity", 36, "2021-02-01T20:05", "2021-02-01T23:00", 104443, 47.5),
    ],
)
def test_real_files(real, pattern, name, count, first, last, outside, most):
    datasets = [KNMI().read(file) for file in real(f"radar/{pattern}")]
    times = np.concatenate([dataset.time.values for dataset in datasets])
    assert (len(times), times[0], times[-1]) == (count, np.datetime64(first), np.datetime64(last))
    values = np.concatenate([dataset[name].values for dataset in datasets])
    assert values.shape == (count, 765, 700)
    assert set(np.isnan(values).sum((1, 2))) == {outside}
    assert np.nanmax(values) == np.float32(most)
    dataset = datasets[0]
    crs = CRS.from_cf(dataset.crs.attrs)
    to_grid = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    west, east = dataset.x.values[0] - 500, dataset.x.values[-1] + 500
    north, south = dataset.y.values[0] + 500, dataset.y.values[-1] - 500
    for corner, place in zip(
        CORNERS, [(west, south), (west, north), (east, north), (east, south)], strict=True
    ):
        assert np.hypot(*np.subtract(to_grid.transform(*corner), place)) < 80  # the file has 0.001 degrees
