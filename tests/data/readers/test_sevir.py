"""SEVIR: values, dates and choice of the events of files written here."""

import numpy as np
import pytest
from sevir_files import write_sevir

from convlstm.data import Archive, open_frames
from convlstm.data.readers import READERS
from convlstm.data.readers.sevir import SEVIR
from convlstm.errors import DataError
from convlstm.testing import check_reader

PLACE = "data/vil/2019/SEVIR_VIL_STORMEVENTS_2019_0101_0630.h5"
# In the file in another order than in time; S1 has missing pixels, S3 stands in the catalogue twice.
ROWS = [
    {"id": "S0", "file_index": 0, "time_utc": "2019-03-02 10:00:00"},
    {"id": "S1", "file_index": 1, "time_utc": "2019-03-01 10:00:00", "pct_missing": 0.1},
    {"id": "S2", "file_index": 2, "time_utc": "2019-03-01 12:00:00"},
    {"id": "S3", "file_index": 3, "time_utc": "2019-03-01 12:00:00"},
    {"id": "S3", "file_index": 4, "time_utc": "2019-03-01 12:00:00"},
    {"id": "S5", "file_index": 5, "time_utc": "2019-03-01 13:00:00"},
]


@pytest.fixture
def codes():
    codes = np.random.default_rng(0).integers(0, 255, (6, 4, 5, 49)).astype(np.uint8)
    codes[0, 0, 0] = 255
    return codes


def test_events_of_the_catalogue_in_the_order_of_their_dates(tmp_path, codes):
    dataset = SEVIR().read(write_sevir(tmp_path / PLACE, codes, ROWS))
    expected = np.moveaxis(codes[[2, 5, 0]], -1, 1).reshape(147, 4, 5).astype(np.float32)
    np.testing.assert_array_equal(dataset["vil"], np.where(expected == 255, np.nan, expected))
    np.testing.assert_array_equal(dataset["vil"][40:60, 1:3, 2], expected[40:60, 1:3, 2])
    events = np.array(["2019-03-01T12", "2019-03-01T13", "2019-03-02T10"], "M8[ns]")
    np.testing.assert_array_equal(dataset["event"], np.repeat(events, 49))
    minutes = dataset["time"].values.astype("m8[m]").astype(int).reshape(3, 49)
    np.testing.assert_array_equal(minutes, 5 * np.arange(49) + np.array([[0], [1680], [3360]]))


def test_without_a_catalogue_all_events_are_there_and_have_no_dates(tmp_path, codes):
    path = write_sevir(tmp_path / "a.h5", codes)
    dataset = SEVIR().read(path)
    assert dataset.sizes["time"] == 6 * 49
    assert set(dataset.coords) == {"time"}
    periods = {"train": "2019-01/2019-03", "validation": "2019-04", "test": "2019-05"}
    with pytest.raises(DataError, match="periods need frames with dates; those of a.h5 have none: give"):
        Archive(path, past=2, steps=2, split=periods)


def test_a_file_that_the_catalogue_does_not_list(tmp_path, codes):
    """A file without events of the catalogue is refused, or left out."""
    write_sevir(tmp_path / PLACE.replace("STORM", "RANDOM"), codes[:2])
    write_sevir(tmp_path / PLACE, codes, ROWS)
    (tmp_path / PLACE.replace("STORM", "RANDOM")).rename(tmp_path / PLACE.replace("_0101", "_0601"))
    with pytest.raises(DataError, match=r"2019_0601_0630.h5 has none that CATALOG.csv lists"):
        open_frames(tmp_path / "data")
    with pytest.warns(UserWarning, match="left out"):
        frames = open_frames(tmp_path / "data", skip_bad=True)
    assert frames.sizes["time"] == len(frames["event"]) == 147
    assert frames.attrs["reader"] == "sevir"


def test_windows_of_events_at_a_stride(tmp_path, codes):
    """Every event has windows that begin at its frames 0, 12 and 24, and belongs to one split."""
    write_sevir(tmp_path / PLACE, codes, ROWS)
    split = {
        "train": "2019-01-01/2019-03-01T12:00:00",
        "validation": "2019-03-01T12:00:01/2019-03-01T13:00:00",
        "test": "2019-03-01T13:00:01/2020",
    }
    data = Archive(tmp_path / "data", past=13, steps=12, stride=12, split=split)
    for k, name in enumerate(("train", "validation", "test")):
        np.testing.assert_array_equal(data.window_frames(name)[:, 0], 49 * k + np.array([0, 12, 24]))
    window = data.split("validation")[1]
    expected = np.moveaxis(codes[5, :, :, 12:25], -1, 0)[:, None] / np.float32(255)
    np.testing.assert_allclose(window.past, expected, rtol=1e-6)
    assert data.specification.units == "1"


def test_a_catalogue_of_other_files(tmp_path, codes):
    path = write_sevir(tmp_path / PLACE, codes[:2], ROWS)
    with pytest.raises(DataError, match=r"it has 2 events, CATALOG.csv lists number 5"):
        SEVIR().read(path)
    (tmp_path / "CATALOG.csv").write_text("id,file_name\nS0,a.h5\n")
    with pytest.raises(DataError, match=r"CATALOG.csv must be a whole, readable file; reading gave"):
        SEVIR().read(path)


def test_contract(tmp_path, codes):
    check_reader(SEVIR(), write_sevir(tmp_path / PLACE, codes, ROWS))


def test_files_have_one_reader(tmp_path, codes):
    path = write_sevir(tmp_path / PLACE, codes)
    head = path.read_bytes()[:4096]
    assert next(reader.name for reader in READERS if reader.recognises(path, head)) == "sevir"
