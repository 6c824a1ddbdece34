"""Losses by name against independent implementations."""

import numpy as np
import pytest
import torch
import xarray as xr
from skimage.metrics import structural_similarity
from specifications import specified

from convlstm.data.transforms import Floored, Linear, Logarithm, SquareRoot
from convlstm.errors import DataError, OptionError
from convlstm.training.config import LOSS_NAMES, TrainingConfig
from convlstm.training.losses import LOSSES, loss_named, mse


def rain(transform, seed, channels=1):
    """Rates (2, 3, C, 20, 24) of 0 to 60 mm/h, a third of them dry, and as a network is given them."""
    draw = np.random.default_rng(seed)
    rates = draw.exponential(6, (2, 3, channels, 20, 24)) * (draw.random((2, 3, channels, 20, 24)) > 0.3)
    rates = np.minimum(rates, 60).astype(np.float32)
    return rates, transform.forward(torch.from_numpy(rates))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 1, 20, 24, generator=generator), torch.rand(2, 3, 1, 20, 24, generator=generator)


def test_each_loss_has_its_formula(pair):
    forecast, future = pair
    mse = ((forecast - future) ** 2).mean()
    mae = (forecast - future).abs().mean()
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    frames = zip(forecast.flatten(0, 2).numpy(), future.flatten(0, 2).numpy(), strict=True)
    structure = torch.tensor(np.mean([structural_similarity(a, b, **options) for a, b in frames]))
    expected = {"mse": mse, "mae": mae, "mse+mae": mse + mae, "ssim": 0.16 * mae + 0.84 * (1 - structure)}
    assert LOSSES.keys() == expected.keys()
    for name, loss in LOSSES.items():
        assert loss(forecast, future).item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_each_loss_can_be_chosen_and_learned_from(pair):
    for name in LOSS_NAMES:
        assert TrainingConfig(loss=name).loss == name
        loss = loss_named(name, specified())
        assert loss(pair[1], pair[1]).item() == pytest.approx(0, abs=1e-6)
        forecast = pair[0].clone().requires_grad_()
        loss(forecast, pair[1]).backward()
        assert forecast.grad.isfinite().all()
        assert forecast.grad.abs().sum() > 0


@pytest.mark.parametrize("transform", [Logarithm(), SquareRoot(), Linear(3.0, 20.0)])
def test_balanced_weighs_by_the_rate_of_the_truth(transform):
    (_, forecast), (rates, future) = rain(transform, 0), rain(transform, 1)
    total = 0.0
    for rate, x, y in zip(rates.flat, forecast.double().flatten(), future.double().flatten(), strict=True):
        factor = 30 if rate >= 30 else 10 if rate >= 10 else 5 if rate >= 5 else 2 if rate >= 2 else 1
        total += factor * ((x - y) ** 2 + abs(x - y)).item()
    loss = loss_named("balanced", specified(transform=transform))
    assert loss(forecast, future).item() == pytest.approx(total / rates.size, rel=1e-5)


def test_thresholds_are_of_each_channel_and_of_the_unit():
    per_channel = Linear([0.0, 5.0], [10.0, 50.0])
    (_, forecast), (rates, future) = rain(per_channel, 0, channels=2), rain(per_channel, 1, channels=2)
    factors = np.select([rates >= 30, rates >= 10, rates >= 5, rates >= 2], [30, 10, 5, 2], 1)
    errors = (forecast - future).double().numpy()
    expected = (factors * (errors**2 + abs(errors))).mean()
    loss = loss_named("balanced", specified(transform=per_channel, variables=("a", "b")))
    assert loss(forecast, future).item() == pytest.approx(expected, rel=1e-5)
    # 10 mm/h are 39.0 dBZ by Z = 200 R^1.6 and 0.833 mm in five minutes.
    for units, transform, values in (
        ("dBZ", Floored(), [38.9, 39.1]),
        ("mm", Logarithm(0.01, 10), [0.83, 0.84]),
    ):
        future = transform.forward(torch.tensor(values).view(1, 1, 1, 1, 2))
        loss = loss_named("balanced", specified(units, transform))
        below, above = (loss(future + torch.eye(2)[k], future).item() for k in (0, 1))
        assert below == pytest.approx(5, rel=1e-5)
        assert above == pytest.approx(10, rel=1e-5)


def test_threshold_mse_is_that_of_another_library():
    scores = pytest.importorskip("scores.continuous")
    (_, forecast), (_, future) = rain(Logarithm(), 0), rain(Logarithm(), 1)
    x, y = (
        xr.DataArray(frames.double().numpy(), dims=tuple("btcyx")) for frames in (forecast + 0.05, future)
    )
    expected = float(((x - y) ** 2).mean())
    for rate in (0.5, 1, 2.5, 5, 10):
        level = np.log1p(rate / 0.1) / np.log1p(1000)
        expected += float(scores.tw_squared_error(x, y, interval_where_one=(level, np.inf)))
    found = loss_named("threshold_mse", specified())(forecast + 0.05, future)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_area_term_compares_soft_areas():
    (_, forecast), (_, future) = rain(Logarithm(), 0), rain(Logarithm(), 1)
    forecast = forecast * 0.8
    levels = [np.log1p(rate / 0.1) / np.log1p(1000) for rate in (1, 2.5, 5, 10)]
    softness = (levels[-1] - levels[0]) / 9  # a third of their mean distance
    terms = []
    for x, y in zip(forecast.double().flatten(0, 2), future.double().flatten(0, 2), strict=True):
        for level in levels:
            areas = [
                sum(1 / (1 + np.exp((level - v) / softness)) for v in z.flatten().tolist()) for z in (x, y)
            ]
            apart = abs(np.log(1 + areas[0]) - np.log(1 + areas[1]))
            terms.append(apart**2 / 2 if apart < 1 else apart - 0.5)
    expected = np.mean(terms)
    loss = loss_named("mse+area", specified())
    assert (loss(forecast, future) - mse(forecast, future)).item() / 4e-3 == pytest.approx(expected, rel=1e-3)
    # Rain of the right amount in the wrong place has the right area.
    moved = future.flip(-1)
    assert loss(moved, future).item() == pytest.approx(mse(moved, future).item(), rel=1e-5)


def test_losses_with_thresholds_say_what_data_they_need():
    for name in ("balanced", "threshold_mse", "mse+area"):
        with pytest.raises(OptionError, match="needs data with a unit, mm/h, mm or dBZ.*: use mse"):
            loss_named(name)
        with pytest.raises(
            DataError, match=r"needs rain rates .*; received t2m in K, scaled as linear: use mse"
        ):
            loss_named(name, specified("K", Linear(280.0, 10.0), ("t2m",)))


def test_a_misspelt_loss_is_named():
    with pytest.raises(
        OptionError, match=r"loss must be one of .*; received 'mse\+mea'; did you mean 'mse\+mae'"
    ):
        TrainingConfig(loss="mse+mea")
