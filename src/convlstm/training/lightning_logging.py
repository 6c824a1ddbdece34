"""Lightning's messages, switched off."""

import logging
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
