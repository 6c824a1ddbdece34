"""The commands: a workflow each, and the lines that it prints."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from json import dumps
from typing import Any

import convlstm
from convlstm.data.base import Window
from convlstm.training.run_folder import RunFolder, run_of
from convlstm.verification.results import Verification


def describe(*, json: bool = False, **options: Any) -> None:
    """Describe files, and print a table, or JSON, and the command that follows."""
    from rich.console import Console

    from convlstm.cli.description import command_lines, table

    found = convlstm.describe(**options)
    if json:
        print(dumps(found.to_dict()))
        return
    console = Console()
    console.print(table(found, ascii_only=console.options.ascii_only))
    if found.train:
        print(f"next:\n{command_lines(found.train, console.width)}")
    else:
        paths = shlex.join(map(os.fspath, options["path"]))
        print("next, with a model that was trained on more of such frames:")
        print(f"convlstm forecast MODEL {paths} --steps 12 --out next.nc")


def models(*, json: bool = False) -> None:
    """List the forecasters, as text or as JSON.

    Args:
        json: True to print JSON.
    """
    from rich.console import Console

    from convlstm.cli.catalogue import catalogue
    from convlstm.workflows.models import models as listed

    entries = listed()
    if json:
        print(dumps([entry.to_dict() for entry in entries]))
        return
    console = Console()
    console.print(catalogue(entries, console.width))
    print("next: convlstm train --model NAME\n      convlstm train --model NAME --help   (its options)")


def plan(*, json: bool = False, **options: Any) -> None:
    """Plan, and print a table, or JSON, and options that lower the memory."""
    from rich.console import Console

    from convlstm.cli.needs import table

    found = convlstm.plan(**options)
    if json:
        print(dumps(found.to_dict()))
        return
    console = Console()
    console.print(table(found, console.width, ascii_only=console.options.ascii_only))


def train(**options: Any) -> None:
    """Train, and print the commands that follow."""
    from convlstm.training.processes import is_worker_rank

    run = convlstm.train(**options)
    if not is_worker_rank():
        path, names = shlex.quote(os.fspath(run)), ",".join(run.packages)
        print(f"next: convlstm evaluate {path}{names and f' --trust {names}'}\n      convlstm report {path}")


def evaluate(**options: Any) -> None:
    """Evaluate, and print the tables, those of all scores or of the main ones."""
    brief = not options.pop("all", False)
    _show(convlstm.evaluate(**options, watch=_watched), brief=brief)
    run = run_of(options["model"])
    files = run if run is not None and "out" not in options else RunFolder(options["out"])
    print(f"scores in {files.scores}, {files.scores_table.name}; cases in {files.cases.name}")
    print(f"next: convlstm report {shlex.quote(str(files.path))}")


def forecast(**options: Any) -> None:
    """Forecast, and print where it is."""
    convlstm.forecast(**options)
    paths = options["past"]
    files = paths[0] if len(paths) == 1 else f"{len(paths)} files"
    first = "the last" if options.get("every") is None else f"every {options['every']}"
    count, are = ("1 frame", "is") if options["steps"] == 1 else (f"{options['steps']} frames", "are")
    print(f"{count} after {first} of {files} {are} in {options['out']}")


def inspect(**options: Any) -> None:
    """Write the page of a forecast's inside, and print where it is."""
    convlstm.inspect(**options)
    size = os.path.getsize(options["out"]) / 1e6
    print(f"the page is {options['out']}, {size:.1f} MB")


def report(**options: Any) -> None:
    """Write a report, and print where it is."""
    print(f"the report is {os.fspath(convlstm.report(**options))}")


def demo(**options: Any) -> None:
    """Run the demonstration, and print its tables."""
    done = convlstm.demo(**options)
    _show(done.verification)
    print(f"the report is {os.fspath(done.report)}")
    other = "digits" if options.get("subject") == "rain" else "rain"
    print(f"next: convlstm demo {other}")


def _watched(batches: Iterable[Window], cases: int) -> Iterator[Window]:
    """Batches, with a bar on the screen as they go by."""
    from rich.console import Console
    from rich.progress import Progress

    console, text = Console(stderr=True), f"evaluating {cases} case{'s' * (cases != 1)}"
    if not console.is_terminal:
        print(text, file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=cases)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch.past))


def _show(verification: Verification, *, brief: bool = True) -> None:
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(verification.to_rich(brief=brief))
    else:
        print(verification.to_markdown(brief=brief))
