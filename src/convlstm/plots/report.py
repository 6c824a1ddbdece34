"""The report of a run: one HTML file that needs nothing else, sections in the order in which one asks."""

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from convlstm.atomic_write import write_atomically, writing
from convlstm.errors import RunError
from convlstm.plots import film
from convlstm.plots.curves import SLOTS, Line, line_chart, outside, spoken
from convlstm.plots.headline import tiles, verdict
from convlstm.plots.record import Record, read_record
from convlstm.scores.digits import aligned, four_digits, number
from convlstm.verification.results import ScoreTable, Verification

# By which a report is known, so that no other file is ever replaced by one.
_MARK = '<meta name="generator" content="convlstm report">'

_DIRECTION = {True: "higher is better", False: "lower is better", None: ""}
_ARROW = {True: "↑", False: "↓", None: ""}


def write_report(run: Path | str) -> Path:
    """Write ``report.html`` into a run folder.

    The file holds its pictures and needs no network. A part of the run that is missing is named in the
    report, with the command that makes it.

    Args:
        run: the folder.

    Returns:
        path of the report.

    Raises:
        RunError: no such folder, neither metrics.csv nor scores.json in it, a file in it that is not what its
            name says, a report.html that is not ours, or a folder that cannot be written; no report is
            written or replaced then.
    """
    record = read_record(Path(run))
    target = record.path / "report.html"
    if os.path.lexists(target) and _MARK not in _start_of(target):
        raise RunError(
            f"a report must not replace another file; {target} was not written by convlstm report: move it "
            "away"
        )
    write_atomically(target, render(record).encode())
    return target


def _start_of(path: Path) -> str:
    """The first characters of a file."""
    with writing(path), path.open(encoding="utf-8", errors="replace") as file:
        return file.read(1000)


def render(record: Record) -> str:
    """The report as HTML."""
    title = (
        f"{spoken(record.verification.model)} on {record.path.resolve().name}"
        if record.verification
        else (record.path.resolve().name)
    )
    style = files("convlstm.plots").joinpath("report.css").read_text(encoding="utf-8")
    sections = {
        "forecasts": ("Forecasts", _forecasts(record)),
        "scores": ("Scores", _scores(record)),
        "lead-time": ("Scores by lead time", _by_lead(record)),
        "training": ("Training", _training(record)),
        "configuration": ("Configuration", _configuration(record)),
        "environment": ("Command and environment", _environment(record)),
    }
    links = "".join(f'<a href="#{key}">{name}</a>' for key, (name, _) in sections.items())
    body = "".join(
        f'<section id="{key}"><h2>{name}</h2>{content}</section>' for key, (name, content) in sections.items()
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{_MARK}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>\n{style}</style></head>\n<body><main>{_headline(record)}<nav>{links}</nav>{body}</main></body></html>\n"
    )


def _missing(record: Record, what: str, command: str) -> str:
    """The sentence that stands where a part of the run is missing."""
    line = f"convlstm {command} {shlex.quote(str(record.path))}"
    return f'<p class="missing">{what}: <code>{escape(line)}</code> makes them.</p>'


def _headline(record: Record) -> str:
    scores = record.verification
    if scores is None:
        epochs = len((record.metrics or {}).get("epoch", ()))
        heading, numbers = f"Trained for {epochs} epoch{'s' * (epochs != 1)}, not yet verified", ""
    else:
        heading, numbers = verdict(scores), tiles(scores)
    data = f'<p class="data">{escape(scores.data)}</p>' if scores and scores.data else ""
    if record.outdated:
        line = f"convlstm evaluate {shlex.quote(str(record.path))}"
        data += (
            '<p class="missing">The run was trained further since: scores and forecasts are those of an '
            f"earlier model. <code>{escape(line)}</code> makes them anew.</p>"
        )
    eyebrow = f'<p class="eyebrow">Forecast report · {escape(record.path.resolve().name)}</p>'
    return f"<header>{eyebrow}<h1>{heading[:1].upper()}{heading[1:]}</h1>{data}{numbers}</header>"


def _forecasts(record: Record) -> str:
    if not record.cases:
        return _missing(record, "No forecasts to look at yet", "evaluate")
    return film.forecasts(record)


def _scores(record: Record) -> str:
    scores = record.verification
    if scores is None:
        return _missing(record, "No scores yet", "evaluate")
    head, columns = "", []
    for table in scores.scores.values():
        title = f"{table.title}\u202f{_ARROW[table.higher_is_better]}".strip("\u202f")
        head += (
            f'<th scope="col" title="{escape(table.formula)}">{escape(title)}'
            f"<small>{escape(table.unit)}</small></th>"
        )
        columns.append(_cells(title, table.overall, table.higher_is_better))
    head += '<th scope="col">Skill<small>of the model over it</small></th>'
    skill = scores.skill
    over = {name: skill[name].overall if name in skill else None for name in scores.forecasters}
    columns.append(_cells("Skill", over))
    rows = "".join(
        _table_row(spoken(name), [column[name] for column in columns], model=name == scores.model)
        for name in scores.forecasters
    )
    note = "All lead times together. ↓ lower is better, ↑ higher is better; the best of a column is bold."
    return f"<p>{note}</p>{_table(head, rows, 'Scores of all forecasters, overall')}"


def _cells(
    label: str, values: Mapping[str, float | None], higher_is_better: bool | None = None
) -> dict[str, str]:
    """Cells of a column, decimal points below each other, the best bold; None is left out.

    ``label`` stands beside each cell on a narrow screen, where rows become lists.
    """
    known = [v for v in values.values() if v is not None and math.isfinite(v)]
    best = None if higher_is_better is None or not known else (max if higher_is_better else min)(known)
    texts = ["–" if v is None else four_digits(v) if math.isfinite(v) else "n/a" for v in values.values()]
    # Spaces as wide as a digit and as a point.
    texts = [text.replace("-", "−") for text in texts]
    padded = aligned(texts, digit="\u2007", point="\u2008")
    cells = {}
    for (name, value), text, wide in zip(values.items(), texts, padded, strict=True):
        shown = f"<b>{text}</b>" if best is not None and value == best else text
        cells[name] = f'<td data-label="{escape(label)}">{shown}<span>{wide[len(text) :]}</span></td>'
    return cells


def _table_row(name: str, cells: Sequence[str], *, model: bool = False) -> str:
    kind = ' class="model"' if model else ""
    return f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _table(head: str, rows: str, label: str) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _by_lead(record: Record) -> str:
    scores = record.verification
    if scores is None:
        return _missing(record, "No scores yet", "evaluate")
    order = sorted(scores.scores, key=lambda key: {"mse": 0, "sharpness": 1}.get(key, 2))
    charts = [_skill_chart(scores)] if scores.best_baseline else []
    charts += [_score_chart(scores, scores.scores[key]) for key in order]
    tables = "".join(_lead_table(scores, scores.scores[key]) for key in order)
    return (
        f"<p>One line a forecaster, named at its end; {escape(spoken(scores.model))} is the heavy one.</p>"
        f'<div class="charts">{"".join(charts)}</div>'
        f"<details><summary>The same as numbers</summary>{tables}</details>"
    )


def _slots(scores: Verification) -> dict[str, int]:
    """A colour for each forecaster, the same in every chart; the model's is 0."""
    others = [name for name in scores.forecasters if name != scores.model]
    return {scores.model: 0} | {name: 1 + k % (SLOTS - 1) for k, name in enumerate(others)}


def _score_chart(scores: Verification, table: ScoreTable) -> str:
    far = _far(scores, table)
    lines = [
        Line(name=spoken(name), values=table.by_lead[name], slot=slot, far=name in far)
        for name, slot in _slots(scores).items()
    ]
    sharpness = table is scores.scores.get("sharpness")
    direction = "below 1 is blur" if sharpness else _DIRECTION[table.higher_is_better]
    worst = min if table.higher_is_better else max
    beyond = ""
    for line in outside(lines):
        end = worst(filter(math.isfinite, line.values), default=math.nan)
        beyond += f"; {line.name} lies outside, {number(end)} at worst"
    return _chart(
        table.title,
        direction,
        table.formula + beyond,
        range(1, scores.steps + 1),
        lines,
        x_label="lead time (frames)",
        y_label=table.unit,
        log=table.higher_is_better is False,
        reference=(1.0, "truth") if sharpness else None,
    )


def _far(scores: Verification, table: ScoreTable) -> set[str]:
    """Baselines so bad that an axis with them would show nothing of the others.

    By the greatest value of MSE, or of the score itself where greater is not better: more than 30 times that
    of the model and 10 times that of the best baseline.
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


def _skill_chart(scores: Verification) -> str:
    slots = _slots(scores)
    lines = [
        Line(name=spoken(name), values=skill.by_lead, slot=slots[name])
        for name, skill in scores.skill.items()
    ]
    cut = any(value < -1 for line in lines for value in line.values)
    return _chart(
        f"Skill of {spoken(scores.model)}",
        "higher is better",
        "1 − MSE of the model / MSE of each baseline" + ("; below −1 is cut off" if cut else ""),
        range(1, scores.steps + 1),
        lines,
        x_label="lead time (frames)",
        y_label="1 is perfect, 0 is no better",
        reference=(0.0, "no better"),
        floor=-1.0 if cut else None,
    )


def _chart(
    title: str, direction: str, note: str, x: Sequence[float], lines: Sequence[Line], **options: Any
) -> str:
    alt = f"{title} by {options['x_label']}: " + "; ".join(_in_words(line) for line in lines)
    aside = f"<span>{escape(direction)}</span>" if direction else ""
    return (
        f"<figure><figcaption><b>{escape(title)}</b>{aside}<small>{escape(note)}</small></figcaption>"
        f'<div role="img" aria-label="{escape(alt)}">{line_chart(x, lines, **options)}</div></figure>'
    )


def _in_words(line: Line) -> str:
    name = f"{line.name} " if line.name else ""
    return f"{name}from {number(line.values[0])} to {number(line.values[-1])}"


def _lead_table(scores: Verification, table: ScoreTable) -> str:
    """A row a lead time and a column a forecaster, so that any number of lead times fits a page."""
    leads = [f"+{k}" for k in range(1, scores.steps + 1)]
    columns = [
        _cells(spoken(name), dict(zip(leads, table.by_lead[name], strict=True)))
        for name in scores.forecasters
    ]
    head = "".join(f'<th scope="col">{escape(spoken(name))}</th>' for name in scores.forecasters)
    rows = "".join(_table_row(lead, [column[lead] for column in columns]) for lead in leads)
    return f"<h3>{escape(table.title)}, {escape(table.unit)}</h3>" + _table(head, rows, escape(table.title))


def _training(record: Record) -> str:
    metrics = record.metrics
    if metrics is None:
        return '<p class="missing">No training curves: <code>convlstm train</code> writes metrics.csv.</p>'
    epochs = metrics["epoch"]
    charts = []

    def add(title: str, note: str, unit: str, direction: str, **columns: str) -> None:
        found = [(name, metrics[column]) for name, column in columns.items() if column in metrics]
        named = len(found) > 1
        # The validation is what counts, and takes the heavy line.
        lines = [
            Line(name=name if named else "", values=values, slot=int(name == "training"))
            for name, values in found
        ]
        if lines:
            charts.append(
                _chart(
                    title, direction, note, epochs, lines, x_label="epoch", y_label=unit, log=unit == "loss"
                )
            )

    add("Loss", "mean over an epoch", "loss", "lower is better", training="train_loss", validation="val_loss")
    add(
        "Validation MSE", "free running, all lead times", "per pixel", "lower is better", validation="val_mse"
    )
    add("Learning rate", "at the end of an epoch", "step size of the optimiser", "", rate="learning_rate")
    if any(value > 0 for value in metrics.get("teacher", ())):
        add("Teacher forcing", "true frames in place of forecast ones", "probability", "", teacher="teacher")
    return f'<p>{_training_summary(metrics)}</p><div class="charts">{"".join(charts)}</div>'


def _training_summary(metrics: dict[str, list[float]]) -> str:
    text = _count(len(metrics["epoch"]), "epoch")
    seconds = metrics.get("seconds", [math.nan])[-1]
    if math.isfinite(seconds):
        text += f" in {seconds:.0f} s" if seconds < 120 else f" in {seconds / 60:.1f} min"
    known = [
        (v, e)
        for v, e in zip(metrics.get("val_loss", ()), metrics["epoch"], strict=False)
        if math.isfinite(v)
    ]
    if known:
        value, epoch = min(known)
        text += f"; lowest validation loss {number(value)} after epoch {epoch:.0f}"
    return text + "."


def _configuration(record: Record) -> str:
    if record.config is None:
        return '<p class="missing">No configuration: <code>convlstm train</code> writes config.yaml.</p>'
    return f"<p>As <code>--config</code> takes it.</p><pre>{escape(record.config.strip())}</pre>"


def _environment(record: Record) -> str:
    if record.command is None:
        command = '<p class="missing">No command: <code>convlstm train</code> writes command.txt.</p>'
    else:
        command = f"<pre>{escape(record.command.strip())}</pre>"
    if record.environment is None:
        return (
            command
            + '<p class="missing">No environment: <code>convlstm train</code> writes environment.json.</p>'
        )
    rows = "".join(
        f"<dt>{escape(spoken(name))}</dt><dd>{escape(_plain(value))}</dd>"
        for name, value in record.environment.items()
    )
    return f'{command}<dl class="facts">{rows}</dl>'


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _count(number_of: int, what: str) -> str:
    return f"{number_of:,} {what}{'s' * (number_of != 1)}"
