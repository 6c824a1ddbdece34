"""Result of a verification: scores of a model and of the baselines, as plain data and as tables."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from convlstm.errors import RunError, check_name
from convlstm.scores.digits import aligned, four_digits

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable
    from rich.text import Text

SCHEMA = 1


class Skill(NamedTuple):
    """Skill of the model over one baseline, ``1 - MSE(model) / MSE(baseline)``; 1 is perfect, 0 is no better.

    NaN if the baseline has no error.

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
        unit: unit of a value.
        formula: one line.
        higher_is_better: None if neither direction is.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in ``scores.json``; undefined values are None."""
        names = ("model", "cases", "past", "steps", "data", "weights", "best_baseline", "forecasters")
        plain = {"schema": SCHEMA} | {name: getattr(self, name) for name in names}
        plain["scores"] = {key: asdict(table) for key, table in self.scores.items()}
        plain["skill"] = {name: skill._asdict() for name, skill in self.skill.items()}
        # NaN and infinity, which JSON does not have, become None.
        finite: dict[str, Any] = json.loads(json.dumps(plain), parse_constant=lambda _: None)
        return finite

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Verification":
        """Inverse of ``to_dict``.

        Raises:
            RunError: a newer schema, something is missing, or a value that no verification has.
        """
        try:
            if _typed(plain, "schema", int) > SCHEMA:
                raise RunError(
                    f"scores must have schema {SCHEMA} or older; received {plain['schema']}: update convlstm"
                )
            names = _typed(plain, "forecasters", list)
            found = cls(
                model=_typed(plain, "model", str),
                cases=_positive(plain, "cases"),
                past=_positive(plain, "past"),
                steps=_positive(plain, "steps"),
                data=_typed(plain, "data", str),
                weights=None if plain.get("weights") is None else _typed(plain, "weights", str),
                forecasters=tuple(names),
                scores={key: _read_table(key, table, names) for key, table in plain["scores"].items()},
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
            for name, values in table.by_lead.items():
                if len(values) != found.steps:
                    raise RunError(
                        f"scores must hold {found.steps} values by lead time; received {len(values)} "
                        f"for {key} of {name}: evaluate again"
                    )
        return found

    def rows(self) -> Iterator[tuple[str, str, str, float]]:
        """Rows of a long table: forecaster, score, lead (``1`` to L, then ``overall``), value.

        The skill of the model over a baseline is the score ``skill_over_<baseline>``.
        """
        lines = [
            (name, key, table.by_lead[name], table.overall[name])
            for key, table in self.scores.items()
            for name in self.forecasters
        ]
        lines += [(self.model, f"skill_over_{name}", *skill) for name, skill in self.skill.items()]
        for name, key, by_lead, overall in lines:
            for lead, value in [*enumerate(by_lead, start=1), ("overall", overall)]:
                yield name, key, str(lead), value

    def to_markdown(self, *scores: str) -> str:
        """Tables in Markdown with every lead time, aligned as plain text; the best values are marked with *.

        Args:
            scores: names of those to show by lead time; all if none is given.

        Raises:
            OptionError: a name that is not among the scores.
        """
        return "\n\n".join(_markdown(grid) for grid in self._grids(scores)) + "\n"

    def to_rich(self, *scores: str) -> "ConsoleRenderable":
        """Tables of ``to_markdown`` in the width of a `rich.console.Console`.

        No forecaster and no best value is cut at any width: a table of scores that is too wide is divided
        into several, and lead times are thinned out evenly, the same in all tables.
        """
        return _Screen(self._grids(scores))

    def _grids(self, scores: Iterable[str]) -> list["_Grid"]:
        shown = [check_name(name, self.scores, "score") for name in scores] or list(self.scores)
        title = f"Skill of {self.model} over each baseline"
        formula = "1 - MSE of the model / MSE of the baseline; 1 is perfect, 0 is no better"
        skill = _by_lead(title, formula, self.skill)
        return [self._overall(), *(self._score(self.scores[key]) for key in shown), skill]

    def _overall(self) -> "_Grid":
        columns = {
            key: _starred([table.overall[name] for name in self.forecasters], table.higher_is_better)
            for key, table in self.scores.items()
        }
        skill = self.skill
        columns["skill"] = [four_digits(skill[n].overall) if n in skill else "" for n in self.forecasters]
        title = f"Overall: {self.cases} cases, {self.past} frames in, {self.steps} out; * is the best"
        return _Grid(title, self.data, "forecaster", list(self.forecasters), columns)

    def _score(self, table: ScoreTable) -> "_Grid":
        direction = {True: "; higher is better", False: "; lower is better", None: ""}[table.higher_is_better]
        values = {name: (table.by_lead[name], table.overall[name]) for name in self.forecasters}
        title = f"{table.title} ({table.unit}{direction})"
        return _by_lead(title, table.formula, values, table.higher_is_better)


class _Grid(NamedTuple):
    """Table of text: a row per forecaster, a column per score or lead time (the last one is overall).

    ``corner`` is the heading of the first column: "lead" if the columns are lead times.
    """

    title: str
    note: str
    corner: str
    names: list[str]
    columns: dict[str, list[str]]


class _Screen:
    """Tables in the width of the console they are printed on."""

    def __init__(self, grids: list[_Grid]) -> None:
        self.grids = grids

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["Text"]:
        names = max(len(name) for grid in self.grids for name in [grid.corner, *grid.names])
        # Long names are wrapped, so that three numbers fit beside them.
        names = min(names, max(options.max_width - 3 * 12, 8))
        width = options.max_width - names
        leads = _leads([grid for grid in self.grids if grid.corner == "lead"], width)
        for grid in self.grids:
            columns = leads if grid.corner == "lead" else list(grid.columns)
            yield from _rich(grid, _parts(grid, columns, width), names)


def _leads(grids: list[_Grid], available: int) -> list[str]:
    """Lead times, evenly spaced, that fit the width in all tables, and the column over all of them."""
    widths = {key: max(_width(key, grid.columns[key]) for grid in grids) for key in grids[0].columns}
    *leads, overall = widths
    for count in range(len(leads), 2, -1):
        columns = [*_evenly(leads, count), overall]
        if sum(widths[key] for key in columns) <= available:
            return columns
    return [*_evenly(leads, 2), overall]


def _evenly(leads: list[str], count: int) -> list[str]:
    places = {round(k * (len(leads) - 1) / max(count - 1, 1)) for k in range(min(count, len(leads)))}
    return [leads[place] for place in sorted(places)]


def _parts(grid: _Grid, keys: list[str], available: int) -> list[list[str]]:
    """Columns in as few groups as fit the width, each with about as many columns."""
    for count in range(1, len(keys) + 1):
        parts = [[str(key) for key in part] for part in np.array_split(keys, count)]
        if all(sum(_width(key, grid.columns[key]) for key in part) <= available for part in parts):
            return parts
    return [[key] for key in keys]


def _width(key: str, texts: list[str]) -> int:
    """Width of a column with the gap before it."""
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


def _rich(grid: _Grid, parts: list[list[str]], name_width: int) -> Iterator["Text"]:
    """Title and note, then the lines of each group of columns, followed by an empty one."""
    from rich.text import Text

    yield Text(grid.title, style="bold")
    yield from [Text(grid.note, style="dim")] if grid.note else []
    for part in parts:
        columns = [
            [cell.rjust(_width(key, grid.columns[key])) for cell in [key, *aligned(grid.columns[key])]]
            for key in part
        ]
        header = grid.corner.ljust(name_width) + "".join(column.pop(0) for column in columns)
        yield Text(header, style="bold")
        yield Text("─" * len(header), style="dim")
        for name, *cells in zip(grid.names, *columns, strict=True):
            line = Text(name[:name_width].ljust(name_width))
            for cell in cells:
                line.append(cell, style="bold green" if "*" in cell else "")
            yield line
            yield from (Text(name[k : k + name_width]) for k in range(name_width, len(name), name_width))
        yield Text("")


def _by_lead(
    title: str,
    note: str,
    values: Mapping[str, tuple[list[float], float]],
    higher_is_better: bool | None = None,
) -> _Grid:
    """Table of the values by lead time, and of the overall one, that each forecaster has."""
    leads = zip(*([*by_lead, overall] for by_lead, overall in values.values()), strict=True)
    texts = [_starred(column, higher_is_better) for column in leads]
    columns = {str(lead): column for lead, column in enumerate(texts[:-1], start=1)}
    return _Grid(title, note, "lead", list(values), columns | {"overall": texts[-1]})


def _starred(values: Sequence[float], higher_is_better: bool | None) -> list[str]:
    """Numbers as text, the best marked with *."""
    known = [value for value in values if not math.isnan(value)]
    best = math.nan if higher_is_better is None or not known else (max if higher_is_better else min)(known)
    return [four_digits(value) + "*" * (value == best) for value in values]


def _typed(plain: Mapping[str, Any], name: str, kind: type, owner: str = "") -> Any:
    if type(plain[name]) is not kind:
        raise TypeError(f"{name}{owner} {plain[name]!r}"[:100])
    return plain[name]


def _positive(plain: Mapping[str, Any], name: str) -> int:
    value: int = _typed(plain, name, int)
    if value < 1:
        raise ValueError(f"{name} {value}")
    return value


def _read_table(key: str, table: Mapping[str, Any], names: list[str]) -> ScoreTable:
    def values(given: list[Any]) -> list[float]:
        for value in given:
            if value is not None and (type(value) not in (float, int) or not math.isfinite(value)):
                raise TypeError(f"values of {key} {value!r}"[:100])
        return [math.nan if value is None else float(value) for value in given]

    owner = f" of {key}"
    known = table["higher_is_better"] is not None
    return ScoreTable(
        **{name: _typed(table, name, str, owner) for name in ("title", "unit", "formula")},
        higher_is_better=_typed(table, "higher_is_better", bool, owner) if known else None,
        by_lead={name: values(_typed(table["by_lead"], name, list, owner)) for name in names},
        overall={name: values([table["overall"][name]])[0] for name in names},
    )


def _skill(model: float, baseline: float) -> float:
    return 1 - model / baseline if baseline > 0 else math.nan
