"""Tables of the pages from the measured results, and their places in the pages.

A page marks the place of what a script makes by ``<!-- made by NAME.py: PART -->`` and ``<!-- end -->``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"
NOT_MEASURED = "not measured"
_PLACE = re.compile(r"(<!-- made by (\w+)\.py: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def results(name: str) -> dict[str, dict[str, Any]]:
    """What a benchmark measured, by the folder of the machine."""
    files = sorted(RESULTS.glob(f"*/{name}.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


def machine(result: Mapping[str, Any], command: str) -> str:
    """The machine and the command that a result is from, in one line."""
    found = result["machine"]
    threads = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads"
    place = found["gpu"] or f"{found['processor']}, {threads}"
    versions = f"Python {found['python']}, torch {found['packages']['torch']}"
    return f"Measured on {place}, {versions}, {found['started'][:10]}, by `{command}`."


def short(value: float) -> str:
    """Three digits that count, written out: 1,540 and 0.0527."""
    return f"{float(f'{value:.3g}'):,g}"


def middle(values: Sequence[float] | None) -> str:
    """Median of the repetitions of a measurement."""
    return "" if values is None else short(median(values))


def spread(values: Sequence[float] | None) -> str:
    """Median of the repetitions of a measurement, and the least and the most, in one line, if they differ."""
    if values is None:
        return ""
    least, most = short(min(values)), short(max(values))
    return middle(values) if least == most else f"{middle(values)} ({least}\u00a0to\u00a0{most})"


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns but the first are numbers."""
    lines = [" | ".join(heading), "---" + " | ---:" * (len(heading) - 1), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def page(path: Path, script: str, parts: Mapping[str, str]) -> str:
    """Text of a page with the parts that a script makes in their places.

    Raises:
        ValueError: a part without a place, or a place without a part.
    """
    text = path.read_text(encoding="utf-8")
    places = {part for _, maker, part, _ in _PLACE.findall(text) if maker == script}
    if places != set(parts):
        raise ValueError(f"{path.name} must have places for {sorted(parts)}; received {sorted(places)}")

    def made(place: re.Match[str]) -> str:
        return f"{place[1]}\n{parts[place[3]]}\n{place[4]}" if place[2] == script else place[0]

    return _PLACE.sub(made, text)
