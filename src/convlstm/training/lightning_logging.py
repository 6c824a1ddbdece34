"""Lightning's messages and its handlers of signals, switched off."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's tips, its warnings on hardware and workers, and the thread of TensorBoard."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    hook = threading.excepthook

    def all_but_tensorboard(failed: threading.ExceptHookArgs) -> None:
        # Its error is raised again in the thread that logs.
        if type(failed.thread).__name__ != "_AsyncWriterThread" or not issubclass(failed.exc_type, OSError):
            hook(failed)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        threading.excepthook = all_but_tensorboard
        try:
            yield
        finally:
            threading.excepthook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)
