"""Attributes of HDF5 files."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import h5py

HDF5 = b"\x89HDF\r\n\x1a\n"
"""The first bytes of a file."""


def attribute(group: "h5py.Group", name: str) -> Any:
    """An attribute of one value, as text or as a number.

    Raises:
        KeyError: it is not there.
    """
    if name not in group.attrs:
        raise KeyError(f"no attribute {name} in {group.name}")
    value = np.ravel(group.attrs[name]).tolist()[0]
    return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else value
