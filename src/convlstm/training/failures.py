"""Errors of worker processes, other ranks and log files as one sentence each."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from convlstm.errors import ConvLSTMError, DataError, RunError
from convlstm.training.run import RunFolder

_RAISED = re.compile(r"Caught (\w+) in DataLoader worker process")
_DIED = re.compile(
    r"DataLoader worker \(pid[^)]*\)*\s*[\d, ]*\)? (exited unexpectedly|is killed by signal: [\w ]+)"
)


@contextmanager
def in_one_sentence(run: RunFolder, ranks: int = 1) -> Iterator[None]:
    """Turn what stops training from outside its own process into a sentence; other errors pass.

    Args:
        run: that is being trained.
        ranks: number of processes that train it.

    Raises:
        DataError: an error raised by a DataLoader worker.
        RunError: a worker or another rank that ended, or logs that cannot be written.
    """
    try:
        yield
    except Exception as error:
        for cause in _chain(error):
            told = _told(cause, run, ranks)
            if told is error:
                raise
            if told is not None:
                # What closes down after an error may raise another, which says less.
                raise told from (None if told is cause else error)
        raise


def _told(error: BaseException, run: RunFolder, ranks: int) -> ConvLSTMError | None:
    text = str(error)
    if raised := _RAISED.match(text):
        message = _message(text, raised[1])
        if isinstance(error, ConvLSTMError):
            return type(error)(message)
        return DataError(
            f"windows must be prepared without errors; a worker gave {raised[1]}: {message}: --debug shows "
            "where"
        )
    if isinstance(error, ConvLSTMError):
        return error
    if died := _DIED.search(text):
        return RunError(
            f"the processes that prepare windows must stay alive; one {died[1].strip()}: free memory or use "
            "fewer workers"
        )
    if ranks > 1 and re.search("gloo|NCCL|[Cc]onnection (closed|reset)|Broken pipe", text):
        return RunError(
            "all processes that train a run must stay alive; another one ended: see its message, if it gave "
            f"one, and go on with convlstm train --resume {run.path}"
        )
    if isinstance(error, OSError) and error.filename is not None:
        place = os.path.abspath(os.fsdecode(error.filename))
        if place.startswith(os.path.abspath(run.logs) + os.sep):
            return RunError(
                f"{run.logs} must stay writable while a run is trained; the system says '{error.strerror}': "
                f"free space, leave the folder in place, and go on with convlstm train --resume {run.path}"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from or during."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _message(text: str, name: str) -> str:
    """The message at the end of a printed traceback, its first line."""
    heads = list(re.finditer(rf"^(?:\w+\.)*{name}: ", text, re.MULTILINE))
    return text[heads[-1].end() :].strip().partition("\n")[0] if heads else "no message"
