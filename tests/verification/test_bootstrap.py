"""Bootstrap intervals of scores and differences, and sample counts."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, norm
from torch.utils.data import DataLoader

from convlstm.data import Rain
from convlstm.data.base import LabelledWindow
from convlstm.models.base import Forecaster
from convlstm.models.baselines import Blank, Persistence
from convlstm.scores import CSI, MAE, MSE, RMSE, Sharpness, field_scores
from convlstm.scores.frames import paired
from convlstm.verification.blocks import BlockSums
from convlstm.verification.bootstrap import score_tables
from convlstm.verification.verify import verify

NAMES = ("model", "persistence")


def filled(errors, count=16, key="mae"):
    """Blocks of one case each, whose errors (cases, forecasters, L) are sums over ``count`` pixels."""
    blocks = BlockSums()
    block_B = blocks.assign(len(errors), None)
    for k, name in enumerate(NAMES):
        sums = torch.from_numpy(errors[:, k] * count)
        blocks.add(name, key, block_B, torch.stack([sums, torch.full_like(sums, count)]))
    return blocks


def test_intervals_are_those_of_scipy_and_of_the_normal_distribution():
    draw = np.random.default_rng(0)
    errors = draw.normal([[1.0], [1.2]], 0.2, (60, 2, 3))
    table = score_tables([MAE()], filled(errors), NAMES)["mae"]
    low, high = table.intervals.by_lead["model"][1]
    mean, spread = errors[:, 0, 1].mean(), errors[:, 0, 1].std() / math.sqrt(60)
    assert (low, high) == pytest.approx(norm.interval(0.95, mean, spread), abs=0.1 * spread)
    apart = (errors[:, 0] - errors[:, 1]).mean(1)
    reference = bootstrap(
        (apart,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    found = table.differences.overall["persistence"]
    assert tuple(found) == pytest.approx(tuple(reference), abs=0.006)
    assert found.resolved
    assert table.resolved("model", None)


def test_blocks_are_drawn_and_not_cases():
    """A hundred copies of a case in a block say no more than one."""
    draw = np.random.default_rng(1)
    errors = np.abs(draw.normal(1, 0.3, (10, 2, 1)))
    once = score_tables([MAE()], filled(errors), NAMES)["mae"]
    often = score_tables([MAE()], filled(errors, 1600), NAMES)["mae"]
    for name in NAMES:
        assert tuple(often.intervals.overall[name]) == pytest.approx(tuple(once.intervals.overall[name]))


def test_the_coverage_is_95_percent():
    draw = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        errors = draw.normal(1.0, 0.3, (40, 2, 1))
        low, high = score_tables([MAE()], filled(errors), NAMES)["mae"].differences.overall["persistence"]
        inside += low <= 0 <= high
    assert 180 <= inside <= 197  # 190 expected, 3 standard deviations; a little less of 40 blocks


def test_equal_forecasters_are_never_resolved():
    errors = np.random.default_rng(3).random((20, 1, 2)).repeat(2, 1)
    table = score_tables([MAE()], filled(errors), NAMES)["mae"]
    assert table.differences.overall["persistence"] == (0, 0)
    assert not table.resolved("model", None)


def test_five_blocks_have_no_interval_and_six_have():
    errors = np.random.default_rng(4).random((6, 2, 2))
    assert score_tables([MAE()], filled(errors[:5]), NAMES)["mae"].intervals is None
    assert score_tables([MAE()], filled(errors), NAMES)["mae"].intervals is not None


def test_a_score_that_is_undefined_in_many_draws_has_no_interval():
    """One event in 20 blocks is in no block of a draw with probability 0.36."""
    blocks = BlockSums()
    block_B = blocks.assign(20, None)
    cells = torch.zeros(4, 20, 1, dtype=torch.float64)
    cells[3], cells[0, 7] = 10, 5
    for name in NAMES:
        blocks.add(name, CSI(1).terms_key, block_B, cells)
    table = score_tables([CSI(1)], blocks, NAMES)["csi_1"]
    assert table.overall["model"] == 1
    assert all(map(math.isnan, table.intervals.overall["model"]))
    assert not table.resolved("model", None)


def test_ratios_are_pooled_and_the_mean_of_leads_is_another_value():
    blocks = BlockSums()
    cells = torch.tensor([[3.0, 1], [1, 1], [2, 8], [4, 0]], dtype=torch.float64)[:, None]
    for name in NAMES:
        blocks.add(name, CSI(1).terms_key, blocks.assign(1, None) * 0, cells)
    table = score_tables([CSI(1)], blocks, NAMES)["csi_1"]
    assert table.by_lead["model"] == [3 / 6, 1 / 10]
    assert table.overall["model"] == 4 / 16
    assert table.mean_of_leads["model"] == pytest.approx(0.3)
    assert (table.samples, table.count(None), table.samples_of) == ([10, 10], 20, "pixels")
    cells[:3, 0, 1] = 0
    blocks = filled(np.ones((1, 2, 2)))
    for name in NAMES:
        blocks.add(name, CSI(1).terms_key, torch.zeros(1, dtype=torch.long), cells)
    undefined = score_tables([CSI(1)], blocks, NAMES)["csi_1"]
    assert math.isnan(undefined.mean_of_leads["model"])
    assert score_tables([MAE()], blocks, NAMES)["mae"].mean_of_leads is None


class Better(Forecaster):
    """Most of the way from the last frame to the truth, which it knows."""

    def __init__(self, windows):
        super().__init__()
        self.truth, self.at = torch.stack([window.future for window in windows]), 0

    def forward(self, past, steps):
        self.at += len(past)
        truth = self.truth[self.at - len(past) : self.at]
        return past[:, -1:] + 0.9 * (truth - past[:, -1:])


def test_a_model_that_knows_most_is_resolved_and_a_copy_of_a_baseline_is_not():
    source = Rain(canvas=20, past=2, steps=2, test_size=12)
    windows = list(source.split("test"))
    scores = field_scores("mm/h", (1.0,), (20, 20))
    options = {"scores": scores, "unit": "mm/h", "to_units": source.to_units}

    def found(model, size):
        return verify(model, DataLoader(source.split("test"), size), **options)[0]

    better, same = found(Better(windows), 5), found(Persistence(), 12)
    assert better.blocks == 12  # sequences are events of their own
    measured = sum(int(window.future_valid[0].sum()) for window in windows)
    assert better.scores["rmse"].samples == [measured, measured]
    assert better.scores["csi_1"].samples == [measured, measured]
    assert better.scores["variance_ratio"].samples == [12, 12]
    for key in ("rmse", "csi_1"):
        assert better.scores[key].best(None) == ["model"]
        assert better.scores[key].resolved("model", None)
        assert not same.scores[key].resolved("persistence", None)
    assert found(Better(windows), 7).to_dict() == better.to_dict()  # the same draws, whatever the batches
    assert better.spectra.power.keys() == {*better.forecasters, "truth"}
    assert max(better.spectra.wavelengths) < 32  # of frames of 20 pixels
    assert min(better.spectra.power["truth"]) > 1e-6
    assert better.spectra.power["persistence"] != better.spectra.power["model"]


def test_terms_that_scores_share_are_computed_once():
    calls = []

    class Counted(MSE):
        def terms(self, forecast, truth):
            calls.append(1)
            return super().terms(forecast, truth)

    frames = torch.rand(2, 2, 3, 1, 12, 12)
    window = LabelledWindow(frames[0], frames[1])
    result, _ = verify(
        Blank(), [window], name="mine", baselines={"last": Persistence}, scores=[Counted(), RMSE()]
    )
    assert len(calls) == 2  # of two forecasters
    mse, rmse = (result.scores[key].overall["mine"] for key in ("mse", "rmse"))
    assert rmse == pytest.approx(math.sqrt(mse))


def test_scores_with_the_same_key_are_of_the_same_terms():
    frames = torch.rand(2, 2, 3, 1, 40, 40)
    terms = {}
    for score in (*field_scores("K", (0.3, 0.6), (40, 40)), Sharpness()):
        found = score.terms(*paired(*frames))
        first = terms.setdefault(score.terms_key or score.name, found)
        assert torch.equal(found, first), score.name
