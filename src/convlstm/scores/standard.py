"""Standard sets of scores."""

from collections.abc import Sequence

from convlstm.functional.ssim import WINDOW
from convlstm.scores.base import Score
from convlstm.scores.categorical import CATEGORICAL, MeanCSI
from convlstm.scores.image import SSIM, Sharpness
from convlstm.scores.pixel import (
    MAE,
    MSE,
    PSNR,
    RMSE,
    AbsoluteErrorSum,
    Bias,
    Correlation,
    SquaredErrorSum,
)
from convlstm.scores.spatial import FSS, SmallScalePower, VarianceRatio
from convlstm.validation import check_integers

_WINDOWS = (1, 9, 33)


def standard_scores(data_range: float | None = None, size: Sequence[int] | None = None) -> tuple[Score, ...]:
    """Scores of video, in the order of the tables.

    Args:
        data_range: largest minus smallest possible value of the data; None, unknown, leaves out PSNR and
            SSIM, which are relative to it.
        size: of the frames, (H, W), to leave out SSIM if its window does not fit; None includes it.

    Raises:
        OptionError: ``data_range`` is not positive and finite.
    """
    relative: list[Score] = []
    if data_range is not None:
        relative.append(PSNR(data_range))
        if size is None or min(check_integers(size, 2, "size")) >= WINDOW:
            relative.append(SSIM(data_range))
    return (MSE(), MAE(), SquaredErrorSum(), AbsoluteErrorSum(), *relative, Sharpness())


def field_scores(
    unit: str = "",
    thresholds: Sequence[float] = (),
    size: Sequence[int] | None = None,
    *,
    rounding: float = 0.0,
) -> tuple[Score, ...]:
    """Scores of fields with a unit, such as rain or temperature, in the order of the tables.

    Args:
        unit: of the data, for titles.
        thresholds: least values of events, in the unit.
        size: of the frames, (H, W), to leave out windows of the fractions skill score that are wider.
        rounding: by which values may be less than a threshold and still be events, in the unit.
    """
    least = min(size) if size is not None else max(_WINDOWS)
    categorical = [kind(threshold, unit, rounding) for threshold in thresholds for kind in CATEGORICAL]
    means = [MeanCSI(thresholds, rounding)] if len(thresholds) > 1 else []
    windows = [window for window in _WINDOWS if window <= least]
    spatial = [FSS(threshold, window, unit, rounding) for threshold in thresholds for window in windows]
    scale = (VarianceRatio(), SmallScalePower())
    pixel = (MSE(unit), RMSE(unit), MAE(unit), Bias(unit), Correlation())
    return (*pixel, *categorical, *means, *spatial, *scale)
