"""Video files by PyAV, decoded a few frames at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.base import Reader
from convlstm.data.readers.lazy import delayed_frames
from convlstm.errors import reading
from convlstm.extras import check_installed

if TYPE_CHECKING:
    import xarray as xr
    from av.container import InputContainer

_STARTS = (b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3")
_VALUES = 2**24  # that are decoded at once, 64 MiB of float32, for decoding starts at a key frame
_FRAMES = 32


class Video(Reader):
    """Frames of a video, grey or red, green and blue; times since the first by the frame rate.

    Frames that time stamps skip are missing.

    Values are 0 to 255, those of grey videos of more than 8 bits 0 to 65535.
    """

    name = "video"
    title = "video files (mp4, mov, mkv, webm, avi, ...)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True by the first bytes of the containers that are usual."""
        avi = head.startswith(b"RIFF") and head[8:12] == b"AVI "
        transport = head[:565:188] == b"GGGG"  # packets of 188 bytes
        return head[4:8] == b"ftyp" or avi or transport or head.startswith(_STARTS)

    def read(self, path: Path) -> "xr.Dataset":
        """One variable, ``frames``; the positions of its frames are read, none is decoded."""
        import xarray as xr

        with reading(path), _opened(path) as container:
            if (missing := _stated_size(path) - path.stat().st_size) > 0:
                raise ValueError(f"bytes missing at its end: {missing:,}")
            stream = container.streams.video[0]
            pixels = str(stream.codec_context.pix_fmt)
            size = stream.codec_context.height, stream.codec_context.width
            rate, base = stream.average_rate or stream.guessed_rate, float(stream.time_base or 0)
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            if damaged := sum(packet.is_corrupt for packet in packets):
                raise ValueError(f"{damaged} of {len(packets)} packets are damaged")
            positions = sorted(packet.pts for packet in packets if packet.pts is not None)
            if not positions or not rate:
                raise ValueError("there are no frames")
        grey = pixels.startswith("gray")
        form = "rgb24" if not grey else "gray" if pixels == "gray" else "gray16le"
        shape = (len(positions), *(() if grey else (3,)), *size)
        step = max(1, min(_FRAMES, _VALUES // int(np.prod(shape[1:]))))
        bounds = [*range(0, len(positions), step), len(positions)]
        loads = [(partial(_decode, path, tuple(positions[a:b]), form), b - a) for a, b in pairwise(bounds)]
        times = _times(np.array(positions) * base, 1 / float(rate))
        dtype = np.uint16 if form == "gray16le" else np.uint8
        attributes = {"dtype": np.dtype(dtype).name, "valid_range": (0, np.iinfo(dtype).max)}
        values = delayed_frames(loads, shape[1:])
        if grey:
            return xr.Dataset({"frames": (("time", "y", "x"), values, attributes)}, {"time": times})
        coordinates = {"time": times, "channel": ["red", "green", "blue"]}
        return xr.Dataset({"frames": (("time", "channel", "y", "x"), values, attributes)}, coordinates)


def _stated_size(path: Path) -> int:
    """Least size in bytes of a whole file, by what its container says; 0 if it says nothing.

    PyAV reads a file that was cut between two packets as a whole one of fewer frames.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if head[4:] == b"ftyp":
            return _stated_by_boxes(file)
        if head[:4] == b"RIFF":
            size = int.from_bytes(head[4:], "little")
            return size if size < 2**32 - 1 else 0  # without these 8 bytes, but some writers count them
        if head[:4] == b"\x1aE\xdf\xa3":  # Matroska and WebM: a header, and a segment with all else
            file.seek(4)
            file.seek(_ebml_size(file) + 4, os.SEEK_CUR)
            return _ebml_size(file) + file.tell()
    return 0


def _stated_by_boxes(file: BinaryIO) -> int:
    """The end of the last box of frames (ISO/IEC 14496-12, 4.2); 0 if it is that of the file."""
    place = end = 0
    whole = file.seek(0, os.SEEK_END)
    while place < whole:
        file.seek(place)
        head = file.read(8)
        size = int.from_bytes(head[:4], "big")
        if size == 1:  # a large box
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # up to the end of the file
            break
        place += size
        if head[4:] == b"mdat":
            end = place
    return end


def _ebml_size(file: BinaryIO) -> int:
    """The size of an element that is coded here (RFC 8794, section 4), 0 if it is unknown."""
    first = file.read(1)
    length = 9 - first[0].bit_length()
    size = int.from_bytes(first + file.read(length - 1), "big") - 2 ** (7 * length)
    return size if size < 2 ** (7 * length) - 1 else 0


def _times(stamps: NDArray[np.float64], step_s: float) -> NDArray[np.timedelta64]:
    """Times by the frame rate; where time stamps (T,), in seconds, skip whole frames, these are missing."""
    apart = np.diff(stamps)
    steps = np.rint(apart / np.median(apart)) if len(apart) and (apart > 0).all() else np.ones(len(apart))
    own_s = apart.sum() / max(1, steps.sum())
    if (steps > 1).any() and (np.abs(apart - steps * own_s) < 0.25 * own_s).all():
        step_s = own_s
    else:  # of a rate that varies, too
        steps = np.ones(len(apart))
    return np.append(0, steps.cumsum()).astype(np.int64) * np.timedelta64(round(1e9 * step_s), "ns")


@contextmanager
def _opened(path: Path) -> "Iterator[InputContainer]":
    check_installed("av", f"{path} needs PyAV")
    import av

    with av.open(str(path)) as container:
        yield container


def _decode(path: Path, positions: tuple[int, ...], form: str) -> NDArray[np.float32]:
    """Consecutive frames ([T, [C,]] H, W), given their presentation time stamps in the file."""
    with reading(path):
        # Some containers cannot be searched exactly: then all frames before are decoded, too.
        found = _frames(path, positions, form, seek=True)
        if len(found) < len(positions):
            found = _frames(path, positions, form, seek=False)
        if len(found) < len(positions):
            raise ValueError(f"{len(positions) - len(found)} frames are missing or damaged")
    values = np.stack(found).astype(np.float32)
    return np.moveaxis(values, -1, 1) if values.ndim == 4 else values


def _frames(path: Path, positions: tuple[int, ...], form: str, *, seek: bool) -> list[NDArray[Any]]:
    """The frames at these time stamps, up to a damaged one; none if the first of them was not decoded."""
    wanted = set(positions)
    frames: list[NDArray[Any]] = []
    with _opened(path) as container:
        stream = container.streams.video[0]
        if seek:
            container.seek(positions[0], stream=stream)  # to the key frame before it
        for frame in container.decode(stream):
            if frame.pts in wanted:
                late = not frames and frame.pts != positions[0]
                if late or frame.is_corrupt:  # the decoder fills what is missing with what was there before
                    break
                frames.append(frame.to_ndarray(format=form))
            if len(frames) == len(positions):
                break
    return frames
