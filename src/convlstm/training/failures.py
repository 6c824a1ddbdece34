"""Errors of worker processes, other ranks and log files as one sentence each."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from subprocess import Popen
from threading import Event, Thread
from typing import Any

from convlstm.errors import ConvLSTMError, DataError, RunError, is_out_of_memory
from convlstm.training.run_folder import RunFolder

# Environment variable with the process id of rank 0, for the processes that Lightning starts for other ranks.
_RANK_ZERO = "CONVLSTM_RANK_ZERO"
_GRACE_S = 5.0
_TOO_LARGE = (
    "a training step must fit in memory, and it does not: lower --batch_size, or use --batch_size auto"
)
_RAISED = re.compile(r"Caught (\w+) in DataLoader worker process")
# The cause is not always in the text: torch reports a signal or an exit, whichever it notices first.
_DIED = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|is killed by signal)")


@contextmanager
def in_one_sentence(
    run: RunFolder, ranks: int = 1, too_large: Callable[[], str] = lambda: _TOO_LARGE
) -> Iterator[None]:
    """Turn what stops training from outside its own process into a sentence; other errors pass.

    Args:
        run: that is being trained.
        ranks: number of processes that train it.
        too_large: gives the sentence for a step that does not fit in memory.

    Raises:
        DataError: an error raised by a DataLoader worker.
        RunError: a worker or another rank that ended, logs that cannot be written, or no memory.
    """
    try:
        with _watching(_lost(run)) if ranks > 1 else nullcontext():
            yield
    except Exception as error:
        for cause in _chain(error):
            found = _translated(cause, run, ranks)
            if found is None and is_out_of_memory(cause):
                found = RunError(too_large())
            if found is error:
                raise
            if found is not None:
                # What closes down after an error may raise another, which says less.
                raise found from (None if found is cause else error)
        raise


def in_one_sentence_again(
    run: RunFolder, ranks: int, too_large: Callable[[], str]
) -> AbstractContextManager[None]:
    """`in_one_sentence` around itself: torch may raise a worker's death between the lines of the first."""
    return in_one_sentence(run, ranks, too_large) if ranks == 1 else nullcontext()


def _translated(error: BaseException, run: RunFolder, ranks: int) -> ConvLSTMError | None:
    """The error of this library that an error stands for; None for a defect of the code."""
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
    # A connection that breaks is the first sign of a worker that dies while it sends a batch.
    broken = isinstance(error, ConnectionError | EOFError) and ranks == 1
    if broken or _DIED.search(text):
        return RunError(
            "the processes that prepare windows must stay alive; one ended unexpectedly: free memory or use "
            "fewer workers"
        )
    if ranks > 1 and re.search("gloo|NCCL|[Cc]onnection (was|closed|reset)", text):
        return RunError(_lost(run))
    if isinstance(error, OSError) and error.filename is not None:
        place = os.path.abspath(os.fsdecode(error.filename))
        if place.startswith(os.path.abspath(run.logs) + os.sep):
            return RunError(
                f"{run.logs} must stay writable while a run is trained; the system says '{error.strerror}': "
                f"free space, leave the folder in place, and go on with convlstm train --resume {run.path}"
            )
    return None


def _lost(run: RunFolder) -> str:
    return (
        "all processes that train a run must stay alive; another one ended: see its message, if it gave "
        f"one, and go on with convlstm train --resume {run.path}"
    )


@contextmanager
def _watching(sentence: str) -> Iterator[None]:
    """End this process with a sentence if another rank has ended and nothing else has noticed.

    It may hang in a call that waits for the other one, out of reach of an exception. Lightning's own thread
    would kill it without a message.
    """
    from lightning.pytorch.strategies.launchers import subprocess_script

    launchers: Any = subprocess_script
    over = Event()

    def watch(ended: Callable[[], bool]) -> None:
        def wait() -> None:
            while not over.wait(1):
                # Most often an error of the connection follows within seconds, which says the same.
                if ended() and not over.wait(_GRACE_S):
                    sys.stderr.write(f"convlstm: error: {sentence}\n")
                    sys.stderr.flush()
                    os._exit(2)

        Thread(target=wait, daemon=True, name="other ranks").start()

    def observe(children: list[Popen[Any]]) -> None:
        watch(lambda: any(child.poll() for child in children))

    before = launchers._launch_process_observer
    launchers._launch_process_observer = observe
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[_RANK_ZERO] = str(os.getpid())
    else:
        parent = int(os.environ.get(_RANK_ZERO, os.getppid()))
        watch(lambda: os.getppid() != parent)
    try:
        yield
    finally:
        over.set()
        os.environ.pop(_RANK_ZERO, None)
        launchers._launch_process_observer = before


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from or during."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _message(text: str, name: str) -> str:
    """The message at the end of a printed traceback, its first line."""
    heads = list(re.finditer(rf"^(?:\w+\.)*{name}: ", text, re.MULTILINE))
    return text[heads[-1].end() :].strip().partition("\n")[0] if heads else "no message"
