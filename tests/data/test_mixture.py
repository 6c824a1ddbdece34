"""Several archives as one source."""

from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr

from convlstm.data.mixture import Mixture
from convlstm.errors import DataError, OptionError


def saved(path, value, frames=40, size=(18, 22), minutes=5, units="mm/h"):
    """A file whose values tell which one it is."""
    draw = np.random.default_rng(0)
    values = value + draw.random((frames, *size)).astype(np.float32)
    times = np.datetime64("2021-02-01", "ns") + np.arange(frames) * np.timedelta64(minutes, "m")
    attributes = {"units": units, "long_name": "rain rate"}
    xr.DataArray(values, {"time": times}, ("time", "y", "x"), "rain", attributes).to_netcdf(
        path, engine="h5netcdf"
    )
    return {"path": str(path)}


COMMON = {"past": 3, "steps": 2, "crop": 12, "units": "mm/h"}


@pytest.fixture
def two(tmp_path):
    return [saved(tmp_path / "a.nc", 2), saved(tmp_path / "b.nc", 40, frames=80, size=(30, 14))]


def which(window):
    return "b" if float(window.past.max()) > 0.8 else "a"


def test_crops_come_from_each_archive_by_its_windows(two):
    mixture = Mixture(two, COMMON, train_size=300)
    windows = mixture.split("train")
    drawn = [windows[k] for k in range(300)]
    lengths = [len(archive.split("train")) for archive in mixture.archives]
    share = Counter(map(which, drawn))["a"] / 300
    assert share == pytest.approx(lengths[0] / sum(lengths), abs=0.08)
    assert {tuple(window.past.shape) for window in drawn} == {(3, 1, 12, 12)}
    assert len(windows) == 300
    again = Mixture(two, COMMON, train_size=300).split("train")[7]
    assert torch.equal(drawn[7].past, again.past)
    assert not torch.equal(drawn[7].past, Mixture(two, COMMON, seed=1).split("train")[7].past)


def test_test_windows_are_the_middle_of_all_frames(two):
    mixture = Mixture(two, COMMON)
    windows = mixture.split("test")
    assert [which(window) for window in windows] == ["a"] * 2 + ["b"] * 8
    whole = mixture.archives[1].split("test")[3].past
    torch.testing.assert_close(windows[5].past, whole[..., 9:21, 1:13])
    with pytest.raises(IndexError, match="index must be from 0 to 9; received 10"):
        windows[10]


def test_an_archive_of_training_alone_has_no_part_in_validation_and_test(two):
    alone = two[1] | {"split": {"train": "2021-02-01"}}
    mixture = Mixture([two[0], alone], COMMON)
    lengths = [len(archive.split("train")) for archive in mixture.archives]
    assert (lengths[1], len(mixture.split("train"))) == (76, sum(lengths))
    for name in ("validation", "test"):
        assert [which(window) for window in mixture.split(name)] == ["a"] * 2
    assert (
        mixture.specification.splits["train"][0] == mixture.archives[0].specification.splits["train"][0] + 80
    )
    with pytest.raises(DataError, match="every split needs 5 consecutive frames.*; test has 0 frames"):
        Mixture([alone], COMMON).split("test")


def test_one_specification_for_all(two):
    mixture = Mixture(two, COMMON)
    first, second = (archive.specification for archive in mixture.archives)
    whole = mixture.specification
    assert whole.transform == first.transform == second.transform
    assert whole.splits["train"][1] == first.splits["train"][1] + second.splits["train"][1]
    assert whole.grid == {"shape": [12, 12]}
    values = mixture.to_units(mixture.split("test")[9].past)
    assert 40 < float(values.min()) < float(values.max()) < 41.001


def test_what_does_not_mix_is_refused(two, tmp_path):
    with pytest.raises(OptionError, match="the size of their crops; received 2 archive.s. and crop=None"):
        Mixture(two, {"past": 3, "steps": 2})
    slow = saved(tmp_path / "slow.nc", 1, minutes=10)
    with pytest.raises(DataError, match="must have one step_s; .*slow.nc has 600.0, .*a.nc 300.0"):
        Mixture([two[0], slow], COMMON).split("train")
