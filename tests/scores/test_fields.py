"""Scores of fields against the library `scores` and NumPy."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.ndimage import uniform_filter
from scores.categorical import BinaryContingencyManager, ThresholdEventOperator

import scores as independent
from convlstm.errors import DataError, OptionError
from convlstm.scores import (
    CSI,
    ETS,
    FAR,
    FSS,
    HSS,
    MAE,
    MSE,
    POD,
    RMSE,
    Bias,
    Correlation,
    FrequencyBias,
    MeanCSI,
    SmallScalePower,
    VarianceRatio,
    field_scores,
)
from convlstm.scores.spatial import spectra, wavelengths

THRESHOLD = 0.6


def frames(seed=0, shape=(6, 3, 1, 30, 34)):
    draw = np.random.default_rng(seed)
    truth = draw.random(shape, np.float32)
    return 0.6 * truth + 0.4 * draw.random(shape, np.float32), truth


def labelled(values):
    return xr.DataArray(values[:, :, 0], dims=("case", "lead", "y", "x"))


def both(score, forecast, truth):
    state = score.update(score.init(truth.shape[1]), torch.from_numpy(forecast), torch.from_numpy(truth))
    return score.compute(state).numpy(), score.overall(state)


CONTINUOUS = {
    MSE(): independent.continuous.mse,
    RMSE(): independent.continuous.rmse,
    MAE(): independent.continuous.mae,
    Bias(): independent.continuous.additive_bias,
    Correlation(): independent.continuous.correlation.pearsonr,
}


@pytest.mark.parametrize("score", CONTINUOUS, ids=lambda score: score.name)
def test_continuous_scores(score):
    forecast, truth = frames()
    by_lead, overall = both(score, forecast, truth)
    reference = CONTINUOUS[score]
    x, y = labelled(forecast.astype(float)), labelled(truth.astype(float))
    expected = [float(reference(x.isel(lead=k), y.isel(lead=k))) for k in range(3)]
    np.testing.assert_allclose(by_lead, expected, rtol=1e-5)
    assert overall == pytest.approx(float(reference(x, y)), rel=1e-5)


CATEGORICAL = {
    CSI: "critical_success_index",
    POD: "probability_of_detection",
    FAR: "false_alarm_ratio",
    ETS: "equitable_threat_score",
    FrequencyBias: "frequency_bias",
    HSS: "heidke_skill_score",
}


@pytest.mark.parametrize("kind", CATEGORICAL, ids=lambda kind: kind.stem)
def test_categorical_scores_pool_their_counts(kind):
    forecast, truth = frames()
    by_lead, overall = both(kind(THRESHOLD), forecast, truth)
    operator = ThresholdEventOperator(default_event_threshold=THRESHOLD, default_op_fn=np.greater_equal)
    table = operator.make_contingency_manager(labelled(forecast), labelled(truth))
    assert isinstance(table, BinaryContingencyManager)
    pooled = getattr(table.transform(reduce_dims="all"), CATEGORICAL[kind])()
    expected = getattr(table.transform(reduce_dims=["case", "y", "x"]), CATEGORICAL[kind])()
    np.testing.assert_allclose(by_lead, expected.values, rtol=1e-6)
    assert overall == pytest.approx(float(pooled), rel=1e-6)
    assert overall != pytest.approx(by_lead.mean(), rel=1e-9)


def test_a_contingency_table_by_hand():
    """Three hits, one false alarm, two misses, four correct negatives."""
    truth = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], np.float32).reshape(1, 1, 1, 2, 5)
    forecast = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.float32).reshape(truth.shape)
    chance = 4 * 5 / 10
    expected = {
        CSI: 3 / 6,
        POD: 3 / 5,
        FAR: 1 / 4,
        FrequencyBias: 4 / 5,
        ETS: (3 - chance) / (6 - chance),
        HSS: 2 * (3 * 4 - 1 * 2) / (5 * 6 + 4 * 5),
    }
    for kind, value in expected.items():
        assert both(kind(1.0), forecast, truth)[1] == pytest.approx(value)


@pytest.mark.parametrize("kind", CATEGORICAL, ids=lambda kind: kind.stem)
def test_without_an_event_a_ratio_is_undefined(kind):
    dry = np.zeros((2, 3, 1, 12, 12), np.float32)
    by_lead, overall = both(kind(1.0), dry, dry)
    assert np.isnan(by_lead).all()
    assert math.isnan(overall)


@pytest.mark.parametrize("window", [1, 5, 9])
def test_fractions_skill_score(window):
    """Against SciPy's filter; events beyond the border count as none."""
    draw = np.random.default_rng(3)
    truth = draw.random((1, 1, 1, 40, 44), np.float32) ** 3
    forecast = np.roll(truth, (2, 3), (3, 4))
    by_lead, _ = both(FSS(THRESHOLD, window), forecast, truth)
    said, happened = (
        uniform_filter((x[0, 0, 0] >= THRESHOLD).astype(float), window, mode="constant")
        for x in (forecast, truth)
    )
    expected = 1 - np.square(said - happened).sum() / (np.square(said) + np.square(happened)).sum()
    assert by_lead[0] == pytest.approx(expected, rel=1e-5)


def test_fractions_skill_score_by_hand():
    """One event, forecast one pixel off, in windows of three pixels along a row."""
    truth = np.zeros((1, 1, 1, 1, 7), np.float32)
    forecast = truth.copy()
    truth[..., 3], forecast[..., 4] = 1, 1
    assert both(FSS(1, 1), forecast, truth)[1] == 0
    # Fractions 1/9 at pixels 2 to 4 and 3 to 5: the squares differ at 2 and 5.
    assert both(FSS(1, 3), forecast, truth)[1] == pytest.approx(1 - 2 / 6)
    dry = np.zeros_like(truth)
    assert math.isnan(both(FSS(1, 3), dry, dry)[1])
    assert both(FSS(1, 3), forecast, dry)[1] == 0


@pytest.mark.parametrize("window", [1, 5, 33])
@pytest.mark.parametrize("share", [0.001, 0.05])
def test_fractions_of_rare_events_pixels_not_measured_and_areas(window, share):
    draw = np.random.default_rng(1)
    forecast, truth = (draw.random((3, 2, 2, 40, 44), np.float32) for _ in range(2))
    weight = np.where(draw.random(truth.shape) < 0.9, draw.random((40, 1)), 0).astype(np.float32)
    truth[..., 0, 0] = forecast[..., -1, -1] = 1  # in the corners
    forecast[0, 0], truth[0, 1], forecast[:2, 1], truth[1, 1] = 0, 0, 0, 0
    score = FSS(1 - share, window)
    frames = (torch.from_numpy(x) for x in (forecast, truth, weight))
    state = score.update(score.init(2), *frames)
    events = [((x >= 1 - share) & (weight > 0)).astype(float) for x in (forecast, truth)]
    said, happened = (uniform_filter(x, (0, 0, 0, window, window), mode="constant") for x in events)
    difference, size = (
        (weight * term).sum((0, 2, 3, 4)) for term in ((said - happened) ** 2, said**2 + happened**2)
    )
    np.testing.assert_allclose(score.compute(state), 1 - difference / size, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(score.samples(state.sums), weight.sum((0, 2, 3, 4)), rtol=1e-6)


@pytest.mark.parametrize("window", [1, 9, 33])
def test_fractions_skill_score_of_pysteps(window):
    spatial = pytest.importorskip("pysteps.verification.spatialscores")
    forecast, truth = frames(shape=(4, 1, 1, 60, 52))
    reference = spatial.fss_init(THRESHOLD, window)
    for x, y in zip(forecast[:, 0, 0], truth[:, 0, 0], strict=True):
        spatial.fss_accum(reference, x, y)
    expected = spatial.fss_compute(reference)
    assert both(FSS(THRESHOLD, window), forecast, truth)[1] == pytest.approx(expected, rel=1e-6)


def test_power_spectrum_of_pysteps():
    """Waves of whole wavenumbers in all directions, which the rings of pysteps hold exactly."""
    spectral = pytest.importorskip("pysteps.utils.spectral")
    size = 62
    wavenumber = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2))
    whole = (wavenumber == wavenumber.round()) & (wavenumber < size // 2)
    fields = [np.fft.ifft2(np.fft.fft2(x[0, 0, 0]) * whole).real for x in frames(shape=(1, 1, 1, size, size))]
    forecast, truth = (x.astype(np.float32)[None, None, None] for x in fields)
    score = SmallScalePower()
    sums = score.update(score.init(1), torch.from_numpy(forecast), torch.from_numpy(truth)).sums
    for field, found in zip(fields, spectra(sums), strict=True):
        density, frequency = spectral.rapsd(field, fft_method=np.fft, return_freq=True)
        of_ring = density * np.bincount(wavenumber.round().astype(int).ravel())[: len(density)] / size**2
        expected = np.zeros(24)
        for ring in range(1, len(density)):
            expected[int(np.abs(np.log(wavelengths().numpy() * frequency[ring])).argmin())] += of_ring[ring]
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-12)


def test_variance_ratio():
    forecast, truth = frames()
    by_lead, _ = both(VarianceRatio(), forecast, truth)
    expected = forecast.var((2, 3, 4)).sum(0) / truth.var((2, 3, 4)).sum(0)
    np.testing.assert_allclose(by_lead, expected, rtol=1e-5)


@pytest.mark.parametrize("score", [VarianceRatio(), SmallScalePower()], ids=lambda score: score.name)
@pytest.mark.parametrize("shape", [(1, 1, 1, 16, 3), (2, 1, 2, 13, 7)])
def test_ratios_to_a_constant_truth_of_64_bits_are_undefined(score, shape):
    """The mean of 0.1, summed in 64 bits, is not 0.1."""
    forecast = np.random.default_rng(0).random(shape)
    assert math.isnan(both(score, forecast, np.full(shape, 0.1))[1])


def test_power_is_that_of_the_waves():
    """A long and a short wave; the forecast has half the amplitude of the short one."""
    x = np.arange(128)
    long, short = (np.cos(2 * np.pi * x / n) for n in (64, 8))
    truth = np.broadcast_to(long + short, (1, 1, 1, 128, 128)).astype(np.float32)
    forecast = np.broadcast_to(long + short / 2, truth.shape).astype(np.float32)
    assert both(SmallScalePower(16), forecast, truth)[1] == pytest.approx(0.25, rel=1e-5)
    assert both(SmallScalePower(500), forecast, truth)[1] == pytest.approx((1 + 0.25) / 2, rel=1e-5)
    score = SmallScalePower(16)
    sums = score.update(score.init(1), torch.from_numpy(forecast), torch.from_numpy(truth)).sums
    of_forecast, of_truth = (power[:, 0] for power in spectra(sums))
    assert float(of_truth.sum()) == pytest.approx(truth.var(), rel=1e-5)
    peaks = wavelengths()[of_forecast > 0.01]
    assert len(peaks) == 2
    assert 56 < peaks[1] < 72
    assert 7 < peaks[0] < 9


def test_scores_of_rain():
    names = [score.name for score in field_scores("mm/h", (1, 2.5), (64, 20))]
    assert names[:5] == ["mse", "rmse", "mae", "bias", "correlation"]
    assert {"csi_1", "csi_2.5", "pod_1", "far_1", "ets_1", "frequency_bias_1", "hss_1"} <= set(names)
    assert {"fss_1_1", "fss_1_9"} <= set(names)
    assert "fss_1_33" not in names
    assert CSI(2.5, "mm/h").title == "Critical success index at 2.5 mm/h"
    with pytest.raises(OptionError, match="threshold must be a finite number; received 'high'"):
        CSI("high")


@pytest.mark.parametrize("score", [CSI(0.5), FSS(0.5, 3), SmallScalePower(), VarianceRatio(), Correlation()])
def test_what_is_not_finite_is_refused(score):
    forecast, truth = (torch.from_numpy(x) for x in frames())
    forecast[0, 1, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match=f"{score.name} of case 0 at lead 2 is not"):
        score.update(score.init(3), forecast, truth)


@pytest.mark.parametrize("score", [CSI(3.6), FSS(3.6, 1)])
def test_values_that_equal_a_threshold_but_for_rounding_are_events(score):
    """As those of quantised data do after they were brought to the scale of a network and back."""
    below = np.full(
        (1, 1, 1, 8, 8), np.nextafter(np.float32(3.6), np.float32(0)) - np.float32(5e-7), np.float32
    )
    assert both(score, below, below)[1] == 1
    assert np.isnan(both(score, below - np.float32(1e-4), below - np.float32(1e-4))[1])


@pytest.mark.parametrize(
    "score", [CSI(0, rounding=1e-6), FSS(0, 1, rounding=1e-6), MeanCSI([0, -9], rounding=1e-6)]
)
def test_the_rounding_of_data_whose_threshold_is_near_zero(score):
    """That of temperatures in degC is of their range, not of the threshold."""
    below = np.full((1, 1, 1, 8, 8), -8e-7, np.float32)
    assert both(score, below, below)[1] == 1
    assert np.isnan(both(score, 2 * below, 2 * below)[1])
