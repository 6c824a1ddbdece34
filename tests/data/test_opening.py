"""Archives opened from files of every format, folders, patterns and memory."""

import gzip
import os
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from convlstm.data import open_frames
from convlstm.data.files import read_frames
from convlstm.errors import DataError, OptionError

REAL = Path(os.environ.get("CONVLSTM_DATA", "absent"))
CODES = np.random.default_rng(3).integers(0, 200, (6, 5, 4), dtype=np.uint8)
CODES[:, 0, 0] = 255
DBZ = np.where(CODES == 255, np.nan, CODES / np.float32(2) - 32).astype(np.float32)
TIMES = np.datetime64("2016-09-28T14:45", "ns") + np.arange(6) * np.timedelta64(300, "s")


def write_radar(folder, times=TIMES, codes=CODES, unit_km=1000):
    """Composites in the format of FMI, one frame a file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for time, frame in zip(times, codes, strict=True):
        stamp = "".join(c for c in str(time)[:16] if c.isdigit())
        header = (
            f"P5\n# obstime {stamp}\n# producttype CAPPI\n# projection radar {{\n# type stereographic\n"
            "# centrallongitude 25\n# truelatitude 60\n# bottomleft 18.600000 57.930000\n"
            f"# metersperpixel_x {unit_km}.0\n# metersperpixel_y {unit_km}.0\n# }}\n"
            f"{frame.shape[1]} {frame.shape[0]}\n255\n"
        )
        paths.append(folder / f"{stamp}_fmi.pgm.gz")
        paths[-1].write_bytes(gzip.compress(header.encode() + frame.tobytes()))
    return paths


def dataset(times=TIMES, rows=(2.0, 1.0, 0.0), **variables):
    variables = variables or {"sst": np.arange(len(times) * 12.0).reshape(-1, 3, 4)}
    coordinates = {"time": times, "lat": list(rows), "lon": [0.0, 1.0, 2.0, 3.0]}
    dims = ("time", "lat", "lon")
    variables = {name: (dims, values, {"units": "K"}) for name, values in variables.items()}
    return xr.Dataset(variables, coordinates)


def write_nc(path, data):
    data.to_netcdf(path, engine="h5netcdf")
    return path


def test_a_path_in_two_spellings_counts_once(tmp_path, monkeypatch):
    """Undated frames were there twice, in training and in test; a file that was named stays one."""
    np.save(tmp_path / "a.npy", CODES)
    (tmp_path / "notes.txt").write_text("no frames")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    spellings = ["a.npy", str(tmp_path / "a.npy"), f"../{tmp_path.name}/a.npy", "link/a.npy", "*.npy", "."]
    for given in (spellings, spellings[::-1]):
        frames = open_frames(given)
        assert (len(frames), frames.attrs["files"]) == (6, 1)


def test_files_without_dates_have_one_time_step(tmp_path):
    """As films of 10 and 25 frames a second: each frame of the slower one was alone, and lost."""
    paths = []
    for k, (frames, step_ms) in enumerate([(9, 40), (8, 100), (3, 80)]):
        times = (np.arange(frames) * np.timedelta64(step_ms, "ms")).astype("timedelta64[ns]")
        paths.append(write_nc(tmp_path / f"{k}.nc", dataset(times)))
    with pytest.raises(
        DataError, match=r"one time step; .*0.nc has 0.04 s, .*1.nc has 0.1 s: open them apart"
    ):
        open_frames(paths)
    assert len(open_frames([paths[0], paths[2]])) == 12  # of three frames one may be missing


def test_a_folder_of_radar_files(tmp_path):
    write_radar(tmp_path)
    frames = open_frames(tmp_path)
    assert frames.dims == ("time", "channel", "y", "x")
    assert frames.dtype == np.float32
    assert frames.chunks[0] == (1,) * 6
    np.testing.assert_array_equal(frames[:, 0], DBZ)
    np.testing.assert_array_equal(frames.time, TIMES)
    assert frames.channel.values.tolist() == ["reflectivity"]
    assert frames.name == "reflectivity"
    assert frames.attrs["units"] == "dBZ"
    assert frames.attrs["dry_value"] == -32
    assert frames.attrs["grid_mapping"] == "crs"
    assert [frames.attrs[name] for name in ("reader", "files", "skipped")] == ["fmi", 6, 0]
    assert frames.y.attrs["standard_name"] == "projection_y_coordinate"
    assert frames.crs.attrs["grid_mapping_name"] == "polar_stereographic"
    assert open_frames(str(tmp_path)).equals(frames)


def test_folders_within_patterns_and_lists(tmp_path):
    first = write_radar(tmp_path / "b", TIMES[:3], CODES[:3])
    second = write_radar(tmp_path / "a" / "deep", TIMES[3:], CODES[3:])
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "a" / "checksums").write_text("0")
    write_radar(tmp_path / ".cache", TIMES[:1], CODES[:1])
    (tmp_path / "b" / ".hidden.gz").write_bytes(b"")
    places = [
        tmp_path,
        f"{tmp_path}/*/**/*.gz",
        f"{tmp_path}/[ab]",
        [tmp_path / "a", tmp_path / "b"],
        [*second, *first, *first],  # a file that is named twice counts once
        (str(first[0].parent), f"{tmp_path}/a/deep/*.gz"),
    ]
    for place in places:
        frames = open_frames(place)
        np.testing.assert_array_equal(frames.time, TIMES)
        np.testing.assert_array_equal(frames[:, 0], DBZ)
        assert frames.attrs["files"] == 6


def test_files_with_interleaved_times_are_sorted(tmp_path):
    write_nc(tmp_path / "a.nc", dataset(TIMES[::2], sst=DBZ[::2, :3]))
    write_nc(tmp_path / "b.nc", dataset(TIMES[[5, 1, 3]], sst=DBZ[[5, 1, 3], :3]))
    frames = open_frames(tmp_path)
    np.testing.assert_array_equal(frames.time, TIMES)
    np.testing.assert_array_equal(frames[:, 0], DBZ[:, :3])


def test_one_file_of_every_format(tmp_path):
    grey = CODES.repeat(4, 1).repeat(4, 2)
    dataset().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    dataset().to_netcdf(tmp_path / "b.nc", engine="scipy")
    dataset().to_zarr(tmp_path / "c.zarr", consolidated=False)
    np.save(tmp_path / "d.npy", CODES)
    np.savez_compressed(tmp_path / "e.npz", rain=CODES, time=TIMES)
    Image.fromarray(CODES[0]).save(tmp_path / "f.png")
    images = [Image.fromarray(frame) for frame in CODES]
    images[0].save(tmp_path / "g.gif", save_all=True, append_images=images[1:])
    with av.open(str(tmp_path / "h.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 20, 16, "gray"
        for frame in [*grey, None]:
            picture = None if frame is None else av.VideoFrame.from_ndarray(frame, format="gray")
            container.mux(stream.encode(picture))
    readers = ["gridded", "gridded", "gridded", "arrays", "arrays", "images", "images", "video"]
    values = [*[dataset().sst.values] * 3, CODES, CODES, CODES[:1], CODES, grey]
    files = sorted(tmp_path.iterdir())
    for path, reader, expected in zip(files, readers, values, strict=True):
        frames = open_frames(path)
        assert frames.attrs["reader"] == reader
        assert frames.dtype == np.float32
        np.testing.assert_array_equal(frames[:, 0], expected)
        assert frames.time.dtype.kind == ("M" if path.name[0] in "abce" else "m")
        assert open_frames(path, reader=reader).equals(frames)
        assert {"y", "x", "channel"} <= set(frames.coords)


def test_several_archives_of_zarr_in_a_folder(tmp_path):
    for k in range(2):
        dataset(TIMES[3 * k : 3 * k + 3]).to_zarr(tmp_path / f"{k}.zarr", consolidated=False)
    frames = open_frames(tmp_path)
    assert frames.attrs["files"] == 2
    np.testing.assert_array_equal(frames.time, TIMES)


def test_variables_become_channels(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 6, 3, 4)).astype(np.float32)
    data = dataset(u=values[0], v=values[1])
    data["land"] = ("lat", "lon"), values[0, 0]
    data.v.attrs = {"units": "m", "cell_methods": "time: sum", "long_name": "the second"}
    for k in range(3):
        write_nc(tmp_path / f"{k}.nc", data.isel(time=slice(2 * k, 2 * k + 2)))
    frames = open_frames(tmp_path, variable=["v", "land", "u"])
    assert frames.channel.values.tolist() == ["v", "land", "u"]
    np.testing.assert_array_equal(frames.sel(channel="u"), values[0])
    np.testing.assert_array_equal(frames.sel(channel="v"), values[1])
    for k in range(6):  # which has no time: the same in every frame
        np.testing.assert_array_equal(frames.sel(channel="land")[k], values[0, 0])
    assert frames.attrs["units"] == "m, , K"
    assert frames.attrs["dtype"] == "float32"
    assert "long_name" not in frames.attrs
    one = open_frames(tmp_path, variable="v")
    assert one.name == "v"
    assert one.attrs["units"] == "m"
    assert one.attrs["cell_methods"] == "time: sum"
    assert one.attrs["long_name"] == "the second"
    with pytest.raises(DataError, match="one variable must be chosen.*holds u, v: name one.*--data.variable"):
        open_frames(tmp_path)
    with pytest.raises(DataError, match="holds u, v, land, not 'w'"):
        open_frames(tmp_path, variable=("u", "w"))
    assert open_frames(write_nc(tmp_path / "own.nc", data[["v", "land"]])).name == "v"


@pytest.mark.parametrize("still", [0, 1])
def test_a_variable_without_time_in_one_file_alone(tmp_path, still):
    values = np.arange(72.0).reshape(6, 3, 4)
    for k, part in enumerate([slice(0, 3), slice(3, 6)]):
        data = dataset(TIMES[part], u=values[part], v=values[part])
        if k == still:
            data["v"] = data["v"][0].drop_vars("time")
        write_nc(tmp_path / f"{k}.nc", data)
    found = open_frames(tmp_path, variable="v")
    expected = values.copy()
    expected[3 * still : 3 * still + 3] = values[3 * still]
    np.testing.assert_array_equal(found[:, 0], expected)


def test_ancillary_variables_are_not_the_frames(tmp_path):
    data = dataset(sst=DBZ[:, :3], quality=DBZ[:, :3])
    data.sst.attrs["ancillary_variables"] = "quality other"
    path = write_nc(tmp_path / "a.nc", data)
    assert open_frames(path).name == "sst"
    assert open_frames(path, variable="quality").name == "quality"


def test_channels_of_arrays(tmp_path):
    both = np.stack([CODES, CODES + 1], axis=1)
    np.save(tmp_path / "a.npy", both)
    frames = open_frames(tmp_path / "a.npy")
    assert frames.channel.values.tolist() == ["0", "1"]
    np.testing.assert_array_equal(frames, both)
    np.savez(tmp_path / "b.npz", p=both, q=CODES)
    assert open_frames(tmp_path / "b.npz", variable=["q", "p"]).channel.values.tolist() == ["q", "p_0", "p_1"]


def test_a_variable_of_more_axes_is_refused_when_it_is_asked_for(tmp_path):
    data = dataset()
    data["t"] = ("time", "level", "lat", "lon"), np.zeros((6, 2, 3, 4))
    path = write_nc(tmp_path / "a.nc", data)
    assert open_frames(path).name == "sst"
    with pytest.raises(DataError, match=r"t of .* has level \(2\) too: select one"):
        open_frames(path, variable="t")


def test_missing_codes(tmp_path):
    np.save(tmp_path / "a.npy", CODES)
    expected = np.where((CODES == 255) | (CODES == 7), np.nan, CODES)
    np.testing.assert_array_equal(open_frames(tmp_path, missing=(255, 7))[:, 0], expected)
    np.testing.assert_array_equal(open_frames(tmp_path, missing=255)[:, 0] >= 0, CODES != 255)
    np.testing.assert_array_equal(open_frames(tmp_path)[:, 0], CODES)
    with pytest.raises(OptionError, match="missing must be numbers; received 'none'"):
        open_frames(tmp_path, missing="none")


def test_units_of_files_that_state_none(tmp_path):
    np.save(tmp_path / "a.npy", CODES)
    assert "units" not in open_frames(tmp_path).attrs
    assert open_frames(tmp_path, units="mm/h").attrs["units"] == "mm/h"
    assert open_frames(write_nc(tmp_path / "a.nc", dataset()), units="degC").attrs["units"] == "K"


def test_undated_images_follow_the_numbers_in_their_names(tmp_path):
    for number, frame in zip([1, 2, 9, 10, 100, 101], CODES, strict=True):
        Image.fromarray(frame).save(tmp_path / f"frame {number}.png")
    frames = open_frames(tmp_path)
    np.testing.assert_array_equal(frames[:, 0], CODES)
    np.testing.assert_array_equal(frames.time, np.arange(6).astype("timedelta64[s]"))
    assert frames.attrs["valid_range"] == (0, 255)


def test_undated_sequences_are_a_day_apart(tmp_path):
    np.save(tmp_path / "a.npy", CODES[:4])
    np.save(tmp_path / "b.npy", CODES[4:])
    frames = open_frames(tmp_path)
    np.testing.assert_array_equal(frames[:, 0], CODES)
    seconds = frames.time.values.astype("timedelta64[s]").astype(int)
    assert seconds.tolist() == [0, 1, 2, 3, 86403, 86404]


def test_frames_in_memory():
    for array in (CODES, np.asfortranarray(CODES[:, None])):
        frames = open_frames(array, missing=[255], units="mm")
        assert frames.dims == ("time", "channel", "y", "x")
        np.testing.assert_array_equal(frames[:, 0], np.where(CODES == 255, np.nan, CODES))
        assert frames.attrs == {"dtype": "uint8", "reader": "memory", "files": 1, "skipped": 0, "units": "mm"}
    for data in (dataset(), dataset().sst, dataset().sst.chunk(time=2), dataset().sst.transpose()):
        frames = open_frames(data)
        np.testing.assert_array_equal(frames[:, 0], dataset().sst)
        np.testing.assert_array_equal(frames.time, TIMES)
        assert frames.attrs["units"] == "K"
        assert frames.chunks is not None
        again = open_frames(frames)
        assert again.identical(frames)
    with pytest.raises(DataError, match=r"frames of the array in memory has shape \(4, 4\)"):
        open_frames(np.zeros((4, 4)))
    with pytest.raises(OptionError, match="path of frames must be a path; received 3"):
        open_frames(3)


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_format.py").write_text(
        "import numpy, xarray\n"
        "def read(path):\n"
        "    values = numpy.loadtxt(path).reshape(1, 2, 2)\n"
        "    time = [numpy.datetime64(path.stem, 'ns')]\n"
        "    return xarray.DataArray(values, {'t': time}, ('t', 'lat', 'lon'), attrs={'units': 'mm'})\n"
        "def wrong(path):\n"
        "    return numpy.loadtxt(path)\n"
    )
    (tmp_path / "data").mkdir()
    for day in (2, 1):
        np.savetxt(tmp_path / "data" / f"2020-01-0{day}.txt", np.full(4, day))
    with pytest.raises(OptionError, match="importing 'own_format.read' gave 'ModuleNotFoundError"):
        open_frames(tmp_path / "data", reader="own_format.read")
    monkeypatch.syspath_prepend(tmp_path / "code")
    frames = open_frames(tmp_path / "data", reader="own_format.read")
    assert frames.values.ravel().tolist() == [1] * 4 + [2] * 4
    assert frames.attrs["reader"] == "own_format.read"
    assert frames.attrs["units"] == "mm"
    with pytest.raises(OptionError, match="must return an xarray.DataArray; own_format.wrong returned an nd"):
        open_frames(tmp_path / "data", reader="own_format.wrong")
    with pytest.raises(DataError, match="format that one of fmi.* recognises; .*2020-01-01.txt is not"):
        open_frames(tmp_path / "data")


def test_no_files_and_unknown_formats(tmp_path):
    for place in (tmp_path, tmp_path / "none", f"{tmp_path}/*.nc", []):
        with pytest.raises(DataError, match="must come from existing files; none match .*: check the path"):
            open_frames(place)
    write_radar(tmp_path)
    with pytest.raises(
        OptionError, match="reader must be one of .*fmi.*; received 'fni'; did you mean 'fmi'"
    ):
        open_frames(tmp_path, reader="fni")
    with pytest.raises(DataError, match="that the reader gridded recognises; .*gz is not"):
        open_frames(tmp_path, reader="gridded")


def test_mixed_files(tmp_path):
    first = write_nc(tmp_path / "a.nc", dataset(TIMES[:3]))
    later = TIMES[3:]
    others = {
        "one grid; .*a.nc has 3 x 4, .*b.nc has 2 x 4": dataset(later).isel(lat=slice(2)),
        "one grid; .*a.nc has y from 2.0 to 0.0, .*b.nc has y from 3.0": dataset(later, rows=(3.0, 2.0, 1.0)),
        "one set of channels; .*a.nc has sst, .*b.nc has t": dataset(later).rename(sst="t"),
        "one unit; .*a.nc has K, .*b.nc has degC": dataset(later).assign(
            sst=dataset(later).sst.assign_attrs(units="degC")
        ),
        "one kind of times; .*a.nc has dates, .*b.nc has no dates": dataset(later).drop_vars("time"),
    }
    for message, data in others.items():
        second = write_nc(tmp_path / "b.nc", data)
        with pytest.raises(DataError, match=message):
            open_frames([first, second])
    write_nc(tmp_path / "b.nc", dataset(later, rows=(2.0, 1.0 + 1e-6, 0.0)))  # rounded otherwise
    assert open_frames(tmp_path).sizes["time"] == 6
    write_radar(tmp_path / "r", TIMES[:2], CODES[:2])
    write_radar(tmp_path / "r", TIMES[2:3], CODES[2:3], unit_km=2000)
    with pytest.raises(
        DataError, match="one grid; .*1445_fmi.pgm.gz has y from .*1455_fmi.pgm.gz has y from"
    ):
        open_frames(tmp_path / "r")


def test_amounts_of_different_times_do_not_mix(tmp_path):
    for name, seconds, times in (("a.nc", 300, TIMES[:3]), ("b.nc", 3600, TIMES[3:])):
        data = dataset(times)
        write_nc(tmp_path / name, data.assign(sst=data.sst.assign_attrs(units="mm", period_s=seconds)))
    with pytest.raises(DataError, match="one time that amounts cover; .*a.nc has 300 s, .*b.nc has 3600 s"):
        open_frames(tmp_path)
    for period in ({}, {"period_s": 300.0}, {"periods_s": [600.0, 900.0]}):
        amounts = dataset(TIMES[3:]).sst.assign_attrs(units="mm", **period)
        write_nc(tmp_path / "b.nc", dataset(TIMES[3:]).assign(sst=amounts))
        found = open_frames(tmp_path).attrs
        several = (300, 900) if "periods_s" in period else None
        assert (found.get("period_s"), found.get("periods_s")) == (None if several else 300, several)


def test_times_without_dates_that_descend_count_from_the_first(tmp_path):
    hours = TIMES[::-1] - TIMES[0]
    np.savez(tmp_path / "a.npz", frames=np.arange(6.0)[:, None, None] + np.zeros((6, 4, 5)), time=hours)
    data = dataset(TIMES).assign_coords(time=("time", np.arange(5, -1, -1), {"units": "hours"}))
    for path in (tmp_path / "a.npz", write_nc(tmp_path / "b.nc", data)):
        found = open_frames(path)
        assert found["time"].values[0] == np.timedelta64(0, "s")
        assert (np.diff(found["time"].values) > np.timedelta64(0, "s")).all()
    assert open_frames(tmp_path / "a.npz")[:, 0, 0, 0].values.tolist() == [5, 4, 3, 2, 1, 0]


def test_duplicate_times(tmp_path):
    write_nc(tmp_path / "a.nc", dataset(TIMES[:4]))
    write_nc(tmp_path / "b.nc", dataset(TIMES[2:]))
    message = r"times must differ; 2016-09-28T14:55:00 \(and 1 others\) stands in .*a.nc and .*b.nc: leave"
    with pytest.raises(DataError, match=message):
        open_frames(tmp_path)
    data = dataset(TIMES[:4]).assign_coords(time=("time", [0, 1, 1, 2], {"units": "hours"}))
    write_nc(tmp_path / "c.nc", data)
    with pytest.raises(DataError, match="times must differ; 3600 s stands twice in .*c.nc: leave one"):
        open_frames(tmp_path / "c.nc")


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("length", [0, 20])
def test_a_file_that_cannot_be_opened(tmp_path, position, length):
    """An empty one and one cut within its header, first, in the middle or last."""
    path = write_radar(tmp_path)[position]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=f"{path.name} must be a whole, readable file"):
        open_frames(tmp_path)
    with pytest.warns(UserWarning, match=f"left out: .*{path.name} must be"):
        frames = open_frames(tmp_path, skip_bad=True)
    assert frames.attrs["files"] == 5
    assert frames.attrs["skipped"] == 1
    left = np.delete(np.arange(6), position)
    np.testing.assert_array_equal(frames.time, TIMES[left])
    np.testing.assert_array_equal(frames[:, 0], DBZ[left])


def test_archives_of_arrays_damaged_anywhere_are_refused_in_a_sentence(tmp_path):
    """Python's zipfile raises what zlib and the decoding of names raise, and NotImplementedError."""
    np.savez_compressed(tmp_path / "whole.npz", frames=CODES)
    whole, damaged = (tmp_path / "whole.npz").read_bytes(), tmp_path / "damaged.npz"
    for place in range(len(whole)):
        for byte in {0, 255, whole[place] ^ 16} - {whole[place]}:
            damaged.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            with suppress(DataError):
                open_frames(damaged).load()


def test_a_file_whose_damage_shows_when_it_is_read(tmp_path):
    codes = np.random.default_rng(0).integers(0, 255, (3, 99, 99), dtype=np.uint8)
    path = write_radar(tmp_path, TIMES[:3], codes)[1]
    path.write_bytes(path.read_bytes()[:5000])
    frames = open_frames(tmp_path)
    assert frames.shape == (3, 1, 99, 99)  # no values are read yet
    np.testing.assert_array_equal(frames[[0, 2], 0], codes[[0, 2]] / np.float32(2) - 32)
    with pytest.raises(DataError, match=f"{path.name} must be a whole, readable file"):
        frames.compute()
    frames = open_frames(tmp_path, skip_bad=True)
    with pytest.warns(UserWarning, match=f"taken as not measured: .*{path.name}"):
        values = frames.values
    assert np.isnan(values[1]).all()
    np.testing.assert_array_equal(values[[0, 2], 0], codes[[0, 2]] / np.float32(2) - 32)


def test_files_that_are_all_damaged(tmp_path):
    for path in (write_nc(tmp_path / "a.nc", dataset()), write_nc(tmp_path / "b.nc", dataset())):
        path.write_bytes(path.read_bytes()[:500])
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(DataError, match="all 2 of .* are damaged"),
    ):
        open_frames(tmp_path, skip_bad=True)


def test_an_undated_image_that_is_left_out_leaves_a_gap(tmp_path):
    for k, frame in enumerate(CODES):
        Image.fromarray(frame).save(tmp_path / f"{k}.png")
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out: .*2.png"):
        frames = open_frames(tmp_path, skip_bad=True)
    np.testing.assert_array_equal(frames.time, np.array([0, 1, 3, 4, 5], "timedelta64[s]"))


def test_the_graph_does_not_grow_layers_with_files(tmp_path):
    """Dask walks through all layers for each part that is read."""
    write_radar(tmp_path)
    assert len(open_frames(tmp_path, missing=3).data.dask.layers) == 1
    assert len(open_frames(tmp_path, skip_bad=True).data.dask.layers) == 1


def test_curvilinear_coordinates_are_kept(tmp_path):
    data = dataset().rename(lat="j", lon="i").drop_vars(["j", "i"])
    grid = np.add.outer(np.arange(3.0), np.arange(4.0))
    data = data.assign_coords(lat=(("j", "i"), grid), lon=(("j", "i"), -grid))
    frames = open_frames(write_nc(tmp_path / "a.nc", data))
    np.testing.assert_array_equal(frames.lat, grid)
    assert frames.lon.dims == ("y", "x")


@pytest.mark.skipif(not REAL.is_dir(), reason="CONVLSTM_DATA names no folder of real files")
def test_real_files():
    frames = open_frames(REAL / "radar" / "fmi")
    assert frames.shape == (40, 1, 1226, 760)
    assert (np.diff(frames.time.values) == np.timedelta64(5, "m")).all()
    assert float(frames[3].max()) > 20
    sea = open_frames(f"{REAL}/grids/oisst*.nc")
    assert sea.shape == (11688, 1, 32, 32)
    assert (np.diff(sea.time.values) == np.timedelta64(1, "D")).all()
    with pytest.raises(DataError, match="one set of channels; .*era5.*has t2m, .*oisst.* has sst"):
        open_frames(REAL / "grids")
    with pytest.raises(DataError, match="one grid; .*bikes.mp4 has 272 x 640, .*carphone.* has 144 x 176"):
        open_frames(REAL / "video")


def test_masked_arrays_and_empty_frames_in_memory():
    hidden = np.ma.masked_equal(CODES, 255)
    np.testing.assert_array_equal(open_frames(hidden)[:, 0], np.where(CODES == 255, np.nan, CODES))
    for empty in (dataset()[["sst"]].isel(time=slice(0)), dataset().isel(lat=slice(0))):
        with pytest.raises(DataError, match="frames must have pixels and times; the array in memory has no"):
            open_frames(empty)
    times = TIMES.copy()
    times[2] = np.datetime64("NaT")
    with pytest.raises(DataError, match="every frame must have a time; 1 of 6 have none"):
        open_frames(dataset(times))


def test_a_unit_that_the_files_do_not_state_is_one_that_is_known():
    assert open_frames(CODES, units="mm h**-1").attrs["units"] == "mm h**-1"
    blank = dataset().sst.assign_attrs(units="")
    assert open_frames(blank, units="degC").attrs["units"] == "degC"
    with pytest.raises(
        OptionError, match="must be one of dBZ, mm/h, .*; received 'mmh': change its spelling"
    ):
        open_frames(CODES, units="mmh")


def test_links_in_circles_and_pipes_have_an_end(tmp_path):
    write_radar(tmp_path / "r")
    (tmp_path / "r" / "around").symlink_to(tmp_path)
    (tmp_path / "r" / "beside").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "r" / "a.pipe")
    assert open_frames(tmp_path).sizes["time"] == 6
    with pytest.raises(DataError, match=r"a.pipe is not: convert it"):
        open_frames(tmp_path / "r" / "a.pipe")


def test_numbers_behind_the_last_point_of_names_count(tmp_path):
    for k in (1, 2, 10):
        write_nc(tmp_path / f"out.{k}", xr.Dataset({"v": (("y", "x"), np.full((3, 3), k, np.float32))}))
    np.testing.assert_array_equal(open_frames(tmp_path)[:, 0, 0, 0], [1, 2, 10])


def test_images_whose_names_differ_in_their_ending_alone(tmp_path):
    """One frame each, stored twice; of a pattern or a list the ones that it names."""
    for k in range(3):
        for ending in ("png", "tif"):
            Image.fromarray(CODES[k]).save(tmp_path / f"a{k}.{ending}")
    for opened in (open_frames, read_frames):
        with pytest.raises(
            DataError, match=r"a0.png and a0.tif differ in their ending alone: give a pattern"
        ):
            opened(tmp_path)
    assert len(open_frames(str(tmp_path / "*.tif"))) == 3
    assert len(open_frames([tmp_path / "a0.png", tmp_path / "a0.tif"])) == 2


def test_files_of_other_places_are_refused(tmp_path):
    """Also where these are of each pixel."""
    for k, west in enumerate((0.0, 20.0)):
        lat, lon = np.meshgrid([50.0, 49.0, 48.0], west + np.arange(4.0), indexing="ij")
        lat[0, 0] = lon[0, 0] = np.nan  # beside the disk of a satellite
        places = {"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)}
        values = (("time", "y", "x"), np.zeros((1, 3, 4), np.float32))
        write_nc(tmp_path / f"{k}.nc", xr.Dataset({"v": values}, places | {"time": TIMES[k : k + 1]}))
    with pytest.raises(DataError, match="must have one grid; .*0.nc has lon from 0 to 3, .* from 20 to 23"):
        open_frames(tmp_path)
    write_nc(tmp_path / "1.nc", xr.open_dataset(tmp_path / "0.nc").load().assign_coords(time=TIMES[1:2]))
    assert len(open_frames(tmp_path)) == 2


def test_folders_are_taken_in_the_order_of_their_numbers(tmp_path):
    for k in (1, 2, 10):
        (tmp_path / f"walk-{k}").mkdir()
        np.save(tmp_path / f"walk-{k}" / "frames.npy", np.full((2, 3, 3), k, np.float32))
    assert open_frames(tmp_path)[:, 0, 0, 0].values.tolist() == [1, 1, 2, 2, 10, 10]
    assert open_frames(str(tmp_path / "*" / "*.npy"))[:, 0, 0, 0].values.tolist() == [1, 1, 2, 2, 10, 10]


def test_images_of_8_and_16_bits_are_no_one_archive(tmp_path):
    """Frames that are black alone may be stored in one bit, though."""
    Image.fromarray(CODES[0]).save(tmp_path / "a0.png")
    Image.fromarray(np.zeros(CODES[0].shape, bool)).save(tmp_path / "a1.png")
    assert np.isin(open_frames(tmp_path)[:, 0], [*CODES[0].ravel(), 0]).all()
    Image.fromarray(CODES[1].astype(np.uint16)).save(tmp_path / "a2.png")
    with pytest.raises(
        DataError, match=r"one kind of values; .*a0.png has uint8 in \(0, 255\), .*a2.png has"
    ):
        open_frames(tmp_path)


def test_files_on_a_cone_with_two_standard_parallels(tmp_path):
    """An array among the attributes of the grid mapping."""
    cone = {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": np.array([30.0, 60.0])}
    for k in range(3):
        data = dataset(TIMES[k : k + 1]).assign_coords(crs=((), 0, cone))
        data["sst"].attrs["grid_mapping"] = "crs"
        write_nc(tmp_path / f"{k}.nc", data)
        assert len(open_frames(tmp_path)) == k + 1
    cone["standard_parallel"] = np.array([30.0, 50.0])
    write_nc(tmp_path / "3.nc", data.assign_coords(time=TIMES[3:4], crs=((), 0, cone)))
    with pytest.raises(DataError, match="must have one grid mapping"):
        open_frames(tmp_path)


def test_files_with_and_without_an_axis_of_one_channel(tmp_path):
    write_nc(tmp_path / "0.nc", dataset(TIMES[:1]).expand_dims(channel=["sst"], axis=1))
    write_nc(tmp_path / "1.nc", dataset(TIMES[1:2]))
    np.testing.assert_array_equal(open_frames(tmp_path)[1], open_frames(tmp_path)[0])
