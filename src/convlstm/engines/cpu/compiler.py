"""The machine's C++ compiler: ``$CXX``, or else the first on the PATH."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

import convlstm.engines.config as config

_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math"]
_TIMEOUT = 300  # seconds


class CompilerError(Exception):
    """The compiler is missing or fails; the message is the reason, as the end of a sentence."""


@cache
def warn_once(message: str) -> None:
    """Warn once in a process."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def unavailable() -> str | None:
    """The reason why nothing can be compiled here, or None."""
    if sys.platform == "win32":
        return "no compiler is supported on Windows"
    found = _compiler()
    return found if isinstance(found, str) else None


def compile_library(source: Path, defines: Sequence[str], library: Path) -> None:
    """Compile a C++ file into a shared library for this processor.

    Args:
        source: the file.
        defines: macros, as options of the compiler.
        library: the path of the result.

    Raises:
        CompilerError: the compiler is missing or fails.
    """
    command, _ = _command()
    openmp = _openmp()
    try:
        _run([*command, *defines, str(source), *openmp, "-o", str(library)])
    except CompilerError:
        if not openmp:
            raise
        _run([*command, *defines, str(source), "-o", str(library)])  # without threads


def library_key(source: Path, defines: Sequence[str]) -> str:
    """Digest of all inputs of `compile_library`, headers beside the source included.

    Raises:
        CompilerError: the compiler is missing or fails.
    """
    command, macros = _command()
    sources = [path.read_text(encoding="utf-8") for path in (*sorted(source.parent.glob("*.h")), source)]
    inputs = [*sources, *command, *_openmp(), *defines, macros]
    return hashlib.sha256("\0".join(inputs).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _compiler() -> list[str] | str:
    return _found(os.environ.get("CXX", ""), os.environ.get("PATH"))


@cache
def _found(wanted: str, path: str | None) -> list[str] | str:
    """The compiler with its first arguments, from ``$CXX`` or a PATH; or the reason why there is none."""
    try:
        words = shlex.split(wanted)
    except ValueError as error:
        return f"$CXX must be a command, and is {wanted!r}: {error}"
    if words:
        program = shutil.which(words[0], path=path)
        return [program, *words[1:]] if program else f"there is no C++ compiler: $CXX is {wanted!r}"
    for name in ("c++", "g++", "clang++"):
        if program := shutil.which(name, path=path):
            return [program]
    return "there is no C++ compiler on the PATH (c++, g++ or clang++), nor in $CXX"


def _command() -> tuple[list[str], str]:
    found = _compiler()
    if isinstance(found, str):
        raise CompilerError(found)
    return _with_flags(*found)


@cache
def _with_flags(*compiler: str) -> tuple[list[str], str]:
    """The compiler with the flags that it accepts, and all macros that it defines.

    The macros contain the compiler's version and the processor's instruction sets, so that a home folder
    shared by different machines holds a library for each.
    """
    for flags in config.cpu_flags:
        command = [*compiler, *_FLAGS, *flags]
        try:
            return command, _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
        except CompilerError as error:
            reason = error
    raise reason


def _run(command: list[str]) -> str:
    """Standard output of a compiler."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",  # a message may quote a path in any encoding
            timeout=_TIMEOUT,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"it took longer than {_TIMEOUT} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise _failed(lines[-1]) from error
    except OSError as error:
        raise _failed(error.strerror or repr(error)) from error
    return done.stdout


def _failed(reason: str) -> CompilerError:
    wanted = os.environ.get("CXX", "").strip()
    named = f" ($CXX is {wanted!r})" if wanted else ""
    return CompilerError(f"the C++ compiler failed: {reason}{named}")


@cache
def _openmp() -> list[str]:
    """Flags for torch's own OpenMP runtime: two thread pools would compete for the cores."""
    if not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return []
    own = sorted(Path(torch.__file__).with_name("lib").glob("libgomp*.so*"))
    return ["-fopenmp", *map(str, own[:1])]
