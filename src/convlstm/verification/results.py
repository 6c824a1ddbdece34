"""Result of a verification: scores of a model and of the baselines, as plain data and as tables."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from convlstm.errors import RunError, check_name
from convlstm.scores.digits import four_digits
from convlstm.scores.lead_times import lead_text
from convlstm.verification.score_table import (
    DRAWS,
    LEAST_BLOCKS,
    Interval,
    Intervals,
    ScoreTable,
    Spectra,
    positive_number,
    read_spectra,
    read_table,
    typed,
)
from convlstm.verification.tables import Grid, Screen, markdown

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable

SCHEMA = 2
_MOST_COLUMNS = 10  # scores that are columns of the table over all lead times; more are its rows


class Skill(NamedTuple):
    """Skill of the model over one baseline, ``1 - MSE(model) / MSE(baseline)``; 1 is perfect, 0 is no better.

    NaN if the baseline has no error.

    Attributes:
        by_lead: L values.
        overall: from the overall MSEs.
    """

    by_lead: list[float]
    overall: float


class ScoreRow(NamedTuple):
    """Value of a score, as a row of ``scores.csv``; NaN where unknown or undefined.

    Attributes:
        forecaster: name.
        score: name.
        lead: ``1`` to L, then ``overall`` and, for ratios, ``mean_of_leads``.
        value: of the score.
        low: lower end of its interval.
        high: upper end.
        difference_low: lower end of the interval of the model minus this baseline.
        difference_high: upper end.
        samples: pixels or frames; 0 if unknown.
        lead_minutes: the lead time in minutes, where the time step is known.
    """

    forecaster: str
    score: str
    lead: str
    value: float
    low: float = math.nan
    high: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    samples: int = 0
    lead_minutes: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Scores of a model on a set of cases, beside those of the baselines.

    Attributes:
        model: name of the model among the forecasters.
        cases: number of windows.
        past: K.
        steps: L.
        data: description of the data in one line.
        forecasters: the model, then the baselines.
        scores: tables by the name of the score; ``mse`` is always present.
        weights: digest of the weights that were scored, see `model_folder.weights_digest`; None if unknown.
        unit: of the values.
        blocks: number of events that bootstrap intervals are drawn from; None if unknown.
        spectra: power spectra, where a score has them.
        step_s: seconds between frames; None if unknown, and lead times are numbers of frames then.
    """

    model: str
    cases: int
    past: int
    steps: int
    data: str
    forecasters: tuple[str, ...]
    scores: Mapping[str, ScoreTable]
    weights: str | None = None
    unit: str = ""
    blocks: int | None = None
    spectra: Spectra | None = None
    step_s: float | None = None

    @property
    def lead_minutes(self) -> list[float] | None:
        """Lead times in minutes, L values; None if the time step is unknown."""
        return None if self.step_s is None else [k * self.step_s / 60 for k in range(1, self.steps + 1)]

    @property
    def lengths(self) -> str:
        """Frames of past and future in words, with the last lead time where the time step is known."""
        last = "" if self.step_s is None else f" (to {lead_text(self.steps, self.step_s)})"
        return f"{self.past} frame{'s' * (self.past != 1)} in, {self.steps} out{last}"

    @property
    def best_baseline(self) -> str | None:
        """Baseline with the lowest overall MSE; None if no MSE of a baseline is finite."""
        mse = self.scores["mse"].overall
        known = [name for name in self.forecasters[1:] if math.isfinite(mse[name])]
        return min(known, key=lambda name: mse[name], default=None)

    @property
    def skill(self) -> dict[str, Skill]:
        """Skill of the model over every baseline."""
        mse, model = self.scores["mse"], self.model
        return {
            name: Skill(
                [_skill(*pair) for pair in zip(mse.by_lead[model], mse.by_lead[name], strict=True)],
                _skill(mse.overall[model], mse.overall[name]),
            )
            for name in self.forecasters[1:]
        }

    @property
    def main_scores(self) -> tuple[str, ...]:
        """The scores to show where space is short: of fields a selection, otherwise all.

        None that is undefined for every forecaster at every lead time, as for a threshold that no value
        reaches.
        """
        scores = [key for key in self.scores if not self._is_undefined(key)]
        if "rmse" not in self.scores:
            return tuple(scores)
        kinds = ("csi", "pod", "far")
        found = [key for key in scores if key in ("rmse", "bias") or key.startswith(kinds)]
        windows: dict[str, list[str]] = {}  # of the fractions skill score, by threshold
        for key in scores:
            if key.startswith("fss"):
                windows.setdefault(key.rpartition("_")[0], []).append(key)
        middle = [keys[len(keys) // 2] for keys in windows.values()]
        return (*found, *middle, *(key for key in scores if key.startswith("power")))

    def _is_undefined(self, score: str) -> bool:
        """True if no forecaster has a value of a score at any lead time."""
        return all(math.isnan(value) for values in self.scores[score].by_lead.values() for value in values)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in ``scores.json``; undefined values are None."""
        names = ("model", "cases", "past", "steps", "step_s", "lead_minutes", "data", "unit", "weights")
        others = ("blocks", "best_baseline", "forecasters")
        plain = {"schema": SCHEMA} | {name: getattr(self, name) for name in (*names, *others)}
        plain["scores"] = {key: asdict(table) for key, table in self.scores.items()}
        plain["skill"] = {name: skill._asdict() for name, skill in self.skill.items()}
        plain["spectra"] = None if self.spectra is None else asdict(self.spectra)
        # NaN and infinity, which JSON does not have, become None.
        finite: dict[str, Any] = json.loads(json.dumps(plain), parse_constant=lambda _: None)
        return finite

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Verification":
        """Inverse of ``to_dict``; what an older schema does not hold is unknown.

        Raises:
            RunError: a newer schema, something is missing, or a value that no verification has.
        """
        try:
            if typed(plain, "schema", int) > SCHEMA:
                raise RunError(
                    f"scores must have schema {SCHEMA} or older; received {plain['schema']}: update convlstm"
                )
            names = typed(plain, "forecasters", list)
            found = cls(
                model=typed(plain, "model", str),
                cases=positive_number(plain, "cases"),
                past=positive_number(plain, "past"),
                steps=positive_number(plain, "steps"),
                data=typed(plain, "data", str),
                weights=None if plain.get("weights") is None else typed(plain, "weights", str),
                unit=typed({"unit": ""} | dict(plain), "unit", str),
                blocks=None if plain.get("blocks") is None else positive_number(plain, "blocks"),
                forecasters=tuple(names),
                scores={key: read_table(key, table, names) for key, table in plain["scores"].items()},
                spectra=None if plain.get("spectra") is None else read_spectra(plain["spectra"]),
                step_s=None if plain.get("step_s") is None else positive_number(plain, "step_s", float),
            )
        except RunError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise RunError(
                f"scores must be as a verification writes them; {error} is missing or wrong: evaluate again"
            ) from None
        if found.model not in names or "mse" not in found.scores:
            raise RunError(
                f"scores must hold the mse of its model, {found.model}; received "
                f"{', '.join(found.scores)} of {', '.join(map(str, names))}: evaluate again"
            )
        for key, table in found.scores.items():
            parts: tuple[ScoreTable | Intervals | None, ...] = (table, table.intervals, table.differences)
            pairs = [pair for part in parts if part is not None for pair in part.by_lead.items()]
            for name, values in pairs:
                if len(values) != found.steps:
                    raise RunError(
                        f"scores must hold {found.steps} values by lead time; received {len(values)} for "
                        f"{key} of {name}: evaluate again"
                    )
        return found

    def rows(self) -> Iterator[ScoreRow]:
        """Rows of a long table: every value with its interval and its samples.

        The skill of the model over a baseline is the score ``skill_over_<baseline>``.
        """
        minutes = dict(enumerate(self.lead_minutes or ()))
        for key, table in self.scores.items():
            for name in self.forecasters:
                for lead in (*range(self.steps), None):
                    value, difference = (
                        part.at(name, lead) if part and name in part.overall else Interval(math.nan, math.nan)
                        for part in (table.intervals, table.differences)
                    )
                    text = "overall" if lead is None else str(lead + 1)
                    numbers = (table.values(lead)[name], *value, *difference)
                    lead_minutes = math.nan if lead is None else minutes.get(lead, math.nan)
                    yield ScoreRow(name, key, text, *numbers, table.count(lead), lead_minutes)
                if (mean := table.mean_of_leads) is not None:
                    yield ScoreRow(name, key, "mean_of_leads", mean[name], samples=table.count(None))
        for name, skill in self.skill.items():
            for k, number in enumerate(skill.by_lead):
                lead_minutes = minutes.get(k, math.nan)
                yield ScoreRow(
                    self.model, f"skill_over_{name}", str(k + 1), number, lead_minutes=lead_minutes
                )
            yield ScoreRow(self.model, f"skill_over_{name}", "overall", skill.overall)

    def to_markdown(self, *scores: str, brief: bool = False) -> str:
        """Tables in Markdown with every lead time, aligned as plain text; the best values are marked.

        Args:
            scores: names of those to show by lead time; all if none is given.
            brief: show `main_scores` alone, and few by lead time.

        Raises:
            OptionError: a name that is not among the scores.
        """
        return "\n\n".join(markdown(grid) for grid in self._grids(scores, brief=brief)) + "\n"

    def to_rich(self, *scores: str, brief: bool = False) -> "ConsoleRenderable":
        """Tables of ``to_markdown`` in the width of a `rich.console.Console`.

        No forecaster and no best value is cut at any width: a table of scores that is too wide is divided
        into several, and lead times are thinned out evenly, the same in all tables.
        """
        return Screen(self._grids(scores, brief=brief))

    def _grids(self, scores: Iterable[str], *, brief: bool) -> list[Grid]:
        overall = self.main_scores if brief else tuple(self.scores)
        shown = [check_name(name, self.scores, "score") for name in scores] or list(overall)
        if brief and not scores:
            few = ("mse", "sharpness") if "rmse" not in self.scores else ("rmse", "csi")
            shown = [key for key in shown if key.startswith(few) and key != "mse_sum"]
        return [self._overall(overall), *(self._score(self.scores[key]) for key in shown), self._skills()]

    def _overall(self, scores: Sequence[str]) -> Grid:
        """All lead times together."""
        columns = {key: _marked(self.scores[key], self.forecasters, None) for key in scores}
        skill = self.skill
        columns["skill"] = [four_digits(skill[n].overall) if n in skill else "" for n in self.forecasters]
        unit = f" in {self.unit}" if self.unit not in ("", "1") else ""
        cases = f"{self.cases} case{'s' * (self.cases != 1)}"
        title = f"Overall{unit}: {cases}, {self.lengths}"
        undefined = [key for key in self.scores if key not in scores and self._is_undefined(key)]
        left_out = f"undefined, as nothing was there to count: {', '.join(undefined)}" if undefined else ""
        notes, names = (self.data, self.legend, left_out), list(self.forecasters)
        note = "\n".join(filter(None, notes))
        if len(columns) <= _MOST_COLUMNS:
            return Grid(title, note, "forecaster", names, columns)
        rows = {name: [texts[k] for texts in columns.values()] for k, name in enumerate(names)}
        return Grid(title, note, "score", list(columns), rows)

    def _skills(self) -> Grid:
        title = f"Skill of {self.model} over each baseline"
        formula = "1 - MSE of the model / MSE of the baseline; 1 is perfect, 0 is no better"
        skills = self.skill.values()
        leads = {
            head: [four_digits(skill.by_lead[k]) for skill in skills] for k, head in enumerate(self._leads)
        }
        leads["overall"] = [four_digits(skill.overall) for skill in skills]
        return Grid(title, formula, "lead", list(self.skill), leads)

    @property
    def _leads(self) -> list[str]:
        """Headings of the columns of lead times."""
        leads = range(1, self.steps + 1)
        return [str(k) if self.step_s is None else lead_text(k, self.step_s) for k in leads]

    @property
    def legend(self) -> str:
        """Meaning of the marks of the best values."""
        if self.blocks is None or self.blocks < LEAST_BLOCKS:
            return f"~ best, order not resolved: {self.unresolved}"
        return f"* best, ~ best but order not resolved: {self.unresolved}"

    @property
    def unresolved(self) -> str:
        """Reason for an order that is not resolved."""
        if self.blocks is None:
            return f"that needs {LEAST_BLOCKS} events; evaluate again"
        if self.blocks < LEAST_BLOCKS:
            return (
                f"that needs {LEAST_BLOCKS} events; there {'is' if self.blocks == 1 else 'are'} {self.blocks}"
            )
        return (
            "the 95 % interval of the difference of model and baseline holds 0 "
            f"({DRAWS} bootstrap draws of {self.blocks} events)"
        )

    def _score(self, table: ScoreTable) -> Grid:
        direction = {True: "; higher is better", False: "; lower is better", None: ""}[table.higher_is_better]
        title = f"{table.title} ({table.unit}{direction})"
        columns = {head: _marked(table, self.forecasters, k) for k, head in enumerate(self._leads)}
        if table.mean_of_leads is not None:
            columns["mean"] = [four_digits(table.mean_of_leads[name]) for name in self.forecasters]
        columns["overall"] = _marked(table, self.forecasters, None)
        note = table.formula
        if table.samples:
            low, high = min(table.samples), max(table.samples)
            counts = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            note += f"; {counts} {table.samples_of} a lead"
        if table.mean_of_leads is not None:
            note += "; mean of the leads, overall pooled"
        return Grid(title, note, "lead", list(self.forecasters), columns)


def _marked(table: ScoreTable, names: Sequence[str], lead: int | None) -> list[str]:
    """Numbers as text, the best marked with * if the order is resolved and with ~ if not."""
    best, values = table.best(lead), table.values(lead)
    marks = {name: "*" if table.resolved(name, lead) else "~" for name in best}
    return [four_digits(values[name]) + marks.get(name, "") for name in names]


def _skill(model: float, baseline: float) -> float:
    return 1 - model / baseline if baseline > 0 else math.nan
