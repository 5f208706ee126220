"""Arrays that cost time to make, kept in the study's cache under the key of what made them."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import StorageError
from semiseg.study.storage import make_folder, write_bytes_atomic

Arrays = Mapping[str, NDArray[np.generic]]
_KEY = "key"


def kept(path: Path, key: str, make: Callable[[], Arrays]) -> dict[str, NDArray[np.generic]]:
    """The arrays in `path` if they were made under `key`; else those that `make` gives, kept there.

    A cache that cannot be read or written costs time, nothing else.
    """
    found = known(path, key)
    if found is None:
        found = dict(make())
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **{_KEY: np.array(key), **found})
        with contextlib.suppress(StorageError):
            make_folder(path.parent)
            write_bytes_atomic(path, content.getvalue())
    return found


def known(path: Path, key: str) -> dict[str, NDArray[np.generic]] | None:
    """The arrays in `path` if they were made under `key`, else None."""
    try:
        with np.load(path, allow_pickle=False) as content:
            found = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    made_under = found.pop(_KEY, None)
    return found if made_under is not None and str(made_under) == key else None
