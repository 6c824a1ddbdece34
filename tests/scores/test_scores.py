import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional import mean_absolute_error, mean_squared_error
from torchmetrics.functional.image import image_gradients
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr

from convlstm.errors import DataError, OptionError, ShapeError
from convlstm.scores import (
    MAE,
    MSE,
    PSNR,
    SSIM,
    AbsoluteErrorSum,
    Score,
    Sharpness,
    SquaredErrorSum,
    standard_scores,
)

STANDARD = standard_scores(data_range=1.0)
every_score = pytest.mark.parametrize("score", STANDARD, ids=lambda score: score.name)


def frames(seed=0, cases=5, steps=3, channels=2, size=14):
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(cases, steps, channels, size, size, generator=draw)
    noise = torch.rand(truth.shape, generator=draw)
    blur = torch.arange(1, steps + 1).view(-1, 1, 1, 1) / (steps + 2)
    return truth + blur * (noise - truth), truth


def score_of(score, forecast, truth):
    state = score.update(score.init(truth.shape[1]), forecast, truth)
    return score.compute(state), score.overall(state)


def by_lead(reference, forecast, truth):
    """A reference applied to each frame, averaged over cases: (L,)."""
    pairs = zip(forecast.double(), truth.double(), strict=True)
    return torch.tensor(
        [[reference(a, b) for a, b in zip(x, y, strict=True)] for x, y in pairs], dtype=torch.float64
    ).mean(0)


REFERENCES = {
    "mse": lambda a, b: mean_squared_error(a.flatten(), b.flatten()),
    "mae": lambda a, b: mean_absolute_error(a.flatten(), b.flatten()),
    "mse_sum": lambda a, b: np.sum((a.numpy() - b.numpy()) ** 2),
    "mae_sum": lambda a, b: np.sum(np.abs(a.numpy() - b.numpy())),
    "psnr": lambda a, b: peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=1.0),
    "ssim": lambda a, b: structural_similarity(
        a.numpy(),
        b.numpy(),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=0,
    ),
}


@pytest.mark.parametrize("score", [s for s in STANDARD if s.name in REFERENCES], ids=lambda score: score.name)
def test_equals_an_independent_implementation(score):
    forecast, truth = frames()
    expected = by_lead(REFERENCES[score.name], forecast, truth)
    lead, overall = score_of(score, forecast, truth)
    torch.testing.assert_close(lead, expected, rtol=1e-5, atol=1e-6)
    assert lead.dtype == torch.float64
    assert overall == pytest.approx(expected.mean().item(), rel=1e-5)


def test_psnr_equals_torchmetrics_and_scales_with_the_data_range():
    forecast, truth = frames()
    for data_range in (1.0, 4.0):
        expected = by_lead(lambda a, b, r=data_range: torchmetrics_psnr(a, b, data_range=r), forecast, truth)
        lead, _ = score_of(PSNR(data_range), forecast, truth)
        torch.testing.assert_close(lead, expected, rtol=1e-5, atol=1e-5)


def test_sharpness_equals_gradients_by_torchmetrics():
    forecast, truth = frames()

    def total(x):
        down, right = image_gradients(x.flatten(0, 1).double())
        size = torch.hypot(down, right)[..., :-1, :-1]
        return size.reshape(*x.shape[:2], -1).sum((0, 2))

    lead, overall = score_of(Sharpness(), forecast, truth)
    torch.testing.assert_close(lead, total(forecast) / total(truth), rtol=1e-5, atol=1e-6)
    assert overall == pytest.approx((total(forecast).sum() / total(truth).sum()).item(), rel=1e-5)


def test_golden_values_by_hand():
    """One case, two leads, one channel of 1 x 2 pixels: errors (1, 3), then (0, 2)."""
    truth = torch.tensor([[[[[1.0, 1.0]]], [[[5.0, 5.0]]]]])
    forecast = torch.tensor([[[[[2.0, 4.0]]], [[[5.0, 3.0]]]]])
    expected = {
        MSE(): ([5, 2], 3.5),
        MAE(): ([2, 1], 1.5),
        SquaredErrorSum(): ([10, 4], 7),
        AbsoluteErrorSum(): ([4, 2], 3),
        PSNR(10.0): ([13.0103, 16.9897], 15),
    }
    for score, (leads, whole) in expected.items():
        lead, overall = score_of(score, forecast, truth)
        assert lead.tolist() == pytest.approx(leads, abs=1e-4)
        assert overall == pytest.approx(whole, abs=1e-4)


def test_sharpness_by_hand():
    step, half = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    truth = torch.stack([step, step])[None, :, None]
    forecast = torch.stack([half, 2 * step])[None, :, None]
    lead, overall = score_of(Sharpness(), forecast, truth)
    assert lead.tolist() == [0.5, 2.0]
    assert overall == 1.25
    # Sums are divided, not ratios averaged: a case with hardly any edges does not blow the score up.
    truth = torch.cat([truth, 1e-6 * truth])
    forecast = torch.cat([forecast, forecast])
    lead, _ = score_of(Sharpness(), forecast, truth)
    assert lead.tolist() == pytest.approx([1.0, 4.0], rel=1e-5)


def test_sharpness_is_undefined_without_edges_in_the_truth():
    flat = torch.ones(1, 2, 1, 4, 4)
    lead, overall = score_of(Sharpness(), torch.rand(1, 2, 1, 4, 4), flat)
    assert lead.isnan().all()
    assert math.isnan(overall)


@every_score
def test_perfect_forecast(score):
    _, truth = frames()
    lead, overall = score_of(score, truth, truth)
    best = {"psnr": 100.0, "ssim": 1.0, "sharpness": 1.0}.get(score.name, 0.0)
    assert lead.tolist() == [best] * 3
    assert overall == best


def test_one_perfect_frame_does_not_hide_the_others():
    truth = torch.zeros(2, 1, 1, 4, 4)
    forecast = torch.stack([truth[0], truth[0] + 0.1])
    lead, _ = score_of(PSNR(1.0), forecast, truth)
    assert lead.tolist() == pytest.approx([(100 + 20) / 2], rel=1e-5)


@every_score
def test_leads_are_compared_with_their_own_frame(score):
    """A forecaster that knows the truth is perfect at the right lead and not one step off."""
    _, truth = frames(steps=4)
    off = truth.roll(1, dims=1)
    right, wrong = score_of(score, truth, truth)[0], score_of(score, off, truth)[0]
    if score.name != "sharpness":
        assert (right != wrong).all()
        assert ((wrong < right) == bool(score.higher_is_better)).all()
    only_third = truth.clone()
    only_third[:, 2] = 0.5
    changed = score_of(score, only_third, truth)[0] != right
    assert changed.tolist() == [False, False, True, False]


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 8), max_size=4, unique=True),
    owners=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    seed=st.integers(0, 99),
)
def test_any_split_into_batches_and_processes_gives_the_same(cuts, owners, seed):
    forecast, truth = frames(seed, cases=9, size=11)
    parts = list(zip([0, *sorted(cuts)], [*sorted(cuts), 9], strict=True))
    for score in STANDARD:
        whole = score.update(score.init(3), forecast, truth)
        states = [score.init(3) for _ in range(3)]
        for owner, (start, stop) in zip(owners, parts, strict=False):
            states[owner] = score.update(states[owner], forecast[start:stop], truth[start:stop])
        left = score.merge(score.merge(states[0], states[1]), states[2])
        right = score.merge(states[2], score.merge(states[1], states[0]))
        for merged in (left, right):
            torch.testing.assert_close(score.compute(merged), score.compute(whole), rtol=1e-6, atol=1e-9)
            assert score.overall(merged) == pytest.approx(score.overall(whole), rel=1e-6)


def test_many_cases_add_up_without_losing_digits():
    truth = torch.zeros(20_000, 1, 1, 1, 1)
    error = torch.tensor(0.1)
    assert score_of(MAE(), truth + error, truth)[1] == pytest.approx(error.item(), rel=1e-12)


@every_score
def test_update_leaves_its_arguments_alone(score):
    forecast, truth = frames()
    before = score.init(3)
    copies = forecast.clone(), truth.clone()
    first = score.update(before, forecast, truth)
    assert before.cases == 0
    assert not before.sums.any()
    score.update(first, forecast, truth)
    assert first.cases == 5
    assert torch.equal(copies[0], forecast)
    assert torch.equal(copies[1], truth)


@every_score
def test_the_state_does_not_grow(score):
    forecast, truth = frames()
    state = score.init(3)
    shapes = [tensor.shape for tensor in state]
    for _ in range(4):
        state = score.update(state, forecast, truth)
        assert [(tensor.shape, tensor.dtype) for tensor in state] == [(s, torch.float64) for s in shapes]
    assert sum(tensor.numel() for tensor in state) == 1 + score.count * 3


@every_score
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(score, dtype):
    """Squares of 300 overflow float16, and sums over a frame lose all digits."""
    forecast, truth = frames()
    forecast, truth = (300 * forecast).to(dtype), 300 * truth
    assert torch.equal(score_of(score, forecast, truth)[0], score_of(score, forecast.float(), truth)[0])


@every_score
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_values_that_cannot_be_scored_are_an_error(score, value):
    forecast, truth = frames(size=24)
    state = score.update(score.init(3), forecast, truth)
    if value != 1e30:
        forecast[3, 1, 0, 12, 12] = value
        message = f"{score.name} of case 8 at lead 2 is not"
        with pytest.raises(DataError, match=f"forecast and truth must be finite; {message}"):
            score.update(state, forecast, truth)
        with pytest.raises(DataError, match=message):
            score.update(state, truth, forecast)
    elif score.name in ("mse", "mse_sum", "psnr"):
        with pytest.raises(DataError, match="very large values"):
            score.update(state, forecast * value, truth)
    assert state.cases == 5


@every_score
def test_refuses_shapes_that_would_broadcast(score):
    forecast, truth = frames()
    for wrong in (forecast[:, :1], forecast[:1], forecast[:, :, :1], forecast[..., :1], forecast[0]):
        with pytest.raises(ShapeError, match=r"must both be \(B, 3, C, H, W\); received"):
            score.update(score.init(3), wrong, truth)
    with pytest.raises(ShapeError, match=r"must both be \(B, 4, C, H, W\)"):
        score.update(score.init(4), forecast, truth)


@every_score
def test_no_case_is_an_error(score):
    for ask in (score.compute, score.overall):
        with pytest.raises(DataError, match="at least one case; received none"):
            ask(score.init(3))


def test_every_score_says_what_it_is():
    names = [score.name for score in STANDARD]
    assert names == ["mse", "mae", "mse_sum", "mae_sum", "psnr", "ssim", "sharpness"]
    for score in standard_scores(data_range=70.0):
        assert score.title
        assert score.unit
        assert len(score.formula) <= 100
        assert "\n" not in score.formula
        assert ("data range" in score.formula) == (score.name in ("psnr", "ssim"))
        assert "70" in score.formula or score.name not in ("psnr", "ssim")
    assert len({(score.title, score.unit) for score in STANDARD}) == len(STANDARD)


def test_data_range_must_be_positive():
    for kind in (PSNR, SSIM):
        with pytest.raises(OptionError, match="data_range must be positive and finite; received 0"):
            kind(0.0)
        with pytest.raises(OptionError, match="data_range must be positive and finite; received 'wide'"):
            kind("wide")


def test_arguments_of_another_kind():
    frames = torch.zeros(1, 2, 1, 3, 3)
    with pytest.raises(OptionError, match="steps must be an integer of at least 1; received 1.5"):
        MSE().init(1.5)
    with pytest.raises(OptionError, match="state must be a ScoreState; received None: start with init"):
        MSE().update(None, frames, frames)
    with pytest.raises(ShapeError, match="truth must be a tensor; received an ndarray"):
        MSE().update(MSE().init(2), frames, frames.numpy())
    with pytest.raises(OptionError, match="size must have one entry per space axis"):
        standard_scores(1.0, size=12)


def test_scores_relative_to_the_data_range_need_it():
    names = [score.name for score in standard_scores()]
    assert names == ["mse", "mae", "mse_sum", "mae_sum", "sharpness"]
    assert [score.data_range for score in standard_scores(70.0) if score.name in ("psnr", "ssim")] == [70, 70]
    assert "ssim" not in [score.name for score in standard_scores(1.0, size=(10, 32))]
    with pytest.raises(OptionError, match="data_range must be positive and finite; received -1"):
        standard_scores(-1.0)


def test_a_score_of_ones_own():
    """Terms and value are all there is to write."""

    class Bias(Score):
        name, title, unit, formula = "bias", "Bias", "per pixel", "mean of forecast - truth"
        higher_is_better, count = None, 2

        def terms(self, forecast, truth):
            error = (forecast.values - truth.values) * truth.weight
            return torch.stack([error.sum((2, 3, 4)), truth.weight.sum((2, 3, 4))])

        def value(self, sums):
            return sums[0] / sums[1]

    _, truth = frames()
    lead, overall = score_of(Bias(), truth + 0.25, truth)
    assert lead.tolist() == pytest.approx([0.25] * 3)
    assert overall == pytest.approx(0.25)
