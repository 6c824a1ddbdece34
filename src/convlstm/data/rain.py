"""Synthetic radar rain: advected, growing and decaying, with dry areas and a blocked sector."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convlstm.data.archive_windows import scaled
from convlstm.data.base import SPLITS, LabelledWindow, Source, Split, WindowDataset, check_index
from convlstm.data.specification import GENERATED, Specification, plain_transform
from convlstm.data.transforms import Logarithm
from convlstm.errors import check_name
from convlstm.validation import check_bool, check_integers, check_positive, check_seed, is_integer

_STEP_S = 300.0
_FLOOR, _TOP = 0.1, 100.0  # mm/h
_MARGIN = 32  # pixels around the canvas, so that what leaves one side does not soon come in at the other
_FASTEST = 1.5  # pixels a frame
_SLOPE = 3.2  # of the power spectrum of the texture, as of radar composites
_LIFETIME = 10.0  # frames that a texture of a wavelength of 8 pixels lives; longer waves live longer
_CELLS = 6


class Rain(Source):
    """Source of synthetic radar sequences in mm/h, 5 minutes and about 1 km a pixel.

    A texture with the power spectrum of rain moves with the wind; its small scales are renewed faster than
    its large ones, as in Seed (2003, Journal of Applied Meteorology 42, 381), so that the future can be
    forecast in part. Cells grow and decay on it. Much of each sequence is dry. A radar stands in the middle:
    the corners are out of its range and one sector is blocked, neither of them measured.

    Sequences are generated from their index: the same index gives the same sequence in any process.

    Args:
        canvas: height and width, one number for both.
        past: K.
        steps: L.
        blocked: leave corners and a sector unmeasured.
        train_size: sequences of an epoch of training, which never ends.
        validation_size: sequences of validation.
        test_size: sequences of test.
        seed: of all sequences.
    """

    channels = 1

    def __init__(
        self,
        canvas: int | Sequence[int] = 64,
        past: int = 12,
        steps: int = 12,
        *,
        blocked: bool = True,
        train_size: int = 1000,
        validation_size: int = 100,
        test_size: int = 200,
        seed: int = 0,
    ) -> None:
        height, width = check_integers((canvas, canvas) if is_integer(canvas) else canvas, 2, "canvas")
        self.canvas = (height, width)
        self.past, self.steps = check_positive(past, "past"), check_positive(steps, "steps")
        self.blocked, self.seed = check_bool(blocked, "blocked"), check_seed(seed)
        self.sizes: dict[Split, int] = {
            "train": check_positive(train_size, "train_size"),
            "validation": check_positive(validation_size, "validation_size"),
            "test": check_positive(test_size, "test_size"),
        }

    @cached_property
    def specification(self) -> Specification:  # type: ignore[override]
        """The specification: mm/h, on a logarithmic scale from 0.1 to 100."""
        length = self.past + self.steps
        return Specification(
            variables=("rain_rate",),
            units="mm/h",
            transform=plain_transform(Logarithm(_FLOOR, _TOP)),
            dry_value=0.0,
            step_s=_STEP_S,
            dated=True,
            grid={"shape": list(self.canvas)},
            missing=(),
            data_range=_TOP,
            past=self.past,
            steps=self.steps,
            splits={name: [length * size, size, GENERATED, GENERATED] for name, size in self.sizes.items()},
            fingerprint=GENERATED,
        )

    def split(self, name: Split) -> WindowDataset:
        """Sequences of one split; ``train`` is endless."""
        check_name(name, SPLITS, "split")
        return _RainWindows(self, name)

    def describe(self) -> str:
        """Description of the data in one line."""
        height, width = self.canvas
        return (
            f"synthetic rain: {height} x {width} pixels, mm/h every 5 minutes, {self.past} frames to "
            f"{self.steps}, seed {self.seed}"
        )

    def sequence(self, name: Split, index: int) -> NDArray[np.float32]:
        """A sequence (K + L, H, W) in mm/h, NaN where not measured."""
        random = np.random.Generator(np.random.PCG64((self.seed, SPLITS.index(name), index)))
        rates = rain_rates(random, self.past + self.steps, self.canvas)
        if self.blocked:
            rates[:, ~measured_pixels(random, self.canvas)] = np.nan
        return rates


class _RainWindows(WindowDataset):
    def __init__(self, source: Rain, name: Split) -> None:
        self.source, self.name, self.endless = source, name, name == "train"

    def __len__(self) -> int:
        return self.source.sizes[self.name]

    def __getitem__(self, index: int) -> LabelledWindow:
        check_index(index, None if self.endless else len(self))
        past = self.source.past
        values = self.source.sequence(self.name, index)[:, None]
        # More than a day apart: every sequence is an event of its own.
        start = 1e9 + index * (len(values) * _STEP_S + 86400)
        times: NDArray[Any] = start + np.arange(len(values)) * _STEP_S
        frames, valid = scaled(values, times, Logarithm(_FLOOR, _TOP), "mm/h")
        return LabelledWindow(
            frames[:past],
            frames[past:],
            valid[:past],
            valid[past:],
            frames.new_empty(len(frames), 0, *self.source.canvas),
            torch.from_numpy(times),
            torch.ones(()),
        )


def rain_rates(random: np.random.Generator, frames: int, canvas: tuple[int, int]) -> NDArray[np.float32]:
    """Rain rates (T, H, W) in mm/h of one sequence, 0 where dry, 0.1 to 100 where not."""
    height, width = canvas[0] + _MARGIN, canvas[1] + _MARGIN
    rows = np.fft.fftfreq(height)[:, None]
    columns = np.fft.rfftfreq(width)[None]
    wavenumber = np.hypot(rows, columns)
    amplitude = np.where(wavenumber > 0, wavenumber.clip(1 / max(height, width)) ** (-_SLOPE / 2), 0)
    kept = np.exp(-(8 * wavenumber) / _LIFETIME)  # of a wave after one frame
    velocity = wind(random)
    drift = np.exp(-2j * np.pi * (rows * velocity[0] + columns * velocity[1]))
    cover = random.uniform(0.3, 1.5)  # the larger, the drier
    parts = random.standard_normal((frames, *amplitude.shape, 2), np.float32).view(np.complex64)[..., 0]
    waves = (amplitude * parts).astype(np.complex64)
    carried, renewed = (kept * drift).astype(np.complex64), np.sqrt(1 - kept**2).astype(np.float32)
    for k in range(1, frames):
        waves[k] = carried * waves[k - 1] + renewed * waves[k]
    texture = np.fft.irfft2(waves, (height, width))[:, : canvas[0], : canvas[1]]
    levels = texture / texture.std() - cover + _cells(random, frames, canvas, velocity)
    rates = np.minimum(_FLOOR * np.exp(math.log(10) * levels), _TOP)
    return np.where(levels > 0, rates, 0).astype(np.float32)


def wind(random: np.random.Generator) -> tuple[float, float]:
    """Velocity of a sequence, pixels a frame along rows (down is positive) and columns."""
    speed, direction = random.uniform(0.2, _FASTEST), random.uniform(0, 2 * np.pi)
    return speed * math.sin(direction), speed * math.cos(direction)


def _cells(
    random: np.random.Generator, frames: int, canvas: tuple[int, int], velocity: tuple[float, float]
) -> NDArray[np.float32]:
    """Level of rain (T, H, W) added by up to six cells, which move with the wind, grow and decay."""
    count = int(random.integers(0, _CELLS + 1))
    start = random.uniform(-0.2, 1.2, (2, 1, count)) * np.array(canvas)[:, None, None]
    moved = np.array(velocity)[:, None] * random.uniform(0.8, 1.2, count)
    peak, size = random.uniform(1, 3, count), random.uniform(2.5, 8, (2, count))
    born, life = random.uniform(-frames, frames, count), random.uniform(8, 30, count)
    time = np.arange(frames)[:, None]
    strength = peak * np.sin(np.pi * ((time - born) / life).clip(0, 1))  # (T, N)
    row, column = start + time * moved[:, None]
    down = np.exp(-(((np.arange(canvas[0])[:, None] - row[:, None]) / size[0]) ** 2) / 2)  # (T, H, N)
    across = np.exp(-(((np.arange(canvas[1])[:, None] - column[:, None]) / size[1]) ** 2) / 2)
    found: NDArray[np.float32] = ((down * strength[:, None]) @ across.swapaxes(1, 2)).astype(np.float32)
    return found


def measured_pixels(random: np.random.Generator, canvas: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) that the radar in the middle measures: within its range, but for one blocked sector."""
    rows = np.arange(canvas[0])[:, None] - (canvas[0] - 1) / 2
    columns = np.arange(canvas[1])[None] - (canvas[1] - 1) / 2
    distance, azimuth = np.hypot(rows, columns), np.arctan2(rows, columns)
    start, width = random.uniform(-np.pi, np.pi), random.uniform(0.1, 0.35)
    blocked = ((azimuth - start) % (2 * np.pi) < width) & (distance > 0.15 * max(canvas))
    found: NDArray[np.bool_] = (distance < 0.62 * max(canvas)) & ~blocked
    return found
