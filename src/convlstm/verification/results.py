"""The result of a verification: scores of a model and of the baselines, as files and as tables."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from convlstm.errors import RunError, check_name
from convlstm.scores.digits import aligned, four_digits

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable
    from rich.text import Text

SCHEMA = 1


class Skill(NamedTuple):
    """Skill of the model over one baseline, ``1 - MSE(model) / MSE(baseline)``; 1 is perfect, 0 is no better.

    NaN where the baseline is perfect.

    Attributes:
        by_lead: L values.
        overall: from the overall MSEs.
    """

    by_lead: list[float]
    overall: float


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """One score of all forecasters; the first four attributes are those of ``Score``.

    Attributes:
        title: heading.
        unit: what a value is measured in.
        formula: one line.
        higher_is_better: None where neither direction is.
        by_lead: L values by forecaster.
        overall: one value by forecaster.
    """

    title: str
    unit: str
    formula: str
    higher_is_better: bool | None
    by_lead: Mapping[str, list[float]]
    overall: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How good a model is on a set of cases, beside the baselines.

    Attributes:
        model: name of the model among the forecasters.
        cases: how many windows were forecast.
        past: K.
        steps: L.
        data: what was forecast, one line.
        forecasters: the model, then the baselines.
        scores: tables by the name of the score; ``mse`` is always there.
        weights: digest of the weights that were scored, see `convlstm.hub.weights_digest`; None where
            it is not known.
    """

    model: str
    cases: int
    past: int
    steps: int
    data: str
    forecasters: tuple[str, ...]
    scores: Mapping[str, ScoreTable]
    weights: str | None = None

    @property
    def best_baseline(self) -> str | None:
        """The baseline with the lowest overall MSE; None if no baseline has one."""
        mse = self.scores["mse"].overall
        known = [name for name in self.forecasters[1:] if math.isfinite(mse[name])]
        return min(known, key=lambda name: mse[name], default=None)

    @property
    def skill(self) -> dict[str, Skill]:
        """The model's skill over every baseline."""
        mse, model = self.scores["mse"], self.model
        return {
            name: Skill(
                [_skill(*pair) for pair in zip(mse.by_lead[model], mse.by_lead[name], strict=True)],
                _skill(mse.overall[model], mse.overall[name]),
            )
            for name in self.forecasters[1:]
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``scores.json`` holds it; what is undefined is None."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "cases": self.cases,
            "past": self.past,
            "steps": self.steps,
            "data": self.data,
            "weights": self.weights,
            "best_baseline": self.best_baseline,
            "forecasters": list(self.forecasters),
            "scores": {
                key: {
                    "title": table.title,
                    "unit": table.unit,
                    "formula": table.formula,
                    "higher_is_better": table.higher_is_better,
                    "by_lead": {name: _to_plain(values) for name, values in table.by_lead.items()},
                    "overall": {name: _to_plain([value])[0] for name, value in table.overall.items()},
                }
                for key, table in self.scores.items()
            },
            "skill": {
                name: {"by_lead": _to_plain(skill.by_lead), "overall": _to_plain([skill.overall])[0]}
                for name, skill in self.skill.items()
            },
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Verification":
        """Read back what ``to_dict`` gave.

        Raises:
            RunError: a newer schema, or something is missing.
        """
        try:
            _check_types(plain)
            if plain["schema"] > SCHEMA:
                raise RunError(
                    f"scores must have schema {SCHEMA} or older; received {plain['schema']}: update convlstm"
                )
            return cls(
                model=plain["model"],
                cases=plain["cases"],
                past=plain["past"],
                steps=plain["steps"],
                data=plain["data"],
                weights=plain.get("weights"),
                forecasters=tuple(plain["forecasters"]),
                scores={
                    key: ScoreTable(
                        title=table["title"],
                        unit=table["unit"],
                        formula=table["formula"],
                        higher_is_better=table["higher_is_better"],
                        by_lead={name: _from_plain(table["by_lead"][name]) for name in plain["forecasters"]},
                        overall={
                            name: _from_plain([table["overall"][name]])[0] for name in plain["forecasters"]
                        },
                    )
                    for key, table in plain["scores"].items()
                },
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(
                f"scores must be as a verification writes them; {error} is missing or wrong: evaluate again"
            ) from None

    def rows(self) -> Iterator[tuple[str, str, str, float]]:
        """Rows of a long table: forecaster, score, lead (``1`` to L, then ``overall``), value.

        The model's skill over a baseline is the score ``skill_over_<baseline>``.
        """
        named = [(name, key, table) for key, table in self.scores.items() for name in self.forecasters]
        for name, key, table in named:
            yield from _long(name, key, table.by_lead[name], table.overall[name])
        for baseline, skill in self.skill.items():
            yield from _long(self.model, f"skill_over_{baseline}", skill.by_lead, skill.overall)

    def to_markdown(self, *scores: str) -> str:
        """Tables in Markdown, readable as they are, with every lead time; the best values bear a star.

        Args:
            scores: which to show by lead time; all if none is named.

        Raises:
            OptionError: a name that is not among the scores.
        """
        return "\n\n".join(_markdown(grid) for grid in self._grids(scores)) + "\n"

    def to_rich(self, *scores: str) -> "ConsoleRenderable":
        """The tables of ``to_markdown`` to print on a `rich.console.Console`, as wide as it is.

        Every forecaster and every best value is there at any width: a table of scores that is too wide is
        broken into several, and lead times are left out evenly, the same ones in all tables.
        """
        return _Screen(self._grids(scores))

    def _grids(self, scores: Iterable[str]) -> list["_Grid"]:
        shown = [check_name(name, self.scores, "score") for name in scores] or list(self.scores)
        return [self._overall(), *(self._by_lead(self.scores[key]) for key in shown), self._skill()]

    def _overall(self) -> "_Grid":
        columns = {
            key: _starred([table.overall[name] for name in self.forecasters], table.higher_is_better)
            for key, table in self.scores.items()
        }
        skill = self.skill
        columns["skill"] = [four_digits(skill[n].overall) if n in skill else "" for n in self.forecasters]
        title = f"Overall: {self.cases} cases, {self.past} frames in, {self.steps} out; * is the best"
        return _Grid(title, self.data, "forecaster", list(self.forecasters), columns, leads=False)

    def _by_lead(self, table: ScoreTable) -> "_Grid":
        direction = {True: "; higher is better", False: "; lower is better", None: ""}[table.higher_is_better]
        names = self.forecasters
        columns = {
            str(lead + 1): _starred([table.by_lead[name][lead] for name in names], table.higher_is_better)
            for lead in range(self.steps)
        }
        columns["overall"] = _starred([table.overall[name] for name in names], table.higher_is_better)
        return _Grid(f"{table.title} ({table.unit}{direction})", table.formula, "lead", list(names), columns)

    def _skill(self) -> "_Grid":
        skills = self.skill
        columns = {
            str(lead + 1): [four_digits(skill.by_lead[lead]) for skill in skills.values()]
            for lead in range(self.steps)
        }
        columns["overall"] = [four_digits(skill.overall) for skill in skills.values()]
        formula = "1 - MSE of the model / MSE of the baseline; 1 is perfect, 0 is no better"
        return _Grid(f"Skill of {self.model} over each baseline", formula, "lead", list(skills), columns)


class _Grid(NamedTuple):
    """A table of text: a row per forecaster, a column per score or lead time (the last one is overall)."""

    title: str
    note: str
    corner: str
    names: list[str]
    columns: dict[str, list[str]]
    leads: bool = True


class _Screen:
    """Tables that take the width of the console they are printed on."""

    def __init__(self, grids: list[_Grid]) -> None:
        self.grids = grids

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["Text"]:
        names = max(len(name) for grid in self.grids for name in [grid.corner, *grid.names])
        # Long names go on below, so that there is room for three numbers beside them.
        names = min(names, max(options.max_width - 3 * 12, 8))
        room = options.max_width - names
        leads = _leads([grid for grid in self.grids if grid.leads], room)
        for grid in self.grids:
            yield from _rich(grid, _parts(grid, leads if grid.leads else list(grid.columns), room), names)


def _leads(grids: list[_Grid], room: int) -> list[str]:
    """The lead times, evenly spread, that fit all tables, and the column over all of them."""
    widths = {key: max(_width(key, grid.columns[key]) for grid in grids) for key in grids[0].columns}
    *leads, overall = widths
    for most in range(len(leads), 2, -1):
        chosen = [*_evenly(leads, most), overall]
        if sum(widths[key] for key in chosen) <= room:
            return chosen
    return [*_evenly(leads, 2), overall]


def _evenly(leads: list[str], most: int) -> list[str]:
    places = sorted({round(k * (len(leads) - 1) / max(most - 1, 1)) for k in range(min(most, len(leads)))})
    return [leads[place] for place in places]


def _parts(grid: _Grid, keys: list[str], room: int) -> list[list[str]]:
    """Columns in groups that fit."""
    parts: list[list[str]] = []
    left = 0
    for key in keys:
        width = _width(key, grid.columns[key])
        if not parts or width > left:
            parts.append([])
            left = room
        parts[-1].append(key)
        left -= width
    return parts


def _width(key: str, texts: list[str]) -> int:
    """Width of a column on the screen, with the gap before it."""
    return max(map(len, [key, *aligned(texts)])) + 2


def _markdown(grid: _Grid) -> str:
    columns = [[grid.corner, *grid.names], *([key, *aligned(texts)] for key, texts in grid.columns.items())]
    widths = [max(3, *map(len, column)) for column in columns]
    columns[0] = [name.ljust(widths[0]) for name in columns[0]]
    rows = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in zip(*columns, strict=True)
    ]
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    head = [f"**{grid.title}**", *([grid.note] if grid.note else []), ""]
    return "\n".join([*head, rows[0], rule, *rows[1:]])


def _rich(grid: _Grid, parts: list[list[str]], most: int) -> Iterator["Text"]:
    """Title and note, then a block of lines for each group of columns; an empty line after each."""
    from rich.text import Text

    yield Text(grid.title, style="bold")
    yield from [Text(grid.note, style="dim")] if grid.note else []
    for part in parts:
        columns = [aligned(grid.columns[key]) for key in part]
        widths = [_width(key, grid.columns[key]) for key in part]
        header = grid.corner.ljust(most) + "".join(k.rjust(w) for k, w in zip(part, widths, strict=True))
        yield Text(header, style="bold")
        yield Text("─" * len(header), style="dim")
        for name, *cells in zip(grid.names, *columns, strict=True):
            line = Text(name[:most].ljust(most))
            for cell, width in zip(cells, widths, strict=True):
                line.append(cell.rjust(width), style="bold green" if "*" in cell else "")
            yield line
            yield from (Text(name[k : k + most]) for k in range(most, len(name), most))
        yield Text("")


def _starred(values: list[float], higher_is_better: bool | None) -> list[str]:
    """Numbers as text, the best with a star."""
    known = [value for value in values if not math.isnan(value)]
    best = math.nan if higher_is_better is None or not known else (max if higher_is_better else min)(known)
    return [four_digits(value) + "*" * (value == best) for value in values]


def _check_types(plain: Mapping[str, Any]) -> None:
    """Refuse values of another type than `Verification` says."""
    text, count = str, int
    wanted = {"model": text, "data": text, "cases": count, "past": count, "steps": count, "forecasters": list}
    values = [(name, plain[name], kind) for name, kind in wanted.items()]
    values += [("forecasters", name, text) for name in plain["forecasters"]]
    if plain.get("weights") is not None:
        values.append(("weights", plain["weights"], text))
    for key, table in plain["scores"].items():
        values += [(f"{name} of {key}", table[name], text) for name in ("title", "unit", "formula")]
        if table["higher_is_better"] is not None:
            values.append((f"higher_is_better of {key}", table["higher_is_better"], bool))
        for name in plain["forecasters"]:
            values += [(f"by_lead of {key}", table["by_lead"][name], list)]
            numbers = (v for v in (*table["by_lead"][name], table["overall"][name]) if v is not None)
            values += [(f"values of {key}", v, float if type(v) is float else int) for v in numbers]
    for name, value, kind in values:
        if type(value) is not kind:
            raise TypeError(f"{name} {value!r}"[:100])


def _skill(model: float, baseline: float) -> float:
    return 1 - model / baseline if baseline > 0 else math.nan


def _long(name: str, key: str, by_lead: list[float], overall: float) -> Iterator[tuple[str, str, str, float]]:
    for lead, value in enumerate(by_lead, start=1):
        yield name, key, str(lead), value
    yield name, key, "overall", overall


def _to_plain(values: Iterable[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _from_plain(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]
