"""The ``convlstm`` command: its overview, error sentences and exit status."""

import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches

from convlstm import __version__
from convlstm.errors import ConvLSTMError, OptionError, RunError, is_out_of_memory
from convlstm.extras import install_hint

#: Commands and their lines in the overview; nothing is imported before one is chosen.
COMMANDS = {
    "describe": "what is in some files of frames, and what to type next",
    "models": "the forecasters to train, with their sizes and sources",
    "plan": "parameters, operations and memory of a model for frames of a size",
    "train": "train a forecaster into a run folder",
    "evaluate": "score a trained model beside the baselines",
    "forecast": "forecast the frames that follow those in a file",
    "inspect": "show the inside of a forecast step by step, one HTML file",
    "report": "write a run's report, one HTML file",
    "demo": "learn to forecast moving digits, or rain, verify, report: a few minutes",
}

#: Turns for which a thread of libgomp, torch's OpenMP on Linux, waits for the others before it sleeps, if the
#: user has not set it. By default it waits so long that on cores which other programs use too a training step
#: takes 50 times as long, EncoderForecaster beside two jobs on two cores 24.6 s in place of 0.49 s; alone on
#: them it takes the same time with either (0.23 to 0.25 s).
SPIN_COUNT = "1000"

OVERVIEW = """\
usage: convlstm COMMAND [OPTIONS]

Convolutional recurrent networks that forecast sequences of frames.

commands:
{}

options:
  -h, --help     this page, or that of a command: convlstm train --help
  --version      the version
  --debug        with any command: the traceback of an error

examples:
  convlstm train --out runs/a --data.canvas 32 --epochs 5
  convlstm forecast runs/a frames.npy --steps 10 --out next.gif"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: what follows ``convlstm``; that of this process if None.

    Returns:
        0, or 2 after an error in what was given, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold bytes that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    log, printer = logging.getLogger("convlstm"), _Printer()
    log.addHandler(printer)
    log.setLevel(logging.INFO)
    try:
        return _run([word for word in words if word != "--debug"])
    except SystemExit as end:
        if end.code:
            raise
        return 0  # after the help of a class, --model.cell.help ConvLSTMCell
    except BrokenPipeError:
        # The reader of a pipe has exited, as in `convlstm evaluate RUN | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        return _stopped(str(stop))
    except Exception as error:
        # An extension module that is interrupted while it is imported raises an ImportError.
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            return _stopped("")
        sentence = _sentence(error)
        if sentence is None:
            raise
        if "--debug" in words:
            traceback.print_exc()
        line = " ".join(sentence.split()).encode(errors="backslashreplace").decode()  # names may be any bytes
        print(f"convlstm: error: {line}", file=sys.stderr)
        return 2
    finally:
        log.removeHandler(printer)


class _Printer(logging.Handler):
    """Prints messages of the library, warnings to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        warning = record.levelno >= logging.WARNING
        prefix, stream = ("convlstm: ", sys.stderr) if warning else ("", sys.stdout)
        print(f"{prefix}{record.getMessage()}", file=stream, flush=True)


def _stopped(reason: str) -> int:
    after_echo = "\n" if sys.stderr.isatty() else ""
    print(f"{after_echo}convlstm: {reason or 'stopped'}", file=sys.stderr)
    return 130


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(OVERVIEW.format("\n".join(f"  {name:10}{line}" for name, line in COMMANDS.items())))
        return 0
    if words[0] == "--version":
        print(f"convlstm {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see convlstm --help"
        raise OptionError(f"a command must be one of {', '.join(COMMANDS)}; received {name!r}: {hint}")
    for word in words:
        if any("\udc80" <= letter <= "\udcff" for letter in word):
            raise OptionError(
                f"what is typed must be UTF-8; received {word!a}: rename the file, or change into its folder "
                "and give the rest of the path"
            )
        if "\0" in word or word.count(os.sep) > 500:  # a path of more folders overflows Python's stack
            raise OptionError(
                f"a path must have fewer folders and no null characters; received {word[:99]!r}"
            )
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise RunError(
            "the current folder must exist; it was deleted or moved: change to another one (cd)"
        ) from None
    if here not in sys.path:
        sys.path.append(here)  # the user's own models and cells may lie where the command is given
    # libgomp reads both when torch loads it, and takes the count before the policy.
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    from convlstm.cli import commands
    from convlstm.cli.options import Command

    Command(name).call(getattr(commands, name), words[1:])
    return 0


def _sentence(error: Exception) -> str | None:
    """The message of an error in what was given or of the machine; None for a defect."""
    if isinstance(error, ConvLSTMError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        hint = install_hint(missing)
        return hint and f"this command needs {missing}, which is not installed: {hint}"
    if is_out_of_memory(error):
        return "the batch must fit in memory, and it does not: lower --batch_size, or use --batch_size auto"
    if isinstance(error, OSError) and error.strerror:
        place = (
            f"{error.filename} must be usable" if error.filename else "files must be readable and writable"
        )
        return f"{place}; the system says '{error.strerror}': free space, change permissions or the path"
    return None
