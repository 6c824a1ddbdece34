"""The folder of a run: where each thing lies, and what makes a folder a run."""

import csv
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from convlstm.atomic_write import Changes, remove_leftovers
from convlstm.errors import RunError


@dataclass(frozen=True)
class RunFolder:
    """The files of a run: their names, and what a command may make, replace or remove of them.

    A folder is a run once it holds ``config.yaml``, which is the first file to be written.

    Args:
        path: the folder.
        changes: what this process makes in it.
    """

    #: Everything that `train`, `evaluate` and `report` write.
    NAMES: ClassVar[tuple[str, ...]] = (
        *("config.yaml", "command.txt", "environment.json", "metrics.csv", "checkpoints", "logs", "model"),
        *("scores.json", "scores.csv", "cases.npz", "report.html"),
    )

    path: Path
    changes: Changes = field(default_factory=Changes, compare=False, repr=False)

    @property
    def config(self) -> Path:
        """Every option of the run, as ``--config`` takes it."""
        return self.path / "config.yaml"

    @property
    def commands(self) -> Path:
        """The commands that trained the run, one a line."""
        return self.path / "command.txt"

    @property
    def environment(self) -> Path:
        """Versions, machine, and where the user's own modules lay."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """Losses by epoch."""
        return self.path / "metrics.csv"

    @property
    def logs(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "logs"

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
        """Make the folder for a new run, or take one that holds none of a run's files.

        Raises:
            RunError: it already holds a run or a file of a run's names, or cannot be written.
        """
        if self.config.exists():
            raise RunError(
                f"a new run needs a folder without one; {self.path} already holds a run: go on with it "
                f"(convlstm train --resume {self.path}) or choose another --out"
            )
        check_free(self.path, "a new run")
        self.changes.folder(self.path)
        remove_leftovers(self.path, self.NAMES)

    def reopen(self) -> None:
        """Take a run that is there to train it further.

        Raises:
            RunError: the folder holds no run.
        """
        if not self.config.exists():
            raise RunError(
                f"a run to go on with must hold a config.yaml; {self.path} holds none: give an earlier --out"
            )
        remove_leftovers(self.path, self.NAMES)
        remove_leftovers(self.checkpoints, (self.last.name, self.best.name))
        remove_leftovers(self.model, ("config.json", "model.safetensors"))

    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from; None before the first epoch is complete.

        ``best.ckpt`` stands in for a missing ``last.ckpt``: it is written first, so that a run that was
        killed in between, in its first epoch, has it alone.

        Raises:
            RunError: the run was trained, and a checkpoint is missing without which it would start over or
                forget its best weights.
        """
        if self.best.exists():
            return self.last if self.last.exists() else self.best
        if self.last.exists():
            raise RunError(
                f"a run goes on with its best weights so far; {self.best} is missing: copy it back, or copy "
                f"{self.last} there to count its epoch as the best"
            )
        # The first epoch's row is written before its checkpoints.
        rows = self.metrics.read_bytes().count(b"\n") - 1 if self.metrics.exists() else 0
        if rows > 1 or self.model.exists():
            raise RunError(
                f"a run that was trained goes on from a checkpoint; {self.checkpoints} holds none: copy it "
                f"back, or train anew (convlstm train --config {self.config} --out ANOTHER)"
            )
        return None

    def write(self, path: Path, text: str) -> None:
        """Write a text file of the run, whole or not at all."""
        self.changes.write(path, text.encode())

    @property
    def modules(self) -> dict[str, Path]:
        """The folder that each module of the user's own lay in when the run was trained."""
        try:
            noted = json.loads(self.environment.read_text())["modules"]
            return {name: Path(at) for name, at in noted.items() if name.isidentifier() and "\0" not in at}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}  # made by hand, or by an earlier version

    def find_modules(self, trust: Iterable[str] = ()) -> None:
        """Put the folders of the user's own modules on the import path, where a module is not found without.

        Args:
            trust: packages whose code may run; the folder of any other is not used, nor one inside the run.

        Raises:
            RunError: a module is not found; the sentence says where it lay.
        """
        trusted = {name.partition(".")[0] for name in trust}
        for name, folder in self.modules.items():
            if name in sys.modules or find_spec(name) is not None:
                continue
            inside = folder.resolve().is_relative_to(self.path.resolve())
            if name in trusted and folder.is_absolute() and folder.is_dir() and not inside:
                sys.path.append(str(folder))
                continue
            raise RunError(
                f"the run {self.path} is made of classes of {name}, which is not found; it lay in {folder}: "
                f"make it importable (PYTHONPATH), or add --trust {name} to take it from there"
            )


def run_of(path: Path) -> RunFolder | None:
    """The run that a folder is, or whose model it is."""
    path = Path(path)
    for folder in (path, path.parent):
        run = RunFolder(folder)
        if run.config.exists() and (folder == path or run.model == path):
            return run
    return None


def check_free(folder: Path, what: str) -> None:
    """Check that a folder holds none of a run's files, whoever made them; others may lie in it.

    Args:
        folder: existing or not.
        what: is to be written into it, to open the message.

    Raises:
        RunError: it holds some.
    """
    held = [name for name in RunFolder.NAMES if os.path.lexists(folder / name)]
    if held:
        raise RunError(
            f"{what} must not replace files; {folder} holds {', '.join(held)} already: choose another --out"
        )


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a ``metrics.csv``, one per epoch; NaN for an empty or missing cell.

    Raises:
        RunError: unreadable, text where a number belongs, or no column ``epoch`` that rises.
    """
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), restkey="")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} must be readable text in UTF-8; received {error}: remove or correct it"
        ) from error
    rows: list[dict[str, float]] = []
    for row in reader:
        rows.append({})
        for name in reader.fieldnames or ():
            try:
                rows[-1][name] = float(row[name] or math.nan)
            except ValueError:
                raise RunError(
                    f"{path} must hold numbers; received {row[name]!r} as {name} on line {reader.line_num}: "
                    "remove that line"
                ) from None
    epochs = [row.get("epoch", math.nan) for row in rows]
    if not epochs or not all(map(math.isfinite, epochs)) or sorted(set(epochs)) != epochs:
        raise RunError(
            f"{path} must have a column epoch that rises from row to row; received {str(epochs)[:80]}: "
            "train again, or remove it"
        )
    return rows


def environment(*parts: dict[str, Any]) -> dict[str, Any]:
    """Versions, machine and time, as plain data, and the folders of the user's own modules.

    Args:
        parts: what the run is made of, as `arguments.describe` gives it.
    """
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
        "modules": {name: folder for part in parts for name, folder in _modules(part)},
    }


def _modules(described: Any) -> Iterator[tuple[str, str]]:
    """Module and folder of every class of the user's own in what `arguments.describe` gives."""
    if isinstance(described, list):
        for item in described:
            yield from _modules(item)
    if not isinstance(described, dict):
        return
    for item in described.values():
        yield from _modules(item)
    name = str(described.get("class", "")).partition(".")[0]
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    # A package without a file of its own has only a list of folders.
    place = Path(
        os.path.abspath(file or Path(next(iter(getattr(module, "__path__", [])), ""), "__init__.py"))
    )
    installed = {"site-packages", "dist-packages"} & set(place.parts) or name in sys.stdlib_module_names
    if module is not None and name not in ("convlstm", "__main__") and not installed:
        yield name, str(place.parents[1] if place.name == "__init__.py" else place.parent)


def command_line() -> str:
    """The command that is running, quoted so that a shell takes it."""
    program = Path(sys.argv[0]).name
    return " ".join(map(_quoted, ["convlstm" if program == "__main__.py" else program, *sys.argv[1:]]))


def _quoted(word: str) -> str:
    if all(not "\udc80" <= letter <= "\udcff" for letter in word):
        return shlex.quote(word)
    # Bytes that are not UTF-8 as text: $'...' is understood by bash, zsh and ksh.
    return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(word)) + "'"


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
