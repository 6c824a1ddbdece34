"""Scheduled sampling: the probability of teacher forcing over the steps of a training."""

import math

import torch
from torch import Tensor

from convlstm.errors import check_name
from convlstm.training.config import CURRICULA
from convlstm.validation import check_positive


class Curriculum:
    """The probability of teacher forcing over training (Bengio et al. 2015, arXiv:1506.03099, section 2.4).

    With i the optimizer step and n = ``length``::

        free         0                 the forecaster always sees its own forecasts
        teacher      1                 it always sees the truth (Williams and Zipser 1989)
        linear       1 - i / n         down to 0 at step n
        exponential  0.01 ** (i / n)   1 % at step n
        sigmoid      k / (k + exp(i / k)), with k such that it is one half at step n / 2
        reverse      min(0.5, 1 - i / n), down to 0 at step n

    PredRNN, PredRNN++, MIM, MAU and E3D-LSTM are trained with ``linear`` and n = 50,000, 2e-5 less at each
    step; PhyDNet with ``linear``, 0.003 less at each epoch.

    ``reverse`` is the reverse scheduled sampling of PredRNN-V2 (Wang et al. 2022, arXiv:2103.09504; n =
    50,000 on Moving MNIST). There half of the frames of the past, but the first, are forecasts too at first,
    and ever fewer later (`past_probability`); with all other curricula they are always the truth.

    Args:
        kind: one of the names above.
        length: n, in optimizer steps.
    """

    def __init__(self, kind: str = "free", length: int = 10_000) -> None:
        self.kind = check_name(kind, CURRICULA, "curriculum")
        self.length = check_positive(length, "curriculum_steps")
        # One half is reached where k = exp(i / k), that is at i = k ln k.
        self._k = _solve_k_ln_k(length / 2)

    def probability(self, step: int) -> float:
        """Probability that the input of a forecast step is the truth, at optimizer step ``step``."""
        done = step / self.length
        if self.kind == "linear":
            return max(0.0, 1.0 - done)
        if self.kind == "exponential":
            return float(0.01**done)
        if self.kind == "sigmoid":
            return self._k / (self._k + math.exp(min(step / self._k, 700.0)))
        if self.kind == "reverse":
            return min(0.5, max(0.0, 1.0 - done))
        return 1.0 if self.kind == "teacher" else 0.0

    def past_probability(self, step: int) -> float:
        """Probability that a frame of the past, but the first, is the truth: 1, but for ``reverse``.

        There, with i and n as above::

            i < n / 2   0.5
            i < n       1 - 0.5 exp(-(i - n / 2) / (n / 20))
            i >= n      1
        """
        if self.kind != "reverse" or step >= self.length:
            return 1.0
        return 1.0 - 0.5 * math.exp(-max(0.0, step - self.length / 2) / (self.length / 20))

    def draw(
        self, step: int, batch: int, steps: int, *, seed: int, past: int = 0, rank: int = 0, ranks: int = 1
    ) -> Tensor:
        """Mask of the frames that are the truth, (batch, past + steps) bool on the CPU.

        The draw depends on the seed and the step alone, so that a resumed run repeats it, and is made for the
        whole batch of all ``ranks`` processes, of which process ``rank`` takes its rows.

        Args:
            step: of the optimizer.
            batch: B of this process.
            steps: L, frames to forecast.
            seed: of the training.
            past: frames of the past that may be forecasts, which come first.
            rank: this process.
            ranks: number of processes.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        future = torch.rand(batch * ranks, steps, generator=generator) < self.probability(step)
        observed = torch.rand(batch * ranks, past, generator=generator) < self.past_probability(step)
        return torch.cat([observed, future], dim=1)[rank::ranks]


def _solve_k_ln_k(target: float) -> float:
    """The k > 1 with k ln k = target, by Newton's method."""
    k = target + 1.0
    for _ in range(60):
        k = max(1.0 + 1e-9, k - (k * math.log(k) - target) / (math.log(k) + 1.0))
    return k
