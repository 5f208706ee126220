"""The content of study.json: what holds for all cases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from semiseg import __version__
from semiseg.errors import SchemaError
from semiseg.events import Json
from semiseg.study.fields import Fields
from semiseg.study.migrate import SCHEMA
from semiseg.study.protocol import Protocol
from semiseg.study.splits import Splits
from semiseg.study.storage import make_folder, on_disk, read_json, write_json_atomic

STUDY_NAME = "study.json"


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """`case_ids` is the order in which cases were added.

    `retired` are ids of removed structures whose voxels are still in label files, with their
    names: another structure must not inherit them.
    """

    id: str
    name: str
    created: str
    protocol: Protocol = field(default_factory=Protocol)
    case_ids: tuple[str, ...] = ()
    splits: Splits = field(default_factory=Splits)
    retired: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Plain values for study.json."""
        return {
            "schema_version": SCHEMA,
            "semiseg_version": __version__,
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "protocol": self.protocol.to_json(),
            "cases": list(self.case_ids),
            "splits": self.splits.to_json(),
            "retired": {str(number): name for number, name in self.retired.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Json], where: str) -> StudyRecord:
        """The record in `values` of the current schema; SchemaError says what is wrong."""
        fields = Fields(values, where)
        retired = fields.part("retired")
        return cls(
            id=fields.text("id"),
            name=fields.text("name"),
            created=fields.text("created"),
            protocol=Protocol.from_json(fields.parts("protocol")),
            case_ids=fields.texts("cases"),
            splits=Splits.from_json(fields.part("splits")),
            retired={_number(key, where): retired.text(key) for key in retired.values},
        )


def save_record(folder: Path, record: StudyRecord) -> None:
    """Writes study.json and its copy in backups/; a corrupt study.json is kept aside first."""
    path, copy = folder / STUDY_NAME, backup_of(folder, folder / STUDY_NAME)
    _keep_corrupt(path, copy)
    write_json_atomic(path, record.to_json())
    make_folder(copy.parent)
    write_json_atomic(copy, record.to_json())


def backup_of(folder: Path, path: Path) -> Path:
    """Where the copy of a JSON file of the study is kept."""
    if path.parent == folder:
        return folder / "backups" / path.name
    return folder / "backups" / "cases" / f"{path.parent.name}.json"


def _keep_corrupt(path: Path, copy: Path) -> None:
    try:
        read_json(path)
    except SchemaError:
        with on_disk("keep", path):
            if os.path.lexists(path):
                make_folder(copy.parent)
                path.replace(copy.with_suffix(".corrupt.json"))


def _number(text: str, where: str) -> int:
    if not text.isdecimal():
        raise SchemaError(f"{where}: 'retired' should name ids, found {text!r}")
    return int(text)
