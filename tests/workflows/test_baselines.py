"""The baselines that suit a source, and the climatology of training frames that they need."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from convlstm.data import Archive, MovingObjects, Rain
from convlstm.errors import OptionError
from convlstm.models.base import run_forecaster
from convlstm.models.baselines import BASELINES
from convlstm.workflows.baselines import baselines_of

CLIMATES = ("climatology", "damped_persistence")
DAYS, RHO = 1600, 0.7


@pytest.fixture(scope="module")
def temperatures():
    """Four years of days with a yearly cycle and anomalies of an AR(1) process, land in one corner."""
    draw = np.random.default_rng(0)
    anomaly = np.zeros((DAYS, 5, 6))
    for day in range(1, DAYS):
        anomaly[day] = RHO * anomaly[day - 1] + draw.standard_normal((5, 6))
    days = np.arange(DAYS)
    cycle = 15 + 6 * np.cos(2 * np.pi * (days - 30) / 365.2425)
    values = (cycle[:, None, None] * np.linspace(0.8, 1.2, 6) + anomaly).astype(np.float32)
    values[:, 0, 0] = np.nan
    times = np.datetime64("2000-01-01", "ns") + days * np.timedelta64(1, "D")
    return xr.DataArray(
        values, {"time": times}, ("time", "y", "x"), name="sst", attrs={"units": "degC"}
    ), cycle[:, None, None] * np.linspace(0.8, 1.2, 6)


def forecasts(source, names):
    """Forecasts and truth (N, L, H, W) of test windows in degrees, and the times of the future."""
    made = {name: baselines_of(source)[name]() for name in names}
    found, truth, times = {name: [] for name in names}, [], []
    for window in [source.split("test")[index] for index in range(0, 200, 4)]:
        past, valid, when = window.past[None], window.past_valid[None], window.times[None]
        for name, model in made.items():
            forecast = run_forecaster(model, past, source.steps, valid=valid, times=when)
            found[name].append(source.to_units(forecast, when[:, source.past :])[0, :, 0])
        future = source.to_units(window.future, window.times[source.past :])[:, 0]
        truth.append(torch.where(window.future_valid[:, 0], future, torch.nan))
        times.append(window.times[source.past :])
    return {name: torch.stack(x) for name, x in found.items()}, torch.stack(truth), torch.stack(times)


@pytest.mark.parametrize("transform", ["anomaly", "standard"])
def test_a_year_of_data_has_a_climatology_and_damped_anomalies(temperatures, transform):
    frames, cycle = temperatures
    source = Archive(frames, transform=transform, past=3, steps=8)
    baselines = baselines_of(source)
    assert set(baselines) == {
        "persistence",
        "mean_frame",
        "linear_trend",
        "climatology",
        "damped_persistence",
    }
    names = ("persistence", "climatology", "damped_persistence")
    found, truth, times = forecasts(source, names)
    days = ((times - frames["time"].values[0].astype("datetime64[s]").astype(float)) / 86400).long()
    expected = torch.from_numpy(cycle)[days]
    sea = torch.isfinite(truth[0, 0])
    assert (found["climatology"] - expected)[..., sea].abs().mean() < 0.35
    damping = baselines["damped_persistence"]().damping
    assert damping.shape == (1, 5, 6)
    assert (damping[0][sea] - RHO).abs().max() < 0.06
    rmse = {name: (x - truth)[..., sea].square().mean((0, 2)).sqrt() for name, x in found.items()}
    assert (rmse["damped_persistence"] < 0.99 * rmse["persistence"]).all()
    assert (rmse["damped_persistence"] < 0.99 * rmse["climatology"])[:3].all()
    # The error of a perfect forecast of the process.
    least = ((1 - RHO ** (2 * torch.arange(1, 9))) / (1 - RHO**2)).sqrt()
    assert rmse["damped_persistence"].tolist() == pytest.approx(least.tolist(), rel=0.1)


def test_statistics_are_those_of_training_frames_alone(temperatures):
    frames, _ = temperatures
    source = Archive(frames, transform="standard", past=3, steps=8)
    first_test = source.split("test")[0].times[0].item()
    changed = frames.copy(deep=True)
    late = frames["time"].values.astype("datetime64[s]").astype(float) >= first_test
    changed.values[late] += 100
    other = Archive(changed, transform="standard", past=3, steps=8)
    damping = [baselines_of(x)["damped_persistence"]().damping for x in (source, other)]
    assert torch.equal(*damping)


def test_less_than_a_year_rain_and_digits_have_advection(temperatures):
    frames, _ = temperatures
    assert set(baselines_of(Archive(frames[:300], past=3, steps=2))) == set(BASELINES)
    rain = baselines_of(Rain(32, 2, 2))
    assert set(rain) == set(BASELINES)
    assert rain["advection"]().zero_outside
    assert baselines_of(MovingObjects()) == dict(BASELINES)


def test_a_further_baseline_is_named_or_refused():
    with pytest.raises(OptionError, match="a further baseline must be one of optical_flow, steps_mean"):
        baselines_of(Rain(32, 2, 2), ["flow"])
    try:
        import pysteps
    except ImportError:
        with pytest.raises(OptionError, match="needs pysteps, which is not installed"):
            baselines_of(Rain(32, 2, 2), ["optical_flow"])
    else:
        assert pysteps
        assert list(baselines_of(Rain(32, 2, 2), ["steps_mean"])) == [*BASELINES, "steps_mean"]


@pytest.mark.skipif("CONVLSTM_DATA" not in os.environ, reason="CONVLSTM_DATA names no folder of real files")
def test_damped_persistence_beats_both_on_real_sea_surface_temperature():
    """Tasman Sea, 2011-2013: after a week damped anomalies are better than persistence and climatology."""
    path = Path(os.environ["CONVLSTM_DATA"]) / "grids" / "oisst_tasman_1982_2013.nc"
    source = Archive(str(path), past=2, steps=7, transform="anomaly")
    found, truth, _ = forecasts(source, ("persistence", *CLIMATES))
    sea = truth.isfinite()
    rmse = {
        name: torch.where(sea, x - truth, 0).square().sum((0, 2, 3)).div(sea.sum((0, 2, 3))).sqrt()
        for name, x in found.items()
    }
    assert (rmse["damped_persistence"][1:] < rmse["persistence"][1:]).all()
    assert (rmse["damped_persistence"] < rmse["climatology"]).all()


@pytest.mark.parametrize(
    ("transform", "dry"),
    [("log", True), ("sqrt", True), ("none", True), ("range", True), ("standard", False)],
)
def test_advection_brings_in_dry_air_where_the_zero_of_the_scale_is_dry(transform, dry):
    """The zero of a standard score is the mean, of which there is no rain outside."""
    values = np.random.default_rng(0).gamma(0.3, 5.0, (60, 8, 8)).astype(np.float32)
    values[:, :4] = 0
    times = np.datetime64("2021-02-04", "ns") + np.arange(60) * np.timedelta64(5, "m")
    rain = xr.DataArray(values, {"time": times}, ("time", "y", "x"), name="rain", attrs={"units": "mm/h"})
    source = Archive(rain, past=3, steps=2, transform=transform)
    assert source.specification.dry_value == 0
    assert getattr(baselines_of(source)["advection"], "keywords", {}) == (
        {"zero_outside": True} if dry else {}
    )
