"""Commands in processes of their own that cost no import of torch and Lightning each.

They are forked from a process that has imported both and done nothing else, as `multiprocessing` keeps one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, set_start_method
from pathlib import Path

import torch

# The import path before any test adds to it.
_PATH = list(sys.path)
COMMAND = "import sys; from convlstm.cli.main import main; sys.exit(main())"
_FORKED = get_context("forkserver")
_FORKED.set_forkserver_preload(
    [
        *("pytest", "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.utils.tensorboard"),
        *("jsonargparse", "PIL.Image", "rich.progress", "sklearn.datasets", "yaml"),
        *(
            "convlstm.cli.main",
            "convlstm.cli.options",
            "convlstm.workflows.train",
            "convlstm.training.fit",
            "convlstm.training.tuning",
        ),
    ]
)


class Forked:
    """A running process with the same effect as ``python -c CODE WORDS``; used like `subprocess.Popen`.

    Args:
        code: Python's text; `COMMAND` is that of ``python -m convlstm``.
        words: follow the program's name in ``sys.argv``.
        folder: current folder of the process; its output is written beside it.
        variables: of the environment, added to those of this process.
    """

    def __init__(
        self, code: str, words: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        number = len(list(folder.parent.glob(f"{folder.name}.*.out")))
        self._output = [folder.parent / f"{folder.name}.{number}.{name}" for name in ("out", "err")]
        self._output[0].touch()
        arguments = (code, list(words), folder, dict(variables or {}), self._output, _PATH)
        self._process = _FORKED.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def finish(self, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Wait for its end; the status and what was printed."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s")
        out, err = (path.read_text() if path.exists() else "" for path in self._output)
        self._process.close()
        return subprocess.CompletedProcess([], status, out, err)


def command(
    words: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -m convlstm WORDS`` in a folder."""
    return Forked(COMMAND, words, folder, variables).finish()


def _run(
    code: str, words: list[str], folder: Path, variables: dict[str, str], output: list[Path], path: list[str]
) -> None:
    os.chdir(folder)
    os.environ.update(variables)
    for number, file in enumerate(output, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:] = ["", *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)), *path]
    sys.argv = ["convlstm", *words]
    torch.set_num_threads(1)
    # As in a program of its own; workers would otherwise belong to the server, and not end with this process.
    set_start_method("fork", force=True)
    exec(code, {"__name__": "__main__"})
