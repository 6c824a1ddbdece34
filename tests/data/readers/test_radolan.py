"""RADOLAN and RADVOR: values, places and times of files written here and of the real ones."""

import bz2
import gzip

import numpy as np
import pytest
from pyproj import CRS, Proj, Transformer

from convlstm.data.readers.radolan import Radolan
from convlstm.errors import DataError
from convlstm.testing import check_reader

NO_DATA, SECONDARY, CLUTTER = 0x2000, 0x1000, 0x8000


@pytest.fixture
def codes():
    """Of a frame of 900 x 900, south first, with every kind of code in its corners."""
    codes = np.zeros((900, 900), np.uint16)
    codes[0, :4] = [7, 4095, 2500 | NO_DATA, 12 | SECONDARY]
    codes[899, 899] = 3 | CLUTTER
    return codes


@pytest.fixture
def amounts():
    amounts = np.zeros((900, 900), np.float32)
    amounts[899, :4] = [7, 4095, np.nan, 12]
    amounts[0, 899] = np.nan
    return amounts


def test_a_binary_frame(tmp_path, radolan_binary, codes, amounts):
    """North comes first; bits of secondary values are no part of them; no data and clutter are NaN."""
    path = tmp_path / "raa01-rw_10000-2210180700-dwd---bin"
    path.write_bytes(radolan_binary(codes, "RW", "E-01", interval="  60"))
    dataset = Radolan().read(path)
    np.testing.assert_array_equal(
        dataset["precipitation"][0], (amounts.astype(float) * 0.1).astype(np.float32)
    )
    assert dataset.time.values == [np.datetime64("2022-10-18T07:00")]
    attributes = dataset["precipitation"].attrs
    assert (attributes["units"], attributes["cell_methods"]) == ("mm", "time: sum")
    assert attributes["period_s"] == 3600
    assert "forecast_reference_time" not in attributes


@pytest.mark.parametrize(("interval", "seconds"), [("   5", 300), ("1440", 86400), ("   2U1", 172800)])
def test_the_time_that_an_amount_covers(tmp_path, radolan_binary, codes, interval, seconds):
    path = tmp_path / "frame"
    path.write_bytes(radolan_binary(codes, "SF", interval=interval))
    assert Radolan().read(path)["precipitation"].attrs["period_s"] == seconds


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files(tmp_path, radolan_binary, radolan_text, codes, amounts, suffix, compress):
    path = tmp_path / f"frame{suffix}"
    path.write_bytes(compress(radolan_binary(codes, "RY")))
    values = Radolan().read(path)["precipitation"].values[0]
    np.testing.assert_array_equal(values, (amounts.astype(float) * 0.01).astype(np.float32))
    path = tmp_path / f"RW_20221018-0050.asc{suffix}"
    path.write_bytes(compress(radolan_text(np.array([[1, -1], [0, 322]]))))
    dataset = Radolan().read(path)
    np.testing.assert_array_equal(dataset["precipitation"][0], np.float32([[0.1, np.nan], [0, 32.2]]))
    assert dataset.time.values == [np.datetime64("2022-10-18T00:50")]
    assert dataset["precipitation"].attrs["period_s"] == 3600


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2"])
def test_archives_of_text(tmp_path, radolan_text, write_archive, suffix):
    """Ten frames, more than are read at once, come in the order of their times, not of the archive."""
    frames = np.arange(60).reshape(10, 2, 3)
    members = {f"day/RW_20221018-{k:02}50.asc": radolan_text(frames[k]) for k in (*range(1, 10), 0)}
    dataset = Radolan().read(write_archive(tmp_path / f"a{suffix}", members))
    np.testing.assert_array_equal(dataset["precipitation"], (frames * 0.1).astype(np.float32))
    np.testing.assert_array_equal(dataset["precipitation"][4:9:2], (frames[4:9:2] * 0.1).astype(np.float32))
    start = np.datetime64("2022-10-18T00:50", "ns")
    assert dataset.time.values.tolist() == (start + np.arange(10) * np.timedelta64(1, "h")).tolist()
    assert dataset.y.values.tolist() == [-4657145.0, -4658145.0]
    assert dataset.x.values.tolist() == [-522962.0, -521962.0, -520962.0]


def test_forecasts_have_valid_times(tmp_path, radolan_binary, write_archive, codes):
    members = {f"DE_{lead:03}": radolan_binary(codes + np.uint16(lead), lead=lead) for lead in (0, 5, 120)}
    dataset = Radolan().read(write_archive(tmp_path / "a.tar.bz2", members))
    minutes = (dataset.time.values - np.datetime64("2022-10-18T07:00")) / np.timedelta64(1, "m")
    assert minutes.tolist() == [0, 5, 120]
    assert dataset["precipitation"].attrs["forecast_reference_time"] == "2022-10-18T07:00:00"
    assert dataset["precipitation"].values[:, 899, 0].tolist() == np.float32([0.07, 0.12, 1.27]).tolist()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda binary, text: {"a": binary, "RW_20221018-0050.asc": text},
            "its frames must be of one product",
        ),
        (lambda binary, text: {"a": binary, "b": binary}, "its frames must be .* of different times"),
        (lambda binary, text: {"a": binary, "b": b"notes"}, "b has no header of RADOLAN"),
        (lambda binary, text: {"a": binary[:-2]}, r"a has 162\d+ bytes, not 162"),
        (lambda binary, text: {"a.asc": text}, r"or no name such as RW_20221018-0050\.asc"),
        (lambda binary, text: {"RW_20221018-0050.asc": text[:-6]}, "could not|columns|has .* values, not"),
        (lambda binary, text: {"day/": b""}, "it has no frames"),
    ],
)
def test_damaged_archives(tmp_path, radolan_binary, radolan_text, write_archive, codes, change, problem):
    members = change(radolan_binary(codes, "RY"), radolan_text(np.array([[1, 2], [3, 4]])))
    path = write_archive(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=rf"a\.tar must be a whole, readable file; .*({problem})"):
        Radolan().read(path).load()


def test_other_products_and_grids_are_refused(tmp_path, radolan_binary, codes):
    path = tmp_path / "a"
    path.write_bytes(radolan_binary(codes, "RX"))
    assert Radolan().recognises(path, b"")
    with pytest.raises(
        DataError, match=r"product of RADOLAN must be an amount \(RW, RY, .* holds RX: convert"
    ):
        Radolan().read(path)
    path.write_bytes(radolan_binary(codes[:800], "RY"))
    with pytest.raises(DataError, match=r"the grid \(800, 900\) is none of \(900, 900\), "):
        Radolan().read(path)


def test_contract(tmp_path, radolan_binary, radolan_text, write_archive):
    codes = np.random.default_rng(1).integers(0, 4096, (900, 900), np.uint16)
    path = tmp_path / "frame"
    path.write_bytes(radolan_binary(codes, "RY"))
    check_reader(Radolan(), path)
    members = {f"RW_20221018-{k:02}50.asc": radolan_text(codes[k : k + 20, :30]) for k in range(10)}
    for suffix in (".tar.gz", ".tar.bz2"):
        check_reader(Radolan(), write_archive(tmp_path / f"a{suffix}", members))


# Corners of the grid of 900 x 900 in DWD's description: south-west, south-east, north-east, north-west.
CORNERS = [(3.5889, 46.9526), (14.6209, 47.0705), (15.7208, 54.7405), (2.0715, 54.5877)]


def test_real_hourly_amounts(real):
    (path,) = real("radar/radolan/RW-20221018.tar.gz")
    frames = Radolan().read(path)["precipitation"]
    assert (frames.shape, frames.attrs["period_s"]) == ((24, 900, 900), 3600)
    assert frames.time.values[0] == np.datetime64("2022-10-18T00:50")
    assert set(np.diff(frames.time.values)) == {np.timedelta64(1, "h")}
    values = frames.values
    assert np.isnan(values).sum((1, 2))[:3].tolist() == [127735, 128615, 144278]
    assert np.nanmax(values) == np.float32(32.2)
    x, y = frames.x.values, frames.y.values
    places = [
        (x[0] - 500, y[-1] - 500),
        (x[-1] + 500, y[-1] - 500),
        (x[-1] + 500, y[0] + 500),
        (x[0] - 500, y[0] + 500),
    ]
    sphere = Proj("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=10 +R=6370040")
    for corner, place in zip(CORNERS, places, strict=True):
        assert np.hypot(*np.subtract(sphere(*corner), place)) < 8  # the corners have 0.0001 degrees


def test_real_nowcast(real):
    (path,) = real("radar/radolan/DE1200_RV2210180700.tar.bz2")
    frames = Radolan().read(path)["precipitation"]
    assert (frames.shape, frames.attrs["period_s"]) == ((25, 1200, 1100), 300)
    assert frames.time.values[[0, -1]].tolist() == [
        np.datetime64(time, "ns").astype(int) for time in ("2022-10-18T07:00", "2022-10-18T09:00")
    ]
    values = frames[:8].values
    assert np.isnan(values).sum((1, 2))[:3].tolist() == [619706, 619049, 618672]
    assert np.nanmax(values[0]) == np.float32(4.99)
    # DWD states the grid DE1200 by these offsets, with which the centre of the north-west pixel is (0, 0).
    offsets = 543196.83521776402, 3622588.8619310018
    assert (frames.x.values[0], frames.y.values[0]) == pytest.approx((-offsets[0], -offsets[1]), abs=0.5)
    crs = CRS.from_cf(frames.crs.attrs)
    x, y = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform(9, 51)
    assert ((x - frames.x.values[0] + 500) / 1000, (y - frames.y.values[-1] + 500) / 1000) == pytest.approx(
        (470, 600), abs=1e-3
    )
