"""Files of an archive: which they are, and which reader reads them."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from inspect import isroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from convlstm.data.files import by_number, check_endings
from convlstm.data.readers import READERS
from convlstm.data.readers.base import Reader
from convlstm.data.readers.gridded import labelled_dataset
from convlstm.errors import ConvLSTMError, DataError, OptionError, check_name, reading
from convlstm.trust import is_dotted
from convlstm.validation import check_callable, check_path, received

if TYPE_CHECKING:
    import xarray as xr

Read: TypeAlias = "Callable[[Path], xr.Dataset]"

_NAMES = tuple(each.name for each in READERS)
_HEAD = 4096  # bytes by which a reader recognises a file


def as_dataset(frames: "xr.DataArray | xr.Dataset") -> "xr.Dataset":
    """A data set of one variable, or the data set that is given."""
    import xarray as xr

    if not isinstance(frames, xr.Dataset):
        frames = frames.to_dataset(name=frames.name if frames.name is not None else "frames")
    return frames.rename({name: str(name) for name in frames.data_vars if not isinstance(name, str)})


def discover(
    path: Any, reader: "str | Callable[[Path], Any] | None" = None
) -> "tuple[list[Path], str, Read]":
    """Find the files of an archive and the reader of the first one that some reader recognises.

    Of a folder, files count that end as that one or are recognised by its reader: no notes, no checksums.

    Args:
        path: a file, a folder, a pattern, or a list of these.
        reader: a reader's name, a function from a path to a DataArray, or its dotted path; None to find it.

    Returns:
        The files in the order of the numbers in their names, the name of the reader, and what reads a file.

    Raises:
        DataError: no files, or none that a reader recognises.
        OptionError: there is no such reader, or no such function.
    """
    files: dict[Path, bool] = {}  # True for those that were named, not found in a folder
    spelled: dict[tuple[str, str], Path] = {}
    for each in path if isinstance(path, list | tuple) else [path]:
        place = check_path(each, "path of frames")
        matches = [place] if place.exists() else map(Path, sorted(glob.glob(str(each), recursive=True)))
        for match in matches:
            for each_file in _walk(match):  # one file under the first spelling of its folder
                place_of = os.path.realpath(each_file.parent), each_file.name
                file = spelled.setdefault(place_of, each_file)
                files[file] = each_file == match or files.get(file, False)
    if not files:
        raise DataError(f"frames must come from existing files; none match {received(path)}: check the path")
    if isinstance(reader, str) and "." in reader and is_dotted(reader):
        reader = _imported(reader)
    if reader is not None and not isinstance(reader, str):
        name = f"{reader.__module__}.{reader.__qualname__}" if isroutine(reader) else received(reader)
        return _in_order(files), name, _own(check_callable(reader, "reader"), name)
    if reader is not None:
        check_name(reader, _NAMES, "reader")
    readers = [each for each in READERS if reader in (None, each.name)]
    for file in files:
        for each in readers:
            if _recognises(each, file):
                inside = [f for f in files if files[f] or _belongs(f, file, each)]
                if each.name == "images":
                    check_endings([f for f in inside if not files[f]])
                return _in_order(inside), each.name, each.read
    kind = f"that the reader {reader} recognises" if reader else f"that one of {', '.join(_NAMES)} recognises"
    raise DataError(
        f"a file of frames must be whole and of a format {kind}; {next(iter(files))} is not: convert it, or "
        "give --data.reader the dotted path of a function that reads it"
    )


def _belongs(file: Path, first: Path, reader: Reader) -> bool:
    if any(file.match(pattern) for pattern in reader.beside):
        return False
    return file.suffix == first.suffix or _recognises(reader, file)


def _recognises(reader: Reader, path: Path) -> bool:
    if path.is_dir():
        return reader.recognises(path, b"")
    if not path.is_file():  # a pipe would wait for its writer, a link may lead nowhere
        return False
    with reading(path), path.open("rb") as file:
        head = file.read(_HEAD)
    try:
        return reader.recognises(path, head)
    except (ConvLSTMError, ImportError):
        raise
    except Exception:  # damaged files make libraries raise almost anything
        return False


def _walk(path: Path) -> Iterator[Path]:
    """The files of a folder and the folders in it; a folder that a reader recognises counts as a file."""
    if not path.is_dir() or any(each.recognises(path, b"") for each in READERS):
        yield path
        return
    for inside in sorted(path.iterdir()):
        around = inside.is_symlink() and inside.is_dir() and path.resolve().is_relative_to(inside.resolve())
        if not (inside.name.startswith(".") or around):  # a link to a folder around it has no end
            yield from _walk(inside)


def _in_order(files: Iterable[Path]) -> list[Path]:
    """Files by the numbers in the names of their folders, and in a folder by those in their own."""
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    ordered: list[Path] = []
    numbers = by_number([str(folder) for folder in folders])
    for _, folder in sorted(zip(numbers, folders, strict=True)):
        # The numbers of out.1 and out.10 are no endings.
        stems = [file.name if file.suffix[1:].isdigit() else file.stem for file in folders[folder]]
        keys = by_number(stems)
        ordered += [file for _, file in sorted(zip(keys, folders[folder], strict=True))]
    return ordered


def _imported(dotted: str) -> Callable[[Path], Any]:
    """The user's function under a dotted path."""
    module, _, name = dotted.rpartition(".")
    try:
        return check_callable(getattr(import_module(module), name), "reader")
    except Exception as error:  # the user's module may raise anything
        raise OptionError(
            f"reader must be a name ({', '.join(_NAMES)}) or the dotted path of a function; importing "
            f"{dotted!r} gave '{type(error).__name__}: {error}': check the spelling, or run where it can "
            "be found"
        ) from error


def _own(function: Callable[[Path], Any], name: str) -> "Read":
    """The user's function from a path to a DataArray as one to a Dataset."""
    import xarray as xr

    def read(path: Path) -> xr.Dataset:
        with reading(path):
            frames = function(path)
            if not isinstance(frames, xr.DataArray | xr.Dataset):
                raise OptionError(
                    f"a reader must return an xarray.DataArray; {name} returned {received(frames)}: give "
                    "it dims such as ('time', 'y', 'x')"
                )
            return labelled_dataset(as_dataset(frames), path)

    return read
