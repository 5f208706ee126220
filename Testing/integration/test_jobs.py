"""Jobs with real child processes that misbehave in every way we know."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from semiseg.errors import JobError, StorageError
from semiseg.events import Event
from semiseg.jobs import Job, describe_end, find_python

LOGIC = Path(__file__).resolve().parents[2] / "Logic"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and sessions")
PROTOCOL = """
from semiseg.child import child_protocol
from semiseg.events import Event
emit = child_protocol()
def result(message="done"):
    emit(Event(kind="result", phase="end", message=message))
"""
Start = Callable[..., Job]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a Python script as a job; ends whatever is left of it."""
    jobs: list[Job] = []

    def run(script: str, *, protocol: bool = True) -> Job:
        code = (PROTOCOL if protocol else "") + textwrap.dedent(script)
        folder = tmp_path / f"job {len(jobs)} é"
        jobs.append(Job.start_command([sys.executable, "-c", code], folder=folder))
        return jobs[-1]

    yield run
    for job in jobs:
        job.cancel(0)
        job.wait(10)


def collect(job: Job, timeout_s: float = 60) -> list[Event]:
    events: list[Event] = []
    assert job.wait(timeout_s, events.append) is not None, "the job did not end in time"
    return events


def wait_for(job: Job, phase: str, timeout_s: float = 30) -> Event:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for event in job.poll():
            if event.phase == phase:
                return event
        time.sleep(0.01)
    raise AssertionError(f"no event {phase!r}; the child said: {job.stderr_tail}")


def gone(pid: int, timeout_s: float = 5) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_events_arrive_in_order_and_the_last_one_is_the_result(start: Start) -> None:
    job = start(
        """
        for step in range(5):
            emit(Event(kind="progress", phase="work", step=step, total=5))
        result("finished")
        """
    )
    events = collect(job)
    assert [e.step for e in events[:-1]] == [0, 1, 2, 3, 4]
    assert (events[-1].kind, events[-1].message, job.exit_code) == ("result", "finished", 0)
    assert not job.running
    assert job.poll() == []


def test_an_error_that_the_child_tells_says_so(start: Start) -> None:
    job = start('emit(Event(kind="error", phase="end", message="no slice is done"))')
    (event,) = collect(job)
    assert (event.message, event.data["cause"]) == ("no slice is done", "told")


def test_the_job_folder_tells_what_happened(start: Start) -> None:
    job = start("import sys; print('hello', file=sys.stderr); result()")
    collect(job)
    record = json.loads((job.folder / "job.json").read_text(encoding="utf-8"))
    assert (record["state"], record["exit_code"]) == ("result", 0)
    assert "hello" in (job.folder / "stderr.txt").read_text(encoding="utf-8")
    lines = (job.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["kind"] == "result"


def test_noise_on_stdout_never_reaches_the_events(start: Start) -> None:
    job = start(
        """
        import ctypes, os, subprocess, sys
        print("python print")
        os.write(1, b"raw write\\n")
        libc = ctypes.CDLL(None) if os.name == "posix" else ctypes.cdll.msvcrt
        libc.puts(b"library banner")
        libc.fflush(None)
        subprocess.run([sys.executable, "-c", "print('grandchild print')"], check=True)
        sys.__stdout__.write("saved stdout\\n"); sys.__stdout__.flush()
        result()
        """
    )
    events = collect(job)
    assert [e.kind for e in events] == ["result"]
    assert job.ignored_lines == 0
    for text in ("python print", "raw write", "library banner", "grandchild print", "saved stdout"):
        assert text in job.stderr_tail


def test_noise_before_the_protocol_starts_is_counted_and_kept_as_text(start: Start) -> None:
    job = start(
        """
        import os, sys
        def raw(data):
            while data:
                data = data[os.write(1, data):]
        raw(b"banner\\n\\xff\\xfe\\x00binary\\n" + b"x" * 3_000_000 + b"\\n")
        raw(b'{"kind": "result"\\n[1]\\n{"kind": "dance", "phase": "x"}\\n')
        raw(b'{"kind": "progress", "phase": "half"')
        sys.stdout.flush()
        import time; time.sleep(0.2)
        raw(b', "step": 1}\\n{"kind": "result", "phase": "end"}\\n{"kind": "result", "phase": "2"}')
        """,
        protocol=False,
    )
    events = collect(job)
    assert [(e.kind, e.phase) for e in events] == [("progress", "half"), ("result", "end")]
    assert job.ignored_lines == 6
    assert "banner" in job.stderr_tail
    assert json.loads((job.folder / "job.json").read_text())["dropped_bytes"] > 2_900_000


def test_cancel_ends_child_and_grandchildren_within_a_second(start: Start) -> None:
    job = start(
        """
        import subprocess, sys, time
        sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
        pids = [subprocess.Popen(sleeper).pid, subprocess.Popen(sleeper).pid]
        emit(Event(kind="progress", phase="ready", data={"pids": pids}))
        time.sleep(60)
        """
    )
    pids = wait_for(job, "ready").data["pids"]
    assert isinstance(pids, list)
    began = time.monotonic()
    job.cancel(10)
    job.cancel(10)
    events = collect(job)
    assert time.monotonic() - began < 1.0
    assert events[-1].kind == "error"
    assert events[-1].data["cause"] == "cancelled"
    assert all(gone(int(str(pid))) for pid in [job.pid, *pids])
    job.cancel()


def test_cancel_is_an_interrupt_that_the_child_may_answer(start: Start) -> None:
    job = start(
        """
        import time
        try:
            emit(Event(kind="progress", phase="ready"))
            time.sleep(60)
        except KeyboardInterrupt:
            emit(Event(kind="error", phase="end", message="lock released"))
            raise SystemExit(130)
        """
    )
    wait_for(job, "ready")
    job.cancel()
    last = collect(job)[-1]
    assert (last.message, last.data["cause"]) == ("lock released", "cancelled")
    assert job.exit_code == 130


@posix
def test_cancel_kills_a_child_that_does_not_listen(start: Start) -> None:
    job = start(
        """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                                 start_new_session=True)
        line = '{"kind": "progress", "phase": "ready", "data": {"pid": %d}}\\n' % child.pid
        os.write(1, line.encode())
        time.sleep(60)
        """,
        protocol=False,
    )
    pid = int(str(wait_for(job, "ready").data["pid"]))
    job.cancel(0.3)
    assert collect(job, 10)[-1].data["cause"] == "cancelled"
    assert job.exit_code == -signal.SIGKILL
    assert gone(pid)


@posix
def test_child_and_grandchild_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    child = PROTOCOL + textwrap.dedent(
        """
        import os, subprocess, sys, time
        sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
        pid = subprocess.Popen(sleeper).pid
        orphan = subprocess.run(
            [sys.executable, "-c",
             f"import subprocess as s; print(s.Popen({sleeper}, stdout=s.DEVNULL).pid)"],
            check=True, stdout=subprocess.PIPE, text=True).stdout
        emit(Event(kind="progress", phase="ready", data={"pids": [os.getpid(), pid, int(orphan)]}))
        time.sleep(60)
        """
    )
    parent = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from semiseg.jobs import Job
        job = Job.start_command([sys.executable, "-c", {child!r}], folder=Path({str(tmp_path)!r}))
        while True:
            for event in job.poll():
                print(event.data["pids"], flush=True)
            time.sleep(0.01)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(LOGIC)}
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        assert all(psutil.pid_exists(pid) for pid in pids)
        process.kill()
    assert all(gone(pid) for pid in pids)


@posix
@pytest.mark.parametrize(
    ("script", "cause", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "memory"),
        ("import os; os._exit(3)", "failed", "exit code 3"),
        ("raise RuntimeError('the disk sang')", "failed", "the disk sang"),
        ("pass", "silent", "without a result"),
    ],
)
def test_every_way_to_end_without_a_word_becomes_one_error_in_words(
    start: Start, script: str, cause: str, words: str
) -> None:
    events = collect(start(script))
    assert [e.kind for e in events] == ["error"]
    assert events[0].data["cause"] == cause
    assert words in events[0].message


@posix
def test_grandchildren_do_not_outlive_a_crashed_child(start: Start) -> None:
    job = start(
        """
        import os, signal, subprocess, sys
        pid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid
        emit(Event(kind="progress", phase="ready", data={"pid": pid}))
        os.kill(os.getpid(), signal.SIGABRT)
        """
    )
    events = collect(job, 10)
    assert events[-1].data["cause"] == "crash"
    assert gone(int(str(events[0].data["pid"])))


def test_a_grandchild_that_keeps_the_pipes_open_does_not_keep_the_job_open(start: Start) -> None:
    job = start(
        """
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        result()
        """
    )
    assert collect(job, 10)[-1].kind == "result"


def test_a_child_that_hangs_after_its_result_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semiseg.jobs._END_AFTER_LAST_EVENT_S", 0.3)
    job = start("import time; result(); time.sleep(60)")
    events = collect(job, 10)
    assert [e.kind for e in events] == ["result"]


def test_300_megabytes_of_text_neither_block_nor_fill_memory_or_disk(start: Start) -> None:
    # 300 MB stand for gigabytes: far more than every pipe, buffer and limit on the way.
    job = start(
        """
        import os
        block = b"y" * 999_999 + b"\\n"
        for _ in range(150):
            for fd in (1, 2):
                rest = block
                while rest:
                    rest = rest[os.write(fd, rest):]
        result()
        """
    )
    before = psutil.Process().memory_info().rss
    events = collect(job, 120)
    assert events[-1].kind == "result"
    assert psutil.Process().memory_info().rss - before < 50e6
    assert len(job.stderr_tail) <= 64_000
    assert sum(path.stat().st_size for path in job.folder.iterdir()) < 5e6


def test_megabytes_of_events_come_in_portions_and_the_record_stays_small(start: Start) -> None:
    job = start(
        """
        for step in range(60_000):
            emit(Event(kind="progress", phase="flood", step=step, message="x" * 150))
        result()
        """
    )
    largest, count, last = 0, 0, None
    while job.running:
        events = job.poll()
        largest, count = max(largest, len(events)), count + len(events)
        last = events[-1] if events else last
    assert count == 60_001
    assert largest < 10_000
    assert last is not None
    assert last.kind == "result"
    record = (job.folder / "events.jsonl").read_text()
    assert len(record) < 6e6
    assert json.loads(record.splitlines()[-1])["kind"] == "result"


def test_an_event_too_long_for_a_line_is_shortened(start: Start) -> None:
    job = start(
        """
        emit(Event(kind="progress", phase="big", message="m" * 2_000_000, data={"x": "y" * 10}))
        result()
        """
    )
    events = collect(job)
    assert len(events[0].message) == 10_000
    assert events[-1].kind == "result"


def test_a_python_that_is_not_there_is_a_job_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot start"):
        Job.start(["doctor"], folder=tmp_path / "job", python=tmp_path / "no" / "python")


def test_a_job_folder_is_used_once(start: Start) -> None:
    job = start("result()")
    collect(job)
    with pytest.raises(JobError, match="already holds a job"):
        Job.start(["doctor"], folder=job.folder)


def test_a_job_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the job folder"):
        Job.start(["doctor"], folder=tmp_path / "file" / "job")


def test_records_that_cannot_be_written_do_not_stop_the_job(start: Start) -> None:
    job = start("import time; time.sleep(0.3); result()")
    (job.folder / "events.jsonl").mkdir()
    assert collect(job)[-1].kind == "result"


def test_wait_gives_up_after_its_time(start: Start) -> None:
    job = start("import time; time.sleep(60)")
    assert job.wait(0.1) is None
    assert job.running
    assert job.exit_code is None
    assert not job.cancelled


def test_a_lost_job_ends_its_child(tmp_path: Path) -> None:
    script = PROTOCOL + "import time; time.sleep(60)"
    job = Job.start_command([sys.executable, "-c", script], folder=tmp_path / "job")
    pid = job.pid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del job
    assert gone(pid)


def test_python_is_found_and_in_slicer_it_is_pythonslicer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_python() == Path(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real"))
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/{name}")
    assert find_python() == Path("/opt/PythonSlicer")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(JobError, match="PythonSlicer"):
        find_python()


def test_a_windows_crash_and_an_unknown_signal_are_named() -> None:
    assert "0xc0000005" in describe_end(0xC0000005, "")[1]
    assert "signal 250" in describe_end(-250, "")[1]
