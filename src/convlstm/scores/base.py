"""Base class of a score: sums by lead time that are accumulated over batches and merged over processes."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from convlstm.errors import DataError, ShapeError
from convlstm.validation import check_instance, check_positive, check_tensor


class ScoreState(NamedTuple):
    """Accumulated sums of a score; their size depends on neither the number nor the size of frames.

    Attributes:
        cases: (), float64, number of cases.
        sums: (N, L), float64, each of the score's N terms summed over cases, on the CPU.
    """

    cases: Tensor
    sums: Tensor


class Score(ABC):
    """Accumulating score of forecasts, by lead time and overall.

    A subclass defines the terms of every frame (``terms``) and the value of their sums (``value``). The
    results of init / update / merge / compute do not depend on how cases are divided into batches or
    processes.

    Attributes:
        name: key in files, in lower case.
        title: heading of a table or an axis.
        unit: unit of a value.
        formula: one line.
        higher_is_better: None if neither direction is and ``unit`` names a target.
        count: N, the number of terms.
    """

    name: str
    title: str
    unit: str
    formula: str
    higher_is_better: bool | None
    count: int = 1

    @abstractmethod
    def terms(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Terms of every frame.

        Args:
            forecast: (B, L, C, H, W), float32 or better.
            truth: as ``forecast``.

        Returns:
            (N, B, L).
        """

    @abstractmethod
    def value(self, sums: Tensor, frames: Tensor) -> Tensor:
        """Score from sums of terms.

        Args:
            sums: (N, ...), terms summed over frames, float64.
            frames: (), number of frames.

        Returns:
            (...), the axes of ``sums`` after the first.
        """

    def init(self, steps: int) -> ScoreState:
        """State before the first case, for L = ``steps``."""
        check_positive(steps, "steps")
        return ScoreState(
            torch.zeros((), dtype=torch.float64), torch.zeros(self.count, steps, dtype=torch.float64)
        )

    def update(self, state: ScoreState, forecast: Tensor, truth: Tensor) -> ScoreState:
        """Add a batch of cases.

        Args:
            state: from ``init``, ``update`` or ``merge``; not modified.
            forecast: (B, L, C, H, W).
            truth: as ``forecast``.

        Raises:
            ShapeError: shapes differ from each other or from L.
            DataError: a value is not finite, or too large for the score to be.
        """
        check_instance(state, ScoreState, "state", "start with init(steps)")
        check_tensor(forecast, "forecast")
        check_tensor(truth, "truth")
        if forecast.shape != truth.shape or forecast.ndim != 5 or forecast.shape[1] != state.sums.shape[1]:
            raise ShapeError(
                f"forecast and truth must both be (B, {state.sums.shape[1]}, C, H, W); received "
                f"{tuple(forecast.shape)} and {tuple(truth.shape)}: forecast every true frame"
            )
        dtype = torch.promote_types(torch.promote_types(forecast.dtype, truth.dtype), torch.float32)
        terms_NBL = self.terms(forecast.to(dtype), truth.to(dtype)).cpu().double()
        finite_BL = terms_NBL.isfinite().all(0)
        if not finite_BL.all():
            case, lead = (~finite_BL).nonzero()[0].tolist()
            raise DataError(
                f"forecast and truth must be finite; {self.name} of case {int(state.cases) + case} at lead "
                f"{lead + 1} is not: look for NaN, infinity or very large values there"
            )
        return ScoreState(state.cases + terms_NBL.shape[1], state.sums + terms_NBL.sum(1))

    def merge(self, a: ScoreState, b: ScoreState) -> ScoreState:
        """State of the cases of both."""
        for state in (a, b):
            check_instance(state, ScoreState, "a state", "pass what init or update returned")
        return ScoreState(a.cases + b.cases, a.sums + b.sums)

    def compute(self, state: ScoreState) -> Tensor:
        """Score by lead time, (L,), float64.

        Raises:
            DataError: no case so far.
        """
        check_instance(state, ScoreState, "state", "pass what init or update returned")
        return self.value(state.sums, self._count_of(state))

    def overall(self, state: ScoreState) -> float:
        """Score over the frames of all lead times.

        Raises:
            DataError: no case so far.
        """
        return float(self.value(state.sums.sum(1), self._count_of(state) * state.sums.shape[1]))

    def _count_of(self, state: ScoreState) -> Tensor:
        if state.cases == 0:
            raise DataError(
                f"{self.name} needs at least one case; received none: update it with a batch first"
            )
        return state.cases


class MeanScore(Score):
    """Score that is the mean over frames of its single term."""

    def value(self, sums: Tensor, frames: Tensor) -> Tensor:
        """Sum divided by the number of frames."""
        return sums[0] / frames
