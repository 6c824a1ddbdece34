"""Run the benchmarks named on the command line, or all, and print a Markdown table."""

import platform
import sys
from importlib import import_module
from pathlib import Path
from statistics import median

import torch

from convlstm.training.run import environment


def main(names: list[str]) -> int:
    """Print the table; 2 if there is no benchmark of a given name."""
    known = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))
    if unknown := sorted(set(names) - set(known)):
        print(f"benchmarks are {', '.join(known)}; received {', '.join(unknown)}", file=sys.stderr)
        return 2
    machine = environment()
    print(
        f"{machine['processor']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}; "
        f"Python {platform.python_version()}, torch {torch.__version__}\n"
    )
    print("| benchmark | median | lowest to highest | unit |\n|---|---:|---:|---|")
    for name in names or known:
        for figure in import_module(f"benchmarks.{name}").run():
            spread = f"{min(figure.values):,.4g} to {max(figure.values):,.4g}"
            print(f"| {figure.name} | {median(figure.values):,.4g} | {spread} | {figure.unit} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
