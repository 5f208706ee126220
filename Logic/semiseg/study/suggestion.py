"""What programs say where no human has decided, and its undoing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SchemaError, StorageError, StudyError
from semiseg.events import Json
from semiseg.images.grid import Grid
from semiseg.study.case import (
    Case,
    CaseLabel,
    GateRecord,
    Origin,
    Prediction,
    empty_label,
)
from semiseg.study.combined import combined
from semiseg.study.fields import Fields
from semiseg.study.labelling import Labelling
from semiseg.study.labels import CaseFiles
from semiseg.study.merge import Computed, by_human, merge_program, present_ids
from semiseg.study.opening import label_problem
from semiseg.study.versions import Manifest, version_numbers

Source = Literal["propagated", "predicted"]


@dataclass(frozen=True, kw_only=True)
class HumanMap:
    """Ids (z, y, x) where a human drew or corrected, else 0; `version` 0 without a label."""

    case_id: str
    version: int
    array: NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Ids (z, y, x) that a program set and no human has decided on.

    `version` is that of the label that the propagation made, or of the prediction.
    `uncertainty` (z, y, x) is in [0, 1]; of a propagated label it is 1 - confidence where a
    program spoke. `text` says where it is from, such as "model 3".
    """

    case_id: str
    array: NDArray[np.uint16]
    uncertainty: NDArray[np.float32] | None
    source: Source
    version: int
    text: str


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of a case, read at one time; `origin` holds `Origin` values (z, y, x)."""

    human: HumanMap
    suggestion: Suggestion | None
    origin: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Said:
    """A program's word on a case that was not withdrawn: which version, and when."""

    source: Source
    version: int
    created: str
    text: str
    manifest: Manifest


class Suggestions(Labelling):
    """The part of `Study` about suggestions."""

    def human_map(self, case_id: str) -> HumanMap:
        """What humans drew in the case, by its newest label."""
        case, files = self.case(case_id), self._files(self.case(case_id))
        for version in reversed(version_numbers(files.labels)):
            try:
                array = files.read_human(version)
            except (SchemaError, StorageError) as error:
                self._tell(label_problem(case_id, files.labels, version, str(error)))
                continue
            if not set(present_ids(array)) <= set(self.protocol.ids):
                array[~np.isin(array, self.protocol.ids)] = 0
            return HumanMap(case_id=case_id, version=version, array=array)
        return _human(case, None)

    def suggestion(self, case_id: str) -> Suggestion | None:
        """The newest word of a program, without voxels that humans decided; None if none."""
        return self.view(case_id).suggestion

    def view(self, case_id: str) -> View:
        """Human map and suggestion, which belong to the same label version."""
        case = self.case(case_id)
        said = self._newest_said(case)  # first: the label is then at least as new
        label = self._newest(case)
        suggested = self._suggested(case, label, said)
        return View(
            human=_human(case, label),
            suggestion=suggested,
            origin=_origins(case, label, suggested),
        )

    def withdraw_suggestion(self, case_id: str) -> str:
        """Takes back the newest propagation or prediction; says what is suggested then.

        Its files stay. A propagation's voxels give way to those of the one before it; a human's
        stay as they are. StudyError when there is nothing to take back.
        """
        with self.writing():
            case = self._fresh_case(case_id)
            said = self._newest_said(case)
            if said is None:
                raise StudyError(f"{case_id}: there is no propagation or segmentation to take back")
            if said.source == "predicted":
                self._files(case).withdraw_prediction(said.version)
            else:
                self._withdraw_propagation(case, said)
            self._note("withdrawn", case=case_id, source=said.source, version=said.version)
            now = self._newest_said(case)
        shown = f"shown now: {now.text}" if now is not None else "nothing is suggested now"
        return f"{case_id}: took back {said.text}; {shown}"

    def newest_said(self, case_id: str) -> Said | None:
        """What `suggestion` rests on, without reading voxels."""
        return self._newest_said(self.case(case_id))

    def _newest_said(self, case: Case) -> Said | None:
        files = self._files(case)
        found = [
            said for said in (newest_propagation(files), self._predicted(case)) if said is not None
        ]
        return max(found, key=lambda said: (said.created, said.source == "predicted"), default=None)

    def _predicted(self, case: Case) -> Said | None:
        files = self._files(case)
        for version in reversed(self.prediction_versions(case.id)):
            try:
                manifest = files.prediction_info(version)
            except (SchemaError, StorageError):
                continue
            return Said(
                source="predicted",
                version=version,
                created=manifest.created,
                text=f"model {manifest.info.get('model_id')}",
                manifest=manifest,
            )
        return None

    def _suggested(
        self, case: Case, label: CaseLabel | None, said: Said | None
    ) -> Suggestion | None:
        if said is None:
            return None
        if said.source == "predicted":
            prediction = self.prediction(case.id)
            if prediction is None:
                return None
            ids = self.protocol.ids
            return _of_prediction(prediction, label, case.grid, ids)
        return None if label is None else _of_label(label, said)

    def _withdraw_propagation(self, case: Case, said: Said) -> None:
        before = self._newest(case) or empty_label(case.id, case.grid)
        info = Fields(said.manifest.info, str(said.manifest.folder))
        follows = info.integer("follows", 0)
        earlier = None
        if follows:
            earlier = self._seen(case, self._files(case).read_label(follows))
        told: dict[str, Json] = {"kind": "withdrawn", "withdraws": said.version}
        self._save(case, with_programs_of(before, earlier, case.grid), told)
        remaining = newest_propagation(self._files(case))
        gate = None if remaining is None else _gate(remaining.manifest)
        self._save_case(replace(case, gate=gate))
        self._cases[case.id] = replace(case, gate=gate)


def _human(case: Case, label: CaseLabel | None) -> HumanMap:
    if label is None:
        label = empty_label(case.id, case.grid)
    array = np.where(by_human(label.origin), label.array, np.uint16(0))
    return HumanMap(case_id=case.id, version=label.version, array=array)


def _origins(
    case: Case, label: CaseLabel | None, suggested: Suggestion | None
) -> NDArray[np.uint8]:
    """Who set each voxel that is shown; what a human erased is CORRECTED without an id."""
    found = np.zeros(case.grid.shape_zyx, np.uint8)
    if suggested is not None:
        said = Origin.PREDICTED if suggested.source == "predicted" else Origin.PROPAGATED
        found[suggested.array > 0] = said
    if label is not None:
        decided = by_human(label.origin)
        decided &= (label.array > 0) | (label.origin == Origin.CORRECTED)
        found[decided] = label.origin[decided]
    return found


def _of_prediction(
    prediction: Prediction, label: CaseLabel | None, grid: Grid, ids: tuple[int, ...]
) -> Suggestion:
    known = np.where(np.isin(prediction.array, ids), prediction.array, np.uint16(0))
    array, origin = combined(known, label, grid, ids)
    return Suggestion(
        case_id=prediction.case_id,
        array=np.where(origin == Origin.PREDICTED, array, np.uint16(0)),
        uncertainty=prediction.uncertainty,
        source="predicted",
        version=prediction.version,
        text=f"model {prediction.model_id}",
    )


def _of_label(label: CaseLabel, said: Said) -> Suggestion:
    by_program = label.origin == Origin.PROPAGATED
    return Suggestion(
        case_id=label.case_id,
        array=np.where(by_program, label.array, np.uint16(0)),
        uncertainty=np.where(by_program, 1 - label.confidence, np.float32(0)),
        source="propagated",
        version=said.version,
        text=said.text,
    )


def newest_propagation(files: CaseFiles) -> Said | None:
    """The newest propagation of the case that was not withdrawn."""
    withdrawn: set[Json] = set()
    for version in reversed(version_numbers(files.labels)):
        try:
            manifest = files.label_info(version)
        except (SchemaError, StorageError):
            continue
        kind = manifest.info.get("kind")
        if kind == "withdrawn":
            withdrawn.add(Fields(manifest.info, str(manifest.folder)).integer("withdraws"))
        if kind == "rolled_back" and manifest.info.get("structures") is None:
            back = Fields(manifest.info, str(manifest.folder)).integer("to")
            withdrawn.update(range(back + 1, version))
        if kind == "propagated" and version not in withdrawn:
            return Said(
                source="propagated",
                version=version,
                created=manifest.created,
                text=_lenders(manifest),
                manifest=manifest,
            )
    return None


def _lenders(manifest: Manifest) -> str:
    atlases = manifest.info.get("atlases")
    if isinstance(atlases, list) and atlases:
        return f"propagated from {', '.join(map(str, atlases))}"
    return "filled between the drawn slices"


def _gate(manifest: Manifest) -> GateRecord | None:
    part = Fields(manifest.info, str(manifest.folder)).optional_part("gate")
    return None if part is None else GateRecord.from_json(part)


def with_programs_of(before: CaseLabel, earlier: CaseLabel | None, grid: Grid) -> CaseLabel:
    """`before` with the program voxels of `earlier` (none: no program voxels) for its own."""
    human = by_human(before.origin)
    plain = replace(
        before,
        array=np.where(human, before.array, np.uint16(0)),
        origin=np.where(human, before.origin, np.uint8(Origin.NONE)),
        confidence=np.where(human, before.confidence, np.float32(0)),
        propagated_ids=(),
    )
    if earlier is None:
        return plain
    program = ~by_human(earlier.origin)
    computed = Computed(
        array=np.where(program, earlier.array, np.uint16(0)),
        confidence=np.where(program, earlier.confidence, np.float32(0)),
        ids=earlier.propagated_ids,
        origin=Origin.PROPAGATED,
    )
    return merge_program(plain, computed, grid)
