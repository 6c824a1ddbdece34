"""Composites of the Finnish Meteorological Institute: PGM images, gzipped, dBZ = v / 2 - 32."""

import gzip
import re
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convlstm.data.readers.base import (
    RADAR,
    Reader,
    decoded,
    frames_dataset,
    projected,
    time_in_name,
)
from convlstm.errors import DataError, reading
from convlstm.extras import load_pyproj

if TYPE_CHECKING:
    import xarray as xr

_NOT_MEASURED = 255
_HEADER = 4096  # bytes, in which every header known ends


class FMI(Reader):
    """Reflectivity composites of Finland, 8 bits a pixel: 0 is nothing detected, 255 not measured."""

    name = "fmi"
    title = "FMI radar composite (gzipped PGM)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for a gzipped PGM image with FMI's comments."""
        if not head.startswith(b"\x1f\x8b"):
            return False
        try:
            with gzip.open(path) as file:
                header = file.read(_HEADER)
        except (OSError, EOFError, zlib.error):
            return False
        return header.startswith(b"P5") and b"# obstime" in header and b"metersperpixel_x" in header

    def read(self, path: Path) -> "xr.Dataset":
        """Reflectivity in dBZ, dry at -32."""
        load_pyproj()
        from pyproj import Proj

        with reading(path):
            with gzip.open(path) as file:
                header = file.read(_HEADER)
            size = re.search(rb"^(\d+) (\d+)\n255\n", header, re.MULTILINE)
            fields = dict(re.findall(rb"^# (\w+) (.+)$", header, re.MULTILINE))
            if size is None:
                raise ValueError("the header has no size")
            width, height, start = int(size[1]), int(size[2]), size.end()
            time = time_in_name(fields[b"obstime"].decode())
            quantity = fields.get(b"param", b"Reflectivity").decode()
            if not quantity.lower().endswith(("reflectivity", "dbz", "dbzh")):
                raise DataError(
                    f"an image of FMI must be of reflectivity; {path} is of {quantity}, whose codes mean "
                    "something else: give --data.reader the dotted path of a function that reads it"
                )
            if time is None:
                raise ValueError(f"the header has no time but {fields[b'obstime'].decode()}")
            latitude, central = float(fields[b"truelatitude"]), float(fields[b"centrallongitude"])
            proj4 = f"+proj=stere +lat_0=90 +lat_ts={latitude:g} +lon_0={central:g} +R=6371288 +units=m"
            west, south = fields[b"bottomleft"].split()
            left, bottom = Proj(proj4)(float(west), float(south))
            pixel = float(fields[b"metersperpixel_x"]), float(fields[b"metersperpixel_y"])

        return frames_dataset(
            "reflectivity",
            partial(_values, path, start, (height, width)),
            np.array([time]),
            (height, width),
            attributes=RADAR["reflectivity"],
            **projected(proj4, (left, bottom + height * pixel[1]), pixel, (height, width)),
        )


def _values(path: Path, start: int, shape: tuple[int, int], frames: slice) -> NDArray[np.float32]:
    with reading(path), gzip.open(path) as file:
        codes = np.frombuffer(file.read()[start:], np.uint8).reshape(1, *shape)
    return decoded(codes[frames], 0.5, -32.0, [_NOT_MEASURED])
