"""A model of several archives: evaluated on them, on one of them, and forecasting from the files of each."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

import convlstm
from convlstm import EncoderForecaster
from convlstm.cli.main import main
from convlstm.data import Archive, Mixture
from convlstm.data.units import ZR
from convlstm.errors import DataError, OptionError
from convlstm.models.base import Forecaster
from convlstm.verification.verify import read_scores
from convlstm.workflows.evaluate import fitted

COMMON = {"past": 3, "steps": 2, "crop": 12, "units": "mm/h"}
ALONE = {"past": 3, "steps": 2, "units": "mm/h"}


def saved(path, values, units, name):
    """Frames (T, H, W) from midnight, events of 20 frames a day apart, on a grid of their own."""
    place = np.arange(len(values))
    times = np.datetime64("2021-02-01", "ns") + place % 20 * np.timedelta64(5, "m")
    times += place // 20 * np.timedelta64(1, "D")
    axes = {"time": times}
    for axis, size in zip("yx", values.shape[1:], strict=True):
        named = {"standard_name": f"projection_{axis}_coordinate", "units": "m"}
        axes[axis] = (axis, np.arange(size) * (1000.0 if units == "dBZ" else 2000.0), named)
    attributes = {"units": units, "long_name": name}
    frames = xr.DataArray(values.astype("f4"), axes, ("time", "y", "x"), "field", attributes)
    frames.to_netcdf(f"{path}.new", engine="h5netcdf")
    os.replace(f"{path}.new", path)  # the file before may be open
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on reflectivities and on rates of two sizes, trained from the command line."""
    folder = tmp_path_factory.mktemp("countries")
    draw = np.random.default_rng(0)
    rates = draw.gamma(0.5, 2, (80, 18, 30))
    archives = [
        {"path": saved(folder / "a.nc", draw.uniform(0, 40, (80, 20, 14)), "dBZ", "reflectivity")},
        {"path": saved(folder / "b.nc", rates, "mm/h", "rain rate"), "split": "event"},
    ]
    source = {"archives": archives, "common": COMMON, "train_size": 4}
    data = {"class_path": "convlstm.data.Mixture", "init_args": source}
    model = {"class_path": "convlstm.EncoderForecaster", "init_args": {"hidden_dim": [4]}}
    settings = {"data": data, "model": model, "epochs": 1, "batch_size": 2, "loss": "mse"}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | {"accelerator": "cpu"}))
    assert main(["train", "--config", str(folder / "run.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def mixture(run, **options):
    archives = [{"path": str(run.parent / "a.nc")}, {"path": str(run.parent / "b.nc"), "split": "event"}]
    return Mixture(archives, COMMON | options)


def test_scores_of_the_run_are_in_its_unit(run):
    found = convlstm.evaluate(run)
    assert (found.unit, found.past, found.steps) == ("mm/h", 3, 2)
    assert found.cases == len(mixture(run).split("test"))


def test_a_mixture_in_another_unit_is_read_in_that_of_the_model(run, tmp_path):
    model = Forecaster.from_pretrained(run / "model")
    other = fitted(mixture(run, units="dBZ"), model)
    expected = mixture(run)
    for k in (0, len(expected.split("test")) - 1):
        ours, theirs = other.split("test")[k], expected.split("test")[k]
        np.testing.assert_allclose(ours.future, theirs.future, rtol=1e-6)
    assert other.specification.units == "mm/h"
    assert (other.past, other.specification.grid) == (3, {"shape": [12, 12]})
    slow = xr.open_dataset(run.parent / "b.nc", engine="h5netcdf")
    slow = slow.assign_coords(time=slow["time"][0] + (slow["time"] - slow["time"][0]) * 2)
    slow.to_netcdf(tmp_path / "slow.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"frames must be 300 s apart, as in training; received 600 s"):
        fitted(Mixture([{"path": str(tmp_path / "slow.nc")}], COMMON | {"split": "event"}), model)


def test_one_archive_alone_keeps_its_options(run, tmp_path, capsys):
    """Past, steps and split are those of the mixture, not the defaults; frames are whole.

    Its splits are those of the training also where others are asked for; periods are of the user's choice.
    """
    path = run.parent / "b.nc"
    assert main(["evaluate", str(run), "--data", str(path), "--out", str(tmp_path / "b")]) == 0
    capsys.readouterr()
    found = read_scores(tmp_path / "b" / "scores.json")
    own = Archive(path, past=3, steps=2, split="event", units="mm/h")
    assert (found.past, found.steps, found.cases) == (3, 2, len(own.split("test")))
    assert "18 x 30" in found.data
    words = ["--data", str(path), "--data.split", "time", "--out", str(tmp_path / "c")]
    assert main(["evaluate", str(run), *words]) == 0
    assert "whose splits stay" in capsys.readouterr().err
    assert read_scores(tmp_path / "c" / "scores.json").cases == len(own.split("test"))
    words[3] = "{train: 2021-02-01/2021-02-02, test: 2021-02-03}"
    assert main(["evaluate", str(run), *words[:4], "--out", str(tmp_path / "d")]) == 0
    assert read_scores(tmp_path / "d" / "scores.json").cases == 16


def test_forecasts_come_from_the_files_of_each_in_their_unit(run):
    rates = convlstm.forecast(run, run.parent / "b.nc", 2).labelled
    assert (rates.attrs["units"], rates.shape) == ("mm/h", (2, 1, 18, 30))
    found = convlstm.forecast(run, run.parent / "a.nc", 2).labelled
    assert (found.attrs["units"], found.shape) == ("dBZ", (2, 1, 20, 14))
    # The same model on the same frames as rates.
    frames = xr.open_dataset(run.parent / "a.nc", engine="h5netcdf")["field"]
    converted = frames.copy(data=ZR().rate(frames.values)).assign_attrs(units="mm/h", long_name="rain rate")
    expected = ZR().reflectivity(convlstm.forecast(run, converted, 2).values)
    np.testing.assert_allclose(found.values.reshape(expected.shape), expected, rtol=1e-4, atol=1e-3)


def test_missing_codes_of_each_archive_are_known_to_the_model(run):
    paths = [str(run.parent / name) for name in ("a.nc", "b.nc")]
    both = Mixture([{"path": paths[0], "missing": 0.5}, {"path": paths[1], "missing": [9999.0]}], COMMON)
    assert both.specification.missing == (0.5, 9999.0)
    reverse = Mixture([{"path": path} for path in reversed(paths)], COMMON)
    assert reverse.specification.zr == (200.0, 1.6, -32.0)


def test_archives_with_relations_of_their_own_keep_them(run):
    options = [{"path": str(run.parent / "a.nc"), "zr": zr} for zr in ([200, 1.6, -32], [316, 1.5, -32])]
    both = Mixture(options, COMMON)
    other = both.with_specification(both.specification)
    for ours, theirs in zip(other.archives, both.archives, strict=True):
        np.testing.assert_array_equal(ours.split("test")[0].future, theirs.split("test")[0].future)


@pytest.fixture
def grows(run, tmp_path, monkeypatch):
    """A run on two archives of two sizes with a static field each, and what adds frames to the second."""
    monkeypatch.chdir(tmp_path)
    draw, archives = np.random.default_rng(0), []
    values = {name: draw.gamma(0.5, 2, (120, *size)) for name, size in (("a", (20, 14)), ("b", (18, 30)))}
    for name, rates in values.items():
        saved(f"{name}.nc", rates[:80], "mm/h", "rain rate")
        height = xr.Dataset({"height": (("y", "x"), draw.random(rates.shape[1:], np.float32))})
        height.to_netcdf(f"height_{name}.nc", engine="h5netcdf")
        archives.append({"path": f"{name}.nc", "static": f"height_{name}.nc"})
    source = Mixture(archives, COMMON, train_size=4)
    config = convlstm.TrainingConfig(epochs=1, batch_size=2, accelerator="cpu")
    torch.manual_seed(0)
    model = EncoderForecaster(hidden_dim=[4], extra_channels=1)
    trained = convlstm.train(data=source, model=model, config=config, out="run")
    return trained.path, lambda: saved("b.nc", values["b"], "mm/h", "rain rate")


def test_splits_of_each_archive_stay_when_frames_are_added(grows, capsys):
    run, add = grows
    before = convlstm.evaluate(run).to_dict()["scores"]
    add()
    assert convlstm.evaluate(run).to_dict()["scores"] == before
    again = convlstm.evaluate(run, data=Archive("b.nc", static="height_b.nc", **ALONE), out="b")
    assert again.cases == len(Archive(xr.open_dataset("b.nc")["field"][:80].load(), **ALONE).split("test"))
    assert main(["train", f"--resume={run}", "--epochs=2"]) == 0
    assert "whose splits stay" in capsys.readouterr().err
    xr.open_dataset("b.nc", engine="h5netcdf").isel(time=slice(30)).load().to_netcdf("c.nc")
    Path("c.nc").replace("b.nc")
    assert main(["train", f"--resume={run}", "--epochs=3"]) == 2
    assert "training windows" in capsys.readouterr().err


def test_forecasts_take_the_static_fields_of_the_archive_on_their_grid(grows):
    run, _ = grows
    for name, other in (("a", "b"), ("b", "a")):
        stored = convlstm.forecast(run, f"{name}.nc", 2).frames
        given = convlstm.forecast(run, f"{name}.nc", 2, static=f"height_{name}.nc").frames
        np.testing.assert_array_equal(stored, given)
        assert np.isfinite(stored).all()
        with pytest.raises(DataError, match="static fields must be the 1 that the model reads, on the grid"):
            convlstm.forecast(run, f"{name}.nc", 2, static=f"height_{other}.nc")
    elsewhere = xr.open_dataset("a.nc", engine="h5netcdf")["field"][:, 1:].load()
    with pytest.raises(OptionError, match="static fields must be given to a model that reads some"):
        convlstm.forecast(run, elsewhere, 2)
