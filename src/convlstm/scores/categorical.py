"""Categorical scores: events of a value of at least a threshold, from counts that are summed before dividing.

With a hits, b false alarms, c misses and d correct negatives of n pixels (Wilks 2011, Statistical Methods in
the Atmospheric Sciences, section 8.2). A ratio without an event is undefined.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from convlstm.scores.base import Score
from convlstm.scores.frames import Frames, events
from convlstm.validation import check_number


class CategoricalScore(Score):
    """Score of a contingency table.

    Args:
        threshold: least value of an event, in the unit of the data.
        unit: of the threshold, for titles.
        rounding: by which values may be off, so that one at the threshold is an event.
    """

    count = 4
    pooled = True
    stem: str
    words: str
    ratio: str

    def __init__(self, threshold: float, unit: str = "", rounding: float = 0.0) -> None:
        self.threshold = check_number(threshold, "threshold")
        self._event = self.threshold, check_number(rounding, "rounding", least=0)
        self.name = f"{self.stem}_{self.threshold:g}"
        self.title = f"{self.words} at {self.threshold:g} {unit}".rstrip()
        self.formula = f"{self.ratio}, counts of pixels over all frames"
        self.terms_key = "contingency_{}_{}".format(*self._event)

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Hits, false alarms, misses and correct negatives, weighted."""
        both = forecast.cached(events, *self._event) & truth.cached(events, *self._event)
        hits = _weight_where(both, truth.weight)
        predicted, observed = (frames.cached(_event_weight, *self._event) for frames in (forecast, truth))
        nothing = truth.cached(_measured_weight) - predicted - observed + hits
        return torch.stack([hits, predicted - hits, observed - hits, nothing]).clamp(min=0)

    def samples(self, sums: Tensor) -> Tensor:
        """Number of pixels."""
        return sums.sum(0)


class POD(CategoricalScore):
    """Probability of detection, ``a / (a + c)``."""

    stem, words, ratio = "pod", "Probability of detection", "hits / (hits + misses)"
    unit = "at most 1"
    higher_is_better = True

    def value(self, sums: Tensor) -> Tensor:
        """Share of the events that were forecast."""
        a, _, c, _ = sums
        found: Tensor = a / (a + c)
        return found


class FAR(CategoricalScore):
    """False alarm ratio, ``b / (a + b)``."""

    stem, words, ratio = "far", "False alarm ratio", "false alarms / (hits + false alarms)"
    unit = "at least 0"
    higher_is_better = False

    def value(self, sums: Tensor) -> Tensor:
        """Share of the forecast events that did not happen."""
        a, b, _, _ = sums
        found: Tensor = b / (a + b)
        return found


class CSI(CategoricalScore):
    """Critical success index or threat score, ``a / (a + b + c)``."""

    stem, words, ratio = "csi", "Critical success index", "hits / (hits + false alarms + misses)"
    unit = "at most 1"
    higher_is_better = True

    def value(self, sums: Tensor) -> Tensor:
        """Hits among all that was forecast or happened."""
        a, b, c, _ = sums
        found: Tensor = a / (a + b + c)
        return found


class ETS(CategoricalScore):
    """Equitable threat score, CSI without the hits expected by chance, ``(a + b) (a + c) / n``."""

    stem, words = "ets", "Equitable threat score"
    ratio = "(hits - chance) / (hits + false alarms + misses - chance)"
    unit = "at most 1, chance 0"
    higher_is_better = True

    def value(self, sums: Tensor) -> Tensor:
        """CSI without the hits by chance, numerator and denominator times n: 0 / 0 where all is an event."""
        a, b, c, d = sums
        beyond_chance = a * d - b * c
        found: Tensor = beyond_chance / (beyond_chance + (b + c) * (a + b + c + d))
        return found


class FrequencyBias(CategoricalScore):
    """Frequency bias, ``(a + b) / (a + c)``: above 1 an event is forecast too often."""

    stem, words, ratio = "frequency_bias", "Frequency bias", "(hits + false alarms) / (hits + misses)"
    unit = "ratio, 1 is the truth's"
    higher_is_better = None

    def value(self, sums: Tensor) -> Tensor:
        """Forecast events divided by those that happened."""
        a, b, c, _ = sums
        return torch.where(a + c > 0, (a + b) / (a + c), torch.nan)


class HSS(CategoricalScore):
    """Heidke skill score, the share of correct pixels beyond chance."""

    stem, words = "hss", "Heidke skill score"
    ratio = "2 (ad - bc) / ((a + c)(c + d) + (a + b)(b + d))"
    unit = "at most 1, chance 0"
    higher_is_better = True

    def value(self, sums: Tensor) -> Tensor:
        """Accuracy beyond chance, ``2 (a d - b c) / ((a + c) (c + d) + (a + b) (b + d))``."""
        a, b, c, d = sums
        found: Tensor = 2 * (a * d - b * c) / ((a + c) * (c + d) + (a + b) * (b + d))
        return found


class MeanCSI(Score):
    """Mean of the critical success index over thresholds, also called CSI-M.

    Its value over all lead times is of counts that are summed over these; the mean of its values by lead
    time, published under the same name, stands beside it. Undefined where that of a threshold is.

    Args:
        thresholds: least values of events, in the unit of the data.
        rounding: as of the scores of one threshold.
    """

    name = "csi_mean"
    title = "Critical success index, mean over thresholds"
    unit = "at most 1"
    higher_is_better = True
    pooled = True

    def __init__(self, thresholds: Sequence[float], rounding: float = 0.0) -> None:
        self.scores = [CSI(threshold, rounding=rounding) for threshold in thresholds]
        self.count = sum(score.count for score in self.scores)
        named = ", ".join(f"{score.threshold:g}" for score in self.scores)
        self.formula = f"mean of {CSI.ratio} at {named}, counts of pixels over all frames"

    def terms(self, forecast: Frames, truth: Frames) -> Tensor:
        """Contingency table of each threshold."""
        return torch.cat([score.terms(forecast, truth) for score in self.scores])

    def value(self, sums: Tensor) -> Tensor:
        """Mean of the index of each threshold."""
        tables = sums.chunk(len(self.scores))
        return torch.stack([score.value(t) for score, t in zip(self.scores, tables, strict=True)]).mean(0)

    def samples(self, sums: Tensor) -> Tensor:
        """Number of pixels."""
        return self.scores[0].samples(sums.chunk(len(self.scores))[0])


def _measured_weight(frames: Frames) -> Tensor:
    """Weight of every frame, (B, L), summed in the order of the weight of its events: none is left."""
    return _weight_where(frames.valid, frames.weight)


def _event_weight(frames: Frames, threshold: float, rounding: float) -> Tensor:
    """Weight of the events of every frame, (B, L)."""
    return _weight_where(frames.cached(events, threshold, rounding), frames.weight)


def _weight_where(true: Tensor, weight: Tensor) -> Tensor:
    """Sum of the weights of every frame where something is true, (B, L), float64."""
    return torch.where(true, weight, 0).sum((2, 3, 4)).double()


CATEGORICAL: tuple[type[CategoricalScore], ...] = (CSI, POD, FAR, ETS, FrequencyBias, HSS)
"""The scores of a contingency table, in the order of the tables."""
