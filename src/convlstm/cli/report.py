"""``convlstm report``."""

from pathlib import Path

from convlstm.atomic_write import given_path


def report(run: Path) -> Path:
    """Write a run's report, one HTML file that needs no network.

    Args:
        run: the run folder.

    Returns:
        The path of the report.
    """
    from convlstm.plots.report import write_report

    path = write_report(given_path("RUN", run))
    print(f"the report is {path}")
    return path
