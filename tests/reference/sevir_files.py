"""Files as SEVIR's are, and their catalogue."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def write_sevir(path: Path, codes: NDArray[Any], rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """Codes (N, H, W, T) uint8 of events as a file; a catalogue in the folder of ``data`` if there are rows.

    Args:
        path: ends in data/vil/2019/NAME.h5.
        codes: of the events.
        rows: of the catalogue, with id, file_index, time_utc and, where it is not 0, pct_missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["id"] = np.array([f"S{k}".encode() for k in range(len(codes))])
        file.create_dataset("vil", data=codes, chunks=(1, *codes.shape[1:]), compression="gzip")
    if rows is not None:
        with (path.parents[3] / "CATALOG.csv").open("w", newline="") as table:
            names = ["id", "file_name", "file_index", "img_type", "time_utc", "pct_missing"]
            writer = csv.DictWriter(table, names)
            writer.writeheader()
            vil = {"file_name": f"vil/2019/{path.name}", "img_type": "vil", "pct_missing": 0.0}
            infrared = {"file_name": "ir069/2019/other.h5", "img_type": "ir069", "pct_missing": 0.0}
            for row in rows:
                writer.writerows([vil | row, infrared | row])
    return path
