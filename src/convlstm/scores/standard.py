"""The scores of every table."""

from convlstm.scores.base import Score
from convlstm.scores.image import SSIM, Sharpness
from convlstm.scores.pixel import MAE, MSE, PSNR, AbsoluteErrorSum, SquaredErrorSum


def standard_scores(data_range: float = 1.0) -> tuple[Score, ...]:
    """The scores of every table, in its order.

    Args:
        data_range: largest minus smallest value that the data can take, for PSNR and SSIM.
    """
    return (
        MSE(),
        MAE(),
        SquaredErrorSum(),
        AbsoluteErrorSum(),
        PSNR(data_range),
        SSIM(data_range),
        Sharpness(),
    )
