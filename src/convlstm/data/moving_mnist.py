"""Moving MNIST: objects that move and bounce on a canvas, in an endless stream of sequences."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convlstm.data.base import SPLITS, Source, Split, Window, WindowDataset, check_index
from convlstm.data.files import read_array
from convlstm.data.mnist import MNIST_ADDRESSES, Images, download_mnist, load_images
from convlstm.errors import DataError, OptionError, check_name
from convlstm.validation import (
    check_bool,
    check_integers,
    check_path,
    check_positive,
    check_probability,
    check_seed,
    is_integer,
)

# Limits of the values of one sequence, the sequences of a split and the objects on the canvas.
_MAX_VALUES, _MAX_SEQUENCES, _MAX_OBJECTS = 2**31, 10**8, 10**4


class MovingObjects(Source):
    """Small images that move in straight lines and bounce; sequences are generated on demand.

    The protocol is that of Moving MNIST (Srivastava, Mansimov and Salakhutdinov 2015, Unsupervised Learning
    of Video Representations using LSTMs, arXiv:1502.04681, and the generator published with it). The initial
    position of each object in its free range (canvas minus object, 0 to 1 along each axis) and its direction
    are uniformly random. Every frame, the first included, moves it by ``speed`` of the free range along the
    direction; an object that would reach or pass a wall stops at it, and that component of its velocity is
    reversed. Positions are truncated to whole pixels; overlapping objects show the greater value. Values lie
    in [0, 1].

    A sequence depends on ``seed``, the split and its index alone, in any process. No image is in two splits.

    Args:
        images: digits (handwritten, from scikit-learn, no download), a folder with the files of MNIST or
            Fashion-MNIST, a .npy file or, in Python, an array of images, as in `load_images`.
        canvas: height and width of the frames in pixels, or one number for both.
        object_size: height and width of an object in pixels.
        count: number of objects.
        speed: fraction of the free range that an object crosses in a frame, from 0 to 1.
        past: input frames of a window.
        steps: frames to forecast.
        train_size: sequences of an epoch; every epoch has new ones.
        validation_size: sequences of the validation split.
        test_size: sequences of the test split, unless test_file is given.
        seed: of positions, directions and choice of images.
        test_file: the fixed Moving MNIST test set, a .npy file (T, N, H, W) of uint8, used as the test split.
        download: download the files into the folder given as images, which must be called mnist or
            fashion-mnist.

    Raises:
        OptionError: an option outside its range.
        DataError: images or test file missing, damaged or unfit.
    """

    channels = 1
    data_range = 1.0

    def __init__(
        self,
        *,
        images: str | os.PathLike[str] | NDArray[Any] = "digits",
        canvas: int | tuple[int, int] = 64,
        object_size: int = 28,
        count: int = 2,
        speed: float = 0.1,
        past: int = 10,
        steps: int = 10,
        train_size: int = 10_000,
        validation_size: int = 500,
        test_size: int = 1000,
        seed: int = 0,
        test_file: str | os.PathLike[str] | None = None,
        download: bool = False,
    ) -> None:
        height, width = check_integers((canvas, canvas) if is_integer(canvas) else canvas, 2, "canvas")
        self.canvas = (height, width)
        self.object_size = check_positive(object_size, "object_size")
        self.count = check_positive(count, "count", most=_MAX_OBJECTS)
        self.speed = check_probability(speed, "speed")
        self.past, self.steps = check_positive(past, "past"), check_positive(steps, "steps")
        self.seed = check_seed(seed)
        self.sizes: dict[Split, int] = {
            "train": check_positive(train_size, "train_size", most=_MAX_SEQUENCES),
            "validation": check_positive(validation_size, "validation_size", most=_MAX_SEQUENCES),
            "test": check_positive(test_size, "test_size", most=_MAX_SEQUENCES),
        }
        self._check_sizes()
        path = None if test_file is None else check_path(test_file, "test_file")
        self._fixed = None if path is None else _FixedWindows(path, self.canvas, self.past, self.steps)
        if check_bool(download, "download"):
            _download(images)
        self.images = load_images(images, size=self.object_size)
        self._name = Path(images).name if isinstance(images, (str, os.PathLike)) else "given"

    def split(self, name: Split) -> WindowDataset:
        """Windows of one split; ``train`` is endless, the others are the same in every epoch.

        Raises:
            OptionError: no such split.
        """
        check_name(name, SPLITS, "split")
        if name == "test" and self._fixed is not None:
            return self._fixed
        return _MovingWindows(self, name)

    def describe(self) -> str:
        """Description of the data in one line."""
        height, width = self.canvas
        test = "" if self._fixed is None else f", test sequences from {self._fixed.path.name}"
        return (
            f"moving objects: {self.count} of {sum(map(len, self.images.values()))} {self._name} images, "
            f"{self.object_size} x {self.object_size} on {height} x {width} pixels, speed {self.speed:g}, "
            f"{self.past} frames to {self.steps}, seed {self.seed}{test}"
        )

    def _check_sizes(self) -> None:
        height, width = self.canvas
        if (self.past + self.steps) * height * width > _MAX_VALUES:
            raise OptionError(
                f"a sequence must hold at most {_MAX_VALUES} values, (past + steps) x canvas; received "
                f"({self.past} + {self.steps}) x {height} x {width}: lower one of them"
            )
        if min(self.canvas) < self.object_size:
            raise OptionError(
                f"object_size must be at most the canvas, {height} x {width}; received {self.object_size}: "
                "enlarge the canvas"
            )


def bounce(position: float, velocity: float, frames: int, pixels: int) -> list[int]:
    """Positions of an object along one axis.

    Args:
        position: before the first frame, as a fraction of the free range.
        velocity: fraction of the free range per frame.
        frames: number of positions.
        pixels: the free range in pixels.

    Returns:
        first pixel of the object in each frame, 0 to ``pixels``.
    """
    positions = []
    # Faster than array operations for sequences this short.
    for _ in range(frames):
        position += velocity
        if position <= 0:
            position, velocity = 0.0, -velocity
        elif position >= 1:
            position, velocity = 1.0, -velocity
        positions.append(int(position * pixels))
    return positions


class _MovingWindows(WindowDataset):
    def __init__(self, source: MovingObjects, name: Split) -> None:
        self.source, self.images = source, source.images[name]
        self.endless = name == "train"
        self._size, self._code = source.sizes[name], SPLITS.index(name)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Window:
        check_index(index, None if self.endless else len(self))
        source, size = self.source, self.source.object_size
        length = source.past + source.steps
        height, width = source.canvas
        # A random generator per sequence makes it independent of order and process.
        random = np.random.Generator(np.random.PCG64((source.seed, self._code, index)))
        frames_THW = np.zeros((length, height, width), np.uint8)
        for choice, y, x, turn in random.random((source.count, 4)).tolist():
            image = self.images[int(choice * len(self.images))]
            angle = 2 * math.pi * turn
            rows = bounce(y, source.speed * math.sin(angle), length, height - size)
            columns = bounce(x, source.speed * math.cos(angle), length, width - size)
            for frame, row, column in zip(frames_THW, rows, columns, strict=True):
                under = frame[row : row + size, column : column + size]
                np.maximum(under, image, out=under)
        return _window(frames_THW, source.past)


class _FixedWindows(WindowDataset):
    """Sequences of a memory-mapped file (T, N, H, W)."""

    def __init__(self, path: Path, canvas: tuple[int, int], past: int, steps: int) -> None:
        self.path, self.canvas, self.past, self.steps = path, canvas, past, steps
        self._frames_TNHW = read_array(path, mapped=True)
        array = self._frames_TNHW
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[2:] != canvas or 0 in array.shape:
            raise DataError(
                f"test_file must be uint8 (T, N, {canvas[0]}, {canvas[1]}), the last two the canvas; "
                f"{path} is {array.dtype} {array.shape}: transpose or convert it, or change the canvas"
            )
        if len(array) < past + steps:
            hint = ": swap its first two axes" if array.shape[1] == 20 else ": ask for fewer"
            raise DataError(
                f"test_file must have at least past + steps = {past + steps} frames; {path} has "
                f"{len(array)}{hint}"
            )
        if array[:, 0].max() <= 1:
            raise DataError(
                f"test_file must have values up to 255; the first sequence of {path} has none above "
                f"{array[:, 0].max()}: multiply it by 255"
            )
        if array.shape[1] >= past + steps and _are_swapped(array[:8, :8]):
            raise DataError(
                "test_file must be (T, N, H, W), with the frames of a sequence along the first axis; in "
                f"{path}, {array.shape}, neighbours along the second are more alike: swap its first two axes"
            )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickle the path: workers open the file themselves, as a pickled memory map would copy all of it."""
        return _FixedWindows, (self.path, self.canvas, self.past, self.steps)

    def __len__(self) -> int:
        return int(self._frames_TNHW.shape[1])

    def __getitem__(self, index: int) -> Window:
        check_index(index, len(self))
        return _window(np.asarray(self._frames_TNHW[: self.past + self.steps, index]), self.past)


def _are_swapped(frames: Images) -> bool:
    """True if frames clearly change more along the first axis, which is time, than along the second."""
    in_time, across = (np.abs(np.diff(frames.astype(np.int16), axis=axis)).mean() for axis in (0, 1))
    return bool(in_time > 1.1 * across)


def _window(frames_THW: Images, past: int) -> Window:
    values = torch.from_numpy(frames_THW.astype(np.float32)[:, None]).div_(255)
    return Window(values[:past], values[past:])


def _download(images: str | os.PathLike[str] | NDArray[Any]) -> None:
    if isinstance(images, (str, os.PathLike)) and (name := Path(images).name) in MNIST_ADDRESSES:
        download_mnist(images, name)
        return
    raise OptionError(
        f"download needs images to be a folder called {' or '.join(MNIST_ADDRESSES)}, the collection to "
        f"fetch; received {repr(str(images)) if isinstance(images, (str, os.PathLike)) else 'an array'}"
    )
