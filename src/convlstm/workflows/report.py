"""The report of a run."""

import os
from dataclasses import dataclass
from pathlib import Path

from convlstm.validation import check_path


@dataclass(frozen=True)
class Report(os.PathLike[str]):
    """A report on the disk.

    Args:
        path: the HTML file, which needs no network.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)


def report(run: str | os.PathLike[str]) -> Report:
    """Write a run's report, one HTML file that needs no network.

    Args:
        run: the run folder, or what `train` returned.

    Returns:
        The `Report`.
    """
    from convlstm.plots.report import write_report

    return Report(write_report(check_path(run, "RUN")))
