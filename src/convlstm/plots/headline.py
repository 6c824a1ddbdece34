"""Top of a report: one sentence that compares the model with the best baseline, and the numbers behind it."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from convlstm.plots.curves import display_name
from convlstm.scores.digits import in_text, short
from convlstm.scores.lead_times import lead_text
from convlstm.verification.results import Verification

_FEW = 4  # scores named after the headline


class Tile(NamedTuple):
    """A number of the headline, and the reference it is to be compared with."""

    name: str
    value: str
    note: str


def verdict(scores: Verification) -> str:
    """Sentence on the model's squared error relative to that of the best baseline."""
    mse, best = scores.scores["mse"].overall, scores.best_baseline
    model = display_name(scores.model)
    if best is not None and mse[best] == 0:
        return f"{model} cannot be better than {display_name(best)}, a baseline that makes no error here"
    if best is None or not math.isfinite(mse[scores.model]):
        return f"{model} cannot be compared with a baseline: a mean squared error is not available"
    ratio, name = mse[scores.model] / mse[best], display_name(best)
    change = round(100 * abs(1 - ratio))
    if ratio > 2:
        text = f"makes {short(float(f'{ratio:.3g}'))} times the squared error (MSE) of"
    elif not change:
        text = "makes as much squared error (MSE) as"
    else:
        text = f"makes {change}\u202f% {'less' if ratio < 1 else 'more'} squared error (MSE) than"
    known = scores.blocks is None or scores.scores["mse"].resolved(best, None)
    open_order = "" if known else "; the order is not resolved"
    return f"{model} {text} {name}, the best baseline{open_order}"


def drawbacks(scores: Verification) -> Iterator[str]:
    """Scores in which the model is not the best: of the main ones, the first few."""
    worse = list(_worse(scores))
    yield from worse[:_FEW]
    if len(worse) > _FEW:
        yield f"and {len(worse) - _FEW} more"


def _worse(scores: Verification) -> Iterator[str]:
    if "sharpness" in scores.scores:
        last = scores.scores["sharpness"].by_lead[scores.model][-1]
        if math.isfinite(last) and abs(last - 1) > 0.1:
            kind = "less sharp" if last < 1 else "noisier"
            lead = lead_text(scores.steps, scores.step_s)
            yield f"{kind} than the truth (sharpness {in_text(last)} at {lead}, the truth 1)"
    for key in scores.main_scores:
        table = scores.scores[key]
        known = {name: value for name, value in table.overall.items() if math.isfinite(value)}
        # Sums over pixels order forecasters as means do.
        if key in ("mse", "mse_sum", "mae_sum") or table.higher_is_better is None:
            continue
        if scores.model not in known:
            continue
        best = (max if table.higher_is_better else min)(known, key=lambda name: known[name])
        resolved = scores.blocks is None or table.resolved(best, None)
        if known[best] != known[scores.model] and resolved:
            own, other = in_text(known[scores.model]), in_text(known[best])
            yield f"{table.title} {own}, {display_name(best)} {other}"


def tiles(scores: Verification) -> list[Tile]:
    """Skill, MSE, sharpness and number of cases."""
    best, key = scores.best_baseline, "rmse" if "rmse" in scores.scores else "mse"
    error = scores.scores[key]
    found = []
    if best is not None:
        note = f"over {display_name(best)}; 1 is perfect, 0 is no better"
        found.append(Tile("Skill", in_text(scores.skill[best].overall), note))
    note = f"{error.unit}; {display_name(best)} has {in_text(error.overall[best])}" if best else error.unit
    found.append(Tile(error.title, in_text(error.overall[scores.model]), note))
    events = [name for name in scores.main_scores if name.startswith("csi")]
    if events:
        table = scores.scores[events[len(events) // 2]]
        note = table.title.replace("Critical success index ", "") + "; 1 is perfect"
        found.append(Tile("CSI", in_text(table.overall[scores.model]), note))
    if "sharpness" in scores.scores:
        last = scores.scores["sharpness"].by_lead[scores.model][-1]
        note = f"at {lead_text(scores.steps, scores.step_s)}; 1 is as sharp as the truth, less is blur"
        found.append(Tile("Sharpness", in_text(last), note))
    blocks = f", {scores.blocks:,} event{'s' * (scores.blocks != 1)}" if scores.blocks else ""
    found.append(Tile("Cases", f"{scores.cases:,}", scores.lengths + blocks))
    return found
