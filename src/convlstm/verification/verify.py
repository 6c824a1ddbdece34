"""Verifying a forecaster: its scores beside those of the baselines, and the cases to look at."""

import csv
import io
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convlstm.data.base import Window, WindowDataset
from convlstm.errors import ConvLSTMError, DataError, OptionError, RunError, ShapeError
from convlstm.models.base import Forecaster
from convlstm.models.baselines import BASELINES
from convlstm.scores.base import Score, ScoreState
from convlstm.scores.standard import standard_scores
from convlstm.verification.results import ScoreTable, Verification

_RESERVOIR = 1023

Baselines = Mapping[str, Callable[[], Forecaster]]


@dataclass(frozen=True)
class Cases:
    """The best, the median and the worst case by the model's MSE over all lead times.

    Attributes:
        label: ``best``, ``median``, ``worst``.
        index: the place of each in the order in which cases were verified, from 0.
        mse: the model's MSE of each.
    """

    label: tuple[str, str, str]
    index: tuple[int, int, int]
    mse: tuple[float, float, float]


def verify(
    model: Forecaster,
    batches: Iterable[Window],
    *,
    name: str = "model",
    data: str = "",
    baselines: Baselines = BASELINES,
    scores: Sequence[Score] | None = None,
    data_range: float | None = None,
) -> tuple[Verification, Cases]:
    """Score a forecaster and the baselines on the same cases.

    Holds one batch, one forecast of it and the sums of the scores: memory does not grow with the number of
    cases. The best and the worst case are exact, and so is the median up to 1023 cases; beyond, it is that of
    1023 cases drawn evenly from all.

    Args:
        model: called as ``model(past, steps)`` in evaluation mode, without gradients; put back as it was.
        batches: windows with past (B, K, C, H, W) and future (B, L, C, H, W), K and L the same in all; moved
            to the model's device. ``Cases.index`` are indices of a data set if they come in its order.
        name: of the model in the tables.
        data: what is being forecast, one line.
        baselines: what makes each, by name.
        scores: one must be `MSE`; those of `standard_scores` that fit the frames if None.
        data_range: largest minus smallest value that the data can take, for `standard_scores`; without it
            they have no PSNR and no SSIM.

    Returns:
        The scores and the cases to look at.

    Raises:
        OptionError: no baseline, a name given twice, no MSE, or a data range that is not positive.
        ShapeError: a forecast or a batch of another shape than the rest.
        DataError: no case, or a value that is not finite in a forecast or the truth.
    """
    _check(name, baselines, standard_scores(data_range) if scores is None else scores)
    forecasters = {name: model} | {key: make() for key, make in baselines.items()}
    states: dict[str, list[ScoreState]] = {}
    chosen = _Chosen()
    lengths: tuple[int, int] | None = None
    with _evaluating(model):
        for past, truth in _on_device(batches, model):
            lengths = lengths or (past.shape[1], truth.shape[1])
            scores = standard_scores(data_range, truth.shape[-2:]) if scores is None else scores
            if lengths != (past.shape[1], truth.shape[1]):
                raise ShapeError(
                    f"all batches must have {lengths[0]} past and {lengths[1]} future frames; received "
                    f"{past.shape[1]} and {truth.shape[1]}: verify them apart"
                )
            states = states or {key: [score.init(lengths[1]) for score in scores] for key in forecasters}
            for key, forecaster in forecasters.items():
                forecast = forecaster(past, lengths[1])
                states[key] = _updated(key, scores, states[key], forecast, truth)
                if key == name:
                    chosen.add((forecast.float() - truth.float()).square().mean((1, 2, 3, 4)).tolist())
    if lengths is None or scores is None:
        raise DataError("verification needs at least one case; received none: check the data and its split")
    verification = Verification(
        model=name,
        cases=chosen.seen,
        past=lengths[0],
        steps=lengths[1],
        data=data,
        forecasters=tuple(forecasters),
        scores=_tables(scores, states),
    )
    return verification, chosen.cases()


def scores_files(verification: Verification) -> dict[str, bytes]:
    """Content by name of ``scores.json`` and ``scores.csv`` (a row a forecaster, score and lead time)."""
    text = json.dumps(verification.to_dict(), indent=2, allow_nan=False) + "\n"
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("forecaster", "score", "lead", "value"))
    writer.writerows(verification.rows())
    return {"scores.json": text.encode(), "scores.csv": lines.getvalue().encode()}


def read_scores(folder: str | Path) -> Verification:
    """Read ``scores.json`` of a folder.

    Raises:
        RunError: it is missing, unreadable, or of a newer schema.
    """
    path = Path(folder, "scores.json")
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} must be a readable JSON file; {error}: evaluate the run first") from None
    return Verification.from_dict(plain)


def cases_file(
    cases: Cases,
    dataset: WindowDataset,
    model: Forecaster,
    *,
    name: str = "model",
    baselines: Baselines = BASELINES,
) -> bytes:
    """Forecast the chosen cases once more and return the content of ``cases.npz``.

    It holds ``label``, ``index`` and ``mse`` (3,), ``past`` (3, K, C, H, W), ``truth`` (3, L, C, H, W) and,
    for every forecaster, ``forecast_<name>`` (3, L, C, H, W).

    Args:
        cases: from `verify`.
        dataset: whose windows were verified, in its order.
        model: as in `verify`.
        name: as in `verify`.
        baselines: as in `verify`.
    """
    windows = [dataset[index] for index in cases.index]
    window = Window(*(torch.stack(frames) for frames in zip(*windows, strict=True)))
    arrays: dict[str, Any] = {key: np.array(values) for key, values in asdict(cases).items()}
    forecasters = {name: model} | {key: make() for key, make in baselines.items()}
    with _evaluating(model):
        for past, truth in _on_device([window], model):
            arrays |= {"past": _array(past), "truth": _array(truth)}
            for key, forecaster in forecasters.items():
                arrays[f"forecast_{key}"] = _array(forecaster(past, truth.shape[1]))
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


class _Chosen:
    """Finds the best, the median and the worst of a stream, in constant memory."""

    def __init__(self) -> None:
        self.seen = 0
        self.best = (float("inf"), -1)
        self.worst = (-float("inf"), -1)
        self.kept: list[tuple[float, int]] = []
        self.draw = random.Random(0)

    def add(self, mse_B: list[float]) -> None:
        for mse in mse_B:
            case = (mse, self.seen)
            self.best, self.worst = min(self.best, case), max(self.worst, case)
            if len(self.kept) < _RESERVOIR:
                self.kept.append(case)
            # Vitter's algorithm R: every case so far is kept with the same probability.
            elif (place := self.draw.randrange(self.seen + 1)) < _RESERVOIR:
                self.kept[place] = case
            self.seen += 1

    def cases(self) -> Cases:
        median = sorted(self.kept)[(len(self.kept) - 1) // 2]
        (best, i), (middle, j), (worst, k) = self.best, median, self.worst
        return Cases(("best", "median", "worst"), (i, j, k), (best, middle, worst))


def _check(name: str, baselines: Baselines, scores: Sequence[Score]) -> None:
    names = [score.name for score in scores]
    if "mse" not in names or len(set(names)) < len(names):
        raise OptionError(
            f"scores must include mse and none twice; received {', '.join(names) or 'none'}: add MSE()"
        )
    if not baselines:
        raise OptionError(
            "a verification needs at least one baseline; received none: leave baselines out for all"
        )
    if name in baselines:
        raise OptionError(f"the model needs a name of its own; received {name!r}, a baseline: choose another")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _on_device(batches: Iterable[Window], model: nn.Module) -> Iterator[Window]:
    """Windows where the model's parameters are; as they come if it has none."""
    parameter = next(model.parameters(), None)
    for past, future in batches:
        if past.ndim != 5 or past.shape[0] != future.shape[0] or past.shape[2:] != future.shape[2:]:
            raise ShapeError(
                "a batch must be past (B, K, C, H, W) and future (B, L, C, H, W); received "
                f"{tuple(past.shape)} and {tuple(future.shape)}: batch windows with a DataLoader"
            )
        device = past.device if parameter is None else parameter.device
        yield Window(past.to(device), future.to(device))


def _updated(
    name: str, scores: Sequence[Score], states: list[ScoreState], forecast: Tensor, truth: Tensor
) -> list[ScoreState]:
    try:
        return [score.update(state, forecast, truth) for score, state in zip(scores, states, strict=True)]
    except ConvLSTMError as error:
        raise type(error)(f"{name}: {error}") from None


def _tables(scores: Sequence[Score], states: Mapping[str, list[ScoreState]]) -> dict[str, ScoreTable]:
    return {
        score.name: ScoreTable(
            title=score.title,
            unit=score.unit,
            formula=score.formula,
            higher_is_better=score.higher_is_better,
            by_lead={name: score.compute(state[place]).tolist() for name, state in states.items()},
            overall={name: score.overall(state[place]) for name, state in states.items()},
        )
        for place, score in enumerate(scores)
    }


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    return x.float().cpu().numpy()
