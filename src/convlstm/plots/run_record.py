"""Contents of a run folder, read and validated for its report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlstm.errors import RunError, reading
from convlstm.model_folder import weights_digest
from convlstm.training.run_folder import RunFolder, read_metrics
from convlstm.verification.cases import Case, read_cases
from convlstm.verification.results import Verification
from convlstm.verification.verify import read_scores


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Contents of a run folder; None (or no case) for a missing file.

    Attributes:
        path: the folder.
        verification: scores.json.
        cases: cases.npz.
        metrics: rows of metrics.csv.
        config: text of config.yaml.
        command: text of command.txt.
        environment: environment.json.
        outdated: True if the scores are those of other weights than the run's model folder holds.
    """

    path: Path
    verification: Verification | None
    cases: list[Case]
    metrics: list[dict[str, float]] | None
    config: str | None
    command: str | None
    environment: dict[str, Any] | None
    outdated: bool = False


def read_run(path: Path) -> RunRecord:
    """Read the files of a run folder.

    Raises:
        RunError: no such folder, neither metrics.csv nor scores.json in it, or a malformed file.
    """
    run = RunFolder(path)
    if not path.is_dir():
        raise RunError(
            f"a report needs the folder of a run; {path} is not a folder: give the --out of a training"
        )
    if not (run.metrics.exists() or run.scores.exists()):
        raise RunError(
            f"a report needs {run.metrics.name} or {run.scores.name}; {path} holds neither: train or "
            "evaluate first"
        )
    scores = read_scores(run.scores) if run.scores.exists() else None
    cases = read_cases(run.cases) if run.cases.exists() else []
    if scores and cases and scores.model not in cases[0].forecasts:
        raise RunError(
            f"{run.cases} must hold a forecast of {scores.model}, as {run.scores.name} does; received "
            f"{', '.join(cases[0].forecasts)}: run convlstm evaluate {path} again"
        )
    scored, now = scores and scores.weights, weights_digest(run.model)
    return RunRecord(
        path=path,
        verification=scores,
        cases=cases,
        metrics=read_metrics(run.metrics) if run.metrics.exists() else None,
        config=_read_text(run.config),
        command=_read_text(run.commands),
        environment=_read_environment(run.environment),
        outdated=None not in (scored, now) and scored != now,
    )


def _read_text(path: Path) -> str | None:
    if not path.exists():
        return None
    with reading(path, "be readable text in UTF-8", "remove or correct it", RunError):
        return path.read_text(encoding="utf-8")


def _read_environment(path: Path) -> dict[str, Any] | None:
    text = _read_text(path)
    if text is None:
        return None
    with reading(path, "be JSON", "remove or correct it", RunError):
        plain = json.loads(text)
    if not isinstance(plain, dict):
        raise RunError(
            f"{path} must hold names and values; received a {type(plain).__name__}: remove or correct it"
        )
    return plain
