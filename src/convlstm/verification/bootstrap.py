"""Tables of scores with bootstrap intervals, from sums of every block of cases.

Blocks are drawn with replacement, the same draws for all forecasters (Efron and Tibshirani 1993, An
Introduction to the Bootstrap, chapters 8 and 13): what is hard for one is hard for all, so that differences
are known better than values.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from convlstm.scores.base import Score
from convlstm.scores.spatial import SmallScalePower, spectra, wavelengths
from convlstm.verification.blocks import BlockSums
from convlstm.verification.score_table import DRAWS, LEAST_BLOCKS, Interval, Intervals, ScoreTable, Spectra

_ENDS = (0.025, 0.975)
_DEFINED = 0.95  # share of draws in which a score must be defined


def score_tables(
    scores: Sequence[Score], blocks: BlockSums, forecasters: Sequence[str], seed: int = 0
) -> dict[str, ScoreTable]:
    """Tables by the name of the score.

    Args:
        scores: any.
        blocks: sums of all their terms.
        forecasters: the model, then the baselines.
        seed: of the draws.
    """
    weights_DB = _draws(blocks.count, seed) if blocks.count >= LEAST_BLOCKS else None
    return {score.name: _table(score, blocks, forecasters, weights_DB) for score in scores}


def spectra_of(scores: Sequence[Score], blocks: BlockSums, forecasters: Sequence[str]) -> Spectra | None:
    """Power spectra at the last lead time; None if no score has them or nothing was measured."""
    key = SmallScalePower.terms_key or ""
    if not any(score.terms_key == key for score in scores):
        return None
    found = {}
    for name in forecasters:
        of_forecast, of_truth = spectra(blocks.sums(name, key).sum(0)[:, -1])
        found[name] = of_forecast
    found["truth"] = of_truth
    # Frames have no wavelengths beyond their size, where power is 0 or a rounding error.
    there = of_truth > 1e-12 * of_truth.nan_to_num(0).max()
    if not there.any():
        return None
    power = {name: values[there].tolist() for name, values in found.items()}
    return Spectra(wavelengths()[there].tolist(), power)


def _draws(blocks: int, seed: int) -> Tensor:
    """Number of times that each block is in each draw, (D, B), float64."""
    random = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(random.multinomial(blocks, np.full(blocks, 1 / blocks), DRAWS).astype(float))


def _table(
    score: Score, blocks: BlockSums, forecasters: Sequence[str], weights_DB: Tensor | None
) -> ScoreTable:
    model = forecasters[0]
    by_lead, overall, draws_DL1 = {}, {}, {}
    for name in forecasters:
        sums_BNL = blocks.sums(name, score.terms_key or score.name)
        sums_NL = sums_BNL.sum(0)
        by_lead[name] = score.value(sums_NL).tolist()
        overall[name] = float(score.value(sums_NL.sum(1)))
        if weights_DB is not None:
            drawn_NDL = torch.tensordot(weights_DB, sums_BNL, 1).movedim(1, 0)
            draws_DL1[name] = torch.cat(
                [score.value(drawn_NDL), score.value(drawn_NDL.sum(2))[:, None]], dim=1
            )
    differences = {name: draws_DL1[model] - draws_DL1[name] for name in forecasters[1:] if draws_DL1}
    return ScoreTable(
        title=score.title,
        unit=score.unit,
        formula=score.formula,
        higher_is_better=score.higher_is_better,
        by_lead=by_lead,
        overall=overall,
        mean_of_leads={name: float(np.mean(v)) for name, v in by_lead.items()} if score.pooled else None,
        samples=[round(count) for count in score.samples(sums_NL).tolist()],
        samples_of=score.samples_of,
        intervals=_intervals(draws_DL1) if draws_DL1 else None,
        differences=_intervals(differences) if draws_DL1 else None,
    )


def _intervals(draws_DL1: dict[str, Tensor]) -> Intervals:
    """Intervals from draws (D, L + 1) by name, the last column of which is overall."""
    by_lead, overall = {}, {}
    for name, draws in draws_DL1.items():
        ends_2L = torch.nanquantile(draws, draws.new_tensor(_ENDS), dim=0)
        rare = draws.isfinite().double().mean(0) < _DEFINED
        *by_lead[name], overall[name] = (
            Interval(float(f"{low:.7g}"), float(f"{high:.7g}"))
            for low, high in torch.where(rare, torch.nan, ends_2L).T.tolist()
        )
    return Intervals(by_lead, overall)
