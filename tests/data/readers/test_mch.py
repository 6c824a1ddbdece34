"""Composites of MeteoSwiss: values, places and times of a file written here and of the real ones."""

import numpy as np
import pytest
from pyproj import CRS, Transformer

from convlstm.data.readers.mch import MCH
from convlstm.errors import DataError
from convlstm.testing import check_reader

NAME = "AQC151351545F_00005.801.gif"


def test_values_and_time(tmp_path, write_mch):
    """Amounts worked out by hand: 71.5 would be 0 dB, 131.5 30 dB, and z = 316 r^1.5."""
    codes = np.array([[0, 1, 2], [71, 131, 250], [251, 254, 255]], np.uint8)
    dataset = MCH().read(write_mch(tmp_path / NAME, codes))
    values = dataset["precipitation"].values[0]
    assert values[0].tolist()[:2] == values[2].tolist()[:2] == [0.0, 0.0]
    assert np.isnan(values).tolist() == (codes == 255).tolist()
    expected = (10 ** (np.array([-34.75, -0.25, 29.75, 89.25]) / 10) / 316) ** (2 / 3)
    np.testing.assert_array_equal(values[[0, 1, 1, 1], [2, 0, 1, 2]], expected.astype(np.float32))
    assert dataset.time.values == [np.datetime64("2015-05-15T15:45")]
    assert dataset["precipitation"].attrs["units"] == "mm"
    assert dataset["precipitation"].attrs["dry_value"] == 0


def test_time_from_the_name(tmp_path, write_mch):
    """The year has 366 days, the last day ends it."""
    codes = np.array([[0, 99]], np.uint8)
    path = write_mch(tmp_path / "CPC163662355V_00005.801.gif", codes, comment="none")
    assert MCH().read(path).time.values == [np.datetime64("2016-12-31T23:55")]
    with pytest.raises(DataError, match="neither the comment nor the name has a product and a time"):
        MCH().read(path.rename(tmp_path / "a.gif"))


def test_the_time_that_an_amount_covers(tmp_path, write_mch):
    """In minutes, in the comment of the real files, else in their names."""
    codes = np.array([[0, 131]], np.uint8)
    stated = write_mch(tmp_path / "a.gif", codes, comment="PRDT=AQC151351825 ACCUm=000005 DeltaT=000005")
    named = write_mch(tmp_path / "CPC151351825F_00060.801.gif", codes, comment="none")
    unknown = write_mch(tmp_path / "b.gif", codes, comment="PRDT=AQC151351825")
    periods = [MCH().read(path)["precipitation"].attrs.get("period_s") for path in (stated, named, unknown)]
    assert periods == [300, 3600, None]


def test_products_of_another_table_are_refused(tmp_path, write_mch):
    path = write_mch(tmp_path / "a.gif", np.array([[0, 99]], np.uint8), comment="PRDT=RZC163662355")
    with pytest.raises(
        DataError, match=r"must be AQC or CPC; .*a\.gif is RZC, which has another table.*: give"
    ):
        MCH().read(path)


def test_contract(tmp_path, write_mch):
    codes = np.random.default_rng(1).integers(0, 256, (40, 60), np.uint8)
    check_reader(MCH(), write_mch(tmp_path / NAME, codes))


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [
        ("20150515", "2015-05-15T15:45", "2015-05-15T19:00"),
        ("20160711", "2016-07-11T20:45", "2016-07-12T00:00"),
    ],
)
def test_real_files(real, day, first, last):
    datasets = [MCH().read(file) for file in real(f"radar/mch/{day}/*.gif")]
    times = np.concatenate([dataset.time.values for dataset in datasets])
    assert (len(times), times[0], times[-1]) == (40, np.datetime64(first), np.datetime64(last))
    values = np.concatenate([dataset["precipitation"].values for dataset in datasets])
    assert {dataset["precipitation"].attrs["period_s"] for dataset in datasets} == {300.0}
    assert values.shape == (40, 640, 710)
    assert np.nanmax(values) == np.float32((10 ** ((151 - 71.5) / 20) / 316) ** (2 / 3))
    dataset = datasets[0]
    assert (dataset.x.values[[0, -1]].tolist(), dataset.y.values[[0, -1]].tolist()) == (
        [255500.0, 964500.0],
        [479500.0, -159500.0],
    )
    # The reference point of LV03, the old observatory of Bern (swisstopo).
    crs = CRS.from_cf(dataset.crs.attrs)
    x, y = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True).transform(7.439583333, 46.952405556)
    assert (round(x), round(y)) == (600000, 200000)
