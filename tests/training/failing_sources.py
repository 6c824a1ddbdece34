"""Sources that fail in ways of their own once training has begun, for tests of what a command says."""

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from convlstm import MovingObjects
from convlstm.data import LabelledWindow, Window, WindowDataset
from convlstm.errors import DataError

SIZES: dict[str, Any] = {"canvas": 16, "object_size": 8, "count": 1, "past": 3, "steps": 3, "train_size": 16}


def _raise_in_lines() -> None:
    raise ValueError("a bad\nwindow")


def _refuse() -> None:
    raise DataError("frames must be nice; received ugly ones: paint them")


def _miss_a_key() -> None:
    raise KeyError("missing")


def _lose_ctrl_c() -> None:
    """As in a finaliser, whose errors Python drops."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def _lose_ctrl_c_and_fail() -> None:
    _lose_ctrl_c()
    raise RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly")


HOW: dict[str, Callable[[], object]] = {
    "not": lambda: None,
    "exits": lambda: os._exit(3),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raises": _raise_in_lines,
    "raises with a key": _miss_a_key,
    "refuses": _refuse,
    "loses Ctrl-C": _lose_ctrl_c,
    "loses Ctrl-C, at which workers end": _lose_ctrl_c_and_fail,
    "asks torch for memory": lambda: torch.empty(10**15),
    "asks numpy for memory": lambda: np.empty(10**15),
}


class Failing(MovingObjects):
    """Fails at the second batch of an epoch of training, in whatever process prepares it.

    Args:
        how: of `HOW`, in the first epoch; or a run, whose logs vanish in the second.
    """

    def __init__(self, how: str) -> None:
        super().__init__(**SIZES, validation_size=4, test_size=4)
        self.how = how

    def split(self, name: Literal["train", "validation", "test"]) -> WindowDataset:
        windows, how = super().split(name), self.how
        first = 8 if how in HOW else 24

        class Fails(WindowDataset):
            def __len__(self) -> int:
                return len(windows)

            def __getitem__(self, index: int) -> Window | LabelledWindow:
                if name == "train" and index >= first:
                    HOW.get(how, lambda: shutil.rmtree(Path(how) / "logs", ignore_errors=True))()
                return windows[index]

        # Drawn in their order, so that checks before training meet none of these.
        Fails.endless = True
        return Fails()
