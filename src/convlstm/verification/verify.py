"""Verification of a forecaster: its scores beside those of the baselines, and three cases to look at."""

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
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from convlstm.data.base import LabelledWindow, Window, WindowDataset, on_device
from convlstm.errors import ConvLSTMError, DataError, OptionError, RunError, ShapeError, reading
from convlstm.models.base import Forecaster, run_forecaster
from convlstm.models.baselines import BASELINES
from convlstm.scores.base import Score, ScoreState
from convlstm.scores.standard import standard_scores
from convlstm.validation import check_callable, check_instance, check_path, check_tensor, received
from convlstm.verification.results import ScoreTable, Verification

_RESERVOIR = 1023  # cases that the median is estimated from

Baselines = Mapping[str, Callable[[], Forecaster]]


@dataclass(frozen=True)
class Cases:
    """Best, median and worst case by the model's MSE over all lead times.

    Attributes:
        label: ``best``, ``median``, ``worst``.
        index: position of each in the order in which cases were verified, from 0.
        mse: of the model.
    """

    label: tuple[str, str, str]
    index: tuple[int, int, int]
    mse: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Forecasts of one case, as ``cases.npz`` holds them.

    Attributes:
        label: best, median or worst.
        index: position among the cases.
        mse: of the model.
        past: (K, C, H, W).
        truth: (L, C, H, W).
        forecasts: (L, C, H, W) by forecaster.
    """

    label: str
    index: int
    mse: float
    past: NDArray[Any]
    truth: NDArray[Any]
    forecasts: dict[str, NDArray[Any]]


def verify(
    model: Forecaster,
    batches: Iterable[Window | LabelledWindow],
    *,
    name: str = "model",
    data: str = "",
    baselines: Baselines = BASELINES,
    scores: Sequence[Score] | None = None,
    data_range: float | None = None,
    to_units: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> tuple[Verification, Cases]:
    """Score a forecaster and the baselines on the same cases.

    Memory does not grow with the number of cases: one batch, one forecast of it and the sums of the scores.
    The best and the worst case are exact, and so is the median up to 1023 cases; beyond, it is the median of
    a random sample of 1023.

    Args:
        model: called as ``model(past, steps)`` in evaluation mode, without gradients; its mode is restored.
        batches: windows with past (B, K, C, H, W) and future (B, L, C, H, W), K and L the same in all; moved
            to the model's device. ``Cases.index`` are indices of a data set if batches are in its order.
        name: of the model in the tables.
        data: description of the data in one line.
        baselines: constructors by name.
        scores: must include `MSE`; None uses those of `standard_scores` that fit the frames.
        data_range: largest minus smallest possible value of the data, for `standard_scores`; without it they
            have no PSNR and no SSIM.
        to_units: from the scale of the network to the unit that is scored, called with frames (B, T, C, H, W)
            and their times (B, T) or None, as `Source.to_units`; the scale of the network if None.

    Returns:
        The scores, and the best, median and worst case.

    Raises:
        OptionError: no baseline, a name given twice, no MSE, or a data range that is not positive.
        ShapeError: a forecast or a batch of another shape than the rest.
        DataError: no case, or a value that is not finite in a forecast or the truth.
    """
    check_instance(model, Forecaster, "model", "pass a forecaster, such as Forecaster.from_pretrained(path)")
    check_instance(name, str, "name")
    check_instance(data, str, "data", "pass a line of text, such as source.describe()")
    _check(name, baselines, standard_scores(data_range) if scores is None else scores)
    forecasters = {name: model} | {key: make() for key, make in baselines.items()}
    states: dict[str, list[ScoreState]] = {}
    selector = CaseSelector()
    lengths: tuple[int, int] | None = None
    with _evaluating(model):
        for window in _on_device(batches, model):
            past, truth = window.past, in_units(window.future, window, to_units)
            lengths = lengths or (past.shape[1], truth.shape[1])
            scores = standard_scores(data_range, truth.shape[-2:]) if scores is None else scores
            if lengths != (past.shape[1], truth.shape[1]):
                raise ShapeError(
                    f"all batches must have {lengths[0]} past and {lengths[1]} future frames; received "
                    f"{past.shape[1]} and {truth.shape[1]}: verify them apart"
                )
            states = states or {key: [score.init(lengths[1]) for score in scores] for key in forecasters}
            for key, forecaster in forecasters.items():
                forecast = run_forecaster(forecaster, past, lengths[1], window.inputs)
                forecast = in_units(forecast, window, to_units)
                states[key] = _updated(key, scores, states[key], forecast, truth, window.future_valid)
                if key == name:
                    selector.add(_case_errors(forecast, truth, window.future_valid))
    if lengths is None or scores is None:
        raise DataError("verification needs at least one case; received none: check the data and its split")
    verification = Verification(
        model=name,
        cases=selector.count,
        past=lengths[0],
        steps=lengths[1],
        data=data,
        forecasters=tuple(forecasters),
        scores=_tables(scores, states),
    )
    return verification, selector.cases()


def scores_files(verification: Verification) -> tuple[bytes, bytes]:
    """Scores as JSON, and as CSV with a row per forecaster, score and lead time."""
    text = json.dumps(verification.to_dict(), indent=2, allow_nan=False) + "\n"
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("forecaster", "score", "lead", "value"))
    writer.writerows(verification.rows())
    return text.encode(), lines.getvalue().encode()


def read_scores(path: str | Path) -> Verification:
    """Read a file of scores, ``scores.json``.

    Raises:
        RunError: missing, unreadable, of a newer schema, or not as `scores_files` writes it.
    """
    path = check_path(path, "path of scores")
    with reading(path, "be a readable JSON file", "evaluate the run first"):
        plain = json.loads(path.read_text(encoding="utf-8"))
    return Verification.from_dict(plain)


def cases_file(
    cases: Cases,
    dataset: WindowDataset,
    model: Forecaster,
    *,
    name: str = "model",
    baselines: Baselines = BASELINES,
    to_units: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> bytes:
    """Forecast the selected cases again and return the content of ``cases.npz``.

    It holds ``label``, ``index`` and ``mse`` (3,), ``past`` (3, K, C, H, W), ``truth`` (3, L, C, H, W) and,
    for every forecaster, ``forecast_<name>`` (3, L, C, H, W).

    Args:
        cases: from `verify`.
        dataset: the windows that were verified, in the same order.
        model: as in `verify`.
        name: as in `verify`.
        baselines: as in `verify`.
        to_units: as in `verify`.
    """
    windows = [dataset[index] for index in cases.index]
    batch: Window | LabelledWindow = default_collate(windows)
    arrays: dict[str, Any] = {key: np.array(values) for key, values in asdict(cases).items()}
    forecasters = {name: model} | {key: make() for key, make in baselines.items()}
    with _evaluating(model):
        for window in _on_device([batch], model):
            steps = window.future.shape[1]
            past, truth = (in_units(x, window, to_units) for x in (window.past, window.future))
            arrays |= {"past": _array(past, window.past_valid), "truth": _array(truth, window.future_valid)}
            for key, forecaster in forecasters.items():
                forecast = run_forecaster(forecaster, window.past, steps, window.inputs)
                arrays[f"forecast_{key}"] = _array(in_units(forecast, window, to_units))
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def read_cases(path: str | Path) -> list[Case]:
    """Read a file of cases, ``cases.npz``.

    Raises:
        RunError: missing, unreadable, or not as `cases_file` writes it.
    """
    path = check_path(path, "path of cases")
    again = f"run convlstm evaluate {path.parent} again"
    with reading(path, "be a readable .npz file", again), path.open("rb") as content:
        arrays = dict(np.load(content, allow_pickle=False).items())
    forecasts = [name for name in arrays if name.startswith("forecast_")]
    missing = {"label", "index", "mse", "past", "truth"} - arrays.keys()
    if missing or not forecasts:
        raise RunError(
            f"{path} must hold label, index, mse, past, truth and a forecast; received none of "
            f"{', '.join(sorted(missing)) or 'forecast_*'}: {again}"
        )
    truth, past = arrays["truth"].shape, arrays["past"].shape
    fits = (
        len(truth) == len(past) == 5
        and 0 not in truth + past
        and (past[0], past[2:]) == (truth[0], truth[2:])
        and all(arrays[name].shape == truth[:1] for name in ("label", "index", "mse"))
        and all(arrays[name].shape == truth for name in forecasts)
        and all(arrays[name].dtype.kind in "fiu" for name in ("index", "mse", "past", "truth", *forecasts))
    )
    if not fits:
        shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
        raise RunError(
            f"{path} must hold numbers as past (N, K, C, H, W), truth and forecasts (N, L, C, H, W); "
            f"received {shapes}: {again}"
        )
    return [
        Case(
            label=str(arrays["label"][k]),
            index=int(arrays["index"][k]),
            mse=float(arrays["mse"][k]),
            past=arrays["past"][k],
            truth=arrays["truth"][k],
            forecasts={name.removeprefix("forecast_"): arrays[name][k] for name in forecasts},
        )
        for k in range(truth[0])
    ]


class CaseSelector:
    """Best, median and worst case of a stream, in constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self.best = (float("inf"), -1)
        self.worst = (-float("inf"), -1)
        self.sample: list[tuple[float, int]] = []
        self.random = random.Random(0)

    def add(self, mse_B: list[float]) -> None:
        """Add the errors of a batch of cases."""
        for mse in mse_B:
            case = (mse, self.count)
            self.best, self.worst = min(self.best, case), max(self.worst, case)
            if len(self.sample) < _RESERVOIR:
                self.sample.append(case)
            # Reservoir sampling (Vitter's algorithm R): every case is in the sample with equal probability.
            elif (place := self.random.randrange(self.count + 1)) < _RESERVOIR:
                self.sample[place] = case
            self.count += 1

    def cases(self) -> Cases:
        """The cases so far."""
        median = sorted(self.sample)[(len(self.sample) - 1) // 2]
        (best, i), (middle, j), (worst, k) = self.best, median, self.worst
        return Cases(("best", "median", "worst"), (i, j, k), (best, middle, worst))


def _check(name: str, baselines: Baselines, scores: Sequence[Score]) -> None:
    check_instance(scores, Sequence, "scores", "pass a tuple of scores")
    names = [check_instance(score, Score, "a score").name for score in scores]
    if "mse" not in names or len(set(names)) < len(names):
        raise OptionError(
            f"scores must include mse and none twice; received {', '.join(names) or 'none'}: add MSE()"
        )
    for make in check_instance(baselines, Mapping, "baselines", "pass BASELINES or a part of it").values():
        check_callable(make, "a baseline", "pass its class")
    if not baselines:
        raise OptionError(
            "a verification needs at least one baseline; received none: leave baselines out for all"
        )
    if name in baselines:
        raise OptionError(f"the model needs a name of its own; received {name!r}, a baseline: choose another")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's mode is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _on_device(batches: Iterable[Window | LabelledWindow], model: nn.Module) -> Iterator[LabelledWindow]:
    """Windows on the device of the model's parameters; unchanged if it has none."""
    parameter = next(model.parameters(), None)
    try:
        windows = iter(batches)
    except TypeError:
        raise OptionError(
            f"batches must be iterable; received {received(batches)}: pass a DataLoader of windows"
        ) from None
    for window in windows:
        if not (isinstance(window, tuple | list) and len(window) in (2, len(LabelledWindow._fields))):
            raise ShapeError(
                f"a batch must be past and future; received {received(window)}: batch windows with a "
                "DataLoader"
            )
        past, future = check_tensor(window[0], "past"), check_tensor(window[1], "future")
        if past.ndim != 5 or past.shape[0] != future.shape[0] or past.shape[2:] != future.shape[2:]:
            raise ShapeError(
                "a batch must be past (B, K, C, H, W) and future (B, L, C, H, W); received "
                f"{tuple(past.shape)} and {tuple(future.shape)}: batch windows with a DataLoader"
            )
        device = past.device if parameter is None else parameter.device
        yield on_device(LabelledWindow(*window), device)


def _updated(
    name: str,
    scores: Sequence[Score],
    states: list[ScoreState],
    forecast: Tensor,
    truth: Tensor,
    weight: Tensor | None,
) -> list[ScoreState]:
    try:
        return [
            score.update(state, forecast, truth, weight) for score, state in zip(scores, states, strict=True)
        ]
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


def in_units(
    frames: Tensor, window: LabelledWindow, to_units: Callable[[Tensor, Tensor | None], Tensor] | None
) -> Tensor:
    """Frames (B, T, C, H, W) of a window's past (T = K) or future (T = L) in the unit that is scored."""
    if to_units is None:
        return frames
    times = window.times
    if times is not None:
        past = window.past.shape[1]
        times = times[:, past:] if frames is not window.past else times[:, :past]
    return to_units(frames, times)


def _case_errors(forecast: Tensor, truth: Tensor, valid: Tensor | None) -> list[float]:
    """MSE of every case (B,) over what was measured; 0 for a case of which nothing was."""
    error = (forecast.float() - truth.float()).square()
    if valid is None:
        return error.mean((1, 2, 3, 4)).tolist()
    return ((error * valid).sum((1, 2, 3, 4)) / valid.sum((1, 2, 3, 4)).clamp(min=1)).tolist()


def _array(x: Tensor, valid: Tensor | None = None) -> NDArray[Any]:
    """Values as NumPy holds them, NaN where they were not measured."""
    return (x.float() if valid is None else torch.where(valid, x.float(), torch.nan)).cpu().numpy()
