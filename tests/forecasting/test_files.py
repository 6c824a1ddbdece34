import itertools
import os
import resource
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image, ImageDraw

from convlstm.data.files import read_frames
from convlstm.data.opening import open_frames
from convlstm.errors import DataError, OptionError, RunError, ShapeError
from convlstm.forecasting.fields import labelled_forecast
from convlstm.forecasting.files import check_output, write_forecast, write_frames
from convlstm.pictures.radar import DRY, NOT_MEASURED, TABLES

BYTES = np.random.default_rng(2).integers(0, 256, (14, 1, 6, 8), dtype=np.uint8)
UNIT = torch.from_numpy((BYTES / 255).astype(np.float32))
PAST, FORECAST = UNIT[:2], UNIT[2:]


def test_npz_holds_past_and_forecast_in_the_scale_of_the_input(tmp_path):
    assert write_frames(tmp_path / "out.npz", FORECAST, dtype=np.uint8, past=PAST) == tmp_path / "out.npz"
    with np.load(tmp_path / "out.npz") as file:
        assert set(file) == {"frames", "past"}
        np.testing.assert_array_equal(file["frames"], BYTES[2:], strict=True)
        np.testing.assert_array_equal(file["past"], BYTES[:2], strict=True)
    assert torch.equal(read_frames(tmp_path / "out.npz").values, FORECAST)


def test_npy_holds_the_forecast(tmp_path):
    write_frames(tmp_path / "out.npy", FORECAST, past=PAST)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), FORECAST.numpy(), strict=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_what_is_read_can_be_written_back(tmp_path, dtype):
    frames = (BYTES if dtype == "uint8" else BYTES * (100 if "int" in dtype else 0.1)).astype(dtype)
    np.save(tmp_path / "in.npy", frames.astype(np.float32) if dtype == "float64" else frames)
    read = read_frames(tmp_path / "in.npy")
    write_frames(tmp_path / "out.npy", read.values, dtype=dtype)
    expected = np.load(tmp_path / "in.npy").astype(dtype)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected, strict=True)


def played(path, height, width):
    """The frames that an animation of one panel shows, from the documented layout."""
    with Image.open(path) as film:
        frames = []
        for k in range(film.n_frames):
            film.seek(k)
            frames.append(np.array(film.convert("RGB")))
    return [frame[12 : 12 + height, 12 : 12 + width] for frame in frames], frames


def test_gif_plays_the_past_then_the_forecast(tmp_path):
    write_frames(tmp_path / "out.GIF", FORECAST, dtype=np.uint8, past=PAST)
    shown, pictures = played(tmp_path / "out.GIF", 6 * 64, 8 * 64)  # enlarged 64 times
    for frame, expected in zip(shown, BYTES[:, 0], strict=True):
        enlarged = expected.repeat(64, axis=0).repeat(64, axis=1)
        np.testing.assert_array_equal(frame, np.stack([enlarged] * 3, axis=-1))
    labels = [picture[12 + 384 + 4 :] for picture in pictures]
    assert not any((a == b).all() for a, b in itertools.pairwise(labels))


def test_frames_that_repeat_are_all_played(tmp_path):
    write_frames(tmp_path / "still.gif", UNIT[[3, 3, 3]], dtype=np.uint8)
    assert len(played(tmp_path / "still.gif", 384, 512)[0]) == 3


def test_mp4_plays_as_many_frames(tmp_path):
    path = write_frames(tmp_path / "out.mp4", FORECAST, dtype=np.uint8, past=PAST)
    with av.open(str(path)) as film:
        assert sum(1 for _ in film.decode(video=0)) == len(PAST) + len(FORECAST) + 4  # the last one stays


def test_a_gif_that_is_read_is_pictures_and_says_so(tmp_path):
    write_frames(tmp_path / "out.gif", FORECAST, dtype=np.uint8)
    frames = read_frames(tmp_path / "out.gif")
    assert frames.values.shape[-1] > 100  # the picture, with its labels
    assert "is read as pictures (12), 0 to 255 as 0 to 1: a GIF holds no scale" in frames.notes[0]


def test_colour_gif(tmp_path):
    few = torch.from_numpy((np.random.default_rng(0).integers(0, 2, (3, 3, 6, 8))).astype(np.float32))
    write_frames(tmp_path / "out.gif", few, dtype=np.uint8)
    for frame, expected in zip(played(tmp_path / "out.gif", 384, 512)[0], few, strict=True):
        small = frame[32::64, 32::64].transpose(2, 0, 1)
        np.testing.assert_array_equal(np.rint(small / 255), expected)


def strip_frames(path, counts, height, width):
    """The frames of a film strip with one row in each block, from the documented layout."""
    with Image.open(path) as image:
        pixels = np.array(image)
    edge = (pixels[4 + 24 - 1] == (208, 212, 218)).all(axis=-1)
    left, block = int(np.flatnonzero(edge)[0]) + 1, 24 + height + 4 + 8
    assert pixels.shape[:2] == (4 + len(counts) * block, left + max(counts) * (width + 4) + 8)
    places = [(28 + r * block, left + c * (width + 4)) for r, n in enumerate(counts) for c in range(n)]
    return pixels, [pixels[top : top + height, x : x + width] for top, x in places], places


@pytest.mark.parametrize(("past", "counts"), [(2, [2, 6, 6]), (0, [7, 7])])
def test_film_strip_shows_the_past_above_and_at_most_ten_frames_a_row(tmp_path, past, counts):
    known = UNIT[:past] if past else None
    write_frames(tmp_path / "out.png", UNIT[past:], dtype=np.uint8, past=known)
    pixels, shown, places = strip_frames(tmp_path / "out.png", counts, 48, 64)  # enlarged eight times
    for frame, expected in zip(shown, BYTES[:, 0], strict=True):
        enlarged = expected.repeat(8, axis=0).repeat(8, axis=1)
        np.testing.assert_array_equal(frame, np.stack([enlarged] * 3, axis=-1))
    ink = [(pixels[top - 20 : top - 4, x : x + 64] < 200).any(axis=(0, 2)).sum() for top, x in places]
    assert all(ink)
    if past:
        assert ink[0] > 2 * ink[1]  # t-1, then t
    assert ink[-1] > ink[past]  # +12, and +1


def test_large_frames_are_averaged_and_white_ones_have_an_edge(tmp_path):
    frames = torch.ones(2, 1, 768, 512)
    frames[1, 0, ::4] = 0  # a quarter of each averaged pixel
    write_frames(tmp_path / "out.png", frames)
    pixels, shown, places = strip_frames(tmp_path / "out.png", [2], 192, 128)
    assert (shown[0] == 255).all()
    assert (shown[1] == round(0.75 * 255)).all()
    top, left = places[0]
    around = pixels[top - 1 : top + 193, left - 1 : left + 129].copy()
    around[1:-1, 1:-1] = 0
    assert set(around[around > 0].tolist()) == {208, 212, 218}
    corners = around[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == (208, 212, 218)).all()


def test_colour_film_strip(tmp_path):
    colour = torch.rand(2, 3, 70, 64, generator=torch.Generator().manual_seed(0))
    write_frames(tmp_path / "out.png", colour)
    _, shown, _ = strip_frames(tmp_path / "out.png", [2], 70, 64)  # large enough as it is
    for frame, place in zip(colour, shown, strict=True):
        np.testing.assert_array_equal(place, (frame * 255).round().byte().permute(1, 2, 0).numpy())


def test_pictures_of_other_floats_span_the_past(tmp_path):
    past = torch.tensor([-10.0, 10.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    forecast = torch.tensor([-20.0, 0.0, 20.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    write_frames(tmp_path / "out.gif", forecast, past=past)
    # -10, then 10; the forecast is cut to that: 0, 128, 255
    assert [frame[50, 50, 0] for frame in played(tmp_path / "out.gif", 128, 128)[0]] == [0, 255, 0, 128, 255]


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_pictures_of_rain_are_not_black_and_say_what_white_is(tmp_path, dtype):
    draw = torch.Generator().manual_seed(0)
    wet = torch.rand(2, 1, 64, 64, generator=draw) < 0.3
    rain = wet * (torch.randn(2, 1, 64, 64, generator=draw) - 6).exp()  # a thousandth of the range
    write_frames(tmp_path / "out.gif", rain, dtype=dtype)
    shown, pictures = played(tmp_path / "out.gif", 512, 512)
    assert np.median(shown[0][::8, ::8, 0][wet[0, 0].numpy()]) > 50
    assert (pictures[0][12 + 512 + 26 :] < 160).any()  # a line below the label
    write_frames(tmp_path / "out.png", rain, dtype=dtype)
    with Image.open(tmp_path / "out.png") as image:
        pixels = np.array(image)
    assert len(pixels) == 4 + 24 + 64 + 4 + 8 + 18  # a line below the frames
    assert (pixels[4 + 24 + 64 + 4 :] < 160).any()


@pytest.mark.parametrize(("units", "factor"), [("mm h-1", 1.0), ("mm", 1 / 12), ("dBZ", None), ("degC", 1.0)])
@pytest.mark.parametrize("ending", ["gif", "png"])
def test_rain_and_reflectivity_have_the_colours_of_radar(tmp_path, units, factor, ending):
    """A column of each class, with what is dry and what was not measured."""
    table = TABLES["dBZ" if units == "dBZ" else "mm/h"]
    row = [-32.0 if units == "dBZ" else 0.0, *(1.01 * bound for bound in table.bounds), np.nan]
    values = np.broadcast_to(np.float32(row) * (factor or 1), (4, 64, 12))
    times = np.datetime64("2024-05-01T12:00", "ns") + np.timedelta64(300, "s") * np.arange(4)
    attributes = {"units": units, "standard_name": "precipitation_amount" if units == "mm" else "field"}
    frames = open_frames(xr.DataArray(values, {"time": times}, ("time", "y", "x"), "field", attributes))
    path = tmp_path / f"f.{ending}"
    write_forecast(path, labelled_forecast(frames.values[2:], frames[:2], 300.0), frames.values[:2])
    with Image.open(path) as image:
        image.seek(image.n_frames - 1)
        pixels = np.array(image.convert("RGB"))
    colours = [DRY, *table.colours, NOT_MEASURED]
    if ending == "gif":
        shown = pixels[12 + 32 * 8, 12 + 4 : 12 + 12 * 8 : 8]  # a middle row, enlarged eight times
        assert (shown == colours).all() == (units != "degC")
        assert (pixels[:12, :12] == (214, 96, 30)).all(-1).any()  # the border of what follows the past
    seen = {tuple(map(int, pixel)) for pixel in pixels[-36:].reshape(-1, 3)}  # the legend
    assert ({*colours} <= seen) == (units != "degC")


@pytest.mark.parametrize(
    ("dated", "labels"), [(True, ["-5 min", "0 min", "+5 min", "+10 min"]), (False, ["t-1", "t", "+1", "+2"])]
)
@pytest.mark.parametrize("ending", ["gif", "png"])
def test_pictures_say_lead_times_in_minutes_where_frames_have_times(
    tmp_path, monkeypatch, ending, dated, labels
):
    written, draw = [], ImageDraw.ImageDraw.text

    def write(pen, place, text, **options):
        written.append(text)
        draw(pen, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    values, step = np.zeros((4, 8, 8), np.float32), 300 if dated else 1
    times = np.datetime64("2024-05-01T12:00", "ns") + np.timedelta64(300, "s") * np.arange(4)
    frames = open_frames(xr.DataArray(values, {"time": times} if dated else {}, ("time", "y", "x")))
    write_forecast(
        tmp_path / f"f.{ending}", labelled_forecast(frames.values[2:], frames[:2], step), frames.values[:2]
    )
    kinds = [text.partition("   ")[0].removeprefix("past ").removeprefix("forecast ") for text in written]
    assert [kind for kind in kinds if kind[0] in "+-t0"] == labels


def test_animations_say_seconds_where_times_have_some(tmp_path, monkeypatch):
    written, draw = [], ImageDraw.ImageDraw.text

    def write(pen, place, text, **options):
        written.append(text)
        draw(pen, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    times = np.datetime64("2024-05-01T12:00", "ns") + np.timedelta64(90, "s") * np.arange(2)
    frames = open_frames(xr.DataArray(np.zeros((2, 8, 8), np.float32), {"time": times}, ("time", "y", "x")))
    write_forecast(tmp_path / "f.gif", labelled_forecast(frames.values[1:], frames, 90), frames.values)
    assert [text[-23:] for text in written if "UTC" in text] == [
        f"2024-05-01 12:0{time} UTC" for time in ("0:00", "1:30", "3:00")
    ]


@pytest.mark.parametrize("channels", [2, 5])
def test_pictures_show_every_channel_below_the_other(tmp_path, channels):
    frames = torch.cat([UNIT.roll(k, 0) for k in range(channels)], dim=1)
    write_frames(tmp_path / "out.gif", frames, dtype=np.uint8)
    (shown, *_), _ = played(tmp_path / "out.gif", channels * 386 - 2, 512)
    for k in range(channels):  # two rows between channels of 384 rows
        np.testing.assert_array_equal(shown[386 * k : 386 * k + 384 : 64, ::64, 0], BYTES[-k, 0])


def test_a_slight_overshoot_does_not_change_the_grey_of_a_picture(tmp_path):
    past = torch.tensor([0.0, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    write_frames(tmp_path / "out.gif", past[1:] + 0.7, past=past)
    assert [frame[50, 50, 0] for frame in played(tmp_path / "out.gif", 128, 128)[0]] == [0, 128, 255]


def test_a_link_to_nowhere_stays_unless_asked(tmp_path):
    path = tmp_path / "forecast.npy"
    path.symlink_to(tmp_path / "elsewhere.npy")
    for refused in (lambda: check_output(path), lambda: write_frames(path, FORECAST)):
        with pytest.raises(RunError, match="must not replace a file unasked"):
            refused()
    assert path.is_symlink()
    write_frames(path, FORECAST, overwrite=True)
    assert path.is_file()
    assert not (tmp_path / "elsewhere.npy").exists()


def test_an_existing_file_stays_unless_asked(tmp_path):
    path = tmp_path / "out.npy"
    path.write_bytes(b"mine")
    with pytest.raises(RunError, match="must not replace a file unasked.*exists: choose another name"):
        write_frames(path, FORECAST)
    assert path.read_bytes() == b"mine"
    write_frames(path, FORECAST, overwrite=True)
    assert np.load(path).shape == (12, 1, 6, 8)


def test_unknown_ending_names_the_nearest(tmp_path):
    with pytest.raises(
        OptionError, match=r"ending of out.pngg must be one of .gif, .mp4, .nc, .npy.*did you mean '.png'"
    ):
        write_frames(tmp_path / "out.pngg", FORECAST)
    with pytest.raises(OptionError, match="ending of out must be"):
        check_output(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="existing folder.*new is none: make it"):
        check_output(tmp_path / "new" / "out.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(RunError, match="folder.npz is a folder"):
        check_output(tmp_path / "folder.npz", overwrite=True)
    check_output(tmp_path / "out.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.npz"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_unwritable_folder():
    with pytest.raises(RunError, match="/proc must be writable; the system says"):
        check_output("/proc/out.npz")


@pytest.mark.skipif(os.name != "posix", reason="limits on file sizes are posix")
@pytest.mark.parametrize("ending", [".npy", ".npz", ".gif", ".png"])
def test_full_disk_leaves_what_was_there(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    path.write_bytes(b"mine")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(RunError, match="must be writable; the system says 'File too large'"):
            write_frames(path, FORECAST, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"mine"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("frames", "options", "error", "message"),
    [
        (UNIT[None], {}, ShapeError, r"take one case, forecast\[0\]"),
        (UNIT[0], {}, ShapeError, r"received shape \(1, 6, 8\)"),
        (UNIT[:0], {}, ShapeError, "no empty axis"),
        (FORECAST, {"past": PAST[..., :4]}, ShapeError, "same channels and size"),
        (
            UNIT.where(UNIT < 0.9, torch.nan),
            {},
            DataError,
            r"frames holds \d+ NaN or infinite, the first at frame",
        ),
        (FORECAST, {"past": PAST * torch.inf}, DataError, "past holds"),
        ("forecast.npy", {}, OptionError, "frames must be a Tensor or an ndarray; received 'forecast.npy'"),
        (FORECAST, {"past": "past.npy"}, OptionError, "past must be a Tensor or an ndarray"),
        (FORECAST, {"overwrite": "no"}, OptionError, "overwrite must be True or False; received 'no'"),
    ],
)
def test_unfit_frames(tmp_path, frames, options, error, message):
    with pytest.raises(error, match=message):
        write_frames(tmp_path / "out.png", frames, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 3, b"out.npy", ""])
def test_no_path(path):
    with pytest.raises(OptionError, match="path of a forecast must be a path; received"):
        write_frames(path, FORECAST)
    with pytest.raises(OptionError, match="path of frames must be a path; received"):
        read_frames(path)


def test_unfit_dtype(tmp_path):
    with pytest.raises(DataError, match="8 or 16 bits; the file to write holds int64"):
        write_frames(tmp_path / "out.npy", FORECAST, dtype=np.int64)
    with pytest.raises(DataError, match="dtype must be one of numpy; received 'large'"):
        write_frames(tmp_path / "out.npy", FORECAST, dtype="large")


def test_half_precision_and_gradients_are_taken(tmp_path):
    frames = FORECAST.bfloat16().requires_grad_()
    write_frames(tmp_path / "out.npy", frames)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), frames.detach().float().numpy())


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(OptionError, match="pip install 'convlstm.plots"):
        write_frames(tmp_path / "out.png", FORECAST)
    write_frames(tmp_path / "out.npz", FORECAST)
