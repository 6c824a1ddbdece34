"""Convolutions with 3x3 and 5x5 kernels by minimal filtering (Winograd), in C++: see ``csrc/winograd.h``."""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import convlstm.engines.config as config
from convlstm.engines.buffer_pool import empty
from convlstm.engines.cpu.library import FrameShape, WinogradShape
from convlstm.engines.cpu.padding import padded_indices
from convlstm.engines.direct import ConvWeight, DirectWeight, bias_gradient, computed_once
from convlstm.engines.dry_run import DryTensor, active

_SIDE = 6  # of a tile of the input
_LARGEST = 4096.0  # input of a gradient; see also winograd.h


@dataclass(frozen=True, eq=False)
class WinogradWeight(ConvWeight):
    """A weight that is transformed when it is first needed; without dilation.

    Attributes:
        library: of `convlstm.engines.cpu.library.load_kernels`.
        weight: (C_out, C_in, K, K), float32, with K = 3 or 5.
        padding_mode: by space axis.
        gates: outputs are pre-activations of so many gates, which a step combines; 0 if they are not.
        flipped: it convolves the result's gradient to that of the input, for zero padding.
        reused: keep the transform for the next call with the same weight.
        direct_gradient: the gradient of the input is a direct convolution.
    """

    library: Any
    weight: Tensor
    padding_mode: tuple[str, ...]
    gates: int = 0
    flipped: bool = False
    reused: bool = False
    direct_gradient: bool = False

    @computed_once
    def shape(self) -> WinogradShape:
        """Shape and strides of the weight, as kernels take it."""
        outputs, inputs, taps, _ = self.weight.shape
        area = taps * taps
        if self.flipped:
            return WinogradShape(inputs, outputs, area, inputs * area, taps, 1, self.gates)
        return WinogradShape(outputs, inputs, inputs * area, area, taps, 0, self.gates)

    @computed_once
    def packed(self) -> Tensor:
        """The transformed weight; one that is kept for later calls, in a dry run until its end, if reused."""
        if not self.reused:
            return self._pack(self.weight.contiguous())
        run = active()
        cache: _Cache = _cache if run is None else run.kept.setdefault("transformed weights", _Cache())
        return cache.packed(self)

    def _pack(self, weight: Tensor) -> Tensor:
        size = self.library.winograd_packed_size(self.shape)
        packed = empty((size,), torch.float32, weight.device)
        if not isinstance(packed, DryTensor):
            self.library.winograd_pack(weight, packed, self.shape, torch.get_num_threads())
        return packed

    def frames(self, x: Tensor) -> tuple[Tensor, Tensor, FrameShape]:
        """Rows and columns of padded frames, and their shape, of (..., H, W, C)."""
        *_, height, width, channels = x.shape
        taps = self.weight.shape[-1]
        rows, columns = (
            padded_indices(size, taps - 1, mode)
            for size, mode in zip((height, width), self.padding_mode, strict=True)
        )
        batch = x.numel() // max(1, height * width * channels)
        return rows, columns, FrameShape(batch, height, width, _SIDE + 1 - taps)

    def into(self, out: Tensor | None, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `ConvWeight.into`."""
        out = x.new_empty(*x.shape[:-1], self.shape.outputs) if out is None else out
        return self._convolve(out, x, bias, add=False)

    def add(self, out: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `ConvWeight.add`."""
        return self._convolve(out, x, bias, add=True)

    def _convolve(self, out: Tensor, x: Tensor, bias: Tensor | None, add: bool) -> Tensor:
        packed, bias = self.packed, None if bias is None else bias.contiguous()
        if not isinstance(out, DryTensor):
            self.library.winograd_convolve(
                x.contiguous(), packed, bias, out, *self.frames(x), self.shape, add, torch.get_num_threads()
            )
        return out

    def input_gradient(self, out: Tensor, d: Tensor) -> Tensor:
        """See `ConvWeight.input_gradient`."""
        return self._direct.input_gradient(out, d) if self.direct_gradient else self._flipped.into(out, d)

    def gradients(
        self, d: Tensor, x: Tensor, needed: tuple[bool, bool] = (True, True)
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `ConvWeight.gradients`."""
        of_weight = self.weight_gradient(d, x) if needed[0] else None
        if needed[0] and of_weight is None:
            return self._direct.gradients(d, x, needed)
        return of_weight, bias_gradient(d) if needed[1] else None

    @computed_once
    def _flipped(self) -> "WinogradWeight":
        return replace(self, flipped=not self.flipped)

    @computed_once
    def _direct(self) -> DirectWeight:
        return DirectWeight.of(self.weight, (1, 1), self.padding_mode)

    def weight_gradient(self, d: Tensor, x: Tensor) -> Tensor | None:
        """Gradient of the weight from that of the result (..., H, W, C_out) and the input (..., H, W, C_in).

        None if a direct convolution is faster, or if some of it is not finite or some of the input is large:
        minimal filtering mixes numbers, and what a large one loses by rounding may be all of another.
        """
        rows, columns, frames = self.frames(x)
        if not is_gradient_faster(self.weight.shape, (frames.H, frames.W), frames.B):
            return None
        tiles = frames.B * -(-frames.H // frames.M) * -(-frames.W // frames.M)
        part = max(1, min(config.winograd_tiles, tiles))
        memory = empty((self.library.winograd_gradient_size(self.shape, part),), torch.float32, x.device)
        found = torch.empty(self.weight.shape, device=x.device)
        if isinstance(found, DryTensor):
            return found
        least, most = torch.aminmax(x)
        if not -_LARGEST <= least <= most <= _LARGEST:
            return None
        shapes = rows, columns, frames, self.shape, part, torch.get_num_threads()
        self.library.winograd_weight_gradient(x.contiguous(), d.contiguous(), found, memory, *shapes)
        return found if math.isfinite(found.sum()) else None


class _Cache:
    """Transforms of the weights used last, of up to `config.kept_weight_bytes`.

    A weight may change by any operation, in place too: what is kept is used if each number is the same.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[Any, tuple[Tensor, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def packed(self, weight: WinogradWeight) -> Tensor:
        """`WinogradWeight.packed`."""
        w = weight.weight
        dry = w.shape_only if isinstance(w, DryTensor) else None
        place = w.data_ptr() if dry is None else (dry.untyped_storage()._cdata, dry.storage_offset())
        key = weight.library, place, w.shape, w.stride(), weight.gates, weight.flipped
        with self._lock:
            found = self._entries.pop(key, None)
            if found is None or (dry is None and not torch.equal(found[0], w)):
                copy = w.clone(memory_format=torch.contiguous_format)
                found = copy, weight._pack(copy)
            self._entries[key] = found
            while len(self._entries) > 1 and self._bytes() > config.kept_weight_bytes:
                self._entries.popitem(last=False)
            return found[1]

    def _bytes(self) -> int:
        return sum(tensor.nbytes for entry in self._entries.values() for tensor in entry)


_cache = _Cache()
if hasattr(os, "register_at_fork"):  # a child must not wait for a thread that only its parent has
    os.register_at_fork(after_in_child=lambda: setattr(_cache, "_lock", threading.Lock()))


def is_faster(shape: Sequence[int], size: Sequence[int], batch: int, steps: int) -> bool:
    """True if a convolution of float32 takes less time by minimal filtering than directly, by an estimate.

    It depends on sizes, never on a measurement: a training run repeats bit for bit. The estimate is in
    nanoseconds of one core of an AMD EPYC with AVX-512, fitted to 196 convolutions of 1 to 256 channels and
    4x4 to 128x128 pixels, four in five of them to 15 %: 20,000 and 1 / 57 for a multiplication of a direct
    convolution in place; 1 / 60 for one by minimal filtering, of which there are 4 (3x3) or 2.8 times (5x5)
    fewer; 0.4 for each value of a transformed tile; 1.6 (3x3) or 3.6 (5x5) for each of the transformed
    weight. The direct convolution must take 1.15 times as long, as other processors differ.

    Args:
        shape: of the weight, (C_out, C_in, *kernel).
        size: of the frames.
        batch: frames that are convolved together.
        steps: times that the transform of the weight is used; a single one is one of several calls, as in a
            rollout, which use it again.
    """
    _, inputs, *kernel = shape
    if kernel not in ([3, 3], [5, 5]) or inputs < 8:  # fewer: three to six times the error of a direct sum
        return False
    values, padded, of_tiles = _values(shape, size, batch)
    of_weight = (
        _SIDE**2 * inputs * padded * (0.03 + (1.6 if kernel[0] == 3 else 3.6) / (8 if steps == 1 else steps))
    )
    direct = batch * math.prod(size) * math.prod(shape) / 57 + 20_000
    return direct > 1.15 * (values * inputs * padded / 60 + 0.4 * of_tiles + of_weight)


def is_gradient_faster(shape: Sequence[int], size: Sequence[int], frames: int) -> bool:
    """The same for the gradient of a weight from a number of frames, fitted in the same way."""
    _, inputs, *kernel = shape
    if kernel != [3, 3]:  # for 5x5 four times the error of a direct sum
        return False
    values, padded, of_tiles = _values(shape, size, frames)
    of_weight = 1.2 * _SIDE**2 * inputs * padded
    direct = frames * math.prod(size) * math.prod(shape) / 51
    return direct > 1.15 * (values * inputs * padded / 40 + 0.3 * of_tiles + of_weight)


def _values(shape: Sequence[int], size: Sequence[int], frames: int) -> tuple[int, int, int]:
    """Positions of all tiles; outputs rounded up to vectors; values of all transformed tiles."""
    outputs, inputs, taps, _ = shape
    values = _SIDE**2 * frames * math.prod(-(-s // (_SIDE + 1 - taps)) for s in size)
    inputs, outputs = (-(-n // 16) * 16 for n in (inputs, outputs))
    return values, outputs, values * (inputs + outputs)
