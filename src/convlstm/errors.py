"""Errors caused by arguments or files: each message states the rule, the value received and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


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
