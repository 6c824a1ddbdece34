import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convlstm.errors import OptionError, ShapeError
from convlstm.functional.motion import advect, motion_field
from convlstm.models.base import run_forecaster
from convlstm.models.baselines import (
    BASELINES,
    Advection,
    Blank,
    Climatology,
    DampedPersistence,
    LinearTrend,
    MeanFrame,
    Persistence,
)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_contract(name, dtype):
    past = torch.rand(2, 4, 3, 12, 9).to(dtype)
    before = past.clone()
    model = BASELINES[name]()
    for steps in (1, 7):
        forecast = model(past, steps)
        assert (forecast.shape, forecast.dtype) == ((2, steps, 3, 12, 9), dtype)
        assert forecast.isfinite().all()
        assert forecast.min() >= 0
        assert forecast.max() <= past.max()
        forecast.zero_()  # its own memory
    assert torch.equal(past, before)
    assert not list(model.parameters())


@pytest.mark.parametrize("name", BASELINES)
def test_cases_do_not_mix(name):
    past = torch.rand(3, 4, 2, 16, 16)
    together = BASELINES[name]()(past, 3)
    apart = torch.cat([BASELINES[name]()(one[None], 3) for one in past])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("name", BASELINES)
def test_one_frame_is_enough(name):
    past = torch.rand(1, 1, 1, 12, 12)
    expected = torch.zeros_like(past) if name == "blank" else past
    assert torch.equal(BASELINES[name]()(past, 3), expected.expand(1, 3, 1, 12, 12))


@pytest.mark.parametrize("name", BASELINES)
def test_refuses(name):
    with pytest.raises(ShapeError, match="past must be"):
        BASELINES[name]()(torch.zeros(4, 1, 8, 8), 3)
    with pytest.raises(OptionError, match="steps must be at least 1"):
        BASELINES[name]()(torch.zeros(1, 4, 1, 8, 8), 0)


def test_simple_ones_by_hand():
    past = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1, 1)
    assert Persistence()(past, 2).flatten().tolist() == [6, 6]
    assert MeanFrame()(past, 2).flatten().tolist() == [3, 3]
    assert Blank()(past, 2).flatten().tolist() == [0, 0]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 12), steps=st.integers(1, 12), seed=st.integers(0, 999))
def test_linear_trend_continues_lines_exactly(count, steps, seed):
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand(1, 1, 2, 4, 4, generator=draw)
    slope = (torch.rand(1, 1, 2, 4, 4, generator=draw) - 0.5) / 10
    frames = start + slope * torch.arange(count + steps).view(1, -1, 1, 1, 1)
    frames[:, :, :, 0, 0], frames[:, :, :, 0, 1] = -5, 5  # so that the range of the past cuts nothing off
    torch.testing.assert_close(LinearTrend()(frames[:, :count], steps), frames[:, count:], atol=1e-5, rtol=0)


def test_linear_trend_is_least_squares():
    past = torch.rand(1, 6, 1, 3, 3, dtype=torch.float64)
    past[..., 0, 0], past[..., 0, 1] = -9, 9
    time = torch.stack([torch.ones(9), torch.arange(9.0)], dim=1).double()
    fit = torch.linalg.lstsq(time[:6], past.view(6, 9)).solution
    torch.testing.assert_close(LinearTrend()(past, 3).view(3, 9), time[6:] @ fit)


def test_linear_trend_stays_in_the_range_of_its_case_and_channel():
    past = torch.stack([torch.tensor([0.0, 1.0]), torch.tensor([0.0, 100.0])]).T.view(1, 2, 2, 1, 1)
    assert LinearTrend()(past, 3).squeeze().tolist() == [[1, 100]] * 3


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(-3, 3), columns=st.integers(-3, 3), seed=st.integers(0, 99))
def test_advection_continues_constant_motion(rows, columns, seed):
    frames = torch.zeros(1, 6, 1, 40, 40)
    frames[..., 16:24, 16:24] = torch.rand(8, 8, generator=torch.Generator().manual_seed(seed))
    for k in range(6):
        frames[:, k] = frames[:, k].roll(((k - 2) * rows, (k - 2) * columns), (2, 3))
    torch.testing.assert_close(Advection()(frames[:, :3], 3), frames[:, 3:], atol=1e-4, rtol=0)


def test_advection_knows_no_zero():
    """A field in kelvin drifts as the same in degrees Celsius does."""
    axis = torch.arange(32.0)
    field = [torch.sin(0.4 * (axis[:, None] - 2 * k)) + torch.cos(0.3 * axis) for k in range(6)]
    celsius = 10 * torch.stack(field)[None, :, None].double()
    ours, warmer = Advection()(celsius[:, :3], 3), Advection()(celsius[:, :3] + 273.15, 3)
    torch.testing.assert_close(warmer, ours + 273.15, atol=1e-6, rtol=0)
    persistence = (celsius[:, 2:3] - celsius[:, 3:]).square().mean()
    assert (ours - celsius[:, 3:]).square().mean() < 0.5 * persistence


def test_advection_uses_the_last_two_frames_and_lets_things_leave():
    past = torch.zeros(1, 3, 1, 24, 24)
    past[:, 0, :, 2:7, 2:7] = 1
    past[:, 1, :, 10:15, 8:13] = 1
    past[:, 2, :, 10:15, 14:19] = 1
    forecast = Advection()(past, 3)
    expected = torch.zeros(1, 3, 1, 24, 24)
    expected[:, 0, :, 10:15, 20:24] = 1
    torch.testing.assert_close(forecast, expected, atol=1e-4, rtol=0)


def test_baselines_use_measured_values_only():
    """What the unmeasured pixels hold has no effect, and each pixel has its own frames."""
    past = torch.tensor([[1.0, 2.0, 6.0], [7.0, 4.0, 9.0], [5.0, 5.0, 5.0]]).T.view(1, 3, 1, 1, 3)
    valid = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool).T.view(1, 3, 1, 1, 3)
    expected = {"persistence": [6, 4, 5], "mean_frame": [3, 5.5, 0], "linear_trend": [7, 1, 0]}
    for other in (past, torch.where(valid, past, 77.0), torch.where(valid, past, -77.0)):
        for name, values in expected.items():
            found = BASELINES[name]()(other, 1, valid=valid).flatten()[: 2 if name == "persistence" else 3]
            torch.testing.assert_close(found, torch.tensor(values[: len(found)], dtype=torch.float32))
    assert Persistence()(past, 1, valid=valid)[..., 2] == 5  # never measured: as the source filled it


@pytest.mark.parametrize("name", BASELINES)
def test_all_measured_is_no_mask_and_none_measured_is_finite(name):
    past = torch.rand(2, 5, 2, 12, 100, dtype=torch.float64)
    model, valid = BASELINES[name](), torch.ones_like(past, dtype=torch.bool)
    torch.testing.assert_close(run_forecaster(model, past, 3, valid=valid), model(past, 3))
    assert run_forecaster(model, past, 3, valid=~valid).isfinite().all()


def test_linear_trend_of_measured_values_is_least_squares():
    draw = torch.Generator().manual_seed(0)
    past = torch.rand(1, 6, 1, 3, 3, dtype=torch.float64, generator=draw)
    valid = torch.rand(past.shape, generator=draw) < 0.7
    valid[..., 0, :2] = True
    past[..., 0, 0], past[..., 0, 1] = -9, 9
    found = LinearTrend()(past, 2, valid=valid)[0, :, 0]
    for row, column in np.ndindex(3, 3):
        times = valid[0, :, 0, row, column].nonzero()[:, 0].numpy()
        line = np.polyfit(times, past[0, times, 0, row, column].numpy(), 1)
        np.testing.assert_allclose(found[:, row, column].numpy(), np.polyval(line, [6, 7]), rtol=1e-9)


def test_advection_moves_the_last_measured_values():
    """A sector that is not measured holds what was last seen there, instead of a hole that moves on."""
    frames = torch.zeros(1, 5, 1, 40, 40)
    for k in range(5):
        frames[:, k, :, 10:20, 5 + k : 15 + k] = 1
    valid = torch.ones_like(frames, dtype=torch.bool)
    valid[:, 2, :, 15:, 10:13] = False
    past = torch.where(valid, frames, 0)[:, :3]
    hole = (Advection()(past, 2) - frames[:, 3:]).abs().sum()
    found = Advection()(past, 2, valid=valid[:, :3])
    assert (found - frames[:, 3:]).abs().sum() < 0.05 * hole


def test_what_comes_in_from_outside_is_the_border_or_zero():
    field = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    past = torch.stack([field.roll(2 * k, 1) for k in range(3)])[None, :, None]
    for zero_outside in (False, True):
        expected = field.roll(10, 1).clone()
        expected[:, :6] = 0 if zero_outside else past[0, -1, 0, :, :1]
        found = Advection(zero_outside)(past, 3)[0, -1, 0]
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


class Labelled(Persistence):
    def forward(self, past, steps, *, times=None, valid=None):
        return past[:, -1:].repeat(1, steps, 1, 1, 1) * (0 if times is None or valid is None else 1)


def test_labels_are_passed_to_forecasters_that_take_them():
    past, times, valid = torch.ones(1, 2, 1, 4, 4), torch.zeros(1, 5), torch.ones(1, 2, 1, 4, 4).bool()
    assert run_forecaster(Labelled(), past, 3, valid=valid, times=times).eq(1).all()
    assert run_forecaster(Labelled(), past, 3).eq(0).all()
    assert run_forecaster(Blank(), past, 3, valid=valid, times=times).eq(0).all()


def test_damped_persistence_by_hand():
    """Anomalies of the last measured frame halve at every step, on top of the climatology of each time."""
    past, times = torch.tensor([5.0, 13.0, 0.0]).view(1, 3, 1, 1, 1), torch.arange(5.0)[None]
    valid = torch.tensor([True, True, False]).view(1, 3, 1, 1, 1)

    def usual(times, like):
        return (10 * times).view(1, -1, 1, 1, 1).expand_as(like)

    found = run_forecaster(DampedPersistence(0.5, usual), past, 2, valid=valid, times=times)
    assert found.flatten().tolist() == [30 - 7 / 2, 40 - 7 / 4]  # 13 is 7 below the usual 20
    assert run_forecaster(Climatology(usual), past, 2, times=times).flatten().tolist() == [30, 40]
    assert DampedPersistence(0.5)(past + 8, 2).flatten().tolist() == [4, 2]  # in the scale of anomalies
    assert Climatology()(past, 2).eq(0).all()
    by_pixel = DampedPersistence(torch.tensor([[[0.5, 0.0]]]))(torch.full((1, 1, 1, 1, 2), 8.0), 2)
    assert by_pixel.squeeze().tolist() == [[4, 0], [2, 0]]


@pytest.mark.skipif("CONVLSTM_DATA" not in os.environ, reason="CONVLSTM_DATA names no folder of real files")
def test_real_radar_is_extrapolated_as_well_as_by_optical_flow():
    """MAE in dBZ at 5, 10 and 15 minutes on a crop of a Finnish composite, 3 frames in.

    Lucas-Kanade and semi-Lagrangian extrapolation of pysteps 1.21.5 reach 2.64, 3.67 and 4.57 where the
    origin is inside the crop.
    """
    from convlstm.data import open_frames

    folder = Path(os.environ["CONVLSTM_DATA"]) / "radar" / "fmi"
    frames = torch.from_numpy(open_frames(folder)[:6, :, 500:756, 200:456].values)[None]
    past, truth = frames[:, :3], frames[:, 3:]

    def errors(model, inside=1.0):
        error = (model(past, 3) - truth).abs() * inside
        return (error.sum((0, 2, 3, 4)) / (torch.ones_like(error) * inside).sum((0, 2, 3, 4))).tolist()

    assert errors(Persistence()) == pytest.approx([4.83, 6.59, 7.62], abs=0.005)
    # Zeros come in where the origin is outside: 1 stays 1 where all of it is inside.
    field = motion_field(past)
    inside = (advect(torch.ones_like(past[:, 0]), field, 3, zero_outside=True) > 0.999).float()
    assert errors(Advection(), inside) == pytest.approx([2.62, 3.64, 4.56], abs=0.01)
    assert all(np.array(errors(Advection())) < 0.65 * np.array(errors(Persistence())))
