"""Arrays as text of a page, read back by a decoder in plain loops."""

import base64
import zlib

import numpy as np
import pytest

from convlstm.plots.packing import LADDER, Packed, encode, pack, quantise, reduce


def decode(text, shape, dtype):
    """The inverse of `encode`, a pixel at a time."""
    raw, size = zlib.decompress(base64.b64decode(text)), np.dtype(dtype).itemsize
    count = int(np.prod(shape))
    numbers = [sum(raw[p * count + k] << 8 * (size - 1 - p) for p in range(size)) for k in range(count)]
    maps = np.array(numbers, np.int64).reshape(-1, *shape[-2:])
    for one in maps:
        for y in range(shape[-2]):
            for x in range(shape[-1]):
                left, above = int(one[y, x - 1]) if x else 0, int(one[y - 1, x]) if y else 0
                guess = left if not y else above if not x else None
                if guess is None:
                    guess = sorted((left, above, left + above - int(one[y - 1, x - 1])))[1]
                one[y, x] = (one[y, x] + guess) % 256**size
    return maps.reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 1, 4), (2, 4, 1), (1, 1)])
def test_codes_are_read_back_exactly(dtype, shape):
    codes = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    np.testing.assert_array_equal(decode(encode(codes), shape, dtype), codes)


def test_smooth_maps_take_less_than_their_codes_compressed():
    y, x = np.mgrid[:64, :64]
    codes = (120 + 60 * np.sin(y / 9) * np.cos(x / 7)).astype(np.uint8)
    assert len(encode(codes)) < 0.6 * len(base64.b64encode(zlib.compress(codes.tobytes(), 9)))


def test_codes_are_the_nearest_levels_and_mark_what_is_not_finite():
    values = np.array([-1.0, -0.5, 0.26, 1.0, np.nan, np.inf, -np.inf])
    codes = quantise(values, np.array(-1.0), np.array(1.0), 5, 255)
    assert codes.tolist() == [0, 1, 3, 4, 255, 255, 255]
    assert quantise(np.full(2, 3.0), np.array(3.0), np.array(3.0), 5, 255).tolist() == [0, 0]


def test_reduction_is_the_mean_of_squares_that_may_be_partial():
    values = np.random.default_rng(0).random((2, 5, 7))
    found = reduce(values, 3)
    assert found.shape == (2, 2, 3)
    for row in range(2):
        for column in range(3):
            square = values[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            np.testing.assert_allclose(found[:, row, column], square.mean(axis=(1, 2)))
    assert reduce(values, 1) is values


def restored(packed: Packed, levels: int):
    size = (len(packed.channels), *packed.size)
    codes = np.stack([decode(text, size, np.uint8) for text in packed.steps]).astype(np.float64)
    low, high = (np.array(ends)[:, None, None] for ends in (packed.low, packed.high))
    return np.where(codes == 255, np.nan, low + codes / (levels - 1) * (high - low))


def test_what_fits_keeps_every_pixel_in_255_levels():
    values = np.random.default_rng(0).standard_normal((3, 2, 6, 5)).astype(np.float32)
    values[:, 1] *= 1000
    values[1, 0, 2, 3] = np.nan
    packed, precision = pack({("a", "h"): values}, 10**6)
    assert (precision.levels, precision.reduction) == LADDER[0] == (255, 1)
    (one,) = packed.values()
    assert one.channels == [0, 1]
    difference = np.abs(restored(one, 255) - values)
    step = np.ptp(np.nan_to_num(values), axis=(0, 2, 3)) / 254
    assert np.isnan(difference[1, 0, 2, 3])
    assert (np.nanmax(difference, axis=(0, 2, 3)) <= 0.501 * step).all()


def test_what_does_not_fit_loses_levels_then_pixels_then_channels():
    draw = np.random.default_rng(0)
    values = draw.standard_normal((4, 12, 72, 72)).astype(np.float32)
    values *= np.arange(1, 13, dtype=np.float32)[::-1, None, None]
    maps = {("a", "h"): values, ("a", "f"): 1 / (1 + np.exp(-values))}
    rung, channels = 0, 12
    for limit in (700_000, 300_000, 60_000, 20_000):
        packed, precision = pack(maps, limit)
        kept = len(packed["a", "h"].channels)
        assert sum(len(text) for one in packed.values() for text in one.steps) <= limit
        assert LADDER.index((precision.levels, precision.reduction)) >= rung
        assert kept <= channels
        rung, channels = LADDER.index((precision.levels, precision.reduction)), kept
    assert precision.reduction == 2  # 72 pixels are not averaged to fewer than 32
    assert 1 < kept < 12
    assert packed["a", "h"].channels == list(range(kept))  # the first vary most
    wanted = reduce(values[:, :kept], 2)
    step = np.ptp(wanted, axis=(0, 2, 3)) / (precision.levels - 1)
    error = np.abs(restored(packed["a", "h"], precision.levels) - wanted).max(axis=(0, 2, 3))
    assert (error <= 0.501 * step).all()


def test_of_very_many_channels_the_256_that_vary_most_are_kept():
    values = np.zeros((1, 300, 2, 2), np.float32)
    values[:, 44:, 0, 0] = 1
    packed, _ = pack({("a", "attention"): values}, 10**6)
    assert packed["a", "attention"].channels == list(range(44, 300))
