"""Convolutions that keep the size of their input, in one, two or three space dimensions."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from convlstm.errors import OptionError, ShapeError, check_name
from convlstm.validation import check_integers, check_tensor, received

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_ZEROS = {"zeros"}

#: Padding of an axis, as in torch: zeros, the border repeated, mirrored without it, or the opposite border.
PADDING_MODES = ("zeros", "replicate", "reflect", "circular")


def same_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: tuple[int, ...] | None = None,
    padding_mode: tuple[str, ...] | None = None,
) -> Tensor:
    """Convolution (cross-correlation, as in torch) with "same" padding, to the size of its input.

    For an even kernel an axis is padded by one pixel more at its end than at its start.

    Args:
        x: (N, C_in, *S).
        weight: (C_out, C_in, *kernel), one to three kernel axes.
        bias: (C_out,) or None.
        dilation: distance between the taps of the kernel, one per space axis; None for 1.
        padding_mode: one of `PADDING_MODES` per space axis; None for zeros.

    Returns:
        (N, C_out, *S).

    Raises:
        ShapeError: tensors of other shapes, or frames smaller than the border that a padding mode repeats.
        OptionError: not one dilation and one padding mode per space axis.
    """
    check_tensor(x, "x (N, C, *S)")
    check_tensor(weight, "weight (C_out, C, *kernel)")
    if weight.ndim - 2 not in _CONV or x.ndim != weight.ndim or x.shape[1] != weight.shape[1]:
        raise ShapeError(
            f"x must be (N, C, *S) and weight (C_out, C, *kernel), one to three axes each; received "
            f"{tuple(x.shape)} and {tuple(weight.shape)}: give both the same channels and axes"
        )
    if bias is not None and check_tensor(bias, "bias (C_out,)").shape != weight.shape[:1]:
        raise ShapeError(
            f"bias must be ({weight.shape[0]},); received {tuple(bias.shape)}: one value per row"
        )
    axes = weight.ndim - 2
    dilation = (1,) * axes if dilation is None else check_integers(dilation, axes, "dilation")
    modes = ("zeros",) * axes if padding_mode is None else check_padding_modes(padding_mode, axes)
    return convolve(x, weight, bias, dilation, modes)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, ...], modes: tuple[str, ...]
) -> Tensor:
    """`same_conv` of arguments that are known to be right: each step of a cell calls it."""
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    conv = _CONV[len(reach)]
    if {*modes} == _ZEROS and not must_be_padded(x, weight):
        if any(r % 2 for r in reach):
            x = F.pad(x, [n for r in reversed(reach) for n in (0, r % 2)])
        return conv(x, weight, bias, 1, [r // 2 for r in reach], dilation)
    return conv(pad(x, reach, modes), weight, bias, dilation=dilation)


def must_be_padded(x: Tensor, weight: Tensor) -> bool:
    """True if frames (N, C, *S) must be padded before they are convolved, not by torch's convolution.

    In bfloat16 on a CPU, with three space axes of which one is shorter than its kernel, torch's convolution
    and its gradient of the weight (2.13, oneDNN) read and write outside their memory where they pad.
    """
    if x.ndim != 5 or x.device.type != "cpu":
        return False
    return any(size < k for size, k in zip(x.shape[2:], weight.shape[2:], strict=True))


def check_padding_modes(value: Any, axes: int) -> tuple[str, ...]:
    """One of `PADDING_MODES` per space axis, from one for all or one for each."""
    modes = (value,) * axes if isinstance(value, str) else value
    if not isinstance(modes, (tuple, list)) or len(modes) != axes:
        raise OptionError(
            f"padding_mode must have one entry per space axis ({axes}); received {received(value)}: give a "
            "name, or a tuple of them"
        )
    return tuple(check_name(mode, PADDING_MODES, "padding_mode") for mode in modes)


def check_reach(size: tuple[int, ...], reach: list[int], modes: tuple[str, ...]) -> None:
    """Check that frames are large enough for the border that a padding mode takes from inside them.

    Args:
        size: of the frame.
        reach: pixels by which an axis is padded, start and end together.
        modes: one of `PADDING_MODES` per axis.

    Raises:
        ShapeError: a frame smaller than the border.
    """
    for axis, (r, mode) in enumerate(zip(reach, modes, strict=True)):
        behind = r - r // 2
        if mode in ("reflect", "circular") and behind > size[axis] - int(mode == "reflect"):
            raise ShapeError(
                f"padding_mode={mode} needs a frame at least as large as the kernel's reach; received size "
                f"{size[axis]} for a reach of {behind} on space axis {axis}: use padding_mode=zeros"
            )


def pad(x: Tensor, reach: list[int], modes: tuple[str, ...]) -> Tensor:
    """Pad each space axis by ``reach`` pixels in its mode, half of them at its start."""
    axes = len(reach)
    check_reach(tuple(x.shape[2:]), reach, modes)
    for axis, (r, mode) in enumerate(zip(reach, modes, strict=True)):
        if not r:
            continue
        before, behind = r // 2, r - r // 2
        if mode == "zeros":
            x = F.pad(x, [0, 0] * (axes - 1 - axis) + [before, behind])
        else:  # these modes need the widths of all space axes
            widths = [0, 0] * (axes - 1 - axis) + [before, behind] + [0, 0] * axis
            x = F.pad(x, widths, mode=mode)
    return x


def pad_gradient(gradient: Tensor, reach: list[int], modes: tuple[str, ...]) -> Tensor:
    """Gradient of `pad`'s input: gradients of padded pixels are added to the pixels that they repeat."""
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
