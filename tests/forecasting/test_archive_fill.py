"""Archives filled from every n-th frame of a sequence, by one process after another or by several."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import convlstm
from convlstm import EncoderForecaster
from convlstm.cli.main import main
from convlstm.data.archive import Archive
from convlstm.data.opening import open_frames
from convlstm.errors import DataError, RunError
from convlstm.forecasting import archive as archive_of_forecasts
from convlstm.models import Persistence

START, STEP = np.datetime64("2021-02-04T20:05", "ns"), np.timedelta64(300, "s")
PAST, SIZE = 3, (8, 12)


def rates(places=range(14)):
    values = np.random.default_rng(0).gamma(0.5, 4.0, (14, *SIZE)).astype(np.float32)
    values[:, 0, 0] = np.nan
    times = START + STEP * np.arange(14)
    frames = xr.DataArray(values, {"time": times}, ("time", "y", "x"), "rain", {"units": "mm/h"})
    return frames.isel(time=list(places))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    source = Archive(rates(), past=PAST, steps=1)
    torch.manual_seed(0)
    model = EncoderForecaster(1, [4], patch_size=2)
    folder = tmp_path_factory.mktemp("model")
    return model.save_pretrained(folder, past=PAST, specification=source.specification.to_dict())


def starts(path):
    with xr.open_zarr(path, consolidated=False, decode_timedelta=False) as archive:
        return archive.load()


def test_a_forecast_from_every_third_frame_with_a_full_past(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # A gap after the sixth frame: initial times stay multiples of three steps after the first.
    frames = rates([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13])
    for k in range(2):
        frames[6 * k : 6 * k + 6].to_netcdf(f"{k}.nc", engine="h5netcdf")
    words = ["forecast", str(folder), "0.nc", "1.nc", "--steps", "2", "--every", "3", "--out"]
    assert main([*words, "a.zarr"]) == 0
    shown = capsys.readouterr()
    assert "2 frames after every 3 of 2 files are in a.zarr" in shown.out
    archive = starts("a.zarr")
    places = [2, 5, 11]
    np.testing.assert_array_equal(archive["forecast_reference_time"], START + STEP * np.array(places))
    for k, place in enumerate(places):
        known = rates(range(place - 2, place + 1))
        np.testing.assert_array_equal(archive["rain"][k], convlstm.forecast(folder, known, 2))
    assert archive.attrs["history"].endswith(
        f"convlstm forecast {folder} 0.nc 1.nc --steps 2 --out a.zarr --every 3"
    )
    assert main([*words, "a.nc"]) == 2
    error = capsys.readouterr().err
    assert "forecasts from many initial times need a .zarr; received a.nc" in error
    assert error.count("\n") == 1
    assert not Path("a.nc").exists()


def test_what_is_there_is_not_made_again_and_only_the_same_is_gone_on_with(folder, tmp_path, monkeypatch):
    path, made, write = tmp_path / "a.zarr", [], archive_of_forecasts.write_to_archive

    def stopping(path, forecast):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(forecast["forecast_reference_time"].values)
        write(path, forecast)

    monkeypatch.setattr(archive_of_forecasts, "write_to_archive", stopping)
    with pytest.raises(KeyboardInterrupt):
        convlstm.forecast(folder, rates(), 2, every=2, out=path)
    made[:] = made[:2]  # two more may follow, which complete the six
    for _ in range(2):
        assert convlstm.forecast(folder, rates(), 2, every=2, out=path) == path
        assert len(made) == 4
    assert np.isfinite(starts(path)["rain"][:, :, 1:]).all()
    for options in ({"every": 3}, {"model": Persistence()}, {"steps": 3}):
        with pytest.raises(RunError, match="archive to go on with must hold .*: choose another name or pass"):
            convlstm.forecast(
                **{"model": folder, "past": rates(), "steps": 2, "every": 2, "out": path} | options
            )
    np.save(tmp_path / "plain.npy", rates().values)
    with pytest.raises(DataError, match="initial times need frames with dates; received 14 without: give"):
        convlstm.forecast(folder, tmp_path / "plain.npy", 2, every=2, out=tmp_path / "b.zarr")
    with pytest.raises(DataError, match="not so many in a row: give more frames"):
        convlstm.forecast(folder, rates([0, 1, 4, 5]), 2, every=2, out=tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_frames_further_apart_than_those_of_training_are_no_past(folder, tmp_path, monkeypatch):
    """Most frames are two steps apart; forecasts are made where there are enough in a row."""
    monkeypatch.chdir(tmp_path)
    rates([0, 1, 2, 3, 5, 7, 9, 11, 13]).to_netcdf("a.nc", engine="h5netcdf")
    words = ["forecast", str(folder), "a.nc", "--steps", "2", "--every", "1", "--out", "a.zarr"]
    assert main(words) == 0
    found = starts("a.zarr")["forecast_reference_time"]
    np.testing.assert_array_equal(found, START + STEP * np.array([2, 3]))


def test_a_refusal_leaves_what_is_there_and_makes_nothing(folder, tmp_path):
    path = tmp_path / "a.zarr"
    convlstm.forecast(folder, rates(), 2, every=3, out=path)
    slower = rates().assign_coords(time=START + 2 * STEP * np.arange(14))
    for out, options in ((path, {"overwrite": True}), (tmp_path / "b.zarr", {})):
        with pytest.raises(DataError, match="frames must be 300 s apart, as in training; received 600 s"):
            convlstm.forecast(folder, slower, 2, every=3, out=out, **options)
    assert np.isfinite(starts(path)["rain"][:, :, 1:]).all()
    assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]


def test_frames_somewhat_faster_than_in_training_have_the_lead_times_of_the_training(folder, tmp_path):
    times = START + np.arange(14) * np.timedelta64(297, "s")
    convlstm.forecast(folder, rates().assign_coords(time=times), 2, every=3, out=tmp_path / "a.zarr")
    archive = starts(tmp_path / "a.zarr")
    assert archive["forecast_period"].values.tolist() == [5, 10]
    assert np.isfinite(archive["rain"][:, :, 1:]).all()


def test_initial_times_whose_past_has_a_late_frame_are_left_out(folder, tmp_path):
    times = START + STEP * np.arange(14) + (np.arange(14) == 5) * np.timedelta64(90, "s")
    convlstm.forecast(folder, rates().assign_coords(time=times), 2, every=1, out=tmp_path / "a.zarr")
    archive = starts(tmp_path / "a.zarr")
    places = [2, 3, 4, *range(8, 14)]
    np.testing.assert_array_equal(archive["forecast_reference_time"], times[places])
    assert np.isfinite(archive["rain"][:, :, 1:]).all()


@pytest.mark.parametrize("other", [range(14), range(4, 14)], ids=["same times", "other times"])
def test_a_process_that_comes_second_leaves_the_archive_of_the_first(folder, tmp_path, monkeypatch, other):
    """Both find no archive; the second's is made between that and the moment at which the first's is done."""
    path, check = tmp_path / "a.zarr", archive_of_forecasts.check_replaceable

    def meanwhile(path, *, overwrite):
        check(path, overwrite=overwrite)
        monkeypatch.undo()
        convlstm.forecast(folder, rates(other), 2, every=3, out=path)
        monkeypatch.setattr(archive_of_forecasts, "write_to_archive", None)  # nothing is left to do

    monkeypatch.setattr(archive_of_forecasts, "check_replaceable", meanwhile)
    if other == range(14):
        convlstm.forecast(folder, rates(), 2, every=3, out=path)
    else:
        with pytest.raises(RunError, match="must hold forecasts by .* from 4 times, .*a.zarr holds 3 by"):
            convlstm.forecast(folder, rates(), 2, every=3, out=path)
    assert np.isfinite(starts(path)["rain"][:, :, 1:]).all()
    assert [each.name for each in tmp_path.iterdir()] == ["a.zarr"]


def test_processes_share_the_work(folder, tmp_path):
    rates().to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    words = ["forecast", str(folder), "past.nc", "--steps", "2", "--every", "1", "--out", "a.zarr"]
    command = [sys.executable, "-m", "convlstm", *words]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    archive = starts(tmp_path / "a.zarr")
    for k in range(12):
        expected = convlstm.forecast(folder, rates(range(k, k + PAST)), 2)
        np.testing.assert_allclose(archive["rain"][k], expected, rtol=1e-4, atol=1e-6)


def test_an_archive_without_a_named_source_goes_on(folder, tmp_path):
    model = EncoderForecaster.from_pretrained(folder)
    for _ in range(2):
        archive_of_forecasts.fill_archive(tmp_path / "a.zarr", model, open_frames(rates()), 2, 6)
    assert starts(tmp_path / "a.zarr").sizes["forecast_reference_time"] == 2
