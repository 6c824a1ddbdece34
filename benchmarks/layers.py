"""Time of our layers in one run with the loop everyone writes, and with the bare convolutions: the floor.

Every repetition times all rivals in turn, so that a machine that slows down slows them all.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import Table, short
from benchmarks._rivals import (
    CASES,
    DEVICE,
    PRECISIONS,
    Case,
    TextbookLSTM,
    autocast,
    engine,
    floor,
    rival,
    rivals,
)

REPETITIONS = 9 if DEVICE == "cpu" else 20
#: A GPU's calls are recorded at the third.
WARM_UPS = 1 if DEVICE == "cpu" else 4
#: Seconds after which a table has repetitions enough.
LONG_ENOUGH = 100
#: Frames that a stream is timed over.
STREAMED = 100


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes, with all that it asks of a GPU."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def times(works: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each rival in each repetition, all in turn, so that a slower moment slows them all."""
    for work in works.values():
        for _ in range(WARM_UPS):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    start = time.perf_counter()
    for repetition in range(REPETITIONS):
        if repetition >= 2 and time.perf_counter() - start > LONG_ENOUGH:
            break
        for name, work in works.items():
            seconds[name].append(seconds_of(work))
    return seconds


def compared(title: str, seconds: dict[str, list[float]]) -> Table:
    """Times, how many times a loop's speed they are, and how many times the bare convolutions'."""
    speeds = (f"times the {precision} loop's speed" for precision in PRECISIONS.values())
    columns = ("ms", *speeds, "of the bare convolutions")
    rows: dict[str, list[list[float] | None]] = {}
    for name, own in seconds.items():
        precision = name.rsplit(", ", 1)[1]
        loops = [seconds.get(f"textbook loop, {p}") for p in PRECISIONS.values()]
        faster = [None if loop is None else [a / b for a, b in zip(loop, own, strict=True)] for loop in loops]
        bare = seconds.get(f"bare convolutions, {precision}")
        more = None if bare is None else [b / a for a, b in zip(bare, own, strict=True)]
        rows[name] = [[1000 * value for value in own], *faster, more]
    return Table(title, columns, rows)


def streaming(case: Case) -> Table:
    """One frame after another."""
    case = case._replace(batch=1, steps=1)
    frame = torch.randn(1, case.inputs, case.size, case.size, device=DEVICE)
    works: dict[str, Callable[[], object]] = {}
    for mixed, precision in PRECISIONS.items():
        loop, session = TextbookLSTM(case).to(DEVICE), engine(case, "auto").stream(1, (case.size, case.size))
        works[f"textbook loop, {precision}"] = repeated(rival(loop, frame[:, None], mixed).forward, False)
        works[f"stream, {precision}"] = repeated(partial(session, frame), mixed)
        works[f"bare convolutions, {precision}"] = repeated(floor(case, mixed).forward, False)
    seconds = {name: [s / STREAMED for s in own] for name, own in times(works).items()}
    return compared(f"streaming, a frame of {case}", seconds)


def repeated(work: Callable[[], object], mixed: bool) -> Callable[[], None]:
    """Frames enough to be timed together."""

    def run() -> None:
        with autocast(mixed):
            for _ in range(STREAMED):
                work()

    return run


def scaling() -> Table:
    """How cost grows with frames, sequences and pixels; forward and backward pass."""
    middle = Case(batch=4, steps=10, inputs=1, hidden=[64], kernel=3, size=64)
    rows = {}
    mixed, precision = list(PRECISIONS.items())[-1]
    changes: tuple[Iterator[dict[str, Any]], ...] = (
        ({"steps": n} for n in (5, 10, 20, 40)),
        ({"batch": n} for n in (1, 2, 4, 8)),
        ({"size": n} for n in (16, 32, 64, 128)),
    )
    for change in changes:
        for changed in change:
            case = middle._replace(**changed)
            x = torch.randn(case.batch, case.steps, case.inputs, case.size, case.size, device=DEVICE)
            works = {
                "loop": rival(TextbookLSTM(case).to(DEVICE), x, mixed).train,
                "ours": rival(engine(case, "auto"), x, mixed).train,
            }
            seconds = times(works)
            pixels = case.batch * case.steps * case.size**2
            ns = [[1e9 * s / pixels for s in seconds[name]] for name in ("ours", "loop")]
            faster = [a / b for a, b in zip(seconds["loop"], seconds["ours"], strict=True)]
            rows[str(case)] = [*ns, faster]
    columns = ("ns a pixel and frame", f"the {precision} loop's", "times its speed")
    return Table(f"forward+backward, {precision}", columns, rows)


def run() -> Iterator[Table]:
    """Times of every case, streaming, and how cost grows."""
    torch.manual_seed(0)
    for n, case in enumerate(CASES):
        found = rivals(case, everything=not n)
        for train, what in ((False, "forward"), (True, "forward+backward")):
            works = {name: each.train if train else each.forward for name, each in found.items()}
            yield compared(f"{case}, {what}", times(works))
    for hidden in ([32, 32], [64, 64, 64]):
        yield streaming(Case(batch=1, steps=1, inputs=1, hidden=hidden, kernel=3, size=64))
    yield scaling()


def first(table: Table, name: str) -> float:
    """Median of the first column of a row."""
    values = table.rows[name][0]
    assert values is not None
    return median(values)


def plot(tables: list[Table], path: Path) -> None:
    """The times of each case as bars, the bare convolutions as a line."""
    import matplotlib.pyplot as plt

    shown = [table for table in tables if "forward" in table.title and "times the fp32" in table.columns[1]]
    shown = [table for table in shown if not table.title.startswith("streaming")]
    figure, axes = plt.subplots(
        len(shown) // 2, 2, figsize=(10, 1 + 2.1 * len(shown) // 2), squeeze=False, layout="constrained"
    )
    colours = {"fp32": "#8a8f98", "bf16": "#2f6fdb"}
    for axis, table in zip(axes.flat, shown, strict=True):
        names = [name for name in table.rows if "bare" not in name][::-1]
        values = [first(table, name) for name in names]
        axis.barh(
            [name.removeprefix("engine ").replace("textbook loop, torch", "torch") for name in names],
            values,
            color=[colours[name.rsplit(", ", 1)[1]] for name in names],
        )
        axis.set_xlim(0, 1.15 * min(max(values), 3 * first(table, "textbook loop, fp32")))
        for place, value in enumerate(values):
            axis.text(min(value, axis.get_xlim()[1]), place, f" {short(value)}", va="center", fontsize=7)
        for precision in PRECISIONS.values():
            bare = first(table, f"bare convolutions, {precision}")
            axis.axvline(bare, color=colours[precision], linestyle="--", linewidth=1)
        axis.set_title(table.title.replace(", ", "\n", 1), fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("ms; dashed: the bare convolutions of each precision", fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
