"""Frames in place of a source: their path, or an array in memory."""

import glob
import os
from contextlib import suppress
from functools import partial
from typing import Any

import yaml

import convlstm.data
from convlstm.data import Archive
from convlstm.workflows.configuration import is_array, read_yaml

_ENDINGS = (
    *(".npy", ".npz", ".nc", ".nc4", ".h5", ".hdf", ".hdf5", ".zarr", ".grib", ".grib2", ".grb", ".gz"),
    *(".gif", ".png", ".jpg", ".tif", ".tiff", ".pgm", ".mp4", ".avi", ".mov", ".mkv"),
)


def is_frames(text: Any) -> bool:
    """True for the path of frames, False for the name of a class.

    A path exists, or has a separator, a wildcard or the ending of a file of frames.
    """
    if not isinstance(text, str) or hasattr(convlstm.data, text):
        return False
    like_path = os.sep in text or glob.has_magic(text) or text.lower().endswith(_ENDINGS)
    return like_path or os.path.exists(text)


def archive_of(value: Any) -> "partial[Archive] | None":
    """The source of frames that an option or a file names; None where it names a class.

    Args:
        value: a path or a pattern, a list of these, or such a list as text.
    """
    listed = value
    if isinstance(value, str) and value.startswith("["):
        with suppress(yaml.YAMLError):  # a pattern such as [0-9]*.nc
            listed = read_yaml(value)
    if isinstance(listed, list) and listed and all(map(is_frames, listed)):
        return partial(Archive, path=listed)
    return partial(Archive, path=value) if is_frames(value) else None


def as_source(data: Any) -> Any:
    """The source of frames that are given by their path or as an array; anything else as it is.

    Raises:
        DataError: as `Archive`.
    """
    if is_frames(data) or isinstance(data, os.PathLike | list | tuple) or is_array(data):
        return Archive(data)
    return data
