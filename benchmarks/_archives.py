"""Archives of generated radar composites, in the formats that services give them in."""

from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

Frames = NDArray[np.float32]
_SIZE = 765, 700


def reflectivity(count: int, size: tuple[int, int] = _SIZE) -> Frames:
    """Drifting cells in dBZ, (T, H, W) on the steps of KNMI's codes, dry at -32; a tenth of it is wet."""
    draw = np.random.default_rng(0)
    rows, columns = (np.fft.fftfreq(length)[:, None] for length in size)
    wave = np.hypot(rows, columns.T)
    wave[0, 0] = np.inf
    field = np.fft.ifft2(wave**-1.5 * np.exp(2j * np.pi * draw.random(size))).real
    field = (field / field.std() - 1.3) * 20 + 7
    codes = np.where(field > 7, np.round(field * 2) / 2, -32).clip(-32, 60).astype(np.float32)
    return np.stack([np.roll(codes, (k, 2 * k), (0, 1)) for k in range(count)])


def times(count: int) -> NDArray[np.datetime64]:
    """A frame every five minutes."""
    return np.datetime64("2021-02-01", "ns") + np.arange(count) * np.timedelta64(300, "s")


def write_knmi(folder: Path, frames: Frames) -> None:
    """A compressed HDF5 file a frame, as KNMI writes them."""
    folder.mkdir()
    for time, dbz in zip(times(len(frames)), frames, strict=True):
        stamp = time.astype("datetime64[s]").item()
        with h5py.File(folder / f"RAD_NL25_PCP_NA_{stamp:%Y%m%d%H%M}.h5", "w") as file:
            geographic = file.create_group("geographic")
            names = ("geo_column_offset", "geo_row_offset", "geo_pixel_size_x", "geo_pixel_size_y")
            for name, value in zip(names, (0, 3649.982, 1.0000035, -1.0000048), strict=True):
                geographic.attrs[name] = np.array([value], np.float32)
            geographic.attrs["geo_dim_pixel"] = np.bytes_("KM,KM")
            projection = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.14 +b=6356.75 +x_0=0 y_0=0"
            geographic.create_group("map_projection").attrs["projection_proj4_params"] = np.bytes_(projection)
            image = file.create_group("image1")
            image.attrs["image_geo_parameter"] = np.bytes_("REFLECTIVITY_[DBZ]")
            codes = ((dbz + 32) * 2).astype(np.uint8)
            image.create_dataset("image_data", data=codes, chunks=codes.shape, compression="gzip")
            calibration = image.create_group("calibration")
            calibration.attrs["calibration_formulas"] = np.bytes_("GEO = 0.500000 * PV + -32.000000")
            calibration.attrs["calibration_missing_data"] = np.array([0], np.int32)
            calibration.attrs["calibration_out_of_image"] = np.array([255], np.int32)
            ended = f"{stamp:%d-%b-%Y;%H:%M:%S.000}".upper()
            overview = file.create_group("overview")
            overview.attrs["product_datetime_end"] = np.array([ended.encode()])


def labelled(frames: Frames) -> xr.Dataset:
    """Frames with times and unit."""
    values = (("time", "y", "x"), frames, {"units": "dBZ", "standard_name": "equivalent_reflectivity_factor"})
    return xr.Dataset({"reflectivity": values}, {"time": times(len(frames))})


def write_netcdf(path: Path, frames: Frames) -> None:
    """One compressed NetCDF file of packed values, a chunk a frame."""
    packed = {"dtype": "int16", "scale_factor": 0.5, "add_offset": -32.0, "_FillValue": -1}
    chunks = (1, *frames.shape[1:])
    encoding = {"reflectivity": packed | {"zlib": True, "complevel": 4, "chunksizes": chunks}}
    labelled(frames).to_netcdf(path, engine="h5netcdf", encoding=encoding)


def write_zarr(path: Path, count: int, size: tuple[int, int]) -> None:
    """A Zarr archive, a chunk a frame, written piece by piece."""
    frames = labelled(reflectivity(256, size))
    encoding = {"reflectivity": {"chunks": (1, *size)}}
    for first in range(0, count, 256):
        stamps = times(count)[first : first + 256]
        piece = frames.isel(time=slice(len(stamps))).assign_coords(time=stamps)
        if first:
            piece.to_zarr(path, append_dim="time", consolidated=False)
        else:
            piece.to_zarr(path, encoding=encoding, consolidated=False)
