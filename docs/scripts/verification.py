"""Make the tables of docs/verification.md: ``python docs/scripts/verification.py``.

Scores and baselines are described by their classes; the scores of blurred forecasts are those that
``blurring.py`` measured.
"""

import inspect
import json
import sys

import tables
from blurring import SCORES

from convlstm.models.baselines import BASELINES, Climatology, DampedPersistence
from convlstm.scores import Score, field_scores, standard_scores
from convlstm.workflows.baselines import FURTHER

PAGE = tables.DOCS / "verification.md"

_WILKS = "Wilks 2011, section 8.2"
#: By the name of a score without its threshold: unit and range of its values, and the source.
KNOWN = {
    "mse": ("square of the unit", "0 to ∞", ""),
    "rmse": ("unit of the data", "0 to ∞", ""),
    "mae": ("unit of the data", "0 to ∞", ""),
    "bias": ("unit of the data", "−∞ to ∞", ""),
    "correlation": ("without unit", "−1 to 1", "Pearson's"),
    "mse_sum": ("square of the unit, a frame", "0 to ∞", "Srivastava et al. 2015, arXiv:1502.04681"),
    "mae_sum": ("unit of the data, a frame", "0 to ∞", "Srivastava et al. 2015, arXiv:1502.04681"),
    "psnr": ("dB", "to 100", "Huynh-Thu and Ghanbari 2008, doi:10.1049/el:20080522"),
    "ssim": ("without unit", "−1 to 1", "Wang et al. 2004, doi:10.1109/TIP.2003.819861"),
    "sharpness": ("without unit", "0 to ∞", "our own"),
    "csi": ("without unit", "0 to 1", _WILKS),
    "pod": ("without unit", "0 to 1", _WILKS),
    "far": ("without unit", "0 to 1", _WILKS),
    "ets": ("without unit", "−1/3 to 1", _WILKS),
    "frequency_bias": ("without unit", "0 to ∞", _WILKS),
    "hss": ("without unit", "−1 to 1", _WILKS),
    "csi_mean": ("without unit", "0 to 1", "SEVIR: Veillette et al. 2020, NeurIPS 33"),
    "fss": ("without unit", "0 to 1", "Roberts and Lean 2008, doi:10.1175/2007MWR2123.1"),
    "variance_ratio": ("without unit", "0 to ∞", ""),
    "power_below": ("without unit", "0 to ∞", "our own, of radially averaged power spectra"),
}


def scores() -> list[Score]:
    """An example of every score."""
    of_fields = field_scores("", [1.0, 5.0], size=(16, 16))
    found = {type(score): score for score in (*standard_scores(1.0), *of_fields)}
    return list(found.values())


def key(score: Score) -> str:
    """The name of a score without threshold, window and limit."""
    return next(
        name for name in sorted(KNOWN, key=len, reverse=True) if f"{score.name}_".startswith(f"{name}_")
    )


def parts() -> dict[str, str]:
    """The tables."""
    return {"scores": _scores(), "baselines": _baselines(), "blurring": _blurring()}


def _scores() -> str:
    lines = ["| score, name in files | equation, unit, range, source |", "|---|---|"]
    better = {True: "higher is better", False: "lower is better"}
    for score in scores():
        unit, limits, source = KNOWN[key(score)]
        target = better.get(score.higher_is_better) if score.higher_is_better is not None else _target(score)
        title = score.title.partition(" at ")[0].partition(" below ")[0]
        named = "csi_mean" if score.name == "csi_mean" else _pattern(score)
        formula = score.formula.replace("|", r"\|")
        notes = "; ".join(filter(None, (unit, limits, target, source)))
        lines.append(f"| {title}<br>`{named}` | {formula}<br><small>{notes}</small> |")
    return "\n".join(lines) + "\n"


def _target(score: Score) -> str:
    return "0 is unbiased" if "0 is" in score.unit else "1 is the truth's"


def _pattern(score: Score) -> str:
    """The name with letters in the place of its numbers."""
    name = key(score)
    numbers = {"fss": "_THRESHOLD_WINDOW", "power_below": "_16"}
    return name if score.name == name else name + numbers.get(name, "_THRESHOLD")


def _baselines() -> str:
    named = {**BASELINES, "climatology": Climatology, "damped_persistence": DampedPersistence, **FURTHER}
    when = {
        "advection": "rain and other data without a yearly cycle",
        "blank": "data without a yearly cycle",
        "climatology": "a year or more of dated training frames that are not rain",
        "damped_persistence": "as climatology",
        "optical_flow": "`--baselines [optical_flow]`, with pysteps",
        "steps_mean": "`--baselines [steps_mean]`, with pysteps",
    }
    lines = ["| baseline | forecast | shown for |", "|---|---|---|"]
    for name, kind in named.items():
        words = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ").replace("`", "")
        lines.append(f"| `{name}` | {words} | {when.get(name, 'all data')} |")
    return "\n".join(lines) + "\n"


def _blurring() -> str:
    measured = json.loads(SCORES.read_text(encoding="utf-8"))
    heading = ["forecast", *next(iter(measured.values()))]
    rows = [[name, *map(tables.short, values.values())] for name, values in measured.items()]
    return tables.markdown(heading, rows)


def page() -> str:
    """The page as it should be."""
    return tables.page(PAGE, "verification", parts())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
