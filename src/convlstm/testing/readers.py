"""Contract battery for readers."""

import gzip
import math
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from convlstm.data.readers.base import Reader
from convlstm.errors import DataError
from convlstm.testing.layers import judge

#: A reader, and a file or a folder of its format with values that are not all the same.
ReaderCase: TypeAlias = tuple[Reader, Path]

_HEAD = 4096
_MOST = 2**26  # bytes that a chunk of more than one frame may have
#: Files of no format of frames.
_FOREIGN = {
    "empty": b"",
    "text": b"time,value\n2021-02-01,3\n" * 50,
    "zeros": bytes(5000),
}
#: Files that begin as some formats of frames do and hold nothing.
_HOLLOW = {
    "gzip": gzip.compress(b"no frames" * 99),
    "damaged gzip": gzip.compress(b"no frames" * 99)[:15] + bytes(99),
    "bzip2": b"BZh91AY&SY" + bytes(99),
    "zip": b"PK\x03\x04" + bytes(99),
    "gif": b"GIF89a" + bytes(99),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(99),
}


@contextmanager
def _copy(path: Path) -> Iterator[Path]:
    """A copy of a file or a folder under the same name, alone in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / path.name
        if path.is_dir():
            shutil.copytree(path, place)
        else:
            shutil.copyfile(path, place)
        yield place


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _frames(dataset: Any) -> list[Any]:
    return [dataset[name] for name in dataset.data_vars]


def _error(reader: Reader, path: Path) -> str:
    """Message of the `DataError` that reading a file with its values gives; empty if it gives none."""
    try:
        reader.read(path).load()
    except DataError as error:
        return str(error)
    return ""


def only_its_own_format_is_recognised(case: ReaderCase) -> None:
    """True for the file, False and no error for others; hollow ones of its format are a `DataError`."""
    reader, path = case
    head = b"" if path.is_dir() else path.read_bytes()[:_HEAD]
    assert reader.recognises(path, head), f"the reader {reader.name} must recognise {path}"
    with tempfile.TemporaryDirectory() as folder:
        foreign = Path(folder)
        assert not reader.recognises(foreign, b""), "an empty folder must not be recognised"
        for name, content in (_FOREIGN | _HOLLOW).items():
            file = foreign / name
            file.write_bytes(content)
            if reader.recognises(file, content[:_HEAD]):
                assert name in _HOLLOW, f"a file of {name} must not be recognised"
                assert _error(reader, file), f"a file of {name} that holds nothing must give a DataError"


def names_are_given(case: ReaderCase) -> None:
    """A name in lower case without blanks, and a title of one line."""
    reader, _ = case
    assert reader.name == "".join(reader.name.lower().split()), f"the name {reader.name!r} must be one word"
    assert len(reader.title.splitlines()) == 1, f"the title {reader.title!r} must be one line"


def frames_have_the_dims_of_the_contract(case: ReaderCase) -> None:
    """(time, y, x) or (time, channel, y, x), or (y, x) beside such; floats; at least one frame."""
    reader, path = case
    frames = _frames(reader.read(path))
    allowed = (("time", "y", "x"), ("time", "channel", "y", "x"))
    assert any(each.dims in allowed for each in frames), "at least one variable must have frames"
    for each in frames:
        assert each.dims in (*allowed, ("y", "x")), (
            f"{each.name} must be (time, [channel,] y, x): {each.dims}"
        )
        assert each.dtype.kind == "f", f"{each.name} must be of floats, not {each.dtype}"
        assert all(each.shape), f"{each.name} must not be empty: {each.shape}"


def times_are_sorted_dates_or_durations(case: ReaderCase) -> None:
    """Strictly increasing datetime64[ns], or timedelta64[ns] from 0."""
    reader, path = case
    times = reader.read(path)["time"].values
    assert times.dtype in ("M8[ns]", "m8[ns]"), (
        f"times must be datetime64[ns] or timedelta64[ns]: {times.dtype}"
    )
    assert (np.diff(times) > np.timedelta64(0)).all(), "times must increase, none must be missing"
    assert times.dtype.kind == "M" or times[0] == np.timedelta64(0), "durations must begin at 0"


def values_are_described(case: ReaderCase) -> None:
    """Units and a long name in words; a value for dry only where there is a unit."""
    reader, path = case
    for each in _frames(reader.read(path)):
        words = [each.attrs.get(name, "") for name in ("units", "long_name")]
        assert all(isinstance(word, str) for word in words), (
            f"{each.name} must be described in words: {words}"
        )
        if "dry_value" in each.attrs:
            assert words[0], f"{each.name} must have the unit of its dry value"
            assert np.isfinite(each.attrs["dry_value"]), f"{each.name} must have a finite dry value"


def places_are_labelled(case: ReaderCase) -> None:
    """Coordinates y rise or fall, x rise, both with units; a grid mapping that a variable names is there."""
    reader, path = case
    dataset = reader.read(path)
    for name in {"y", "x"} & set(dataset.coords):
        steps = np.diff(dataset[name].values)
        assert (steps > 0).all() or (name == "y" and (steps < 0).all()), f"{name} must rise"
        assert "units" in dataset[name].attrs, f"{name} must have units"
    for each in _frames(dataset):
        if (mapping := each.attrs.get("grid_mapping")) is not None:
            found = {"grid_mapping_name", "crs_wkt"} & set(dataset[mapping].attrs)
            assert found, f"the grid mapping {mapping} must have the CF attributes"


def values_are_read_late(case: ReaderCase) -> None:
    """Backed by dask, few frames a chunk; a file that changes after ``read`` does not give its old values."""
    reader, path = case
    expected = {each.name: each.values for each in _frames(reader.read(path))}
    with _copy(path) as copy:
        frames = _frames(reader.read(copy))
        for file in _files(copy):
            with file.open("r+b") as changed:
                changed.write(bytes(file.stat().st_size))
        for each in frames:
            assert each.chunks is not None, f"{each.name} must be backed by dask"
            longest = max(each.chunks[0])
            held = each.dtype.itemsize * math.prod(max(sizes) for sizes in each.chunks)
            assert longest == 1 or held <= _MOST, f"{each.name} has chunks of {longest} frames, {held} bytes"
            try:
                late = np.array_equal(each.values, expected[each.name], equal_nan=True)
            except Exception:  # whatever the file's library says to zeros
                continue
            assert not late, f"{each.name} must be read when its values are asked for, not before"


def values_are_numbers_or_nan(case: ReaderCase) -> None:
    """No infinity, at least one number, the same values in parts and in a worker's copy of the dataset."""
    reader, path = case
    dataset = reader.read(path)
    again = pickle.loads(pickle.dumps(dataset))
    for each in _frames(dataset):
        values = each.values
        assert not np.isinf(values).any(), f"{each.name} must be finite or NaN"
        assert not np.isnan(values).all(), f"{each.name} must have values"
        np.testing.assert_array_equal(again[each.name].values, values)
        if each.dims[0] == "time":
            np.testing.assert_array_equal(each[-1].values, values[-1])


def damage_is_a_data_error(case: ReaderCase) -> None:
    """A file cut short gives a `DataError` that names it, at the latest when its values are asked for."""
    reader, path = case
    for share in (0.5, 0.97):
        with _copy(path) as copy:
            cut = max(_files(copy), key=lambda file: file.stat().st_size)
            cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * share)])
            message = _error(reader, copy)
            assert message, f"a file cut at {share:.0%} must give a DataError"
            assert copy.name in message, f"the error must name the file: {message}"


READER_CHECKS: tuple[Callable[[ReaderCase], None], ...] = (
    names_are_given,
    only_its_own_format_is_recognised,
    frames_have_the_dims_of_the_contract,
    times_are_sorted_dates_or_durations,
    values_are_described,
    places_are_labelled,
    values_are_read_late,
    values_are_numbers_or_nan,
    damage_is_a_data_error,
)


def check_reader(reader: Reader, path: Path) -> None:
    """Run every check of `READER_CHECKS` on a reader.

    Args:
        reader: of one format.
        path: a file or a folder of it, whose values are not all the same.

    Raises:
        AssertionError: the first check that fails, by name; also where the reader raises an error of its own.
    """
    judge(READER_CHECKS, (reader, path))
