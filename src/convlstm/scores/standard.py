"""The scores of every table."""

from collections.abc import Sequence

from convlstm.functional.ssim import WINDOW
from convlstm.scores.base import Score
from convlstm.scores.image import SSIM, Sharpness
from convlstm.scores.pixel import MAE, MSE, PSNR, AbsoluteErrorSum, SquaredErrorSum


def standard_scores(data_range: float = 1.0, size: Sequence[int] | None = None) -> tuple[Score, ...]:
    """The scores of every table, in its order.

    Args:
        data_range: largest minus smallest value that the data can take, for PSNR and SSIM.
        size: of the frames, (H, W): SSIM is left out where its window does not fit; None if it does.
    """
    scores = (
        MSE(),
        MAE(),
        SquaredErrorSum(),
        AbsoluteErrorSum(),
        PSNR(data_range),
        SSIM(data_range),
        Sharpness(),
    )
    fits = size is None or min(size) >= WINDOW
    return scores if fits else tuple(score for score in scores if not isinstance(score, SSIM))
