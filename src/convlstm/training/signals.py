"""Handlers of signals around a training; `callbacks.Terminable` has those in it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C mean what it means in Python, and put back the handlers of signals.

    Lightning ends the process when it is interrupted, and ignores the signal from then on; see `Terminable`.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        # No other thread may set handlers, nor does Lightning there; None is one that Python did not set.
        for number, handler in handlers.items():
            if handler is not None and current_thread() is main_thread():
                signal.signal(number, handler)


@contextmanager
def ignoring_ended_workers() -> Iterator[None]:
    """Ignore the signal of a worker that ends, for which torch raises an error at whatever line runs."""
    if not hasattr(signal, "SIGCHLD") or current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)  # None: not set in Python
