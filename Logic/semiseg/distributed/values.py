"""Plain values as bytes and back: JSON, with numpy arrays as blocks after it; nothing pickled."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from semiseg.distributed.executor import Value
from semiseg.errors import JobError

_HEAD = struct.Struct("<Q")
_ARRAY = "$array"
_KINDS = "biufc"


def digest(content: bytes | memoryview) -> str:
    """SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def pack(value: Value) -> bytes:
    """`value` as bytes; JobError when it holds anything but JSON and numeric arrays."""
    blocks: list[np.ndarray[Any, np.dtype[np.generic]]] = []
    try:
        text = json.dumps(_plain(value, blocks)).encode()
    except (TypeError, ValueError) as error:
        raise JobError(f"a task's value is not plain: {error}") from error
    return b"".join([_HEAD.pack(len(text)), text, *(block.tobytes() for block in blocks)])


def unpack(content: bytes | memoryview) -> Any:
    """The value that `pack` was given; JobError when `content` is not of its making."""
    view = memoryview(content)
    try:
        (length,) = _HEAD.unpack(view[: _HEAD.size])
        start = _HEAD.size + length
        plain = json.loads(view[_HEAD.size : start].tobytes())
        return _filled(plain, _Blocks(view[start:]))
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise JobError(f"a task's value cannot be read: {error}") from error


def _plain(value: Value, blocks: list[Any]) -> object:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        blocks.append(value)
        return {_ARRAY: [value.dtype.str, list(value.shape)]}
    if isinstance(value, Mapping):
        if _ARRAY in value or not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be texts other than {_ARRAY}")
        return {key: _plain(item, blocks) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, blocks) for item in value]
    return value


class _Blocks:
    """The arrays' bytes, taken one after the other."""

    def __init__(self, rest: memoryview) -> None:
        self._rest = rest

    def take(self, kind: str, shape: list[int]) -> np.ndarray[Any, np.dtype[np.generic]]:
        dtype = np.dtype(kind)
        if dtype.kind not in _KINDS:
            raise ValueError(f"an array of {kind} is not accepted")
        size = math.prod(shape) * dtype.itemsize
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(bytes(self._rest[:size]), np.uint8)
        self._rest = self._rest[size:]
        return array


def _filled(plain: Any, blocks: _Blocks) -> Any:
    if isinstance(plain, dict):
        if _ARRAY in plain:
            return blocks.take(*plain[_ARRAY])
        return {key: _filled(item, blocks) for key, item in plain.items()}
    if isinstance(plain, list):
        return [_filled(item, blocks) for item in plain]
    return plain
