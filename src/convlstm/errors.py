"""Errors caused by arguments or files: each message states the rule, the value received and the remedy."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class ConvLSTMError(ValueError):
    """Base of every error this library raises about its input; the command line turns it into one line."""


class ShapeError(ConvLSTMError):
    """A tensor, array or state has the wrong rank, size, dtype or device."""


class OptionError(ConvLSTMError):
    """An option has a value outside what it allows, or a name that does not exist."""


class DataError(ConvLSTMError):
    """A file or an array of frames is missing, unreadable, too short or holds values that cannot be used."""


class RunError(ConvLSTMError):
    """A run folder, checkpoint or model folder cannot be used as asked."""


def check_name(value: str, allowed: Iterable[str], what: str) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Args:
        value: the name received.
        allowed: the names that exist.
        what: what is being named, to open the message ("loss", "precision").

    Raises:
        OptionError: with all allowed names and the nearest one.
    """
    names = sorted(allowed)
    if isinstance(value, str) and value in names:
        return value
    text = value if isinstance(value, str) else ""
    near = get_close_matches(text, names, n=1) or [name for name in names if text and name.startswith(text)]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = repr(value)[:80].partition("\n")[0]
    raise OptionError(f"{what} must be one of {', '.join(names)}; received {shown}{hint}")


def first_line(error: BaseException) -> str:
    """Message of an error, its first line alone; the name of its class if there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def is_out_of_memory(error: BaseException) -> bool:
    """True for what Python, numpy and torch raise when there is no memory left, on any device."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or "DefaultCPUAllocator: can't allocate memory" in str(error)


@contextmanager
def reading(
    path: Path | str,
    rule: str = "be a whole, readable file",
    remedy: str = "copy it again, or leave it out with --data.skip_bad",
    kind: type[ConvLSTMError] = DataError,
) -> Iterator[None]:
    """Translate whatever reading a file raises, as damaged files make libraries raise almost anything.

    Errors of this library and of packages that are not installed pass unchanged.

    Args:
        path: the file, which opens the message.
        rule: such as "be a readable JSON file".
        remedy: what to do.
        kind: of the error.

    Raises:
        ConvLSTMError: of that kind.
    """
    try:
        yield
    except (ConvLSTMError, ImportError):
        raise
    except Exception as error:
        raise kind(f"{path} must {rule}; reading gave '{first_line(error)}': {remedy}") from error
