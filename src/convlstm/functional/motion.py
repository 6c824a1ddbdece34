"""Motion of frames: displacement by phase correlation, advection, warping, dynamic local filters."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import ShapeError
from convlstm.validation import check_positive, check_tensor

_BLOCK = 64  # pixels a side of the blocks whose motion is estimated apart, each half over the next
_PAIRS = 3  # of frames that the motion of blocks is estimated from
_REACH = 1.5  # blocks over which motion is smoothed


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
    cross = _phases(a.to(dtype), b.to(dtype)).sum(1)
    return _peaks(torch.fft.irfft2(cross, a.shape[-2:]))


def motion_field(frames: Tensor) -> Tensor:
    """Displacement per frame at every pixel, by phase correlation of blocks.

    Blocks of 64 x 64 pixels overlap by half and are tapered (Hann window). The phase spectra of the last
    three pairs of frames are summed, then those of neighbouring blocks, with weights that fall with their
    distance: a block with little to see follows its neighbours and none is an outlier (ensemble correlation,
    Meinhart et al. 2000, doi:10.1115/1.1285892; in time and in space). Between the centres of blocks the
    displacement is bilinear. Frames below 96 pixels are one block: the displacement of all of it between the
    last two frames.

    Args:
        frames: (B, K, C, H, W), finite, in order of time; one frame shows no motion.

    Returns:
        (B, 2, H, W), pixels a frame along rows (down is positive) and columns (right is positive); float32
        (float64 for float64).

    Raises:
        ShapeError: another rank.
    """
    check_tensor(frames, "frames (B, K, C, H, W)")
    if frames.ndim != 5:
        raise ShapeError(f"frames must be (B, K, C, H, W); received {tuple(frames.shape)}: add a batch axis")
    height, width = frames.shape[-2:]
    frames = frames[:, -1 - _PAIRS :].to(torch.promote_types(frames.dtype, torch.float32))
    if frames.shape[1] == 1:
        return frames.new_zeros(len(frames), 2, height, width)
    if max(height, width) < 1.5 * _BLOCK:
        velocity_B2 = phase_correlation(frames[:, -2:][:, 0], frames[:, -1])
        return velocity_B2[..., None, None].expand(-1, -1, height, width)
    row_starts, rows = _block_starts(height)
    column_starts, columns = _block_starts(width)
    taper = torch.hann_window(rows, periodic=False).outer(torch.hann_window(columns, periodic=False))
    blocks_NMBKChw = torch.stack(
        [torch.stack([frames[..., i : i + rows, j : j + columns] for j in column_starts]) for i in row_starts]
    )
    cross_NMBhw = _phases(blocks_NMBKChw[:, :, :, :-1], blocks_NMBKChw[:, :, :, 1:], taper.to(frames)).sum(
        (3, 4)
    )
    weights = [_nearness(len(starts)).to(cross_NMBhw) for starts in (row_starts, column_starts)]
    cross_BNMhw = torch.einsum("in,jm,nmbhw->bijhw", *weights, cross_NMBhw)
    surfaces = torch.fft.irfft2(cross_BNMhw, (rows, columns))
    velocity_B2NM = _peaks(surfaces.flatten(0, 2)).view(*surfaces.shape[:3], 2).movedim(-1, 1)
    places = [
        _block_places(height, row_starts, rows).to(frames),
        _block_places(width, column_starts, columns).to(frames),
    ]
    at = torch.stack(torch.meshgrid(*places, indexing="ij"))
    return _sampled(velocity_B2NM, at.expand(len(frames), -1, -1, -1), "border")


class Trajectory(NamedTuple):
    """Places where the pixels of a frame come from, along a steady velocity.

    Attributes:
        velocity: (B, 2, H, W), pixels a step along rows (down is positive) and columns (right is positive).
        origin: (B, 2, H, W), row and column of the place of each pixel some steps before.
        moved: (B, 2, H, W), displacement of the last of these steps.
    """

    velocity: Tensor
    origin: Tensor
    moved: Tensor

    @classmethod
    def start(cls, velocity: Tensor) -> "Trajectory":
        """The trajectory of no step: each pixel is at its own place; float32 (float64 for float64)."""
        velocity = velocity.to(torch.promote_types(velocity.dtype, torch.float32))
        axes = (
            torch.arange(size, device=velocity.device, dtype=velocity.dtype) for size in velocity.shape[2:]
        )
        origin = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand_as(velocity)
        return cls(velocity, origin, torch.zeros_like(velocity))

    def step(self) -> "Trajectory":
        """The trajectory of one step more, by the midpoint rule with the last step's displacement."""
        moved = _sampled(self.velocity, self.origin - self.moved / 2, "border")
        return Trajectory(self.velocity, self.origin - moved, moved)

    def sample(self, x: Tensor, *, zero_outside: bool = False) -> Tensor:
        """Values of frames (B, C, H, W) where the pixels come from, bilinear between theirs; their dtype."""
        values = x.to(torch.promote_types(x.dtype, torch.float32)).to(self.origin.dtype)
        return _sampled(values, self.origin, "zeros" if zero_outside else "border").to(x.dtype)


def advect(x: Tensor, velocity: Tensor, steps: int, *, zero_outside: bool = False) -> Tensor:
    """Frames moved on along a steady velocity: backward semi-Lagrangian extrapolation.

    Each pixel is followed back along the velocity, step by step, to the place where it comes from, whose
    value is interpolated bilinearly, once for all steps (Germann & Zawadzki 2002).

    Args:
        x: (B, C, H, W).
        velocity: (B, 2, H, W), pixels a step along rows (down is positive) and columns (right is positive).
        steps: L.
        zero_outside: zeros come in from outside; the values at the border are repeated otherwise.

    Returns:
        (B, L, C, H, W), dtype of ``x``.

    Raises:
        ShapeError: shapes other than these.
        OptionError: ``steps`` below 1.
    """
    check_tensor(x, "x (B, C, H, W)")
    check_tensor(velocity, "velocity (B, 2, H, W)")
    if x.ndim != 4 or velocity.shape != (x.shape[0], 2, *x.shape[2:]):
        raise ShapeError(
            f"x must be (B, C, H, W) and velocity (B, 2, H, W); received {tuple(x.shape)} and "
            f"{tuple(velocity.shape)}: give one (rows, columns) pair a pixel"
        )
    check_positive(steps, "steps")
    trajectory, frames = Trajectory.start(velocity.to(torch.promote_types(x.dtype, velocity.dtype))), []
    for _ in range(steps):
        trajectory = trajectory.step()
        frames.append(trajectory.sample(x, zero_outside=zero_outside))
    return torch.stack(frames, dim=1)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Values of a frame at displaced places, interpolated between the pixels; zeros beyond the border.

    ``y[:, :, l, i, j]`` is ``x`` at row ``i + flow[:, l, 0, i, j]`` and column ``j + flow[:, l, 1, i, j]``,
    bilinear. It can be differentiated twice, which `torch.nn.functional.grid_sample` cannot.

    Args:
        x: (B, C, H, W).
        flow: (B, L, 2, H, W), pixels along rows (down is positive) and columns (right is positive).

    Returns:
        (B, C, L, H, W), dtype of ``x``.

    Raises:
        ShapeError: other shapes.
    """
    check_tensor(x, "x (B, C, H, W)")
    check_tensor(flow, "flow (B, L, 2, H, W)")
    if x.ndim != 4 or flow.ndim != 5 or flow.shape != (x.shape[0], flow.shape[1], 2, *x.shape[2:]):
        raise ShapeError(
            f"x must be (B, C, H, W) and flow (B, L, 2, H, W); received {tuple(x.shape)} and "
            f"{tuple(flow.shape)}: give L (rows, columns) pairs a pixel"
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    axes = (torch.arange(size, device=x.device, dtype=dtype) for size in x.shape[2:])
    at_B2LHW = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + flow.to(dtype)).transpose(1, 2)
    at_B2NW = at_B2LHW.flatten(2, 3)
    if torch.compiler.is_compiling():
        y_BCNW = F.grid_sample(x.to(dtype), _normalised(at_B2NW, x), align_corners=False)
    elif torch._C._are_functorch_transforms_active():
        y_BCNW = _interpolated(x.to(dtype), at_B2NW)
    else:
        y_BCNW = _Interpolation.apply(x.to(dtype), at_B2NW)  # type: ignore[no-untyped-call]
    y: Tensor = torch.unflatten(y_BCNW, 2, (flow.shape[1], x.shape[2]))
    return y.to(x.dtype)


class _Interpolation(torch.autograd.Function):
    """Values of (B, C, H, W) at pixels (B, 2, N, M), bilinear, zeros beyond the border.

    The gradient is torch's; where it is to be differentiated again, that of `_interpolated`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(x, at)
        return F.grid_sample(x, _normalised(at, x), align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, at = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in (x, at)]
            return torch.autograd.grad(_interpolated(*inputs), inputs, gradient, create_graph=True)
        # Bilinear, zeros outside, align_corners=False, both gradients.
        backward = torch.ops.aten.grid_sampler_2d_backward
        d_x, d_grid = backward(gradient, x, _normalised(at, x), 0, 0, False, [True, True])
        scale = torch.tensor([2 / size for size in x.shape[2:]], dtype=x.dtype, device=x.device)
        return d_x, d_grid.movedim(-1, 1).flip(1) * scale.view(2, 1, 1)


def _normalised(at: Tensor, x: Tensor) -> Tensor:
    """Pixels (B, 2, N, M) of (B, C, H, W) as `grid_sample` takes them with align_corners=False."""
    height, width = x.shape[2:]
    return torch.stack([(2 * at[:, 1] + 1) / width - 1, (2 * at[:, 0] + 1) / height - 1], dim=-1)


def _interpolated(x: Tensor, at: Tensor) -> Tensor:
    """`_Interpolation`, from operations that can be differentiated as often as one likes."""
    height, width = x.shape[2:]
    first = at.detach().floor()
    near_2, far_2 = (1 - (at - first)).unbind(1), (at - first).unbind(1)
    y: Any = 0
    for down, along_rows in ((0, near_2), (1, far_2)):
        for right, along_columns in ((0, near_2), (1, far_2)):
            row, column = first[:, 0] + down, first[:, 1] + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten(1)
            values = x.flatten(2).gather(2, pixel.unsqueeze(1).expand(-1, x.shape[1], -1))
            weight = torch.where(inside, along_rows[0] * along_columns[1], 0)
            y = y + torch.unflatten(values, 2, row.shape[1:]) * weight.unsqueeze(1)
    return y  # type: ignore[no-any-return]


def _phases(a: Tensor, b: Tensor, taper: Tensor | float = 1.0) -> Tensor:
    """Phase spectra (..., H, W // 2 + 1) of the displacement from frames (..., H, W) to others."""
    cross = torch.fft.rfft2(_centred(a) * taper).conj() * torch.fft.rfft2(_centred(b) * taper)
    # Below this, a coefficient is rounding error of the transform and its phase means nothing.
    floor = 1e-12 * a.abs().sum((-2, -1), keepdim=True) * b.abs().sum((-2, -1), keepdim=True)
    size = cross.abs()
    return torch.where(size > floor, cross / size.clamp(min=torch.finfo(a.dtype).tiny), 0)


def _block_starts(length: int) -> tuple[list[int], int]:
    """First pixels of the blocks of an axis, and their size."""
    size = min(_BLOCK, length)
    count = 1 + round((length - size) / (_BLOCK // 2))
    return [round(k * (length - size) / max(count - 1, 1)) for k in range(count)], size


def _block_places(length: int, starts: list[int], size: int) -> Tensor:
    """Places of the pixels of an axis among the centres of its blocks, 0 at the first."""
    spacing = (length - size) / max(len(starts) - 1, 1)
    return (torch.arange(length) - (size - 1) / 2) / max(spacing, 1)


def _nearness(count: int) -> Tensor:
    """Weights (N, N) of the blocks of an axis for one another."""
    place = torch.arange(count)
    return (1 + ((place[:, None] - place) / _REACH).square()).square().reciprocal()


def _peaks(surfaces_BHW: Tensor) -> Tensor:
    """Displacement (B, 2) of the peaks of correlation surfaces, to a part of a pixel."""
    height, width = surfaces_BHW.shape[-2:]
    device, dtype = surfaces_BHW.device, surfaces_BHW.dtype
    batch = torch.arange(len(surfaces_BHW), device=device)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    distance_HW = torch.hypot(_signed(rows, height)[:, None].to(dtype), _signed(columns, width).to(dtype))
    as_good = surfaces_BHW >= 0.999 * surfaces_BHW.amax((-2, -1), keepdim=True)
    best = torch.where(as_good, distance_HW, torch.inf).flatten(1).argmin(1)
    row, column = best // width, best % width
    peak = surfaces_BHW[batch, row, column]
    along_row = [surfaces_BHW[batch, (row + k) % height, column] for k in (-1, 1)]
    along_column = [surfaces_BHW[batch, row, (column + k) % width] for k in (-1, 1)]
    return torch.stack(
        [
            _signed(row, height) + _fraction(peak, *along_row),
            _signed(column, width) + _fraction(peak, *along_column),
        ],
        dim=1,
    )


def _centred(x: Tensor) -> Tensor:
    return x - x.mean((-2, -1), keepdim=True)


def _signed(index: Tensor, size: int) -> Tensor:
    """Displacements around zero of the indices of a periodic axis."""
    return torch.where(index > size // 2, index - size, index)


def _fraction(peak: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Sub-pixel offset of a peak between its neighbours, -0.5 to 0.5."""
    tilt = after.clamp(min=0) - before.clamp(min=0)
    return tilt / (peak + tilt.abs()).clamp(min=torch.finfo(peak.dtype).tiny)


def _sampled(x: Tensor, at: Tensor, outside: str) -> Tensor:
    """Values of (B, C, H, W) at pixels (B, 2, *S), bilinear between them."""
    last = torch.tensor([max(size - 1, 1) for size in x.shape[2:]], device=x.device)
    grid = (2 * at / last.view(2, 1, 1) - 1).flip(1).movedim(1, -1)
    return F.grid_sample(x, grid, padding_mode=outside, align_corners=True)


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
    height, width = x.shape[2:]
    padded = _with_border(x, side // 2)
    offsets = [(row, column) for row in range(side) for column in range(side)]
    # In training half the time of F.unfold.
    neighbours = [padded[..., i : i + height, j : j + width] for i, j in offsets]
    return (torch.stack(neighbours, dim=2) * weights.unsqueeze(1)).sum(dim=2)


def _with_border(x: Tensor, width: int) -> Tensor:
    """Frames (B, C, H, W) with the values at the border repeated beyond it.

    As F.pad does with mode="replicate", of which torch's compiler cannot fuse two.
    """
    for axis in (2, 3):
        size = [width if each == axis else -1 for each in range(4)]
        first, last = (x.narrow(axis, place, 1).expand(size) for place in (0, x.shape[axis] - 1))
        x = torch.cat([first, x, last], dim=axis)
    return x
