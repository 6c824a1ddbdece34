"""Synthetic rain: reproducible, with the statistics, the motion and the missing pixels that it states."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift
from skimage.registration import phase_cross_correlation

from convlstm.data import Rain
from convlstm.data.rain import rain_rates, wind

CANVAS = 64


def generator(seed):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def sequences():
    """Logarithms of rain rates (N, T, H, W), nothing blocked, and the wind (N, 2) of each."""
    rates = np.stack([rain_rates(generator(seed), 24, (CANVAS, CANVAS)) for seed in range(60)])
    winds = np.array([wind(generator(seed)) for seed in range(60)])
    return np.log10(rates.clip(0.1)) + 1, winds


def test_an_index_is_one_sequence_in_any_process_and_order():
    source = Rain(32, 3, 2)
    wanted = [("train", 5000), ("test", 0), ("train", 0), ("validation", 7)]
    digests = [hashlib.sha256(source.sequence(*which).tobytes()).hexdigest() for which in wanted]
    assert len(set(digests)) == 4
    code = (
        "import hashlib; from convlstm.data import Rain; r = Rain(32, 3, 2)\n"
        f"print([hashlib.sha256(r.sequence(*w).tobytes()).hexdigest() for w in {wanted[::-1]}][::-1])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(digests)
    other = Rain(32, 3, 2, seed=1).sequence("test", 0)
    assert hashlib.sha256(other.tobytes()).hexdigest() not in digests


@pytest.mark.parametrize("canvas", [(64, 64), (40, 72)])
def test_one_sector_and_the_corners_are_not_measured(canvas):
    rows, columns = np.indices(canvas) - (np.array(canvas)[:, None, None] - 1) / 2
    far = np.hypot(rows, columns) >= 0.62 * max(canvas)
    azimuth = np.arctan2(rows, columns)
    starts = []
    for index in range(20):
        missing = np.isnan(Rain(canvas, 2, 2).sequence("train", index))
        assert (missing == missing[0]).all()  # the radar does not move
        assert missing[0][far].all()
        blocked = np.sort(azimuth[missing[0] & ~far])
        assert blocked.size > 10
        # Turned so that the widest free part of the circle lies across its ends.
        gaps = np.diff(blocked, append=blocked[0] + 2 * np.pi)
        assert 2 * np.pi - gaps.max() < 0.35
        starts.append(blocked[(gaps.argmax() + 1) % blocked.size])
    assert np.std(starts) > 0.5
    assert not np.isnan(Rain(canvas, 2, 2, blocked=False).sequence("train", 0)).any()


def test_windows_are_the_sequence_in_the_scale_of_the_network():
    source = Rain(32, 4, 3, test_size=5)
    window = source.split("test")[3]
    values = torch.from_numpy(source.sequence("test", 3))[:, None]
    frames = torch.cat([window.past, window.future])
    valid = torch.cat([window.past_valid, window.future_valid])
    assert (window.past.shape, window.future.shape) == ((4, 1, 32, 32), (3, 1, 32, 32))
    assert torch.equal(valid, ~values.isnan())
    assert (frames[~valid] == 0).all()
    torch.testing.assert_close(source.to_units(frames)[valid], values[valid], rtol=1e-5, atol=0)
    assert torch.equal(window.times.diff(), torch.full((6,), 300.0, dtype=torch.float64))
    assert window.weight == 1
    assert len(source.split("test")) == 5
    with pytest.raises(IndexError, match="0 to 4; received 5"):
        source.split("test")[5]
    assert source.split("train")[10**6].past.isfinite().all()  # which never ends


def test_wet_areas_and_intensities_are_those_of_radar():
    rates = np.stack([Rain(CANVAS).sequence("validation", index) for index in range(60)])
    measured = np.isfinite(rates)
    assert 0.91 < measured.mean() < 0.96
    assert (rates[measured] == 0).mean() > 0.7
    assert 0.17 < (rates[measured] >= 0.1).mean() < 0.27
    assert 0.025 < (rates[measured] >= 1).mean() < 0.06
    assert 0.004 < (rates[measured] >= 5).mean() < 0.015
    assert rates[measured & (rates > 0)].min() >= np.float32(0.1)
    assert rates[measured].max() <= 100
    assert (rates == 0).any(axis=(1, 2, 3)).all()  # every sequence has dry areas


def test_rain_moves_with_the_wind(sequences):
    levels, winds = sequences
    found = [-phase_cross_correlation(x[10], x[12], upsample_factor=10)[0] / 2 for x in levels]
    errors = np.hypot(*(np.array(found) - winds).T)
    assert np.median(errors) < 0.1
    assert np.mean(errors < 0.25) > 0.9
    assert np.median(np.hypot(*winds.T)) > 0.6  # what no motion at all would get


def test_small_scales_are_renewed_faster_than_large_ones(sequences):
    levels, winds = sequences
    similar = {"large": [], "small": []}
    for x, velocity in zip(levels, winds, strict=True):
        moved = shift(x[4], 6 * velocity, order=1)
        blurred, later = gaussian_filter(moved, 4), gaussian_filter(x[10], 4)
        inside = slice(12, -12), slice(12, -12)
        for name, a, b in (("large", blurred, later), ("small", moved - blurred, x[10] - later)):
            similar[name].append(np.corrcoef(a[inside].ravel(), b[inside].ravel())[0, 1])
    large, small = np.median(similar["large"]), np.median(similar["small"])
    assert large > 0.85
    assert 0.3 < small < large - 0.2


def test_rain_grows_and_decays(sequences):
    amounts = (10 ** sequences[0]).mean((2, 3))
    change = amounts[:, -1] / amounts[:, 0]
    assert (change > 1.2).mean() > 0.2
    assert (change < 1 / 1.2).mean() > 0.2
