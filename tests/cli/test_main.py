"""The command itself: what it costs, what it says, how it ends."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import processes
import pytest

from convlstm.cli import main as cli
from convlstm.cli.main import COMMANDS, main
from convlstm.extras import EXTRAS

SMALL = [
    *("--data.canvas=16", "--data.object_size=8", "--data.count=1", "--data.past=3", "--data.steps=3"),
    *("--data.train_size=20", "--data.validation_size=4", "--model.hidden_dim=[4]", "--batch_size=2"),
    "--accelerator=cpu",
]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_overview_and_version_import_nothing_heavy(option):
    code = (
        "import sys; from convlstm.cli.main import main; status = main(); "
        "print(status, sorted({'torch', 'lightning', 'jsonargparse', 'numpy', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("0 []\n")
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "none")],
)
def test_threads_do_not_wait_in_busy_loops_unless_the_user_says_so(given, expected):
    """OpenMP reads the variable when torch loads it."""
    code = (
        "import os, sys\n"
        "from convlstm.cli.main import main\n"
        "def seen(event, of):\n"
        "    if event == 'import' and of[0] == 'torch':\n"
        "        sys.exit(os.environ.get('GOMP_SPINCOUNT', 'none'))\n"
        "sys.addaudithook(seen)\n"
        "main(['models'])"
    )
    names = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stderr.strip() == expected


def test_overview_has_a_line_for_every_command_and_two_examples(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    for name, line in COMMANDS.items():
        assert [text.split() for text in lines].count([name, *line.split()]) == 1
    examples = lines[lines.index("examples:") + 1 :]
    assert len(examples) == 2
    assert all(example.startswith("  convlstm ") for example in examples)
    assert main([]) == 0
    assert capsys.readouterr().out == shown


def test_the_version_is_that_of_the_package(capsys):
    import convlstm

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"convlstm {convlstm.__version__}\n"


def test_it_runs_as_a_module_with_the_exit_status_of_the_command():
    result = subprocess.run([sys.executable, "-m", "convlstm", "trian"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "convlstm: error: a command must be one of describe, models, plan, train, evaluate, forecast, "
        "inspect, report, demo; received 'trian': did you mean 'train'?\n"
    )


def test_debug_anywhere_shows_the_traceback_and_nothing_else_does(capsys):
    for words in (["train", "--epochs", "x"], ["report", "missing"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert main([words[0], "--debug", *words[1:]]) == 2
        captured = capsys.readouterr().err
        assert captured.startswith("Traceback")
        assert "\nconvlstm: error: " in captured


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ModuleNotFoundError("no", name="lightning.pytorch"),
            "lightning, which is not installed: pip install 'convlstm[train]'",
        ),
        (ModuleNotFoundError("no", name="PIL"), "PIL, which is not installed: pip install 'convlstm[plots]'"),
        (OSError(28, "No space left on device"), "the system says 'No space left on device': free space"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b must be usable; the system says 'Permission"),
    ],
)
def test_what_the_machine_lacks_is_one_sentence(monkeypatch, capsys, error, sentence):
    def fail(words):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert main(["train"]) == 2
    captured = capsys.readouterr().err
    assert sentence in captured
    assert captured.count("\n") == 1


def test_a_defect_is_not_dressed_up_as_an_error_of_the_user(monkeypatch):
    def fail(words):
        raise ModuleNotFoundError("no", name="something_of_the_users")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["train"])


def test_every_extra_that_is_named_exists():
    names = {name for names in EXTRAS.values() for name in names}
    assert {"lightning", "jsonargparse", "rich", "sklearn", "PIL"} <= names
    assert all(find_spec(name) for name in EXTRAS["train"])


@pytest.mark.long
def test_ctrl_c_keeps_the_last_checkpoint_says_how_to_go_on_and_a_resumed_run_ends(tmp_path):
    words = ["train", *SMALL, "--epochs", "40", "--out", "run"]
    process = processes.Forked(processes.COMMAND, words, tmp_path)
    written = [tmp_path / "run" / name for name in ("checkpoints/last.ckpt", "metrics.csv")]
    for _ in range(1200):
        if all(path.exists() for path in written) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stopped = process.finish()
    errors = stopped.stderr
    assert stopped.returncode == 130
    assert errors.endswith(
        "convlstm: stopped; the last checkpoint is run/checkpoints/last.ckpt, "
        "the best model so far run/model; go on with: convlstm train --resume run\n"
    )
    assert "Traceback" not in errors
    scored = processes.command(["evaluate", "run", "--data.test_size=5", "--out=scores"], tmp_path)
    assert "5 cases, 3 frames in, 3 out" in scored.stdout
    metrics = tmp_path / "run" / "metrics.csv"
    before = metrics.read_text()
    assert 1 <= before.count("\n") - 1 < 40
    resumed = processes.command(["train", "--resume", "run"], tmp_path)
    assert "trained 40 of 40 epochs into run;" in resumed.stdout
    assert metrics.read_text().startswith(before)
    commands = (tmp_path / "run" / "command.txt").read_text().splitlines()
    assert commands[0].startswith("convlstm train --data.canvas=16 ")
    assert commands[1:] == ["convlstm train --resume run"]


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
@pytest.mark.parametrize("words", ["train", "forecast run past.npy --steps 1 --out f.npy", "report run"])
def test_a_deleted_current_folder_is_one_sentence(tmp_path, words):
    command = f'mkdir gone && cd gone && rmdir ../gone && exec "{sys.executable}" -m convlstm {words}'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    expected = "convlstm: error: the current folder must exist; it was deleted or moved: change to another"
    assert done.stderr.strip().splitlines()[-1] == f"{expected} one (cd)"
    assert "Traceback" not in done.stderr
