"""Scores of SEVIR's protocol, as examples/sevir.yaml names it, against a calculation in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from sevir_files import write_sevir

from convlstm import evaluate
from convlstm.data import Archive
from convlstm.models.baselines import Persistence

EXAMPLE = Path(__file__).parents[2] / "examples" / "sevir.yaml"
THRESHOLDS = (16, 74, 133, 160, 181, 219)
DATES = ["2018-05-01", "2019-06-01", "2019-06-02", "2019-03-01", "2019-09-09"]


def slow(codes):
    """Contingency tables by threshold and lead time, and the mean errors, of persistence in five events."""
    hits, others = np.zeros((6, 12), int), np.zeros((6, 12), int)
    errors = []
    for event in codes:
        for start in (0, 12, 24):
            last = event[:, :, start + 12].astype(int)
            for lead in range(12):
                truth = event[:, :, start + 13 + lead].astype(int)
                errors.append((last - truth) / 255)
                for k, threshold in enumerate(THRESHOLDS):
                    said, happened = last >= threshold, truth >= threshold
                    hits[k, lead] += (said & happened).sum()
                    others[k, lead] += (said != happened).sum()
    return hits, others, np.array(errors)


def test_scores_of_the_protocol(tmp_path):
    draw = np.random.default_rng(0)
    steps = draw.integers(-25, 26, (5, 16, 16, 49)).cumsum(-1)
    codes = np.clip(120 + steps, 0, 254).astype(np.uint8)
    times = [f"{day} 00:00:00" for day in DATES]
    rows = [{"id": f"S{k}", "file_index": k, "time_utc": time} for k, time in enumerate(times)]
    path = write_sevir(tmp_path / "data" / "vil" / "2019" / "a.h5", codes, rows)
    options = yaml.safe_load(EXAMPLE.read_text())["data"]["init_args"] | {"path": str(path)}
    scores = evaluate(_Zero(), data=Archive(**options), thresholds=THRESHOLDS).scores
    hits, others, errors = slow(codes[[2, 4]])
    for k, threshold in enumerate(THRESHOLDS):
        table = scores[f"csi_{threshold}"]
        expected = hits[k] / (hits[k] + others[k])
        np.testing.assert_allclose(table.by_lead["persistence"], expected, rtol=1e-12)
    mean = scores["csi_mean"]
    by_lead = (hits / (hits + others)).mean(0)
    pooled = (hits.sum(1) / (hits.sum(1) + others.sum(1))).mean()
    np.testing.assert_allclose(mean.by_lead["persistence"], by_lead, rtol=1e-12)
    assert mean.overall["persistence"] == pytest.approx(pooled, rel=1e-12)
    assert mean.mean_of_leads["persistence"] == pytest.approx(by_lead.mean(), rel=1e-12)
    assert abs(pooled - by_lead.mean()) > 1e-3  # two figures, not one
    assert scores["mse"].overall["persistence"] / 255**2 == pytest.approx((errors**2).mean(), rel=1e-5)
    assert scores["mae"].overall["persistence"] / 255 == pytest.approx(abs(errors).mean(), rel=1e-5)
    assert mean.count(None) == 2 * 3 * 12 * 256


class _Zero(Persistence):
    """Another name than the baseline's."""
