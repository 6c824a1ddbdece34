"""Files written together or not at all, leftovers of killed writes, changes that are taken back."""

import os
import stat
import subprocess
import sys

import pytest

from convlstm.atomic_write import Changes, remove_leftovers, write_atomically, write_together
from convlstm.errors import RunError


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    (tmp_path / "folder").mkdir()
    before = content(tmp_path)
    for last in (tmp_path / "folder", tmp_path / "missing" / "c"):
        with pytest.raises(RunError, match=f"{last} must be writable"):
            write_together({tmp_path / "a": b"new", tmp_path / "b": b"new", last: b"new"})
        assert content(tmp_path) == before
    write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert content(tmp_path) == {"a": "new", "b": "new", "folder": None}


def test_leftovers_are_known_by_their_own_pattern_and_the_names_they_stood_for(tmp_path):
    kept = {".config.yaml", ".config.yaml.short", ".config.yaml.Upper123", "config.yaml.abcd1234"}
    kept |= {".notes.txt.abcd1234", ".scores.json.abcd1234"}
    for name in [*kept, ".config.yaml.abcd0234"]:
        (tmp_path / name).write_text("x")
    (tmp_path / ".config.yaml.f01de012").mkdir()
    (tmp_path / ".config.yaml.11aced12").symlink_to(tmp_path / "config.yaml.abcd1234")
    remove_leftovers(tmp_path, ["config.yaml"])
    assert set(content(tmp_path)) == kept | {".config.yaml.f01de012", ".config.yaml.11aced12"}
    remove_leftovers(tmp_path / "missing", ["config.yaml"])


def test_a_killed_write_leaves_what_is_taken_for_a_leftover(tmp_path, monkeypatch):
    """The pattern is that of the standard library's temporary files."""

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    monkeypatch.setattr("os.replace", kill)
    monkeypatch.setattr("pathlib.Path.unlink", kill)  # as a process that is gone does not clean up
    with pytest.raises(Killed):
        write_together({tmp_path / "scores.json": b"half"})
    monkeypatch.undo()
    assert len(content(tmp_path)) == 1
    remove_leftovers(tmp_path, ["scores.json"])
    assert content(tmp_path) == {}


def test_only_what_was_made_is_removed_and_what_was_replaced_comes_back(tmp_path):
    (tmp_path / "old.txt").write_text("before")
    before = content(tmp_path)
    changes = Changes()
    changes.folder(tmp_path / "a" / "b")
    changes.folder(tmp_path / "a")
    changes.write(tmp_path / "old.txt", b"after")
    changes.write(tmp_path / "old.txt", b"later")
    changes.write(tmp_path / "a" / "b" / "new.txt", b"1")
    changes.write(tmp_path / "a" / "b" / "new.txt", b"2")
    changes.undo()
    assert content(tmp_path) == before
    changes.folder(tmp_path / "a" / "b")
    changes.write(tmp_path / "a" / "new.txt", b"1")
    (tmp_path / "a" / "b" / "of the user.txt").write_text("x")
    changes.undo()
    assert content(tmp_path) == before | {"a": None, "a/b": None, "a/b/of the user.txt": "x"}
    changes.write(tmp_path / "old.txt", b"after")
    changes.keep()
    changes.undo()
    assert content(tmp_path)["old.txt"] == "after"


UNDONE = """
import resource, signal, sys
from pathlib import Path
from convlstm.atomic_write import Changes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
changes, folder = Changes(), Path(sys.argv[1])
for name in ("a", "b"):
    changes.write(folder / name, b"new")
changes.write(folder / "c", b"made")
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
changes.undo()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits of POSIX")
def test_undoing_needs_no_space_on_the_disk(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"old {name}")
    subprocess.run([sys.executable, "-c", UNDONE, str(tmp_path)], check=True)
    assert content(tmp_path) == {"a": "old a", "b": "old b"}


@pytest.mark.parametrize("links", [True, False])
def test_a_link_that_was_replaced_comes_back_as_one(tmp_path, links, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", _refused)
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to("target")
    changes = Changes()
    changes.write(tmp_path / "link", b"ours")
    changes.write(tmp_path / "target", b"ours")
    changes.undo()
    assert os.readlink(tmp_path / "link") == "target"
    assert content(tmp_path) == {"target": "theirs", "link": "theirs"}


def _refused(*_, **__):
    raise OSError(1, "Operation not permitted")


def test_a_folder_cannot_stand_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="the system says 'Not a directory'"):
        Changes().folder(tmp_path / "file" / "a")


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o077, 0o002, 0o022])
def test_new_files_honour_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == 0o666 & ~umask


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "a"
    for kept in (0o600, 0o664):
        path.write_bytes(b"0")
        path.chmod(kept)
        write_atomically(path, b"1")
        assert (path.read_bytes(), mode(path)) == (b"1", kept)


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "target").write_bytes(b"theirs")
    (tmp_path / "target").chmod(0o600)
    (tmp_path / "link").symlink_to("target")
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "link", b"ours")
    finally:
        os.umask(before)
    assert (tmp_path / "target").read_bytes() == b"theirs"
    assert not (tmp_path / "link").is_symlink()
    assert mode(tmp_path / "link") == 0o644


FULL = """
import resource, signal, sys
from pathlib import Path
from convlstm.errors import RunError
from convlstm.atomic_write import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
for room in range(0, 5000, 333):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        write_atomically(path, b"n" * 5000)
    except RunError as error:
        assert "the system says" in str(error), error
    else:
        raise SystemExit(f"{room} bytes were enough")
    assert path.read_bytes() == b"old", room
    assert [file.name for file in path.parent.iterdir()] == ["a"], room
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits of POSIX")
def test_a_disk_full_at_any_amount_of_space_leaves_what_was_there(tmp_path):
    """Sixteen amounts of space, by a limit on the size of files, which needs no rights."""
    (tmp_path / "a").write_bytes(b"old")
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a")], check=True)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(RunError, match="must be writable; the system says 'No such file"):
        write_atomically(tmp_path / "none" / "a", b"1")
