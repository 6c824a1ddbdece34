"""Small files of every format of radar composites, as the services write them, and the real ones."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Codes = NDArray[Any]


@pytest.fixture
def real() -> Callable[[str], list[Path]]:
    """Files of a folder of ``CONVLSTM_DATA``, by pattern; the test is skipped without."""

    def files(pattern: str) -> list[Path]:
        folder = os.environ.get("CONVLSTM_DATA")
        if not folder:
            pytest.skip("CONVLSTM_DATA names no folder of real files")
        found = sorted(Path(folder).glob(pattern))
        assert found, f"{folder} has no {pattern}"
        return found

    return files


@pytest.fixture
def write_fmi() -> Callable[..., Path]:
    """Write codes (H, W) uint8 as FMI's composites are written."""

    def write(path: Path, codes: Codes, time: str = "201609281445") -> Path:
        height, width = codes.shape
        header = (
            f"P5\n# obstime {time}\n# producttype CAPPI\n# productname LOWEST\n"
            "# metersperpixel_x 999.674053\n# metersperpixel_y 999.62859\n# projection radar {\n"
            "# type stereographic\n# centrallongitude 25\n# centrallatitude 90\n# truelatitude 60\n"
            "# bottomleft 18.600000 57.930000\n# topright 34.903000 69.005000\n# }\n"
            f"{width} {height}\n255\n"
        )
        path.write_bytes(gzip.compress(header.encode() + codes.astype(np.uint8).tobytes(), mtime=0))
        return path

    return write


@pytest.fixture
def write_knmi() -> Callable[..., Path]:
    """Write codes (H, W) as KNMI's composites are written: uint16 as accumulations, uint8 as reflectivity."""
    import h5py

    def write(path: Path, codes: Codes, time: str = "26-AUG-2010;00:05:00.000", **images: str) -> Path:
        rain = codes.dtype == np.uint16
        axes = "+a=6378.137 +b=6356.752 +x_0=0 +y_0=0" if rain else "+a=6378.14 +b=6356.75 +x_0=0 y_0=0"
        proj4 = f"+proj=stere +lat_0=90 +lon_0=0{'.0' * rain} +lat_ts=60{'.0' * rain} {axes}"
        size, offset = (1.0, 3650.0) if rain else (1.0000035, 3649.982)
        with h5py.File(path, "w") as file:
            geographic = file.create_group("geographic")
            for name, value in {
                "geo_column_offset": 0.0,
                "geo_row_offset": offset,
                "geo_pixel_size_x": size,
                "geo_pixel_size_y": -1.0 if rain else -1.0000048,
            }.items():
                geographic.attrs[name] = np.array([value], np.float32)
            geographic.attrs["geo_dim_pixel"] = np.bytes_("KM,KM")
            geographic.create_group("map_projection").attrs["projection_proj4_params"] = np.bytes_(proj4)
            parameter = "ACCUMULATED_PRECIPITATION_[MM]" if rain else "REFLECTIVITY_[DBZ]"
            for name, quantity in {"image1": parameter, **images}.items():
                image = file.create_group(name)
                image.attrs["image_geo_parameter"] = np.bytes_(quantity)
                image.create_dataset("image_data", data=codes, chunks=codes.shape, compression="gzip")
                calibration = image.create_group("calibration")
                formula = "GEO=0.01*PV+0.0" if rain else "GEO = 0.500000 * PV + -32.000000"
                calibration.attrs["calibration_formulas"] = np.bytes_(formula)
                calibration.attrs["calibration_missing_data"] = np.array([65535 if rain else 0], np.int32)
                calibration.attrs["calibration_out_of_image"] = np.array([65535 if rain else 255], np.int32)
            file.create_group("overview").attrs["product_datetime_end"] = np.array([time.encode()])
        return path

    return write


@pytest.fixture
def write_odim() -> Callable[..., Path]:
    """Write fields {group: (codes (H, W), what)} as ODIM files are written, on OPERA's grid or another."""
    import h5py

    opera = {
        "projdef": "+proj=laea +lat_0=55.0 +lon_0=10.0 +x_0=1950000.0 +y_0=-2100000.0 +units=m +ellps=WGS84",
        "xscale": 2000.0,
        "yscale": 2000.0,
        "UL_lon": -39.5357864125034,
        "UL_lat": 67.02283275830867,
    }

    def write(
        path: Path,
        fields: dict[str, tuple[Codes | None, dict[str, Any]]],
        where: dict[str, Any] | None = None,
        kind: str = "COMP",
        time: str = "180000",
    ) -> Path:
        with h5py.File(path, "w") as file:
            file.attrs["Conventions"] = np.bytes_("ODIM_H5/V2_2")
            for name, value in {"object": kind, "date": "20180824", "time": time}.items():
                file.require_group("what").attrs[name] = np.bytes_(value)
            for name, value in (opera if where is None else where).items():
                file.require_group("where").attrs[name] = value
            for group, (codes, what) in fields.items():
                if codes is not None:
                    file.create_dataset(f"{group}/data", data=codes, compression="gzip")
                for name, value in what.items():
                    file.require_group(f"{group}/what").attrs[name] = value
        return path

    return write


@pytest.fixture
def write_mch() -> Callable[..., Path]:
    """Write codes (H, W) uint8 as MeteoSwiss' images are written, with a comment behind the palette."""
    from PIL import Image

    def write(path: Path, codes: Codes, comment: str = "PRDT=AQC151351545 SCALE=mmh2LASSEN8bitmm_mn") -> Path:
        image = Image.fromarray(codes, "P")
        image.putpalette([255 - k % 256 for k in range(768)])
        comment = f"generated by Meteoswiss\nVERSION=ACQUIRE-V4.4.0_May2012\n{comment}"
        image.save(path, comment=comment.encode(), optimize=False)  # which would number the colours anew
        return path

    return write


@pytest.fixture
def radolan_binary() -> Callable[..., bytes]:
    """Bytes of a binary frame of codes (H, W) uint16, from south to north, as DWD writes its composites."""

    def content(
        codes: Codes,
        product: str = "RV",
        precision: str = "E-02",
        lead: int | None = None,
        interval: str = "   5",
    ) -> bytes:
        height, width = codes.shape
        lines = f"GP{height:4}x{width:4}" + ("" if lead is None else f"VV {lead:03}MF 00000008")
        version = 3 if product == "RW" else 5
        tail = f"VS{version:2}SW   5.5SWPR {precision}INT{interval}{lines}MS 12<deasb,deboo>\x03"
        start = f"{product}180700100001022BY"
        size = len(start) + 10 + len(tail) + codes.nbytes
        return f"{start}{size:10}{tail}".encode() + codes.astype("<u2").tobytes()

    return content


@pytest.fixture
def radolan_text() -> Callable[[Codes], bytes]:
    """Bytes of a frame of 0.1 mm (H, W) in text, from north to south, -1 where not measured."""

    def content(codes: Codes) -> bytes:
        header = f"ncols         {codes.shape[1]}\nnrows         {codes.shape[0]}\nxllcorner     -523462\n"
        header += "yllcorner     -4658645\ncellsize      1000\nNODATA_value  -1\n"
        return (header + "".join(" ".join(map(str, row)) + " \n" for row in codes.tolist())).encode()

    return content


@pytest.fixture
def write_archive() -> Callable[[Path, dict[str, bytes]], Path]:
    """Write files into a tar archive, compressed as its name ends."""
    import io
    import tarfile

    def write(path: Path, members: dict[str, bytes]) -> Path:
        mode: Any = {".gz": "w:gz", ".bz2": "w:bz2", ".tar": "w"}[path.suffix]
        with tarfile.open(path, mode) as archive:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                archive.addfile(entry, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def write_meteonet() -> Callable[..., Path]:
    """Write codes (T, H, W) int16 as MeteoNet's archives are written, its dates pickled by NumPy."""
    from datetime import datetime

    def write(path: Path, codes: Codes, times: list[str], places: bool = False) -> Path:
        dates = np.array([datetime.fromisoformat(time) for time in times], object)
        np.savez_compressed(path, data=codes, dates=dates, miss_dates=dates[:0])
        if places:
            lats, lons = np.meshgrid(
                51.891 - 0.01 * np.arange(codes.shape[1]),
                -5.837 + 0.01 * np.arange(codes.shape[2]),
                indexing="ij",
            )
            np.savez(path.parent / "radar_coords_NW.npz", lats=lats, lons=lons)
            np.savez(path.parent / "radar_coords_SE.npz", lats=lats[:1], lons=lons[:1])
        return path

    return write
