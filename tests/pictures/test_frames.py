from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from convlstm.errors import ConvLSTMError, OptionError, ShapeError
from convlstm.pictures.colours import MISSING
from convlstm.pictures.frames import animation, film_strip, past_label
from convlstm.pictures.radar import DRY, NOT_MEASURED, TABLES

HEAD, TOP, GAP = 24, 4, 4


def frames(length: int, height: int = 8, width: int = 8, channels: int = 1) -> np.ndarray:
    return np.zeros((length, channels, height, width), np.float32)


def strip_origin(picture: np.ndarray) -> int:
    """First column of the frames: the first that is black from top to bottom of the first row of frames."""
    row = picture[TOP + HEAD : TOP + HEAD + 64, :, :]
    return int(np.flatnonzero((row == 0).all(axis=(0, 2)))[0])


def test_a_pixel_lands_where_it_belongs_eight_times_as_large():
    truth = frames(3)
    truth[2, 0, 5, 1] = 1.0  # third frame, row 5, column 1
    picture = np.asarray(film_strip({"truth": truth, "forecast": frames(3)}))
    left = strip_origin(picture)
    top, start = TOP + HEAD + 5 * 8, left + 2 * (64 + GAP) + 1 * 8
    assert (picture[top : top + 8, start : start + 8] == 255).all()
    assert (picture[top - 1, start : start + 8] == 0).all()
    assert (picture[top + 8, start : start + 8] == 0).all()
    assert (picture[top : top + 8, start - 1] == 0).all()
    assert (picture[top : top + 8, start + 8] == 0).all()


@pytest.mark.parametrize("name", ["two\nlines", "x" * 1000, 3])
def test_any_name_of_a_row(tmp_path: Path, name):
    assert film_strip({name: frames(2), "b": frames(2)}).width < 500
    assert animation({name: frames(2), "b": frames(2)}, tmp_path / "a.gif").exists()


def test_a_tensor_with_gradients_is_drawn():
    maps = torch.zeros(2, 1, 8, 8, requires_grad=True)
    assert film_strip({"map": maps}).size == film_strip({"map": frames(2)}).size


def test_the_second_row_stands_below_the_first_and_the_past_above_both():
    forecast, past = frames(2), frames(4)
    forecast[0], past[3] = 0.4, 0.6
    picture = np.asarray(film_strip({"truth": frames(2), "forecast": forecast}, past=past))
    first = strip_origin(picture)
    fourth = first + 3 * (64 + GAP)
    assert (picture[TOP + HEAD : TOP + HEAD + 64, fourth : fourth + 64] == 153).all()  # 0.6 * 255
    under = TOP + HEAD + 64 + GAP + 8 + HEAD + 64 + GAP
    assert (picture[under : under + 64, first : first + 64] == 102).all()  # 0.4 * 255


def test_columns_and_rows_are_named():
    picture = np.asarray(film_strip({"truth": frames(2)}))
    left = strip_origin(picture)
    assert (picture[TOP + HEAD : TOP + HEAD + 64, : left - 4] < 128).any()  # the name
    for k in range(2):
        start = left + k * (64 + GAP)
        assert (picture[: TOP + HEAD, start : start + 64] < 160).any()  # the label
    assert [past_label(k, 3) for k in range(3)] == ["t-2", "t-1", "t"]


def test_the_first_row_sets_the_limits_so_that_a_wild_forecast_keeps_the_truth_readable():
    truth = frames(1)
    truth[0, 0, 0, 0] = 1.0
    picture = np.asarray(film_strip({"truth": truth, "wild": truth * 1e6}))
    assert (picture[TOP + HEAD : TOP + HEAD + 8] == 255).any()
    left = int(np.flatnonzero((picture[TOP + HEAD + 9] == 0).all(axis=-1))[0])
    assert (picture[TOP + HEAD : TOP + HEAD + 8, left : left + 8] == 255).all()


def rows_of(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """The last column of frames, from top to bottom, of a strip without a past."""
    left = int(np.flatnonzero((picture[TOP + HEAD + 32] != 255).any(axis=-1))[-1]) - 63
    tops = [TOP + HEAD + k * (64 + GAP) for k in range(count)]
    return [picture[top : top + 64, left : left + 64] for top in tops]


@pytest.mark.parametrize("channels", [2, 5])
def test_every_channel_has_a_row_and_limits_of_its_own(channels):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    truth = np.stack([100 * k + 10 * np.roll(ramp, k) for k in range(channels)])[None]
    picture = np.asarray(film_strip({"truth": truth}))
    shown = rows_of(picture, channels)
    assert picture.shape[0] == 12 + HEAD + channels * (64 + GAP) + 18 * channels  # and a line of legend each
    for k, frame in enumerate(shown):
        grey = frame[::8, ::8, 0].astype(int)
        assert np.abs(grey - np.roll(ramp, k) * 255).max() <= 3


def test_differences_take_the_spread_of_their_truth_and_not_the_greatest_of_them():
    truth = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    error = np.full_like(truth, 0.5)
    picture = np.asarray(film_strip({"truth": truth, "error": error}))
    error[0, 0, 0, 0] = 1e6
    spoiled = np.asarray(film_strip({"truth": truth, "error": error}))
    assert (rows_of(spoiled, 2)[1][8:] == rows_of(picture, 2)[1][8:]).all()
    assert rows_of(picture, 2)[1][8:, :, 0].min() > 30  # and not the colour of no error


def test_limits_other_than_0_and_1_are_written_below():
    truth = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    plain, scaled = (np.asarray(film_strip({"truth": k * truth})) for k in (1, 100))
    assert scaled.shape[0] > plain.shape[0] + 10
    assert (scaled[plain.shape[0] :] < 160).any()


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ({}, {}, OptionError, "rows must name every row of frames; received none"),
        ({"": frames(1)}, {}, OptionError, "received an empty name"),
        ({"a": np.zeros((2, 8, 8))}, {}, ShapeError, r"row 'a' must be \(T, C, H, W\).*\(2, 8, 8\)"),
        ({"a": frames(0)}, {}, ShapeError, "no empty axis"),
        (
            {"a": frames(1), "b": frames(1, 9)},
            {},
            ShapeError,
            r"one size H, W; received a \(8, 8\), b \(9, 8\)",
        ),
        ({"a": frames(1)}, {"scale": 0}, OptionError, "scale must be at least 1; received 0"),
        ({"a": frames(1)}, {"scale": 10**6}, OptionError, "scale must be at most 2048; received 1000000"),
        (
            {"a": frames(1)},
            {"scale": 1.5},
            OptionError,
            "scale must be an integer .*; received 1.5",
        ),
        (frames(1), {}, OptionError, "rows must be a Mapping; received an ndarray: pass {'truth': frames}"),
        ({"a": frames(1)}, {"signed": "a"}, OptionError, "signed must be a tuple or .* received 'a'"),
        (
            {"a": frames(1)},
            {"limits": 3},
            OptionError,
            r"limits must be two numbers; received 3: pass \(0, 1\)",
        ),
        (
            {"a": frames(1)},
            {"limits": (1, 0)},
            OptionError,
            "upper limit must be greater than 1.0; received 0",
        ),
        ({"a": "b.npy"}, {}, ShapeError, "row 'a' must be an array .* of numbers"),
        ({"a": [[1], [1, 2]]}, {}, ShapeError, "row 'a' must be an array"),
        ({"a": None}, {}, ShapeError, "row 'a' must be an array .* of numbers; received object"),
        ({"a": frames(1)}, {"past": frames(2, 4)}, ShapeError, r"past \(4, 8\)"),
    ],
)
def test_bad_input_is_one_sentence(rows, options, error, message):
    with pytest.raises(error, match=message) as caught:
        film_strip(rows, **options)
    assert "\n" not in str(caught.value)


def test_an_animation_plays_the_past_and_then_the_forecast(tmp_path: Path):
    past, truth, forecast = frames(2), frames(3), frames(3)
    past[1], truth[2], forecast[2] = 1.0, 1.0, 0.5
    path = animation({"truth": truth, "forecast": forecast}, tmp_path / "a.gif", past=past)
    with Image.open(path) as film:
        assert film.n_frames == 5
        shown = []
        for k in range(5):
            film.seek(k)
            pixels = np.asarray(film.convert("L")).astype(int)
            shown.append((pixels[158, 140], pixels[158, 140 + 268]))  # middles of the two panels
    assert np.abs(np.array(shown) - [(0, 0), (255, 255), (0, 0), (0, 0), (255, 128)]).max() <= 3
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


def test_an_animation_says_when_and_borders_what_follows_the_past(tmp_path: Path):
    """Dark around the forecast, light around the past; the label changes where times are given."""
    past, forecast = frames(2), frames(2)
    plain = animation({"forecast": forecast}, tmp_path / "a.gif", past=past)
    timed = animation({"forecast": forecast}, tmp_path / "b.gif", past=past, moments=["20:05"] * 4)
    with Image.open(plain) as film, Image.open(timed) as other:
        assert film.size[0] >= 512
        for k in range(4):
            film.seek(k)
            other.seek(k)
            pixels, written = (np.asarray(image.convert("L")).astype(int) for image in (film, other))
            assert (pixels[10, 20:500] < 50).all() == (k >= 2)
            assert (pixels[11, 20:500] > 190).all() == (k < 2)
            ink = [(image[12 + 512 + 4 :] < 160).sum() for image in (pixels, written)]
            assert ink[1] > 1.3 * ink[0]


def test_an_animation_has_a_moment_for_each_frame(tmp_path: Path):
    with pytest.raises(OptionError, match="moments must name the time of each of the 4 frames; received 3"):
        animation({"forecast": frames(2)}, tmp_path / "a.gif", past=frames(2), moments=["20:05"] * 3)


def test_lead_times_are_minutes_where_the_time_step_is_known(tmp_path: Path, monkeypatch):
    written: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def write(pen, place, text, **options):
        written.append(text)
        draw(pen, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", write)
    film_strip({"truth": frames(2)}, past=frames(2), step_s=300)
    assert [text for text in written if text.endswith("min")] == ["-5 min", "0 min", "+5 min", "+10 min"]
    written.clear()
    animation({"truth": frames(2)}, tmp_path / "a.gif", past=frames(2), step_s=3600)
    assert written == ["past -1 h", "past 0 h", "truth +1 h", "truth +2 h"]


def test_an_animation_keeps_every_grey(tmp_path: Path):
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    path = animation({"ramp": ramp}, tmp_path / "a.gif")
    with Image.open(path) as film:
        pixels = np.asarray(film.convert("L"))
    assert (pixels[12 : 12 + 512 : 32, 12 : 12 + 512 : 32] == ramp[0, 0]).all()


def test_an_animation_shows_every_channel_below_the_other(tmp_path: Path):
    truth = frames(2, channels=2)
    truth[:, 0, :4], truth[:, 1, 4:] = 1.0, 1.0
    path = animation({"truth": truth}, tmp_path / "a.gif")
    with Image.open(path) as film:
        pixels = np.asarray(film.convert("L")).astype(int)
    middle = 12 + 256
    assert [pixels[12 + y, middle] for y in (10, 500, 530, 1000)] == [255, 0, 0, 255]


def test_an_animation_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    with pytest.raises(ConvLSTMError, match="must be writable"):
        animation({"truth": frames(2)}, tmp_path / "missing" / "a.gif")
    with pytest.raises(OptionError, match="path of an animation must be a path; received None"):
        animation({"truth": frames(2)}, None)
    with pytest.raises(OptionError, match="frame_ms must be at least 1; received 0"):
        animation({"truth": frames(2)}, tmp_path / "a.gif", frame_ms=0)
    with pytest.raises(OptionError, match="must end in .gif"):
        animation({"truth": frames(2)}, tmp_path / "a.png")
    with pytest.raises(ShapeError, match="same number of frames"):
        animation({"truth": frames(2), "forecast": frames(3)}, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_rain_has_the_colours_of_its_classes_and_their_legend():
    """Each pixel has the colour of its class, not measured ones grey, and the legend shows every class."""
    table = TABLES["mm/h"]
    rain = np.array([[0.0, 0.3, 3.0], [60.0, np.nan, 200.0]])[None, None]
    picture = np.asarray(film_strip({"truth": rain}, past=rain, limits=table, scale=30))
    seen = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert {DRY, NOT_MEASURED, *table.colours} <= seen
    frames = {
        colour: (picture[:-24] == colour).all(-1).sum() for colour in (DRY, NOT_MEASURED, *table.colours)
    }
    of_class = {DRY, NOT_MEASURED, *(table.colours[k] for k in (1, 4, 8, 9))}
    assert {colour for colour, count in frames.items() if count >= 2 * 30 * 30} == of_class


def test_the_colour_of_what_was_not_measured_is_in_the_legend():
    frames = np.full((1, 1, 64, 64), 0.5)
    whole = np.array(film_strip({"truth": frames}))
    frames[..., 0, 0] = np.nan
    marked = np.array(film_strip({"truth": frames}))
    assert len(marked) > len(whole)
    assert (marked[len(whole) :] == MISSING).all(axis=-1).any()
    rain = np.array(film_strip({"truth": frames}, limits=TABLES["mm/h"]))
    assert (rain[-18:] == NOT_MEASURED).all(axis=-1).any()


def test_rain_in_decibels_is_averaged_as_rain():
    rain = np.full((1, 1, 600, 600), -32.0)
    rain[..., ::4, ::4] = 45  # one of sixteen pixels: 33 dBZ is the mean of the reflectivity factor
    shown = np.array(film_strip({"truth": rain}, limits=TABLES["dBZ"]))
    assert tuple(shown[60, 120]) == TABLES["dBZ"].colours[4]
