"""Files written together or not at all, leftovers of killed writes, changes that are taken back."""

import pytest

from convlstm.errors import OptionError, RunError
from convlstm.files import Changes, given_path, remove_leftovers, write_together


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
    for name in [*kept, ".config.yaml.abcd_234"]:
        (tmp_path / name).write_text("x")
    (tmp_path / ".config.yaml.folder12").mkdir()
    (tmp_path / ".config.yaml.linked12").symlink_to(tmp_path / "config.yaml.abcd1234")
    remove_leftovers(tmp_path, ["config.yaml"])
    assert set(content(tmp_path)) == kept | {".config.yaml.folder12", ".config.yaml.linked12"}
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


def test_a_folder_cannot_stand_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="the system says 'Not a directory'"):
        Changes().folder(tmp_path / "file" / "a")


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(OptionError, match="--out must be a path; received an empty one, as an unset shell"):
        given_path("--out", "")
    assert str(given_path("--out", ".")) == "."
