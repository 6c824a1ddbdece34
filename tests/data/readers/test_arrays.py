"""Reader of NumPy's files against the arrays that were saved."""

from pathlib import Path

import numpy as np
import pytest

from convlstm.data.readers import arrays as module
from convlstm.data.readers.arrays import Arrays, array_dataset
from convlstm.errors import DataError
from convlstm.testing import check_reader

RANDOM = np.random.default_rng(1)
GREY = RANDOM.integers(0, 256, (7, 6, 8), dtype=np.uint8)  # (T, H, W)
TIMES = np.datetime64("2021-02-01T20:05", "ns") + np.arange(7) * np.timedelta64(300, "s")


def save(path: Path, **values):
    if path.suffix == ".npy":
        np.save(path, values["frames"])
    elif path.stem == "packed":
        np.savez_compressed(path, **values)
    else:
        np.savez(path, **values)
    return path


FILES = ["a.npy", "a.npz", "packed.npz"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("array", "expected", "dims"),
    [
        (GREY, GREY, ("time", "y", "x")),
        (GREY[:, None].repeat(2, 1), GREY[:, None].repeat(2, 1), ("time", "channel", "y", "x")),
        (GREY[..., None].repeat(3, 3), GREY[:, None].repeat(3, 1), ("time", "channel", "y", "x")),
        (GREY[..., None].repeat(4, 3), GREY[:, None].repeat(4, 1), ("time", "channel", "y", "x")),
        (np.asfortranarray(GREY), GREY, ("time", "y", "x")),
    ],
)
def test_layouts(tmp_path, name, array, expected, dims):
    path = save(tmp_path / name, frames=array)
    assert Arrays().recognises(path, path.read_bytes()[:4096])
    frames = Arrays().read(path).frames
    assert frames.dims == dims
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, expected)
    assert frames.attrs == {"dtype": "uint8"}
    np.testing.assert_array_equal(frames.time, np.arange(7).astype("timedelta64[s]"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint16, np.int16, np.int32, np.uint32, np.float16, ">f8", bool]
)
def test_values_are_not_scaled(tmp_path, name, dtype):
    array = GREY.astype(dtype)
    frames = Arrays().read(save(tmp_path / name, frames=array)).frames
    np.testing.assert_array_equal(frames, array.astype(np.float32))
    assert frames.attrs["dtype"] == str(np.dtype(dtype))


def test_nan_stays(tmp_path):
    array = np.where(GREY > 200, np.nan, GREY)
    np.testing.assert_array_equal(Arrays().read(save(tmp_path / "a.npy", frames=array)).frames, array)


@pytest.mark.parametrize("name", ["a.npz", "packed.npz"])
@pytest.mark.parametrize("key", ["time", "times", "dates"])
@pytest.mark.parametrize("dtype", ["datetime64[s]", "datetime64[ns]", "U19", "S19"])
def test_times_beside(tmp_path, name, key, dtype):
    times = TIMES.astype("datetime64[s]")
    times = times.astype(dtype) if dtype[0] != "S" else times.astype(str).astype(dtype)
    dataset = Arrays().read(save(tmp_path / name, rain=GREY, **{key: times}))
    np.testing.assert_array_equal(dataset.time, TIMES)
    assert dataset.time.dtype == "datetime64[ns]"
    assert list(dataset.data_vars) == ["rain"]


def test_universal_time_and_differences(tmp_path):
    texts = np.char.add(TIMES.astype("datetime64[s]").astype(str), "Z")
    np.testing.assert_array_equal(Arrays().read(save(tmp_path / "a.npz", f=GREY, time=texts)).time, TIMES)
    later = np.arange(3, 10).astype("timedelta64[m]")
    found = Arrays().read(save(tmp_path / "b.npz", f=GREY, time=later)).time
    np.testing.assert_array_equal(found, (later - later[0]).astype("timedelta64[ns]"))


def test_several_arrays_are_variables(tmp_path):
    dataset = Arrays().read(save(tmp_path / "a.npz", a=GREY, b=GREY[:, None] / 2, grid=np.zeros((6, 8))))
    assert list(dataset.data_vars) == ["a", "b"]
    np.testing.assert_array_equal(dataset.b[:, 0], GREY / np.float32(2))
    with pytest.raises(DataError, match=r"one number of frames and one size; .*holds a \(7, 6, 8\), b \(3,"):
        Arrays().read(save(tmp_path / "a.npz", a=GREY, b=GREY[:3]))


def test_time_of_one_frame_in_the_name(tmp_path):
    found = Arrays().read(save(tmp_path / "radar_202102012005.npy", frames=GREY[:1])).time
    assert found.values.astype(str).tolist() == ["2021-02-01T20:05:00.000000000"]


def test_no_part_but_the_one_asked_for_is_read(tmp_path):
    """The bytes of the other frames are not numbers of the file any more when a frame is read."""
    array = RANDOM.normal(size=(4, 512, 512)).astype(np.float32)  # 1 MiB a frame, one frame a part
    for name in ("a.npy", "a.npz"):
        path = save(tmp_path / name, frames=array)
        frames = Arrays().read(path).frames
        assert frames.chunks[0] == (1, 1, 1, 1)
        content = path.read_bytes()
        start = content.index(array[2].tobytes())
        path.write_bytes(content[:start] + b"\xff" * array[2].nbytes + content[start + array[2].nbytes :])
        np.testing.assert_array_equal(frames[3], array[3])
        assert np.isnan(frames[2]).all()


def test_compressed_arrays_are_kept_until_the_file_changes(tmp_path):
    path = save(tmp_path / "packed.npz", frames=GREY)
    frames = Arrays().read(path).frames
    module._decompressed.cache_clear()
    for k in range(7):
        np.testing.assert_array_equal(frames[k], GREY[k])
    assert module._decompressed.cache_info().misses == 1
    save(path, frames=GREY[::-1])
    np.testing.assert_array_equal(frames, GREY[::-1])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), r"frames of .*a.npy has shape \(4, 4\)"),
        (np.zeros((1, 4, 1, 4, 4)), "leave out the batch axis"),
        (np.zeros((0, 4, 4)), "no empty axis"),
        (np.zeros((2, 4, 4), complex), "must be integers or floats; frames of .* holds complex128"),
        (np.full((2, 4, 4), "dry"), "holds <U3"),
    ],
)
def test_unfit_arrays(tmp_path, array, message):
    with pytest.raises(DataError, match=message):
        Arrays().read(save(tmp_path / "a.npy", frames=array))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (TIMES[:3], "holds 3 for 7 frames"),
        (np.arange(7), "or ISO 8601 text, none missing; .* holds int64"),
        (np.array(["noon"] * 7), "ISO 8601 text such as .* holds 'noon'|holds np.str_"),
        (np.array(["NaT"] * 7, "datetime64[s]"), "none missing"),
        (np.arange("2999", "3006", dtype="datetime64[Y]"), "between 1678 and 2262; received 2999 to 3005"),
        (np.arange(7).astype("timedelta64[Y]") * 100, "times must span at most 292 years; received 0"),
        (np.array([f"{year}-01-01" for year in range(1500, 1507)]), "1678 and 2262; received 1500-01-01"),
        (np.array([f"{year}-01-01T00:00+01:00" for year in range(2999, 3006)]), "1678 and 2262; rec.* 2998"),
    ],
)
def test_unfit_times(tmp_path, times, message):
    with pytest.raises(DataError, match=message):
        Arrays().read(save(tmp_path / "a.npz", frames=GREY, time=times))


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    path = save(tmp_path / name, frames=GREY)
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 1, 29), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"{name} must be a whole, readable file; reading gave '.+'"):
            Arrays().read(path).load()


def test_pickled_code_is_never_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", frames=GREY, time=np.array([print], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="must be a whole, readable file"):
            Arrays().read(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
def test_the_contract(tmp_path, name):
    check_reader(Arrays(), save(tmp_path / name, frames=GREY / 10, time=TIMES))


def test_other_archives_are_not_recognised(tmp_path):
    np.savez(tmp_path / "grid.npz", lat=np.zeros((4, 4)), lon=np.zeros((4, 4)))
    content = (tmp_path / "grid.npz").read_bytes()
    assert not Arrays().recognises(tmp_path / "grid.npz", content)
    (tmp_path / "cut.npz").write_bytes(content[:50])
    assert not Arrays().recognises(tmp_path / "cut.npz", content[:50])
    with pytest.raises(DataError, match="holds no array of three or four axes"):
        array_dataset({}, None, "a")
