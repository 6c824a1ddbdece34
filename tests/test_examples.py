"""The configurations of `examples/` train on small files of the formats that they are for."""

import gzip
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import xarray as xr
import yaml
from sevir_files import write_sevir

from convlstm.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = ["--epochs", "1", "--batch_size", "2", "--model.hidden_dim", "[4]", "--accelerator", "cpu"]


def knmi(path, time, codes):
    """Reflectivity composite of KNMI in 8 bits."""
    with h5py.File(path, "w") as file:
        geographic = file.create_group("geographic")
        geographic.attrs.update(
            {
                "geo_row_offset": np.float32(3650),
                "geo_column_offset": np.float32(0),
                "geo_pixel_size_x": np.float32(1),
                "geo_pixel_size_y": np.float32(-1),
                "geo_dim_pixel": np.bytes_("KM,KM"),
            }
        )
        proj4 = "+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.14 +b=6356.75 +x_0=0 y_0=0"
        file.create_group("geographic/map_projection").attrs["projection_proj4_params"] = np.bytes_(proj4)
        image = file.create_group("image1")
        image.attrs["image_geo_parameter"] = np.bytes_("REFLECTIVITY_[DBZ]")
        image["image_data"] = codes
        file.create_group("image1/calibration").attrs.update(
            {
                "calibration_formulas": np.bytes_("GEO = 0.500000 * PV + -32.000000"),
                "calibration_missing_data": 0,
                "calibration_out_of_image": 255,
            }
        )
        text = time.astype("M8[s]").item().strftime("%d-%b-%Y;%H:%M:%S.000").upper()
        overview = file.create_group("overview")
        overview.attrs["product_datetime_end"] = np.bytes_(text)
        overview.attrs["product_datetime_start"] = np.bytes_(text)


def nights(folder):
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for day in range(1, 6):
        for k in range(26):
            time = np.datetime64(f"2021-02-0{day}T20:05") + np.timedelta64(5 * k, "m")
            codes = draw.choice([0, 90, 110, 255], (40, 40), p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)
            knmi(folder / f"{time}.hf5".replace(":", ""), time, codes)
    return folder


def fmi(folder):
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for k in range(60):
        time = np.datetime64("2016-09-28T14:45") + np.timedelta64(5 * k, "m")
        header = (
            f"P5\n# obstime {str(time).replace('-', '').replace('T', '').replace(':', '')}\n"
            "# metersperpixel_x 999.674\n# metersperpixel_y 999.629\n# truelatitude 60\n"
            "# centrallongitude 25\n# bottomleft 18.600000 57.930000\n40 44\n255\n"
        )
        codes = draw.choice([64, 90, 110, 255], (44, 40)).astype(np.uint8)
        name = f"{str(time).replace(':', '')}.pgm.gz"
        (folder / name).write_bytes(gzip.compress(header.encode() + codes.tobytes()))
    return folder


def test_rain_of_one_country(tmp_path):
    folder = nights(tmp_path / "knmi")
    words = ["--data.path", str(folder), "--data.crop", "24", "--data.train_size", "4"]
    assert trained("rain_knmi", words, tmp_path) == ("mm/h", 1)


def test_rain_of_several_countries(tmp_path, monkeypatch):
    """The paths of the archives stand in the file."""
    monkeypatch.chdir(tmp_path)
    fmi(tmp_path / "radar" / "fmi")
    draw = np.random.default_rng(1)
    (tmp_path / "radar" / "mch").mkdir()
    for event in range(4):
        values = draw.gamma(0.5, 2, (13, 36, 50)).astype("f4")
        times = np.datetime64(f"2021-02-0{event + 1}", "ns") + np.arange(13) * np.timedelta64(5, "m")
        named = {"units": "mm/h", "long_name": "rain rate"}
        xr.DataArray(values, {"time": times}, ("time", "y", "x"), "rain", named).to_netcdf(
            tmp_path / "radar" / "mch" / f"{event}.nc", engine="h5netcdf"
        )
    text = (EXAMPLES / "rain_countries.yaml").read_text().replace("crop: 128", "crop: 24")
    (tmp_path / "small.yaml").write_text(text.replace("train_size: 800", "train_size: 4"))
    assert trained(tmp_path / "small.yaml", [], tmp_path) == ("mm/h", 1)


def test_sea_surface(tmp_path):
    draw = np.random.default_rng(0)
    times = np.arange("2007-06-01", "2012-03-01", dtype="M8[D]").astype("M8[ns]")
    season = 5 * np.cos(2 * np.pi * np.arange(len(times)) / 365.25)
    values = (15 + season[:, None, None] + draw.normal(0, 1, (len(times), 8, 8))).astype("f4")
    values[:, :2] = np.nan
    axes = {
        "time": times,
        "lat": ("lat", np.linspace(-40, -38.25, 8), {"units": "degrees_north"}),
        "lon": ("lon", np.linspace(150, 151.75, 8), {"units": "degrees_east"}),
    }
    named = {"units": "degC", "long_name": "sea surface temperature"}
    xr.DataArray(values, axes, ("time", "lat", "lon"), "sst", named).to_netcdf(
        tmp_path / "sst.nc", engine="h5netcdf"
    )
    words = ["--data.path", str(tmp_path / "sst.nc"), "--batch_size", "64"]
    assert trained("sea_surface", words, tmp_path) == ("degC", 1)


def test_temperature(tmp_path):
    draw = np.random.default_rng(0)
    values = (280 + draw.normal(0, 4, (160, 9, 9))).astype("f4")
    times = np.datetime64("2019-03-01", "ns") + np.arange(160) * np.timedelta64(1, "h")
    named = {"units": "K", "long_name": "2 metre temperature", "GRIB_shortName": "2t"}
    xr.DataArray(values, {"time": times}, ("time", "y", "x"), "t2m", named).to_netcdf(
        tmp_path / "t2m.nc", engine="h5netcdf"
    )
    words = ["--data.path", str(tmp_path / "t2m.nc"), "--batch_size", "16"]
    assert trained("temperature_era5", words, tmp_path) == ("K", 1)


def test_video(tmp_path):
    draw = np.random.default_rng(0)
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(90):
            picture = draw.integers(0, 256, (32, 48, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    words = ["--data.path", str(tmp_path / "a.mp4"), "--data.crop", "16", "--data.train_size", "4"]
    assert trained("video", words, tmp_path) == ("1", 3)


def sevir(folder):
    """Three events of each split, of 384 x 384 pixels as SEVIR's have, but of coarse fields."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 255, (9, 12, 12, 49)).astype(np.uint8)
    rows = [
        {"id": f"S{k}", "file_index": k, "time_utc": f"{day} 12:00:00"}
        for k, day in enumerate(["2018-05-01", "2019-03-01", "2019-07-01"] * 3)
    ]
    codes = coarse.repeat(32, 1).repeat(32, 2)
    return write_sevir(folder / "data" / "vil" / "2019" / "a.h5", codes, rows)


def test_sevir(tmp_path):
    sevir(tmp_path / "sevir")
    words = ["--data.path", str(tmp_path / "sevir" / "data"), "--model.patch_size", "48"]
    assert trained("sevir", words, tmp_path) == ("1", 1)


def trained(example, words, tmp_path):
    """Unit and channels of the data of a run that an example trained."""
    path = example if isinstance(example, Path) else EXAMPLES / f"{example}.yaml"
    words = ["train", "--config", str(path), *SMALL, *words, "--out", str(tmp_path / "run")]
    assert main(words) == 0
    model = tmp_path / "run" / "model" / "config.json"
    specification = yaml.safe_load(model.read_text())["specification"]
    return specification["units"], len(specification["variables"])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_tested(path):
    assert f'"{path.stem}' in Path(__file__).read_text()
