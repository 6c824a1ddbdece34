"""Report of a run: one self-contained HTML file, rendered from ``templates/report.html.j2``."""

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convlstm.atomic_write import write_atomically, writing
from convlstm.errors import RunError
from convlstm.plots.curves import SLOTS, Line, display_name, line_chart, outside
from convlstm.plots.headline import drawbacks, tiles, verdict
from convlstm.plots.pages import template
from convlstm.plots.report_frames import film_strips
from convlstm.plots.run_record import RunRecord, read_run
from convlstm.scores.digits import aligned, in_text
from convlstm.scores.lead_times import lead_text, lead_unit
from convlstm.training.run_folder import RunFolder
from convlstm.validation import check_path
from convlstm.verification.results import Verification
from convlstm.verification.score_table import ScoreTable, Spectra

# Text of every report: a file without it is not replaced.
_GENERATOR = '<meta name="generator" content="convlstm report">'
_DIRECTION = {True: "higher is better", False: "lower is better", None: ""}
# Title, direction, note, unit and columns of metrics.csv of the charts of a training.
_TRAINING = (
    ("Loss", "lower is better", "mean over an epoch", "loss", ("val_loss", "train_loss")),
    ("Validation MSE", "lower is better", "free running, all lead times", "per pixel", ("val_mse",)),
    ("Learning rate", "", "at the end of an epoch", "step size of the optimizer", ("learning_rate",)),
    ("Penalty of the model", "", "added to the loss in training", "penalty", ("train_penalty",)),
    (
        "Teacher forcing",
        "",
        "true frames in place of forecast ones",
        "probability",
        ("teacher", "teacher_past"),
    ),
)
_MOST_COLUMNS = 10  # scores that are columns of a table; more are its rows
_TRAINING_NAMES = {"val_loss": "validation", "train_loss": "training"}
_TRAINING_NAMES |= {"teacher": "forecast", "teacher_past": "past"}


class TableCell(NamedTuple):
    """Number of a table; the padding behind it aligns the decimal points of a column."""

    text: str
    padding: str
    best: bool


class Column(NamedTuple):
    """Column of a table: its heading and a cell for each row."""

    name: str
    cells: list[TableCell]
    unit: str = ""
    formula: str = ""


class Table(NamedTuple):
    """Table of the report; ``rows`` are their names, ``model`` that of the emphasised one."""

    title: str
    rows: list[str]
    columns: list[Column]
    model: str = ""


class Chart(NamedTuple):
    """Line chart of the report, with texts around it."""

    title: str
    direction: str
    note: str
    alt: str
    svg: str


def write_report(run: Path | str) -> Path:
    """Write ``report.html`` into a run folder.

    The file contains its pictures and needs no network. A missing part of the run is named in the report,
    with the command that makes it.

    Args:
        run: the folder.

    Returns:
        path of the report.

    Raises:
        RunError: no such folder, neither metrics.csv nor scores.json in it, a malformed file, a report.html
            that is not a report, or a folder that cannot be written; no report is written or replaced then.
    """
    record = read_run(check_path(run, "run"))
    target = RunFolder(record.path).report
    if os.path.lexists(target) and _GENERATOR not in _start_of(target):
        raise RunError(
            f"a report must not replace another file; {target} was not written by convlstm report: move it "
            "away"
        )
    write_atomically(target, report_page(record).encode())
    return target


def _start_of(path: Path) -> str:
    with writing(path), path.open(encoding="utf-8", errors="replace") as file:
        return file.read(1000)


def report_page(record: RunRecord) -> str:
    """The report as HTML; every text from the run is escaped by the template."""
    scores, metrics = record.verification, record.metrics
    return template("report.html.j2").render(
        generator=_GENERATOR,
        name=record.path.resolve().name,
        run=RunFolder(record.path),
        folder=shlex.quote(str(record.path)),
        outdated=record.outdated,
        epochs=len(metrics or ()),
        scores=_scores(scores) if scores else None,
        strips=film_strips(record) if record.cases else None,
        training=_training(metrics) if metrics else None,
        config=record.config,
        command=record.command,
        environment=_flat(record.environment) if record.environment is not None else None,
    )


def _scores(scores: Verification) -> dict[str, Any]:
    """The headline, tables and charts; scores with MSE and sharpness, which belong together, first."""
    order = sorted(scores.scores, key=lambda key: {"mse": 0, "sharpness": 1}.get(key, 2))
    # Of many scores, those of which a page of curves is made; the others are there on demand.
    shown = set(scores.main_scores) - {key for key in order if key.startswith(("pod", "far"))}
    first = [key for key in order if key in shown] if "rmse" in scores.scores else order
    charts = [_skill_chart(scores)] if scores.best_baseline else []
    charts += [_score_chart(scores, scores.scores[key]) for key in first]
    if scores.spectra is not None:
        charts.append(_spectra_chart(scores, scores.spectra))
    return {
        "model": display_name(scores.model),
        "data": scores.data,
        "unresolved": scores.unresolved,
        "verdict": verdict(scores),
        "drawbacks": list(drawbacks(scores)),
        "tiles": tiles(scores),
        "overall": _overall(scores, scores.main_scores),
        "all": _overall(scores, order) if len(scores.main_scores) < len(order) else None,
        "charts": charts,
        "more_charts": [_score_chart(scores, scores.scores[key]) for key in order if key not in first],
        "lead_tables": [_lead_table(scores, scores.scores[key]) for key in order],
    }


def _overall(scores: Verification, keys: Sequence[str]) -> Table:
    """All lead times together: a row per forecaster, a column per score; of many scores the other way."""
    arrow = {True: "\u202f↑", False: "\u202f↓", None: ""}
    names, title = scores.forecasters, "Scores of all forecasters, overall"
    tables = [scores.scores[key] for key in keys]
    heads = [table.title + arrow[table.higher_is_better] for table in tables]
    values = [[table.overall[name] for name in names] for table in tables]
    marks = [_marks(table) for table in tables]
    skill = [scores.skill[name].overall if name in scores.skill else None for name in names]
    if len(scores.scores) > _MOST_COLUMNS:
        columns = [
            Column(
                display_name(name), _cells([*(row[k] for row in values), skill[k]], [row[k] for row in marks])
            )
            for k, name in enumerate(names)
        ]
        return Table(title, [*heads, "Skill of the model over it"], columns)
    columns = [
        Column(head, _cells(row, mark), table.unit, table.formula)
        for head, row, mark, table in zip(heads, values, marks, tables, strict=True)
    ]
    columns.append(Column("Skill", _cells(skill), "of the model over it"))
    return Table(title, [*map(display_name, names)], columns, display_name(scores.model))


def _marks(table: ScoreTable) -> list[str]:
    """Marks of the overall values: * for the best, ~ if the order is not resolved."""
    best = table.best(None)
    return ["" if name not in best else "*" if table.resolved(name, None) else "~" for name in table.overall]


def _lead_table(scores: Verification, table: ScoreTable) -> Table:
    """A row per lead time and a column per forecaster, so that any number of lead times fits a page."""
    rows = [lead_text(k, scores.step_s) for k in range(1, scores.steps + 1)]
    columns = []
    for name in scores.forecasters:
        values = list(table.by_lead[name])
        if table.mean_of_leads is not None:
            values += [table.mean_of_leads[name], table.overall[name]]
        columns.append(Column(display_name(name), _cells(values)))
    if table.mean_of_leads is not None:
        rows += ["mean", "pooled"]
    counts = f", {table.count(0):,} {table.samples_of} at {rows[0]}" if table.samples else ""
    return Table(f"{table.title}, {table.unit}{counts}", rows, columns)


def _cells(values: Sequence[float | None], marks: Sequence[str] = ()) -> list[TableCell]:
    """Cells of a column; None is a cell that does not apply. The mark * is a bold number."""
    marks = [*marks, *[""] * (len(values) - len(marks))]
    texts = ["–" if v is None else in_text(v) for v in values]
    texts = [text + mark.strip("*") for text, mark in zip(texts, marks, strict=True)]
    padded = aligned(texts, digit="\u2007", point="\u2008")  # spaces as wide as a digit and as a point
    return [
        TableCell(text, wide[len(text) :], mark == "*")
        for text, wide, mark in zip(texts, padded, marks, strict=True)
    ]


def _slots(scores: Verification) -> dict[str, int]:
    """Colour of each forecaster, the same in every chart; 0 for the model."""
    others = [name for name in scores.forecasters if name != scores.model]
    return {scores.model: 0} | {name: 1 + k % (SLOTS - 1) for k, name in enumerate(others)}


def _score_chart(scores: Verification, table: ScoreTable) -> Chart:
    far, ranges = _far(scores, table), table.intervals.by_lead if table.intervals else {}
    banded = {scores.model, scores.best_baseline}
    lines = [
        Line(
            name=display_name(name),
            values=table.by_lead[name],
            slot=slot,
            far=name in far,
            band=ranges.get(name, ()) if name in banded else (),
        )
        for name, slot in _slots(scores).items()
    ]
    sharpness = table.unit.startswith("ratio, 1")
    direction = (
        "below 1 is blur" if table is scores.scores.get("sharpness") else _DIRECTION[table.higher_is_better]
    )
    worst = min if table.higher_is_better else max
    note = table.formula + ("; bands are 95 % intervals" if ranges else "")
    for line in outside(lines):
        end = worst(filter(math.isfinite, line.values), default=math.nan)
        note += f"; {line.name} lies outside, {in_text(end)} at worst"
    options = {"log": table.higher_is_better is False, "reference": (1.0, "truth") if sharpness else None}
    leads, label = _leads(scores)
    return _chart(table.title, direction, note, leads, lines, label, table.unit, **options)


def _leads(scores: Verification) -> tuple[list[float], str]:
    """Places of the lead times on an axis, and its label."""
    unit = lead_unit(scores.step_s)
    return [k * unit.step for k in range(1, scores.steps + 1)], f"lead time ({unit.name})"


def _far(scores: Verification, table: ScoreTable) -> set[str]:
    """Baselines so bad that an axis with them would hide the differences between the others.

    The criterion is the greatest value of MSE, or of the score itself if lower is better: more than 30 times
    that of the model and 10 times that of the best baseline.
    """
    far: set[str] = set()
    for one in [scores.scores["mse"]] + [table] * (table.higher_is_better is not True):
        peaks = {
            name: max((abs(v) for v in values if math.isfinite(v)), default=math.inf)
            for name, values in one.by_lead.items()
        }
        model = peaks.pop(scores.model)
        limit = max(30 * model, 10 * min(peaks.values(), default=0))
        far |= {name for name, peak in peaks.items() if peak > limit > 0}
    return far


def _skill_chart(scores: Verification) -> Chart:
    slots = _slots(scores)
    lines = [
        Line(name=display_name(name), values=skill.by_lead, slot=slots[name])
        for name, skill in scores.skill.items()
    ]
    cut = any(value < -1 for line in lines for value in line.values)
    leads, label = _leads(scores)
    return _chart(
        f"Skill of {display_name(scores.model)}",
        "higher is better",
        "1 − MSE of the model / MSE of each baseline" + ("; below −1 is cut off" if cut else ""),
        leads,
        lines,
        label,
        "1 is perfect, 0 is no better",
        reference=(0.0, "no better"),
        floor=-1.0 if cut else None,
    )


def _spectra_chart(scores: Verification, spectra: Spectra) -> Chart:
    """Power spectra of the model, the best baseline and the truth."""
    slots, best = _slots(scores), scores.best_baseline
    slots["truth"] = 7 if best is not None and slots[best] == 4 else 4
    lines = [
        Line(
            name=display_name(name),
            values=[value if value > 0 else math.nan for value in spectra.power[name]],
            slot=slots[name],
        )
        for name in (scores.model, best, "truth")
        if name is not None
    ]
    return _chart(
        f"Power spectrum at {lead_text(scores.steps, scores.step_s)}",
        "below the truth is blur",
        "radially averaged, mean over frames",
        spectra.wavelengths,
        lines,
        "wavelength (pixels)",
        f"power ({scores.unit})²" if scores.unit else "power",
        log=True,
        log_x=True,
    )


def _training(rows: list[dict[str, float]]) -> dict[str, Any]:
    """The charts of a training and a sentence on it."""
    epochs = [row["epoch"] for row in rows]
    charts = []
    for title, direction, note, unit, columns in _TRAINING:
        values = {name: [row[name] for row in rows] for name in columns if name in rows[0]}
        if not values or ("teacher" in values and not any(value > 0 for value in values["teacher"])):
            continue
        # The validation loss selects the weights, and is the heavy line.
        lines = [
            Line(name=_TRAINING_NAMES.get(name, "") if len(values) > 1 else "", values=y, slot=slot)
            for (name, y), slot in zip(values.items(), (0, 1), strict=False)
        ]
        charts.append(_chart(title, direction, note, epochs, lines, "epoch", unit, log=unit == "loss"))
    return {"charts": charts, "summary": _training_summary(rows)}


def _chart(
    title: str,
    direction: str,
    note: str,
    x: Sequence[float],
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    **options: Any,
) -> Chart:
    ranges = [f"{line.name} from {in_text(line.values[0])} to {in_text(line.values[-1])}" for line in lines]
    alt = f"{title} by {x_label}: " + "; ".join(text.strip() for text in ranges)
    return Chart(
        title, direction, note, alt, line_chart(x, lines, x_label=x_label, y_label=y_label, **options)
    )


def _training_summary(rows: list[dict[str, float]]) -> str:
    text = f"{len(rows):,} epoch{'s' * (len(rows) != 1)}"
    seconds = rows[-1].get("seconds", math.nan)
    if math.isfinite(seconds):
        text += f" in {seconds:.0f} s" if seconds < 120 else f" in {seconds / 60:.1f} min"
    losses = [(loss, row["epoch"]) for row in rows if math.isfinite(loss := row.get("val_loss", math.nan))]
    if losses:
        loss, epoch = min(losses)
        text += f"; lowest validation loss {in_text(loss)} after epoch {epoch:.0f}"
    return text + "."


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """Names and values as text."""
    return {display_name(name): _plain(value) for name, value in environment.items()}


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return value if isinstance(value, str) else json.dumps(value)
