"""Atomic writing of files, and undoing of what a call wrote."""

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from convlstm.errors import RunError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate an `OSError` into `RunError`.

    Raises:
        RunError: no permission, no space, a file where a folder should be.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} must be writable; the system says '{error.strerror or error}': free space, change its "
            "permissions or choose another place"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, now or after a crash, sees the old content or the new.

    A new file has the permissions that the umask leaves; one that is replaced keeps its own, as with ``cp``.
    A symbolic link is replaced, not followed.

    Raises:
        RunError: it cannot be written; nothing is left behind.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files, each as `write_atomically` does, and all of them or none if one cannot be written.

    All are written beside their places before the first is renamed, in the order given. A process that is
    killed between two renames leaves new files in front of old ones.

    Raises:
        RunError: one cannot be written; all stay as they were.
    """
    scratch: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with writing(path):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                beside = _beside(path)
                with beside.open("xb") as file:  # with the permissions of the umask, unlike tempfile
                    scratch[path] = beside
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                if path.is_file() and not path.is_symlink():
                    os.chmod(beside, stat.S_IMODE(path.stat().st_mode) & 0o777)
        for path, beside in scratch.items():
            with writing(path):
                os.replace(beside, path)
    except BaseException:
        for beside in scratch.values():
            beside.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A name beside a file or a folder for its new content, which takes its place when all is written.

    For libraries that write files themselves. What was there before is removed last; after an error it is as
    it was.

    Args:
        path: of the file or the folder.
        overwrite: replace a folder; otherwise one that another process makes meanwhile stays, and this one
            fails.

    Raises:
        RunError: it cannot be written; nothing is left behind.
    """
    scratch, old = _beside(path), _beside(path)
    try:
        with writing(path):
            yield scratch
            if overwrite and path.is_dir() and not path.is_symlink():  # not replaced in one step
                os.rename(path, old)
            os.replace(scratch, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        _remove(scratch)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A hidden name in the same folder, which `remove_leftovers` recognises."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder, by making one.

    Raises:
        RunError: it is missing, or files cannot be made in it.
    """
    with writing(folder), tempfile.TemporaryFile(dir=folder):
        pass


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of these names that killed processes left in a folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        leftover = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}", path.name)  # as `_beside` names them
        if leftover and leftover[1] in names and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


class Changes:
    """Files and folders that one call makes or replaces, so that exactly these can be put back."""

    def __init__(self) -> None:
        self._made: dict[Path, None] = {}  # in this order
        self._replaced: dict[Path, Path] = {}  # and the name that holds the file before it

    def folder(self, path: Path) -> None:
        """Make a folder, and those above it, where there is none.

        Raises:
            RunError: it cannot be made.
        """
        with writing(path):
            for place in reversed([path, *path.parents]):
                if place.is_dir():
                    continue
                if os.path.lexists(place):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
                place.mkdir(exist_ok=True)  # another process may just have made it
                self.made(place)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file by `write_atomically`.

        Raises:
            RunError: as `write_atomically`.
        """
        new = not os.path.lexists(path)
        if not new and path not in self._made and path not in self._replaced:
            with writing(path):
                self._replaced[path] = _held(path)
        write_atomically(path, content)
        if new:
            self.made(path)

    def made(self, path: Path) -> None:
        """Record a file that this call made by other means."""
        self._made.setdefault(path)

    def keep(self) -> None:
        """Leave everything so far as it is; `undo` will not change it."""
        for held in self._replaced.values():
            with suppress(OSError):
                held.unlink()
        self._made.clear()
        self._replaced.clear()

    def undo(self) -> None:
        """Remove what was made, folders only if nothing else lies in them; put back what was replaced.

        It takes no space and raises nothing: what cannot be removed or put back stays.
        """
        for path, held in self._replaced.items():
            with suppress(OSError):
                os.replace(held, path)
        self._replaced.clear()  # those that could not be put back stay held
        for path in reversed(self._made):
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink()
        self.keep()


def _held(path: Path) -> Path:
    """A second name of a file under which it stays when the first is replaced; a copy where links are not."""
    beside = _beside(path)
    try:
        os.link(path, beside, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, beside, follow_symlinks=False)
    return beside
