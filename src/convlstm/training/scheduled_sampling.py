"""Scheduled sampling: the probability of teacher forcing over the steps of a training."""

import math

import torch
from torch import Tensor

from convlstm.errors import OptionError, check_name
from convlstm.training.config import CURRICULA


class Curriculum:
    """The probability of teacher forcing over training (Bengio et al. 2015, arXiv:1506.03099, section 2.4).

    With i the optimiser step and n = ``length``::

        free         0                 the forecaster always sees its own forecasts
        teacher      1                 it always sees the truth
        linear       1 - i / n         down to 0 at step n
        exponential  0.01 ** (i / n)   1 % at step n
        sigmoid      k / (k + exp(i / k)), with k such that it is one half at step n / 2

    Args:
        kind: one of the names above.
        length: n, in optimiser steps.
    """

    def __init__(self, kind: str = "free", length: int = 10_000) -> None:
        self.kind = check_name(kind, CURRICULA, "curriculum")
        if length < 1:
            raise OptionError(f"curriculum_steps must be at least 1; received {length}")
        self.length = length
        # One half is reached where k = exp(i / k), that is at i = k ln k.
        self._k = _solve_k_ln_k(length / 2)

    def probability(self, step: int) -> float:
        """Probability that the input of a forecast step is the truth, at optimiser step ``step``."""
        done = step / self.length
        if self.kind == "linear":
            return max(0.0, 1.0 - done)
        if self.kind == "exponential":
            return float(0.01**done)
        if self.kind == "sigmoid":
            return self._k / (self._k + math.exp(min(step / self._k, 700.0)))
        return 1.0 if self.kind == "teacher" else 0.0

    def draw(self, step: int, batch: int, steps: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Tensor:
        """Mask of the forecast steps that are forced, (batch, steps) bool on the CPU.

        The draw depends on the seed and the step alone, so that a resumed run repeats it, and is made for the
        whole batch of all ``ranks`` processes, of which process ``rank`` takes its rows.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return (torch.rand(batch * ranks, steps, generator=generator) < self.probability(step))[rank::ranks]


def _solve_k_ln_k(target: float) -> float:
    """The k > 1 with k ln k = target, by Newton's method."""
    k = target + 1.0
    for _ in range(60):
        k = max(1.0 + 1e-9, k - (k * math.log(k) - target) / (math.log(k) + 1.0))
    return k
