"""Evaluation of labelled data: in its unit, with masks, thresholds and the area of pixels."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from scores.functions import create_latitude_weights

import convlstm
import scores as independent
from convlstm.cli.main import main
from convlstm.data import Archive, Rain
from convlstm.data.specification import same_grid
from convlstm.data.units import ZR
from convlstm.errors import DataError, OptionError
from convlstm.models import EncoderForecaster
from convlstm.models.baselines import Persistence
from convlstm.workflows.evaluate import row_areas

RAIN = {"canvas": 24, "past": 3, "steps": 2, "test_size": 6}
SIZES = {"past": 3, "steps": 2}


class Last(Persistence):
    """A model that repeats the last frame."""


def labelled(values, units, name="rain_rate", latitude=None, minutes=5):
    """Frames (T, H, W) from midnight."""
    count, _, width = values.shape
    times = np.datetime64("2021-02-01", "ns") + np.arange(count) * np.timedelta64(minutes, "m")
    frames = xr.DataArray(values, dims=("time", "y", "x"), coords={"time": times}, name=name)
    frames.attrs["units"] = units
    if latitude is not None:
        frames = frames.assign_coords(
            y=xr.Variable("y", latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            x=xr.Variable("x", np.arange(width) * 1.0, {"units": "degrees_east"}),
        )
    return frames


def rates(count=80, size=16):
    draw = np.random.default_rng(3)
    values = 30 * draw.random((count, size, size), np.float32) ** 4
    return np.where(values < 0.2, 0, values).astype(np.float32)


def test_rain_is_scored_in_its_unit_where_it_was_measured():
    source = Rain(**RAIN)
    found = convlstm.evaluate(EncoderForecaster(hidden_dim=[4]), data=source)
    assert found.unit == "mm/h"
    assert found.scores["rmse"].unit == "mm/h"
    assert found.scores["mse"].unit == "(mm/h)²"
    assert {"csi_0.5", "csi_10", "fss_1_9", "power_below_16"} <= found.scores.keys()
    sequences = np.stack([source.sequence("test", k) for k in range(6)])
    error = sequences[:, 3:] - sequences[:, 2:3]
    assert np.isnan(error).any()
    expected = np.sqrt(np.nanmean(error**2, axis=(0, 2, 3)))
    np.testing.assert_allclose(found.scores["rmse"].by_lead["persistence"], expected, rtol=1e-4)


def test_thresholds_of_the_option(tmp_path, capsys):
    model = EncoderForecaster(hidden_dim=[4])
    model.save_pretrained(tmp_path / "model")
    words = ["evaluate", str(tmp_path / "model"), "--data", "Rain", "--data.test_size=2", "--data.canvas=16"]
    assert main([*words, "--thresholds", "[2,0.3]", "--out", str(tmp_path / "scores")]) == 0
    written = json.loads((tmp_path / "scores" / "scores.json").read_text())
    found = [key for key in written["scores"] if key.startswith("csi")]
    assert found == ["csi_0.3", "csi_2", "csi_mean"]
    assert written["scores"]["csi_2"]["title"] == "Critical success index at 2 mm/h"
    with np.load(tmp_path / "scores" / "cases.npz") as cases:  # in mm/h, NaN where not measured
        assert np.isnan(cases["truth"]).any()
        assert np.nanmax(cases["truth"]) > 1
    assert main([*words, "--thresholds", "high", "--out", str(tmp_path / "other")]) == 2
    assert "--thresholds must be a list such as" in capsys.readouterr().err


def test_reflectivity_for_a_model_of_rain_rates_is_scored_in_rain_rates(tmp_path):
    values = rates()
    trained = Archive(labelled(values, "mm/h"), **SIZES).specification
    model = EncoderForecaster(hidden_dim=[4])
    model.save_pretrained(tmp_path / "model", specification=trained.to_dict())
    dbz = labelled(ZR().reflectivity(values), "dBZ", "reflectivity")
    found = convlstm.evaluate(tmp_path / "model", data=Archive(dbz, **SIZES), out=tmp_path / "scores")
    same = convlstm.evaluate(model, data=Archive(labelled(values, "mm/h"), **SIZES))
    assert found.unit == same.unit == "mm/h"
    for name in found.forecasters:
        np.testing.assert_allclose(
            found.scores["rmse"].by_lead[name], same.scores["rmse"].by_lead[name], rtol=1e-3
        )
    slower = Archive(labelled(values, "mm/h", minutes=10), **SIZES)
    with pytest.raises(DataError, match="frames must be 300 s apart, as in training; received 600 s"):
        convlstm.evaluate(tmp_path / "model", data=slower, out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_lead_times_are_hours_where_frames_have_times():
    values = 280 + np.random.default_rng(0).random((40, 8, 8), np.float32)
    dated = convlstm.evaluate(Last(), data=Archive(labelled(values, "K", minutes=60), **SIZES))
    assert dated.lead_minutes == [60, 120]
    assert "3 frames in, 2 out (to +2 h)" in dated.to_markdown()
    counted = convlstm.evaluate(Last(), data=Archive(values, **SIZES))
    assert counted.lead_minutes is None
    assert "3 frames in, 2 out**" in counted.to_markdown()


def test_pixels_count_by_the_cosine_of_their_latitude():
    values = 280 + 5 * np.random.default_rng(0).random((60, 12, 10), np.float32)
    latitude = np.linspace(80, -10, 12)
    frames = labelled(values, "K", "t2m", latitude, minutes=60)
    source = Archive(frames, **SIZES)
    assert source.specification.grid["latitude"] == [80, -10]
    found = convlstm.evaluate(Last(), data=source, thresholds=[283]).scores
    windows = source.window_frames("test")
    truth, forecast = values[windows[:, 3:]], values[windows[:, 2:3]].repeat(2, 1)
    x, y = (
        xr.DataArray(v, dims=("case", "lead", "lat", "lon"), coords={"lat": latitude})
        for v in (forecast, truth)
    )
    weights = create_latitude_weights(x.lat)
    expected = independent.continuous.rmse(x, y, preserve_dims="lead", weights=weights)
    np.testing.assert_allclose(found["rmse"].by_lead["persistence"], expected, rtol=1e-4)
    hits = (x >= 283) & (y >= 283)
    events = (x >= 283) | (y >= 283)
    csi = (hits * weights).sum(["case", "lat", "lon"]) / (events * weights).sum(["case", "lat", "lon"])
    np.testing.assert_allclose(found["csi_283"].by_lead["persistence"], csi, rtol=1e-6)
    plain = independent.continuous.rmse(x, y, preserve_dims="lead")
    assert np.abs(plain - expected).min() > 1e-3


def test_rows_that_are_not_evenly_apart_weigh_as_their_area():
    """In the projection of Mercator rows are closer to each other at 70 degrees than at the equator."""
    height = np.arctanh(np.sin(np.deg2rad(70)))
    latitude = np.rad2deg(np.arcsin(np.tanh(np.linspace(0, height, 24))))
    values = 280 + 5 * np.random.default_rng(0).random((60, 24, 10), np.float32)
    source = Archive(labelled(values, "K", "t2m", latitude, minutes=60), **SIZES)
    area = row_areas(source.specification.grid)
    exact = np.cos(np.deg2rad(latitude)) ** 2  # of squares on the map
    np.testing.assert_allclose(area, exact / exact.mean(), rtol=0.04)
    stored = {**source.specification.grid, "latitude": latitude[[0, -1]].tolist()}  # as earlier versions did
    assert same_grid(stored, source.specification.grid)
    x, _ = np.polynomial.legendre.leggauss(32)  # a Gaussian grid, from pole to pole
    every = row_areas({"latitude": np.rad2deg(np.arcsin(x)).tolist(), "shape": [32, 64]})
    even = row_areas({"latitude": np.rad2deg(np.arcsin(x[[0, -1]])).tolist(), "shape": [32, 64]})
    np.testing.assert_allclose(every[1:-1], even[1:-1], rtol=0.02)


def test_frames_of_years_have_a_climatology_and_damped_persistence():
    """An annual cycle with little noise: the climatology is as good as the noise, persistence is not."""
    draw, days = np.random.default_rng(0), np.arange(900)
    values = 15 + 10 * np.sin(2 * np.pi * days / 365.25)[:, None, None] + 0.1 * draw.normal(size=(900, 6, 5))
    frames = labelled(values.astype(np.float32), "degC", "sst", minutes=1440)
    found = convlstm.evaluate(Last(), data=Archive(frames, past=3, steps=10))
    assert found.forecasters[-2:] == ("climatology", "damped_persistence")
    rmse = found.scores["rmse"].by_lead
    assert rmse["climatology"][-1] == pytest.approx(0.1, rel=0.2)
    assert rmse["persistence"][-1] > 0.5
    assert rmse["damped_persistence"][-1] == pytest.approx(0.1, rel=0.2)


def test_video_is_scored_as_before():
    draw = np.random.default_rng(0)
    frames = labelled(draw.integers(0, 256, (40, 12, 12)).astype(np.float32), "1", "frames")
    found = convlstm.evaluate(Last(), data=Archive(frames, transform="range", **SIZES))
    assert {"mse", "psnr", "ssim", "sharpness"} <= found.scores.keys()
    assert found.scores["mse"].overall["persistence"] > 1000  # in counts from 0 to 255
    assert math.isfinite(found.scores["ssim"].overall["persistence"])


def test_nothing_measured_is_one_sentence():
    class Blind(Rain):
        def sequence(self, name, index):
            return np.full_like(super().sequence(name, index), np.nan)

    with pytest.raises(DataError, match="cases with measured pixels; received none"):
        convlstm.evaluate(Last(), data=Blind(**RAIN))


def drizzle():
    """Reflectivity in steps of 0.5 dBZ: dry at -32, weak echoes from -10 dBZ on, rain up to 50 dBZ."""
    draw = np.random.default_rng(1)
    echoes = np.round(2 * (60 * draw.random((80, 16, 16)) - 10)) / 2
    return np.where(draw.random(echoes.shape) < 0.3, -32, echoes).astype(np.float32)


def persistence_mse(source, values):
    """MSE by lead time of the last frame, from values as they stand."""
    windows = source.window_frames("test")
    error = values[windows[:, 3:]].astype(np.float64) - values[windows[:, 2:3]]
    return (error**2).mean((0, 2, 3))


def test_reflectivity_is_scored_with_one_dry_floor_and_the_table_says_so(tmp_path):
    """The floor of the network's scale holds for truth and baselines too; other scales score as measured."""
    values, model = drizzle(), EncoderForecaster(hidden_dim=[4])
    model.save_pretrained(tmp_path / "model")
    source = Archive(labelled(values, "dBZ"), **SIZES)
    found = convlstm.evaluate(tmp_path / "model", data=source, out=tmp_path / "scores")
    floored = np.where(values < 7.25, -32, values)
    got = found.scores["mse"].by_lead["persistence"]
    np.testing.assert_allclose(got, persistence_mse(source, floored), rtol=1e-5)
    with np.load(tmp_path / "scores" / "cases.npz") as cases:
        for name in ("past", "truth", "forecast_persistence", "forecast_advection"):
            low = cases[name][cases[name] < 7.25]
            assert low.size
            assert (low == -32).all()
    sentence = "all below 7.25 dBZ counts as dry, -32, in truth and forecasts alike"
    assert sentence in found.to_markdown(brief=True)
    assert sentence in json.loads((tmp_path / "scores" / "scores.json").read_text())["data"]
    assert "dry at -32 and wherever below 7.25, range" in source.specification.lines()[0]

    whole = Archive(labelled(values, "dBZ"), transform="standard", **SIZES)
    got = convlstm.evaluate(model, data=whole)
    assert "counts as dry" not in got.data
    by_lead = got.scores["mse"].by_lead["persistence"]
    np.testing.assert_allclose(by_lead, persistence_mse(source, values), rtol=1e-5)


def test_thresholds_that_count_as_dry_are_refused():
    source = Archive(labelled(ZR().reflectivity(rates()), "dBZ"), **SIZES)
    with pytest.raises(OptionError, match="at least 7.25 dBZ, as all below counts as dry; received 0, 7: ra"):
        convlstm.evaluate(EncoderForecaster(hidden_dim=[4]), data=source, thresholds=[0, 7, 20])
    found = convlstm.evaluate(EncoderForecaster(hidden_dim=[4]), data=source, thresholds=[7.25])
    assert "csi_7.25" in found.scores


@pytest.mark.parametrize(
    ("low", "high", "units", "transform", "thresholds"),
    [
        (0, 600, "mm/h", "log", [0, 0.1, 0.5, 2.5]),
        (0, 600, "mm/h", "sqrt", [0, 0.1, 0.5, 2.5]),
        (-1350, 3100, "degC", "standard", [0, 0.1, 5]),
        (-1450, 3300, "degC", "range", [0, 0.1, 5]),
    ],
)
def test_a_value_at_a_threshold_counts_as_at_or_above_it(low, high, units, transform, thresholds):
    """Hundredths in single precision, a third of them at a threshold, against counts of whole numbers."""
    draw = np.random.default_rng(0)
    codes = draw.integers(low, high, (80, 16, 16))
    edges = np.round(100 * np.array(thresholds)).astype(int)
    codes = np.where(draw.random(codes.shape) < 0.3, draw.choice(edges, codes.shape), codes)
    frames = labelled((codes * 0.01).astype(np.float32), units, "frames")
    source = Archive(frames, transform=transform, **SIZES)
    found = convlstm.evaluate(EncoderForecaster(hidden_dim=[4]), data=source, thresholds=thresholds).scores
    windows = source.window_frames("test")
    for threshold, edge in zip(thresholds, edges, strict=True):
        said, happened = codes[windows[:, 2:3]] >= edge, codes[windows[:, 3:]] >= edge
        hits, events = (said & happened).sum((0, 2, 3)), (said | happened).sum((0, 2, 3))
        np.testing.assert_allclose(
            found[f"csi_{threshold:g}"].by_lead["persistence"], hits / events, rtol=1e-12
        )
