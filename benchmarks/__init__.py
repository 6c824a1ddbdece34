"""Figures that the project states, measured: ``python -m benchmarks`` runs every module of this folder.

A benchmark is a module with ``run()``, which returns a list of `Figure`.
"""

import time
from collections.abc import Callable
from typing import NamedTuple


class Figure(NamedTuple):
    """One row of the table.

    Attributes:
        name: what was measured.
        unit: of the values.
        values: one for each repetition.
    """

    name: str
    unit: str
    values: list[float]


def rates(work: Callable[[], object], amount: int, repetitions: int = 7) -> list[float]:
    """How much of ``amount`` gets done a second, for each repetition of ``work`` after one to warm up."""
    work()
    results = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        results.append(amount / (time.perf_counter() - start))
    return results
