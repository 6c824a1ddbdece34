"""Motion of frames: displacement by phase correlation, translation, dynamic local filters."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import ShapeError
from convlstm.validation import check_tensor


def phase_correlation(a: Tensor, b: Tensor) -> Tensor:
    """The displacement of each frame of ``b`` from that of ``a`` by phase correlation (Kuglin & Hines 1975).

    With the Fourier transforms A and B, the inverse transform of ``conj(A) B / |conj(A) B|``, summed over
    channels, is a peak at the displacement. Its height p and that of its larger neighbour q on each axis give
    the part of a pixel, q / (p + q) towards q (Foroosh et al. 2002). Frames are taken as periodic, so whole
    frame sizes cannot be told apart: the displacement between minus half and half the frame is returned.
    Where several fit equally well (a constant frame, stripes along themselves), the shortest is.

    Args:
        a: (B, C, H, W).
        b: (B, C, H, W).

    Returns:
        (B, 2), pixels along rows (down is positive) and columns (right is positive); float32 (float64 for
        float64).

    Raises:
        ShapeError: shapes differ or are not (B, C, H, W).
    """
    check_tensor(a, "a (B, C, H, W)")
    check_tensor(b, "b (B, C, H, W)")
    if a.ndim != 4 or a.shape != b.shape:
        raise ShapeError(
            f"a and b must have one shape (B, C, H, W); received {tuple(a.shape)} and {tuple(b.shape)}: "
            "pass one frame of each case"
        )
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    cross = torch.fft.fft2(_centred(a)).conj() * torch.fft.fft2(_centred(b))
    # Below this, a coefficient is rounding error of the transform and its phase means nothing.
    floor = 1e-12 * a.abs().sum((-2, -1), keepdim=True) * b.abs().sum((-2, -1), keepdim=True)
    size = cross.abs()
    cross = torch.where(size > floor, cross / size.clamp(min=torch.finfo(dtype).tiny), 0)
    peaks_BHW = torch.fft.ifft2(cross).real.sum(1)
    height, width = peaks_BHW.shape[-2:]
    batch = torch.arange(len(a), device=a.device)
    rows, columns = torch.arange(height, device=a.device), torch.arange(width, device=a.device)
    distance_HW = torch.hypot(_signed(rows, height)[:, None].to(dtype), _signed(columns, width).to(dtype))
    as_good = peaks_BHW >= 0.999 * peaks_BHW.amax((-2, -1), keepdim=True)
    best = torch.where(as_good, distance_HW, torch.inf).flatten(1).argmin(1)
    row, column = best // width, best % width
    peak = peaks_BHW[batch, row, column]
    along_row = [peaks_BHW[batch, (row + k) % height, column] for k in (-1, 1)]
    along_column = [peaks_BHW[batch, row, (column + k) % width] for k in (-1, 1)]
    return torch.stack(
        [
            _signed(row, height) + _fraction(peak, *along_row),
            _signed(column, width) + _fraction(peak, *along_column),
        ],
        dim=1,
    )


def translate(x: Tensor, displacement: Tensor) -> Tensor:
    """Translate frames by bilinear interpolation; beyond the border its values are repeated.

    Args:
        x: (B, C, H, W).
        displacement: (B, 2), pixels along rows (down is positive) and columns (right is positive).

    Returns:
        (B, C, H, W), dtype of ``x``; ``out[r, c] = x[r - displacement[0], c - displacement[1]]``.

    Raises:
        ShapeError: shapes other than these.
    """
    check_tensor(x, "x (B, C, H, W)")
    check_tensor(displacement, "displacement (B, 2)")
    if x.ndim != 4 or displacement.shape != (x.shape[0], 2):
        raise ShapeError(
            f"x must be (B, C, H, W) and displacement (B, 2); received {tuple(x.shape)} and "
            f"{tuple(displacement.shape)}: give one (rows, columns) pair a frame"
        )
    return _shift(_shift(x, displacement[:, 0], 2), displacement[:, 1], 3)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean((-2, -1), keepdim=True)


def _signed(index: Tensor, size: int) -> Tensor:
    """Displacements around zero of the indices of a periodic axis."""
    return torch.where(index > size // 2, index - size, index)


def _fraction(peak: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Sub-pixel offset of a peak between its neighbours, -0.5 to 0.5."""
    tilt = after.clamp(min=0) - before.clamp(min=0)
    return tilt / (peak + tilt.abs()).clamp(min=torch.finfo(peak.dtype).tiny)


def _shift(x: Tensor, displacement_B: Tensor, axis: int) -> Tensor:
    """Translate (B, C, H, W) along one axis, linear between pixels."""
    size = x.shape[axis]
    source = torch.arange(size, device=x.device) - displacement_B[:, None]
    below = source.floor()
    shape = [x.shape[0], 1, 1, 1]
    shape[axis] = size

    def take(index: Tensor) -> Tensor:
        where = index.clamp(0, size - 1).long().view(shape).expand_as(x)
        return x.gather(axis, where)

    part = (source - below).to(x.dtype).view(shape)
    return (1 - part) * take(below) + part * take(below + 1)


def dynamic_filter(x: Tensor, weights: Tensor) -> Tensor:
    """Filter each pixel's neighbourhood with a kernel of its own (Jia et al. 2016, arXiv:1605.09673).

    Args:
        x: (B, C, H, W); beyond the border its values are repeated.
        weights: (B, K, H, W), K = (2 r + 1)^2 weights per pixel, row by row of the neighbourhood; the same
            for all channels.

    Returns:
        (B, C, H, W).

    Raises:
        ShapeError: other shapes.
    """
    check_tensor(x, "x (B, C, H, W)")
    check_tensor(weights, "weights (B, K, H, W)")
    side = math.isqrt(weights.shape[1]) if weights.ndim == 4 else 0
    if x.ndim != 4 or weights.shape != (x.shape[0], side**2, *x.shape[2:]) or side % 2 == 0:
        raise ShapeError(
            "x must be (B, C, H, W) and weights (B, K, H, W) with K an odd number squared; received "
            f"{tuple(x.shape)} and {tuple(weights.shape)}: give one kernel per pixel"
        )
    padded = F.pad(x, (side // 2,) * 4, mode="replicate")
    neighbours = F.unfold(padded, side).view(x.shape[0], x.shape[1], side * side, *x.shape[2:])
    return (neighbours * weights.unsqueeze(1)).sum(dim=2)
