"""Terms of scores of all forecasters, a few frames at a time."""

from collections.abc import Mapping, Sequence
from itertools import product

from torch import Tensor

from convlstm.errors import ConvLSTMError
from convlstm.scores.base import Score, check_pair
from convlstm.scores.frames import Frames, weights_of

_MOST_VALUES = 2**20  # of the frames that are scored at once: they stay in the cache of a processor


def terms_of(
    scores: Sequence[Score], forecasts: Mapping[str, Tensor], truth: Tensor, weight: Tensor | None, first: int
) -> dict[tuple[str, str], Tensor]:
    """Terms of every frame, (N, B, L), by forecaster and key of the terms.

    Args:
        scores: those with the same key have the same terms, which are computed once.
        forecasts: (B, L, C, H, W) by forecaster.
        truth: (B, L, C, H, W).
        weight: of a shape that expands to that of ``truth``; 1 everywhere if None.
        first: index of the first case, for errors.

    Raises:
        ShapeError: a forecast of another shape than the truth.
        DataError: a value that is not finite.
    """
    by_key: dict[str, Score] = {}
    for score in scores:
        by_key.setdefault(score.terms_key or score.name, score)
    cases, leads = truth.shape[:2]
    cases_once = max(1, _MOST_VALUES // truth[0].numel())
    leads_once = leads if cases_once > 1 else min(leads, max(1, _MOST_VALUES // truth[0, 0].numel()))
    weight = weights_of(truth, weight)
    found: dict[tuple[str, str], Tensor] = {}
    for case, lead in product(range(0, cases, cases_once), range(0, leads, leads_once)):
        part = slice(case, case + cases_once), slice(lead, lead + leads_once)
        true = Frames(truth[part], weight[part])
        for name, forecast in forecasts.items():
            try:
                check_pair(forecast, truth, leads)
                frames = Frames(forecast[part], true.weight, true.valid)
                for key, score in by_key.items():
                    terms_NBL = score.checked_terms(frames, true, first=first + case, lead=lead)
                    whole = found.setdefault((name, key), terms_NBL.new_empty(len(terms_NBL), cases, leads))
                    whole[:, *part] = terms_NBL
            except ConvLSTMError as error:
                raise type(error)(f"{name}: {error}") from None
    return found
