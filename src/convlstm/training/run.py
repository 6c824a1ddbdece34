"""The folder of a run: where each thing lies, and what makes a folder a run."""

import csv
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from convlstm.errors import RunError
from convlstm.files import write_atomically, writing


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Every option of the run, as ``--config`` takes it."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Losses by epoch."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """Checkpoint of the last complete epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def best(self) -> Path:
        """Checkpoint of the epoch with the lowest validation loss."""
        return self.checkpoints / "best.ckpt"

    @property
    def model(self) -> Path:
        """Model folder with the best weights."""
        return self.path / "model"

    def start(self) -> None:
        """Make the folder for a new run.

        Raises:
            RunError: it already holds a run, or cannot be written.
        """
        if self.config.exists() or self.checkpoints.exists():
            raise RunError(
                f"a new run needs a folder without one; {self.path} already holds a run: go on with it "
                f"(convlstm train --resume {self.path}) or choose another --out"
            )
        with writing(self.path):
            self.checkpoints.mkdir(parents=True)

    def note(self, name: str, text: str) -> None:
        """Write a text file of the run, whole or not at all."""
        write_atomically(self.path / name, text.encode())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def environment() -> dict[str, Any]:
    """Versions, machine and time, as plain data."""
    import torch

    names = ("convlstm", "torch", "lightning", "numpy")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in names},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def command_line() -> str:
    """The command that is running, quoted so that a shell takes it."""
    program = Path(sys.argv[0]).name
    return shlex.join(["convlstm" if program == "__main__.py" else program, *sys.argv[1:]])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
