"""Run folders: what makes one, what a start may touch, what a run is trained further from."""

import ast
import json
import os
import re
import signal
import subprocess
from functools import partial
from pathlib import Path

import processes
import pytest
import torch

import convlstm
from convlstm import EncoderForecaster, MovingObjects
from convlstm.cli.main import main
from convlstm.data import Window, WindowDataset
from convlstm.errors import OptionError, RunError
from convlstm.training.config import TrainingConfig
from convlstm.training.fit import read_checkpoint
from convlstm.training.run_folder import RunFolder, read_metrics
from convlstm.workflows.forecast import forecast
from convlstm.workflows.train import train

DATA = {"canvas": 16, "object_size": 8, "count": 1, "past": 3, "steps": 3}
SIZES = {"train_size": 8, "validation_size": 4, "test_size": 4}
CONFIG = {"epochs": 2, "batch_size": 4, "accelerator": "cpu", "learning_rate": 1e-2}
TYPED = [f"--data.{name}={value}" for name, value in (DATA | SIZES).items()]
TYPED += [f"--{name}={value}" for name, value in CONFIG.items()] + ["--model.hidden_dim=[4]"]


def start(path, data=None, **options):
    torch.manual_seed(0)
    data = data or MovingObjects(**DATA, **SIZES)
    return train(
        data=data,
        model=EncoderForecaster(hidden_dim=[4]),
        config=TrainingConfig(**CONFIG | options),
        out=path,
    ).path


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else os.path.islink(path)
        for path in folder.rglob("*")
    }


class Worsens(MovingObjects):
    """Validation wants the opposite of what is learned, so that the first epoch is the best."""

    def split(self, name):
        windows = super().split(name)

        class Opposite(WindowDataset):
            def __len__(self):
                return len(windows)

            def __getitem__(self, index):
                past, future = windows[index]
                return Window(past, 1 - future if name == "validation" else future)

        return Opposite()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two epochs."""
    path = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", *TYPED, "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be changed."""
    subprocess.run(["cp", "-r", finished, tmp_path / "run"], check=True)
    return tmp_path / "run"


def test_no_other_file_of_the_source_names_the_files_of_a_run():
    source = Path(convlstm.__file__).parent
    names = {
        name for name in (*RunFolder.NAMES, *RunFolder.PICTURES, "last.ckpt", "best.ckpt") if "." in name
    }
    assert len(names) == 15
    for path in source.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
        held = {word for node in texts for word in re.split(r"[^\w.]+", str(node.value))} & names
        assert not held or path.name in ("run_folder.py", "model_folder.py"), (path, held)


@pytest.mark.parametrize("name", RunFolder.NAMES)
def test_a_folder_with_anything_under_a_name_of_a_run_is_refused_as_it_is(tmp_path, name, capsys):
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")):
        path = tmp_path / name
        make(path)
        before = content(tmp_path)
        assert main(["train", *TYPED, "--out", str(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert "already" in message
        assert "choose another --out" in message
        assert content(tmp_path) == before
        path.rmdir() if path.is_dir() else path.unlink()


class Meddles(MovingObjects):
    """The user writes a file into the run's folders while it is trained, and then a window is not finite."""

    def __init__(self, folder: Path):
        super().__init__(**DATA, **SIZES)
        self.folder = folder

    def split(self, name):
        windows, folder = super().split(name), self.folder

        class Broken(WindowDataset):
            def __len__(self):
                return len(windows)

            def __getitem__(self, index):
                if (folder / "logs").exists():
                    (folder / "logs" / "important.txt").write_text("mine")
                    (folder / "checkpoints" / "mine.ckpt").write_text("mine")
                    return Window(windows[index].past * float("nan"), windows[index].future)
                return windows[index]

        return Broken()


def test_a_refused_training_takes_back_what_it_made_and_nothing_else(tmp_path, monkeypatch):
    own = tmp_path / "above" / "own"
    with pytest.raises(Exception, match="frames must be finite"):
        start(own, Meddles(own))
    assert sorted(content(tmp_path)) == [
        *("above", "above/own", "above/own/checkpoints", "above/own/checkpoints/mine.ckpt"),
        *("above/own/logs", "above/own/logs/important.txt"),
    ]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="loss must stay finite"):
        start(Path("new/deep"), learning_rate=1e30, schedule="constant", epochs=3)
    assert not (tmp_path / "new").exists()


def test_a_resumption_that_is_refused_changes_nothing(run, capsys):
    before = content(run)
    last = run / "checkpoints" / "last.ckpt"
    for words, message in (
        (["--epochs", "1"], "epochs must be at least those that a run was trained for, 2; received 1"),
        (
            ["--seed", "3"],
            "takes every option but --epochs and --patience from the run itself; received another seed",
        ),
        (["--data.count", "2"], "received another data: leave it out"),
        (["--model.hidden_dim", "[5]"], "received another model: leave it out"),
        (["--out", "elsewhere"], "received --out as well: leave it out"),
        (["--epochs", "3", "--learning_rate", "1"], "received another learning_rate"),
    ):
        assert main(["train", "--resume", str(run), *words]) == 2
        assert message in capsys.readouterr().err
        assert content(run) == before
    for damage in (b"", b"PK", last.read_bytes()[:1000]):
        last.write_bytes(damage)
        before = content(run)
        assert main(["train", "--resume", str(run), "--epochs", "4"]) == 2
        message = capsys.readouterr().err
        assert "must be a whole file written by convlstm train" in message
        assert "delete" not in message
        assert content(run) == before


def test_a_finished_run_is_trained_further_along_the_schedule_over_all_epochs(run, capsys):
    first = read_metrics(run / "metrics.csv")
    assert main(["train", "--resume", str(run), "--epochs", "6"]) == 0
    assert "trained 6 of 6 epochs" in capsys.readouterr().out
    assert "epochs: 6\n" in (run / "config.yaml").read_text()
    rows = read_metrics(run / "metrics.csv")
    assert rows[:2] == first
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=12, pct_start=0.15)
    planned = []
    for _ in range(12):
        optimizer.step()
        schedule.step()
        planned.append(optimizer.param_groups[0]["lr"])
    assert [row["learning_rate"] for row in rows[2:]] == pytest.approx(planned[5::2], rel=1e-6)
    # The number in the file counts as well.
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 6\n", "epochs: 7\n"))
    assert main(["train", "--resume", str(run)]) == 0
    assert len(read_metrics(run / "metrics.csv")) == 7


def test_a_run_that_stopped_early_goes_on_with_more_patience_alone(tmp_path):
    run = tmp_path / "run"
    never_better = ["--epochs=9", "--patience=2", "--schedule=constant", "--learning_rate=1e-12"]
    assert main(["train", *TYPED, *never_better, f"--out={run}"]) == 0
    first = read_metrics(run / "metrics.csv")
    assert len(first) < 9
    kept = {name: (run / name).read_bytes() for name in ("metrics.csv", "checkpoints/last.ckpt")}
    for words in ([], ["--epochs=10"]):
        assert main(["train", "--resume", str(run), *words]) == 0
        assert {name: (run / name).read_bytes() for name in kept} == kept
    assert main(["train", "--resume", str(run), "--patience=3"]) == 0
    assert "patience: 3\n" in (run / "config.yaml").read_text()
    assert len(read_metrics(run / "metrics.csv")) == len(first) + 1


def test_python_resumes_with_the_objects_of_the_run_and_more_epochs(run):
    config = TrainingConfig(**CONFIG | {"epochs": 3})
    data = MovingObjects(**DATA, **SIZES)
    again = train(resume=run, config=config, data=data, model=EncoderForecaster(hidden_dim=[4]))
    assert again.path == run
    assert len(read_metrics(run / "metrics.csv")) == 3
    with pytest.raises(OptionError, match="received another data"):
        train(resume=run, data=MovingObjects(**DATA, **SIZES | {"train_size": 4}))


@pytest.mark.parametrize("how", ["moved", "copied", "named another way"])
def test_a_run_in_another_place_keeps_its_best_model(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    data = Worsens(**DATA, **SIZES)
    first = RunFolder(start(Path("first"), data, epochs=3, schedule="constant"))
    losses = [row["val_loss"] for row in read_metrics(first.metrics)]
    best = losses.index(min(losses))
    assert best < 2
    held = first.best.read_bytes()
    path = tmp_path / "elsewhere" / "b"
    path.parent.mkdir()
    if how == "moved":
        first.path.rename(path)
    elif how == "copied":
        subprocess.run(["cp", "-r", first.path, path], check=True)
    else:
        path.symlink_to(tmp_path / "first")
    config = TrainingConfig(**CONFIG | {"epochs": 4, "schedule": "constant"})
    with pytest.raises(RunError, match="test_run_folder.Worsens: .*add --trust tests"):
        train(resume=path, config=config)
    train(resume=path, config=config, trust="tests.training")
    assert RunFolder(path).best.read_bytes() == held
    assert read_checkpoint(RunFolder(path).best)["epoch"] == best
    if how == "copied":
        assert first.best.read_bytes() == held
        assert len(read_metrics(first.metrics)) == 3


def test_a_run_whose_checkpoints_are_gone_never_starts_over_unasked(run, capsys):
    folder = RunFolder(run)
    best = folder.best.read_bytes()
    folder.best.unlink()
    before = content(run)
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 2
    assert "best.ckpt is missing: copy it back, or copy" in capsys.readouterr().err
    folder.last.unlink()
    before.pop("checkpoints/last.ckpt")
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 2
    assert "goes on from a checkpoint; " in capsys.readouterr().err
    assert content(run) == before
    folder.best.write_bytes(best)
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 0
    assert f"{folder.last} is missing: training goes on from {folder.best}" in capsys.readouterr().out
    assert read_checkpoint(folder.last)["epoch"] == 2


def test_leftovers_of_killed_writes_are_removed_when_the_run_is_resumed(run):
    before = set(content(run))
    for place in (".metrics.csv.abcd1234", "checkpoints/.best.ckpt.abcd1234", "model/.config.json.abcd1234"):
        (run / place).write_text("half")
    (run / ".notes.abcd1234").write_text("mine")
    assert main(["train", "--resume", str(run)]) == 0
    names = {name for name in content(run) if not name.startswith("logs/")}
    assert names == {name for name in before if not name.startswith("logs/")} | {".notes.abcd1234"}


@pytest.mark.parametrize("part", ["data", "model"])
@pytest.mark.parametrize("change", ["empty", "gone"])
def test_a_configuration_without_data_or_model_is_not_filled_up(run, capsys, part, change):
    import yaml

    config = yaml.safe_load((run / "config.yaml").read_text())
    config.pop(part)
    (run / "config.yaml").write_text(yaml.safe_dump(config) + (f"{part}:\n" if change == "empty" else ""))
    before = content(run)
    for words in (["train", "--resume", str(run)], ["evaluate", str(run)]):
        assert main(words) == 2
        assert f"must hold its {part}; " in capsys.readouterr().err
        assert content(run) == before
    if change == "empty":
        words = ["train", "--config", str(run / "config.yaml"), "--out", str(run / "new")]
        assert main(words) == 2
        assert f"{part} in the configuration must hold a class_path; it is empty" in capsys.readouterr().err
        assert not (run / "new").exists()


def test_an_empty_path_is_refused(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path)
    for words in (
        ["train", *TYPED, "--out", ""],
        ["train", "--resume", ""],
        ["train", "--resume="],
        ["evaluate", str(run), "--out", ""],
        ["evaluate", ""],
        ["report", ""],
        ["forecast", "", "past.npy", "--steps", "1", "--out", "future.npy"],
        ["train", "--config", ""],
        ["demo", "--out", ""],
    ):
        assert main(words) == 2
        assert "must be a path; received an empty one" in capsys.readouterr().err
        assert content(tmp_path) == before
    ahead = partial(forecast, run, tmp_path / "past.npy", steps=1)
    for call in (partial(start, ""), partial(train, resume=""), partial(ahead, out="")):
        with pytest.raises(OptionError, match="received an empty one"):
            call()
    assert content(tmp_path) == before


KILLED = """
import os, sys
import convlstm.training.fit, convlstm.training.tuning, convlstm.cli.options
from convlstm.workflows.forecast import forecast
from convlstm.cli.main import main

words, moment = sys.argv[2:], int(sys.argv[1])
passed = 0

def counted(call):
    def counting(*args, **kwargs):
        global passed
        passed += 1
        if passed == moment:
            os._exit(9)
        return call(*args, **kwargs)
    return counting

os.replace, os.mkdir = counted(os.replace), counted(os.mkdir)
sys.exit(main(words))
"""


def _killed(moment, words, folder):
    return processes.Forked(KILLED, [str(moment), *words], folder).finish()


@pytest.mark.long
def test_a_start_killed_at_any_step_can_be_resumed_or_started_again(tmp_path):
    words = ["train", *TYPED, "--epochs=1", "--batch_size=auto", "--out"]
    assert _killed(0, [*words, str(tmp_path / "whole")], tmp_path).returncode == 0
    whole = RunFolder(tmp_path / "whole")
    files = {name for name in content(whole.path) if not name.startswith("logs/")}
    moment, codes = 0, []
    while not codes or codes[-1] == 9:
        moment += 1
        run = RunFolder(tmp_path / f"{moment}" / "run")
        codes.append(_killed(moment, [*words, str(run.path)], tmp_path).returncode)
        again = ["--resume", str(run.path)] if run.config.exists() else [*words[1:], str(run.path)]
        # In such a process too, as the tests' own has other limits for the choice of the engine.
        assert _killed(0, ["train", *again], tmp_path).returncode == 0, moment
        assert (
            run.model.joinpath("model.safetensors").read_bytes()
            == (whole.model / "model.safetensors").read_bytes()
        )
        assert run.config.read_text() == whole.config.read_text()
        assert {name for name in content(run.path) if not name.startswith("logs/")} == files, moment
    assert codes[-1] == 0
    assert len(codes) > 12


def test_a_start_that_was_killed_before_anything_was_written_is_no_run(tmp_path):
    (tmp_path / ".config.yaml.abcd1234").write_text("half")
    assert start(tmp_path) == tmp_path
    assert not (tmp_path / ".config.yaml.abcd1234").exists()


def test_auto_that_was_not_found_yet_is_found_by_a_resumption(tmp_path, capsys):
    words = [*TYPED, "--epochs=1", "--batch_size=auto"]
    assert main(["train", *words, "--out", str(tmp_path / "whole")]) == 0
    config = (tmp_path / "whole" / "config.yaml").read_text()
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "config.yaml").write_text(config.replace("batch_size: 8\n", "batch_size: auto\n"))
    capsys.readouterr()
    assert main(["train", "--resume", str(killed)]) == 0
    shown = capsys.readouterr().out
    assert "has no checkpoint yet: training starts at the first epoch" in shown
    assert "batch_size auto: 8\n" in shown
    assert (killed / "config.yaml").read_text() == config
    weights = [path / "model" / "model.safetensors" for path in (killed, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert json.loads((killed / "environment.json").read_text())["packages"]["torch"]


def test_ctrl_c_before_a_configuration_is_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "write", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped before training began; nothing is left behind"):
        start(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_another_process_of_a_resumed_run_takes_the_objects_classes_too(tmp_path, monkeypatch):
    path = start(tmp_path / "run", Worsens(**DATA, **SIZES), epochs=1)
    monkeypatch.setenv("NODE_RANK", "1")  # as on a second machine
    # There is no first machine here to train with: what each of them begins with is seen.
    seen = []
    monkeypatch.setattr("convlstm.training.fit.fit", lambda model, data, *_, **how: seen.append(data))
    train(resume=path, data=Worsens(**DATA, **SIZES), config=TrainingConfig(**CONFIG | {"epochs": 1}))
    assert [type(data) for data in seen] == [Worsens]
