"""The scores of every table."""

from collections.abc import Sequence

from convlstm.functional.ssim import WINDOW
from convlstm.scores.base import Score
from convlstm.scores.image import SSIM, Sharpness
from convlstm.scores.pixel import MAE, MSE, PSNR, AbsoluteErrorSum, SquaredErrorSum


def standard_scores(data_range: float | None = None, size: Sequence[int] | None = None) -> tuple[Score, ...]:
    """The scores of every table, in its order.

    Args:
        data_range: largest minus smallest value that the data can take; PSNR and SSIM, which are relative to
            it, are left out where it is None, unknown.
        size: of the frames, (H, W): SSIM is left out where its window does not fit; None if it does.

    Raises:
        OptionError: ``data_range`` is not positive and finite.
    """
    relative: list[Score] = []
    if data_range is not None:
        relative.append(PSNR(data_range))
        if size is None or min(size) >= WINDOW:
            relative.append(SSIM(data_range))
    return (MSE(), MAE(), SquaredErrorSum(), AbsoluteErrorSum(), *relative, Sharpness())
