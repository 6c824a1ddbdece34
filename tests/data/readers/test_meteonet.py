"""MeteoNet: values, places and times of an archive written here and of the real one."""

import os
import pickle

import numpy as np
import pytest

from convlstm.data.readers.meteonet import MeteoNet
from convlstm.errors import DataError
from convlstm.testing import check_reader

TIMES = [f"2016-08-21T{k // 12:02}:{k % 12 * 5:02}" for k in (2, *range(11, 20))]
NAME = "rainfall_NW_2016_08.3.npz"


@pytest.fixture
def codes():
    codes = np.random.default_rng(1).integers(0, 3000, (10, 3, 4), np.int16)
    codes[:, 0, 0], codes[:, 0, 1] = -1, 0
    return codes


def test_values_and_times(tmp_path, write_meteonet, codes):
    dataset = MeteoNet().read(write_meteonet(tmp_path / NAME, codes, TIMES))
    frames = dataset["precipitation"]
    expected = np.where(codes == -1, np.nan, codes / 100).astype(np.float32)
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(frames[9], expected[9])
    assert dataset.time.values.tolist() == np.array(TIMES, "M8[ns]").tolist()
    assert (frames.attrs["units"], frames.attrs["cell_methods"], frames.attrs["dry_value"]) == (
        "mm",
        "time: sum",
        0,
    )
    assert set(dataset.coords) == {"time"}


def test_places_of_the_zone(tmp_path, write_meteonet, codes):
    dataset = MeteoNet().read(write_meteonet(tmp_path / NAME, codes, TIMES, places=True))
    np.testing.assert_allclose(dataset.y.values, [51.891, 51.881, 51.871], rtol=0, atol=1e-9)
    np.testing.assert_allclose(dataset.x.values, [-5.837, -5.827, -5.817, -5.807], rtol=0, atol=1e-9)
    assert dataset.y.attrs == {"standard_name": "latitude", "units": "degrees_north"}
    with pytest.raises(DataError, match=r"radar_coords_SE\.npz has the shape \(1, 4\), not \(3, 4\)"):
        MeteoNet().read((tmp_path / NAME).rename(tmp_path / "rainfall_SE_2016_08.3.npz"))


class Runs:
    """A pickled call, as a file of unknown origin may hold one."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_dates_run_nothing(tmp_path, codes):
    path = tmp_path / NAME
    dates = np.array([Runs(tmp_path / "made")] * 10, object)
    np.savez(path, data=codes, dates=dates, miss_dates=dates[:0])
    with pytest.raises(
        DataError, match=rf"made of datetime\.datetime; they hold {os.mkdir.__module__}\.mkdir"
    ):
        MeteoNet().read(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(dates[0]))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("times", "change", "problem"),
    [
        (TIMES[:9], lambda codes: codes, "10 frames and 9 dates"),
        (TIMES[::-1], lambda codes: codes, "its dates do not increase"),
        (TIMES, lambda codes: codes.astype(np.int32), "its data are int32, not int16"),
        (TIMES, lambda codes: np.asfortranarray(codes), "stored column by column"),
    ],
)
def test_archives_that_do_not_fit(tmp_path, write_meteonet, codes, times, change, problem):
    path = write_meteonet(tmp_path / NAME, change(codes), times)
    with pytest.raises(DataError, match=rf"must be a whole, readable file; .*{problem}"):
        MeteoNet().read(path)


def test_contract(tmp_path, write_meteonet, codes):
    check_reader(MeteoNet(), write_meteonet(tmp_path / NAME, codes, TIMES))


def test_real_file(real):
    (path,) = real("radar/meteonet/rainfall_NW_2016_08.3.npz")
    frames = MeteoNet().read(path)["precipitation"]
    assert frames.shape == (45, 565, 784)
    assert frames.time.values[[0, 1, -1]].tolist() == [
        np.datetime64(time, "ns").astype(int)
        for time in ("2016-08-21T00:10", "2016-08-21T00:55", "2016-08-31T00:30")
    ]
    values = frames.values
    stored = np.load(path)["data"]
    np.testing.assert_array_equal(np.isnan(values), stored == -1)
    assert np.nanmax(values) == np.float32(stored.max() / 100)
    with np.load(path.parent / "radar_coords_NW.npz") as places:
        np.testing.assert_allclose(frames.y.values, places["lats"][:, 0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(frames.x.values, places["lons"][0], rtol=0, atol=1e-6)
