"""Standard set of scores."""

from collections.abc import Sequence

from convlstm.functional.ssim import WINDOW
from convlstm.scores.base import Score
from convlstm.scores.image import SSIM, Sharpness
from convlstm.scores.pixel import MAE, MSE, PSNR, AbsoluteErrorSum, SquaredErrorSum
from convlstm.validation import check_integers


def standard_scores(data_range: float | None = None, size: Sequence[int] | None = None) -> tuple[Score, ...]:
    """Scores of every table, in its order.

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
