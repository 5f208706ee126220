"""Makes a job of a study: what work is wanted, and the bare voxels that it needs.

Images are written anew from their voxels and their place in space, so nothing of their files'
headers goes along; cases, patients, structures and sequences get names that say nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.cleanup import rule_for
from semiseg.config import Rule
from semiseg.errors import SchemaError, StudyError
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.images.grid import Grid
from semiseg.images.reading import read_image, write_image
from semiseg.prior import trusted_labels
from semiseg.remote.manifest import Kind, Manifest, Piece, SentCase, Version
from semiseg.remote.names import Names, opaque, structure_name
from semiseg.study.case import Case, CaseLabel, Origin, empty_label
from semiseg.study.fields import Fields
from semiseg.study.labels import CaseFiles
from semiseg.study.protocol import Protocol, Structure
from semiseg.study.storage import make_folder, read_json, write_bytes_atomic, write_json_atomic
from semiseg.study.study import Study
from semiseg.study.versions import version_folder

_LABEL_FILES = ("label.seg.nrrd", "origin.nrrd", "confidence.nrrd", "ledger.json")
_MODEL_KEYS = (
    "method",
    "network",
    "classes",
    "spacing_mm_zyx",
    "patch_zyx",
    "mirror_axes",
    "normalisation",
    "modalities",
    "unseen_dice",
)
NO_PRIOR = "--no-prior"
# Files keep the product of spacing and direction, which rounds the last digit.
_ROUNDING_MM = 1e-6
WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Work that is wanted: a command, its options, the cases (None: all) and the model."""

    kind: Kind
    arguments: tuple[str, ...] = ()
    case_ids: tuple[str, ...] | None = None
    model_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Package:
    """A job, where its pieces lie, what its names stand for, and the versions it rests on."""

    manifest: Manifest
    files: Mapping[str, Path]
    names: Names
    bases: Mapping[str, int]
    model_id: int | None = None


def pack(study: Study, wish: Wish, emit: Emit = ignore) -> Package:
    """The job that `wish` is; StudyError when nothing, or nothing that can be sent, is asked for.

    Pieces lie in the study's cache; images are written there once.
    """
    return _Packer(study).package(wish, emit)


def piece_place(study: Study, sha256: str) -> Path:
    """Where a piece that is sent lies in the study's cache."""
    return study.cache_dir / "remote" / "pieces" / sha256


class _Packer:
    """One call of `pack`."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._folder = study.cache_dir / "remote"
        self._files: dict[str, Path] = {}
        self._bases: dict[str, int] = {}
        cases = study.cases.values()
        self._cases = opaque("scan", study.cases)
        self._patients = opaque("person", (case.patient for case in cases))
        self._kinds = opaque("kind", (case.sequence for case in cases if case.sequence))
        self._rules = tuple(rule_for(s.name) for s in study.protocol.structures)
        self._segments = opaque_protocol(study.protocol.ids, self._rules).segments()

    def package(self, wish: Wish, emit: Emit) -> Package:
        """The whole job."""
        asked = self._asked(wish)
        sent = self._sent(wish.kind, asked)
        progress = Progress(emit, "pack", len(sent))
        cases = []
        for step, case in enumerate(sent, 1):
            cases.append(self._case(case, wish, asked=case.id in asked))
            progress.update(step, f"{case.id} is packed")
        model_id = self._study.model(wish.model_id).id if wish.kind == "predict" else None
        manifest = Manifest(
            kind=wish.kind,
            arguments=wish.arguments,
            structures=self._study.protocol.ids,
            rules=self._rules,
            cases=tuple(cases),
            model=None if model_id is None else self._model(model_id),
        )
        return Package(
            manifest=manifest,
            files={sha256: self._files[sha256] for sha256 in manifest.pieces},
            names=self._names(),
            bases=self._bases,
            model_id=model_id,
        )

    def _asked(self, wish: Wish) -> set[str]:
        if not self._study.protocol.ids:
            raise StudyError("the study has no structures yet; add some before work is sent")
        if wish.kind == "train":
            return set()
        asked = list(self._study.cases if wish.case_ids is None else wish.case_ids)
        if not asked:
            raise StudyError("the study has no cases yet; add images before work is sent")
        return {self._study.case(case_id).id for case_id in asked}

    def _sent(self, kind: Kind, asked: set[str]) -> list[Case]:
        """No more than the work needs: no test case teaches, no unannotated one lends labels."""
        every = self._study.cases.values()
        if kind == "train":
            found = [case for case in every if case.split != "test"]
        elif kind == "predict":
            found = [case for case in every if case.id in asked]
        else:
            found = [case for case in every if case.id in asked or self._lends(case)]
        several = [case.id for case in found if case.companions]
        if several:
            raise StudyError(
                f"{', '.join(several[:5])} have further volumes beside their image; these cannot "
                "be sent to a cluster yet: do this work on this computer"
            )
        return found

    def _lends(self, case: Case) -> bool:
        return case.split == "train" and self._study.ledger(case.id).any_done

    def _case(self, case: Case, wish: Wish, *, asked: bool) -> SentCase:
        found = self._said(case, wish)
        self._bases[case.id] = found.version if found is not None else 0
        return SentCase(
            id=self._cases[case.id],
            patient=self._patients[case.patient],
            modality=case.modality,
            split=case.split,
            asked=asked,
            image=self._image(case),
            label=None if found is None else self._label(case, found),
            sequence=None if case.sequence is None else self._kinds[case.sequence],
        )

    def _said(self, case: Case, wish: Wish) -> CaseLabel | None:
        """The label, as much of it as the work needs: to segment, what programs propagated."""
        if wish.kind != "predict":
            return self._study.label(case.id)
        trusted = None if NO_PRIOR in wish.arguments else trusted_labels(self._study, case)
        if trusted is None:
            return None
        empty = empty_label(case.id, case.grid)
        return replace(
            empty,
            array=np.where(trusted.said, trusted.array, empty.array),
            origin=np.where(trusted.said, np.uint8(Origin.PROPAGATED), empty.origin),
            confidence=trusted.said.astype(np.float32),
            propagated_ids=trusted.ids,
            info={
                "kind": "propagated",
                "atlases": ["sent"],
                "structures": list(trusted.ids),
                "gate": {"score": trusted.score},
            },
        )

    def _image(self, case: Case) -> Piece:
        index = self._folder / "images" / f"{case.image.sha256}.json"
        try:
            piece = Piece.from_json(Fields(read_json(index), str(index)))
            if self._place(piece).stat().st_size == piece.size_bytes:
                return self._known(piece)
        except (SchemaError, OSError):
            pass  # not written yet, or swept away: written anew
        image = self._study.image(case.id)
        piece = self._keep(bare_image(image.array, case.grid))
        make_folder(index.parent)
        write_json_atomic(index, {"sha256": piece.sha256, "size_bytes": piece.size_bytes})
        return piece

    def _label(self, case: Case, label: CaseLabel) -> Version:
        bare = replace(label, info={})
        with tempfile.TemporaryDirectory(prefix="semiseg-") as parent:
            files = CaseFiles(Path(parent), "case", case.grid)
            folder = version_folder(files.labels, files.save_label(bare, self._segments))
            pieces = {name: self._keep((folder / name).read_bytes()) for name in _LABEL_FILES}
            told = files.label_info(1).info
        names = ("propagated_ids", "protocol_ids", "voxels")
        how = {} if label.version else label.info
        return Version(files=pieces, info={**how, **{name: told[name] for name in names}})

    def _model(self, model_id: int) -> Version:
        """The weights, and of the description what is needed to run them."""
        record = self._study.model(model_id)
        fields = Fields(read_json(record.folder / DESCRIPTION), str(record.folder))
        info = {key: fields.values[key] for key in _MODEL_KEYS if key in fields.values}
        calibration = fields.optional_part("calibration")
        if calibration is not None:
            info["calibration"] = {"temperature": calibration.number("temperature")}
        told = fields.mapping("names")
        names: dict[str, Json] = {
            str(i): structure_name(i, rule_for(str(told.get(str(i), ""))))
            for i in fields.integers("classes")[1:]
        }
        info["names"] = names
        info["streams"] = [self._kinds.get(name, name) for name in fields.texts("streams")]
        weights = self._keep((record.folder / WEIGHTS).read_bytes())
        return Version(files={WEIGHTS: weights}, info=info)

    def _names(self) -> Names:
        real = {made: name for name, made in self._cases.items()}
        real |= {made: name for name, made in self._patients.items()}
        real |= {made: name for name, made in self._kinds.items()}
        real |= {structure_name(s.id): s.name for s in self._study.protocol.structures}
        return Names(real=real)

    def _keep(self, content: bytes) -> Piece:
        piece = Piece.of(content)
        path = self._place(piece)
        if not path.exists():
            make_folder(path.parent)
            write_bytes_atomic(path, content)
        return self._known(piece)

    def _known(self, piece: Piece) -> Piece:
        self._files[piece.sha256] = self._place(piece)
        return piece

    def _place(self, piece: Piece) -> Path:
        return piece_place(self._study, piece.sha256)


def bare_image(array: NDArray[np.float32], grid: Grid) -> bytes:
    """A file of the voxels (z, y, x) and their grid alone, read back and found the same.

    Voxels to the bit, the grid to a millionth of a millimetre.
    """
    whole = array.astype(np.int16) if np.abs(array).max() < 32768 else None
    stored = array if whole is None or not np.array_equal(whole, array) else whole
    with tempfile.TemporaryDirectory(prefix="semiseg-") as parent:
        path = Path(parent) / "image.nrrd"
        write_image(path, stored, grid)
        found = read_image(path)
        moved = found.grid.difference(grid, tolerance_mm=_ROUNDING_MM)
        if not np.array_equal(found.array, array) or moved:
            raise StudyError(
                "an image could not be written for sending without a change; please report this"
            )
        return path.read_bytes()


def opaque_protocol(ids: Sequence[int], rules: Sequence[Rule]) -> Protocol:
    """Structures by number, each with the rule for it."""
    return Protocol(
        tuple(
            Structure(id=i, name=structure_name(i, rule), color=(200, 100, i % 256))
            for i, rule in zip(ids, rules, strict=True)
        )
    )
