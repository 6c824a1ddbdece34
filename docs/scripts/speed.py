"""Make the tables of docs/speed.md from the measured results: ``python docs/scripts/speed.py``."""

import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import tables

PAGE = tables.DOCS / "speed.md"
#: What is timed, by its name in the results, and its name in the page.
RIVALS = {
    "textbook loop": "textbook loop",
    "textbook loop, torch.compile": "textbook loop, `torch.compile`",
    "Keras ConvLSTM2D": "Keras `ConvLSTM2D` on torch",
    "engine reference": '`engine="reference"`',
    "engine fused": '`engine="fused"`',
    "engine compiled": '`engine="compiled"`',
    "stream": "`layer.stream`",
    "bare convolutions": "the convolutions alone",
}
MAIN = "B4 T10 1-64-64-64 3x3 64x64"
GPU, CPU = "nvidia-h200", "intel-r-xeon-r-processor"
AVX512, AVX2 = "amd-epyc", f"{CPU}-held-to-avx2"

Result = Mapping[str, Any]


def parts() -> dict[str, str]:
    """The tables."""
    names = ("layers", "memory", "linear", "small", "kernels")
    layers, memory, linear, small, kernels = map(tables.results, names)
    made = {}
    for place, name in (("gpu", GPU), ("cpu", CPU), ("avx512", AVX512), ("avx2", AVX2)):
        made[place] = _headed(layers[name], "layers", _engines(layers[name], [MAIN]))
        made[f"{place}-others"] = _engines(layers[name], _cases(layers[name])[1:])
    for place, name in (("gpu", GPU), ("cpu", CPU)):
        made[f"{place}-memory"] = _headed(memory[name], "memory", _memory(memory[name]))
    streams = "\n".join(_streams(layers[name]) for name in (GPU, CPU, AVX512, AVX2))
    return made | {
        "streams": streams,
        "linear": "\n".join(map(_linear, linear.values())),
        "small": "\n".join(map(_small, small.values())),
        "kernels": "\n".join(map(_kernels, kernels.values())),
    }


def _headed(result: Result, benchmark: str, text: str) -> str:
    return f"{tables.machine(result, f'python -m benchmarks {benchmark}')}\n\n{text}"


def _cases(result: Result) -> list[str]:
    """Names of the cases of a result, in their order."""
    ends = ", forward"
    return [t["title"].removesuffix(ends) for t in result["tables"] if t["title"].endswith(ends)]


def _engines(result: Result, cases: Sequence[str]) -> str:
    """Milliseconds of each rival, and how many times the speed of the loop in its precision."""
    by_title = {table["title"]: table for table in result["tables"]}
    made = []
    for case in cases:
        found = [by_title[f"{case}, {direction}"] for direction in ("forward", "forward+backward")]
        dtypes = [dtype for dtype in ("fp32", "bf16") if f"textbook loop, {dtype}" in found[0]["rows"]]
        heading = [title for dtype in dtypes for title in (f"{dtype} forward", "forward + backward")]
        columns = [(table, dtype) for dtype in dtypes for table in found]
        rows = [
            [shown, *(_timed(table, f"{name}, {dtype}", dtype) for table, dtype in columns)]
            for name, shown in RIVALS.items()
            if f"{name}, fp32" in found[0]["rows"]
        ]
        made.append(tables.markdown([_named(case), *heading], rows))
    return "\n".join(made)


def _timed(table: Result, name: str, dtype: str) -> str:
    """Milliseconds, and in brackets the speed relative to the loop of the same precision."""
    row = table["rows"].get(name)
    if row is None:
        return ""
    place = table["columns"].index(f"times the {dtype} loop's speed")
    speed = "" if "textbook loop, " + dtype == name else f" ({tables.short(median(row[place]))}x)"
    return f"{tables.middle(row[0])}{speed}"


def _named(case: str) -> str:
    """A case in words: batch, time, channels, kernel and size."""
    batch, steps, channels, kernel, size = case.split()
    dims = channels.split("-")
    layers = f"{len(dims) - 1} of {dims[-1]}" if len(dims) > 2 else dims[-1]
    return f"ms: B {batch[1:]}, T {steps[1:]}, {dims[0]} to {layers}, {kernel}, {size.replace('x', ' x ')}"


def _streams(result: Result) -> str:
    """Milliseconds of a frame of a stream."""
    found = [table for table in result["tables"] if table["title"].startswith("streaming")]
    rows = [
        [f"{shown}, {dtype}", *(_timed(table, f"{name}, {dtype}", dtype) for table in found)]
        for name, shown in RIVALS.items()
        for dtype in ("fp32", "bf16")
        if f"{name}, {dtype}" in found[0]["rows"]
    ]
    heading = [
        _named(table["title"].rpartition("B1")[1] + table["title"].rpartition("B1")[2]) for table in found
    ]
    return _headed(
        result,
        "layers",
        tables.markdown(["ms a frame", *(h.removeprefix("ms: B 1, T 1, ") for h in heading)], rows),
    )


def _memory(result: Result) -> str:
    """MiB held for the backward pass and at most, of the main case."""
    (table,) = (t for t in result["tables"] if t["title"] == f"memory, {MAIN}")
    rows = [[name, *map(tables.middle, row)] for name, row in table["rows"].items()]
    return tables.markdown([_named(MAIN).replace("ms: ", ""), *table["columns"]], rows)


def _linear(result: Result) -> str:
    """Milliseconds of scans over long sequences."""
    made = []
    for table in result["tables"]:
        rows = [
            [name, tables.middle(row[0]), f"{tables.middle(row[1])}x"] for name, row in table["rows"].items()
        ]
        made.append(tables.markdown([table["title"], *table["columns"]], rows))
    return _headed(result, "linear", "\n".join(made))


def _small(result: Result) -> str:
    """Microseconds of the loop for small layers, and what share of them each engine takes."""
    made = []
    for table in result["tables"]:
        engines = [f"`{column.split(',')[0].removeprefix('engine ')}`" for column in table["columns"][1:]]
        heading = [table["title"].removeprefix("small calls, "), "loop, µs", *engines]
        rows = [
            [_named(case).removeprefix("ms: "), *map(tables.middle, row)]
            for case, row in table["rows"].items()
        ]
        made.append(tables.markdown(heading, rows))
    return _headed(result, "small", "\n".join(made))


def _kernels(result: Result) -> str:
    """Milliseconds of layers with large kernels, and what share they are of those of others."""
    made = []
    for table in result["tables"]:
        heading = [table["title"].removeprefix("large kernels, "), "ms", "of direct", "of the loop"]
        rows = [
            [_named(case).removeprefix("ms: "), *map(tables.middle, row)]
            for case, row in table["rows"].items()
        ]
        made.append(tables.markdown(heading, rows))
    return _headed(result, "kernels", "\n".join(made))


def page() -> str:
    """The page as it should be."""
    return tables.page(PAGE, "speed", parts())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
