"""Convolutions that keep the size of their input, in one, two or three space dimensions."""

import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import ShapeError

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

#: What lies beyond the border: zeros, the border's own value, its mirror image, or the opposite border.
PADDING_MODES = ("zeros", "replicate", "reflect", "circular")


def same_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: tuple[int, ...] | None = None,
    padding_mode: tuple[str, ...] | None = None,
) -> Tensor:
    """Convolve to the size of the input.

    For an even kernel an axis is padded by one pixel more at its end than at its start.

    Args:
        x: (N, C_in, *S).
        weight: (C_out, C_in, *kernel), one to three kernel axes.
        bias: (C_out,) or None.
        dilation: distance between the taps of the kernel, one per space axis; None for 1.
        padding_mode: one of `PADDING_MODES` per space axis; None for zeros.

    Returns:
        (N, C_out, *S).
    """
    kernel = weight.shape[2:]
    dilation = dilation or (1,) * len(kernel)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    modes = padding_mode or ("zeros",) * len(kernel)
    conv = _CONV[len(kernel)]
    if all(r % 2 == 0 for r in reach) and all(mode == "zeros" for mode in modes):
        return conv(x, weight, bias, padding=[r // 2 for r in reach], dilation=dilation)
    return conv(_pad(x, reach, modes), weight, bias, dilation=dilation)


def check_reach(size: tuple[int, ...], reach: list[int], modes: tuple[str, ...]) -> None:
    """Check that a border can be taken from inside the frame.

    Args:
        size: of the frame.
        reach: by how much a convolution widens each axis.
        modes: one of `PADDING_MODES` per axis.

    Raises:
        ShapeError: a frame smaller than what is to be mirrored or wrapped.
    """
    for axis, (r, mode) in enumerate(zip(reach, modes, strict=True)):
        behind = r - r // 2
        if mode in ("reflect", "circular") and behind > size[axis] - int(mode == "reflect"):
            raise ShapeError(
                f"padding_mode={mode} needs a frame at least as large as the kernel's reach; received size "
                f"{size[axis]} for a reach of {behind} on space axis {axis}: use padding_mode=zeros"
            )


def _pad(x: Tensor, reach: list[int], modes: tuple[str, ...]) -> Tensor:
    """Widen each space axis by ``reach``, half before and half behind, each in its own mode."""
    axes = len(reach)
    check_reach(tuple(x.shape[2:]), reach, modes)
    for axis, (r, mode) in enumerate(zip(reach, modes, strict=True)):
        if not r:
            continue
        before, behind = r // 2, r - r // 2
        if mode == "zeros":
            x = F.pad(x, [0, 0] * (axes - 1 - axis) + [before, behind])
        else:  # torch wants these modes spelt out for all space axes at once
            widths = [0, 0] * (axes - 1 - axis) + [before, behind] + [0, 0] * axis
            x = F.pad(x, widths, mode=mode)
    return x


def _pad_gradient(gradient: Tensor, reach: list[int], modes: tuple[str, ...]) -> Tensor:
    """The gradient of `_pad` by its input: what lies beyond the border is added to where it came from."""
    for axis, (r, mode) in enumerate(zip(reach, modes, strict=True)):
        before, size = r // 2, gradient.shape[axis + 2] - r
        inside = gradient.narrow(axis + 2, before, size)
        if not r or mode == "zeros":
            gradient = inside
            continue
        inside = inside.clone()
        for place in [*range(-before, 0), *range(size, size + r - before)]:
            mirrored = -place if place < 0 else 2 * (size - 1) - place
            source = {
                "replicate": min(max(place, 0), size - 1),
                "reflect": mirrored,
                "circular": place % size,
            }
            inside.select(axis + 2, source[mode]).add_(gradient.select(axis + 2, before + place))
        gradient = inside
    return gradient
