"""Writing files so that nothing is ever half written."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convlstm.errors import RunError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says no to into one sentence.

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
    """Write a file so that whoever reads it, now or after a crash, sees the old content or the new.

    Raises:
        RunError: it cannot be written; nothing is left behind.
    """
    with writing(path):
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(scratch, 0o644)
            os.replace(scratch, path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
