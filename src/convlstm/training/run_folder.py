"""The folder of a run: the names of its files, and the rules for a folder that becomes one."""

import csv
import json
import logging
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from convlstm.atomic_write import Changes, remove_leftovers
from convlstm.errors import ConvLSTMError, RunError
from convlstm.model_folder import CONFIG, RUN_CONFIG, RUN_MODEL, WEIGHTS

_ENVIRONMENT = "environment.json"
_added: list[tuple[str, str]] = []  # modules and their folders on the import path, of the calls in progress
_log = logging.getLogger("convlstm")


@dataclass(frozen=True)
class _Name:
    """The name of a file or a folder in a run; read from a `RunFolder` it is the path."""

    name: str

    def __get__(self, run: "RunFolder", kind: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The files of a run: their names, and what a command may make, replace or remove of them.

    A folder is a run once it holds ``config``, which is the first file to be written.

    Args:
        path: the folder.
        changes: what this process makes in it.
    """

    config = _Name(RUN_CONFIG)  #: Every option of the run, as ``--config`` takes it.
    data = _Name("data.json")  #: What was decided about labelled data: unit, scale, grid, splits.
    commands = _Name("command.txt")  #: The commands that trained the run, one a line.
    environment = _Name(_ENVIRONMENT)  #: Versions, machine, folders of the user's own modules.
    metrics = _Name("metrics.csv")  #: Losses by epoch.
    logs = _Name("logs")  #: Folder of TensorBoard's event files.
    checkpoints = _Name("checkpoints")  #: Folder of the two checkpoints.
    last = _Name("checkpoints/last.ckpt")  #: Checkpoint of the last epoch, complete or not.
    best = _Name("checkpoints/best.ckpt")  #: Checkpoint of the epoch with the lowest validation loss.
    model = _Name(RUN_MODEL)  #: Model folder with the best weights.
    scores = _Name("scores.json")  #: Scores over the test windows.
    scores_table = _Name("scores.csv")  #: The same, one value a row.
    cases = _Name("cases.npz")  #: Best, median and worst case.
    report = _Name("report.html")
    past = _Name("past.npy")  #: Frames that the demonstration forecasts from, and its pictures.
    strip = _Name("strip.png")
    animation = _Name("forecast.gif")
    picture = _Name("forecast.png")

    path: Path
    changes: Changes = field(default_factory=Changes, compare=False, repr=False)

    #: Everything that `train`, `evaluate` and `report` write, and what `demo` adds.
    NAMES: ClassVar[tuple[str, ...]] = tuple(
        file.name
        for file in (
            *(config, data, commands, environment, metrics, checkpoints, logs, model),
            *(scores, scores_table, cases, report),
        )
    )
    PICTURES: ClassVar[tuple[str, ...]] = tuple(file.name for file in (past, strip, animation, picture))

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
                f"a run to go on with must hold a {RUN_CONFIG}; {self.path} holds none: give an earlier --out"
            )
        remove_leftovers(self.path, self.NAMES)
        remove_leftovers(self.checkpoints, (self.last.name, self.best.name))
        remove_leftovers(self.model, (CONFIG, WEIGHTS))

    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from; None before the first one.

        ``best.ckpt`` stands in for a missing ``last.ckpt``: it is written first, so that a run that was
        killed in between, in its first epoch, has it alone. ``last.ckpt`` alone is one of the first epoch.

        Raises:
            RunError: the run was trained, and a checkpoint is missing without which it would start over or
                forget its best weights.
        """
        if self.best.exists():
            return self.last if self.last.exists() else self.best
        # The first epoch's row is written before its checkpoints.
        rows = self.metrics.read_bytes().count(b"\n") - 1 if self.metrics.exists() else 0
        trained = rows > 1 or self.model.exists()
        if self.last.exists():
            if trained:
                raise self.without_best()
            return self.last
        if trained:
            raise RunError(
                f"a run that was trained goes on from a checkpoint; {self.checkpoints} holds none: copy it "
                f"back, or train anew (convlstm train --config {self.config} --out ANOTHER)"
            )
        return None

    def without_best(self) -> RunError:
        """The error of a run whose best checkpoint is gone."""
        return RunError(
            f"a run goes on with its best weights so far; {self.best} is missing: copy it back, or copy "
            f"{self.last} there to count its epoch as the best"
        )

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

        They stay there until the end of `import_path`.

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
                _log.warning("%s is imported from %s, as %s says", name, folder, self.environment)
                sys.path.append(str(folder))
                _added.append((name, str(folder)))
                continue
            hint = "" if name in trusted else f", or add --trust {name} to take it from there"
            raise RunError(
                f"the run {self.path} is made of classes of {name}, which is not found; it lay in {folder}: "
                f"make it importable (PYTHONPATH){hint}"
            )


@contextmanager
def import_path() -> Iterator[None]:
    """Take the folders that `RunFolder.find_modules` adds to the import path off again, at the end of a call.

    Raises:
        ConvLSTMError: one that is raised inside; one about a module from these folders names its folder.
    """
    before = len(_added)
    try:
        yield
    except ConvLSTMError as error:
        for name, folder in _added[before:]:
            if f"{name}." in str(error):
                raise type(error)(
                    f"{error}; {name} is that of {folder}, as the run's {_ENVIRONMENT} says"
                ) from error
        raise
    finally:
        while len(_added) > before:
            with suppress(ValueError):
                sys.path.remove(_added.pop()[1])


def run_of(path: Path) -> RunFolder | None:
    """The run that a folder is, or whose model it is."""
    path = Path(path)
    for folder in (path, path.parent):
        run = RunFolder(folder)
        if run.config.exists() and (folder == path or run.model == path):
            return run
    return None


def check_free(folder: Path, what: str, names: Iterable[str] = RunFolder.NAMES) -> None:
    """Check that a folder holds no files of these names, whoever made them; others may lie in it.

    Args:
        folder: existing or not.
        what: is to be written into it, to open the message.
        names: of the files, those of a run unless given.

    Raises:
        RunError: it holds some.
    """
    held = [name for name in names if os.path.lexists(folder / name)]
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
        parts: what the run is made of, as `hyperparameters.describe` gives it.
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
    """Module and folder of every class of the user's own in what `hyperparameters.describe` gives."""
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
    name = re.search(r"^model name\s*: (.*)", info.read_text() if info.exists() else "", re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()
