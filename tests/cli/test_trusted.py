"""The runs and model folders of strangers, as the commands are given them."""

import json
import shutil
import sys

import numpy as np
import pytest
import yaml

from convlstm.cli.main import main
from convlstm.workflows.configuration import takes_class
from convlstm.workflows.parts import resolve_parts

WORDS = (
    "--data.canvas 16 --data.object_size 8 --data.count 1 --data.past 3 --data.steps 3 --data.train_size 8 "
)
WORDS += "--data.validation_size 4 --data.test_size 4 --epochs 1 --batch_size 4 --model.hidden_dim [4] "
WORDS += "--accelerator cpu"
EVIL = """
import pathlib
from convlstm import EncoderForecaster, MovingObjects
pathlib.Path(__file__).with_name("ran").touch()

class Model(EncoderForecaster):
    pass

class Data(MovingObjects):
    pass
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp("runs") / "made"
    assert main(["train", *WORDS.split(), "--out", str(path)]) == 0
    return path


@pytest.fixture
def stranger(made, tmp_path, monkeypatch):
    """A copy of the run with code in it, in the folder where commands are given."""
    shutil.copytree(made, tmp_path / "stranger")
    for folder in ("stranger", "stranger/model"):
        (tmp_path / folder / "evil.py").write_text(EVIL)
    np.save(tmp_path / "past.npy", np.zeros((3, 16, 16), np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "stranger"


def commands(run, *more):
    """Everything that reads a run."""
    return [
        ["evaluate", str(run), *more],
        ["forecast", str(run), "past.npy", "--steps", "2", "--out", "future.npy", *more],
        ["train", "--resume", str(run), "--epochs", "2", *more],
        ["train", "--config", str(run / "config.yaml"), "--out", "again", *more],
    ]


def rewrite(run, change):
    """Change the run's configuration."""
    settings = yaml.safe_load((run / "config.yaml").read_text())
    change(settings)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CHANGES = {
    "model": lambda s: s["model"].update(class_path="stranger.evil.Model"),
    "data": lambda s: s["data"].update(class_path="stranger.evil.Data"),
    "section": lambda s: s.update(model="stranger.evil.Model"),
    "cell": lambda s: s["model"]["init_args"].update(cell="stranger.evil.Model"),
    "cell with options": lambda s: s["model"]["init_args"].update(cell={"class_path": "stranger.evil.Model"}),
    "inside a cell": lambda s: s["model"]["init_args"].update(
        cell={"class_path": "convlstm.ConvLSTMCell", "init_args": {"attention": "stranger.evil.Model"}}
    ),
    "of a class by its short name": lambda s: s.update(
        model={"class_path": "EncoderForecaster", "init_args": {"cell": "stranger.evil.Model"}}
    ),
    "beside the section": lambda s: s.update({"model.cell": "stranger.evil.Model"}),
    "as a dotted argument": lambda s: s["model"]["init_args"].update(
        {"cell.attention": "stranger.evil.Model"}
    ),
    "in text": lambda s: s["model"]["init_args"].update(
        cell={
            "class_path": "convlstm.ConvLSTMCell",
            "init_args": {"attention": "{class_path: b, class_path: stranger.evil.Model}"},
        }
    ),
    "in quoted text": lambda s: s["model"]["init_args"].update(
        cell={"class_path": "convlstm.ConvLSTMCell", "init_args": {"attention": "'stranger.evil.Model'"}}
    ),
    "this": lambda s: s["model"]["init_args"].update(cell="this.x"),
    "any argument": lambda s: s["data"]["init_args"].update(images={"class_path": "this.x"}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("trust", [(), ("--trust", "stranger,evil")])
def test_nothing_in_a_run_is_imported_from_it(stranger, change, trust, capsys):
    rewrite(stranger, CHANGES[change])
    before = content(stranger.parent)
    for line in commands(stranger, *trust):
        if line[0] == "forecast":
            continue  # reads the model folder alone
        assert main(line) == 2, line
        shown = capsys.readouterr()
        said = ("load by themselves; received", "must lie outside the folder", "under names without dots")
        assert any(words in shown.err for words in said)
        assert shown.err.count("\n") == 1
        assert shown.out == ""
    assert content(stranger.parent) == before
    assert not {"stranger.evil", "evil", "this"} & set(sys.modules)


@pytest.mark.parametrize("trust", [(), ("--trust", "stranger")])
def test_nothing_in_a_model_folder_is_imported_from_it(stranger, trust, capsys):
    config = stranger / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"class": "stranger.model.evil.Model"}))
    before = content(stranger.parent)
    for line in commands(stranger, *trust)[:2]:
        assert main(line) == 2
        shown = capsys.readouterr().err
        assert "load by themselves; received" in shown or "must lie outside the folder" in shown
    assert content(stranger.parent) == before


@pytest.mark.parametrize("past", ["x", None, [1], -5, 0, 1e400])
def test_a_past_that_is_no_number_of_frames_is_named(stranger, past, capsys):
    config = stranger / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"past": past}))
    assert main(commands(stranger)[1]) == 2
    assert "must be a number of frames" in capsys.readouterr().err
    assert not (stranger.parent / "future.npy").exists()


def test_a_folder_of_modules_that_is_no_path_is_passed_over(stranger, capsys):
    (stranger / "environment.json").write_text(json.dumps({"modules": {"evil": "\0"}}))
    assert main(commands(stranger)[0]) == 0


def test_a_function_of_torch_is_no_cell(stranger, capsys):
    rewrite(stranger, lambda s: s["model"]["init_args"].update(cell="torch.set_num_threads"))
    assert main(["evaluate", str(stranger)]) == 2
    assert (
        "received torch.set_num_threads: only such classes are built from a file" in capsys.readouterr().err
    )


def test_what_may_name_a_class_is_told_from_text():
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from convlstm.cells import CellFactory
    from convlstm.data import Source

    for hint in (CellFactory, str | Callable[[int], Any] | None, Sequence[type[int]], Source, Source | None):
        assert takes_class(hint), hint
    for hint in (str, Path | None, list[int], tuple[str, float], dict[str, bool], Any, None):
        assert not takes_class(hint), hint


@pytest.mark.parametrize("text", ["no_such.npy", "group", "a/os.py", "{a: 1}"])
def test_text_of_an_argument_that_takes_a_class_stays_text_unless_it_names_one(text):
    def find(path, kind=None, *, functions=True):
        raise AssertionError(path)

    cell = {"class_path": "ConvLSTMCell", "init_args": {"attention": text}}
    model = resolve_parts({"model": {"class_path": "EncoderForecaster", "init_args": {"cell": cell}}}, find)[
        "model"
    ]
    assert model.keywords["cell"].keywords == {"attention": text}
    for path in ("os.x", "__main__.x", "'os.x'", "{class_path: os.x}"):
        cell["init_args"]["attention"] = path
        with pytest.raises(AssertionError, match=r"(os|__main__)\.x"):
            resolve_parts({"model": {"class_path": "EncoderForecaster", "init_args": {"cell": cell}}}, find)


def test_trust_is_given_as_names(made, capsys):
    assert main(["evaluate", str(made), "--trust", "my/code.py"]) == 2
    assert "trust must name packages, such as my_package" in capsys.readouterr().err


def test_a_configuration_of_another_folder_is_judged_as_a_run_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = tmp_path / "strange_folder"
    theirs.mkdir()
    (theirs / "evil_part.py").write_text("raise SystemExit('ran')")
    (theirs / "config.yaml").write_text(yaml.safe_dump({"model": "strange_folder.evil_part.Model"}))
    for more in ([], ["--trust", "strange_folder"]):  # trusted or not, nothing runs from inside the folder
        assert main(["train", "--config", "strange_folder/config.yaml", "--out", "run", *more]) == 2
        assert "strange_folder.evil_part.Model" in capsys.readouterr().err
        assert "strange_folder.evil_part" not in sys.modules
        assert not (tmp_path / "run").exists()
