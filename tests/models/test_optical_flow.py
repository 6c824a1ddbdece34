"""pysteps' methods as baselines, where it is installed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from convlstm.errors import OptionError, ShapeError
from convlstm.models.optical_flow import OpticalFlow, StepsMean

try:
    import pysteps
except ImportError:
    pysteps = None

needs_pysteps = pytest.mark.skipif(pysteps is None, reason="pysteps is not installed")


def moving_rain(frames=6, size=96):
    """Rain (1, T, 1, H, W) in the scale of the network that moves 2 rows down and 3 columns left a frame."""
    noise = np.random.default_rng(0).standard_normal((size, size))
    field = gaussian_filter(noise, 4, mode="wrap")
    field = torch.from_numpy((field / field.std() / 4).clip(0, 1)).float()
    return torch.stack([field.roll((2 * k, -3 * k), (0, 1)) for k in range(frames)])[None, :, None]


@pytest.mark.skipif(pysteps is not None, reason="pysteps is installed")
@pytest.mark.parametrize("model", [OpticalFlow, StepsMean])
def test_without_pysteps_the_extra_is_named(model):
    with pytest.raises(OptionError, match=r"needs pysteps, which is not installed: pip install .*flow"):
        model()


@needs_pysteps
def test_optical_flow_continues_motion_and_zeros_come_in(capfd):
    frames = moving_rain()
    forecast = OpticalFlow()(frames[:, :3], 3)
    assert (forecast.shape, forecast.dtype) == ((1, 3, 1, 96, 96), torch.float32)
    inside = (..., slice(12, -12), slice(12, -12))
    error = (forecast - frames[:, 3:])[inside].abs().mean()
    assert error < 0.15 * (frames[:, 2:3] - frames[:, 3:])[inside].abs().mean()
    assert forecast[0, 2, 0, :5].abs().max() < 0.01
    assert capfd.readouterr() == ("", "")


@needs_pysteps
@pytest.mark.parametrize("model", [OpticalFlow, lambda: StepsMean(members=2)])
def test_dry_frames_stay_dry_and_cases_do_not_mix(model):
    wet = moving_rain(3)
    past = torch.cat([wet, torch.zeros_like(wet), wet.flip(-1)])
    forecast = model()(past, 2)
    assert forecast[1].eq(0).all()
    for place in (0, 2):
        torch.testing.assert_close(forecast[place], model()(past[place : place + 1], 2)[0])
    assert forecast[0].min() >= 0
    assert forecast[0].max() > 0.3


@needs_pysteps
def test_the_mean_of_an_ensemble_is_smoother_than_a_member_and_repeatable():
    past = moving_rain(3)
    one, many = StepsMean(members=1)(past, 3), StepsMean(members=8)(past, 3)
    assert torch.equal(StepsMean(members=8)(past, 3), many)
    assert many[:, -1].std() < one[:, -1].std()
    assert torch.nn.functional.mse_loss(many, moving_rain()[:, 3:]) < torch.nn.functional.mse_loss(
        one, moving_rain()[:, 3:]
    )


@needs_pysteps
def test_pixels_that_are_not_measured_are_those_last_measured():
    past = moving_rain(3)
    valid = torch.ones_like(past, dtype=torch.bool)
    valid[:, 2, :, 40:50, 40:50] = False
    filled = past.clone()
    filled[:, 2, :, 40:50, 40:50] = past[:, 1, :, 40:50, 40:50]
    found = OpticalFlow()(torch.where(valid, past, 0), 2, valid=valid)
    torch.testing.assert_close(found, OpticalFlow()(filled, 2))


@needs_pysteps
def test_three_frames_are_needed():
    with pytest.raises(ShapeError, match="at least 3 frame"):
        OpticalFlow()(torch.zeros(1, 2, 1, 32, 32), 1)


@needs_pysteps
@pytest.mark.skipif("CONVLSTM_DATA" not in os.environ, reason="CONVLSTM_DATA names no folder of real files")
def test_figures_of_lucas_kanade_on_a_finnish_composite():
    """MAE in dBZ at 5, 10 and 15 minutes where the origin is inside the crop: the figures of the protocol."""
    from convlstm.data import open_frames

    folder = Path(os.environ["CONVLSTM_DATA"]) / "radar" / "fmi"
    frames = torch.from_numpy(open_frames(folder)[:6, :, 500:756, 200:456].values)[None]
    past, truth = frames[:, :3] + 100, frames[:, 3:] + 100  # so that a zero is what comes in
    forecast = OpticalFlow()(past, 3)
    inside = forecast > 0
    error = ((forecast - truth).abs() * inside).sum((0, 2, 3, 4)) / inside.sum((0, 2, 3, 4))
    assert error.tolist() == pytest.approx([2.64, 3.67, 4.57], abs=0.01)
