"""The commands on real, tiny runs, typed and called from Python."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from PIL import Image

from convlstm import EncoderForecaster, MovingObjects
from convlstm.cli.main import main
from convlstm.data import Rain as SyntheticRain
from convlstm.errors import ConvLSTMError, OptionError, RunError
from convlstm.training.config import TrainingConfig
from convlstm.workflows.evaluate import evaluate
from convlstm.workflows.train import train

DATA = {"canvas": 16, "object_size": 8, "count": 1, "past": 3, "steps": 3}
SIZES = {"train_size": 8, "validation_size": 4, "test_size": 5}
CONFIG = {"epochs": 1, "batch_size": 4, "accelerator": "cpu"}
TYPED = [f"--data.{name}={value}" for name, value in (DATA | SIZES).items()]
TYPED += [f"--{name}={value}" for name, value in CONFIG.items()] + ["--model.hidden_dim=[4]"]


def weights(run):
    return (Path(run) / "model" / "model.safetensors").read_bytes()


_TABLE = {
    "title": "MSE",
    "unit": "per pixel",
    "formula": "mean",
    "higher_is_better": False,
    "by_lead": {"encoder_forecaster": [0.1, 0.2, None], "persistence": [0.2, 0.3, 0.4]},
    "overall": {"encoder_forecaster": 0.2, "persistence": 0.3},
}
SCORES = json.dumps(
    {"schema": 1, "model": "encoder_forecaster", "cases": 5, "past": 3, "steps": 3, "data": "digits"}
    | {"forecasters": ["encoder_forecaster", "persistence"], "scores": {"mse": _TABLE}}
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", *TYPED, "--out", str(path)]) == 0
    return path


def test_a_run_folder_holds_what_made_it(run):
    names = {"config.yaml", "command.txt", "environment.json", "metrics.csv", "logs", "checkpoints", "model"}
    assert names <= {path.name for path in run.iterdir()}
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"]
    assert (run / "command.txt").read_text().strip()


def test_a_run_repeated_from_its_configuration_gives_equal_weights(run, tmp_path):
    assert main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert weights(tmp_path / "b") == weights(run)
    assert (tmp_path / "b" / "config.yaml").read_text() == (run / "config.yaml").read_text()
    other = ["--config", str(run / "config.yaml"), "--seed", "1", "--out", str(tmp_path / "c")]
    assert main(["train", *other]) == 0
    assert weights(tmp_path / "c") != weights(run)


def test_python_and_the_command_line_are_one(run, tmp_path, capsys):
    torch.manual_seed(0)
    model = EncoderForecaster(hidden_dim=[4])
    path = train(
        data=MovingObjects(**DATA, **SIZES), model=model, config=TrainingConfig(**CONFIG), out=tmp_path / "b"
    )
    assert path.path == tmp_path / "b"
    assert weights(path) == weights(run)
    assert (path / "config.yaml").read_text() == (run / "config.yaml").read_text()
    assert [row["epoch"] for row in path.metrics] == [1]
    assert path.model.hyperparameters == model.hyperparameters
    assert "trained" not in capsys.readouterr().out  # the command line alone prints


def test_auto_is_a_number_in_the_configuration(tmp_path, capsys):
    words = ["--batch_size", "auto", "--learning_rate", "auto", "--out", str(tmp_path / "a")]
    assert main(["train", *TYPED, *words]) == 0
    shown = capsys.readouterr().out
    assert "batch_size auto: 8\n" in shown
    text = (tmp_path / "a" / "config.yaml").read_text()
    assert "batch_size: 8\n" in text
    assert "size: auto" not in text
    assert "rate: auto" not in text
    assert main(["train", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert weights(tmp_path / "b") == weights(tmp_path / "a")


def test_folders_are_found_by_themselves_and_never_taken_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "train-2"):
        assert main(["train", *TYPED]) == 0
        assert (tmp_path / "runs" / name / "model").is_dir()
    before = weights("runs/train")
    assert main(["train", *TYPED, "--seed", "1", "--out", "runs/train"]) == 2
    assert (
        "already holds a run: go on with it (convlstm train --resume runs/train)" in capsys.readouterr().err
    )
    assert weights("runs/train") == before


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    settings = CONFIG | {"learning_rate": 1e30, "schedule": "constant", "epochs": 3}
    parts = {"data": MovingObjects(**DATA, **SIZES), "config": TrainingConfig(**settings)}
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").touch()
    for name in ("new", "kept"):
        with pytest.raises(ConvLSTMError, match="loss must stay finite"):
            train(model=EncoderForecaster(hidden_dim=[4]), out=tmp_path / name, **parts)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "kept",
        "kept/notes.txt",
    ]


def test_resume_takes_no_other_option(run):
    with pytest.raises(OptionError, match="takes every option but --epochs and --patience from the run"):
        train(config=TrainingConfig(), resume=run)
    with pytest.raises(RunError, match="must hold a config.yaml"):
        train(resume=run / "model")


def test_evaluate_shows_tables_and_writes_scores(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr()
    for text in (
        "encoder_forecaster",
        "persistence",
        "mean_frame",
        "MSE",
        "skill",
        f"next: convlstm report {run}",
    ):
        assert text in shown.out
    assert "| lead " in shown.out  # piped: Markdown, every lead time on a line however long
    assert "evaluating 5 cases" in shown.err
    scores = json.loads((run / "scores.json").read_text())
    assert (scores["cases"], scores["past"], scores["steps"]) == (5, 3, 3)
    assert scores["model"] == "encoder_forecaster"
    with (run / "scores.csv").open(newline="") as file:
        assert {row["forecaster"] for row in csv.DictReader(file)} == set(scores["forecasters"])
    with np.load(run / "cases.npz") as cases:
        assert cases["forecast_encoder_forecaster"].shape == (3, 3, 1, 16, 16)


def test_evaluate_shows_all_scores_where_asked_for(run, tmp_path, capsys):
    words = ["evaluate", str(run / "model"), "--data", "Rain", "--data.canvas=16", "--data.test_size=2"]
    shown = {}
    for name in ("some", "--all"):
        more = [name] * (name == "--all")
        assert main([*words, *more, "--out", str(tmp_path / name)]) == 0
        shown[name] = capsys.readouterr().out
    assert "| rmse " in shown["some"]
    assert "| csi_2.5 " in shown["some"]
    assert "| ets_2.5 " not in shown["some"]
    assert "| ets_2.5 " in shown["--all"]
    assert shown["--all"].count("| lead ") > 30 > shown["some"].count("| lead ")
    with (tmp_path / "some" / "scores.csv").open(newline="") as file:
        rows = {(row["forecaster"], row["score"], row["lead"]): row for row in csv.DictReader(file)}
    assert rows["blank", "far_1", "1"]["value"] == ""  # no event was forecast: undefined
    assert rows["persistence", "csi_1", "mean_of_leads"]["samples"] != "0"


def test_evaluate_on_other_data_and_into_another_folder(run, tmp_path):
    for name, words in {
        "changed": [str(run), "--data.test_size", "3"],
        "of the run": [str(run / "model"), "--data.test_size=3"],
        "whole": [str(run), "--data", "MovingObjects", *TYPED[:7], "--data.test_size", "3"],
    }.items():
        assert main(["evaluate", *words, "--batch_size", "2", "--out", str(tmp_path / name)]) == 0
        assert json.loads((tmp_path / name / "scores.json").read_text())["cases"] == 3
    same = evaluate(
        run, data=MovingObjects(**DATA, **SIZES | {"test_size": 3}), batch_size=2, out=tmp_path / "python"
    )
    written = json.loads((tmp_path / "changed" / "scores.json").read_text())
    assert same.to_dict() == written


class Rain(MovingObjects):
    """Frames of rain rates, whose greatest value nobody knows."""

    data_range = None


def test_scores_that_need_the_data_range_take_that_of_the_data_or_of_the_option(run, tmp_path):
    def scores(data, out, **options):
        return evaluate(run, data=data(**DATA, **SIZES), out=tmp_path / out, **options).scores

    assert scores(MovingObjects, "known")["psnr"].unit == "dB, data range 1"
    assert not {"psnr", "ssim"} & scores(Rain, "unknown").keys()
    given = scores(Rain, "given", data_range=120.0)
    assert given["psnr"].unit == "dB, data range 120"
    assert "data range 120" in given["ssim"].unit
    with pytest.raises(OptionError, match="data_range must be positive and finite; received 0"):
        scores(Rain, "refused", data_range=0.0)
    assert not (tmp_path / "refused").exists()


def test_a_model_folder_alone_needs_data_and_a_place(tmp_path):
    EncoderForecaster(hidden_dim=[4]).save_pretrained(tmp_path / "m")
    with pytest.raises(OptionError, match="a model needs data to be evaluated on"):
        evaluate(tmp_path / "m")
    data = MovingObjects(**DATA, **SIZES)
    with pytest.raises(OptionError, match="add --out FOLDER"):
        evaluate(tmp_path / "m", data=data)
    assert evaluate(tmp_path / "m", data=data, out=tmp_path / "s").cases == 5


def test_an_unfinished_run_has_no_model_yet(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(RunError, match="must have finished, or been stopped by Ctrl-C, before .* --resume"):
        evaluate(tmp_path)


def test_forecast_gives_frames_of_any_size_in_the_scale_of_the_input(run, tmp_path, capsys):
    past = np.random.default_rng(0).integers(0, 256, (5, 20, 26), dtype=np.uint8)
    np.save(tmp_path / "past.npy", past)
    words = ["forecast", str(run), str(tmp_path / "past.npy"), "--steps", "4", "--out"]
    assert main([*words, str(tmp_path / "f.npy")]) == 0
    assert f"4 frames after the last of {tmp_path / 'past.npy'} are in" in capsys.readouterr().out
    frames = np.load(tmp_path / "f.npy")
    assert (frames.shape, frames.dtype) == ((4, 1, 20, 26), np.uint8)
    model = EncoderForecaster.from_pretrained(run / "model").eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(past[-3:, None]).float()[None] / 255, 4)[0]
    np.testing.assert_allclose(frames, (expected.numpy().clip(0, 1) * 255).round(), atol=1)
    for ending in ("npz", "gif", "png"):
        assert main([*words, str(tmp_path / f"f.{ending}")]) == 0
        assert (tmp_path / f"f.{ending}").stat().st_size
    assert main([*words, str(tmp_path / "f.npy")]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "f.npy"), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (np.zeros((2, 20, 20)), "must hold the 3 frames that the model was trained with; {path} holds 2"),
        (np.zeros((5, 2, 20, 20)), "must have the channels of the model, 1; {path} has 2"),
        (np.full((5, 20, 20), np.nan), "values must be finite; {path} holds 2000 NaN or infinite"),
        (np.zeros((5, 20, 20), complex), "complex128"),
        (np.zeros(7), "has shape (7,)"),
    ],
)
def test_a_past_that_does_not_fit_is_named(run, tmp_path, capsys, frames, sentence):
    path = tmp_path / "past.npy"
    np.save(path, frames)
    assert main(["forecast", str(run), str(path), "--steps", "2", "--out", str(tmp_path / "f.npy")]) == 2
    assert sentence.format(path=path) in capsys.readouterr().err
    assert not (tmp_path / "f.npy").exists()


def test_damaged_models_and_files_are_named(run, tmp_path, capsys):
    model = EncoderForecaster(hidden_dim=[4])
    model.save_pretrained(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    (tmp_path / "new" / "config.json").write_text(json.dumps(config | {"schema": config["schema"] + 1}))
    model.save_pretrained(tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"x")
    np.save(tmp_path / "past.npy", np.zeros((5, 20, 20)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "past.npy").read_bytes()[:200])
    out = ["--steps", "2", "--out", str(tmp_path / "f.npy")]
    for words, sentence in (
        ((tmp_path / "new", tmp_path / "past.npy"), "install the convlstm that wrote it"),
        ((tmp_path / "cut", tmp_path / "past.npy"), "must be a whole safetensors file"),
        ((run, tmp_path / "cut.npy"), "must be a whole, readable .npy"),
        ((run, tmp_path / "none.npy"), "none.npy"),
    ):
        assert main(["forecast", *map(str, words), *out]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "f.npy").exists()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("model",), ["a"]),
        (("cases",), "5"),
        (("steps",), 3.0),
        (("data",), None),
        (("forecasters",), "abc"),
        (("forecasters", 1), 3),
        (("scores",), []),
        (("scores", "mse", "title"), 3),
        (("scores", "mse", "higher_is_better"), "no"),
        (("scores", "mse", "by_lead"), 3),
        (("scores", "mse", "by_lead", "encoder_forecaster"), "123"),
        (("scores", "mse", "by_lead", "encoder_forecaster", 0), "x"),
        (("scores", "mse", "overall", "persistence"), [1]),
    ],
)
def test_scores_with_values_of_another_type_are_refused_and_nothing_is_written(tmp_path, capsys, keys, value):
    plain = json.loads(SCORES)
    place = plain
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (tmp_path / "scores.json").write_text(json.dumps(plain))
    before = sorted(tmp_path.iterdir())
    assert main(["report", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert "evaluate" in shown
    assert shown.startswith("convlstm: error: ")
    assert shown.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_report_writes_a_page(run, tmp_path, capsys):
    assert main(["report", str(run)]) == 0
    assert f"the report is {run / 'report.html'}" in capsys.readouterr().out
    assert "<html" in (run / "report.html").read_text()


def test_the_demonstration_does_everything_once(tmp_path, monkeypatch, capsys):
    from convlstm.workflows import demo

    monkeypatch.chdir(tmp_path)
    small = demo.Subject(MovingObjects, DATA | SIZES, {"hidden_dim": (4,)}, CONFIG)
    monkeypatch.setitem(demo.SUBJECTS, "digits", small)
    assert main(["demo"]) == 0
    assert "the report is runs/demo/report.html" in capsys.readouterr().out
    for name in ("scores.json", "cases.npz", "report.html", "strip.png", "forecast.gif", "forecast.png"):
        assert (tmp_path / "runs" / "demo" / name).exists()
    assert os.fspath(demo.demo()) == "runs/demo-2"


def test_the_demonstration_of_rain_is_in_its_unit(tmp_path, monkeypatch, capsys):
    from convlstm.verification.cases import read_cases
    from convlstm.verification.verify import read_scores
    from convlstm.workflows import demo

    monkeypatch.chdir(tmp_path)
    data = {"canvas": 24, "past": 3, "steps": 2, "train_size": 4, "validation_size": 2, "test_size": 3}
    training = CONFIG | {"loss": "balanced"}
    monkeypatch.setitem(
        demo.SUBJECTS, "rain", demo.Subject(SyntheticRain, data, {"hidden_dim": (4,)}, training)
    )
    assert main(["demo", "rain"]) == 0
    assert "the report is runs/demo-rain/report.html" in capsys.readouterr().out
    verification = read_scores("runs/demo-rain/scores.json")
    assert verification.unit == "mm/h"
    assert [name for name in verification.scores if name.startswith("csi")]
    for case in read_cases("runs/demo-rain/cases.npz"):
        expected = torch.from_numpy(SyntheticRain(**data).sequence("test", case.index))[:3, None]
        torch.testing.assert_close(torch.from_numpy(case.past), expected, equal_nan=True, rtol=1e-5, atol=0)
        assert np.isfinite(case.forecasts["advection"]).all()
    past = np.load("runs/demo-rain/past.npy")  # in mm/h too
    np.testing.assert_allclose(past, SyntheticRain(**data).sequence("test", 0)[:3, None], rtol=1e-5)
    for name in ("strip.png", "forecast.gif", "forecast.png"):
        assert (tmp_path / "runs" / "demo-rain" / name).exists()


def test_a_demonstration_that_is_none_is_refused(capsys):
    assert main(["demo", "snow"]) == 2
    assert "a subject must be one of digits, rain; received 'snow'" in capsys.readouterr().err


@pytest.mark.parametrize("subject", ["digits", "rain"])
def test_the_settings_of_the_demonstration_are_valid(subject):
    from convlstm.workflows import demo

    chosen = demo.SUBJECTS[subject]
    data, config = chosen.source(**chosen.data), TrainingConfig(**chosen.training)
    model = EncoderForecaster(**chosen.model)
    assert config.epochs >= 1
    assert model(data.split("test")[0].past[None], data.steps).shape[1] == data.steps


@pytest.mark.long
def test_two_processes_share_a_run_and_what_auto_stands_for(tmp_path):
    words = ["train", *TYPED, "--batch_size", "auto", "--data.train_size", "16", "--devices", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "convlstm", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("trained 1 of 1 epochs into runs/train") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train"]
    config = (tmp_path / "runs" / "train" / "config.yaml").read_text()
    assert "devices: 2\n" in config
    assert "batch_size: 8\n" in config


def held(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scores_of_other_data_never_replace_those_of_the_run(run, tmp_path, capsys):
    assert main(["evaluate", str(run)]) == 0
    before = held(run)
    for words in (
        ["--data.test_size", "3"],
        ["--data.count", "2"],
        ["--data", "MovingObjects", *TYPED[:7], "--data.test_size", "3"],
        ["--data.test_size", "3", "--out", str(run / "." / "model" / "..")],
    ):
        for model in (run, run / "model"):
            assert main(["evaluate", str(model), *words]) == 2
            message = capsys.readouterr().err
            assert f"a run keeps the scores of its own test windows; {run} is evaluated on others" in message
            assert "add --out FOLDER" in message
            assert held(run) == before
    # The same data, however they were given, are the run's own.
    for words in (["--out", str(run)], ["--data", "MovingObjects", *TYPED[:8]], ["--data.test_size", "5"]):
        assert main(["evaluate", str(run), *words]) == 0
        assert held(run)["scores.json"] == before["scores.json"]


@pytest.mark.parametrize("name", ["scores.json", "scores.csv", "cases.npz", "config.yaml", "checkpoints"])
def test_scores_replace_nothing_in_another_folder(run, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert main(["evaluate", str(run), "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} holds {name} already: choose another --out" in capsys.readouterr().err
    assert held(tmp_path) == {name: b"mine"}


def test_scores_are_replaced_together_or_not_at_all(run, tmp_path, capsys):
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", run, copy], check=True)
    assert main(["evaluate", str(copy)]) == 0
    (copy / "scores.json").write_text("old")
    (copy / "scores.csv").unlink()
    (copy / "scores.csv").mkdir()
    before = held(copy)
    assert main(["evaluate", str(copy)]) == 2
    assert (
        f"{copy / 'scores.csv'} must be writable; the system says 'Is a directory'" in capsys.readouterr().err
    )
    assert held(copy) == before


class NotFinite(MovingObjects):
    """Test windows without values."""

    def split(self, name):
        windows = super().split(name)

        class Broken(type(windows)):
            def __getitem__(self, index):
                past, future = super().__getitem__(index)
                return type(super().__getitem__(index))(past, future * float("nan"))

        return Broken(self, name)


def test_an_evaluation_that_is_refused_leaves_no_folder(run, tmp_path):
    with pytest.raises(ConvLSTMError):
        evaluate(run, data=NotFinite(**DATA, **SIZES), out=tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_report_replaces_reports_only(run, tmp_path, capsys):
    scores = tmp_path / "scores"
    assert main(["evaluate", str(run), "--out", str(scores)]) == 0
    target = scores / "report.html"
    target.symlink_to(tmp_path / "nowhere.html")
    assert main(["report", str(scores)]) == 2
    target.unlink()
    for theirs in ("<html>mine</html>", "", "x" * 2000 + '<meta name="generator" content="convlstm report">'):
        target.write_text(theirs)
        capsys.readouterr()
        assert main(["report", str(scores)]) == 2
        assert f"{target} was not written by convlstm report: move it away" in capsys.readouterr().err
        assert target.read_text() == theirs
    target.unlink()
    for _ in range(2):
        assert main(["report", str(scores)]) == 0


def test_the_demonstration_replaces_no_picture_of_the_users(tmp_path, capsys):
    (tmp_path / "strip.png").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} holds strip.png already: choose another --out" in capsys.readouterr().err
    assert held(tmp_path) == {"strip.png": b"mine"}


OWN = """
from pathlib import Path
import numpy as np
from convlstm import EncoderForecaster, MovingObjects
from convlstm.data import Rain as SyntheticRain

class MyModel(EncoderForecaster):
    pass

class MySource(MovingObjects):
    def __init__(self, pictures: Path, listing="a", notes=(), word="digits", **kwargs):
        np.load(pictures), [open(name).close() for name in (listing, *notes)]
        super().__init__(**kwargs)
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a module of the user's own and data beside it."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "digits").mkdir()  # of a name that is a word elsewhere
    (folder / "own_classes.py").write_text(OWN)
    pictures = np.random.default_rng(0).random((20, 8, 8))
    np.save(folder / "pictures.npy", pictures)
    np.save(folder / "bare", pictures)
    for name in ("list.txt", "data/notes"):
        (folder / name).touch()
    return folder


def command(folder, *words, **environment):
    return processes.command(words, folder, environment)


def test_paths_of_data_are_noted_so_that_a_run_works_from_anywhere(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(["train", *TYPED, "--data.images", "pictures.npy", "--out", "run"]) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    project.joinpath("run").rename(elsewhere / "run")
    monkeypatch.chdir(elsewhere)
    assert f"images: {project}/pictures.npy\n" in Path("run/config.yaml").read_text()
    assert main(["evaluate", "run"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 0
    assert main(["report", "run"]) == 0
    monkeypatch.chdir(project)
    # The same file by a relative path is the run's own data.
    assert main(["evaluate", str(elsewhere / "run"), "--data.images", "pictures.npy"]) == 0
    # Where the run's own data are gone, others can still be used.
    Path("pictures.npy").unlink()
    assert main(["evaluate", str(elsewhere / "run")]) == 2
    assert main(["evaluate", str(elsewhere / "run"), "--data.images", "digits"]) == 2
    assert "evaluated on others: add --out FOLDER" in capsys.readouterr().err
    assert main(["evaluate", str(elsewhere / "run"), "--data.images", "digits", "--out", "scores"]) == 0


def test_what_is_a_path_is_told_by_its_type_or_its_look(project, monkeypatch):
    from convlstm.workflows.configuration import plain_part

    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    from own_classes import MySource

    source = MySource(Path("pictures.npy"), listing="list.txt", notes=["data/notes", "list.txt"], word="data")
    assert plain_part(source)["init_args"] | DATA == DATA | {
        "pictures": str(project / "pictures.npy"),
        "listing": str(project / "list.txt"),
        "notes": [str(project / "data" / "notes"), str(project / "list.txt")],
        "word": "data",  # a folder of that name lies here, but nothing says that it is meant
    }
    images = plain_part(MovingObjects(**DATA))["init_args"]["images"]
    assert images == "digits"
    assert plain_part(MovingObjects(images="pictures.npy", **DATA))["init_args"]["images"] == str(
        project / "pictures.npy"
    )


@pytest.mark.long
def test_a_run_of_ones_own_classes_says_where_they_lie(project, tmp_path):
    words = [f"--{name}={value}" for name, value in CONFIG.items()] + ["--model.hidden_dim=[4]"]
    words += ["--data.canvas=16", "--data.object_size=8", "--data.count=1", "--data.train_size=8"]
    words += ["--data.validation_size=4", "--data.test_size=4", "--data=own_classes.MySource"]
    words += ["--data.pictures=pictures.npy", "--data.listing=list.txt", "--model=own_classes.MyModel"]
    made = command(project, "train", *words, "--out", "run")
    assert made.returncode == 0, made.stderr
    assert "next: convlstm evaluate run --trust own_classes\n" in made.stdout
    noted = json.loads((project / "run" / "environment.json").read_text())["modules"]
    assert noted == {"own_classes": str(project)}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for words in (["evaluate", "../project/run"], ["train", "--resume", "../project/run", "--epochs=2"]):
        refused = command(elsewhere, *words)
        assert refused.returncode == 2
        assert f"own_classes, which is not found; it lay in {project}: make it importable" in refused.stderr
        assert refused.stderr.count("\n") == 1
        refused = command(project, *words)
        assert "received own_classes.MySource: " in refused.stderr
        assert "add --trust own_classes" in refused.stderr
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        trusted = command(elsewhere, *words, "--trust", "own_classes")
        assert trusted.returncode == 0, trusted.stderr


def test_folders_of_modules_are_used_with_trust_only_and_never_inside_the_run(tmp_path, monkeypatch):
    from convlstm.training.run_folder import RunFolder, import_path
    from convlstm.trust import Trust

    monkeypatch.setattr(sys, "path", list(sys.path))
    run, folder = RunFolder(tmp_path / "run"), tmp_path / "code"
    run.path.mkdir()
    folder.mkdir()

    def note(modules):
        run.environment.write_text(json.dumps({"modules": modules}))

    note({"noted_module": str(folder)})
    before = list(sys.path)
    for trust in ((), ("another",)):
        with pytest.raises(RunError, match=f"noted_module, which is not found; it lay in {folder}"):
            run.find_modules(trust)
    for inside in (run.path, run.path / "model", tmp_path / "run" / ".." / "run", "code", tmp_path / "gone"):
        note({"noted_module": str(inside)})
        with pytest.raises(RunError, match="which is not found"):
            run.find_modules(("noted_module",))
    assert sys.path == before
    note({"noted_module": str(folder)})
    (folder / "noted_module.py").write_text("1 / 0")

    @import_path()
    def use():
        run.find_modules(("noted_module.models",))
        assert sys.path == [*before, str(folder)]
        Trust(("noted_module",)).find("noted_module.Model")

    with pytest.raises(RunError, match=f"noted_module is that of {folder}, as the run's environment.json"):
        use()
    assert sys.path == before
    for damaged in ("{", "[]", '{"modules": 3}', '{"modules": {"a.b": "/"}}', '{"modules": {"a": 3}}'):
        run.environment.write_text(damaged)
        run.find_modules()


def test_forecast_says_in_which_order_a_folder_was_taken_and_what_is_far_outside(run, tmp_path, capsys):
    low, high = json.loads((run / "model" / "config.json").read_text())["value_range"]
    assert (low, high) == (0, 1)
    (tmp_path / "past").mkdir()
    for name in ("t-2", "t-1", "t"):
        Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tmp_path / "past" / f"{name}.png")
    out = ["--steps", "1", "--overwrite", "--out", str(tmp_path / "f.npy")]
    assert main(["forecast", str(run), str(tmp_path / "past"), *out]) == 0
    order = f"convlstm: {tmp_path / 'past'} holds 3 images, taken from t-2.png to t.png\n"
    assert capsys.readouterr().err == order
    for array, far in (
        (np.full((3, 16, 16), 3.0), ""),
        (np.full((3, 16, 16), 255.0), "holds values from 255 to 255, the model was trained on 0 to 1:"),
        (np.full((3, 16, 16), -2.5), "holds values from -2.5 to -2.5, the model was trained on 0 to 1:"),
    ):
        np.save(tmp_path / "past.npy", array)
        assert main(["forecast", str(run), str(tmp_path / "past.npy"), *out]) == 0
        said = capsys.readouterr().err
        assert far in said if far else said == ""


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names there are text")
def test_paths_that_are_not_utf8(tmp_path):
    """One sentence where they are typed; below a folder of such a name everything works."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 1")
    os.mkdir(folder)
    np.save(f"{folder}/past.npy", np.zeros((3, 16, 16)))

    def convlstm(*words):
        environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
        command = [sys.executable, "-m", "convlstm", *words]
        return subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )

    for words in (["train", *TYPED, "--out", f"{folder}/run"], ["evaluate", f"{folder}/run"]):
        done = convlstm(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("convlstm: error: what is typed must be UTF-8; received '")
        assert r"caf\udce9 1/run': rename the file" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert os.listdir(folder) == ["past.npy"]
    done = processes.command(["train", *TYPED, "--out", "run"], Path(folder))
    assert done.returncode == 0, done.stderr
    done = processes.command(["forecast", "run", "past.npy", "--steps=1", "--out=f.npz"], Path(folder))
    assert done.returncode == 0, done.stderr
    assert np.load(f"{folder}/f.npz")["frames"].shape == (1, 1, 16, 16)


def test_a_report_says_that_its_scores_are_of_an_earlier_model(run, tmp_path, capsys):
    copy, told = tmp_path / "run", "scores and forecasts are those of an earlier model"
    subprocess.run(["cp", "-r", run, copy], check=True)
    for weights, outdated in ((None, False), (0.5, True), (None, False)):
        if weights is None:
            assert main(["evaluate", str(copy)]) == 0
        else:  # as further training replaces the model
            model = EncoderForecaster.from_pretrained(copy / "model")
            with torch.no_grad():
                model.head.weight.mul_(weights)
            model.save_pretrained(copy / "model")
        assert main(["report", str(copy)]) == 0
        assert (told in (copy / "report.html").read_text()) is outdated
