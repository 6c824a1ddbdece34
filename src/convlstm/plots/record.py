"""What a run folder holds, read and checked for its report."""

import csv
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import ConvLSTMError, RunError
from convlstm.hub import weights_digest
from convlstm.training.run_folder import RunFolder
from convlstm.verification.results import Verification
from convlstm.verification.verify import read_scores

Frames = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One forecast to look at.

    Attributes:
        label: best, median or worst.
        index: its place among the test cases.
        mse: the model's.
        past: (K, C, H, W).
        truth: (L, C, H, W).
        forecasts: (L, C, H, W) by forecaster.
    """

    label: str
    index: int
    mse: float
    past: Frames
    truth: Frames
    forecasts: dict[str, Frames]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run folder says about its run; None (or no case) where a file is missing.

    Attributes:
        path: the folder.
        verification: scores.json.
        cases: cases.npz.
        metrics: columns of metrics.csv, NaN where a cell is empty.
        config: config.yaml as it stands.
        command: command.txt as it stands.
        environment: environment.json.
        outdated: whether the scores are of other weights than those in the run's model folder now.
    """

    path: Path
    verification: Verification | None
    cases: list[Case]
    metrics: dict[str, list[float]] | None
    config: str | None
    command: str | None
    environment: dict[str, Any] | None
    outdated: bool = False


def read_record(run: Path) -> Record:
    """Read what there is in a run folder.

    Raises:
        RunError: no such folder, neither metrics.csv nor scores.json in it, or a file in it that is not what
            its name says.
    """
    if not run.is_dir():
        raise RunError(
            f"a report needs the folder of a run; {run} is not a folder: give the --out of a training"
        )
    if not any((run / name).exists() for name in ("metrics.csv", "scores.json")):
        raise RunError(
            f"a report needs metrics.csv or scores.json; {run} holds neither: train or evaluate first"
        )
    verification = _read_scores(run)
    scored, now = verification and verification.weights, weights_digest(RunFolder(run).model)
    return Record(
        path=run,
        verification=verification,
        cases=_read_cases(run / "cases.npz", verification),
        metrics=_read_metrics(run / "metrics.csv"),
        config=_read_text(run / "config.yaml"),
        command=_read_text(run / "command.txt"),
        environment=_read_environment(run / "environment.json"),
        outdated=None not in (scored, now) and scored != now,
    )


def _read_text(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} must be readable text in UTF-8; received {error}: remove or mend it"
        ) from error


def _read_environment(path: Path) -> dict[str, Any] | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path} must be JSON; received {error}: remove or mend it") from error
    if not isinstance(plain, dict):
        raise RunError(
            f"{path} must hold names and values; received a {type(plain).__name__}: remove or mend it"
        )
    return plain


def _read_scores(run: Path) -> Verification | None:
    path = run / "scores.json"
    if not path.exists():
        return None
    again = f"run convlstm evaluate {run} again"
    try:
        scores = read_scores(run)
    except ConvLSTMError:
        raise
    except ValueError as error:
        raise RunError(f"{path} must hold numbers as scores; received {error}: {again}") from error
    if scores.model not in scores.forecasters or "mse" not in scores.scores:
        raise RunError(
            f"{path} must hold the mse of its model; received scores {', '.join(scores.scores) or 'none'} "
            f"of {', '.join(map(str, scores.forecasters)) or 'nothing'}: {again}"
        )
    for key, table in scores.scores.items():
        for name, values in table.by_lead.items():
            if len(values) != scores.steps:
                raise RunError(
                    f"{path} must hold {scores.steps} values by lead time; received {len(values)} "
                    f"for {key} of {name}: {again}"
                )
    return scores


def _read_metrics(path: Path) -> dict[str, list[float]] | None:
    text = _read_text(path)
    if text is None:
        return None
    reader = csv.DictReader(text.splitlines(), restkey="")
    columns: dict[str, list[float]] = {name: [] for name in reader.fieldnames or ()}
    for row in reader:
        for name, values in columns.items():
            try:
                values.append(float(row[name] or math.nan))
            except ValueError:
                raise RunError(
                    f"{path} must hold numbers; received {row[name]!r} as {name} on line {reader.line_num}: "
                    "remove that line"
                ) from None
    epochs = columns.get("epoch", [])
    if not epochs or not all(math.isfinite(epoch) for epoch in epochs) or sorted(set(epochs)) != epochs:
        raise RunError(
            f"{path} must have a column epoch that rises from row to row; received {str(epochs)[:80]}: "
            "train again, or remove it"
        )
    return columns


def _read_cases(path: Path, scores: Verification | None) -> list[Case]:
    if not path.exists():
        return []
    again = f"run convlstm evaluate {path.parent} again"
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} must be a readable .npz file; received {error}: {again}") from error
    missing = {"label", "index", "mse", "past", "truth"} - arrays.keys()
    forecasts = [name for name in arrays if name.startswith("forecast_")]
    if scores is not None and f"forecast_{scores.model}" not in forecasts:
        missing.add(f"forecast_{scores.model}")
    if missing or not forecasts:
        raise RunError(
            f"{path} must hold label, index, mse, past, truth and a forecast; received none of "
            f"{', '.join(sorted(missing)) or 'forecast_*'}: {again}"
        )
    _check_shapes(path, arrays, forecasts, again)
    return [
        Case(
            label=str(arrays["label"][k]),
            index=int(arrays["index"][k]),
            mse=float(arrays["mse"][k]),
            past=arrays["past"][k],
            truth=arrays["truth"][k],
            forecasts={name.removeprefix("forecast_"): arrays[name][k] for name in forecasts},
        )
        for k in range(len(arrays["label"]))
    ]


def _check_shapes(path: Path, arrays: dict[str, NDArray[Any]], forecasts: list[str], again: str) -> None:
    truth, past = arrays["truth"].shape, arrays["past"].shape
    fits = (
        len(truth) == len(past) == 5
        and 0 not in truth + past
        and past[2:] == truth[2:]
        and all(arrays[name].shape == (truth[0],) for name in ("label", "index", "mse"))
        and past[0] == truth[0]
        and all(arrays[name].shape == truth for name in forecasts)
    )
    numeric = all(
        np.issubdtype(arrays[name].dtype, np.number) for name in ("index", "mse", "past", "truth", *forecasts)
    )
    if not fits or not numeric:
        shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
        raise RunError(
            f"{path} must hold numbers as past (N, K, C, H, W), truth and forecasts (N, L, C, H, W); "
            f"received {shapes}: {again}"
        )
