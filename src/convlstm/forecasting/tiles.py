"""Forecasts of large frames by overlapping tiles, equal to those of whole frames, and their memory."""

import copy
import ctypes
import gc
import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from convlstm.engines.buffer_pool import pool
from convlstm.errors import ConvLSTMError, OptionError, RunError, is_out_of_memory
from convlstm.models.autoregressive import AutoregressiveForecaster
from convlstm.models.base import Forecaster, run_forecaster
from convlstm.models.memory import CallSizes, gibibytes, inference_bytes
from convlstm.system_memory import free_memory, process_bytes

_ALIGNMENT = 32  # least multiple at which tiles start, so that patches and levels lie as in the whole frame
_WIDTHS = (512, 1024, 2048)  # of the strips that the radius of influence is measured on
_PROBE = 192  # side of the frame that memory is measured on
_LARGE = 2**19  # pixels from which memory is measured before a forecast
_SHARE = 0.8  # of the free memory that a forecast may take
_log = logging.getLogger("convlstm")


def forecast_frames(
    model: Forecaster,
    past: Tensor,
    steps: int,
    inputs: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    times: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """Forecast of frames of any size: whole where memory suffices, otherwise by tiles.

    Args:
        model: the forecaster, in evaluation mode.
        past: (B, K, C, H, W).
        steps: L.
        inputs: (B, K + L, E, H, W), extra inputs.
        valid: (B, K, C, H, W), bool, measured pixels; None if all are.
        times: (B, K + L), seconds since 1970-01-01; None if unknown.
        tile: height and width that a tile contributes, the whole frame if that is no larger; chosen by the
            free memory if None, for a network.

    Returns:
        (B, L, C, H, W); by tiles equal to that of whole frames up to rounding.

    Raises:
        OptionError: tiles for a model that sees the whole frame, or not enough memory for the smallest ones.
    """
    size = past.shape[-2:]
    small = size[0] * size[1] < _LARGE or next(model.parameters(), None) is None  # baselines take little
    if small if tile is None else tile >= max(size):
        return _whole(model, past, steps, inputs, valid, times)
    if tile is None:
        needed, free = past.shape[0] * bytes_per_pixel(model, past, steps, inputs), free_memory(past.device)
        whole = needed * size[0] * size[1]
        _log.info(
            f"memory: at most about {gibibytes(whole)} for {size[0]} x {size[1]} pixels; "
            f"{gibibytes(free)} are free"
        )
        if whole <= _SHARE * free:
            return _whole(model, past, steps, inputs, valid, times)
        unit, overlap = alignment(model, past.shape[2]), influence_radius(model, past, steps, inputs)
        side = math.isqrt(int(_SHARE * free / needed)) // unit * unit
        tile = side - 2 * _rounded(overlap, unit)
        if tile < unit:
            least = needed * (unit + 2 * _rounded(overlap, unit)) ** 2
            raise OptionError(
                f"a forecast must fit in memory; {gibibytes(free)} are free and the smallest tile takes "
                f"{gibibytes(least)}: free memory, or forecast fewer steps"
            )
    return _by_tiles(model, past, steps, inputs, valid, times, tile)


def _whole(
    model: Forecaster,
    past: Tensor,
    steps: int,
    inputs: Tensor | None,
    valid: Tensor | None,
    times: Tensor | None,
) -> Tensor:
    try:
        return run_forecaster(model, past, steps, inputs, valid=valid, times=times)
    except Exception as error:  # torch and numpy raise several kinds
        if not is_out_of_memory(error):
            raise
        height, width = past.shape[-2:]
        frames = CallSizes((height, width), past.shape[1], steps, past.shape[0])
        try:
            needs = f" needs {gibibytes(inference_bytes(model, frames))}"
        except ConvLSTMError:  # its memory cannot be counted
            needs = " does not"
        raise RunError(
            f"a forecast must fit in memory; one of {steps} frames of {height} x {width}{needs} and "
            f"{gibibytes(free_memory(past.device))} are free: forecast by tiles (--tile 256), or fewer steps"
        ) from error


def _by_tiles(
    model: Forecaster,
    past: Tensor,
    steps: int,
    inputs: Tensor | None,
    valid: Tensor | None,
    times: Tensor | None,
    tile: int,
) -> Tensor:
    unit = alignment(model, past.shape[2])
    overlap = _rounded(influence_radius(model, past, steps, inputs), unit)
    tile = _rounded(tile, unit)
    height, width = past.shape[-2:]
    whole = past.new_empty(past.shape[0], steps, *past.shape[2:])
    _log.info(f"tiles: {tile} x {tile} pixels, each read with {overlap} around it")
    for rows, columns in product(_spans(height, tile, overlap), _spans(width, tile, overlap)):
        read = (..., slice(*rows[0]), slice(*columns[0]))
        part, extra = past[read].contiguous(), None if inputs is None else inputs[read]
        measured = None if valid is None else valid[read]
        made = run_forecaster(model, part, steps, extra, valid=measured, times=times)
        above, left = (slice(start - first, end - first) for (first, _), (start, end) in (rows, columns))
        whole[..., slice(*rows[1]), slice(*columns[1])] = made[..., above, left]
    return whole


def _spans(length: int, tile: int, overlap: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Ends of what each tile reads along an axis, and of what it contributes."""
    for start in range(0, length, tile):
        end = min(start + tile, length)
        yield (max(start - overlap, 0), min(end + overlap, length)), (start, end)


def alignment(model: Forecaster, channels: int) -> int:
    """Pixels at whose multiples tiles start: those of the coarsest level that the model pads frames to."""
    unit = 1
    if isinstance(model, AutoregressiveForecaster):
        unit = model.pad(torch.zeros(1, 1, channels, 1, 1)).shape[-1]
    return _rounded(_ALIGNMENT, unit)


def influence_radius(model: Forecaster, past: Tensor, steps: int, inputs: Tensor | None = None) -> int:
    """Pixels around a tile that its forecast depends on.

    Measured: the gradients, in float64 at random frames, of aligned pixels in the middle of a strip are zero
    beyond the radius, along the columns and along the rows.

    Args:
        model: the forecaster, in evaluation mode.
        past: (B, K, C, H, W), for their sizes alone.
        steps: L.
        inputs: (B, K + L, E, H, W), for their sizes alone.

    Raises:
        OptionError: a forecast that depends on the whole frame, as with attention over all pixels.
    """
    with torch.inference_mode(False):
        reference = copy.deepcopy(model).cpu().double()
    for module in reference.modules():
        if getattr(module, "output", None) == "relu":
            module.output = "linear"  # type: ignore[assignment] # so that no pixel has a gradient of zero
    unit, length, channels = alignment(model, past.shape[2]), past.shape[1], past.shape[2]
    extra = 0 if inputs is None else inputs.shape[2]
    # First two frames, which tell whether a forecast depends on all pixels, for which a long one takes long.
    for width, seen, ahead in [(_WIDTHS[0], min(length, 2), 1), *((w, length, steps) for w in _WIDTHS)]:
        width = _rounded(width, 2 * unit)
        radius = _radius(reference, (seen, channels, extra), ahead, unit, width)
        if radius is not None and ahead == steps and seen == length:
            return radius
        if radius is None and ahead != steps:
            break
    raise OptionError(
        "tiles need a model that sees a part of the frame; the forecast of this one depends on pixels more "
        f"than {_WIDTHS[0] // 2} apart in a single step: forecast whole frames, and fewer "
        "steps if memory is short"
    )


def _radius(
    reference: Forecaster, sizes: tuple[int, int, int], steps: int, unit: int, width: int
) -> int | None:
    """Radius of influence on a strip of a width, and on one of that height; None if it reaches the ends."""
    found = [_radius_along(axis, reference, sizes, steps, unit, width) for axis in (-1, -2)]
    return None if None in found else max(radius for radius in found if radius is not None)


def _radius_along(
    axis: int, reference: Forecaster, sizes: tuple[int, int, int], steps: int, unit: int, width: int
) -> int | None:
    """Radius of influence on a strip that is ``width`` pixels long along an axis, -1 or -2."""
    (length, channels, extra), draw = sizes, torch.Generator().manual_seed(0)
    size = (unit, width) if axis == -1 else (width, unit)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw, dtype=torch.float64, requires_grad=True)

    with torch.inference_mode(False), torch.enable_grad():
        frames = drawn(1, length, channels, *size)
        inputs = drawn(1, length + steps, extra, *size) if extra else None
        given = [frames] if inputs is None else [frames, inputs]
        last = run_forecaster(reference, frames, steps, inputs)[0, -1].movedim(axis, -1)

        def touched(start: int) -> Tensor:  # pixels that a forecast of aligned ones depends on
            block = last[..., start : start + unit].sum()
            if not block.requires_grad:
                return torch.empty(0)
            grads = torch.autograd.grad(block, given, retain_graph=True, allow_unused=True)
            read = [(grad != 0).movedim(axis, 0).flatten(1).any(1) for grad in grads if grad is not None]
            return torch.stack([torch.zeros(width, dtype=torch.bool), *read]).any(0).nonzero()[:, 0]

        at_end, middle = touched(0), width // 2
        around = touched(middle)
    if not len(around):  # a ReLU that is shut for random frames need not be so for others
        raise OptionError(
            "tiles need a model whose forecast has gradients, by which the pixels that matter around a tile "
            f"are found; that of a {type(reference).__name__} has none: forecast whole "
            "frames, and fewer steps if memory is short"
        )
    first, final = int(around.min()), int(around.max())
    # Of a frame whose one side continues the other, as with circular padding, a tile sees one side alone.
    if first == 0 or final == width - 1 or width - 1 in at_end:
        return None
    return max(middle - first, final + 1 - middle - unit, 0)


def bytes_per_pixel(model: Forecaster, past: Tensor, steps: int, inputs: Tensor | None = None) -> float:
    """Bytes that a forecast takes for each pixel of a frame, measured on small ones; 0 if unknown."""
    sizes = [each.shape[1:3] for each in (past, inputs) if each is not None]
    small = [past.new_zeros(1, *size, _PROBE, _PROBE) for size in sizes]
    if past.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(past.device)
        before = torch.cuda.memory_allocated(past.device)
        run_forecaster(model, small[0], steps, *small[1:])
        return (torch.cuda.max_memory_allocated(past.device) - before) / _PROBE**2
    tiny = [each[..., :_ALIGNMENT, :_ALIGNMENT].contiguous() for each in small]
    run_forecaster(model, tiny[0], steps, *tiny[1:])  # what the first call allocates for good
    pool.clear()
    gc.collect()  # what is collected while the peak is measured would be subtracted from it
    with suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but not given back would not be counted
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, files = process_bytes("VmRSS"), process_bytes("RssFile")
        run_forecaster(model, small[0], steps, *small[1:])
        # Pages of files that the kernel has dropped meanwhile would be subtracted from the peak.
        taken = process_bytes("VmHWM") - before + max(0, files - process_bytes("RssFile"))
        pool.clear()
        # In a long process the measured forecast may find memory that was freed and not returned.
        return max(taken, _counted(model, past.shape[1], steps)) / _PROBE**2
    return 0.0


def _counted(model: Forecaster, past: int, steps: int) -> int:
    """Bytes of the buffers of a forecast on small frames; 0 if they cannot be counted."""
    try:
        return inference_bytes(model, CallSizes((_PROBE, _PROBE), past, steps, 1))
    except ConvLSTMError:
        return 0


def _rounded(value: int, unit: int) -> int:
    """The least multiple of a unit that is not below a value."""
    return -(-value // unit) * unit
