"""What ends a run from outside it: workers, ranks, memory, logs; one sentence and the exit status each."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import processes
import pytest
from lightning.pytorch import Trainer
from tensorboard.summary.writer import event_file_writer

from convlstm.atomic_write import Changes
from convlstm.cli.main import main
from convlstm.training.run_folder import read_metrics

OPTIONS = ["--epochs=3", "--batch_size=4", "--accelerator=cpu", "--model.hidden_dim=[4]"]
OPTIONS += ["--data=failing_sources.Failing"]


@pytest.fixture(autouse=True)
def sources(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def said(capfd):
    """What was printed as an error, which is one line."""
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("epoch ")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("exits", "windows must stay alive; one ended unexpectedly: free memory or use fewer workers"),
        ("is killed", "windows must stay alive; one ended unexpectedly: free memory or use fewer workers"),
        ("raises", "prepared without errors; a worker gave ValueError: a bad: --debug shows where"),
        ("raises with a key", "a worker gave KeyError: 'missing': --debug shows where"),
        ("refuses", "convlstm: error: frames must be nice; received ugly ones: paint them"),
        ("asks torch for memory", "a worker gave RuntimeError: [enforce fail at alloc_cpu"),
    ],
)
# torch raises the death of a worker wherever the signal finds the program, inside a destructor as well.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_fails_is_one_sentence_and_leaves_nothing(tmp_path, capfd, how, sentence):
    words = [*OPTIONS, "--workers=1", f"--data.how={how}", "--out", str(tmp_path / "run")]
    assert main(["train", *words]) == 2
    assert sentence in said(capfd)
    assert not (tmp_path / "run").exists()


def test_a_worker_that_dies_is_one_sentence_though_torch_raises_it_twice(tmp_path, monkeypatch, capfd):
    """Its handler raises at whatever line the signal finds the program: here, the first after an error."""
    before = sys.gettrace()

    def at_next_call(*_):
        sys.settrace(before)
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    def broken(*_, **__):
        sys.settrace(at_next_call)
        raise ConnectionResetError

    monkeypatch.setattr(Trainer, "fit", broken)
    assert main(["train", *OPTIONS, "--data.how=exits", "--out", str(tmp_path / "run")]) == 2
    assert "windows must stay alive; one ended unexpectedly" in said(capfd)


def test_a_signal_of_a_worker_that_ended_does_not_stop_what_is_undone(tmp_path, monkeypatch, capfd):
    """As torch's handler does, which raises at whatever line the signal finds the program."""

    begun, undo = [], Changes.undo

    def handler(*_):
        if begun:  # other programs that end, such as uname, send it too
            raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    def undo_with_a_signal(self):
        begun.append(True)
        signal.raise_signal(signal.SIGCHLD)
        undo(self)

    monkeypatch.setattr(Changes, "undo", undo_with_a_signal)
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        words = [*OPTIONS, "--workers=0", "--data.how=refuses", "--out", str(tmp_path / "run")]
        assert main(["train", *words]) == 2
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "frames must be nice" in said(capfd)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["loses Ctrl-C", "loses Ctrl-C, at which workers end"])
def test_ctrl_c_that_python_drops_in_a_finaliser_stops_at_the_next_batch(tmp_path, capfd, how):
    before = signal.getsignal(signal.SIGINT)
    words = [*OPTIONS, f"--data.how={how}", "--out", str(tmp_path / "run")]
    assert main(["train", *words]) == 130
    assert said(capfd).startswith("convlstm: stopped; there is no checkpoint yet; go on with: convlstm train")
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("how", ["asks torch for memory", "asks numpy for memory"])
def test_memory_that_the_cpu_has_not_is_one_sentence(tmp_path, capfd, how):
    assert main(["train", *OPTIONS, f"--data.how={how}", "--out", str(tmp_path / "run")]) == 2
    sentence = said(capfd)
    rule = "a training step must fit in memory, and it does not; one of batch size 4"
    assert re.search(
        rf"{rule} needs [\d.]+ MiB and [\d.]+ GiB are free: --batch_size 2 needs [\d.]+ MiB", sentence
    )
    assert not (tmp_path / "run").exists()


def test_logs_that_vanish_end_the_run_with_a_sentence_and_keep_its_checkpoint(tmp_path, capfd):
    run = tmp_path / "run"
    words = ["train", *OPTIONS, "--data.how", str(run), "--out", str(run)]
    assert main(words) == 2
    sentence = f"{run / 'logs'} must stay writable while a run is trained; the system says 'No such file"
    assert sentence in said(capfd)
    assert (run / "checkpoints" / "last.ckpt").exists()
    assert len(read_metrics(run / "metrics.csv")) >= 1


def test_logs_that_cannot_be_written_from_the_start_leave_nothing(tmp_path, monkeypatch, capfd):
    """A full disk, on which the file of the logs is made and not whole."""

    def full(self, flush=event_file_writer._AsyncWriter.flush):
        flush(self)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(event_file_writer._AsyncWriter, "flush", full)
    assert main(["train", *OPTIONS, "--data.how=not", "--out", str(tmp_path / "run")]) == 2
    assert "No space left on device" in said(capfd)
    assert not (tmp_path / "run").exists()


HERE = {"PYTHONPATH": str(Path(__file__).parent)}


def started(tmp_path, epochs, devices=2):
    """A training of 500 epochs that has done some, and the file that names its child processes."""
    words = ["train", *OPTIONS, "--data.how=not", "--epochs=500", f"--devices={devices}", "--out=run"]
    if devices == 1:
        process = processes.Forked(processes.COMMAND, words, tmp_path, HERE)
    else:  # which starts its own command again
        process = subprocess.Popen(
            [sys.executable, "-m", "convlstm", *words],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    metrics = tmp_path / "run" / "metrics.csv"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(1200):
        done = len(read_metrics(metrics)) if metrics.exists() else 0
        if process.poll() is not None or (done >= epochs and (devices == 1 or other_ranks(children))):
            break
        time.sleep(0.1)
    return process, children


def other_ranks(children):
    """The other of two processes that train, by its environment; a compiler may be a child too."""
    found = []
    for child in children.read_text().split():
        with suppress(OSError):  # it ended meanwhile
            found += [int(child)] if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes() else []
    return found


def ended(process):
    """The exit status of a process that ends by itself, and its errors without the lines of progress."""
    if isinstance(process, processes.Forked):
        done = process.finish()
        status, errors = done.returncode, done.stderr
    else:
        _, errors = process.communicate(timeout=120)
        status = process.returncode
    return status, [line for line in errors.splitlines() if line and not line.startswith("epoch ")]


@pytest.mark.long
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_is_terminated_stops_as_by_ctrl_c(tmp_path, devices):
    process, children = started(tmp_path, epochs=2, devices=devices)
    others = children.read_text().split()
    process.send_signal(signal.SIGTERM)
    status, lines = ended(process)
    assert len(lines) == 1, lines
    assert lines[0].startswith("convlstm: stopped; the last checkpoint is ")
    assert status == 130
    assert not any(Path(f"/proc/{other}/cmdline").exists() for other in others)


@pytest.mark.long
@pytest.mark.parametrize("killed", ["the first", "the other"])
@pytest.mark.parametrize("epochs", [0, 2])
def test_a_rank_that_is_killed_ends_all_with_a_sentence(tmp_path, killed, epochs):
    """Also while it is set up, when the other one waits for it out of reach of an exception."""
    process, children = started(tmp_path, epochs)
    (other,) = other_ranks(children)
    os.kill(process.pid if killed == "the first" else other, signal.SIGKILL)
    status, lines = ended(process)  # of both, whose end is awaited
    assert len(lines) == 1, lines
    assert "all processes that train a run must stay alive; another one ended" in lines[0]
    assert "go on with convlstm train --resume " in lines[0]
    assert lines[0].endswith("run")
    assert status == (-signal.SIGKILL if killed == "the first" else 2)
    assert (tmp_path / "run" / "config.yaml").exists()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() or not epochs


def until(happened):
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("nothing happened for two minutes")


STARTED = ["train", *OPTIONS, "--data.how=not", "--learning_rate=auto"]


def check_stopped(run, status, lines, output):
    """What a command leaves and says that was interrupted while it set a run up."""
    assert "Traceback" not in "\n".join(lines)
    if "trained 3 of 3 epochs" in output:
        return  # too late: only the interpreter was left to be interrupted
    assert len(lines) == 1, lines
    assert lines[0].startswith("convlstm: stopped")
    # Interrupted within `exec`, Python ends by the signal, which a shell shows as 130 too.
    assert status in (130, -signal.SIGINT)
    assert not run.exists() or (run / "config.yaml").exists()


@pytest.mark.long
def test_ctrl_c_at_any_moment_of_the_set_up_is_one_line(tmp_path):
    """Sixteen moments between the first line of the command and the end of a short run."""
    began = time.monotonic()
    whole = processes.Forked(processes.COMMAND, [*STARTED, "--out=whole"], tmp_path, HERE).finish()
    assert whole.returncode == 0, whole.stderr
    took = time.monotonic() - began
    for moment in range(16):
        begun = tmp_path / f"{moment}.begun"
        code = f"open({str(begun)!r}, 'w').close(); {processes.COMMAND}"
        process = processes.Forked(code, [*STARTED, f"--out={moment}"], tmp_path, HERE)
        until(begun.exists)  # the process is forked and has its own output
        time.sleep(0.05 + took * moment / 16)
        process.send_signal(signal.SIGINT)
        done = process.finish()
        # Python prints what is raised in a finaliser, as Lightning 2.5 has one, and goes on.
        shown = re.sub(r"Exception ignored in: .*?\nKeyboardInterrupt: *\n", "", done.stderr, flags=re.DOTALL)
        lines = [line for line in shown.splitlines() if line and not line.startswith("epoch ")]
        check_stopped(tmp_path / f"{moment}", done.returncode, lines, done.stdout)


@pytest.mark.long
def test_ctrl_c_while_libraries_are_imported_is_one_line(tmp_path):
    """In processes of their own, from when they load torch's library; earlier, Python itself still starts."""
    variables = os.environ | HERE | {"OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import lightning.pytorch"], check=True, env=variables)
    took = time.monotonic() - began
    for share in (0, 0.4):
        process = subprocess.Popen(
            [sys.executable, "-m", "convlstm", *STARTED, f"--out={share}"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
            # Whoever runs the tests in the background may have Ctrl-C ignored, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        loaded = Path(f"/proc/{process.pid}/maps")
        until(
            lambda loaded=loaded, process=process: (
                process.poll() is not None or "libtorch" in loaded.read_text()
            )
        )
        time.sleep(took * share)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
        lines = [line for line in errors.splitlines() if line and not line.startswith("epoch ")]
        check_stopped(tmp_path / f"{share}", process.returncode, lines, output)
