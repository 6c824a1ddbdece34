"""Structural similarity of two images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import OptionError, ShapeError
from convlstm.validation import check_tensor, is_number, received

WINDOW = 11
_SIGMA = 1.5


def ssim(a: Tensor, b: Tensor, *, data_range: float, valid: Tensor | None = None) -> Tensor:
    """Structural similarity of images (Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13).

    Around every pixel whose 11 x 11 window lies inside the image, with means m, variances v and covariance
    v_ab weighted by a Gaussian of standard deviation 1.5 pixels::

        SSIM = (2 m_a m_b + C1) (2 v_ab + C2) / ((m_a^2 + m_b^2 + C1) (v_a + v_b + C2))
        C1 = (0.01 data_range)^2,  C2 = (0.03 data_range)^2

    averaged over those pixels and over channels. Computed in float32 at least, also under autocast;
    differentiable, so ``1 - ssim(...)`` is a loss.

    Args:
        a: (..., C, H, W), H and W at least 11.
        b: as ``a``.
        data_range: largest minus smallest value that the data can take (1 for values in [0, 1]).
        valid: (..., C, H, W), bool, pixels that were measured; windows with one that was not are left out.

    Returns:
        (...), one value a frame, at most 1; float32 (float64 for float64). NaN for a frame without a window.

    Raises:
        ShapeError: shapes differ or frames are smaller than the window.
        OptionError: ``data_range`` is not positive.
    """
    check_tensor(a, "a (..., C, H, W)")
    check_tensor(b, "b (..., C, H, W)")
    if a.shape != b.shape or a.ndim < 3:
        raise ShapeError(
            f"a and b must have one shape (..., C, H, W); received {tuple(a.shape)} and {tuple(b.shape)}: "
            "add the missing axes to one of them"
        )
    if min(a.shape[-2:]) < WINDOW:
        raise ShapeError(
            f"frames must be at least {WINDOW} x {WINDOW} for structural similarity; received "
            f"{a.shape[-2]} x {a.shape[-1]}: use larger frames or another score or loss"
        )
    data_range = check_data_range(data_range)
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    if valid is not None:
        a, b = torch.where(valid, a, 0), torch.where(valid, b, 0)
    # E[x^2] - E[x]^2 loses its digits where the mean is large; no variance changes with an offset.
    offset = b.detach().mean((-2, -1), keepdim=True)
    a, b = a - offset, b - offset
    m_a, m_b = _blur(a), _blur(b)
    v_a, v_b, v_ab = _blur(a * a) - m_a * m_a, _blur(b * b) - m_b * m_b, _blur(a * b) - m_a * m_b
    m_a, m_b = m_a + offset, m_b + offset
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_part = (2 * m_a * m_b + c1) / (m_a * m_a + m_b * m_b + c1)
    similarity = mean_part * (2 * v_ab + c2) / (v_a + v_b + c2)
    if valid is None:
        return similarity.mean((-3, -2, -1))
    missing = (~valid).to(dtype).flatten(0, -4) if a.ndim > 3 else (~valid).to(dtype)
    whole = F.max_pool2d(missing, WINDOW, stride=1).view(similarity.shape) == 0
    total, count = (similarity * whole).sum((-3, -2, -1)), whole.sum((-3, -2, -1))
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def check_data_range(data_range: float) -> float:
    """Return ``data_range`` if it is a positive, finite number."""
    if not is_number(data_range) or data_range <= 0:
        raise OptionError(
            f"data_range must be positive and finite; received {received(data_range)}: pass the largest "
            "minus the smallest value the data can take"
        )
    return float(data_range)


def _blur(x: Tensor) -> Tensor:
    """Weighted mean over every window inside the image: (..., H, W) -> (..., H - 10, W - 10)."""
    centre = WINDOW // 2
    weight = [math.exp(-((k - centre) ** 2) / (2 * _SIGMA**2)) for k in range(WINDOW)]
    # Shifted sums, not a convolution: far faster for one channel on a CPU, and neither autocast nor TF32
    # rounds them, which the differences of squares above would not survive.
    for axis in (-2, -1):
        size = x.shape[axis] - WINDOW + 1
        total = x.narrow(axis, 0, size) * (weight[0] / sum(weight))
        for k in range(1, WINDOW):
            total = torch.add(total, x.narrow(axis, k, size), alpha=weight[k] / sum(weight))
        x = total
    return x
