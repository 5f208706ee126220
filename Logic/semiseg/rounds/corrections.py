"""How much a human had to correct of what was suggested, slice by finished slice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from semiseg.errors import SchemaError, SemiSegError, StorageError
from semiseg.events import Json
from semiseg.images.grid import PLANES, Grid, Plane, plane_axis
from semiseg.rounds.time import minutes_of
from semiseg.study.case import Case, CaseLabel, empty_label
from semiseg.study.fields import Fields
from semiseg.study.history import Item
from semiseg.study.ledger import FINISHED, Ledger, SliceState
from semiseg.study.merge import Mark, by_human
from semiseg.study.migrate import SCHEMA
from semiseg.study.storage import make_folder, read_json, write_json_atomic
from semiseg.study.study import Study
from semiseg.study.versions import Manifest

_FILE = re.compile(r"(?P<case>.+)-(?P<version>\d{4,})\.json")
_Slices = dict[tuple[Plane, int], tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class StructureCorrection:
    """One structure in the slices that were finished: what was added to and taken from it.

    `dice` compares what was suggested with what the human left, 1 where both have nothing;
    `surface_mm` is the mean distance between both contours within the slices, None where one
    has none.
    """

    id: int
    added_ml: float
    removed_ml: float
    suggested_ml: float
    final_ml: float
    dice: float
    surface_mm: float | None


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What a human made of a suggestion when the label `version` of a case was saved.

    `source` is "propagated" or "predicted", of `source_version`; `round` the number of models
    that the study had then, `slices` how many were finished, `minutes` the work since the entry
    of the journal before.
    """

    case_id: str
    version: int
    created: str
    round: int
    source: str
    source_version: int
    slices: int
    minutes: float
    structures: tuple[StructureCorrection, ...]

    @property
    def dice(self) -> float | None:
        """Mean over the structures that the suggestion or the human has."""
        found = [s.dice for s in self.structures if s.suggested_ml or s.final_ml]
        return float(np.mean(found)) if found else None

    def to_json(self) -> dict[str, Json]:
        """Plain values for the study's folder and for events."""
        body = cast("dict[str, Json]", dict(vars(self)))
        return body | {"structures": [dict(vars(one)) for one in self.structures]}


def record_corrections(
    study: Study, case_ids: Iterable[str] | None = None, *, newest_only: bool = False
) -> list[Correction]:
    """Works out and keeps what is not kept yet; returns what is new.

    Of each case (all by default) every version is looked at, or only the newest. Versions that
    cannot be read any more are left out.
    """
    known = {(one.case_id, one.version) for one in corrections(study)}
    found = []
    for case_id in study.cases if case_ids is None else case_ids:
        for version in study.label_versions(case_id)[-1 if newest_only else 0 :]:
            if (case_id, version) not in known:
                one = _try_correction(study, case_id, version)
                if one is not None:
                    _keep(study, one)
                    found.append(one)
    return found


def corrections(study: Study) -> tuple[Correction, ...]:
    """What is kept, oldest first; files that cannot be read are left out."""
    folder = _folder(study)
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if _FILE.fullmatch(path.name):
            try:
                found.append(_parsed(Fields(read_json(path), str(path))))
            except (SchemaError, StorageError):
                continue
    return tuple(sorted(found, key=lambda one: (one.created, one.case_id)))


def correction_of(study: Study, case_id: str, version: int) -> Correction | None:
    """What the human changed in the slices that `version` finished, against what was shown.

    None when the version finished no slice, or nothing was suggested before.
    """
    manifest = study.label_info(case_id, version)
    marks = _marks(manifest)
    item = _shown(study, case_id, version, manifest.created) if marks else None
    if item is None:  # before any voxel is read
        return None
    before = _before(study, case_id, version, manifest)
    slices = _new_slices(marks, before.ledger)
    read = study.prediction if item.kind == "prediction" else study.label
    shown, label = read(case_id, item.number), study.label(case_id, version)
    if not slices or shown is None or label is None:
        return None
    program = shown.array
    told = np.where(by_human(before.origin) & (before.array > 0), before.array, program)
    models = [model.created for model in study.models()]
    return Correction(
        case_id=case_id,
        version=version,
        created=manifest.created,
        round=sum(created <= manifest.created for created in models),
        source="predicted" if item.kind == "prediction" else "propagated",
        source_version=item.number,
        slices=len(slices),
        minutes=round(minutes_of(study, case_id, version), 3),
        structures=_compared(study, study.case(case_id), told, label.array, slices),
    )


def _try_correction(study: Study, case_id: str, version: int) -> Correction | None:
    try:
        return correction_of(study, case_id, version)
    except SemiSegError:  # a version is damaged or was pruned: told among the study's problems
        return None


def _before(study: Study, case_id: str, version: int, manifest: Manifest) -> CaseLabel:
    follows = Fields(manifest.info, str(manifest.folder)).integer("follows", 0)
    found = study.label(case_id, follows) if 0 < follows < version else None
    return found or empty_label(case_id, study.case(case_id).grid)


def _marks(manifest: Manifest) -> list[Mark]:
    """What a human's version said of slices that are finished."""
    if manifest.info.get("kind") not in ("annotated", "marked"):
        return []
    marks = Fields(manifest.info, str(manifest.folder)).parts("marks")
    found = [
        Mark(
            plane=cast(Plane, mark.choice("plane", PLANES)),
            indices=mark.integers("indices"),
            state=SliceState(mark.choice("state", tuple(SliceState))),
            ids=mark.integers("ids"),
        )
        for mark in marks
    ]
    return [mark for mark in found if mark.state in FINISHED]


def _new_slices(marks: Sequence[Mark], before: Ledger) -> _Slices:
    """The slices, with the structures, that were not finished before."""
    found: dict[tuple[Plane, int], set[int]] = {}
    for mark in marks:
        for index in mark.indices:
            new = {i for i in mark.ids if before.state(mark.plane, index, i) not in FINISHED}
            if new:
                found.setdefault((mark.plane, index), set()).update(new)
    return {place: tuple(sorted(ids)) for place, ids in found.items()}


def _shown(study: Study, case_id: str, version: int, when: str) -> Item | None:
    """The newest word of a program before a label version was saved."""
    carried = _newest_propagation(study, case_id, version)
    predicted = [
        (info.created, number)
        for number in study.prediction_versions(case_id)
        if (info := study.prediction_info(case_id, number)).created < when
    ]
    if predicted and (carried is None or max(predicted)[0] >= carried[0]):
        return Item(kind="prediction", case_id=case_id, number=max(predicted)[1])
    return None if carried is None else Item(kind="label", case_id=case_id, number=carried[1])


def _newest_propagation(study: Study, case_id: str, version: int) -> tuple[str, int] | None:
    for number in reversed([n for n in study.label_versions(case_id) if n < version]):
        info = study.label_info(case_id, number)
        if info.info.get("kind") == "propagated":
            return info.created, number
        if info.info.get("kind") in ("withdrawn", "rolled_back"):
            return None  # what was shown then is not worth finding out
    return None


def _compared(
    study: Study,
    case: Case,
    shown: NDArray[np.uint16],
    final: NDArray[np.uint16],
    slices: _Slices,
) -> tuple[StructureCorrection, ...]:
    ids = [i for i in study.protocol.ids if any(i in found for found in slices.values())]
    return tuple(_structure(i, case.grid, shown, final, slices) for i in ids)


def _structure(
    structure: int,
    grid: Grid,
    shown: NDArray[np.uint16],
    final: NDArray[np.uint16],
    slices: _Slices,
) -> StructureCorrection:
    pairs = [
        (_cut(shown, grid, place) == structure, _cut(final, grid, place) == structure, place[0])
        for place, ids in slices.items()
        if structure in ids
    ]
    added = sum(int(np.count_nonzero(new & ~old)) for old, new, _ in pairs)
    removed = sum(int(np.count_nonzero(old & ~new)) for old, new, _ in pairs)
    before = sum(int(np.count_nonzero(old)) for old, _, _ in pairs)
    after = sum(int(np.count_nonzero(new)) for _, new, _ in pairs)
    return StructureCorrection(
        id=structure,
        added_ml=added * grid.voxel_ml,
        removed_ml=removed * grid.voxel_ml,
        suggested_ml=before * grid.voxel_ml,
        final_ml=after * grid.voxel_ml,
        dice=2 * (after - added) / (before + after) if before + after else 1.0,
        surface_mm=_surface_mm(pairs, grid),
    )


def _cut(array: NDArray[np.uint16], grid: Grid, place: tuple[Plane, int]) -> NDArray[np.uint16]:
    plane, index = place
    return array[(slice(None),) * plane_axis(grid, plane) + (index,)]


def _surface_mm(
    pairs: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_], Plane]], grid: Grid
) -> float | None:
    distances = [value for pair in pairs for value in _contour_distances_mm(*pair, grid)]
    return float(np.mean(distances)) if distances else None


def _contour_distances_mm(
    old: NDArray[np.bool_], new: NDArray[np.bool_], plane: Plane, grid: Grid
) -> Iterator[float]:
    """From each contour pixel of one to the nearest of the other, both ways; none if one is empty.

    Both contours lie in one slice.
    """
    if not old.any() or not new.any():
        return
    spacing = list(grid.spacing_mm_zyx)
    del spacing[plane_axis(grid, plane)]
    points = [np.argwhere(m & ~ndimage.binary_erosion(m)) * np.asarray(spacing) for m in (old, new)]
    for one, other in (points, points[::-1]):
        yield from map(float, np.atleast_1d(cKDTree(other).query(one)[0]))


def _folder(study: Study) -> Path:
    return study.folder / "corrections"


def _keep(study: Study, one: Correction) -> None:
    make_folder(_folder(study))
    path = _folder(study) / f"{one.case_id}-{one.version:04d}.json"
    write_json_atomic(path, {"schema_version": SCHEMA, **one.to_json()})


def _parsed(fields: Fields) -> Correction:
    return Correction(
        case_id=fields.text("case_id"),
        version=fields.integer("version"),
        created=fields.text("created"),
        round=fields.integer("round"),
        source=fields.text("source"),
        source_version=fields.integer("source_version"),
        slices=fields.integer("slices"),
        minutes=fields.number("minutes"),
        structures=tuple(_parsed_structure(one) for one in fields.parts("structures")),
    )


def _parsed_structure(fields: Fields) -> StructureCorrection:
    surface: Mapping[str, Json] = fields.values
    return StructureCorrection(
        id=fields.integer("id"),
        added_ml=fields.number("added_ml"),
        removed_ml=fields.number("removed_ml"),
        suggested_ml=fields.number("suggested_ml"),
        final_ml=fields.number("final_ml"),
        dice=fields.number("dice"),
        surface_mm=None if surface.get("surface_mm") is None else fields.number("surface_mm"),
    )
