import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convlstm.errors import ShapeError
from convlstm.pictures.colours import (
    BYTES,
    MISSING,
    UNIT,
    Scale,
    channel_names,
    channel_scales,
    error_scale,
    error_scales,
    legend,
    paint,
    value_scale,
)


def rain(greatest=120.0, seed=0):
    """Rain rates: three quarters dry, lognormal where it rains, up to about ``greatest``: (4, 1, 64, 64)."""
    draw = np.random.default_rng(seed)
    wet = np.exp(1.2 * draw.normal(size=(4, 1, 64, 64))) * (draw.random((4, 1, 64, 64)) < 0.25)
    return (wet * greatest / wet.max()).astype(np.float32)


@pytest.mark.parametrize("greatest", [120.0, 1.0, 0.003])
def test_rain_is_not_black(greatest):
    frames = rain(greatest)
    grey = paint(frames, channel_scales(frames))[0][..., 0]
    wet = frames[:, 0] > 0
    assert np.median(grey[wet]) > 50
    assert (grey[~wet] == 0).all()
    assert (grey[wet] == 255).mean() < 0.01  # and not white either


@pytest.mark.parametrize("clutter", [1205.0, 1e30, np.inf])
def test_a_few_pixels_of_clutter_do_not_make_the_rest_black(clutter):
    frames = rain()
    expected = value_scale(frames)
    frames[0, 0, :2, :2] = clutter
    assert value_scale(frames).high <= 1.2 * expected.high
    frames[0, 0, :2, :2] = -clutter
    assert value_scale(frames).low == 0


def test_scales():
    assert value_scale(np.array([0.2, 0.7])) == UNIT
    assert value_scale(np.array([0, 7], np.uint8)) == BYTES
    assert value_scale(np.array([np.nan, 3.0, np.inf]), np.array([9.0])) == (3, 9, False)
    assert value_scale(np.array([0.0, 0.1, 0.2])) == (0, 0.2, False)
    assert value_scale(np.array([np.nan])) == UNIT
    assert value_scale(np.zeros(5)) == UNIT
    low, high, _ = value_scale(np.array([5.0, 5.0]))
    assert low < 5 < high
    kelvin = value_scale(np.random.default_rng(0).normal(285, 8, 10_000))
    assert 260 < kelvin.low < 268
    assert 302 < kelvin.high < 310
    assert not kelvin.root


def test_a_large_sample_gives_nearly_the_scale_of_all():
    values = np.random.default_rng(0).normal(size=(4, 1, 900, 900))
    assert value_scale(values)[:2] == pytest.approx(np.percentile(values, [0.5, 99.5]), abs=0.02)


@given(st.floats(1e-20, 1e20))
def test_the_ends_of_differences_alone_are_above_them_and_near(error):
    low, high, _ = error_scale([np.array([-error, np.nan])])
    assert error <= high * 1.001
    assert high <= 2 * error
    assert low == -high


@pytest.mark.parametrize("spoiled", [False, True])
def test_the_ends_of_differences_are_the_spread_of_the_data(spoiled):
    values = np.random.default_rng(0).normal(285, 8, (10, 1, 40, 40))
    errors = np.full_like(values, 0.01)
    errors[0, 0, 0, 0] = 1e9
    values[0, 0, 0, 0] = 1e9 if spoiled else 285
    assert error_scale([errors], [values]) == (-20, 20, False)  # 16, rounded up
    assert error_scale([np.zeros(3)], [np.zeros(3)]) == (-1, 1, False)


def test_every_channel_has_a_scale_and_only_three_within_the_unit_range_are_colours():
    draw = np.random.default_rng(0)
    unit = draw.random((2, 3, 8, 8))
    assert channel_scales(unit) == [UNIT]
    assert channel_scales((unit * 255).astype(np.uint8)) == [BYTES]
    variables = unit * np.array([1, 50, 300]).reshape(3, 1, 1)
    assert [round(scale.high, -1) for scale in channel_scales(variables)] == [0, 50, 300]
    assert len(error_scales([variables], [variables], 3)) == 3
    assert len(channel_scales(draw.random((2, 5, 8, 8)))) == 5
    assert channel_names("truth", 2) == ["truth, channel 1", "truth, channel 2"]
    assert channel_names("truth", 1) == ["truth"]
    with pytest.raises(ShapeError, match="a channel for each of the 2 scales; received 5"):
        paint(draw.random((2, 5, 8, 8)), [UNIT, UNIT])


@pytest.mark.parametrize(
    ("scale", "ends"),
    [
        (Scale(101320.2, 101354.9), "black 101320, white 101355"),
        (Scale(273.15012, 273.15987), "black 273.1501, white 273.1599"),
        (Scale(-3.21987, 1201.2), "black -3.22, white 1201"),
        (Scale(-1.00004e7, -1e7), "black -1.00004e7, white -1e7"),
    ],
)
def test_the_ends_of_a_narrow_scale_are_told_apart(scale, ends):
    assert legend([scale]) == [f"values: {ends}"]


def test_the_legend_says_what_is_not_obvious():
    assert legend([UNIT]) == legend([BYTES]) == []
    assert legend([Scale(0, 12.3456, root=True)], [Scale(-3, 3)]) == [
        "values: black 0, white 12.35, square-root scale",
        "differences: blue -3, dark 0, orange 3",
    ]
    assert legend([Scale(7e-9, 1.68)]) == ["values: black 0, white 1.68"]


def test_grey_is_linear_in_the_value():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 1, 16, 16)
    assert (paint(ramp, [UNIT])[0][..., 0].ravel() == np.arange(256)).all()


def test_three_channels_are_red_green_blue():
    x = np.zeros((1, 3, 2, 2), np.float32)
    x[0, :, 0, 1] = (1.0, 0.2, 0.6)
    assert paint(x, [UNIT])[0][0, 0, 1].tolist() == [255, 51, 153]


def test_errors_are_blue_below_orange_above_and_dark_at_zero():
    x = np.array([-1.0, -0.5, 0, 0.5, 1.0], np.float32).reshape(1, 1, 1, 5)
    low, half_low, zero, half_high, high = paint(x, [Scale(-1, 1)], signed=True)[0][0, 0].astype(int)
    assert zero.max() < 20
    assert low[2] > low[0]
    assert half_low[2] > 150 > half_low[0]
    assert high[0] > high[2]
    assert half_high[0] > 150 > half_high[2]


def test_values_that_are_not_numbers_have_a_colour_of_their_own_and_infinities_the_nearest_end():
    x = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(1, 1, 1, 4)
    painted = paint(x, [UNIT])[0][0, 0].tolist()
    assert painted == [list(MISSING), [255] * 3, [0] * 3, [128] * 3]
