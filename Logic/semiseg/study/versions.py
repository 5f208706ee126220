"""Numbered folders that are written once and never changed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from semiseg import __version__
from semiseg.errors import ImageError, SchemaError
from semiseg.events import Json
from semiseg.images.reading import sha256_file
from semiseg.study.fields import Fields
from semiseg.study.journal import utc_now
from semiseg.study.migrate import SCHEMA, schema_of
from semiseg.study.storage import make_folder, publish_folder, read_json, write_json_atomic

MANIFEST_NAME = "version.json"
_NUMBER = re.compile(r"\d{4,}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What version.json says: when, which files with which content, and what else is told."""

    folder: Path
    schema: int
    created: str
    files: Mapping[str, tuple[int, str]]
    info: Mapping[str, Json]


def version_numbers(parent: Path) -> tuple[int, ...]:
    """The numbers of the versions in `parent`, rising; none where the folder is missing."""
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if _NUMBER.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(sorted(int(name) for name in names))


def version_folder(parent: Path, number: int) -> Path:
    """The folder of version `number`."""
    return parent / f"{number:04d}"


def write_manifest(folder: Path, info: Mapping[str, Json]) -> None:
    """Describes the files in `folder`, which must be complete."""
    files: dict[str, Json] = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    body: dict[str, Json] = {
        "schema_version": SCHEMA,
        "semiseg_version": __version__,
        "created": utc_now(),
        "files": files,
        "info": dict(info),
    }
    write_json_atomic(folder / MANIFEST_NAME, body)


def publish_version(draft: Path, parent: Path) -> int:
    """Gives the filled `draft` the next number, which it returns; call under the lock."""
    make_folder(parent)
    number = max(version_numbers(parent), default=0) + 1
    publish_folder(draft, version_folder(parent, number))
    return number


def read_manifest(folder: Path) -> Manifest:
    """SchemaError when it is missing or corrupt, or when a file of the version is not whole."""
    path = folder / MANIFEST_NAME
    values = read_json(path)
    fields = Fields(values, str(path))
    schema = schema_of(values, str(path))
    listed = fields.part("files")
    files = {name: _file(listed.part(name)) for name in listed.values}
    for name, (size, _) in files.items():
        _require_size(folder / name, size)
    return Manifest(
        folder=folder,
        schema=schema,
        created=fields.text("created"),
        files=files,
        info=fields.mapping("info"),
    )


def require_content(manifest: Manifest) -> None:
    """SchemaError when a file of the version is no longer what was written."""
    for name, (_, sha256) in manifest.files.items():
        path = manifest.folder / name
        try:
            found = sha256_file(path)
        except ImageError as error:
            raise SchemaError(f"{path} cannot be read: {error}") from error
        if found != sha256:
            raise SchemaError(f"{path} was changed or damaged after it was saved")


def _file(fields: Fields) -> tuple[int, str]:
    return fields.integer("bytes"), fields.text("sha256")


def _require_size(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise SchemaError(f"{path} is missing") from error
    except OSError as error:
        raise SchemaError(f"{path} cannot be read: {error.strerror}") from error
    if found != size:
        raise SchemaError(f"{path} is damaged: it has {found} bytes, {size} were saved")
