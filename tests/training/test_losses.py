"""Losses by name against independent implementations."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from convlstm.errors import OptionError
from convlstm.training.config import TrainingConfig
from convlstm.training.losses import LOSSES


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
        assert loss(future, future) == pytest.approx(0, abs=1e-6)


def test_each_loss_can_be_chosen_and_learned_from(pair):
    for name in LOSSES:
        assert TrainingConfig(loss=name).loss == name
        forecast = pair[0].clone().requires_grad_()
        LOSSES[name](forecast, pair[1]).backward()
        assert forecast.grad.isfinite().all()
        assert forecast.grad.abs().sum() > 0


def test_a_misspelt_loss_is_named():
    with pytest.raises(
        OptionError, match=r"loss must be one of .*; received 'mse\+mea'; did you mean 'mse\+mae'"
    ):
        TrainingConfig(loss="mse+mea")
