from pathlib import Path

import pytest
from radar_files import write_netcdf


@pytest.fixture
def radar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two NetCDF files of rain rates in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_netcdf(tmp_path / "radar")
    return tmp_path / "radar"
