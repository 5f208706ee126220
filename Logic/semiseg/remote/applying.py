"""Brings results from a cluster into the study: under its lock, once, and never over a human.

What the study says now decides. A case that was removed, or that got another image or another
propagated label meanwhile, is left as it is, and a sentence says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from semiseg.errors import SchemaError, StudyError
from semiseg.events import Emit, Event, Json
from semiseg.remote.manifest import Piece, Version
from semiseg.remote.packing import DESCRIPTION, WEIGHTS
from semiseg.remote.rebuild import Found, Results
from semiseg.remote.records import Record, Records
from semiseg.study.case import Case, GateRecord, Origin
from semiseg.study.fields import Fields
from semiseg.study.labels import CaseFiles
from semiseg.study.storage import make_folder, write_bytes_atomic
from semiseg.study.study import Study
from semiseg.study.versions import version_folder, write_manifest

Fetch = Callable[[Piece], bytes]
_WAIT_S = 120.0
_MARK = "remote_job"
# Less than one step of what is stored, yet more than nothing: such voxels keep their origin.
_SOME = np.float32(1e-6)


@dataclass(kw_only=True)
class Applied:
    """What came in, what had come in before, and why some was left out; by case, or "model"."""

    versions: dict[str, int | None] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Plain values for events."""
        return {
            "applied": dict(self.versions),
            "applied_before": list(self.before),
            "refused": dict(self.refused),
        }


def apply_results(
    study: Study, record: Record, results: Results, fetch: Fetch, emit: Emit
) -> Applied:
    """Takes `results` into the study; `fetch` gives the verified content of a piece.

    SchemaError when they are of another job. May be called again: what is in stays as it is.
    """
    if results.job != record.id:
        raise SchemaError(f"these are the results of {results.job}, not of {record.id}")
    applied = Applied()
    work = _Applying(study, record, fetch)
    for number, found in enumerate(results.found, 1):
        key, version = work.take(found, applied)
        why = applied.refused.get(key)
        data: dict[str, Json] = {"case": key, "error": why} if why else {}
        if not why and key != "model":
            data = {"case": key, "saved": version is not None, "version": version}
        emit(
            Event(
                kind="progress",
                phase="fetch",
                step=number,
                total=len(results.found),
                message=why or f"{key} is in the study",
                data=data,
            )
        )
    return applied


class _Applying:
    """One call of `apply_results`."""

    def __init__(self, study: Study, record: Record, fetch: Fetch) -> None:
        self._study, self._fetch = study, fetch
        self._record, self._records = record, Records(study.folder)

    def take(self, found: Found, applied: Applied) -> tuple[str, int | None]:
        """One result: whose it is, and its version here."""
        case_id = self._record.words.real.get(found.case_id or "", "")
        key = case_id if found.kind != "model" else "model"
        with tempfile.TemporaryDirectory(prefix="semiseg-") as parent:
            if found.version is not None and self._mark(found, key) not in self._record.applied:
                self._bring(found, Path(parent))
            with self._study.writing(wait_s=_WAIT_S):
                self._study.reload()
                try:
                    version = self._once(found, key, Path(parent), applied)
                except StudyError as error:
                    applied.refused[key] = f"{key}: {error}"
                    return key, None
        return key, version

    def _once(self, found: Found, key: str, files: Path, applied: Applied) -> int | None:
        known = self._earlier(found, key)
        if known is not None or self._mark(found, key) in self._record.applied:
            applied.before.append(key)
            version = known
        else:
            version = self._saved(found, key, files)
            applied.versions[key] = version
        marks = sorted({*self._record.applied, self._mark(found, key)})
        self._record = self._records.save(replace(self._record, applied=tuple(marks)))
        return version

    def _mark(self, found: Found, key: str) -> str:
        return f"{found.kind} {key}"

    def _earlier(self, found: Found, key: str) -> int | None:
        """The version that this job's result became, where its noting down was cut short."""
        study = self._study
        if found.kind == "model":
            mine = [m.id for m in study.models() if m.info.get(_MARK) == self._record.id]
            return mine[0] if mine else None
        case = study.case(key)
        label = found.kind == "label"
        numbers = study.label_versions(case.id) if label else study.prediction_versions(case.id)
        told = study.label_info if label else study.prediction_info
        mine = [n for n in numbers if told(case.id, n).info.get(_MARK) == self._record.id]
        return mine[0] if mine else None

    def _bring(self, found: Found, folder: Path) -> None:
        """Fetches the files of a version into the numbered folder that the study reads."""
        version = self._required(found)
        name = {"label": "labels", "prediction": "predictions", "model": "models"}[found.kind]
        place = version_folder(folder / name, 1)
        make_folder(place)
        for file, piece in version.files.items():
            write_bytes_atomic(place / file, self._fetch(piece))
        write_manifest(place, version.info)

    def _saved(self, found: Found, key: str, files: Path) -> int | None:
        if found.kind == "model":
            return self._model(self._required(found), version_folder(files / "models", 1))
        case = self._unchanged(key)
        if found.kind == "label":
            return self._label(case, found, files)
        return self._prediction(case, files, self._told(self._required(found)))

    def _unchanged(self, case_id: str) -> Case:
        case = self._study.case(case_id)
        if case.image.sha256 != self._record.images.get(case_id):
            raise StudyError("its image is another one now than the one that was sent")
        return case

    def _label(self, case: Case, found: Found, files: Path) -> int | None:
        self._require_no_newer(case)
        gate = GateRecord.from_json(Fields(self._words(dict(found.gate or {})), "the gate"))
        told = {} if found.version is None else self._told(found.version)
        array = np.zeros(case.grid.shape_zyx, np.uint16)
        confidence = np.zeros(case.grid.shape_zyx, np.float32)
        ids: tuple[int, ...] = ()
        if found.version is not None:
            label = CaseFiles(files, case.id, case.grid).read_label(1)
            # What programs said; humans' voxels are as the study has them now.
            ours = label.origin == Origin.PROPAGATED
            array[ours] = label.array[ours]
            confidence[ours] = np.maximum(label.confidence[ours], _SOME)
            ids = label.propagated_ids
        return self._study.propagated(
            case.id, array, confidence, structure_ids=ids, gate=gate, info=told
        )

    def _require_no_newer(self, case: Case) -> None:
        base = self._record.bases.get(case.id, 0)
        for version in self._study.label_versions(case.id):
            kind = self._study.label_info(case.id, version).info.get("kind")
            if version > base and kind not in ("annotated", "marked"):
                raise StudyError(
                    f"its label was {str(kind).replace('_', ' ')} here meanwhile (version "
                    f"{version}); the cluster's result rests on version {base} and was left out. "
                    "Propagate again if it should be made anew"
                )

    def _prediction(self, case: Case, files: Path, told: dict[str, Json]) -> int:
        model = self._study.model(self._record.model_id)
        found = CaseFiles(files, case.id, case.grid).read_prediction(1)
        return self._study.predicted(
            case.id,
            found.array,
            found.uncertainty,
            model_id=model.id,
            info={**told, "model": model.name},
        )

    def _model(self, version: Version, folder: Path) -> int:
        told = {**self._told(version), "study_id": self._study.id}
        names = told.get("names")
        self._study.protocol.require_ids(int(i) for i in (names if isinstance(names, dict) else {}))

        def write(draft: Path) -> None:
            for name in version.files:
                if name != DESCRIPTION:
                    write_bytes_atomic(draft / name, (folder / name).read_bytes())

        if WEIGHTS not in version.files:
            raise StudyError("the model that came back has no weights")
        return self._study.add_model(write, told)

    def _told(self, version: Version) -> dict[str, Json]:
        """What is told of a version, in this study's names, and which job made it."""
        own = ("voxels", "protocol_ids", "propagated_ids", "follows", "kind")
        told = {key: value for key, value in version.info.items() if key not in own}
        return {**self._words(told), _MARK: self._record.id}

    def _words(self, values: Mapping[str, Json]) -> dict[str, Json]:
        names = self._record.words
        return {names.text(key): names.value(value) for key, value in values.items()}

    def _required(self, found: Found) -> Version:
        if found.version is None:
            raise SchemaError(f"the result for {found.case_id or 'the model'} has no files")
        return found.version
