"""The best, the median and the worst case of a verification, and the file that holds them."""

import io
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.data.base import WindowDataset, batch_of
from convlstm.errors import DataError, RunError, reading
from convlstm.models.base import Forecaster, evaluation_mode
from convlstm.models.baselines import BASELINES
from convlstm.validation import check_path
from convlstm.verification.batches import ToUnits, batches_on_device, forecast_of, in_units

_RESERVOIR = 1023  # cases that the median is estimated from

Baselines = Mapping[str, Callable[[], Forecaster]]


@dataclass(frozen=True)
class Cases:
    """Best, median and worst case by the model's MSE over all lead times, each case once.

    Attributes:
        label: ``best``, ``median``, ``worst``; ``best`` and ``worst`` of two cases, ``only`` of one.
        index: position of each in the order in which cases were verified, from 0.
        mse: of the model.
    """

    label: tuple[str, ...]
    index: tuple[int, ...]
    mse: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Forecasts of one case, as ``cases.npz`` holds them.

    Attributes:
        label: best, median, worst or only.
        index: position among the cases.
        mse: of the model.
        past: (K, C, H, W).
        truth: (L, C, H, W).
        forecasts: (L, C, H, W) by forecaster.
        area: (H,), weight of a pixel of each row in every score; None if it is the same for all.
    """

    label: str
    index: int
    mse: float
    past: NDArray[Any]
    truth: NDArray[Any]
    forecasts: dict[str, NDArray[Any]]
    area: NDArray[Any] | None = None

    def mse_of(self, forecaster: str) -> float:
        """Mean squared error of a forecaster over what was measured, as ``mse`` is that of the model."""
        error = (self.forecasts[forecaster].astype(np.float64) - self.truth) ** 2
        area_H1 = np.float64(1) if self.area is None else self.area.astype(np.float64)[:, None]
        weight = np.where(np.isnan(error), 0, area_H1)
        total = (np.where(np.isnan(error), 0, error) * weight).sum()
        return float(total / weight.sum()) if weight.any() else math.nan


class CaseSelector:
    """Best, median and worst case of a stream, in constant memory."""

    def __init__(self) -> None:
        self.count = self.measured = 0
        self.best = (float("inf"), -1)
        self.worst = (-float("inf"), -1)
        self.sample: list[tuple[float, int]] = []
        self.random = random.Random(0)

    def add(self, mse_B: list[float]) -> None:
        """Add the errors of a batch of cases."""
        for mse in mse_B:
            if math.isnan(mse):  # nothing was measured
                self.count += 1
                continue
            case = (mse, self.count)
            self.best, self.worst = min(self.best, case), max(self.worst, case)
            if len(self.sample) < _RESERVOIR:
                self.sample.append(case)
            # Reservoir sampling (Vitter's algorithm R): each measured case is in it with equal probability.
            elif (place := self.random.randrange(self.measured + 1)) < _RESERVOIR:
                self.sample[place] = case
            self.count += 1
            self.measured += 1

    def cases(self) -> Cases:
        """The cases so far.

        Raises:
            DataError: nothing was measured in any.
        """
        if not self.sample:
            raise DataError(
                "verification needs cases with measured pixels; received none: check the data and its split"
            )
        median = sorted(self.sample)[(len(self.sample) - 1) // 2]
        found: dict[int, tuple[str, float]] = {}
        for label, (mse, index) in (("best", self.best), ("median", median), ("worst", self.worst)):
            found.setdefault(index, (label, mse))
        labels, errors = zip(*found.values(), strict=True)
        return Cases(labels if len(labels) > 1 else ("only",), tuple(found), errors)


def cases_file(
    cases: Cases,
    dataset: WindowDataset,
    model: Forecaster,
    *,
    name: str = "model",
    baselines: Baselines = BASELINES,
    to_units: ToUnits | None = None,
    area: Tensor | None = None,
) -> bytes:
    """Forecast the selected cases again and return the content of ``cases.npz``.

    It holds, of N cases, ``label``, ``index`` and ``mse`` (N,), ``past`` (N, K, C, H, W), ``truth``
    (N, L, C, H, W) and, for every forecaster, ``forecast_<name>`` (N, L, C, H, W); on grids whose pixels
    differ in area ``area`` (H,).

    Args:
        cases: from `verify`.
        dataset: the windows that were verified, in the same order.
        model: as in `verify`.
        name: as in `verify`.
        baselines: as in `verify`.
        to_units: as in `verify`.
        area: as in `verify`.
    """
    batch = batch_of([dataset[index] for index in cases.index])
    arrays: dict[str, Any] = {key: np.array(values) for key, values in asdict(cases).items()}
    arrays |= {} if area is None else {"area": _array(area)}
    forecasters = {name: model} | {key: make() for key, make in baselines.items()}
    with evaluation_mode(model), torch.no_grad():
        for window in batches_on_device([batch], model):
            past = in_units(window.past, window, to_units, first=0)
            truth = in_units(window.future, window, to_units)
            arrays |= {"past": _array(past, window.past_valid), "truth": _array(truth, window.future_valid)}
            for key, forecaster in forecasters.items():
                arrays[f"forecast_{key}"] = _array(forecast_of(forecaster, window, to_units))
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
    with reading(path, "be a readable .npz file", again, RunError), path.open("rb") as content:
        arrays = dict(np.load(content, allow_pickle=False).items())
    forecasts = [name for name in arrays if name.startswith("forecast_")]
    missing = {"label", "index", "mse", "past", "truth"} - arrays.keys()
    if missing or not forecasts:
        raise RunError(
            f"{path} must hold label, index, mse, past, truth and a forecast; received none of "
            f"{', '.join(sorted(missing)) or 'forecast_*'}: {again}"
        )
    truth, past = arrays["truth"].shape, arrays["past"].shape
    numbers = ["index", "mse", "past", "truth", *forecasts, *(["area"] if "area" in arrays else [])]
    fits = (
        len(truth) == len(past) == 5
        and 0 not in truth + past
        and (past[0], past[2:]) == (truth[0], truth[2:])
        and all(arrays[name].shape == truth[:1] for name in ("label", "index", "mse"))
        and all(arrays[name].shape == truth for name in forecasts)
        and arrays.get("area", np.ones(truth[3])).shape == truth[3:4]
        and all(arrays[name].dtype.kind in "fiu" for name in numbers)
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
            area=arrays.get("area"),
        )
        for k in range(truth[0])
    ]


def _array(x: Tensor, valid: Tensor | None = None) -> NDArray[Any]:
    """Values as NumPy holds them, NaN where they were not measured."""
    return (x.float() if valid is None else torch.where(valid, x.float(), torch.nan)).cpu().numpy()
