"""Precipitation composites of the German weather service (RADOLAN, RADVOR): one frame, or an archive of them.

Formats and grids: DWD, "RADOLAN/RADVOR: Beschreibung des Kompositformats", version 2.5.
"""

import bz2
import gzip
import re
import tarfile
import zlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.base import RADAR, Reader, decoded, frames_dataset, projected
from convlstm.errors import DataError, reading
from convlstm.extras import load_pyproj

if TYPE_CHECKING:
    import xarray as xr

_AMOUNTS = ("RW", "RY", "RV", "YW", "RZ", "RH", "RB", "RL", "RU", "RQ", "SQ", "SH", "SF")
_BEGINNING = 4096  # bytes, in which every header known ends
_BINARY = re.compile(
    rb"(?P<product>[A-Z\d]{2})(?P<day>\d\d)(?P<hour>\d\d)(?P<minute>\d\d)\d{5}(?P<month>\d\d)(?P<year>\d\d)"
    rb"BY *(?P<size>\d+)VS *(?P<version>\d+)[^\x03]*?PR *E(?P<exponent>[-+]\d+)"
    rb"INT *(?P<interval>\d+)(?:U(?P<unit>\d))?[^\x03]*?"
    rb"GP *(?P<rows>\d+)x *(?P<columns>\d+)(?:VV *(?P<lead>\d+))?[^\x03]*\x03"
)
_TEXT = re.compile(
    rb"ncols +(?P<columns>\d+)\s+nrows +(?P<rows>\d+)\s+xllcorner +(?P<west>\S+)\s+yllcorner +(?P<south>\S+)"
    rb"\s+cellsize +1000\s+NODATA_value +-1\s"
)
_TEXT_NAME = re.compile(r"(RW)_(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)\.asc$")
_LINES = 6  # of the header of text
_PROJ4 = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 "
_SPHERE, _ELLIPSOID = _PROJ4 + "+R=6370040", _PROJ4 + "+ellps=WGS84"  # the latter from version 5 on
_ANCHOR = (9.0, 51.0)  # degrees east and north, where all grids have a corner of a pixel
_FROM_ANCHOR = {
    (900, 900): (450, 450),
    (1100, 900): (370, 550),
    (1200, 1100): (470, 600),
}  # km west and south
_PIXEL = 1000.0
_NO_DATA, _CLUTTER, _VALUE = 0x2000, 0x8000, 0x0FFF  # bits of a code


@dataclass(frozen=True)
class _Kind:
    """Product shared by all frames of an archive; ``corner`` is the upper left one in metres.

    An amount covers ``period_s`` seconds.
    """

    shape: tuple[int, int]
    scale: float
    proj4: str
    corner: tuple[float, float]
    product: str
    period_s: float
    reference: np.datetime64 | None = None  # time at which a forecast was made


@dataclass(frozen=True)
class _Frame:
    """One frame: its file in the archive, its time, and its size with the header, or None in text."""

    member: str
    time: np.datetime64
    kind: _Kind
    size: int | None = None


class Radolan(Reader):
    """Amounts of products such as RW (an hour), RY and RV (five minutes), where clutter is not measured.

    Headers state the time that an amount covers, in minutes or, with the unit 1, in days.
    The times are those at which an amount is complete. Frames of RV and RQ are forecasts: their times are
    those that they are for, the attribute ``forecast_reference_time`` is the time at which they were made.
    """

    name = "radolan"
    title = "RADOLAN and RADVOR composite (text or binary, tar, gz, bz2)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True if the first frame has a header of RADOLAN."""
        try:
            with closing(_members(path)) as members:
                _, file = next(members)
                start = file.read(_BEGINNING)
        except (OSError, EOFError, zlib.error, tarfile.TarError, StopIteration):
            return False
        return (_BINARY.match(start) or _TEXT.match(start)) is not None

    def read(self, path: Path) -> "xr.Dataset":
        """Amounts in mm."""
        with reading(path):
            frames = [_frame(path, name, file.read(_BEGINNING)) for name, file in _members(path)]
            frames.sort(key=lambda frame: frame.time)
            if not frames:
                raise ValueError("it has no frames")
            kind, times = frames[0].kind, np.array([frame.time for frame in frames])
            if any(frame.kind != kind for frame in frames) or len(np.unique(times)) < len(times):
                raise ValueError(
                    "its frames must be of one product, grid and forecast, and of different times"
                )
            attributes = RADAR["precipitation"] | {"period_s": kind.period_s}
            if kind.reference is not None:
                attributes["forecast_reference_time"] = str(kind.reference.astype("datetime64[s]"))
            return frames_dataset(
                "precipitation",
                partial(_values, path, frames),
                times,
                kind.shape,
                attributes=attributes,
                **projected(kind.proj4, kind.corner, (_PIXEL, _PIXEL), kind.shape),
            )


def _members(path: Path) -> Generator[tuple[str, IO[bytes]]]:
    """Names and contents of the files of an archive, or of the one file; each can be read once only."""
    with path.open("rb") as raw:
        magic = raw.read(3)
    opener: Any = gzip.open if magic.startswith(b"\x1f\x8b") else bz2.open if magic == b"BZh" else open
    with opener(path, "rb") as file:
        is_archive = file.read(512)[257:262] == b"ustar"
        file.seek(0)
        if not is_archive:
            yield path.name.removesuffix(".gz").removesuffix(".bz2"), file
            return
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for entry in archive:
                if (content := archive.extractfile(entry)) is not None:
                    yield entry.name, content


def _frame(path: Path, name: str, start: bytes) -> _Frame:
    header = _BINARY.match(start)
    if header is None:
        return _frame_of_text(name, start)
    field = {key: text and text.decode() for key, text in header.groupdict().items()}
    if field["product"] not in _AMOUNTS:
        raise DataError(
            f"a product of RADOLAN must be an amount ({', '.join(_AMOUNTS)}); {path} holds "
            f"{field['product']}: convert it, or give --data.reader the dotted path of a function of yours"
        )
    shape = int(field["rows"]), int(field["columns"])
    if shape not in _FROM_ANCHOR:
        raise ValueError(f"the grid {shape} is none of {', '.join(map(str, _FROM_ANCHOR))}")
    time = np.datetime64(
        f"20{field['year']}-{field['month']}-{field['day']}T{field['hour']}:{field['minute']}", "ns"
    )
    forecast = field["lead"] is not None
    proj4 = _SPHERE if int(field["version"]) < 5 else _ELLIPSOID
    kind = _Kind(
        shape,
        float(f"1e{field['exponent']}"),
        proj4,
        _corner(proj4, shape),
        field["product"],
        60.0 * int(field["interval"]) * (1440 if field["unit"] == "1" else 1),
        time if forecast else None,
    )
    lead = np.timedelta64(int(field["lead"] or 0), "m")
    return _Frame(name, time + lead, kind, int(field["size"]))


def _frame_of_text(name: str, start: bytes) -> _Frame:
    header, found = _TEXT.match(start), _TEXT_NAME.search(name)
    if header is None or found is None:
        raise ValueError(f"{name} has no header of RADOLAN, or no name such as RW_20221018-0050.asc")
    product, year, month, day, hour, minute = found.groups()
    shape = int(header["rows"]), int(header["columns"])
    corner = float(header["west"]), float(header["south"]) + shape[0] * _PIXEL
    time = np.datetime64(f"{year}-{month}-{day}T{hour}:{minute}", "ns")
    return _Frame(name, time, _Kind(shape, 0.1, _SPHERE, corner, product, 3600.0))


def _corner(proj4: str, shape: tuple[int, int]) -> tuple[float, float]:
    """The upper left corner in whole metres, as in the headers of text."""
    load_pyproj()
    from pyproj import Proj

    x, y = Proj(proj4)(*_ANCHOR)
    west, south = _FROM_ANCHOR[shape]
    return round(x - west * _PIXEL) + 0.0, round(y + (shape[0] - south) * _PIXEL) + 0.0


def _values(path: Path, frames: list[_Frame], part: slice) -> NDArray[np.float32]:
    """Frames of an archive, which is read from its beginning to the last one of them."""
    wanted = {frame.member: k for k, frame in enumerate(frames[part])}
    values = np.empty((len(wanted), *frames[0].kind.shape), np.float32)
    left = len(wanted)
    with reading(path):
        for name, file in _members(path):
            if name in wanted:
                values[wanted[name]] = _decode(file, frames[part][wanted[name]])
                left -= 1
            if not left:
                return values
        raise ValueError("a frame of it is gone")


def _decode(file: IO[bytes], frame: _Frame) -> NDArray[np.float32]:
    """Values of a frame, from north to south."""
    kind = frame.kind
    if frame.size is None:
        codes = np.loadtxt(file, np.int32, skiprows=_LINES)
        if codes.shape != kind.shape:
            raise ValueError(f"{frame.member} has {codes.shape} values, not {kind.shape}")
        return decoded(codes, kind.scale, 0.0, [-1])
    content = file.read()
    if len(content) != frame.size:
        raise ValueError(f"{frame.member} has {len(content)} bytes, not {frame.size}")
    codes = np.frombuffer(content, "<u2", offset=content.index(b"\x03") + 1).reshape(kind.shape)[::-1]
    values = decoded(codes & _VALUE, kind.scale, 0.0)
    values[codes & (_NO_DATA | _CLUTTER) != 0] = np.nan
    return values
