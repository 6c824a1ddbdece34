"""The C++ compiler is the one that ``$CXX`` names, arguments and all, or the reason says what it names."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from convlstm.engines import available
from convlstm.engines.cpu import compiler

pytestmark = pytest.mark.skipif(compiler.unavailable() is not None, reason="no compiler")
GXX = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), "")


@pytest.fixture
def compile_as(monkeypatch, tmp_path):
    """Compile a program with a value of ``$CXX``."""
    source, library = tmp_path / "source.cpp", tmp_path / "library.so"
    source.write_text('extern "C" int answer() { return ANSWER; }\n')

    def compile_as(cxx):
        monkeypatch.setenv("CXX", cxx)
        library.unlink(missing_ok=True)
        compiler.compile_library(source, ["-DANSWER=42"], library)
        assert library.stat().st_size
        return compiler.library_key(source, ["-DANSWER=42"])

    compiler._with_flags.cache_clear()
    yield compile_as
    compiler._with_flags.cache_clear()


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_compiler_with_arguments(compile_as):
    keys = {compile_as(GXX), compile_as(f"{GXX} -DNOTHING"), compile_as(f"{GXX} '-DTWO=1 2'")}
    assert len(keys) == 3  # a library for each


def test_a_wrapper_before_the_compiler(compile_as, monkeypatch, tmp_path):
    log = tmp_path / "log"
    script(tmp_path / "bin" / "ccache", f'echo "$1" >> {log}; exec "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    compile_as(f"ccache {GXX}")
    assert set(log.read_text().split()) == {GXX}
    spaced = script(tmp_path / "a folder" / "c++", f'exec {GXX} "$@"')
    compile_as(shlex.quote(str(spaced)))


@pytest.mark.parametrize("cxx", ["", "  "])
def test_an_empty_value_is_none(cxx, compile_as):
    compile_as(cxx)


WRONG = {
    "nowhere -O2": r"there is no C\+\+ compiler: \$CXX is 'nowhere -O2'",
    "/nowhere/c++": r"there is no C\+\+ compiler: \$CXX is '/nowhere/c\+\+'",
    "ccache-that-is-not-there g++": r"there is no C\+\+ compiler: \$CXX is 'ccache-that-is-not-there g\+\+'",
    '"g++': r"\$CXX must be a command, and is '\"g\+\+': No closing quotation",
}


@pytest.mark.parametrize("cxx", WRONG)
def test_a_value_that_names_no_compiler_is_told(cxx, compile_as):
    with pytest.raises(compiler.CompilerError, match=WRONG[cxx]):
        compile_as(cxx)
    assert re.search(WRONG[cxx], available()["compiled"])


FAILING = {
    "echo error: of a certain kind >&2; exit 1": "error: of a certain kind",
    "printf 'caf\\351: no such file' >&2; exit 1": r"caf\xe9: no such file",
    "exit 3": "exit status 3",
}


@pytest.mark.parametrize("text", FAILING)
def test_a_compiler_that_fails_is_named_with_the_value(text, compile_as, tmp_path):
    path = script(tmp_path / "bin" / "broken", text)
    with pytest.raises(compiler.CompilerError) as told:
        compile_as(f"{path} -O2")
    assert FAILING[text] in str(told.value)
    assert f"($CXX is '{path} -O2')" in str(told.value)


def test_a_program_that_cannot_run(compile_as, tmp_path):
    path = script(tmp_path / "bin" / "broken", "")
    path.write_text("#!/nowhere/interpreter\n")
    with pytest.raises(compiler.CompilerError, match="No such file.*CXX is"):
        compile_as(str(path))


def test_in_a_working_directory_that_is_gone(tmp_path):
    code = """if True:
        import os, sys
        from pathlib import Path
        from convlstm.engines.cpu import compiler  # torch itself cannot be imported there
        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir("../gone")
        compiler.compile_library(Path(sys.argv[1]), (), Path(sys.argv[2]))
    """
    source, library = tmp_path / "source.cpp", tmp_path / "library.so"
    source.write_text('extern "C" int answer() { return 42; }\n')
    command = [sys.executable, "-c", code, str(source), str(library)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert library.stat().st_size
