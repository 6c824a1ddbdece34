"""A reader that fulfils the contract, and a broken one for each check of the battery."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from convlstm.data.readers.base import RADAR, Reader, frames_dataset
from convlstm.errors import reading
from convlstm.testing import READER_CHECKS, check_reader

SHAPE = (2, 3)


def load(path, frames):
    with reading(path):
        return np.frombuffer(path.read_bytes()[4:], np.float32).reshape(-1, *SHAPE)[frames]


class Late:
    """What a reader hands on to load values with; `functools.partial` would do too."""

    def __init__(self, path):
        self.path = path

    def __call__(self, frames):
        return load(self.path, frames)


class Plain(Reader):
    """Four letters, then frames of 2 x 3 numbers, an hour apart."""

    name = "plain"
    title = "plain frames"

    def recognises(self, path, head):
        return head.startswith(b"RAIN")

    def read(self, path):
        with reading(path):
            content = path.read_bytes()
            count, rest = divmod(len(content) - 4, 24)
            if rest or not count:
                raise ValueError("cut")
        times = np.datetime64("2021-02-01", "ns") + np.arange(count) * np.timedelta64(1, "h")
        y, x = xr.Variable("y", [2.0, 1.0], {"units": "m"}), xr.Variable("x", [0.0, 1.0, 2.0], {"units": "m"})
        crs = {"grid_mapping_name": "latitude_longitude"}
        attributes = RADAR["rainfall_rate"]
        return frames_dataset("rain", Late(path), times, SHAPE, attributes=attributes, y=y, x=x, crs=crs)


class TwoWords(Plain):
    name = "Plain frames"


class Anything(Plain):
    def recognises(self, path, head):
        return True


class Transposed(Plain):
    def read(self, path):
        return super().read(path).transpose("time", "x", "y")


class Backwards(Plain):
    def read(self, path):
        return super().read(path).isel(time=slice(None, None, -1))


class DryWithoutUnit(Plain):
    def read(self, path):
        dataset = super().read(path)
        del dataset["rain"].attrs["units"]
        return dataset


class Westwards(Plain):
    def read(self, path):
        return super().read(path).isel(x=slice(None, None, -1))


class Hollow(Plain):
    """Takes what begins as a GIF image does, and reads it."""

    def recognises(self, path, head):
        return head.startswith((b"RAIN", b"GIF8"))

    def read(self, path):
        return xr.Dataset() if path.name == "gif" else super().read(path)


class Early(Plain):
    def read(self, path):
        return super().read(path).load().chunk()


class Infinite(Plain):
    def read(self, path):
        dataset = super().read(path)
        return dataset.where(dataset != 0, np.inf)


class Forgiving(Plain):
    def read(self, path):
        content = path.read_bytes()
        if (len(content) - 4) % 24:
            path.write_bytes(content + bytes(24 - (len(content) - 4) % 24))
        return super().read(path)


BROKEN = {
    "names_are_given": TwoWords,
    "only_its_own_format_is_recognised": Anything,
    "frames_have_the_dims_of_the_contract": Transposed,
    "times_are_sorted_dates_or_durations": Backwards,
    "values_are_described": DryWithoutUnit,
    "places_are_labelled": Westwards,
    "values_are_read_late": Early,
    "values_are_numbers_or_nan": Infinite,
    "damage_is_a_data_error": Forgiving,
}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "a.rain"
    path.write_bytes(b"RAIN" + np.arange(30, dtype=np.float32).tobytes())
    return path


def test_a_reader_that_fulfils_the_contract(path):
    check_reader(Plain(), path)


@pytest.mark.parametrize("check", READER_CHECKS, ids=lambda check: check.__name__)
def test_each_check_finds_what_it_is_for(path, check):
    with pytest.raises(AssertionError):
        check((BROKEN[check.__name__](), path))


def test_hollow_files_of_the_format_are_damaged(path):
    with pytest.raises(AssertionError, match="a file of gif that holds nothing must give a DataError"):
        check_reader(Hollow(), path)


def test_chunks_are_small(path, monkeypatch):
    monkeypatch.setattr("convlstm.testing.readers._MOST", 100)
    with pytest.raises(AssertionError, match=r"rain has chunks of 5 frames, 120 bytes"):
        check_reader(Plain(), path)


@pytest.mark.parametrize("name", BROKEN)
def test_the_battery_names_the_check(path, name):
    with pytest.raises(AssertionError, match=f"^{name}: "):
        check_reader(BROKEN[name](), path)
