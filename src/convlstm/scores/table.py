"""The result of a verification: scores of a model and of the baselines, as files and as tables."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from convlstm.errors import RunError, check_name

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

SCHEMA = 1
_WIDTH = 100
_MOST_LEADS = 10


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
    """

    model: str
    cases: int
    past: int
    steps: int
    data: str
    forecasters: tuple[str, ...]
    scores: Mapping[str, ScoreTable]

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
        """Tables in Markdown, readable as they are, at most 100 columns wide; the best values bear a star.

        Args:
            scores: which to show by lead time; all if none is named.

        Raises:
            OptionError: a name that is not among the scores.
        """
        return "\n\n".join(_markdown(grid) for grid in self._grids(scores)) + "\n"

    def to_rich(self, *scores: str) -> "Group":
        """The tables of ``to_markdown`` to print on a `rich.console.Console`."""
        from rich.console import Group

        return Group(*(_rich(grid) for grid in self._grids(scores)))

    def _grids(self, scores: Iterable[str]) -> list["_Grid"]:
        shown = [check_name(name, self.scores, "score") for name in scores] or list(self.scores)
        return [self._overall(), *(self._by_lead(self.scores[key]) for key in shown), self._skill()]

    def _overall(self) -> "_Grid":
        rows = []
        for key, table in self.scores.items():
            values = [table.overall[name] for name in self.forecasters]
            rows.append([key, *_starred(values, table.higher_is_better, _decimals(values))])
        rows.append(["skill", "- ", *(_number(skill.overall) + " " for skill in self.skill.values())])
        title = f"Overall: {self.cases} cases, {self.past} frames in, {self.steps} out"
        return _Grid(title, self.data, ["score", *self.forecasters], rows)

    def _by_lead(self, table: ScoreTable) -> "_Grid":
        direction = {True: "; higher is better", False: "; lower is better", None: ""}[table.higher_is_better]
        decimals = _decimals(value for values in table.by_lead.values() for value in values)
        columns = [
            _starred([values[name] for name in self.forecasters], table.higher_is_better, decimals)
            for values in (
                *({n: table.by_lead[n][lead] for n in self.forecasters} for lead in range(self.steps)),
                table.overall,
            )
        ]
        return _fitted(f"{table.title} ({table.unit}{direction})", table.formula, self.forecasters, columns)

    def _skill(self) -> "_Grid":
        skills = self.skill.values()
        columns = [[_number(skill.by_lead[lead]) for skill in skills] for lead in range(self.steps)]
        columns.append([_number(skill.overall) for skill in skills])
        formula = "1 - MSE of the model / MSE of the baseline; 1 is perfect, 0 is no better"
        return _fitted(f"Skill of {self.model} over each baseline", formula, self.forecasters[1:], columns)


class _Grid(NamedTuple):
    """A table of text, ready to be drawn."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def _fitted(title: str, note: str, names: Iterable[str], columns: list[list[str]]) -> _Grid:
    """A row a forecaster, a column a lead time, as many of them as fit; the last column is over all."""
    names, steps = list(names), len(columns) - 1
    for most in range(min(steps, _MOST_LEADS), 0, -1):
        leads = sorted({round(k * (steps - 1) / max(most - 1, 1)) for k in range(most)})
        header = ["lead", *(str(lead + 1) for lead in leads), "overall"]
        rows = [
            [name, *(columns[lead][row] for lead in leads), columns[-1][row]]
            for row, name in enumerate(names)
        ]
        grid = _Grid(title, note, header, rows)
        if sum(_widths(grid)) + 3 * len(header) + 1 <= _WIDTH:
            break
    return grid


def _widths(grid: _Grid) -> list[int]:
    return [max(3, *map(len, column)) for column in zip(grid.header, *grid.rows, strict=True)]


def _markdown(grid: _Grid) -> str:
    widths = _widths(grid)

    def line(cells: list[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "| " + " | ".join([cells[0].ljust(widths[0]), *numbers]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    head = [f"**{grid.title}**", *([grid.note] if grid.note else []), ""]
    return "\n".join([*head, line(grid.header), line(rule), *map(line, grid.rows)])


def _rich(grid: _Grid) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text.assemble((grid.title, "bold"), "\n", (grid.note, "dim"))
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for number, name in enumerate(grid.header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(cell, style="bold green" if cell.endswith("*") else "") for cell in row))
    return table


def _starred(values: list[float], higher_is_better: bool | None, decimals: int) -> list[str]:
    """Numbers as text, the best with a star, all padded alike."""
    known = [value for value in values if not math.isnan(value)]
    best = math.nan if higher_is_better is None or not known else (max if higher_is_better else min)(known)
    return [_number(value, decimals) + ("*" if value == best else " ") for value in values]


def _number(value: float, decimals: int = 3) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{min(decimals, _decimals([value]))}f}" if abs(value) >= 1 else f"{value:.{decimals}f}"


def _decimals(values: Iterable[float]) -> int:
    """How many decimals show the largest of these with four digits, and the smallest with two."""
    sizes = [math.floor(math.log10(abs(value))) for value in values if value and math.isfinite(value)]
    return min(max(3 - max(sizes), 1 - min(sizes), 0), 8) if sizes else 0


def _check_types(plain: Mapping[str, Any]) -> None:
    """Refuse values of another type than `Verification` says."""
    text, count = str, int
    wanted = {"model": text, "data": text, "cases": count, "past": count, "steps": count, "forecasters": list}
    values = [(name, plain[name], kind) for name, kind in wanted.items()]
    values += [("forecasters", name, text) for name in plain["forecasters"]]
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
