"""Human strokes that no label version holds yet: kept at once, merged later."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import (
    GeometryMismatchError,
    LabelError,
    SchemaError,
    SemiSegError,
    StorageError,
    StudyError,
)
from semiseg.events import Json
from semiseg.images.grid import Plane
from semiseg.study.case import Case, Problem
from semiseg.study.draft_files import DraftFiles, DraftHead, Layers, Zyx, draft_problem, drawn_ids
from semiseg.study.labelling import Labelling
from semiseg.study.ledger import SliceState, require_slices
from semiseg.study.merge import Drawing, Mark
from semiseg.study.owner import Owner

_TABLE = 65536
_RETRIES = 5
_APPLY_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The whole human map of a case, cropped, and the marks that are not in its label yet.

    `layers` have the shape of the box (z, y, x) that lies at `offset_zyx` in an image of
    `shape_zyx`; overlapping structures are in different layers. `names` by structure id serve
    sentences only.
    """

    case_id: str
    number: int
    layers: Layers
    offset_zyx: Zyx
    shape_zyx: Zyx
    marks: tuple[Mark, ...] = ()
    author: str = ""
    names: Mapping[int, str] = field(default_factory=dict)

    def full(self) -> NDArray[np.uint16]:
        """The map (z, y, x) on the image's grid.

        LabelError names two structures that overlap, and in how many voxels.
        """
        whole = np.zeros(self.shape_zyx, np.uint16)
        if self.layers:
            merged = self._merged()
            places = zip(self.offset_zyx, merged.shape, strict=True)
            whole[tuple(slice(start, start + size) for start, size in places)] = merged
        return whole

    def ids(self) -> set[int]:
        """The structures with a voxel in it."""
        return drawn_ids(self.layers)

    def _merged(self) -> NDArray[np.uint16]:
        merged = self.layers[0]
        for layer in self.layers[1:]:
            clash = (merged != 0) & (layer != 0) & (merged != layer)
            if clash.any():
                raise LabelError(self._overlap(merged[clash], layer[clash]))
            merged = np.where(layer != 0, layer, merged)
        return merged

    def _overlap(self, below: NDArray[np.uint16], above: NDArray[np.uint16]) -> str:
        pairs, counts = np.unique(
            np.sort(np.stack([below, above]), axis=0), axis=1, return_counts=True
        )
        worst = int(counts.argmax())
        one, other = (self.names.get(int(i), f"structure {i}") for i in pairs[:, worst])
        more = f", and {len(counts) - 1} other pairs overlap, too" if len(counts) > 1 else ""
        return (
            f"{self.case_id}: {one} and {other} overlap in {int(counts[worst])} voxels{more}; a "
            "voxel can belong to one structure only: erase one of them there (Segment Editor, "
            "Logical operators, Subtract)"
        )


class Drafts(Labelling):
    """The part of `Study` about drafts."""

    def save_draft(
        self,
        case_id: str,
        layers: Sequence[NDArray[np.integer]],
        *,
        offset_zyx: Zyx = (0, 0, 0),
        marks: Sequence[Mark] = (),
        author: str = "",
    ) -> int:
        """Puts the whole human map of a case on the disk, without the lock; returns its number.

        `layers` as in `Draft`, none where nothing is drawn. Structures may be newer than the
        protocol; `apply_draft` refuses unknown ones. GeometryMismatchError when the box does
        not fit into the image.
        """
        case = self.case(case_id)
        if not self._case_folder(case_id).is_dir():
            raise StudyError(f"{case_id} is no longer in the study; its draft was not saved")
        head = DraftHead(
            study=self.id,
            case_id=case.id,
            image=case.image.sha256,
            shape_zyx=case.grid.shape_zyx,
            offset_zyx=offset_zyx,
            marks=tuple(_checked_mark(mark, case) for mark in marks),
            author=author,
            owner=Owner.current(),
        )
        _require_layers(layers, head)
        return self._draft_files(case_id).write(head, layers)

    def draft(self, case_id: str) -> Draft | None:
        """The newest draft of the case that can be used; None if there is none.

        Those that cannot be used are told in `problems`.
        """
        case, files = self.case(case_id), self._draft_files(case_id)
        found, bad = self._newest_draft(case, files)
        for number, error in bad.items():
            self._tell(draft_problem(case_id, files.path(number), number, str(error)))
        return found

    def drafts(self) -> tuple[str, ...]:
        """The cases with drafts, in the study's order; looks at names only."""
        try:
            with os.scandir(self.folder / "drafts") as entries:
                found = {entry.name for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(c for c in self.cases if c in found and self._draft_files(c).numbers())

    def apply_draft(self, case_id: str) -> int | None:
        """Merges the newest draft into the label; the label's version, None without a draft.

        The draft is the whole human map: `annotate` without a base version, and its marks. The
        same draft again makes no new version. LabelError when structures overlap, are unknown,
        or are drawn in a slice marked as empty: then the draft stays.
        """
        with self.writing(wait_s=_APPLY_WAIT_S):
            case, files = self.case(case_id), self._draft_files(case_id)
            draft, bad = self._newest_draft(case, files)
            for number, error in bad.items():
                if isinstance(error, StorageError):
                    raise error  # the disk may give it back later
                self._tell(draft_problem(case_id, files.keep(number), number, str(error)))
            if draft is None:
                return None
            version = self._merge_draft(case, draft)
            self._settle(case_id, files, draft.number)
            return version

    def _settle(self, case_id: str, files: DraftFiles, number: int) -> None:
        try:
            for path in files.settle(number):
                self._tell(_kept_aside(case_id, path))
        except StorageError as error:
            self._tell(
                Problem(
                    case_id=case_id,
                    path=files.path(number),
                    message=f"the drawing in {case_id} is merged, but its draft stays: {error}",
                    remedy="nothing needs to be done: to merge it again changes nothing",
                )
            )

    def _newest_draft(
        self, case: Case, files: DraftFiles
    ) -> tuple[Draft | None, dict[int, SemiSegError]]:
        """The newest draft that can be used, and why newer ones cannot."""
        for _ in range(_RETRIES):
            bad: dict[int, SemiSegError] = {}
            for number in reversed(files.numbers()):
                try:
                    return self._read_draft(case, files, number), bad
                except (SchemaError, StorageError) as error:
                    if not files.path(number).exists():
                        break  # replaced by a newer one at this moment
                    bad[number] = error
            else:
                return None, bad
        return None, {}

    def _read_draft(self, case: Case, files: DraftFiles, number: int) -> Draft:
        head, layers = files.read(number)
        self._require_own(head, case)
        return Draft(
            case_id=case.id,
            number=number,
            layers=layers,
            offset_zyx=head.offset_zyx,
            shape_zyx=head.shape_zyx,
            marks=head.marks,
            author=head.author,
            names={s.id: s.name for s in self.protocol.structures},
        )

    def _merge_draft(self, case: Case, draft: Draft) -> int:
        drawn, known = draft.full(), set(self.protocol.ids)
        strange = sorted(draft.ids() - known)
        if strange:
            raise LabelError(
                f"the drawing in {case.id} has voxels of the structure {strange[0]}, which the "
                "protocol does not have; add the structure, or erase them"
            )
        marks = last_words(draft.marks, known)
        drawing = Drawing(array=drawn, spoken_ids=self._spoken(None), marks=marks)
        told: dict[str, Json] = {"kind": "annotated", "author": draft.author, "note": ""}
        return self._save_drawing(case, drawing, told)

    def _draft_files(self, case_id: str) -> DraftFiles:
        return DraftFiles(self.folder / "drafts" / case_id)

    def _require_own(self, head: DraftHead, case: Case) -> None:
        """SchemaError when the draft was drawn on another image."""
        if (head.study, head.case_id) != (self.id, case.id) or head.image != case.image.sha256:
            raise SchemaError(
                f"it was drawn on another image (case {head.case_id!r}), not on that of {case.id}"
            )
        if head.shape_zyx != case.grid.shape_zyx:
            raise SchemaError(
                f"it has the shape {head.shape_zyx} (z, y, x), the image {case.grid.shape_zyx}"
            )


def _require_layers(layers: Sequence[NDArray[np.integer]], head: DraftHead) -> None:
    if len({layer.shape for layer in layers}) > 1:
        raise GeometryMismatchError("the layers of a draft must have one shape")
    for layer in layers:
        ends = [start + size for start, size in zip(head.offset_zyx, layer.shape, strict=False)]
        inside = all(end <= size for end, size in zip(ends, head.shape_zyx, strict=False))
        if layer.ndim != 3 or not inside or min(head.offset_zyx) < 0:
            raise GeometryMismatchError(
                f"the draft's box of {layer.shape} voxels at {head.offset_zyx} (z, y, x) does not "
                f"fit into the image of {head.case_id}, {head.shape_zyx}"
            )
        if layer.dtype.kind not in "biu":
            raise LabelError(f"a draft holds whole numbers (ids), found values of {layer.dtype}")
        low, high = int(layer.min(initial=0)), int(layer.max(initial=0))
        if low < 0 or high >= _TABLE:
            raise LabelError(f"a draft holds ids from 0 to 65535, found values {low} to {high}")


def _checked_mark(mark: Mark, case: Case) -> Mark:
    indices = require_slices(case.grid, mark.plane, mark.indices)
    return Mark(plane=mark.plane, indices=indices, state=mark.state, ids=tuple(map(int, mark.ids)))


def last_words(marks: Sequence[Mark], known: Collection[int]) -> tuple[Mark, ...]:
    """The marks as if of each slice and structure only the last had been said.

    Structures that are not `known` are left out.
    """
    said: dict[tuple[Plane, int], dict[int, SliceState]] = {}
    for mark in marks:
        for index in mark.indices:
            words = said.setdefault((mark.plane, index), {})
            words |= {structure: mark.state for structure in mark.ids if structure in known}
    grouped: dict[tuple[Plane, SliceState, tuple[int, ...]], list[int]] = {}
    for (plane, index), words in said.items():
        for state in dict.fromkeys(words.values()):
            ids = tuple(sorted(number for number, found in words.items() if found is state))
            grouped.setdefault((plane, state, ids), []).append(index)
    return tuple(
        Mark(plane=plane, indices=tuple(sorted(indices)), state=state, ids=ids)
        for (plane, state, ids), indices in grouped.items()
    )


def _kept_aside(case_id: str, path: Path) -> Problem:
    return Problem(
        case_id=case_id,
        path=path,
        message=f"{case_id}: another program drew in this case at the same time",
        remedy=f"the newer drawing was taken; the other one is kept: {path}",
    )
