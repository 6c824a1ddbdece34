"""Cache of compiled libraries on disk, of which only files written by the user's own processes are loaded.

A library is code that runs. So the folder must be the user's own and closed to others, and a file in it is
loaded only if the digest of its content is the one in its name: a file truncated by a crash or a full disk
would end the process with a signal.
"""

import ctypes
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from convlstm.engines.cpu.compiler import warn_once

_WORK = "build-"  # and eight characters: a folder in which a library is built
_ABANDONED = 3600  # age in seconds of a folder that a killed build has left


def load_library(key: str, build: Callable[[Path], None]) -> ctypes.CDLL:
    """The library with a key, built first unless the cache has an intact one.

    If the cache cannot be used, of which it warns once, it is built in a temporary folder. That is removed at
    once: this process and its forks keep the library in memory.

    Args:
        key: digest of all that the library is built from.
        build: writes the library to a path.

    Raises:
        OSError: the library can be neither built nor loaded anywhere; and what ``build`` raises.
    """
    folder = None
    try:
        folder = _own_folder()
        if (found := _cached(folder, key)) is not None:
            return found
        _remove_abandoned(folder)
        work = tempfile.mkdtemp(prefix=_WORK, dir=folder)
    except OSError as error:
        folder = None
        _warn(error)
        work = tempfile.mkdtemp(prefix="convlstm-")
    try:
        made = Path(work) / "library.so"
        build(made)
        library = ctypes.CDLL(str(made))
        if folder is not None:
            try:
                _store(made, folder, key)
            except OSError as error:
                _warn(error)
        return library
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _warn(error: OSError) -> None:
    warn_once(
        "convlstm compiles its kernels again in each process, because they cannot be kept: "
        f"{error.strerror or error}{'' if error.filename is None else f' ({os.fspath(error.filename)!r})'}; "
        "mend that, or set XDG_CACHE_HOME to another folder of your own"
    )


def _own_folder() -> Path:
    """The folder of the cache, created if it does not exist.

    Raises:
        OSError: it cannot be made, or others may have written to it.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # to be ignored, by the XDG specification
        base = os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise OSError("there is no home folder")
    folder = Path(base) / "convlstm"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{folder} must be a folder, and is a link or a file")
    if found.st_uid != os.geteuid():
        raise OSError(f"{folder} must be your own, and belongs to the user with number {found.st_uid}")
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise OSError(f"{folder} must be closed to other users (mode 700), and its mode is {mode:o}")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise OSError(f"{folder} is on a file system that is mounted noexec")
    return folder


def _cached(folder: Path, key: str) -> ctypes.CDLL | None:
    """The cached library with a key; None without one that is the user's own, intact and loadable."""
    for path in sorted(folder.glob(f"{key}-*.so")):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            continue
        if path.name == _name(key, path.read_bytes()):
            with suppress(OSError):
                return ctypes.CDLL(str(path))
    return None


def _store(made: Path, folder: Path, key: str) -> None:
    """Move a library into the cache atomically, replacing a damaged one."""
    made.chmod(0o700)
    with made.open("rb") as file:
        os.fsync(file.fileno())
        name = _name(key, file.read())
    made.replace(folder / name)


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(key.encode() + content).hexdigest()}.so"


def _remove_abandoned(folder: Path) -> None:
    """Remove folders that killed builds have left in the cache."""
    for path in folder.glob(_WORK + "?" * 8):
        with suppress(OSError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and time.time() - found.st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
