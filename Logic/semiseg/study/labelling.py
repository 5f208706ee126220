"""The labels of a study: what humans draw and what programs propagate and predict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import ConfigError, ProtocolError, SchemaError, StorageError
from semiseg.events import Json
from semiseg.images.grid import Plane, plane_axis
from semiseg.study.case import (
    Case,
    CaseLabel,
    GateRecord,
    Origin,
    Prediction,
    Problem,
    empty_label,
)
from semiseg.study.core import StudyCore
from semiseg.study.labels import CaseFiles, checked_map, checked_weights
from semiseg.study.ledger import Ledger, SliceState, require_slices
from semiseg.study.measures import mean_uncertainty
from semiseg.study.merge import (
    Computed,
    Drawing,
    Mark,
    merge_human_into,
    merge_program,
    seen_through,
)
from semiseg.study.opening import label_problem
from semiseg.study.versions import Manifest, version_numbers

# What a program computed took minutes; merging a drawing into a large label takes seconds.
_PROGRAM_WAIT_S = 120.0


class Labelling(StudyCore):
    """The part of `Study` about labels and predictions."""

    def label_versions(self, case_id: str) -> tuple[int, ...]:
        """The numbers of the case's label versions, rising."""
        return version_numbers(self._files(self.case(case_id)).labels)

    def label(self, case_id: str, version: int | None = None) -> CaseLabel | None:
        """A version of the case's label, the newest that can be read by default; None if none.

        SchemaError when the `version` asked for is missing or damaged. A damaged newest one is
        told in `problems`.
        """
        case = self.case(case_id)
        if version is not None:
            found = self._files(case).read_label(version)
            return self._seen(case, found)
        return self._newest(case)

    def label_info(self, case_id: str, version: int) -> Manifest:
        """What is told of a label version; SchemaError when it is missing or damaged."""
        return self._files(self.case(case_id)).label_info(version)

    def prediction_info(self, case_id: str, version: int) -> Manifest:
        """What is told of a prediction; SchemaError when it is missing or damaged."""
        return self._files(self.case(case_id)).prediction_info(version)

    def ledger(self, case_id: str) -> Ledger:
        """The newest slice ledger of the case, without reading voxels."""
        case = self.case(case_id)
        files = self._files(case)
        for version in reversed(version_numbers(files.labels)):
            try:
                files.label_info(version)
                found = files.read_ledger(version)
                return found.without(found.ids() - set(self.protocol.ids))
            except (SchemaError, StorageError) as error:
                self._tell(label_problem(case_id, files.labels, version, str(error)))
        return Ledger()

    def annotate(  # noqa: PLR0913 - one call says all that a human did
        self,
        case_id: str,
        array: NDArray[np.integer],
        *,
        plane: Plane | None = None,
        indices: Iterable[int] = (),
        structure_ids: Iterable[int] | None = None,
        empty: Iterable[int] = (),
        author: str = "",
        note: str = "",
        base_version: int | None = None,
    ) -> int:
        """Keeps a human's label map (z, y, x) of protocol ids; returns the label's version.

        Slices `indices` of `plane` are then done, those of `empty` done and empty, for
        `structure_ids` (default: all): a voxel of these that a human drew before and that is
        now empty is erased. Programs' voxels outside of done slices stay where the map is
        empty. With `base_version`, the version shown to the human, only changes count.
        """
        with self.writing():
            case = self.case(case_id)
            drawn = checked_map(array, case.grid, self.protocol.ids, f"the label of {case_id}")
            ids = self._spoken(structure_ids)
            said = {SliceState.DONE: indices, SliceState.EMPTY: empty}
            marks = self._marks(case, plane, said, ids)
            shown = None if base_version is None else self._base(case, base_version)
            drawing = Drawing(array=drawn, spoken_ids=ids, marks=marks, shown=shown)
            told: dict[str, Json] = {"kind": "annotated", "author": author, "note": note}
            return self._save_drawing(case, drawing, told)

    def mark_slices(
        self,
        case_id: str,
        plane: Plane,
        indices: Iterable[int],
        state: SliceState,
        structure_ids: Iterable[int] | None = None,
    ) -> None:
        """Sets the state of slices; done ones make their voxels, as they are now, a human's.

        Marking as empty takes programs' voxels out; LabelError when a human drew there.
        """
        with self.writing():
            case = self.case(case_id)
            before = self._newest(case) or empty_label(case_id, case.grid)
            ids = self._spoken(structure_ids)
            marks = self._marks(case, plane, {state: indices}, ids)
            array = _emptied(before, marks, case) if state is SliceState.EMPTY else before.array
            drawing = Drawing(array=array, spoken_ids=ids, marks=marks, shown=before.array)
            self._save_drawing(case, drawing, {"kind": "marked"})

    def propagated(
        self,
        case_id: str,
        array: NDArray[np.integer],
        confidence: NDArray[np.floating],
        *,
        structure_ids: Iterable[int],
        gate: GateRecord,
        info: Mapping[str, Json],
    ) -> int | None:
        """Keeps a propagated label for `structure_ids`; returns the version, None if rejected.

        It joins the newest label under the lock: what a human drew or corrected meanwhile stays.
        A rejected one leaves the label as it is; the gate's verdict is kept in any case.
        """
        with self.writing(wait_s=_PROGRAM_WAIT_S):
            case = self._fresh_case(case_id)
            ids = self.protocol.require_ids(structure_ids)
            what = f"the propagated label of {case_id}"
            found = checked_map(array, case.grid, ids, what)
            weights = checked_weights(confidence, case.grid, f"the confidence of {what}")
            computed = Computed(array=found, confidence=weights, ids=ids, origin=Origin.PROPAGATED)
            version = None
            if gate.verdict != "reject":
                told = {**info, "kind": "propagated", "gate": gate.to_json()}
                version = self._save_computed(case, computed, told)
            self._save_case(replace(case, gate=gate))
            self._cases[case_id] = replace(case, gate=gate)
            self._note("propagated", case=case_id, version=version, verdict=gate.verdict)
            return version

    def predicted(
        self,
        case_id: str,
        array: NDArray[np.integer],
        uncertainty: NDArray[np.floating],
        *,
        model_id: int,
        info: Mapping[str, Json],
    ) -> int:
        """Keeps a model's segmentation beside the label; returns the prediction's version."""
        case = self.case(case_id)
        what = f"the prediction for {case_id}"
        ids = checked_map(array, case.grid, self.protocol.ids, what)
        weights = checked_weights(uncertainty, case.grid, f"the uncertainty of {what}")
        told: dict[str, Json] = {
            **info,
            "kind": "predicted",
            "model_id": model_id,
            "uncertainty": mean_uncertainty(ids, weights),
        }
        with self.writing(wait_s=_PROGRAM_WAIT_S):
            case = self._fresh_case(case_id)  # it may have been removed meanwhile
            segments = self.protocol.segments()
            version = self._files(case).save_prediction(ids, weights, segments, told)
            self._note("predicted", case=case_id, version=version, model=model_id)
            return version

    def prediction_versions(self, case_id: str) -> tuple[int, ...]:
        """The numbers of the case's predictions that were not withdrawn, rising."""
        files = self._files(self.case(case_id))
        try:
            withdrawn = files.withdrawn()
        except (SchemaError, StorageError) as error:
            self._tell(_unclear(case_id, files, str(error)))
            withdrawn = frozenset()
        return tuple(n for n in version_numbers(files.predictions) if n not in withdrawn)

    def prediction(self, case_id: str, version: int | None = None) -> Prediction | None:
        """A prediction; by default the newest that was not withdrawn and can be read, or None.

        SchemaError when the `version` asked for is missing or damaged.
        """
        files = self._files(self.case(case_id))
        if version is not None:
            return files.read_prediction(version)
        for number in reversed(self.prediction_versions(case_id)):
            try:
                return files.read_prediction(number)
            except (SchemaError, StorageError) as error:
                self._tell(label_problem(case_id, files.predictions, number, str(error)))
        return None

    def _newest(self, case: Case) -> CaseLabel | None:
        files = self._files(case)
        for version in reversed(version_numbers(files.labels)):
            try:
                return self._seen(case, files.read_label(version))
            except (SchemaError, StorageError) as error:
                self._tell(label_problem(case.id, files.labels, version, str(error)))
        return None

    def _seen(self, case: Case, label: CaseLabel) -> CaseLabel:
        """`label` under the protocol of today."""
        if label.info.get("protocol_ids") == list(self.protocol.ids):
            return label
        return seen_through(label, case.grid, self.protocol.ids)

    def _base(self, case: Case, version: int) -> NDArray[np.uint16]:
        """What the human saw; version 0 is the empty label."""
        if version == 0:
            return empty_label(case.id, case.grid).array
        return self._seen(case, self._files(case).read_label(version)).array

    def _spoken(self, structure_ids: Iterable[int] | None) -> tuple[int, ...]:
        if not self.protocol.structures:
            raise ProtocolError("the protocol has no structures yet; add some before annotating")
        return self.protocol.require_ids(
            self.protocol.ids if structure_ids is None else structure_ids
        )

    def _marks(
        self,
        case: Case,
        plane: Plane | None,
        slices: Mapping[SliceState, Iterable[int]],
        ids: tuple[int, ...],
    ) -> tuple[Mark, ...]:
        named = {state: tuple(indices) for state, indices in slices.items()}
        if plane is None:
            if any(named.values()):
                raise ConfigError(
                    "slices are marked without a plane; say axial, coronal or sagittal"
                )
            return ()
        return tuple(
            Mark(plane=plane, indices=require_slices(case.grid, plane, found), state=state, ids=ids)
            for state, found in named.items()
            if found
        )

    def _save_drawing(self, case: Case, drawing: Drawing, info: dict[str, Json]) -> int:
        before = self._newest(case) or empty_label(case.id, case.grid)
        after, changed = merge_human_into(before, drawing, case.grid, self.protocol.ids)
        if before.version and not changed:
            return before.version
        info["marks"] = [
            {
                "plane": m.plane,
                "indices": list(m.indices),
                "state": m.state.value,
                "ids": list(m.ids),
            }
            for m in drawing.marks
        ]
        version = self._save(case, after, info)
        self._note(str(info["kind"]), case=case.id, version=version, marks=info["marks"])
        return version

    def _save_computed(self, case: Case, computed: Computed, info: Mapping[str, Json]) -> int:
        before = self._newest(case) or empty_label(case.id, case.grid)
        return self._save(case, merge_program(before, computed, case.grid), info)

    def _save(self, case: Case, label: CaseLabel, info: Mapping[str, Json]) -> int:
        told = {**info, "follows": label.version}
        return self._files(case).save_label(replace(label, info=told), self.protocol.segments())


def _unclear(case_id: str, files: CaseFiles, cause: str) -> Problem:
    return Problem(
        case_id=case_id,
        path=files.predictions,
        message=f"which segmentations of {case_id} were taken back is not known: {cause}",
        remedy="all are used; take back those that should not count",
    )


def _emptied(before: CaseLabel, marks: tuple[Mark, ...], case: Case) -> NDArray[np.uint16]:
    """The label without programs' voxels in the slices that are to be empty."""
    array = before.array.copy()
    for mark in marks:
        where = (slice(None),) * plane_axis(case.grid, mark.plane) + (list(mark.indices),)
        part, origin = array[where], before.origin[where]
        program = (origin == Origin.PROPAGATED) | (origin == Origin.PREDICTED)
        array[where] = np.where(np.isin(part, mark.ids) & program, 0, part)
    return array
