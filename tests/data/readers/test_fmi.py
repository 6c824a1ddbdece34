"""Composites of FMI: values, places and times of a file written here and of the real ones."""

import gzip
from contextlib import nullcontext

import numpy as np
import pytest
from pyproj import Proj

from convlstm.data.readers.fmi import FMI
from convlstm.errors import DataError
from convlstm.testing import check_reader

CODES = np.array([[0, 1, 64], [65, 254, 255]], np.uint8)


@pytest.fixture
def path(tmp_path, write_fmi):
    return write_fmi(tmp_path / "201609281445_fmi.radar.composite.lowest_FIN_SUOMI1.pgm.gz", CODES)


def test_values_and_labels(path):
    dataset = FMI().read(path)
    frames = dataset["reflectivity"]
    assert frames.values.tolist()[0][0] == [-32.0, -31.5, 0.0]
    np.testing.assert_array_equal(frames.values[0, 1], np.float32([0.5, 95.0, np.nan]))
    assert dataset.time.values == [np.datetime64("2016-09-28T14:45")]
    assert (frames.attrs["units"], frames.attrs["dry_value"]) == ("dBZ", -32.0)


def test_images_of_another_quantity_are_refused(tmp_path, write_fmi):
    """Their codes were read as reflectivity."""
    path = write_fmi(tmp_path / "a.pgm.gz", CODES)
    content = gzip.decompress(path.read_bytes())
    for quantity, taken in (("CorrectedReflectivity", True), ("RainRate", False)):
        stated = content.replace(b"# productname", f"# param {quantity}\n# productname".encode())
        path.write_bytes(gzip.compress(stated))
        expected = nullcontext() if taken else pytest.raises(DataError, match="of RainRate, whose codes")
        with expected:
            FMI().read(path)


def test_contract(path):
    check_reader(FMI(), path)


def test_real_files(real):
    files = real("radar/fmi/*.gz")
    datasets = [FMI().read(file) for file in files]
    times = np.concatenate([dataset.time.values for dataset in datasets])
    assert len(times) == 40
    assert set(np.diff(times)) == {np.timedelta64(5, "m")}
    frames = datasets[0]["reflectivity"]
    assert frames.shape == (1, 1226, 760)
    # The file's own corner in the north-east, half a pixel outside the centre of the last one; it is rounded.
    proj = Proj("+proj=stere +lat_0=90 +lat_ts=60 +lon_0=25 +R=6371288")
    x, y = proj(34.903, 69.005)
    assert abs(frames.x.values[-1] + 500 - x) < 500
    assert abs(frames.y.values[0] + 500 - y) < 500
