"""Models as methods of pysteps and as nowcasts for its blending; skipped where pysteps is not installed."""

import tomllib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

import convlstm
from convlstm import EncoderForecaster
from convlstm.data.rain import Rain
from convlstm.errors import DataError, OptionError
from convlstm.forecasting import rollout
from convlstm.pysteps import blending_nowcast, forecast, register

SIZE, PAST = (64, 64), 3
PLUGIN = "pysteps.plugins.nowcasts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    notes = {"past": PAST, "specification": Rain(SIZE, past=PAST, steps=2).specification.to_dict()}
    return EncoderForecaster(1, [4]).save_pretrained(tmp_path_factory.mktemp("model"), **notes)


@pytest.fixture(scope="module")
def precip():
    """Fields (4, m, n) in mm/h, with a corner out of range."""
    source = Rain(SIZE, past=4, steps=1)
    window = source.split("test")[0]
    fields = source.to_units(window.past)[:, 0].numpy()
    return np.where(window.past_valid[:, 0].numpy(), fields, np.nan).astype(np.float64)


def test_a_model_forecasts_as_a_method_of_pysteps_does(folder, precip):
    made = forecast(precip, np.zeros((2, *SIZE)), 5, model=folder, measure_time=False)
    assert (made.shape, made.dtype) == ((5, *SIZE), np.float64)
    model = EncoderForecaster.from_pretrained(folder).eval()
    np.testing.assert_array_equal(made, rollout.forecast(model, precip[:, None], 5)[:, 0])
    np.testing.assert_array_equal(np.isnan(made[0]), np.isnan(precip[-PAST:]).all(0))
    np.testing.assert_array_equal(forecast(precip, None, [1, 3, 4], model=model), made[[0, 2, 3]])
    masked = np.ma.masked_invalid(precip)
    np.testing.assert_array_equal(forecast(masked, None, 5, model=model), made)
    whole = np.ma.array(np.nan_to_num(precip).astype(np.int16), mask=masked.mask)
    floats = whole.astype(np.float32).filled(np.nan)
    np.testing.assert_array_equal(
        forecast(whole, None, 5, model=model), forecast(floats, None, 5, model=model)
    )
    amounts = forecast(precip / 12, None, 5, model=model, units="mm")
    np.testing.assert_allclose(12 * amounts, made, rtol=1e-4, atol=1e-5)


NO_NUMBERS = [[1, np.nan], [1, np.inf], [1, "a"], [None], np.array(3), np.array([[1, 2]])]


@pytest.mark.parametrize("steps", [0, [], [0, 1], [2, 1], [1, 1], [1.5], "3", None, True, *NO_NUMBERS])
def test_steps_are_ascending_whole_numbers(folder, precip, steps):
    with pytest.raises(OptionError, match="timesteps must be"):
        forecast(precip, None, steps, model=folder)


def test_fields_that_do_not_fit_are_refused(folder, precip):
    with pytest.raises(DataError, match="frames must be the 3 of the past or more"):
        forecast(precip[-1], None, 2, model=folder)
    with pytest.raises(DataError, match=r"precip must be \(T, m, n\)"):
        forecast(precip[None], None, 2, model=folder)
    with pytest.raises(DataError, match="values must be in 'mm/h'"):
        forecast(precip, None, 2, model=folder, units="dB")


def test_a_nowcast_for_blending_begins_with_the_newest_field(folder, precip):
    made = blending_nowcast(precip, 4, model=folder)
    assert made.shape == (1, 5, *SIZE)
    np.testing.assert_array_equal(made[0, 0], precip[-1])
    np.testing.assert_array_equal(made[0, 1:], forecast(precip, None, 4, model=folder))
    dry = blending_nowcast(precip * 0, 4, model=folder)
    np.testing.assert_array_equal(np.isnan(dry[0]), np.isnan(made[0]))
    with pytest.raises(DataError, match="newest field with measured pixels"):
        blending_nowcast(precip * np.nan, 4, model=folder)


def test_the_entry_point_is_declared_and_found():
    declared = tomllib.loads((Path(convlstm.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    ((name, target),) = declared["entry-points"][PLUGIN].items()
    assert (name, target) == ("convlstm", "convlstm.pysteps:forecast")


def test_a_name_is_registered_once_and_never_takes_that_of_pysteps(folder, precip):
    nowcasts = pytest.importorskip("pysteps.nowcasts")
    own = nowcasts.get_method("steps")
    method = register("convlstm", folder, units="mm/h")
    assert nowcasts.get_method("ConvLSTM") is method
    made = nowcasts.get_method("convlstm")(precip, np.zeros((2, *SIZE)), 5, extrap_method="semilagrangian")
    np.testing.assert_array_equal(made, forecast(precip, None, 5, model=folder))
    register("convlstm", folder)
    with pytest.raises(OptionError, match="must be new to pysteps; it has steps"):
        register("steps", folder)
    assert nowcasts.get_method("steps") is own
    for name in ("ConvLSTM", "", None):
        with pytest.raises(OptionError, match="must be in lower case"):
            register(name, folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("field", ["rain", "dry", "dry now"])
def test_pysteps_blends_the_nowcast_with_a_weather_forecast(folder, precip, field):
    """With rain, without any, and with rain in the weather forecast alone."""
    blending = pytest.importorskip("pysteps.blending")
    from pysteps.utils.transformation import dB_transform

    wet = np.nan_to_num(precip)
    fields = {"rain": precip, "dry": precip * 0, "dry now": precip * 0}[field]
    weather = np.stack([wet[-1]] * 4)[None] * (field != "dry")
    decibel = [
        dB_transform(each, threshold=0.1, zerovalue=-15.0)[0]
        for each in (fields, blending_nowcast(fields, 3, model=folder), weather)
    ]
    made = blending.get_method("steps")(
        precip=decibel[0][-3:],
        precip_models=decibel[2],
        velocity=np.zeros((2, *SIZE)),
        velocity_models=np.zeros((1, 4, 2, *SIZE)),
        timesteps=3,
        timestep=5,
        issuetime=datetime(2021, 2, 4),
        n_ens_members=2,
        precip_nowcast=decibel[1],
        nowcasting_method="external_nowcast",
        noise_method="nonparametric",
        precip_thr=-10.0,
        kmperpixel=1.0,
        n_cascade_levels=5,
        seed=0,
    )
    assert made.shape == (2, 3, *SIZE)
    assert np.isfinite(made[:, :, 24:40, 24:40]).all()
