"""Earlier versions of labels, segmentations and models: listed, named, gone back to, compared."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import check_choice
from semiseg.errors import SchemaError, StorageError, StudyError
from semiseg.events import Json
from semiseg.study.case import Case, CaseLabel, Origin, Prediction, empty_label
from semiseg.study.drafts import Drafts
from semiseg.study.fields import Fields
from semiseg.study.merge import Computed, by_human, merge_program, seen_through
from semiseg.study.storage import make_folder, read_json, write_json_atomic
from semiseg.study.suggestion import Suggestions, with_programs_of
from semiseg.study.versions import Manifest, read_manifest, version_folder, version_numbers

Kind = Literal["label", "prediction", "model"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_NOTES = "notes.json"
_LONGEST_NAME = 80


@dataclass(frozen=True, kw_only=True, order=True)
class Item:
    """One version: of a case's label or segmentation, or, with an empty `case_id`, a model."""

    kind: Kind
    case_id: str = ""
    number: int

    def __str__(self) -> str:
        return " ".join(part for part in (self.case_id, self.kind, str(self.number)) if part)


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """What a list shows of a version; `what` says how it came about, `info` all that was told.

    `name` is the user's; a `pinned` one is never pruned. `problem` is empty where it is whole.
    """

    item: Item
    created: str
    what: str
    name: str
    pinned: bool
    newest: bool
    size_bytes: int
    info: dict[str, Json]
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs from the version `first` to `second` of a case.

    `changed` (z, y, x) is true there; `added` and `removed` are voxels per structure id.
    """

    case_id: str
    first: Item
    second: Item
    changed: NDArray[np.bool_]
    added: dict[int, int]
    removed: dict[int, int]
    voxel_ml: float


class History(Drafts, Suggestions):
    """The part of `Study` about earlier versions."""

    def version_rows(self, case_ids: Iterable[str] | None = None) -> tuple[VersionRow, ...]:
        """Labels and segmentations of the cases (all by default), then models; oldest first."""
        chosen = list(self.cases) if case_ids is None else [self.case(c).id for c in case_ids]
        items = [
            Item(kind=kind, case_id=case_id, number=number)
            for case_id in chosen
            for kind in (KINDS[0], KINDS[1])
            for number in version_numbers(self.version_parent(kind, case_id))
        ]
        models = version_numbers(self.version_parent("model"))
        items += [Item(kind="model", number=number) for number in models]
        return tuple(self._version_row(item) for item in items)

    def name_version(self, item: Item, name: str) -> None:
        """Gives a version a name; an empty one takes it away. StudyError: there is none such."""
        if len(name.strip()) > _LONGEST_NAME:
            raise StudyError(f"a name has at most {_LONGEST_NAME} characters, got {len(name)}")
        with self.writing():
            names, pinned = self._said_of(self._require(item).parent)
            names.pop(item.number, None)
            if name.strip():
                names[item.number] = name.strip()
            self._save_notes(item, names, pinned)
            self._note("version_named", item=str(item), name=name.strip())

    def pin_version(self, item: Item, *, pinned: bool = True) -> None:
        """Keeps a version from being pruned, or no longer."""
        with self.writing():
            names, before = self._said_of(self._require(item).parent)
            after = before | {item.number} if pinned else before - {item.number}
            self._save_notes(item, names, after)
            self._note("version_pinned", item=str(item), pinned=pinned)

    def roll_back(
        self,
        case_id: str,
        version: int,
        *,
        structure_ids: Iterable[int] | None = None,
        keep_human: bool = True,
    ) -> int:
        """Makes a label as it was in `version` the newest; returns the new version.

        All structures unless some are named. What humans drew since stays, unless `keep_human`
        is off. StudyError when a drawing that is not merged yet would undo that.
        """
        ids = None if structure_ids is None else self.protocol.require_ids(structure_ids)
        with self.writing():
            case = self._fresh_case(case_id)
            if not keep_human and case_id in self.drafts():
                raise StudyError(
                    f"{case_id} has a drawing that is not merged yet, which would bring back what "
                    f"is to go; merge it first (semiseg study apply {self.folder} {case_id})"
                )
            earlier = self._seen(case, self._files(case).read_label(version))
            before = self._newest(case) or empty_label(case.id, case.grid)
            join = _programs_back if keep_human else _all_back
            after = join(before, earlier, case, ids, self.protocol.ids)
            told: dict[str, Json] = {
                "kind": "rolled_back",
                "to": version,
                "structures": None if ids is None else list(ids),
                "human": not keep_human,
            }
            new = self._save(case, after, told)
            self._note("rolled_back", case=case_id, version=new, to=version)
            return new

    def roll_back_prediction(self, case_id: str, version: int) -> tuple[int, ...]:
        """Takes back all segmentations after `version`; returns which. Their files stay."""
        with self.writing():
            case = self._fresh_case(case_id)
            if version not in self.prediction_versions(case_id):
                raise StudyError(f"{case_id} has no segmentation {version} that counts")
            later = tuple(n for n in self.prediction_versions(case_id) if n > version)
            for number in later:
                self._files(case).withdraw_prediction(number)
            self._note("rolled_back", case=case_id, prediction=version)
            return later

    def accept_prediction(self, case_id: str, version: int, structure_ids: Iterable[int]) -> int:
        """Makes a segmentation with some structures as in `version`, the others as in the newest.

        Returns its version. StudyError when `version` does not count or there is no newer one.
        """
        ids = self.protocol.require_ids(structure_ids)
        versions = self.prediction_versions(case_id)
        if version not in versions[:-1]:
            raise StudyError(f"{case_id} has no segmentation {version} that is not the newest")
        earlier, newest = self.prediction(case_id, version), self.prediction(case_id)
        if earlier is None or newest is None:
            raise StudyError(f"{case_id}: its newest segmentation cannot be read")
        back = np.isin(earlier.array, ids)
        gone = np.isin(newest.array, ids)
        array = np.where(back, earlier.array, np.where(gone, np.uint16(0), newest.array))
        unsure = np.where(back | gone, earlier.uncertainty, newest.uncertainty)
        told: dict[str, Json] = {"accepted": {"version": version, "structures": list(ids)}}
        return self.predicted(case_id, array, unsure, model_id=newest.model_id, info=told)

    def compare(self, case_id: str, first: Item, second: Item) -> Comparison:
        """What differs between two versions of a case's label or segmentation."""
        case = self.case(case_id)
        one, other = (self.version_map(case_id, item) for item in (first, second))
        changed = one != other
        return Comparison(
            case_id=case_id,
            first=first,
            second=second,
            changed=changed,
            added=_counts(other[changed], self.protocol.ids),
            removed=_counts(one[changed], self.protocol.ids),
            voxel_ml=case.grid.voxel_ml,
        )

    def version_map(self, case_id: str, item: Item) -> NDArray[np.uint16]:
        """The ids (z, y, x) of a version of a case's label or segmentation."""
        return self._map_of(self.case(case_id), item)

    def version_parent(self, kind: Kind, case_id: str = "") -> Path:
        """The folder that holds the versions of one kind."""
        check_choice("kind", kind, KINDS)
        if kind == "model":
            return self.folder / "models"
        files = self._files(self.case(case_id))
        return files.labels if kind == "label" else files.predictions

    def _version_row(self, item: Item) -> VersionRow:
        parent = self.version_parent(item.kind, item.case_id)
        names, pinned = self._notes(parent)
        folder = version_folder(parent, item.number)
        problem, manifest = "", None
        try:
            manifest = read_manifest(folder)
        except (SchemaError, StorageError) as error:
            problem = str(error)
        info = {} if manifest is None else dict(manifest.info)
        return VersionRow(
            item=item,
            created="" if manifest is None else manifest.created,
            what=_what(item, info),
            name=names.get(item.number, ""),
            pinned=item.number in pinned,
            newest=item.number == version_numbers(parent)[-1],
            size_bytes=_size(folder, manifest),
            info=info,
            problem=problem,
        )

    def _require(self, item: Item) -> Path:
        parent = self.version_parent(item.kind, item.case_id)
        if item.number not in version_numbers(parent):
            known = ", ".join(map(str, version_numbers(parent))) or "none"
            raise StudyError(f"there is no {item}; there are {known}")
        return version_folder(parent, item.number)

    def _notes(self, parent: Path) -> tuple[dict[int, str], frozenset[int]]:
        """Names by number and pinned numbers; what cannot be read is as if never said."""
        try:
            return self._said_of(parent)
        except SchemaError:
            return {}, frozenset()

    def _said_of(self, parent: Path) -> tuple[dict[int, str], frozenset[int]]:
        """As `_notes`; SchemaError when what was said cannot be read."""
        path = parent / _NOTES
        if not path.exists():
            return {}, frozenset()
        try:
            fields = Fields(read_json(path), str(path))
            names = {int(k): str(v) for k, v in fields.mapping("names").items() if k.isdecimal()}
            return names, frozenset(fields.integers("pinned"))
        except SchemaError as error:
            raise SchemaError(
                f"{error}; put the file back from a backup of your own, or delete it: names and "
                "pins of these versions are then gone"
            ) from error

    def _save_notes(self, item: Item, names: dict[int, str], pinned: frozenset[int]) -> None:
        parent = self.version_parent(item.kind, item.case_id)
        make_folder(parent)
        body: dict[str, Json] = {
            "names": {str(number): name for number, name in sorted(names.items())},
            "pinned": [*sorted(pinned)],
        }
        write_json_atomic(parent / _NOTES, body)

    def _map_of(self, case: Case, item: Item) -> NDArray[np.uint16]:
        if item.kind == "model" or item.case_id != case.id:
            raise StudyError(f"{item} is no label or segmentation of {case.id}")
        self._require(item)
        found: CaseLabel | Prediction | None
        if item.kind == "label":
            found = self.label(case.id, item.number)
        else:
            found = self.prediction(case.id, item.number)
        if found is None:
            raise StudyError(f"{item} cannot be read")
        return found.array


def _programs_back(
    before: CaseLabel,
    earlier: CaseLabel,
    case: Case,
    ids: tuple[int, ...] | None,
    _all_ids: tuple[int, ...],
) -> CaseLabel:
    """What programs said is as in `earlier`, what humans said as in `before`."""
    if ids is None:
        return with_programs_of(before, earlier, case.grid)
    program = (earlier.origin == Origin.PROPAGATED) & np.isin(earlier.array, ids)
    computed = Computed(
        array=np.where(program, earlier.array, np.uint16(0)),
        confidence=np.where(program, earlier.confidence, np.float32(0)),
        ids=ids,
        origin=Origin.PROPAGATED,
    )
    return merge_program(before, computed, case.grid)


def _all_back(
    before: CaseLabel,
    earlier: CaseLabel,
    case: Case,
    ids: tuple[int, ...] | None,
    all_ids: tuple[int, ...],
) -> CaseLabel:
    """Everything as in `earlier`, or everything of the structures `ids`."""
    if ids is None:
        return replace(earlier, version=before.version)
    others = by_human(before.origin) & (before.array != 0) & ~np.isin(before.array, ids)
    gone = np.isin(before.array, ids)
    back = np.isin(earlier.array, ids) & ~others
    ledger = before.ledger.without(ids)
    for plane, slices in earlier.ledger.states.items():
        for index, entry in slices.items():
            for structure in set(entry) & set(ids):
                ledger = ledger.mark(plane, [index], entry[structure], [structure])
    joined = replace(
        before,
        array=np.where(back, earlier.array, np.where(gone, np.uint16(0), before.array)),
        origin=np.where(back, earlier.origin, np.where(gone, np.uint8(0), before.origin)),
        confidence=np.where(
            back, earlier.confidence, np.where(gone, np.float32(0), before.confidence)
        ),
        ledger=ledger,
    )
    return seen_through(joined, case.grid, all_ids)


def _counts(ids: NDArray[np.uint16], known: tuple[int, ...]) -> dict[int, int]:
    counts = np.bincount(ids, minlength=max(known, default=0) + 1)
    return {i: int(counts[i]) for i in known if counts[i]}


def _what(item: Item, info: dict[str, Json]) -> str:
    if item.kind == "model":
        return str(info.get("method", "model"))
    kind = str(info.get("kind", "unknown"))
    accepted = info.get("accepted")
    if isinstance(accepted, dict):
        return f"some structures as in version {accepted.get('version')}"
    labels = " and propagated labels" if info.get("prior") else ""
    return {
        "predicted": f"segmented by model {info.get('model_id')}{labels}",
        "rolled_back": f"back to version {info.get('to')}",
        "withdrawn": f"version {info.get('withdraws')} taken back",
    }.get(kind, kind)


def _size(folder: Path, manifest: Manifest | None) -> int:
    if manifest is not None:
        return sum(size for size, _ in manifest.files.values())
    total = 0
    for parent, _, names in os.walk(folder):
        total += sum((Path(parent) / name).lstat().st_size for name in names)
    return total
