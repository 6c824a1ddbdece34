"""Content and attributes of HDF5 files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import h5py

_HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of a file


def holds(path: Path, head: bytes, test: "Callable[[h5py.File], bool]") -> bool:
    """True for a file, given its first bytes, that is HDF5 and passes a test; False for damaged ones."""
    import h5py

    if not head.startswith(_HDF5):
        return False
    try:
        with h5py.File(path) as file:
            return test(file)
    except (OSError, KeyError):
        return False


def attribute(group: "h5py.Group", name: str) -> Any:
    """An attribute of one value, as text or as a number.

    Raises:
        KeyError: it is not there.
    """
    if name not in group.attrs:
        raise KeyError(f"no attribute {name} in {group.name}")
    value = np.ravel(group.attrs[name]).tolist()[0]
    return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else value


def fill_of(path: Path, name: str) -> Any:
    """The value that stands for those of a variable that were not written."""
    import h5py

    with h5py.File(path) as file:
        return file[name].fillvalue
