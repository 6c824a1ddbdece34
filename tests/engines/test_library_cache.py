"""The cache of compiled libraries loads what the user's own processes wrote, whole, and nothing else."""

import os
import shutil
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from convlstm.engines.cpu import compiler, library_cache
from convlstm.engines.cpu.library_cache import load_library

pytestmark = pytest.mark.skipif(compiler.unavailable() is not None, reason="no compiler")
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Two libraries with a function ``answer``, one of 42 and one of 13."""
    folder = tmp_path_factory.mktemp("libraries")
    for number in (42, 13):
        source = folder / "source.cpp"
        source.write_text(f'extern "C" int answer() {{ return {number}; }}\n')
        compiler.compile_library(source, (), folder / f"{number}.so")
    return folder


@pytest.fixture
def built(libraries):
    """A build, with a list of the places that it was called for."""
    places = []

    def build(path):
        places.append(path)
        shutil.copyfile(libraries / "42.so", path)

    build.places = places
    return build


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and an empty folder for temporary files, in which nothing may be left."""
    compiler.warn_once.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield tmp_path / "convlstm"
    assert list(temporary.iterdir()) == []
    compiler.warn_once.cache_clear()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_library_is_built_once_and_closed_to_others(cache, built):
    before = os.umask(0)
    try:
        assert [load_library(KEY, built).answer() for _ in range(3)] == [42] * 3
    finally:
        os.umask(before)
    assert len(built.places) == 1
    (path,) = cache.iterdir()
    assert (mode(cache), mode(path)) == (0o700, 0o700)
    cache.chmod(0o755)  # readable by others: as `mkdir` makes folders
    assert load_library(KEY, built).answer() == 42
    assert mode(cache) == 0o700
    assert len(built.places) == 1


def test_a_path_that_is_not_utf8(cache, built, monkeypatch):
    odd = os.fsdecode(os.fsencode(cache.parent) + b"/caf\xe9")
    monkeypatch.setenv("XDG_CACHE_HOME", odd)
    assert [load_library(KEY, built).answer() for _ in range(2)] == [42] * 2
    assert len(built.places) == 1


#: What a file may hold after a crash, or by a mistake, given what it held and what another one does.
DAMAGES = {
    "cut to half": lambda whole, other: whole[: len(whole) // 2],
    "cut by a byte": lambda whole, other: whole[:-1],
    "zeroed": lambda whole, other: bytes(len(whole)),
    "zeroed from the second page": lambda whole, other: whole[:4096] + bytes(len(whole) - 4096),
    "empty": lambda whole, other: b"",
    "another library": lambda whole, other: other,
}


def put(path, content):
    """Another file in the place of one that this process has loaded and still maps."""
    scratch = path.with_suffix(".new")
    scratch.write_bytes(content)
    scratch.chmod(0o700)
    scratch.replace(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_built_again_once(damage, cache, built, libraries):
    load_library(KEY, built)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    put(path, DAMAGES[damage](whole, (libraries / "13.so").read_bytes()))
    assert [load_library(KEY, built).answer() for _ in range(2)] == [42] * 2
    assert len(built.places) == 2
    assert path.read_bytes() == whole
    assert list(cache.iterdir()) == [path]


def test_a_library_under_another_key_is_not_the_one(cache, built, libraries):
    load_library(KEY, partial(shutil.copyfile, libraries / "13.so"))
    (path,) = cache.iterdir()
    other = KEY[::-1]
    path.rename(path.with_name(path.name.replace(KEY, other)))
    assert load_library(other, built).answer() == 42


def plant(cache, libraries):
    """A library of another's in the place where one is looked for, right in all but its owner and mode."""
    content = (libraries / "13.so").read_bytes()
    path = cache / library_cache._name(KEY, content)
    cache.mkdir(mode=0o700, exist_ok=True)
    put(path, content)
    return path


def test_a_file_that_others_can_write_and_a_link_are_not_loaded(cache, built, libraries):
    path = plant(cache, libraries)
    assert load_library(KEY, built).answer() == 13  # so it is right
    path.chmod(0o720)
    assert load_library(KEY, built).answer() == 42
    shutil.rmtree(cache)
    cache.mkdir(mode=0o700)
    path.symlink_to(libraries / "13.so")
    assert load_library(KEY, built).answer() == 42
    assert len(built.places) == 2


def own_folder_of_another(cache, monkeypatch):
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)


def link_to_a_folder(cache, monkeypatch):
    cache.rename(cache.with_name("elsewhere"))
    cache.symlink_to(cache.with_name("elsewhere"))


def file_in_its_place(cache, monkeypatch):
    shutil.rmtree(cache)
    cache.write_text("")


def file_above(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path(__file__) / "below"))


def no_home(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")  # relative: to be ignored
    monkeypatch.setenv("HOME", "nowhere")


UNUSABLE = {
    "must be your own, and belongs to the user with number": own_folder_of_another,
    "must be closed to other users .mode 700., and its mode is 777": lambda cache, _: cache.chmod(0o777),
    "must be closed to other users .mode 700., and its mode is 770": lambda cache, _: cache.chmod(0o770),
    "must be a folder, and is a link": link_to_a_folder,
    "must be a folder, and is a link or a file": file_in_its_place,
    "Not a directory": file_above,
    "there is no home folder": no_home,
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_an_unusable_cache_is_told_once_and_leaves_nothing(reason, cache, built, libraries, monkeypatch):
    """And what others may have put there is not loaded."""
    plant(cache, libraries)
    UNUSABLE[reason](cache, monkeypatch)
    monkeypatch.chdir(cache.parent)
    before = sorted(cache.parent.rglob("*"))
    with pytest.warns(RuntimeWarning, match=f"compiles its kernels again in each process.*{reason}") as told:
        found = [load_library(KEY, built) for _ in range(2)]
    assert [library.answer() for library in found] == [42, 42]
    assert len(told) == 1
    assert sorted(cache.parent.rglob("*")) == before
    assert {path.parent.parent for path in built.places} == {cache.parent / "temporary"}


def test_a_full_disk_is_told_and_the_library_used(cache, built, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert load_library(KEY, built).answer() == 42
    assert list(cache.iterdir()) == []


def test_a_build_that_fails_leaves_nothing(cache, built):
    def fail(path):
        path.write_bytes(b"half")
        raise compiler.CompilerError("no space left")

    with pytest.raises(compiler.CompilerError, match="no space left"):
        load_library(KEY, fail)
    with pytest.raises(OSError, match="library.so"):
        load_library(KEY, lambda path: path.write_bytes(b"no library"))
    assert list(cache.iterdir()) == []
    assert load_library(KEY, built).answer() == 42


def test_what_killed_builds_left_is_removed_and_nothing_else(cache, built):
    cache.mkdir(mode=0o700)
    names = ("build-abcd_123", "build-abcd_124", "build-mine", "builds", "tmpabcd1234")
    for name in names:
        (cache / name).mkdir()
        (cache / name / "library.so").write_bytes(b"half")
    (cache / "build-abcd_125").symlink_to(cache / "builds")
    two_hours_ago = time.time() - 7200
    for path in cache.iterdir():
        os.utime(path, (two_hours_ago, two_hours_ago), follow_symlinks=False)
    os.utime(cache / "build-abcd_124")  # at work
    load_library(KEY, built)
    left = {path.name for path in cache.iterdir() if path.suffix != ".so"}
    assert left == {*names, "build-abcd_125"} - {"build-abcd_123"}
    assert (cache / "builds" / "library.so").exists()


LOADS = """
import os, sys, warnings
from convlstm.engines.cpu import library
for _ in sys.stdin:
    if (child := os.fork()) == 0:
        warnings.simplefilter("error")
        library.load_kernels("sigmoid", "tanh", "tanh").has_amx()
        os._exit(0)
    print("status", os.waitpid(child, 0)[1], flush=True)
"""


def test_neither_damage_nor_a_planted_library_reaches_a_process(cache, libraries, tmp_path):
    """With the kernels themselves: a file cut short would end it by SIGBUS; one of another's would run."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", LOADS], **pipes) as process:

        def loads():
            """A process loads the kernels."""
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "status 0\n"

        loads()
        (path,) = cache.iterdir()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        loads()
        assert path.read_bytes() == whole
        source, marker = tmp_path / "evil.cpp", tmp_path / "it-ran"
        code = f'__attribute__((constructor)) void run() {{ creat("{marker}", 0600); }}'
        source.write_text(f"#include <fcntl.h>\n{code}\n")
        compiler.compile_library(source, (), path)
        loads()
        assert not marker.exists()
