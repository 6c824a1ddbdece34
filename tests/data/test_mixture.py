"""Several archives as one source."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr

from convlstm.data.mixture import Mixture
from convlstm.data.specification import Specification
from convlstm.errors import DataError, OptionError
from convlstm.forecasting.rollout import forecast
from convlstm.models.baselines import Persistence
from convlstm.workflows.forecast import forecast as run


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


def test_spans_of_splits_without_dates_are_ordered_as_numbers(tmp_path):
    """The text "89 s" comes after "1199 s"."""
    for name, frames in (("a", 90), ("b", 1200)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((frames, 6, 6), np.float32))
    paths = [{"path": str(tmp_path / f"{name}.npy")} for name in "ab"]
    found = Mixture(paths, {"past": 3, "steps": 2, "crop": 4, "transform": "none"}).specification
    assert [found.splits[name][2:] for name in ("validation", "test")] == [
        ["60 s", "1017 s"],
        ["76 s", "1199 s"],
    ]


def test_what_does_not_mix_is_refused(two, tmp_path):
    with pytest.raises(OptionError, match="the size of their crops; received 2 archive.s. and crop=None"):
        Mixture(two, {"past": 3, "steps": 2})
    slow = saved(tmp_path / "slow.nc", 1, minutes=10)
    with pytest.raises(DataError, match="must have one step_s; .*slow.nc has 600.0, .*a.nc 300.0"):
        Mixture([two[0], slow], COMMON).split("train")


def test_codes_and_gaps_are_those_of_each_archive_when_a_run_goes_on(tmp_path):
    """A code of one archive is a value of another; frames missing in the middle are masked in one alone."""
    draw = np.random.default_rng(0)
    archives, options = [], {"missing": 3, "gaps": "mask"}
    for name, size in (("a", (18, 22)), ("b", (30, 14))):
        values = draw.integers(1, 9, (60, *size)).astype(np.float32)
        values[:, :3] = 3
        times = np.datetime64("2021-02-01", "ns") + np.arange(60) * np.timedelta64(5, "m")
        attributes = {"units": "mm/h", "long_name": "rain rate"}
        frames = xr.DataArray(values, {"time": times}, ("time", "y", "x"), "rain", attributes)
        frames.isel(time=[k for k in range(60) if k != 20]).to_netcdf(
            tmp_path / f"{name}.nc", engine="h5netcdf"
        )
        archives.append({"path": str(tmp_path / f"{name}.nc")} | (options if name == "b" else {}))
    mixture = Mixture(archives, COMMON)
    stored = json.loads(json.dumps(mixture.specification.to_dict()))
    again = mixture.with_specification(Specification.from_dict(stored), own=True)
    for before, after in zip(mixture.archives, again.archives, strict=True):
        np.testing.assert_array_equal(before.window_frames("train"), after.window_frames("train"))
        np.testing.assert_array_equal(before.store.read([30])[0], after.store.read([30])[0])
    assert np.isnan(again.archives[1].store.read([30])[0]).any()
    assert not np.isnan(again.archives[0].store.read([30])[0]).any()
    model = Persistence()
    model._convlstm_notes = {"specification": stored}
    for one, missing in zip(archives, (False, True), strict=True):
        with xr.open_dataset(one["path"], engine="h5netcdf") as dataset:
            assert np.isnan(forecast(model, dataset.rain, 2)).any() == missing
        assert np.isnan(run(model, one["path"], 2).frames).any() == missing


def test_amounts_of_different_times_do_not_mix(tmp_path):
    archives = []
    for seconds in (300.0, 3600.0):
        archives.append(saved(tmp_path / f"{seconds:g}.nc", 2, units="mm"))
        with xr.load_dataset(archives[-1]["path"], engine="h5netcdf") as dataset:
            dataset.rain.attrs["period_s"] = seconds
            dataset.to_netcdf(archives[-1]["path"], engine="h5netcdf")
    assert Mixture(archives, COMMON).specification.units == "mm/h"
    with pytest.raises(DataError, match=r"one time that amounts cover, in seconds; .*3600\.nc has 3600\.0"):
        _ = Mixture(archives, COMMON | {"units": "mm", "transform": "none"}).specification
