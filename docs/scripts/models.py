"""Make the catalogue of docs/models.md: ``python docs/scripts/models.py``.

Weights and operations are those of `convlstm models --json`; seconds, memory and scores those that
``python -m benchmarks models`` measured, where it did.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tables

from convlstm.cli.catalogue import quantity
from convlstm.workflows.models import Entry, models

PAGE = tables.DOCS / "models.md"

#: Columns of a comparing table that are scores.
SCORES = 4
#: Which of them the badges show.
SHOWN = {"digits": 0, "rain": 2}
#: What to take a model for.
TASKS = {
    "ConvLSTMTransformer": "motion and distant dependence, large frames",
    "E3DLSTM": "video clips",
    "EncoderForecaster": "start here: any frames; rain and clouds with advection",
    "MAU": "video with strong motion",
    "MIM": "fields whose trend changes: traffic, radar",
    "PhyDNet": "diffusion and transport beside unknown motion",
    "PredRNN": "moving objects, video",
    "PredRNNPlusPlus": "moving objects, video, longer dependence",
    "PredRNNv2": "moving objects, video; trained with reverse scheduled sampling",
    "SAConvLSTMForecaster": "small frames, distant dependence",
    "StackForecaster": "the plain baseline of papers; any cell",
    "SwinLSTM": "video, attention in place of convolutions",
    "TrajGRUForecaster": "rain that turns and deforms",
}


def parts() -> dict[str, str]:
    """The comparing tables and the catalogue."""
    entries = models()
    measured = tables.results("models")
    found = _measured(measured)
    return {
        "compared": "\n".join(_compared(result) for result in measured.values()) or _nothing(),
        "catalogue": "\n".join(_card(entry, found.get(entry.name, {}), bool(found)) for entry in entries),
    }


def _nothing() -> str:
    return (
        "Scores, seconds and memory are not measured yet: `python -m benchmarks models` measures them, and "
        "`python docs/scripts/models.py` writes them here.\n"
    )


def _compared(result: Mapping[str, Any]) -> str:
    """The comparing tables."""
    texts = []
    for table in result["tables"]:
        subject, _, budget = table["title"].partition(", ")  # "digits, 180 s of one core of ..."
        command = f"BUDGET={budget.split()[0].replace(',', '')} python -m benchmarks models"
        columns, rows = table["columns"], table["rows"].items()
        scored = [k for k in range(SCORES) if any(row[k] for _, row in rows)]
        scores = [[name, *(tables.spread(row[k]) for k in scored)] for name, row in rows]
        costs = [[name, *map(tables.middle, row[SCORES:])] for name, row in rows]
        texts.append(f"{subject.capitalize()}, {budget}, by `{command}`:\n")
        texts.append(tables.markdown([subject, *(columns[k] for k in scored)], scores))
        texts.append(tables.markdown(["what it takes", *columns[SCORES:]], costs))
    return "\n".join(texts)


def _measured(results: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By model, what the badges show: of each subject the first table, that of the least budget."""
    found: dict[str, dict[str, str]] = {}
    for result in results.values():
        for table in result["tables"]:
            subject = table["title"].partition(",")[0]
            for name, row in table["rows"].items():
                values = dict(zip(table["columns"], map(tables.middle, row), strict=True))
                kind, _, variant = name.partition(" ")  # such as "EncoderForecaster advection"
                own = found.setdefault(kind, {})
                if not variant and "second" not in own:  # on the first subject, digits
                    own |= {"second": values["s a step"], "memory": values["MiB"]}
                score = table["columns"][SHOWN[subject]]
                own.setdefault(", ".join(filter(None, (score, subject, variant))), values[score])
    return found


def _card(entry: Entry, measured: Mapping[str, str], others: bool) -> str:
    """The section of one model; ``others`` if any model was measured."""
    seconds, memory = (measured.get(key, "") for key in ("second", "memory"))
    badges = [
        ("task", TASKS[entry.name]),
        ("weights", quantity(entry.parameters)),
        ("multiply-adds", quantity(entry.multiply_adds)),
    ]
    if measured:
        scores = [(key, value) for key, value in measured.items() if key not in ("second", "memory")]
        badges += [("training step", f"{seconds} s"), ("memory", f"{memory} MiB"), *scores]
    elif others:
        badges.append(("seconds, memory, score", tables.NOT_MEASURED))
    line = _badges(badges)
    source = f" Source: {entry.source}." if entry.source else " Our own arrangement."
    return f"### {entry.name}\n\n{line}\n\n{entry.summary}{source}\n"


def _badges(named: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f'<span class="badge">{name} <b>{value}</b></span>' for name, value in named)


def page() -> str:
    """The page as it should be."""
    return tables.page(PAGE, "models", parts())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
