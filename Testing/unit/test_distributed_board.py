"""Faults of workers, played to the board without any process: once each, never twice, or said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from semiseg.distributed.board import Arrived, Board, Died, Pool, Report, Ticket, run
from semiseg.distributed.executor import RETRIES, Outcome, Task
from semiseg.distributed.serial import SerialExecutor
from semiseg.distributed.tasks import MEMORY, Reply, Work, find, name_of, perform, task
from semiseg.distributed.values import digest, pack
from semiseg.errors import CancelledError, DeviceError, ImageError, JobError, SemiSegError
from semiseg.events import Event

Answer = Callable[[Ticket], Report]
ECHO = "semiseg.distributed.probes:echo"


def good(ticket: Ticket) -> Report:
    reply = perform(ticket.function, ticket.content, ticket.sha256, ticket.files)
    return Arrived(ticket=ticket, reply=reply, worker="w")


def died(ticket: Ticket, *, begun: bool = True, memory: bool = False) -> Report:
    return Died(ticket=ticket, worker="w", why="gone", begun=begun, memory=memory)


def damaged(ticket: Ticket) -> Report:
    content = pack("wrong")
    reply = Reply(failure="", content=content, sha256=digest(b"other"), seconds=0)
    return Arrived(ticket=ticket, reply=reply, worker="w")


def no_memory(ticket: Ticket) -> Report:
    reply = Reply(failure=MEMORY, content=b"", sha256=digest(b""), seconds=0)
    return Arrived(ticket=ticket, reply=reply, worker="w")


class PlayedPool:
    """Two workers that do what the script says: `faults[index]` for the first attempts."""

    def __init__(self, faults: dict[int, list[Answer]]) -> None:
        self.faults, self.out = faults, []
        self.companions: list[tuple[int, int]] = []

    def room(self) -> bool:
        return len(self.out) < 2

    def begin(self, ticket: Ticket) -> None:
        self.out.append(ticket)

    def wait(self) -> list[Report]:
        self.companions.append((self.out[0].index, len(self.out)))
        ticket = self.out.pop(0)
        answers = self.faults.get(ticket.index, [])
        return [answers.pop(0)(ticket) if answers else good(ticket)]


def echoes(n: int) -> Iterator[Task]:
    return (Task(function=ECHO, arguments={"value": i}) for i in range(n))


def played(pool: Pool, n: int = 4) -> tuple[dict[int, Outcome], list[Event]]:
    events: list[Event] = []
    outcomes = list(run(pool, echoes(n), events.append))
    assert sorted(o.index for o in outcomes) == list(range(n))  # each exactly once
    return {o.index: o for o in outcomes}, events


def test_a_task_whose_worker_died_is_done_again() -> None:
    found, events = played(PlayedPool({1: [died]}))
    assert [found[i].require() for i in range(4)] == [0, 1, 2, 3]
    assert [found[i].attempts for i in range(4)] == [1, 2, 1, 1]
    assert [event.data["cause"] for event in events] == ["died"]
    assert events[0].data["task"] == 1


def test_a_task_that_was_only_queued_with_the_dead_worker_counts_no_attempt() -> None:
    found, events = played(PlayedPool({2: [lambda ticket: died(ticket, begun=False)]}))
    assert found[2].attempts == 1
    assert events == []


def test_the_last_attempt_is_alone_and_then_it_is_said() -> None:
    pool = PlayedPool({0: [died] * 9})
    found, _ = played(pool)
    assert found[0].attempts == RETRIES + 1
    assert pool.companions[-1] == (0, 1)
    with pytest.raises(JobError, match="task 0 ended its worker 3 times: gone"):
        found[0].require()


def test_a_task_out_of_memory_is_done_again_at_the_end_alone() -> None:
    pool = PlayedPool({0: [no_memory]})
    found, events = played(pool)
    assert found[0].require() == 0
    assert pool.companions[-1] == (0, 1)
    assert events[0].data["cause"] == "memory"


@pytest.mark.parametrize("fault", [no_memory, lambda ticket: died(ticket, memory=True)])
def test_a_task_that_is_out_of_memory_alone_too_is_said(fault: Answer) -> None:
    found, _ = played(PlayedPool({3: [fault] * 5}))
    assert found[3].attempts == 2
    with pytest.raises(SemiSegError, match=r"memory did not suffice|ended its worker"):
        found[3].require()
    assert isinstance(found[3].error, DeviceError if fault is no_memory else JobError)


def test_a_damaged_result_is_not_taken_but_done_again() -> None:
    found, events = played(PlayedPool({2: [damaged]}))
    assert found[2].require() == 2
    assert found[2].attempts == 2
    assert events[0].data["cause"] == "corrupt"


def test_results_that_are_always_damaged_are_said() -> None:
    found, _ = played(PlayedPool({2: [damaged] * 9}))
    with pytest.raises(JobError, match="arrived damaged 3 times"):
        found[2].require()


def test_damaged_arguments_are_noticed_by_the_worker_and_sent_again() -> None:
    def wrong(ticket: Ticket) -> Report:
        reply = perform(ticket.function, ticket.content + b"x", ticket.sha256, {})
        return Arrived(ticket=ticket, reply=reply, worker="w")

    found, events = played(PlayedPool({0: [wrong]}))
    assert found[0].require() == 0
    assert events[0].data["cause"] == "corrupt"


def test_a_second_answer_to_one_task_is_dropped() -> None:
    board = Board(echoes(1), lambda event: None)
    ticket = board.next()
    assert ticket is not None
    assert board.take(good(ticket)) is not None
    assert board.take(good(ticket)) is None
    assert board.next() is None
    assert board.over


def test_tasks_are_read_no_faster_than_they_are_done() -> None:
    read: list[int] = []

    def tasks() -> Iterator[Task]:
        for one in echoes(100):
            read.append(1)
            yield one

    outcomes = run(PlayedPool({}), tasks(), lambda event: None)
    next(outcomes)
    assert len(read) <= 3


@task
def fails(work: Work) -> None:
    raise {"image": ImageError("it is cut off"), "defect": KeyError("k")}[work.arguments["how"]]


def undeclared(work: Work) -> None:
    raise AssertionError


def test_an_error_is_the_outcome_of_its_task_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("semiseg.distributed.probes.echo", fails)
    with SerialExecutor() as executor:
        tasks = (Task(function=ECHO, arguments={"how": how}) for how in ("image", "defect"))
        image, defect = executor.map(tasks)
    with pytest.raises(ImageError, match="it is cut off"):
        image.require()
    with pytest.raises(SemiSegError, match=r"(?s)defect.*KeyError: 'k'"):
        defect.require()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("semiseg.nowhere:f", "does not have"),
        ("semiseg.distributed.probes:nothing", "does not have"),
        ("", "does not have"),
        ("os:getcwd", "not declared"),
    ],
)
def test_only_declared_functions_are_called(name: str, match: str) -> None:
    with pytest.raises(JobError, match=match):
        find(name)


def test_a_function_is_named_by_its_module() -> None:
    from semiseg.distributed.probes import echo

    assert name_of(echo) == ECHO
    assert find(ECHO) is echo


def test_memory_errors_of_any_kind_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for error in (MemoryError("no"), RuntimeError("can't allocate memory: you tried")):

        @task
        def hungry(work: Work, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("semiseg.distributed.probes.echo", hungry)
        content = pack({})
        assert perform(ECHO, content, digest(content), {}).failure == MEMORY


def test_a_cancelled_serial_executor_begins_nothing() -> None:
    executor = SerialExecutor()
    outcomes = executor.map(echoes(3))
    assert next(outcomes).require() == 0
    executor.cancel()
    with pytest.raises(CancelledError):
        next(outcomes)
