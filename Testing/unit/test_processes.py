"""Pipes that never wait, lines of any length, and process trees."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from semiseg.child import LineWriter, watch_lifeline
from semiseg.errors import CancelledError
from semiseg.events import Event, parse_line
from semiseg.processes import BoundedText, LineSplitter, PipeReader, descendants, kill_descendants


@pytest.fixture(params=[False, True], ids=["set_blocking", "thread"])
def pipe(request: pytest.FixtureRequest) -> Iterator[tuple[PipeReader, int]]:
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as file:
        yield PipeReader(file, use_thread=request.param), write


def read_until(reader: PipeReader, size: int) -> bytes | None:
    found, deadline = b"", time.monotonic() + 10
    while len(found) < size and time.monotonic() < deadline:
        chunk = reader.read()
        if chunk is None:
            return found
        found += chunk
    return found


def test_a_pipe_gives_what_is_there_without_waiting(pipe: tuple[PipeReader, int]) -> None:
    reader, write = pipe
    assert reader.read() == b""
    os.write(write, b"half a li")
    assert read_until(reader, 9) == b"half a li"
    assert reader.read() == b""
    os.write(write, b"ne")
    os.close(write)
    assert read_until(reader, 99) == b"ne"
    deadline = time.monotonic() + 5
    while reader.read() is not None:
        assert time.monotonic() < deadline
    reader.close()


def test_a_closed_pipe_reads_as_its_end() -> None:
    read, write = os.pipe()
    reader = PipeReader(os.fdopen(read, "rb", buffering=0))
    reader.close()
    assert reader.read() is None
    os.close(write)


def test_lines_come_whole_and_endless_ones_are_only_counted() -> None:
    lines = LineSplitter(10)
    assert lines.feed(b"one\ntw") == [b"one"]
    assert lines.feed(b"o\n\n") == [b"two", b""]
    assert lines.feed(b"x" * 25) == []
    assert lines.feed(b"x" * 5) == []
    assert lines.feed(b"end\nnext") == []
    assert lines.flush() == [b"next"]
    assert lines.flush() == []
    assert lines.dropped_bytes == 25 + 5 + 3 + 1
    assert lines.feed(b"y" * 11 + b"\n") == []
    assert lines.feed(b"z" * 11) + lines.feed(b"z") + lines.flush() == []


def test_a_text_keeps_its_start_and_its_end() -> None:
    text = BoundedText(head=4, tail=3)
    text.add(b"abc")
    assert (text.text, text.tail) == ("abc", "abc")
    text.add(b"defg\xff")
    assert text.text == "abcd\n[... 1 bytes left out ...]\nfg\ufffd"
    assert text.tail == "fg\ufffd"


def test_writer_tells_when_nobody_reads() -> None:
    read, write = os.pipe()
    writer = LineWriter(write)
    writer(Event(kind="progress", phase="a", message="é\n"))
    assert parse_line(os.read(read, 1000).decode()).message == "é\n"
    os.close(read)
    with pytest.raises(CancelledError, match="nobody reads"):
        writer(Event(kind="progress", phase="a"))
    os.close(write)


def test_the_lifeline_ignores_text_and_ends_at_its_end() -> None:
    read, write = os.pipe()
    ended: list[bool] = []
    thread = watch_lifeline(read, lambda: ended.append(True))
    os.write(write, b"hello\n")
    time.sleep(0.05)
    assert not ended
    os.close(write)
    thread.join(5)
    assert ended
    os.close(read)


def test_all_descendants_are_found_and_ended() -> None:
    nested = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
    nested += "'import time; time.sleep(60)']); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", nested]) as process:
        deadline = time.monotonic() + 10
        while not descendants(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        kill_descendants(process.pid)
        assert descendants(process.pid) == []
        process.kill()
    assert descendants(process.pid) == []
