"""The commands: a workflow each, and the lines that it prints."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from convlstm.data.base import Source, Window
from convlstm.models.base import Forecaster
from convlstm.training.config import TrainingConfig
from convlstm.verification.results import Verification

Optimizer = Callable[[Any], torch.optim.Optimizer]
Scheduler = Callable[[Any], torch.optim.lr_scheduler.LRScheduler]


def train(
    *,
    data: Source | None = None,
    model: Forecaster | None = None,
    config: TrainingConfig | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    callbacks: list[Any] | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    trust: str = "",
) -> None:
    """`convlstm.workflows.train.train`."""
    from convlstm.training.processes import is_worker_rank
    from convlstm.workflows.train import train

    run = train(
        data=data,
        model=model,
        config=config,
        optimizer=optimizer,
        scheduler=scheduler,
        callbacks=callbacks or (),
        out=out,
        resume=resume,
        trust=trust,
    )
    if not is_worker_rank():
        path, names = shlex.quote(os.fspath(run)), ",".join(run.packages)
        print(f"next: convlstm evaluate {path}{names and f' --trust {names}'}\n      convlstm report {path}")


def evaluate(
    model: Path,
    *,
    data: Source | None = None,
    data_range: float | None = None,
    batch_size: int = 16,
    out: Path | None = None,
    trust: str = "",
) -> None:
    """`convlstm.workflows.evaluate.evaluate`."""
    from convlstm.training.run_folder import run_of
    from convlstm.workflows.evaluate import evaluate

    options: dict[str, Any] = {"data": data, "data_range": data_range, "batch_size": batch_size, "out": out}
    _show(evaluate(model, **options, trust=trust, watch=_watched))
    run = run_of(model)
    folder = out if run is None or out is not None else run.path
    print(f"scores in {folder}/scores.json, scores.csv; cases in cases.npz")
    print(f"next: convlstm report {shlex.quote(str(folder))}")


def forecast(
    model: Path, past: Path, *, steps: int, out: Path, overwrite: bool = False, trust: str = ""
) -> None:
    """`convlstm.workflows.forecast.forecast`."""
    from convlstm.workflows.forecast import forecast

    forecast(model, past, steps=steps, out=out, overwrite=overwrite, trust=trust)
    print(f"{steps} frames after the last of {past} are in {out}")


def report(run: Path) -> None:
    """`convlstm.workflows.report.report`."""
    from convlstm.workflows.report import report

    print(f"the report is {os.fspath(report(run))}")


def demo(*, out: Path | None = None) -> None:
    """`convlstm.workflows.demo.demo`."""
    from convlstm.workflows.demo import demo

    done = demo(out)
    _show(done.verification)
    print(f"the report is {os.fspath(done.report)}")


def _watched(batches: Iterable[Window], cases: int) -> Iterator[Window]:
    """Batches, with a bar on the screen as they go by."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"evaluating {cases} cases", file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"evaluating {cases} cases", total=cases)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch.past))


def _show(verification: Verification) -> None:
    from rich.console import Console

    console = Console()
    shown = [name for name in ("mse", "sharpness") if name in verification.scores]
    if console.is_terminal:
        console.print(verification.to_rich(*shown))
    else:
        print(verification.to_markdown(*shown))
