"""Transforms: inverses, values worked out by hand, finite for all that is measured."""

import json

import numpy as np
import pytest
import torch

from convlstm.data.climatology import fit_anomaly
from convlstm.data.specification import KINDS, plain_transform
from convlstm.data.transforms import Floored, Linear, Logarithm, SquareRoot
from convlstm.errors import DataError, OptionError

VALUES = torch.tensor([0.0, 1e-30, 1e-3, 0.1, 0.5, 7.0, 33.0, 100.0]).view(1, 1, 1, -1)
MADE = [Linear(), Linear([3.0], [2.0]), Floored(7, 60, -32), Logarithm(0.1, 100), SquareRoot(100)]


@pytest.mark.parametrize("transform", MADE, ids=lambda made: type(made).__name__)
def test_the_inverse_gives_the_values_back(transform):
    above = (
        VALUES
        if transform.dry is None
        else VALUES[getattr(transform, "floor", -1) < VALUES].view(1, 1, 1, -1)
    )
    torch.testing.assert_close(transform.inverse(transform.forward(above)), above, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", MADE, ids=lambda made: type(made).__name__)
def test_it_increases_and_is_finite(transform):
    scaled = transform.forward(torch.cat([VALUES, torch.full_like(VALUES[..., :1], 3e38)], -1))
    assert scaled.isfinite().all()
    assert (scaled.diff(dim=-1) >= 0).all()
    assert transform.inverse(torch.tensor([[[[-5.0, 0.0, 1e-8, 1.0, 50.0]]]])).isfinite().all()


@pytest.mark.parametrize("transform", MADE[2:], ids=lambda made: type(made).__name__)
def test_zero_and_below_are_dry(transform):
    dry = transform.inverse(torch.tensor([[[[-1.0, 0.0]]]]))
    assert (dry == transform.dry).all()
    assert (transform.forward(dry) == 0).all()


def test_noise_on_dry_ground_is_dry_and_what_radars_store_comes_back():
    transform = Floored(7, 60, -32)
    y = torch.linspace(-0.01, 1.2, 20001, dtype=torch.float64).view(1, 1, 1, -1)
    x = transform.inverse(y)
    wet = x != transform.dry
    assert (x.diff(dim=-1) >= 0).all()
    assert torch.equal(wet, y * 53 >= 0.25)
    torch.testing.assert_close(transform.forward(x)[wet], y[wet])
    stored = torch.arange(0, 120, dtype=torch.float64).view(1, 1, 1, -1) / 2 - 32  # 8 bits, 0.5 dB
    expected = torch.where(stored > 7, stored, -32)
    torch.testing.assert_close(transform.inverse(transform.forward(stored)), expected)


def test_by_hand():
    assert float(Logarithm(0.1, 99.9).forward(torch.full((1, 1, 1, 1), 0.9))) == pytest.approx(1 / 3)
    assert float(Floored(7, 60).forward(torch.full((1, 1, 1, 1), 33.5))) == pytest.approx(0.5)
    assert float(SquareRoot(100).forward(torch.full((1, 1, 1, 1), 25.0))) == pytest.approx(0.5)
    per_channel = Linear([0.0, 10.0], [1.0, 2.0]).forward(torch.full((3, 2, 1, 1), 12.0))
    assert per_channel[0].flatten().tolist() == [12, 1]


def test_a_missing_value_stays_missing():
    for transform in MADE:
        assert transform.forward(torch.full((1, 1, 1, 1), torch.nan)).isnan().all()


@pytest.mark.parametrize("transform", MADE, ids=lambda made: type(made).__name__)
def test_plain_data_builds_it_again(transform):
    plain = json.loads(json.dumps(plain_transform(transform)))
    again = KINDS[plain["kind"]](**plain["arguments"])
    assert torch.equal(again.forward(VALUES), transform.forward(VALUES))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Linear(0, 0), "scale must be above 0; received 0"),
        (lambda: Logarithm(0, 1), "scale must be (above|greater than) 0; received 0"),
        (lambda: Floored(5, 5), "top must be above floor, 5; received 5"),
    ],
)
def test_bad_limits_are_refused(make, sentence):
    with pytest.raises(OptionError, match=sentence):
        make()


def cycle(days, amplitude=3.0):
    """Two by two pixels with a yearly cycle, and their times."""
    times = np.arange(days) * 86400.0
    wave = amplitude * np.cos(2 * np.pi * times / (365.2425 * 86400))
    means = np.array([[10.0, 20.0], [30.0, 40.0]])
    return (wave[:, None, None, None] + means).astype(np.float32), times


def test_an_anomaly_leaves_no_yearly_cycle():
    frames, times = cycle(800)
    noise = np.random.default_rng(0).normal(size=frames.shape).astype(np.float32)
    frames[:, 0, 0, 0] = np.nan  # land
    transform = fit_anomaly(frames + noise, times)
    scaled = transform.forward(torch.from_numpy(frames + noise), torch.from_numpy(times))
    assert scaled[:, 0, 0, 0].isnan().all()
    sea = scaled[:, :, 1]
    assert float(sea.std()) == pytest.approx(1, abs=0.05)
    assert float(sea.mean()) == pytest.approx(0, abs=0.01)
    back = transform.inverse(scaled, torch.from_numpy(times))
    torch.testing.assert_close(back, torch.from_numpy(frames + noise), equal_nan=True, rtol=1e-5, atol=1e-4)
    plain = json.loads(json.dumps(plain_transform(transform)))
    again = KINDS[plain["kind"]](**plain["arguments"])
    torch.testing.assert_close(
        again.forward(torch.from_numpy(frames), torch.from_numpy(times)),
        transform.forward(torch.from_numpy(frames), torch.from_numpy(times)),
        equal_nan=True,
    )


def test_an_anomaly_needs_a_year_and_its_grid():
    frames, times = cycle(200)
    with pytest.raises(DataError, match="at least a year of training frames; received 199 days"):
        fit_anomaly(frames, times)
    frames, times = cycle(400)
    transform = fit_anomaly(frames, times)
    with pytest.raises(DataError, match=r"the grid of their climatology, \(1, 2, 2\); received \(1, 2, 1\)"):
        transform.forward(torch.from_numpy(frames[..., :1]), torch.from_numpy(times))
    with pytest.raises(DataError, match="need the time of every frame"):
        transform.forward(torch.from_numpy(frames))
