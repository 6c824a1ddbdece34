"""Base class of a score: sums by lead time that are accumulated over batches and merged over processes."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from convlstm.errors import DataError, ShapeError
from convlstm.scores.frames import Frames, check_weight, finite, paired, total_weight
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
    processes. What is undefined (a ratio without an event) is NaN, never 0.

    Attributes:
        name: key in files, in lower case.
        title: heading of a table or an axis.
        unit: unit of a value.
        formula: one line.
        higher_is_better: None if neither direction is and ``unit`` names a target.
        count: N, the number of terms.
        terms_key: scores with the same key have the same terms, which are then summed once; ``name`` if None.
        pooled: true for a ratio of sums, whose overall value, of the sums over all lead times, is not the
            mean of its values by lead time.
        samples_of: what `samples` counts: ``pixels`` or ``frames``.
    """

    name: str
    title: str
    unit: str
    formula: str
    higher_is_better: bool | None
    count: int = 1
    terms_key: str | None = None
    pooled: bool = False
    samples_of: str = "pixels"

    @abstractmethod
    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Terms of every frame, each from that frame alone: large frames come a few at a time.

        Args:
            forecast: values (B, L, C, H, W) and their weights.
            truth: as ``forecast``, with the same weights.

        Returns:
            (N, B, L).
        """

    @abstractmethod
    def value(self, sums: Tensor) -> Tensor:
        """Score from sums of terms.

        Args:
            sums: (N, ...), terms summed over frames, float64.

        Returns:
            (...), the axes of ``sums`` after the first; NaN where undefined.
        """

    def samples(self, sums: Tensor) -> Tensor:
        """Pixels or frames, see ``samples_of``, that a value is made of: (N, ...) -> (...).

        By default the last term.
        """
        return sums[-1]

    def init(self, steps: int) -> ScoreState:
        """State before the first case, for L = ``steps``."""
        check_positive(steps, "steps")
        return ScoreState(
            torch.zeros((), dtype=torch.float64), torch.zeros(self.count, steps, dtype=torch.float64)
        )

    def update(
        self, state: ScoreState, forecast: Tensor, truth: Tensor, weight: Tensor | None = None
    ) -> ScoreState:
        """Add a batch of cases.

        Args:
            state: from ``init``, ``update`` or ``merge``; not modified.
            forecast: (B, L, C, H, W).
            truth: as ``forecast``; where ``weight`` is 0 any finite value.
            weight: at least 0, of a shape that expands to that of ``truth``; 1 everywhere if None.

        Raises:
            ShapeError: shapes differ from each other or from L, or weights do not expand to them.
            DataError: a value is not finite, or too large for the score to be; or a weight is below 0.
        """
        check_instance(state, ScoreState, "state", "start with init(steps)")
        steps = state.sums.shape[1]
        check_pair(forecast, truth, steps)
        if weight is not None:
            check_weight(check_tensor(weight, "weight"))
        terms_NBL = self.checked_terms(*paired(forecast, truth, weight), first=int(state.cases))
        return ScoreState(state.cases + terms_NBL.shape[1], state.sums + terms_NBL.sum(1))

    def checked_terms(self, forecast: Frames, truth: Frames, *, first: int = 0, lead: int = 0) -> Tensor:
        """Terms of every frame, (N, B, L), float64, on the CPU.

        Args:
            forecast: as of `terms`.
            truth: as of `terms`.
            first: index of the first case, for errors.
            lead: index of the first lead time, for errors.

        Raises:
            DataError: as `update`.
        """
        terms_NBL = self.terms(forecast, truth).cpu().double()
        finite_BL = (forecast.cached(finite) & truth.cached(finite)).cpu() & terms_NBL.isfinite().all(0)
        if not finite_BL.all():
            at_case, at_lead = (~finite_BL).nonzero()[0].tolist()
            raise DataError(
                f"forecast and truth must be finite; {self.name} of case {first + at_case} at lead "
                f"{lead + at_lead + 1} is not: look for NaN, infinity or very large values there"
            )
        return terms_NBL

    def merge(self, a: ScoreState, b: ScoreState) -> ScoreState:
        """State of the cases of both.

        Raises:
            ShapeError: states of another score, or of different lead times.
        """
        for state in (a, b):
            check_instance(state, ScoreState, "a state", "pass what init or update returned")
        if a.sums.shape != b.sums.shape or len(a.sums) != self.count:
            raise ShapeError(
                f"states of {self.name} must have {self.count} terms of the same lead times; received "
                f"{tuple(a.sums.shape)} and {tuple(b.sums.shape)}: merge those of one score and length"
            )
        return ScoreState(a.cases + b.cases, a.sums + b.sums)

    def compute(self, state: ScoreState) -> Tensor:
        """Score by lead time, (L,), float64.

        Raises:
            DataError: no case so far.
        """
        return self.value(self._sums(state))

    def overall(self, state: ScoreState) -> float:
        """Score of the sums over all lead times.

        Raises:
            DataError: no case so far.
        """
        return float(self.value(self._sums(state).sum(1)))

    def _sums(self, state: ScoreState) -> Tensor:
        if check_instance(state, ScoreState, "state", "pass what init or update returned").cases == 0:
            raise DataError(
                f"{self.name} needs at least one case; received none: update it with a batch first"
            )
        return state.sums


class MeanScore(Score):
    """Score that is a weighted mean of its error over pixels."""

    count = 2

    @abstractmethod
    def error(self, forecast: Tensor, truth: Tensor) -> Tensor:
        """Error of every pixel: (B, L, C, H, W)."""

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Weighted sum of the errors, and of the weights."""
        error = self.error(forecast.values, truth.values)
        return torch.stack([(error * truth.weight).sum((2, 3, 4)), truth.cached(total_weight)])

    def value(self, sums: Tensor) -> Tensor:
        """Sum of errors divided by that of weights."""
        return sums[0] / sums[1]


class FrameScore(Score):
    """Score that is the mean over frames of a value of each frame."""

    count = 2
    samples_of = "frames"

    @abstractmethod
    def of_frames(self, forecast: Frames, truth: Frames) -> tuple[Tensor, Tensor]:
        """Value of every frame (B, L), and true (B, L) for the frames that have one."""

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Values of the frames that have one, and 1 for each of these."""
        value, defined = self.of_frames(forecast, truth)
        return torch.stack([torch.where(defined, value, 0), defined.to(value)])

    def value(self, sums: Tensor) -> Tensor:
        """Sum of values divided by the number of frames."""
        return sums[0] / sums[1]


def check_pair(forecast: Tensor, truth: Tensor, steps: int) -> None:
    """Check that forecast and truth are both (B, ``steps``, C, H, W)."""
    check_tensor(forecast, "forecast")
    check_tensor(truth, "truth")
    if forecast.shape != truth.shape or forecast.ndim != 5 or forecast.shape[1] != steps:
        raise ShapeError(
            f"forecast and truth must both be (B, {steps}, C, H, W); received "
            f"{tuple(forecast.shape)} and {tuple(truth.shape)}: forecast every true frame"
        )
