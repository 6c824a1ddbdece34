"""Convolutions with large kernels by Fourier transforms, over tiles of the frames.

Tiles overlap by the kernel's reach, so that the circular convolution of a tile holds its part of the result
exactly ("overlap-save", Oppenheim & Schafer, Discrete-Time Signal Processing, section 8.7). Tiles are small,
so that their transforms are products with matrices; a complex product is three real ones, whose sums are part
of these matrices. Padding is zeros.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import convlstm.engines.config as config
from convlstm.engines.buffer_pool import empty
from convlstm.engines.direct import ConvWeight, bias_gradient
from convlstm.engines.dry_run import disable_current_modes

# With x = a + ib and w = c + id the planes (a + b) c, a (d - c) and b (c + d) hold the product: its real part
# is the first less the third, its imaginary part the sum of the first two (Gauss). Rows below: planes of x
# and of w; real and imaginary part of x w; planes of x and both parts for x times the conjugate of w.
_OF_INPUT, _OF_WEIGHT = [[1, 1], [1, 0], [0, 1]], [[1, 0], [-1, 1], [1, 1]]
_OF_PRODUCT = [[1, 0, -1], [1, 1, 0]]
_OF_CONJUGATE_INPUT, _OF_CONJUGATE_PRODUCT = [[1, 1], [0, 1], [1, 0]], [[1, 1, 0], [1, 0, -1]]


@dataclass(frozen=True, eq=False)
class Spectrum(ConvWeight):
    """The transform of a weight, and the tiles that it convolves; for zero padding and without dilation.

    Attributes:
        values: (3 F, C_in, C_out), three planes of F frequencies.
        kernel: lengths of the weight's axes, odd.
        size: of the frames, without leading axes along which the kernel has length 1.
        flipped: it convolves the result's gradient to that of the input; ``values`` are those of the
            convolution, (3 F, C_out, C_in).
    """

    values: Tensor
    kernel: tuple[int, ...]
    size: tuple[int, ...]
    flipped: bool = False

    @classmethod
    def of(cls, weight: Tensor, size: tuple[int, ...]) -> "Spectrum":
        """The transform of a weight (C_out, C_in, *kernel) for frames of a size."""
        kernel = tuple(weight.shape[2:])
        size = size[_first_axis(kernel) :]
        taps = weight.movedim((0, 1), (-1, -2))
        matrices = _matrices(kernel[-len(size) :], size, weight.dtype)
        values = _multiply(matrices.weight, taps.reshape(1, -1, taps.shape[-2] * taps.shape[-1]))
        return cls(values.view(-1, *taps.shape[-2:]), kernel, size)

    def into(self, out: Tensor | None, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `ConvWeight.into`."""
        y = self._convolve(self._to_batch(x)).reshape(*x.shape[:-1], -1)
        y = y if bias is None else y.add_(bias)
        return y if out is None else out.copy_(y)

    def add(self, out: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """See `ConvWeight.add`."""
        return out.add_(self.into(None, x, bias))

    def input_gradient(self, out: Tensor, d: Tensor) -> Tensor:
        """See `ConvWeight.input_gradient`."""
        return replace(self, flipped=not self.flipped).into(out, d)

    def gradients(
        self, d: Tensor, x: Tensor, needed: tuple[bool, bool] = (True, True)
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `ConvWeight.gradients`."""
        of_weight = self._weight_gradient(self._to_batch(d), self._to_batch(x)) if needed[0] else None
        return of_weight, bias_gradient(d) if needed[1] else None

    def _to_batch(self, x: Tensor) -> Tensor:
        """(..., *S, C) as (N, *S, C)."""
        return x.flatten(0, x.ndim - len(self.size) - 2)

    def _convolve(self, x: Tensor) -> Tensor:
        """The convolution of (N, *S, C_in), (N, *S, C_out)."""
        matrices, tiles = self._matrices(x), self._tiles()
        planes = _multiply(matrices.conjugate_input if self.flipped else matrices.input, self._cut(x, True))
        planes = planes.view(len(planes), len(self.values), -1).transpose(0, 1)
        planes = _matmul(planes, self.values.mT if self.flipped else self.values)
        back = matrices.conjugate_product if self.flipped else matrices.product
        y = _multiply(back, _contiguous(planes.transpose(0, 1)))
        y = y.view(len(x), *(tile.number for tile in tiles), *(tile.inner for tile in tiles), -1)
        axes = range(1, len(tiles) + 1)  # (N, count, inner, count, inner, ..., C)
        y = _contiguous(y.permute(0, *(a for axis in axes for a in (axis, axis + len(tiles))), -1))
        y = y.view(len(x), *(tile.number * tile.inner for tile in tiles), y.shape[-1])
        return y[(slice(None), *map(slice, self.size))]

    def _weight_gradient(self, d: Tensor, x: Tensor) -> Tensor:
        """Gradient of the weight from that of the result (N, *S, C_out) and the input (N, *S, C_in)."""
        matrices = self._matrices(x)
        of_x = _multiply(matrices.input, self._cut(x, True))
        of_d = _multiply(_transposed(matrices.product), self._cut(d, False))
        of_x, of_d = (p.view(len(p), len(self.values), -1) for p in (of_x, of_d))
        values = _matmul(of_x.permute(1, 2, 0), of_d.transpose(0, 1))
        taps = _multiply(_transposed(matrices.weight), values.view(1, len(values), -1))
        return taps.view(*self.kernel, *values.shape[1:]).movedim((-1, -2), (0, 1))

    def _matrices(self, x: Tensor) -> "_Matrices":
        return _matrices(self.kernel[-len(self.size) :], self.size, x.dtype)

    def _tiles(self) -> list["_Tile"]:
        return _tiles(self.kernel[-len(self.size) :], self.size)

    def _cut(self, x: Tensor, overlap: bool) -> Tensor:
        """Tiles (M, pixels, C) of (N, *S, C), with or without their overlap."""
        tiles, padding = self._tiles(), [0, 0]
        for tile, size in zip(tiles[::-1], self.size[::-1], strict=True):
            before = tile.reach // 2 if overlap else 0
            padding += [before, tile.number * tile.inner - size + before]
        x = F.pad(x, padding)
        for axis, tile in enumerate(tiles, start=1):
            x = x.unfold(axis, tile.inner + (tile.reach if overlap else 0), tile.inner)
        x = _contiguous(x.movedim(1 + len(tiles), -1))
        return x.view(math.prod(x.shape[: len(tiles) + 1]), -1, x.shape[-1])


def is_faster(shape: tuple[int, ...], size: tuple[int, ...], batch: int, steps: int) -> bool:
    """True if `Spectrum` convolves float32 sooner on a processor than a direct convolution, by an estimate.

    It depends on sizes, never on a measurement: a training run repeats bit for bit. Times of one core of an
    AMD EPYC with AVX-512, in nanoseconds: 1 / 57 for a multiplication of a direct convolution, 1 / 30 for one
    of the products of planes, 0.4 to read a value of the weight's transform, 1.3 to compute it, 4 for each
    value of a tile of input and result. The direct convolution must take 1.5 times as long, as other
    processors differ. ``python -m benchmarks kernels`` compares the two.

    Args:
        shape: of the weight, (C_out, C_in, *kernel), odd.
        size: of the frames.
        batch: number of frames of a step.
        steps: number of steps with the weight.
    """
    outputs, inputs, *kernel = shape
    products, taps = outputs * inputs, math.prod(kernel)
    direct = products * taps * batch * math.prod(size) / 57
    first = _first_axis(kernel)
    batch *= math.prod(size[:first])
    tiles = _tiles(kernel[first:], size[first:])
    lengths = [tile.inner + tile.reach for tile in tiles]
    count = batch * math.prod(tile.number for tile in tiles)
    values = 3 * products * math.prod(lengths) * (lengths[0] // 2 + 1) // lengths[0]
    if values * 4 > config.max_spectrum_bytes:
        return False
    fourier = values * (count / 30 + 0.4 + 1.3 / steps) + 4 * count * math.prod(lengths) * (inputs + outputs)
    return direct > 1.5 * fourier


def _first_axis(kernel: Sequence[int]) -> int:
    """The first axis along which a kernel is longer than 1, or else the last."""
    return next((axis for axis, k in enumerate(kernel) if k > 1), len(kernel) - 1)


class _Tile(NamedTuple):
    """Tiles along an axis: their number, their part of the result, and the pixels by which they overlap."""

    number: int
    inner: int
    reach: int


def _tiles(kernel: Sequence[int], size: Sequence[int]) -> list[_Tile]:
    """Tiles about twice as long again as long as the kernel along each axis."""
    counts = [max(1, round(s / (2 * k))) for k, s in zip(kernel, size, strict=True)]
    return [_Tile(n, -(-s // n), k - 1) for n, k, s in zip(counts, kernel, size, strict=True)]


#: Matrices by which the axes of a tile are multiplied one after the other, each with the number of pixels
#: along the axes behind its own.
_Product = list[tuple[Tensor, int]]


class _Matrices(NamedTuple):
    """Transforms of tiles, of the weight, and of products back to tiles; two again for a conjugate weight."""

    input: _Product
    weight: _Product
    product: _Product
    conjugate_input: _Product
    conjugate_product: _Product


@lru_cache(maxsize=64)
@disable_current_modes()  # the result is kept: it must have elements, in a dry run too
def _matrices(kernel: tuple[int, ...], size: tuple[int, ...], dtype: torch.dtype) -> _Matrices:
    tiles = _tiles(kernel, size)
    whole, inner = [tile.inner + tile.reach for tile in tiles], [tile.inner for tile in tiles]
    axes = [_Axis(length, n == 0, n == len(tiles) - 1) for n, length in enumerate(whole)]

    def product(lengths: Sequence[int], matrices: list[Tensor]) -> _Product:
        behind = [math.prod(lengths[axis + 1 :]) for axis in range(len(axes))]
        return [(matrix.to(dtype).contiguous(), n) for matrix, n in zip(matrices, behind, strict=True)]

    return _Matrices(
        product(whole, [axis.forth(axis.length, -1, _OF_INPUT) for axis in axes]),
        product(kernel, [axis.forth(k, 1, _OF_WEIGHT) for axis, k in zip(axes, kernel, strict=True)]),
        product(
            inner, [axis.back(0, tile.inner, _OF_PRODUCT) for axis, tile in zip(axes, tiles, strict=True)]
        )[::-1],
        product(whole, [axis.forth(axis.length, -1, _OF_CONJUGATE_INPUT) for axis in axes]),
        product(
            inner,
            [
                axis.back(tile.reach, tile.inner, _OF_CONJUGATE_PRODUCT)
                for axis, tile in zip(axes, tiles, strict=True)
            ],
        )[::-1],
    )


class _Axis(NamedTuple):
    """Transforms along an axis as real matrices; along the first axis of real numbers, half the frequencies.

    Attributes:
        length: of the transform.
        first: True for the first axis.
        last: True for the last axis, whose real and imaginary parts become planes.
    """

    length: int
    first: bool
    last: bool

    def forth(self, pixels: int, sign: int, planes: list[list[int]]) -> Tensor:
        """The transform of pixels, (frequencies planes, parts pixels)."""
        e = self._exponentials(pixels, sign)
        matrix = torch.einsum("kr,fric->fkic", _tensor(planes), e) if self.last else e
        return (matrix[:, :, :1] if self.first else matrix).flatten(2).flatten(0, 1)

    def back(self, begin: int, pixels: int, planes: list[list[int]]) -> Tensor:
        """The inverse transform to pixels from ``begin``, (parts pixels, frequencies planes)."""
        e = self._exponentials(self.length, 1)[..., begin : begin + pixels] / self.length
        if self.first:  # the frequencies left out are conjugates of others
            e[1 : (self.length + 1) // 2] *= 2
        matrix = torch.einsum("fric,ik->rcfk", e, _tensor(planes if self.last else [[1, 0], [0, 1]]))
        return (matrix[:1] if self.first else matrix).flatten(2).flatten(0, 1)

    def _exponentials(self, pixels: int, sign: int) -> Tensor:
        """Products with exp(2 pi i sign f x / length), (frequencies, parts, parts, pixels)."""
        count = self.length // 2 + 1 if self.first else self.length
        f, x = (torch.arange(n, dtype=torch.float64, device="cpu") for n in (count, pixels))
        angle = sign * 2 * math.pi / self.length * torch.outer(f, x).remainder(self.length)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _tensor(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def _multiply(product: _Product, x: Tensor) -> Tensor:
    """(M, ?, C), each of M tiles multiplied by the matrices."""
    tiles, channels = len(x), x.shape[-1]
    for matrix, after in product:
        x = x.view(-1, matrix.shape[1], after * channels)
        x = _matmul(matrix.expand(len(x), -1, -1), x)
    return x.view(tiles, -1, channels)


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    """Products of N matrices, in a buffer of the pool."""
    return torch.bmm(x, y, out=empty((len(x), x.shape[1], y.shape[2]), x.dtype, x.device))


def _contiguous(x: Tensor) -> Tensor:
    """A contiguous copy in a buffer of the pool."""
    return empty(tuple(x.shape), x.dtype, x.device).copy_(x)


def _transposed(product: _Product) -> _Product:
    return [(matrix.mT, after) for matrix, after in product[::-1]]
