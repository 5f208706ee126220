"""Events that long work reports: one JSON object per line.

What `data` of the events holds, by phase; every one of long work may hold `seconds_left` (null
while unknown), and `error` with a sentence where a case or file failed and the others go on:

propagate  {"case", "saved", "version", "verdict", "score", "reasons", "atlases", "via",
           "unchanged", "self_check"} when a case is ready; "saved" is false and "version" null
           where the trust gate rejected it, "via" the case that labels came over, if one.
           {"case", "why"} for a case that nothing could be carried to.
predict    {"case", "saved": true, "version", "model", "uncertainty"} when a case is saved.
prepare    {"method", "why"} where the method was left to be chosen; {"plan"} once it is decided
           how to learn.
           {"start": {"known", "new", "left_out"}, "license_note"} when it begins with a bundle.
train      {"loss", "progress", "steps_per_s"} about twice a second; {"dice", "validation_dice",
           "structures", "cases"} when the validation was scored ("dice" the mean over structures,
           null where there was nothing to compare). {"preview": {"case", "plane", "index",
           "file"}} where a slice is watched. `step` and `total` are training steps.
validate   as train, for the extra trainings of leave-one-out.
suggest    {"case", "error"} for a case that cannot be read; steps are cases.
export     {"case", "saved": true, "files", "notes"} when a case's files are written;
           {"case", "error", "warning"} of a case of which no DICOM object could be made.
           {"warning": "identifiable", "findings" or "cases"} before something that could identify
           somebody is written outside the study; so in phase bundle.
report     no figures; steps are cases, and one for the page.
scan       {"image", "choices", "gaps", "left_out"} of a DICOM source, as `study add --help` says.
add        {"image", "case", "notes"} per image added, {"image", "error"} per image refused.
apply      {"case", "version"} per draft merged, {"case", "error"} per draft refused.
distribute {"task", "attempt", "cause"} of work that other processes share, when some of it is done
           again: "cause" is died, memory or corrupt; {"case", "error"} for a registration that
           failed. Steps are registrations, `total` those found so far.
test       steps of a connection's test. pack: cases made ready to be sent. upload: `step` and
           `total` are bytes. remote: {"pending": true} while a cluster is full, {"waiting": cause}
           while it cannot be reached, {"joined": true} where the same job ran already.
fetch      {"case", "saved", "version"} of a result from a cluster, {"case", "error"} if left out.
end        the last event: kind "result" or "error", data as the command's help says.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from semiseg.errors import JobError

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Kind = Literal["progress", "result", "error"]
_MAX_LINE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Event:
    """One report of a job; `step` of `total` units of `phase` are finished.

    `data` carries figures to plot or show, e.g. `{"loss": 0.3}` or `{"seconds_left": 12.5}`.
    """

    kind: Kind
    phase: str
    step: int = 0
    total: int = 0
    message: str = ""
    data: Mapping[str, Json] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def to_line(self) -> str:
        """One line of strict JSON without a line break inside; non-finite numbers become null."""
        body = {name: _finite(value) for name, value in vars(self).items()}
        return json.dumps(body, ensure_ascii=True, allow_nan=False)


Emit: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An `Emit` for callers that do not listen."""


def parse_line(line: str) -> Event:
    """The event in `line`; JobError when it is not one."""
    if len(line) > _MAX_LINE:
        raise JobError(f"an event line has {len(line)} characters; at most {_MAX_LINE} are read")
    try:
        body = json.loads(line)
        if not isinstance(body, dict) or body.get("kind") not in get_args(Kind):
            raise JobError(f"not an event: {line[:80]!r}")
        event = Event(**body)
    except (ValueError, TypeError, RecursionError) as error:
        raise JobError(f"not an event: {line[:80]!r}") from error
    if not _well_typed(event):
        raise JobError(f"not an event: {line[:80]!r}")
    return event


class Progress:
    """Reports `step` of `total` of one phase, with seconds left from the pace so far.

    Events are thinned to one per `interval_s`, but the first, the last and those with data of
    their own always go out.
    """

    def __init__(
        self,
        emit: Emit,
        phase: str,
        total: int,
        *,
        interval_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit, self._phase, self._total = emit, phase, total
        self._interval_s, self._clock = interval_s, clock
        self._start = self._last = clock()
        self._first_step: int | None = None

    def update(self, step: int, message: str = "", data: Mapping[str, Json] | None = None) -> None:
        """Say that `step` units are finished."""
        now = self._clock()
        if self._first_step is None:
            self._first_step = step
        elif not data and step < self._total and now - self._last < self._interval_s:
            return
        self._last = now
        extra = {"seconds_left": self._seconds_left(step, now), **(data or {})}
        self._emit(
            Event(
                kind="progress",
                phase=self._phase,
                step=step,
                total=self._total,
                message=message,
                data=extra,
            )
        )

    def _seconds_left(self, step: int, now: float) -> float | None:
        done = step - (self._first_step or 0)
        if done <= 0:
            return None
        return (now - self._start) / done * max(self._total - step, 0)


def _well_typed(event: Event) -> bool:
    """Whether fields that another process wrote are of the types that a window may rely on."""
    texts = isinstance(event.phase, str) and isinstance(event.message, str)
    counts = isinstance(event.step, int) and isinstance(event.total, int)
    return texts and counts and isinstance(event.data, dict) and isinstance(event.time, int | float)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
