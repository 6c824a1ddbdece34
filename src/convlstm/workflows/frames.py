"""Frames in place of a source: their path, or an array in memory."""

import glob
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import yaml

import convlstm.data
from convlstm.data import Archive, Mixture, Source
from convlstm.data.base import SPLITS
from convlstm.data.specification import Specification
from convlstm.errors import ConvLSTMError, RunError, reading
from convlstm.training.run_folder import RunFolder
from convlstm.workflows.configuration import is_array, read_yaml

_log = logging.getLogger("convlstm")
_ENDINGS = (
    *(".npy", ".npz", ".nc", ".nc4", ".h5", ".hdf", ".hdf5", ".zarr", ".grib", ".grib2", ".grb", ".gz"),
    *(".gif", ".png", ".jpg", ".tif", ".tiff", ".pgm", ".mp4", ".avi", ".mov", ".mkv"),
)


@contextmanager
def own_options(*names: str) -> Iterator[None]:
    """Errors that advise an option of training, --data.reader, advise that of a command, --reader.

    Args:
        names: of the options that the command has.

    Raises:
        ConvLSTMError: one that is raised inside.
    """
    try:
        yield
    except ConvLSTMError as error:
        text = re.sub(rf"--data\.({'|'.join(names)})\b", r"--\1", str(error))
        text = text.replace(", or leave it out with --data.skip_bad", "")  # where there is no such option
        if text == str(error):
            raise
        raise type(error)(text) from error


def is_frames(text: Any) -> bool:
    """True for the path of frames, False for the name of a class.

    A path exists, or has a separator, a wildcard or the ending of a file of frames.
    """
    if not isinstance(text, str) or text in convlstm.data.__all__:
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


def with_options_of(archive: "partial[Archive]", run: Any) -> "partial[Archive]":
    """An archive with the options that it, or every archive, has in the mixture that a run was trained on.

    Args:
        archive: whose path alone is given.
        run: the data of the run.
    """
    if getattr(run, "func", None) is not Mixture:
        return archive
    own = [one for one in run.keywords["archives"] if one["path"] == archive.keywords["path"]]
    return partial(Archive, **run.keywords["common"] | (own[0] if own else {}) | archive.keywords)


def as_source(data: Any) -> Any:
    """The source of frames that are given by their path or as an array; anything else as it is.

    Raises:
        DataError: as `Archive`.
    """
    if is_frames(data) or isinstance(data, os.PathLike | list | tuple) or is_array(data):
        return Archive(data)
    return data


def as_before(data: Source, run: RunFolder) -> Source:
    """Labelled data in the unit and scale that a run began with, although files may have been added since.

    Raises:
        RunError: the run was trained and says no longer in which, or its file is damaged; frames of its
            training are gone; data other than files that now have others.
        DataError: frames that do not fit it.
    """
    if not isinstance(data, Archive | Mixture) and data.specification is None:
        return data
    if not run.data.exists():
        if run.checkpoint() is None:
            return data
        raise RunError(
            f"a run on labelled frames goes on in their scale; {run.data}, which holds it, is missing: copy "
            "it back"
        )
    with reading(run.data, "be readable JSON", "copy the run again", RunError):
        plain = json.loads(run.data.read_text(encoding="utf-8"))
    stored = Specification.from_dict(plain)
    if not isinstance(data, Archive | Mixture):
        for name in ("units", "transform", "step_s", "variables", "inputs"):
            if (now := getattr(data.specification, name)) != (before := getattr(stored, name)):
                raise RunError(
                    f"a run goes on with the {name} that it began with, {before}; its data now have {now}: "
                    "give the same frames"
                )
        return data
    data = data.with_specification(stored, own=True)
    archives = [data] if isinstance(data, Archive) else data.archives
    before = [stored.splits[name][1] for name in SPLITS[:2]]
    now = [sum(len(one.window_frames(name)) for one in archives if one.has(name)) for name in SPLITS[:2]]
    if now[0] < before[0]:
        raise RunError(
            f"a run goes on with all frames that it began with; of its {before[0]} training windows {now[0]} "
            "are left: bring the missing files back, or begin another run"
        )
    if now != before:
        _log.warning(
            "the frames have changed since the run began, from %d training and %d validation windows to %d "
            "and %d; their scale stays",
            *(*before, *now),
        )
    return data
