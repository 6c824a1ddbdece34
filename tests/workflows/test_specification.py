"""Training on labelled frames: what is decided about them is printed, stored and kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from radar_files import CONFIG, RATES, START, STEP, TYPED, write_netcdf

import convlstm
from convlstm import EncoderForecaster
from convlstm.cli.main import main
from convlstm.data import Archive, MovingObjects, open_frames
from convlstm.data.specification import Specification
from convlstm.errors import OptionError
from convlstm.workflows.configuration import read_settings


def small(**options):
    torch.manual_seed(0)
    return EncoderForecaster(hidden_dim=[4], **options)


def test_a_model_takes_its_channels_from_the_data(radar, capsys):
    two = xr.open_mfdataset(str(radar / "*.nc"), engine="h5netcdf").load().assign(gauge=lambda d: d.rate * 2)
    two.to_netcdf("two.nc", engine="h5netcdf")
    words = ["train", "--data=two.nc", "--data.variable=[rate, gauge]", "--data.inputs=[mask, hour]", *TYPED]
    assert main([*words, "--out=typed"]) == 0
    model = convlstm.EncoderForecaster.from_pretrained("typed/model")
    assert (model.channels, model.extra_channels) == (2, 3)
    capsys.readouterr()
    assert main([*words, "--print_config"]) == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)  # which leaves the channels to the data
    assert main(["train", "--config=printed.yaml", "--out=printed"]) == 0
    assert read_settings(Path("printed/config.yaml")) == read_settings(Path("typed/config.yaml"))
    data = Archive("two.nc", ["rate", "gauge"], inputs=("mask", "hour"), past=3, steps=3)
    model = convlstm.train(data=data, config=CONFIG, out="python").model
    assert (model.channels, model.extra_channels) == (2, 3)
    for word, sentence in {
        "--model.channels=1": "must be those of the data, 2; received 1: use --model.channels 2",
        "--model.extra_channels=1": "extra input channels of the model must be those of the data, 3; rec",
    }.items():
        assert main([*words, word, "--out=no"]) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(OptionError, match="received 0: use --model.extra_channels 3"):
        convlstm.train(data=data, model=small(channels=2), config=CONFIG, out="no")
    assert not Path("no").exists()


def test_what_was_decided_is_printed_stored_and_kept_when_frames_are_added(radar, capsys):
    assert main(["train", "--data=radar", *TYPED, "--out=run"]) == 0
    data = Archive("radar", past=3, steps=3)
    printed = capsys.readouterr().out
    assert printed.splitlines()[:5] == data.specification.lines()
    assert "scale of the network: logarithm (scale 0.1, top 100)" in printed
    in_run = Specification.from_dict(json.loads(Path("run/data.json").read_text()))
    in_model = Specification.from_dict(json.loads(Path("run/model/config.json").read_text())["specification"])
    assert in_run == in_model == data.specification
    before = Path("run/data.json").read_bytes()
    write_netcdf(radar, 50 * RATES[:20], files=1, start=START + 40 * STEP)
    assert main(["train", "--resume=run", "--epochs=2"]) == 0
    assert Path("run/data.json").read_bytes() == before
    in_model = json.loads(Path("run/model/config.json").read_text())["specification"]
    assert Specification.from_dict(in_model) == in_run


def test_splits_stay_when_frames_are_added(radar, capsys):
    """Frames of the training are tested on by none of the ways to name the data."""
    assert main(["train", "--data=radar", *TYPED, "--out=run"]) == 0
    assert main(["evaluate", "run"]) == 0
    before = json.loads(Path("run/scores.json").read_text())["scores"]
    assert "whose splits stay" not in capsys.readouterr().err
    write_netcdf(radar, 50 * RATES[:20], files=1, start=START + 40 * STEP)
    told = "have changed since the training, whose splits stay: train 2021-02-01T00:00:00 to 2021-02-01"
    for words in (["run"], ["run", "--data=radar", "--data.past=3", "--data.steps=3", "--out=a"]):
        assert main(["evaluate", *words]) == 0
        shown = capsys.readouterr().err
        assert (told in shown, shown.count("whose splits stay")) == (True, 1)
    for path in ("run", "a"):
        assert json.loads(Path(f"{path}/scores.json").read_text())["scores"] == before
    assert main(["train", "--resume=run", "--epochs=2"]) == 0
    assert told in capsys.readouterr().err


def test_a_run_goes_on_where_its_files_are_but_not_without_a_part_of_them(radar, capsys):
    """With fewer windows its learning rate would end before it begins."""
    for path in radar.iterdir():
        path.unlink()
    write_netcdf(radar, files=4)
    assert main(["train", "--data=radar", *TYPED, "--out=run"]) == 0
    first = min(radar.iterdir())
    first.rename("aside.nc")
    capsys.readouterr()
    assert main(["train", "--resume=run", "--epochs=2"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a run goes on with all frames that it began with; of its 17 training windows 7 are left" in error
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 2  # header and an epoch
    Path("aside.nc").rename(first)
    radar.rename("moved")
    assert main(["train", "--resume=run", "--epochs=2"]) == 2
    assert "none match" in capsys.readouterr().err
    Path("moved").rename(radar)
    assert main(["train", "--resume=run", "--epochs=2"]) == 0


def test_frames_of_other_times_have_splits_of_their_own(radar):
    stored = Archive("radar", past=3, steps=3).specification
    own, other = (xr.open_mfdataset("radar/*.nc", engine="h5netcdf")["rate"].load() for _ in range(2))
    other["time"] = other["time"] + np.timedelta64(365, "D")
    for frames, times in ((own, 40), (other, 40), (xr.concat([own, other], "time"), 80)):
        source = Archive(frames, past=3, steps=3)
        found = source.with_specification(stored).split("test").frames_WT
        expected = source.split("test").frames_WT if times == 40 else found[found.max(1) < 40]
        np.testing.assert_array_equal(found, expected)
    # Times of frames without dates say nothing about whether they are those of the training.
    array = np.concatenate([RATES, RATES])
    stored = Archive(array[:40], past=3, steps=3).specification
    source = Archive(array, past=3, steps=3)
    assert source.with_specification(stored).split("test").frames_WT.max() == 79
    assert source.with_specification(stored, own=True).split("test").frames_WT.max() == 39


def test_a_scale_fitted_to_the_data_outlives_a_grown_archive(radar):
    words = ["train", "--data=radar", "--data.transform=standard", *TYPED, "--out=run"]
    assert main(words) == 0
    write_netcdf(radar, 50 * RATES, files=1, start=START + 40 * STEP)
    first = json.loads(Path("run/data.json").read_text())["transform"]
    assert Archive("radar", past=3, steps=3, transform="standard").specification.transform != first
    assert main(["train", "--resume=run", "--epochs=2"]) == 0
    assert json.loads(Path("run/model/config.json").read_text())["specification"]["transform"] == first


def test_a_run_without_its_scale_is_refused(radar, capsys):
    assert main(["train", "--data=radar", *TYPED, "--out=run"]) == 0
    capsys.readouterr()
    for text, sentence in {
        "{}": "a specification of data must hold",
        "{": "run/data.json must be readable JSON",
        None: "run/data.json, which holds it, is missing: copy it back",
    }.items():
        Path("run/data.json").unlink()
        if text is not None:
            Path("run/data.json").write_text(text)
        assert main(["train", "--resume=run", "--epochs=2"]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1


def _image_folder(folder):
    folder.mkdir()
    for k, frame in enumerate(RATES):
        Image.fromarray((frame * 2).clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")


@pytest.mark.parametrize("kind", ["netcdf", "npy", "images"])
def test_every_kind_trains_resumes_and_is_evaluated(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "netcdf":
        write_netcdf(tmp_path / "frames")
    elif kind == "npy":
        (tmp_path / "frames").mkdir()
        np.save(tmp_path / "frames" / "x.npy", RATES)
    else:
        _image_folder(tmp_path / "frames")
    assert main(["train", "--data=frames", *TYPED, "--out=run"]) == 0
    assert main(["train", "--resume=run", "--epochs=2"]) == 0
    monkeypatch.chdir(tmp_path.parent)  # the run holds anywhere
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["cases"] == 1
    assert len(scores["scores"]["mse"]["by_lead"]["persistence"]) == 3


def test_a_forecast_is_in_the_scale_of_its_input(tmp_path, monkeypatch):
    """A change of unit of all frames changes nothing but the unit of the forecast."""
    monkeypatch.chdir(tmp_path)
    for name, factor in {"whole": 1, "small": 0.02}.items():
        np.save(f"{name}.npy", (RATES * factor).astype(np.float32))
        assert main(["train", f"--data={name}.npy", *TYPED, f"--out={name}"]) == 0
        words = ["forecast", name, f"{name}.npy", "--steps=4", f"--out={name}-forecast.npy"]
        assert main(words) == 0
    whole, small = (np.load(f"{name}-forecast.npy") for name in ("whole", "small"))
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(small, 0.02 * whole, rtol=1e-3, atol=1e-5)


def test_a_model_in_memory_knows_its_scale_and_forgets_that_of_other_data(radar):
    data = Archive("radar", past=3, steps=3)
    run = convlstm.train(data=data, model=small(), config=CONFIG, out="run")
    loaded = EncoderForecaster.from_pretrained("run/model")
    frames = open_frames("radar")[:3]
    np.testing.assert_array_equal(
        convlstm.forecast(run.model, frames, 2), convlstm.forecast(loaded, frames, 2)
    )
    digits = MovingObjects(canvas=16, object_size=8, past=3, steps=3, train_size=4, validation_size=4)
    convlstm.train(data=digits, model=loaded, config=CONFIG, out="digits")
    assert "specification" not in json.loads(Path("digits/model/config.json").read_text())
