"""Messages between an executor and its worker process: a JSON head and bytes, over a pipe."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO

from semiseg.errors import JobError
from semiseg.events import Json

_SIZES = struct.Struct("<IQ")
_LARGEST_HEAD = 10_000_000


def send(pipe: IO[bytes], head: Mapping[str, Json], content: bytes = b"") -> None:
    """Write one message; OSError when nobody reads any more."""
    text = json.dumps(head).encode()
    pipe.write(_SIZES.pack(len(text), len(content)))
    pipe.write(text)
    pipe.write(content)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Json], bytes] | None:
    """The next message; None at the pipe's end, also in the middle of one."""
    sizes = _exactly(pipe, _SIZES.size)
    if sizes is None:
        return None
    n_head, n_content = _SIZES.unpack(sizes)
    if n_head > _LARGEST_HEAD:
        raise JobError("a worker's message cannot be read: its head is too long")
    head, content = _exactly(pipe, n_head), _exactly(pipe, n_content)
    if head is None or content is None:
        return None
    try:
        values = json.loads(head)
    except ValueError as error:
        raise JobError(f"a worker's message cannot be read: {error}") from error
    return values, content


def _exactly(pipe: IO[bytes], count: int) -> bytes | None:
    """`count` bytes; None when the pipe ended before."""
    found = pipe.read(count)
    return found if len(found) == count else None
