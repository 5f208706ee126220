"""Two writers are kept apart; a dead writer's lock is taken over."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from semiseg.errors import StorageError, StudyLockedError
from semiseg.study import lock
from semiseg.study.lock import LOCK_NAME, hold_lock
from semiseg.study.owner import Owner

_HOLDER = """
import sys
from pathlib import Path
from semiseg.study.lock import hold_lock
with hold_lock(Path(sys.argv[1]), wait_s=5):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def _holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        if child.poll() is None:
            child.kill()


def _plant(folder: Path, **changes: object) -> Path:
    body = {**asdict(Owner.current()), "token": "t", "taken": time.time(), **changes}
    path = folder / LOCK_NAME
    path.write_text(json.dumps(body))
    return path


def test_the_lock_names_its_owner_and_goes_when_left(tmp_path: Path) -> None:
    with hold_lock(tmp_path, wait_s=0) as taken:
        body = json.loads((tmp_path / LOCK_NAME).read_text())
        assert (body["pid"], taken.outermost, taken.recovered) == (os.getpid(), True, False)
    assert not list(tmp_path.iterdir())


def test_one_thread_may_take_it_again(tmp_path: Path) -> None:
    with hold_lock(tmp_path, wait_s=0), hold_lock(tmp_path, wait_s=0) as again:
        assert not again.outermost
    assert not list(tmp_path.iterdir())


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold_lock(tmp_path, wait_s=0):
        raise KeyError
    with hold_lock(tmp_path, wait_s=0):
        pass


def test_another_thread_waits_and_is_told(tmp_path: Path) -> None:
    found: list[BaseException] = []

    def other() -> None:
        try:
            with hold_lock(tmp_path, wait_s=0.05):
                pass
        except StudyLockedError as error:
            found.append(error)

    with hold_lock(tmp_path, wait_s=0):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another part of this program" in str(found[0])


def test_another_living_process_is_named_and_waited_for(tmp_path: Path) -> None:
    with _holder(tmp_path) as child:
        with (
            pytest.raises(StudyLockedError, match=f"process {child.pid}.*wait until"),
            hold_lock(tmp_path, wait_s=0.1),
        ):
            pass
        assert child.stdin is not None
        child.stdin.close()
        with hold_lock(tmp_path, wait_s=5) as taken:
            assert not taken.recovered


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    with _holder(tmp_path) as child:
        child.kill()
        child.wait()
        with hold_lock(tmp_path, wait_s=0) as taken:
            assert taken.recovered
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_process_number_was_used_again_is_taken_over(tmp_path: Path) -> None:
    me = Owner.current()
    _plant(tmp_path, pid=os.getppid(), started=me.started - 5000, uptime_s=-77.0)
    with hold_lock(tmp_path, wait_s=0) as taken:
        assert taken.recovered


def test_a_lock_of_ours_that_we_do_not_hold_is_taken_over(tmp_path: Path) -> None:
    _plant(tmp_path, token="left behind")
    with hold_lock(tmp_path, wait_s=0) as taken:
        assert taken.recovered


def test_another_computers_lock_is_respected_unless_old(tmp_path: Path) -> None:
    path = _plant(tmp_path, host="ward-7")
    with (
        pytest.raises(StudyLockedError, match=r"'ward-7'.*delete the file .*lock\.json.*24 hours"),
        hold_lock(tmp_path, wait_s=0),
    ):
        pass
    long_ago = time.time() - 25 * 3600
    os.utime(path, (long_ago, long_ago))
    with hold_lock(tmp_path, wait_s=0) as taken:
        assert taken.recovered


def test_a_torn_lock_file_counts_as_being_written_for_a_moment_only(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text('{"pid":')
    with (
        pytest.raises(StudyLockedError, match="try again"),
        hold_lock(tmp_path, wait_s=0),
    ):
        pass
    long_ago = time.time() - 60
    os.utime(path, (long_ago, long_ago))
    with hold_lock(tmp_path, wait_s=0) as taken:
        assert taken.recovered


def test_it_works_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*args: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    with hold_lock(tmp_path, wait_s=0):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    _plant(tmp_path, host="ward-7")
    with pytest.raises(StudyLockedError), hold_lock(tmp_path, wait_s=0):
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="cannot lock"), hold_lock(tmp_path, wait_s=0):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_two_that_judge_a_lock_do_so_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(StudyLockedError, match="being opened"), hold_lock(tmp_path, wait_s=0):
        pass
    os.close(handle)
    with hold_lock(tmp_path, wait_s=0):
        pass

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold_lock(tmp_path, wait_s=0):
        pass


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not there"), hold_lock(tmp_path / "no", wait_s=0):
        pass


def test_a_lock_that_changed_hands_meanwhile_is_given_back(tmp_path: Path) -> None:
    path = _plant(tmp_path, token="another", host="ward-7")
    judged = lock._Note(owner=None, token="stale", age_s=99)
    lock._break(path, judged)
    assert json.loads(path.read_text())["token"] == "another"
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    assert lock._break(path, judged) is False


def test_a_lock_taken_over_from_us_is_not_removed_by_us(tmp_path: Path) -> None:
    with hold_lock(tmp_path, wait_s=0):
        path = _plant(tmp_path, token="another", host="ward-7")
    assert path.exists()


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 seconds"), (300, "5 minutes"), (86400, "24 hours")]
)
def test_durations_are_told_in_words(seconds: float, words: str) -> None:
    assert lock._duration(seconds) == words


def _count_up(folder: Path, times: int) -> None:
    counter = folder.parent / "counter"
    for _ in range(times):
        with hold_lock(folder, wait_s=60):
            counter.write_text(str(int(counter.read_text()) + 1))


@pytest.mark.skipif(os.name == "nt", reason="a second of start-up per process")
def test_no_count_is_lost_between_processes_after_a_crash(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (tmp_path / "counter").write_text("0")
    _plant(folder, pid=2**22 - 1, started=1.0, uptime_s=-1.0)
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_count_up, args=(folder, 20)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert (tmp_path / "counter").read_text() == "60"
