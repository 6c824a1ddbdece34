"""Readers beside each other: a file of each format has one reader, and what all readers share."""

import numpy as np
import pytest

from convlstm.data.readers import READERS
from convlstm.data.readers.base import decoded, frames_dataset, time_in_name

CODES = np.arange(12, dtype=np.uint8).reshape(3, 4)
RADAR = ("fmi", "knmi", "odim", "mch", "radolan", "meteonet")


@pytest.fixture
def files(
    tmp_path, write_fmi, write_knmi, write_odim, write_mch, radolan_text, write_archive, write_meteonet
):
    what = {"quantity": "DBZH", "gain": 0.5, "offset": -32.0, "nodata": 255.0, "undetect": 0.0}
    text = {"RW_20221018-0050.asc": radolan_text(CODES)}
    frames = CODES[None].astype(np.int16)
    return {
        "fmi": write_fmi(tmp_path / "a.pgm.gz", CODES),
        "knmi": write_knmi(tmp_path / "b.h5", CODES),
        "odim": write_odim(tmp_path / "c.h5", {"dataset1/data1": (CODES, what)}),
        "mch": write_mch(tmp_path / "d.gif", CODES),
        "radolan": write_archive(tmp_path / "e.tar.gz", text),
        "meteonet": write_meteonet(tmp_path / "f.npz", frames, ["2016-08-21T00:10"]),
    }


@pytest.mark.parametrize("name", RADAR)
def test_each_format_has_one_reader(files, name):
    """A reader of several services' files may recognise them too, but stands behind."""
    path = files[name]
    found = [reader.name for reader in READERS if reader.recognises(path, path.read_bytes()[:4096])]
    assert found[0] == name
    assert not {*found[1:]} & {*RADAR}


def test_names_differ():
    assert len({reader.name for reader in READERS}) == len(READERS)


def test_decoded_codes():
    values = decoded(np.array([0, 3, 65535], np.uint16), 0.01, 1.0, [65535])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.float32([1, 1.03, np.nan]))
    values = decoded(np.array([1.0, -1.7976931348623157e308]), 2.0, 0.0, [-1.7976931348623157e308])
    np.testing.assert_array_equal(values, np.float32([2, np.nan]))


def test_frames_are_loaded_a_few_at_once():
    """Of twenty frames, the last ones are loaded without the first."""
    asked = []

    def load(frames):
        asked.append((frames.start, frames.stop))
        return np.arange(20, dtype=np.float32)[frames, None, None] * np.ones((1, 2, 3), np.float32)

    times = np.datetime64("2021-02-01T00:05") + np.arange(20) * np.timedelta64(5, "m")
    dataset = frames_dataset("rain", load, times, (2, 3), attributes={"units": "mm"})
    assert asked == []
    assert dataset["rain"][18].values.tolist() == [[18.0] * 3] * 2
    assert asked == [(16, 20)]
    assert dataset["rain"].values[:, 1, 2].tolist() == list(range(20))
    assert dataset.time.dtype == "datetime64[ns]"


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("RAD_NL25_RAP_5min_201008260735", "2010-08-26T07:35"),
        ("2021-02-01T20:05:30", "2021-02-01T20:05:30"),
        ("RW_20221018-0050", "2022-10-18T00:50"),
        ("a_2021020112", "2021-02-01T12"),
        ("a_20210201T12Z", "2021-02-01T12"),
        ("a_20210201_12", "2021-02-01"),  # which may be a number
        ("a_20210201_120507123", "2021-02-01T12:05:07.123"),
        ("a_20210201_1200_001", "2021-02-01T12:00"),
        ("a_20210101_20210102", "2021-01-01"),  # not 20:21:01
        ("a_20210101_202101020600", "2021-01-01"),
        ("A20210320100", None),  # a day of the year
        ("frame_0012", None),
        ("99991399", None),
        ("radar_202102300005", None),
    ],
)
def test_times_in_names(name, time):
    assert time_in_name(name) == (None if time is None else np.datetime64(time))
