from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convlstm.errors import ConvLSTMError, OptionError, ShapeError
from convlstm.plots.strips import MISSING, animation, error_limit, film_strip, paint, past_label, value_limits

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


def test_grey_is_linear_in_the_value():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 1, 16, 16)
    assert (paint(ramp, (0.0, 1.0))[..., 0].ravel() == np.arange(256)).all()


def test_three_channels_are_red_green_blue():
    x = frames(1, 2, 2, 3)
    x[0, :, 0, 1] = (1.0, 0.2, 0.6)
    assert paint(x, (0.0, 1.0))[0, 0, 1].tolist() == [255, 51, 153]


def test_other_values_are_coloured_by_matplotlibs_viridis():
    from matplotlib import colormaps

    x = np.linspace(260, 310, 101, dtype=np.float32).reshape(1, 1, 1, 101)
    expected = colormaps["viridis"](np.linspace(0, 1, 101), bytes=True)[:, :3].astype(int)
    assert np.abs(paint(x, (260, 310))[0, 0] - expected).max() <= 8


def test_errors_are_blue_below_orange_above_and_dark_at_zero():
    x = np.array([-1.0, -0.5, 0, 0.5, 1.0], np.float32).reshape(1, 1, 1, 5)
    low, half_low, zero, half_high, high = paint(x, (-1, 1), signed=True)[0, 0].astype(int)
    assert zero.max() < 20
    assert low[2] > low[0]
    assert half_low[2] > 150 > half_low[0]
    assert high[0] > high[2]
    assert half_high[0] > 150 > half_high[2]


def test_values_that_are_not_numbers_have_a_colour_of_their_own_and_infinities_the_nearest_end():
    x = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(1, 1, 1, 4)
    painted = paint(x, (0.0, 1.0))[0, 0].tolist()
    assert painted == [list(MISSING), [255] * 3, [0] * 3, [128] * 3]


def test_limits():
    assert value_limits(np.array([0.2, 0.7])) == (0, 1)
    assert value_limits(np.array([0, 7], np.uint8)) == (0, 255)
    assert value_limits(np.array([np.nan, 3.0, np.inf]), np.array([9.0])) == (3, 9)
    assert value_limits(np.array([np.nan])) == (0, 1)
    low, high = value_limits(np.array([5.0, 5.0]))
    assert low < 5 < high


@given(st.floats(1e-20, 1e20))
def test_the_error_limit_is_above_the_error_and_near_it(error: float):
    limit = error_limit(np.array([-error, np.nan]))
    assert error <= limit * 1.001
    assert limit <= 2 * error


def test_the_first_row_sets_the_limits_so_that_a_wild_forecast_keeps_the_truth_readable():
    truth = frames(1)
    truth[0, 0, 0, 0] = 1.0
    picture = np.asarray(film_strip({"truth": truth, "wild": truth * 1e6}))
    assert (picture[TOP + HEAD : TOP + HEAD + 8] == 255).any()
    left = int(np.flatnonzero((picture[TOP + HEAD + 9] == 0).all(axis=-1))[0])
    assert (picture[TOP + HEAD : TOP + HEAD + 8, left : left + 8] == 255).all()


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ({}, {}, OptionError, "at least one row"),
        ({"a": np.zeros((2, 8, 8))}, {}, ShapeError, r"row 'a' must be \(T, C, H, W\).*\(2, 8, 8\)"),
        ({"a": frames(0)}, {}, ShapeError, "no empty axis"),
        (
            {"a": frames(1), "b": frames(1, 9)},
            {},
            ShapeError,
            r"one size H, W; received a \(8, 8\), b \(9, 8\)",
        ),
        ({"a": frames(1)}, {"scale": 0}, OptionError, "scale must be at least 1; received 0"),
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
            shown.append((pixels[94, 76], pixels[94, 76 + 140]))  # middles of the two panels
    assert np.abs(np.array(shown) - [(0, 0), (255, 255), (0, 0), (0, 0), (255, 128)]).max() <= 3
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


def test_an_animation_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    with pytest.raises(ConvLSTMError, match="must be writable"):
        animation({"truth": frames(2)}, tmp_path / "missing" / "a.gif")
    with pytest.raises(OptionError, match="must end in .gif"):
        animation({"truth": frames(2)}, tmp_path / "a.png")
    with pytest.raises(ShapeError, match="same number of frames"):
        animation({"truth": frames(2), "forecast": frames(3)}, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
