"""Training on files of frames: a path is enough, and what is decided about them stays with the model."""

import io
import json
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import convlstm
from convlstm import EncoderForecaster, TrainingConfig
from convlstm.cli.main import main
from convlstm.cli.options import Command
from convlstm.data import Archive, Rain
from convlstm.data.rain import rain_rates
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.workflows.configuration import read_settings

TYPED = ["--data.past=3", "--data.steps=3", "--epochs=1", "--batch_size=4", "--accelerator=cpu"]
TYPED += ["--model.hidden_dim=[4]"]
CONFIG = TrainingConfig(epochs=1, batch_size=4, accelerator="cpu")
START, STEP = np.datetime64("2021-02-01T00:00", "ns"), np.timedelta64(5, "m")
RATES = rain_rates(np.random.default_rng(0), 40, (16, 16))


def write_netcdf(folder, rates=RATES, *, files=2, start=START, name="rate", **attributes):
    """Write rain rates as files of equal length, with grid and times."""
    folder.mkdir(exist_ok=True)
    times = start + np.arange(len(rates)) * STEP
    for k, part in enumerate(np.array_split(np.arange(len(rates)), files)):
        axes = {axis: (axis, np.arange(16) * 1000.0, {"units": "m"}) for axis in "yx"}
        frames = (("time", "y", "x"), rates[part], {"units": "mm/h"} | attributes)
        dataset = xr.Dataset({name: frames}, {"time": times[part], **axes})
        dataset.to_netcdf(folder / f"{start}_{k}.nc".replace(":", ""), engine="h5netcdf")


@pytest.fixture
def radar(tmp_path, monkeypatch):
    """A folder of two NetCDF files of rain rates in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_netcdf(tmp_path / "radar")
    return tmp_path / "radar"


def small(**options):
    torch.manual_seed(0)
    return EncoderForecaster(hidden_dim=[4], **options)


def data_of(*words):
    """The data that a command line of train makes."""
    seen = {}
    Command("train").call(lambda **options: seen.update(options), [*words, *TYPED])
    return seen["data"]


def printed(words):
    """The configuration that a command line of train prints."""
    with redirect_stdout(io.StringIO()) as text:
        assert main(["train", *words]) == 0
    return text.getvalue()


def stored(run):
    return read_settings(Path(run) / "config.yaml")["data"]["init_args"]


def test_a_path_typed_or_in_a_file_is_an_archive(radar):
    files = [str(path) for path in sorted(radar.iterdir())]
    (radar.parent / "run.yaml").write_text("data: radar\n")
    (radar.parent / "many.yaml").write_text(f"data: {files}\n")
    for words, path in {
        ("--data", "radar"): "radar",
        ("--data", "radar/*.nc"): "radar/*.nc",
        ("--data", *files, "--out=runs/a"): files,  # a pattern that the shell expanded
        ("--data", f"[{', '.join(files)}]"): files,
        ("--data", "Archive", "--data.path", "radar"): "radar",
        ("--config", "run.yaml"): "radar",
        ("--config", "many.yaml"): files,
        ("--config", "run.yaml", "--data", "radar/2*"): "radar/2*",
    }.items():
        data = data_of(*words)
        assert isinstance(data, Archive), words
        assert data.hyperparameters["path"] == path, words
        assert len(data.times) == 40
    assert isinstance(data_of("--data", "Rain"), Rain)
    (radar.parent / "Rain").mkdir()
    assert isinstance(data_of("--data", "Rain"), Rain)


def test_options_of_the_archive_are_typed_or_written(radar):
    periods = {"train": "2021-02-01T00/2021-02-01T01", "validation": "2021-02-01T02", "test": "2021-02-01T03"}
    (radar.parent / "run.yaml").write_text(
        f"data: {{class_path: Archive, init_args: {{path: radar, missing: [255, -1], split: {periods}}}}}\n"
    )
    words = ["--data", "radar", "--data.missing", "255", "--data.split", json.dumps(periods)]
    words += [
        "--data.inputs",
        "[mask, hour]",
        "--data.crop",
        "8",
        "--data.units",
        "dBZ",
        "--data.reader",
        "gridded",
    ]
    data = data_of(*words, "--data.variable", "[rate]", "--data.transform", "range")
    assert (data.missing, data.inputs, data.crop, data.units) == ((255.0,), ("mask", "hour"), (8, 8), "dBZ")
    assert data.hyperparameters["split"] == periods
    assert len(data.window_frames("train")) == 19  # of the 24 frames of two hours
    data = data_of("--config", "run.yaml", "--data.gaps", "mask")
    assert data.missing == (255.0, -1.0)
    assert data.masked


def test_paths_are_stored_absolute(radar, monkeypatch):
    for path, absolute in {
        "radar": str(radar),
        "radar/*.nc": f"{radar}/*.nc",
        "[radar/*_0.nc, radar/*_1.nc]": [f"{radar}/*_0.nc", f"{radar}/*_1.nc"],
    }.items():
        words = ["--data", path, "--data.past", "3", "--data.steps", "3", "--print_config"]
        (radar.parent / "printed.yaml").write_text(printed(words))
        monkeypatch.chdir(radar)
        data = data_of("--config", str(radar.parent / "printed.yaml"))
        monkeypatch.chdir(radar.parent)
        assert data.hyperparameters["path"] == absolute
        assert len(data.times) == 40
    (radar.parent / "[1]").mkdir()  # a folder whose own name looks like a pattern
    monkeypatch.chdir(radar.parent / "[1]")
    assert len(data_of("--data", "../radar/*.nc").times) == 40


def test_python_takes_the_path_too(radar):
    given = {"model": small(), "config": CONFIG}
    run = convlstm.train(data=Archive(Path("radar"), past=3, steps=3), out="a", **given)
    assert stored(run)["path"] == str(radar)
    with pytest.raises(
        ConvLSTMError, match="40 frames are too few for windows of 24, past . steps, in three splits: lo"
    ):
        convlstm.train(data="radar", out="b", **given)
    assert not Path("b").exists()


@pytest.mark.parametrize("kind", ["array", "labelled"])
def test_frames_in_memory_are_given_again_to_go_on(tmp_path, kind):
    frames = (
        RATES[:, :8, :8]
        if kind == "array"
        else xr.DataArray(RATES[:, None, :8, :8], dims=("time", "channel", "y", "x"))
    )
    data = Archive(frames, past=3, steps=3)
    run = convlstm.train(data=data, model=small(), config=CONFIG, out=tmp_path / "run")
    assert stored(run)["path"] == "(an array in memory)"
    longer = TrainingConfig(epochs=2, batch_size=4, accelerator="cpu")
    for call in (partial(convlstm.train, resume=run, config=longer), partial(convlstm.evaluate, run)):
        with pytest.raises(RunError, match="a run on an array in memory needs the same array again"):
            call()
    convlstm.train(resume=run, data=Archive(frames, past=3, steps=3), config=longer)
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert convlstm.evaluate(run, data=Archive(frames, past=3, steps=3)).cases == 1
    with pytest.raises(OptionError, match="another data: leave it out"):
        convlstm.train(resume=run, data=Archive(frames, past=2, steps=3), config=longer)
