"""On the cluster: a study for one job, made of pieces; and what came of it, as pieces again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from semiseg.errors import SchemaError
from semiseg.events import Json
from semiseg.remote.blobs import Store, copy_piece
from semiseg.remote.manifest import Manifest, Piece, SentCase, Version
from semiseg.remote.packing import DESCRIPTION, opaque_protocol
from semiseg.study.case import Case
from semiseg.study.fields import Fields
from semiseg.study.storage import draft_folder, make_folder, write_bytes_atomic, write_json_atomic
from semiseg.study.study import Study
from semiseg.study.versions import (
    MANIFEST_NAME,
    publish_version,
    read_manifest,
    version_folder,
    version_numbers,
    write_manifest,
)

_READY = "ready"


def rebuild(manifest: Manifest, store: Store, folder: Path) -> Study:
    """The job's study in `folder`; one that was made whole before is gone on with."""
    if (folder / _READY).exists():
        return Study.open(folder)
    shutil.rmtree(folder, ignore_errors=True)
    protocol = opaque_protocol(manifest.structures, manifest.rules)
    study = Study.create(folder, name="job", protocol=protocol)
    images = folder / "images"
    make_folder(images)
    for case in manifest.cases:
        image = images / f"{case.id}.nrrd"
        copy_piece(store.path(case.image), image)
        _add(study, case, image)
        if case.label is not None:
            _put(folder / "cases" / case.id / "labels", case.label, store)
    if manifest.model is not None:
        told = {**manifest.model.info, "study_id": study.id}
        _put(folder / "models", replace(manifest.model, info=told), store, describe=True)
    write_bytes_atomic(folder / _READY, b"")
    study.reload()
    return study


def _add(study: Study, case: SentCase, image: Path) -> None:
    study.add_case(
        image,
        case_id=case.id,
        patient=case.patient,
        modality="MR" if case.modality == "MR" else "CT",
        split="val" if case.split == "val" else "test" if case.split == "test" else "train",
    )
    if case.sequence is not None:
        study.set_sequence(case.id, case.sequence)


def _put(parent: Path, version: Version, store: Store, *, describe: bool = False) -> None:
    with draft_folder(parent, "version") as draft:
        for name, piece in version.files.items():
            copy_piece(store.path(piece), draft / name)
        if describe:
            write_json_atomic(draft / DESCRIPTION, version.info)
        write_manifest(draft, version.info)
        publish_version(draft, parent)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A new version of the job's study; `case_id` is None for a model."""

    kind: str
    case_id: str | None
    version: Version | None
    gate: Mapping[str, Json] | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a job made."""

    job: str
    found: tuple[Found, ...]

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Results:
        """SchemaError when it cannot be read."""
        try:
            values = json.loads(content)
        except ValueError as error:
            raise SchemaError(f"the list of results is damaged: {error}") from error
        fields = Fields(values if isinstance(values, dict) else {}, "the list of results")
        found = []
        for part in fields.parts("found"):
            version, gate = part.optional_part("version"), part.optional_part("gate")
            found.append(
                Found(
                    kind=part.choice("kind", ("label", "prediction", "model")),
                    case_id=part.optional_text("case_id"),
                    version=None if version is None else Version.from_json(version),
                    gate=None if gate is None else gate.values,
                )
            )
        return cls(job=fields.text("job"), found=tuple(found))


def collect(manifest: Manifest, study: Study, outbox: Path) -> Results:
    """Copies what is new in the job's study into `outbox`, each file under its digest."""
    study.reload()
    found = [*_labels(manifest, study, outbox), *_others(manifest, study, outbox)]
    return Results(job=manifest.job_id, found=tuple(found))


def _labels(manifest: Manifest, study: Study, outbox: Path) -> Iterator[Found]:
    for sent in manifest.cases:
        case: Case = study.case(sent.id)
        if manifest.kind != "propagate" or case.gate is None:
            continue
        parent = study.folder / "cases" / sent.id / "labels"
        numbers = version_numbers(parent)
        new = len(numbers) > (sent.label is not None) and case.gate.verdict != "reject"
        version = _taken(version_folder(parent, numbers[-1]), outbox) if new else None
        gate = cast("Mapping[str, Json]", case.gate.to_json())
        yield Found(kind="label", case_id=sent.id, version=version, gate=gate)


def _others(manifest: Manifest, study: Study, outbox: Path) -> Iterator[Found]:
    for sent in manifest.cases:
        parent = study.folder / "cases" / sent.id / "predictions"
        for number in version_numbers(parent)[-1:]:
            version = _taken(version_folder(parent, number), outbox)
            yield Found(kind="prediction", case_id=sent.id, version=version)
    models = study.folder / "models"
    for number in version_numbers(models)[-1:]:
        if manifest.kind == "train":
            version = _taken(version_folder(models, number), outbox)
            yield Found(kind="model", case_id=None, version=version)


def _taken(folder: Path, outbox: Path) -> Version:
    listed = read_manifest(folder)
    files = {}
    for name in listed.files:
        if name == MANIFEST_NAME:
            continue
        content = (folder / name).read_bytes()
        files[name] = Piece.of(content)
        write_bytes_atomic(outbox / files[name].sha256, content)
    return Version(files=files, info=listed.info)
