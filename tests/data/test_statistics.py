"""Statistics of frames, against plain NumPy, and suspicious codes."""

import numpy as np
import pytest
import xarray as xr

from convlstm.data.statistics import histogram, sample, statistics, suspicious_codes

RANDOM = np.random.default_rng(3)
RAIN = np.float32(RANDOM.gamma(0.5, 2, (6, 1, 20, 30)).round(2))
RAIN[RANDOM.random(RAIN.shape) < 0.4] = 0
RAIN[:, :, :5, :4] = np.nan
RAIN[2, :, 10:] = np.nan
NONE = np.empty(0, np.int64)


def test_shares_and_range_equal_numpy():
    found = statistics(RAIN, np.array([0, 1, 3]), dry_value=0.0, log_scale=True, thresholds=(1.0, 5.0))
    measured = np.isfinite(RAIN)
    assert found.not_measured == pytest.approx(np.isnan(RAIN).mean())
    assert found.never_measured == pytest.approx(20 / 600)
    assert (found.low, found.high) == (0, np.nanmax(RAIN))
    assert found.most_below == np.nanquantile(RAIN, 0.999, method="inverted_cdf")
    assert found.wet[0] == pytest.approx((RAIN[measured] > 0).mean())
    assert found.above == pytest.approx({1: (RAIN[measured] >= 1).mean(), 5: (RAIN[measured] >= 5).mean()})
    shares = [(frame > 0).sum() / np.isfinite(frame).sum() for frame in RAIN]
    assert found.wet[1:] == pytest.approx((min(shares), max(shares)))
    changes = np.concatenate([np.abs(RAIN[k + 1] - RAIN[k]).ravel() for k in (0, 1, 3)])
    assert found.change == pytest.approx(np.nanmean(changes) / np.nanmax(RAIN), rel=1e-6)


@pytest.mark.parametrize("log_scale", [True, False])
def test_the_histogram_equals_numpys(log_scale):
    found = statistics(RAIN, NONE, dry_value=0.0, log_scale=log_scale).histogram
    wet = RAIN[RAIN > 0]
    edges, counts = np.array(found.edges), found.counts
    assert len(counts) == 32
    assert (edges[0], edges[-1]) == (wet.min(), wet.max())
    assert np.ptp(np.diff(np.log(edges) if log_scale else edges)) < 1e-6
    np.testing.assert_array_equal(counts, np.histogram(wet.astype(float), edges)[0])
    assert sum(counts) == len(wet)


def test_tiny_amounts_do_not_stretch_the_log_scale():
    values = np.float32([1e-12, 1e-11, 0.5, 1, 10])
    found = histogram(values, log_scale=True)
    assert found.edges[0] == values[0]
    assert found.edges[1] > 1e-4
    assert found.counts[0] == 2
    assert sum(found.counts) == 5


def test_frames_without_values_or_with_one():
    nothing = statistics(np.full((2, 1, 3, 3), np.nan, np.float32), np.array([0]), dry_value=0.0)
    assert (nothing.not_measured, nothing.low, nothing.wet, nothing.change) == (1, None, None, None)
    assert nothing.histogram.counts == ()
    dry = statistics(np.zeros((2, 1, 3, 3), np.float32), np.array([0]), dry_value=0.0, log_scale=True)
    assert (dry.low, dry.high, dry.wet, dry.histogram.counts, dry.change) == (0, 0, (0, 0, 0), (), 0)


FIELD = np.float32(RANDOM.integers(0, 161, 5000))
SMOOTH = np.float32(RANDOM.normal(285, 5, 5000))


@pytest.mark.parametrize(
    ("rest", "codes", "nearest"),
    [
        (FIELD, [255], 160),  # no data in an image
        (FIELD, [254, 255], 160),  # no data and outside
        (FIELD, [-1], 0),
        (FIELD, [65535], 160),
        (FIELD, [-32768, 255], None),
        (SMOOTH, [-9999], None),
        (SMOOTH, [-999], None),
        (SMOOTH, [float(np.float32(9.96921e36))], None),
        (FIELD / 2 - 32, [95.5], 48),  # 255 of an image, scaled
        (np.zeros(5000, np.float32), [-9999], 0),
        (np.arange(255, dtype=np.float32).repeat(20), [255], 254),  # piled up, though not far
    ],
)
def test_codes_are_found(rest, codes, nearest):
    values = np.concatenate([rest, np.repeat(np.float32(codes), 700)])
    found = suspicious_codes(np.sort(values))
    assert [code.value for code in found] == codes
    assert [code.share for code in found] == pytest.approx([700 / len(values)] * len(codes))
    assert nearest is None or {code.nearest for code in found} == {nearest}


@pytest.mark.parametrize(
    "values",
    [
        FIELD,
        SMOOTH,
        FIELD / 2 - 32,
        np.float32([0] * 900 + [255] * 100),  # black and white
        np.arange(256, dtype=np.float32).repeat(20),
        np.append(RAIN[RAIN >= 0], np.float32(500)),  # clutter
        SMOOTH - 285,
        np.float32([7] * 10),
        np.float32([]),
    ],
)
def test_measured_values_are_no_codes(values):
    assert suspicious_codes(np.sort(values)) == ()


def test_two_groups_far_from_each_other_are_no_codes():
    """Each was taken for codes beside the other, and nothing was left."""
    values = np.repeat(np.float32([-26.5, -25.5, -24.5, 0, 2, 4]), 20)
    assert suspicious_codes(values) == ()


def test_codes_are_left_out_of_everything_else():
    coded = np.where(np.isnan(RAIN), np.float32(-1), RAIN)
    plain, found = (statistics(each, np.array([0, 3]), dry_value=0.0) for each in (RAIN, coded))
    assert [code.value for code in found.codes] == [-1]
    for name in ("low", "high", "most_below", "histogram", "wet", "change"):
        assert getattr(found, name) == getattr(plain, name), name
    assert found.not_measured == 0
    ignored = statistics(coded, np.array([0, 3]), dry_value=0.0, find_codes=False)
    assert (ignored.codes, ignored.low) == ((), -1)


def frames(times):
    values = np.broadcast_to(
        np.arange(len(times), dtype=np.float32)[:, None, None, None], (len(times), 1, 2, 2)
    )
    return xr.DataArray(values, dims=("time", "channel", "y", "x"))


def test_a_sample_is_spread_in_pairs_that_no_gap_divides():
    times = np.concatenate([np.arange(100.0) + 1000 * day for day in range(5)])
    values, pairs = sample(frames(times), times, 24)
    chosen = values[:, 0, 0, 0].astype(int)
    assert len(chosen) <= 24
    assert (chosen.min(), chosen.max()) == (0, 499)
    assert {*(chosen // 100)} == {0, 1, 2, 3, 4}
    assert len(pairs) == 12
    np.testing.assert_array_equal(times[chosen[pairs + 1]] - times[chosen[pairs]], 1)


def test_a_short_archive_is_read_whole():
    times = np.array([0.0, 1, 2, 9, 10])
    values, pairs = sample(frames(times), times, 24)
    assert values[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert pairs.tolist() == [0, 1, 3]
