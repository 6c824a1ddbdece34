"""The top of a report: one sentence on how good the model is, and the numbers to it."""

import math
from html import escape

from convlstm.plots.curves import spoken
from convlstm.scores.digits import number
from convlstm.verification.results import Verification


def verdict(scores: Verification) -> str:
    """One sentence: the model's squared error against that of the best baseline, and what is worse."""
    mse, best = scores.scores["mse"].overall, scores.best_baseline
    model = escape(spoken(scores.model))
    if best is not None and mse[best] == 0:
        return f"{model} cannot be better than {escape(spoken(best))}, a baseline that makes no error here"
    if best is None or not math.isfinite(mse[scores.model]):
        return f"{model} cannot be compared with a baseline: a mean squared error is not available"
    ratio, name = mse[scores.model] / mse[best], escape(spoken(best))
    change = round(100 * abs(1 - ratio))
    if ratio > 2:
        text = f"makes {number(float(f'{ratio:.3g}'))} times the squared error (MSE) of"
    elif not change:
        text = "makes as much squared error (MSE) as"
    else:
        text = f"makes {change}\u202f% {'less' if ratio < 1 else 'more'} squared error (MSE) than"
    sentence = f"{model} {text} {name}, the best baseline"
    worse = "; ".join(_worse(scores))
    return sentence + (f'<span class="worse">Worse: {escape(worse)}.</span>' if worse else "")


def _worse(scores: Verification) -> list[str]:
    """What other scores hold against the model."""
    found = []
    if "sharpness" in scores.scores:
        last = scores.scores["sharpness"].by_lead[scores.model][-1]
        if math.isfinite(last) and abs(last - 1) > 0.1:
            kind = "less sharp" if last < 1 else "noisier"
            found.append(f"{kind} than the truth (sharpness {number(last)} at +{scores.steps}, the truth 1)")
    for key, table in scores.scores.items():
        known = {name: value for name, value in table.overall.items() if math.isfinite(value)}
        # Sums over pixels say what the means say.
        if key in ("mse", "mse_sum", "mae_sum") or table.higher_is_better is None:
            continue
        if scores.model not in known:
            continue
        best = (max if table.higher_is_better else min)(known, key=lambda name: known[name])
        if known[best] != known[scores.model]:
            own, other = number(known[scores.model]), number(known[best])
            found.append(f"{table.title} {own}, {spoken(best)} {other}")
    return found


def tiles(scores: Verification) -> str:
    """Skill, MSE, sharpness and cases, each with what it is measured against."""
    best, mse = scores.best_baseline, scores.scores["mse"].overall
    found = []
    if best is not None:
        found.append(
            (
                "Skill",
                number(scores.skill[best].overall),
                f"over {spoken(best)}; 1 is perfect, 0 is no better",
            )
        )
    against = f"per pixel; {spoken(best)} has {number(mse[best])}" if best else "per pixel"
    found.append(("MSE", number(mse[scores.model]), against))
    if "sharpness" in scores.scores:
        last = scores.scores["sharpness"].by_lead[scores.model][-1]
        found.append(
            ("Sharpness", number(last), f"at +{scores.steps}; 1 is as sharp as the truth, less is blur")
        )
    frames = f"{scores.past} frame{'s' * (scores.past != 1)} in, {scores.steps} out"
    found.append(("Cases", f"{scores.cases:,}", frames))
    cells = "".join(
        f"<div><dt>{n}</dt><dd>{escape(v)}<small>{escape(s)}</small></dd></div>" for n, v, s in found
    )
    return f'<dl class="tiles">{cells}</dl>'
