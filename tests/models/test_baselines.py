import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convlstm.errors import OptionError, ShapeError
from convlstm.models.baselines import BASELINES, Advection, Blank, LinearTrend, MeanFrame, Persistence


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
