"""Files of a study: whole or not at all, and disk errors in the user's words."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semiseg.errors import SchemaError, StorageError
from semiseg.study import owner, storage
from semiseg.study.fields import Fields
from semiseg.study.owner import Owner, is_temporary, temporary_name, temporary_owner_alive


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _fail(number: int) -> object:
    def failing(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


@pytest.fixture
def dead_name() -> str:
    """A temporary name whose writer has ended."""
    code = "from semiseg.study.owner import temporary_name; print(temporary_name('x'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a b ü.json"
    values = {"text": "Ärger \udcff", "numbers": [1, 2.5], "none": None}
    storage.write_json_atomic(path, values)
    assert storage.read_json(path) == values
    assert _names(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "not allowed"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "hardware"),
        (errno.EBUSY, "check the disk"),
    ],
)
def test_a_failed_write_keeps_the_old_content_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "a.json"
    storage.write_json_atomic(path, {"a": 1})
    for name in ("fsync", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, _fail(number))
            if name == "open":
                patch.setattr(Path, "open", _fail(number))
            with pytest.raises(StorageError, match=words):
                storage.write_json_atomic(path, {"a": 2})
        assert storage.read_json(path) == {"a": 1}
        assert _names(tmp_path) == ["a.json"]


def test_numbers_that_are_none_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json_atomic(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "corrupt"), (b"{", "corrupt"), (b"[1]", "object"), (b"\xff\xfe", "corrupt")],
)
def test_a_corrupt_json_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=words):
        storage.read_json(path)


def test_a_json_file_of_endless_size_or_depth_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" * 200_000)
    with pytest.raises(SchemaError, match="corrupt"):
        storage.read_json(path)
    monkeypatch.setattr(storage, "_LARGEST_JSON_BYTES", 100)
    with pytest.raises(SchemaError, match="larger"):
        storage.read_json(path)


def test_a_missing_json_file_and_a_folder_in_its_place_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="missing"):
        storage.read_json(tmp_path / "a.json")
    with pytest.raises(StorageError, match="read"):
        storage.read_json(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right on Windows")
def test_a_loop_of_links_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StorageError, match="loop of symbolic links"):
        storage.read_json(tmp_path / "a")


def test_a_folder_that_cannot_be_synced_is_fine_but_a_failing_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _fail(errno.EINVAL))
    storage.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", _fail(errno.EIO))
    with pytest.raises(OSError, match="rror"):
        storage.sync_folder(tmp_path)


def test_a_draft_becomes_a_folder_or_leaves_no_trace(tmp_path: Path) -> None:
    with storage.draft_folder(tmp_path / "v", "x") as draft:
        (draft / "file").write_text("1")
        storage.publish_folder(draft, tmp_path / "v" / "0001")
    assert (tmp_path / "v" / "0001" / "file").read_text() == "1"
    with pytest.raises(StorageError, match="full"), storage.draft_folder(tmp_path / "v", "x"):
        raise OSError(errno.ENOSPC, "full")
    assert _names(tmp_path / "v") == ["0001"]


def test_a_folder_under_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        storage.make_folder(tmp_path / "file" / "below")


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_work_is_not(
    tmp_path: Path, dead_name: str
) -> None:
    mine = tmp_path / temporary_name("x")
    mine.write_text("being written")
    (tmp_path / dead_name).write_text("half")
    (tmp_path / f"{dead_name}-folder").mkdir()
    (tmp_path / f"{dead_name}-folder" / "file").write_text("half")
    (tmp_path / ".tmp-of-somebody-else").write_text("not ours")
    storage.remove_leftovers(tmp_path)
    assert sorted(_names(tmp_path)) == sorted([mine.name, ".tmp-of-somebody-else"])


def test_another_computers_leftovers_go_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner.socket, "gethostname", lambda: "elsewhere")
    owner._owner.cache_clear()
    name = temporary_name("x")
    monkeypatch.undo()
    owner._owner.cache_clear()
    assert temporary_owner_alive(name) is None
    path = tmp_path / name
    path.write_text("half")
    storage.remove_leftovers(tmp_path)
    assert path.exists()
    os.utime(path, (1, 1))
    storage.remove_leftovers(tmp_path)
    assert not path.exists()


def test_an_ended_process_is_not_alive_even_when_its_number_is_used_again() -> None:
    me = Owner.current()
    assert me.alive() is True
    later = Owner(host=me.host, pid=me.pid, started=me.started - 900, uptime_s=me.uptime_s - 900)
    assert later.alive() is False
    foreign = Owner(host="elsewhere", pid=me.pid, started=me.started, uptime_s=me.uptime_s)
    assert foreign.alive() is None


def test_setting_the_clock_does_not_make_a_living_process_look_dead() -> None:
    me = Owner.current()
    shifted = Owner(host=me.host, pid=me.pid, started=me.started + 3600, uptime_s=me.uptime_s)
    assert shifted.alive() is True


@pytest.mark.skipif(os.name == "nt", reason="Windows has no zombies")
def test_a_killed_process_that_nobody_reaped_counts_as_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = owner._read_owner(child.pid)
        assert found.alive() is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert found.alive() is False


def test_only_our_own_temporary_names_are_known_as_such() -> None:
    assert is_temporary(temporary_name("label.nrrd"))
    assert not is_temporary("label.nrrd")
    assert temporary_owner_alive(".tmp-x") is None


def test_fields_of_the_wrong_kind_are_named() -> None:
    fields = Fields({"a": "x", "n": None, "list": [1, "x"], "flag": 1}, "case.json")
    for read in (
        lambda: fields.integer("a"),
        lambda: fields.number("a"),
        lambda: fields.flag("flag"),
        lambda: fields.text("missing"),
        lambda: fields.items("a"),
        lambda: fields.texts("list"),
        lambda: fields.integers("list"),
        lambda: fields.mapping("a"),
        lambda: fields.parts("list"),
        lambda: fields.choice("a", ("y", "z")),
    ):
        with pytest.raises(SchemaError, match=r"case\.json: '\w+' should be"):
            read()
    assert fields.optional_text("n") is None
    assert fields.optional_text("a") == "x"
    assert fields.optional_part("n") is None
    assert fields.text("n", "default") == "default"
    assert fields.mapping("missing") == {}
