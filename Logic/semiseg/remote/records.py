"""What a study knows of its jobs elsewhere and of the consent to send: no token, ever."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, cast, get_args

from semiseg.errors import StudyError
from semiseg.events import Json
from semiseg.remote.manifest import KINDS, Kind
from semiseg.remote.names import Names
from semiseg.study.fields import Fields
from semiseg.study.journal import utc_now
from semiseg.study.storage import (
    make_folder,
    on_disk,
    read_json,
    write_bytes_atomic,
    write_json_atomic,
)

State = Literal["sent", "done", "failed", "cancelled"]
_JOB = re.compile(r"semiseg-[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A job of this study on a cluster.

    `names` are what its names stand for, `bases` the label version of each case that was sent,
    `images` the digests of the images, `applied` what came back into the study.
    """

    id: str
    address: str
    kind: Kind
    created: str
    names: Mapping[str, str]
    bases: Mapping[str, int]
    images: Mapping[str, str]
    model_id: int | None = None
    state: State = "sent"
    note: str = ""
    cpus: float = 1.0
    gpus: float = 0.0
    applied: tuple[str, ...] = ()

    @property
    def words(self) -> Names:
        """The way back to the study's own names."""
        return Names(real=self.names)

    @classmethod
    def from_json(cls, fields: Fields) -> Record:
        """SchemaError when a value is missing or not of its kind."""
        return cls(
            id=fields.text("id"),
            address=fields.text("address"),
            kind=cast(Kind, fields.choice("kind", KINDS)),
            created=fields.text("created"),
            names={key: str(value) for key, value in fields.mapping("names").items()},
            bases={key: fields.part("bases").integer(key) for key in fields.mapping("bases")},
            images={key: str(value) for key, value in fields.mapping("images").items()},
            model_id=None if fields.values.get("model_id") is None else fields.integer("model_id"),
            state=cast(State, fields.choice("state", get_args(State))),
            note=fields.text("note", ""),
            cpus=fields.number("cpus", 1.0),
            gpus=fields.number("gpus", 0.0),
            applied=fields.texts("applied"),
        )


@dataclass(frozen=True)
class Records:
    """The records in `remote/` of a study folder."""

    study_folder: Path
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.study_folder / "remote")

    def save(self, record: Record) -> Record:
        """Keeps the record; returns it."""
        make_folder(self.folder)
        write_json_atomic(self.folder / f"{record.id}.json", asdict(record))
        return record

    def put_back(self, job_id: str, before: Record | None) -> None:
        """Undoes `save`: the record is again the one `before`, or there is none."""
        if before is not None:
            self.save(before)
            return
        with on_disk("remove", self.folder):
            (self.folder / f"{job_id}.json").unlink(missing_ok=True)

    def keep_manifest(self, job_id: str, content: bytes) -> None:
        """Keeps what was sent, as plain text to look at and to send again."""
        make_folder(self.folder / "sent")
        write_bytes_atomic(self.folder / "sent" / job_id, content)

    def manifest(self, job_id: str) -> bytes | None:
        """What was sent; None when it is gone."""
        try:
            return (self.folder / "sent" / job_id).read_bytes()
        except OSError:
            return None

    def all(self) -> tuple[Record, ...]:
        """Every record, oldest first."""
        found = [self._read(path) for path in self.folder.glob("semiseg-*.json")]
        return tuple(sorted(found, key=lambda record: record.created))

    def running(self, addresses: Container[object]) -> tuple[Record, ...]:
        """Those that may still be at work at one of `addresses`."""
        return tuple(r for r in self.all() if r.state == "sent" and r.address in addresses)

    def find(self, job_id: str | None) -> Record:
        """A job by its id or the beginning of it, the newest by default; StudyError if none."""
        known = self.all()
        if not known:
            raise StudyError("this study has no jobs on a cluster; send one with semiseg run --on")
        if job_id is None:
            return known[-1]
        found = [record for record in known if record.id.startswith(job_id)]
        found += [record for record in known if record.id.startswith(f"semiseg-{job_id}")]
        if len({record.id for record in found}) == 1:
            return found[0]
        names = ", ".join(record.id for record in known[-5:])
        many = "several jobs begin" if found else "no job of this study begins"
        raise StudyError(f"{many} with {job_id!r}; the newest are {names}")

    def known(self, job_id: str) -> Record | None:
        """The record of exactly this job."""
        path = self.folder / f"{job_id}.json"
        return self._read(path) if _JOB.fullmatch(job_id) and path.exists() else None

    def mark(self, record: Record, state: State, note: str = "") -> Record:
        """The record in another state, kept."""
        return self.save(replace(record, state=state, note=note))

    def consent(self) -> dict[str, Json]:
        """When it was agreed to send to which address."""
        path = self.folder / "consent.json"
        return read_json(path) if path.exists() else {}

    def agree(self, address: str) -> None:
        """Remembers that this study's scans may go to `address`."""
        make_folder(self.folder)
        told = {**self.consent(), address: utc_now()}
        write_json_atomic(self.folder / "consent.json", told)

    def withdraw(self, address: str) -> bool:
        """Forgets that scans may go to `address`; whether they might."""
        told = self.consent()
        if told.pop(address, None) is None:
            return False
        write_json_atomic(self.folder / "consent.json", told)
        return True

    def _read(self, path: Path) -> Record:
        return Record.from_json(Fields(read_json(path), str(path)))
