"""Frames in place of a source: what stands for an archive on the command line, in files and in Python."""

import io
import json
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from radar_files import CONFIG, RATES, TYPED

import convlstm
from convlstm import EncoderForecaster, TrainingConfig
from convlstm.cli.main import main
from convlstm.cli.options import Command
from convlstm.data import Archive, Mixture, Rain
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.training.run_folder import RunFolder
from convlstm.workflows.configuration import plain_part, read_settings, yaml_of
from convlstm.workflows.parts import load_parts


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
    for name in ("rain", "units"):  # as modules of convlstm.data are called
        radar = radar.rename(radar.parent / name)
        assert len(data_of("--data", name).times) == 40


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


def test_a_reader_of_ones_own_runs_only_where_its_package_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_reader.py").write_text(
        "import numpy, xarray\n\n\ndef read(path):\n"
        "    return xarray.DataArray(numpy.load(path), dims=('time', 'y', 'x'), attrs={'units': 'mm/h'})\n"
    )
    np.save("frames.npy", RATES[:, :8, :8])
    assert main(["train", "--data=frames.npy", "--data.reader=own_reader.read", *TYPED, "--out=run"]) == 0
    assert stored("run")["reader"] == "own_reader.read"
    assert json.loads(Path("run/environment.json").read_text())["modules"] == {"own_reader": str(tmp_path)}
    with pytest.raises(RunError, match="own_reader.read: if you trust that package, add --trust own_reader"):
        convlstm.evaluate("run")
    assert convlstm.evaluate("run", trust="own_reader").cases == 1
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("own_reader.read", "os.system"))
    with pytest.raises(RunError, match="received os.system: if you trust"):
        convlstm.train(resume="run")


def test_archives_inside_a_mixture_have_absolute_paths_and_trusted_readers(radar):
    common = {"crop": 8, "past": 2, "steps": 1}
    data = Mixture([{"path": "radar/*_0.nc"}, {"path": "radar"}], common)
    paths = [archive["path"] for archive in plain_part(data)["init_args"]["archives"]]
    assert paths == [f"{radar}/*_0.nc", str(radar)]
    config = Path("config.yaml")
    plain = {"data": plain_part(data), "model": plain_part(small())}
    config.write_text(yaml_of(plain))
    assert isinstance(load_parts(RunFolder(Path()))["data"], Mixture)
    plain["data"]["init_args"]["archives"][1]["reader"] = "os.system"
    config.write_text(yaml_of(plain))
    with pytest.raises(RunError, match="received os.system: if you trust"):
        load_parts(RunFolder(Path()))
