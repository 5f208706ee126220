"""Brings the JSON files of older studies to the current schema.

Schema 1 had one image list and nothing more: no study id, no codes, no patients and splits, no
trust gate, one flag in place of the modality's confidence, and no size or time of the images.
Label folders are never rewritten: `labels` reads those of both schemas.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path

from semiseg import __version__
from semiseg.errors import SchemaError
from semiseg.events import Json
from semiseg.study.fields import Fields
from semiseg.study.storage import copy_file, make_folder, read_json, write_json_atomic

SCHEMA = 2
_UNKNOWN_TIME = -1


class NewerSchemaError(SchemaError):
    """Written by a SemiSeg that knows more than this one: read nothing, change nothing."""


def schema_of(values: Mapping[str, Json], where: str) -> int:
    """The schema number; SchemaError when it is absent or newer than this program knows."""
    fields = Fields(values, where)
    schema = fields.integer("schema_version")
    if schema > SCHEMA:
        program = fields.text("semiseg_version", "of an unknown version")
        raise NewerSchemaError(
            f"{where} was written by a newer SemiSeg ({program}, schema {schema}); this is "
            f"SemiSeg {__version__}, which reads up to schema {SCHEMA}: update SemiSeg. "
            "Nothing was changed"
        )
    if schema < 1:
        raise SchemaError(f"{where} has schema {schema}; expected 1 to {SCHEMA}")
    return schema


def migrate_study(values: Mapping[str, Json], where: str) -> dict[str, Json]:
    """`values` of study.json in the current schema; the same where they already are."""
    if schema_of(values, where) == SCHEMA:
        return dict(values)
    # Made from what does not change, so that a migration cut short repeats to the same id.
    seed = f"{values.get('name')} {values.get('created')}"
    return {
        **values,
        "schema_version": SCHEMA,
        "id": uuid.uuid5(uuid.NAMESPACE_URL, seed).hex,
        "splits": {"seed": None, "fractions": None, "patients": {}},
        "retired": {},
    }


def migrate_case(values: Mapping[str, Json], where: str) -> dict[str, Json]:
    """`values` of case.json in the current schema; each case becomes a patient of its own."""
    if schema_of(values, where) == SCHEMA:
        return dict(values)
    fields = Fields(values, where)
    guessed = fields.flag("modality_guessed", default=True)
    image = fields.mapping("image")
    return {
        **{name: value for name, value in values.items() if name != "modality_guessed"},
        "schema_version": SCHEMA,
        "patient": fields.text("id"),
        "modality_confidence": 0.5 if guessed else 1.0,
        "modality_overridden": not guessed,
        "image": {"size_bytes": 0, "mtime_ns": _UNKNOWN_TIME, **image},
        "gate": None,
    }


def migrate_folder(folder: Path, schema: int) -> Path:
    """Rewrites the JSON files of the study in `folder`, each after a copy of it was kept.

    `study.json` comes last: until then the study counts as old, and a run that was cut short
    starts again. Returns the folder with the copies.
    """
    backup = folder / "backups" / f"schema-{schema}"
    for path in sorted((folder / "cases").glob("*/case.json")):
        _rewrite_case(path, backup / "cases" / f"{path.parent.name}.json")
    study = folder / "study.json"
    _keep(study, backup / "study.json")
    write_json_atomic(study, migrate_study(read_json(study), str(study)))
    return backup


def _rewrite_case(path: Path, backup: Path) -> None:
    try:
        values = read_json(path)
        migrated = migrate_case(values, str(path))
    except SchemaError:
        return  # opening says what is wrong with it; the file stays as it is
    if migrated != values:
        _keep(path, backup)
        write_json_atomic(path, migrated)


def _keep(path: Path, backup: Path) -> None:
    if not backup.exists():
        make_folder(backup.parent)
        copy_file(path, backup)
