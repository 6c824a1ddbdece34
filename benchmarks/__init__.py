"""Figures that the project states, measured: ``python -m benchmarks`` runs every module of this folder.

A benchmark is a module with ``run()``, which yields `Table`s; results are kept by machine in ``results``.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

#: Before a command: torch is held to what a processor without AVX-512 has, and so are our kernels.
AVX2 = "ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 "
HELD_TO_AVX2 = os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2"


class Table(NamedTuple):
    """What was measured.

    Attributes:
        title: of what.
        columns: what the values are, with their units.
        rows: by name, a list of values per column, one value for each repetition; None where there is none.
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[list[float] | None]]

    def markdown(self) -> str:
        """Medians, and behind those of the first column their spread."""
        lines = [f"| {self.title} | {' | '.join(self.columns)} |", "|---|" + "---:|" * len(self.columns)]
        for name, row in self.rows.items():
            cells = ["" if values is None else short(median(values)) for values in row]
            if row[0] is not None and len(row[0]) > 1:
                cells[0] += f" ({short(min(row[0]))} to {short(max(row[0]))})"
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def short(value: float) -> str:
    """Three digits that count, written out: 1,540 and 0.0527."""
    return f"{float(f'{value:.3g}'):,g}"


def rates(
    work: Callable[[], object],
    amount: int,
    repetitions: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """How much of ``amount`` gets done a second, for each repetition of ``work`` after one to warm up."""
    work()
    results = []
    for _ in range(repetitions):
        start = clock()
        work()
        results.append(amount / (clock() - start))
    return results
