"""Run the benchmarks named on the command line, or all; print tables in Markdown and keep them by machine.

With `AVX2` before the command they measure what a processor without AVX-512 would take.
"""

import json
import platform
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks import AVX2, HELD_TO_AVX2
from convlstm.engines import config
from convlstm.training.run_folder import environment

RESULTS = Path(__file__).parent / "results"


def main(names: list[str]) -> int:
    """Print the tables and write them; 2 if there is no benchmark of a given name."""
    known = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))
    if unknown := sorted(set(names) - set(known)):
        print(f"benchmarks are {', '.join(known)}; received {', '.join(unknown)}", file=sys.stderr)
        return 2
    machine = environment()
    if HELD_TO_AVX2:
        config.cpu_flags = (["-march=x86-64-v3"],)
        machine["processor"] += " held to AVX2"
    heading = machine_name(machine)
    print(heading, flush=True)
    own = RESULTS / re.sub(r"\W+", "-", machine["gpu"] or machine["processor"]).strip("-").lower()
    for name in names or known:
        benchmark = import_module(f"benchmarks.{name}")
        folder = getattr(benchmark, "FOLDER", own)
        folder.mkdir(parents=True, exist_ok=True)
        tables = []
        for table in benchmark.run():
            print(table.markdown(), flush=True)
            tables.append(table)
            setting = (AVX2 if HELD_TO_AVX2 else "") + getattr(benchmark, "SETTING", "")
            command = f"    {setting}python -m benchmarks {name}\n"
            texts = [*([heading] if folder == own else []), command, *(each.markdown() for each in tables)]
            (folder / f"{name}.md").write_text("\n".join(texts), encoding="utf-8")
            content = {"machine": machine, "tables": [each._asdict() for each in tables]}
            (folder / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
        if hasattr(benchmark, "plot"):
            benchmark.plot(tables, folder / f"{name}.png")
    return 0


def machine_name(machine: dict[str, Any]) -> str:
    """What everything ran on, in one line."""
    torch_capability = torch.backends.cpu.get_cpu_capability()
    amx = ", AMX" if torch.cpu._is_amx_tile_supported() and torch_capability != "AVX2" else ""
    return (
        f"{machine['gpu'] or 'no GPU'}; {machine['processor']} ({torch_capability}{amx}), "
        f"{machine['threads']} threads on {machine['cores']} cores; "
        f"Python {platform.python_version()}, torch {torch.__version__}; {machine['started'][:10]}\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
