"""Scores where pixels were not measured, or differ in area."""

import math

import numpy as np
import pytest
import torch

from convlstm.errors import DataError, ShapeError
from convlstm.scores import ETS, HSS, MSE, Correlation, field_scores, standard_scores

ALL = (*standard_scores(1.0), *field_scores("mm/h", (0.3, 0.6), (40, 40)))
every_score = pytest.mark.parametrize("score", ALL, ids=lambda score: score.name)


def frames(seed=0, size=40):
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(4, 3, 2, size, size, generator=draw)
    forecast = 0.7 * truth + 0.3 * torch.rand(truth.shape, generator=draw)
    weight = (torch.rand(truth.shape, generator=draw) > 0.001).float()
    weight[1, 1] = 0  # a frame of which nothing was measured
    return forecast, truth, weight


def state(score, *frames):
    return score.update(score.init(frames[1].shape[1]), *frames)


@every_score
def test_what_was_not_measured_changes_nothing(score):
    forecast, truth, weight = frames()
    there = state(score, forecast, truth, weight)
    other = state(score, torch.where(weight > 0, forecast, 7.0), torch.where(weight > 0, truth, -9.0), weight)
    torch.testing.assert_close(score.compute(there), score.compute(other), rtol=1e-5, atol=1e-6)
    assert score.compute(there).isfinite().all()
    assert (score.compute(there) != score.compute(state(score, forecast, truth))).any()


@every_score
def test_nothing_measured_is_undefined(score):
    forecast, truth, _ = frames()
    empty = state(score, forecast, truth, torch.zeros(()))
    assert score.compute(empty).isnan().all()
    assert math.isnan(score.overall(empty))
    assert (score.samples(empty.sums) == 0).all()


@every_score
def test_a_frame_without_a_measured_pixel_does_not_count(score):
    forecast, truth, weight = frames()
    weight[:] = 1
    weight[1] = 0
    kept = [0, 2, 3]
    with_it, without = state(score, forecast, truth, weight), state(score, forecast[kept], truth[kept])
    torch.testing.assert_close(score.compute(with_it), score.compute(without), rtol=1e-6, atol=1e-9)
    assert torch.equal(score.samples(with_it.sums), score.samples(without.sums))


@every_score
def test_samples_are_pixels_or_frames(score):
    forecast, truth, weight = frames()
    counted = score.samples(state(score, forecast, truth, weight).sums)
    if score.samples_of == "pixels":
        assert counted.tolist() == weight.sum((0, 2, 3, 4)).tolist()
    elif score.name != "ssim":  # whose windows need all of their pixels
        assert counted.tolist() == [4, 3, 4]


@pytest.mark.parametrize("score", [s for s in ALL if s.samples_of == "pixels"], ids=lambda s: s.name)
def test_a_pixel_of_twice_the_area_counts_twice(score):
    if score.name.startswith("fss"):
        return  # whose windows are of pixels
    forecast, truth, _ = frames(size=12)
    rows = torch.arange(12) < 6
    doubled = torch.where(rows[:, None], 2.0, 1.0)
    again = [torch.cat([x, x[..., :6, :]], dim=-2) for x in (forecast, truth)]
    torch.testing.assert_close(
        score.compute(state(score, forecast, truth, doubled)), score.compute(state(score, *again))
    )


@pytest.mark.parametrize(("mean", "deviation"), [(288.0, 0.1), (54_000.0, 50.0), (-20.0, 0.01)])
def test_correlation_of_values_far_from_zero_over_areas(mean, deviation):
    """Kelvins, or geopotentials, on a grid of degrees: the variance is 1e-7 of the squares and less."""
    draw = torch.Generator().manual_seed(0)
    truth = mean + deviation * torch.randn(2, 1, 1, 90, 180, generator=draw)
    forecast = truth + deviation * torch.randn(truth.shape, generator=draw)
    area = torch.linspace(-1.56, 1.56, 90).cos().view(1, 1, 1, -1, 1)
    weights = area.expand(truth.shape).double().flatten().numpy()
    pairs = np.stack([forecast.flatten().numpy(), truth.flatten().numpy()])
    covariance = np.cov(pairs, aweights=weights)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert Correlation().overall(state(Correlation(), forecast, truth, area)) == pytest.approx(
        expected, rel=1e-5
    )


def test_correlation_with_a_constant_over_areas_is_undefined():
    forecast = torch.rand(1, 1, 1, 19, 14, generator=torch.Generator().manual_seed(0))
    area = torch.linspace(-1.56, 1.56, 19).cos().view(1, 1, 1, -1, 1)
    constant = torch.full_like(forecast, 5.5)
    assert math.isnan(Correlation().overall(state(Correlation(), forecast, constant, area)))


@pytest.mark.parametrize("kind", [ETS, HSS])
def test_skill_over_chance_is_undefined_where_all_is_an_event(kind):
    """On grids of latitudes rounding left a part of a pixel without events, and the score was 1."""
    values, score = torch.ones(3, 2, 1, 37, 53), kind(1.0)
    area = torch.cos(torch.linspace(-1.2, 1.2, 37))[:, None]
    for weight in (None, area / area.mean()):
        found = score.update(score.init(2), values, values, weight)
        assert score.compute(found).isnan().all()
        assert math.isnan(score.overall(found))
    counts = torch.tensor([[94906267.0, 123456789.0], [0, 0], [0, 0], [0, 0]], dtype=torch.float64)
    assert score.value(counts).isnan().all()  # more pixels than a square of which float64 holds


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_weights_below_0_and_no_numbers_are_refused(bad):
    """Those below 0 were taken off the error."""
    values, weight = torch.zeros(3, 2, 1, 40, 40), torch.ones(40, 40)
    weight[3, 4] = bad
    score = MSE()
    with pytest.raises(DataError, match="weights must be finite and at least 0; received"):
        score.update(score.init(2), values, values, weight)


@pytest.mark.parametrize("shape", [(3, 3), (6, 3, 2, 1, 40, 40), (3, 2, 40, 40)])
def test_weights_of_another_shape_are_refused(shape):
    values = torch.zeros(3, 2, 1, 40, 40)
    with pytest.raises(ShapeError, match=r"weight must expand to the truth's shape \(3, 2, 1, 40, 40\)"):
        MSE().update(MSE().init(2), values, values, torch.ones(shape))


@pytest.mark.parametrize("other", [MSE().init(1), MSE().init(3), ETS(1).init(2)])
def test_states_of_other_lead_times_or_scores_are_not_merged(other):
    """One of a single lead time was added to all of another's."""
    with pytest.raises(ShapeError, match="states of mse must have 2 terms of the same lead times"):
        MSE().merge(MSE().init(2), other)
