"""The label and prediction versions of one case, as files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import GeometryMismatchError, ImageError, LabelError, SchemaError
from semiseg.events import Json
from semiseg.images.grid import Grid
from semiseg.images.labels import Segment, read_label, write_label
from semiseg.images.reading import read_map, write_image
from semiseg.study.case import CaseLabel, Origin, Prediction
from semiseg.study.fields import Fields
from semiseg.study.ledger import Ledger
from semiseg.study.merge import by_human, count_voxels, present_ids
from semiseg.study.storage import draft_folder, read_json, write_json_atomic
from semiseg.study.versions import (
    Manifest,
    publish_version,
    read_manifest,
    require_content,
    version_folder,
    version_numbers,
    write_manifest,
)

_STEPS = 200
_LABEL, _ORIGIN, _CONFIDENCE = "label.seg.nrrd", "origin.nrrd", "confidence.nrrd"
_LEDGER, _UNCERTAINTY = "ledger.json", "uncertainty.nrrd"
_WITHDRAWN = "withdrawn.json"


class CaseFiles:
    """Reads and writes the versions of the case in `folder` (`cases/<id>`)."""

    def __init__(self, folder: Path, case_id: str, grid: Grid) -> None:
        self._case_id, self._grid = case_id, grid
        self.labels, self.predictions = folder / "labels", folder / "predictions"

    def save_label(self, label: CaseLabel, segments: tuple[Segment, ...]) -> int:
        """Writes `label` as a new version, whose number it returns; call under the lock.

        Confidence is kept in steps of 1/200.
        """
        with draft_folder(self.labels, "label") as draft:
            write_label(draft / _LABEL, label.array, self._grid, segments)
            write_image(draft / _ORIGIN, label.origin, self._grid)
            write_image(draft / _CONFIDENCE, _in_steps(label.confidence), self._grid)
            write_json_atomic(draft / _LEDGER, label.ledger.to_json())
            info: dict[str, Json] = {
                **label.info,
                "propagated_ids": list(label.propagated_ids),
                "protocol_ids": [segment.id for segment in segments],
                "voxels": _as_json(count_voxels(label)),
            }
            write_manifest(draft, info)
            return publish_version(draft, self.labels)

    def read_label(self, version: int) -> CaseLabel:
        """SchemaError when the version is missing or damaged."""
        manifest = self._manifest(self.labels, version)
        array, segments = self._ids(manifest)
        origin, confidence = self._origin(manifest), self._confidence(manifest)
        if confidence is None:  # schema 1 had none: what was set counted in full
            confidence = (origin != Origin.NONE).astype(np.float32)
        info = Fields(manifest.info, str(manifest.folder))
        return CaseLabel(
            case_id=self._case_id,
            version=version,
            array=array,
            origin=origin,
            confidence=confidence,
            ledger=self.read_ledger(version),
            propagated_ids=info.integers("propagated_ids"),
            info={"created": manifest.created, "segments": segments, **manifest.info},
        )

    def read_human(self, version: int) -> NDArray[np.uint16]:
        """The ids that a human drew or corrected, else 0, without reading confidence.

        SchemaError when the version is missing or damaged.
        """
        manifest = self._manifest(self.labels, version)
        array, _ = self._ids(manifest)
        array[~by_human(self._origin(manifest))] = 0
        return array

    def read_ledger(self, version: int) -> Ledger:
        """The slice ledger of a version alone, without its voxels."""
        path = version_folder(self.labels, version) / _LEDGER
        ledger = Ledger.from_json(read_json(path))
        try:
            ledger.require_inside(self._grid)
        except LabelError as error:
            raise SchemaError(f"{path} is corrupt: {error}") from error
        return ledger

    def label_info(self, version: int) -> Manifest:
        """What version.json says; SchemaError when the version is missing or damaged."""
        return read_manifest(version_folder(self.labels, version))

    def voxel_ids(self, version: int) -> tuple[set[int], set[int]]:
        """The structures with voxels that a human, and that a program, has drawn."""
        info = Fields(self.label_info(version).info, str(self.labels))
        counts = info.optional_part("voxels")
        if counts is None:  # schema 1 did not count
            counts = Fields(_as_json(count_voxels(self.read_label(version))), str(self.labels))
        human, program = counts.mapping("human"), counts.mapping("program")
        return {int(key) for key in human}, {int(key) for key in program}

    def newest_ids(self) -> tuple[set[int], set[int]]:
        """The structures that a human drew in the newest label, and all that it speaks of."""
        for version in reversed(version_numbers(self.labels)):
            with contextlib.suppress(SchemaError):  # a damaged one: the one before it counts
                human, program = self.voxel_ids(version)
                return human, human | program | self.read_ledger(version).ids()
        return set(), set()

    def save_prediction(
        self,
        array: NDArray[np.uint16],
        uncertainty: NDArray[np.float32],
        segments: tuple[Segment, ...],
        info: Mapping[str, Json],
    ) -> int:
        """Writes a prediction as a new version, whose number it returns; call under the lock."""
        with draft_folder(self.predictions, "prediction") as draft:
            write_label(draft / _LABEL, array, self._grid, segments)
            write_image(draft / _UNCERTAINTY, _in_steps(uncertainty), self._grid)
            write_manifest(draft, info)
            return publish_version(draft, self.predictions)

    def read_prediction(self, version: int) -> Prediction:
        """SchemaError when the version is missing or damaged."""
        manifest = self._manifest(self.predictions, version)
        array, segments = self._ids(manifest)
        info = Fields(manifest.info, str(manifest.folder))
        return Prediction(
            case_id=self._case_id,
            version=version,
            array=array,
            uncertainty=_from_steps(self._map(manifest.folder / _UNCERTAINTY)),
            model_id=info.integer("model_id"),
            info={"created": manifest.created, "segments": segments, **manifest.info},
        )

    def prediction_info(self, version: int) -> Manifest:
        """What version.json says; SchemaError when the version is missing or damaged."""
        return read_manifest(version_folder(self.predictions, version))

    def withdrawn(self) -> frozenset[int]:
        """The predictions that were taken back; SchemaError when that cannot be read."""
        path = self.predictions / _WITHDRAWN
        if not path.exists():
            return frozenset()
        return frozenset(Fields(read_json(path), str(path)).integers("versions"))

    def withdraw_prediction(self, version: int) -> None:
        """Takes a prediction back; its files stay. Call under the lock."""
        versions = sorted({*self.withdrawn(), version})
        write_json_atomic(self.predictions / _WITHDRAWN, {"versions": list(versions)})

    def _manifest(self, parent: Path, version: int) -> Manifest:
        if version not in version_numbers(parent):
            known = ", ".join(map(str, version_numbers(parent))) or "none"
            raise SchemaError(
                f"{self._case_id} has no version {version} in {parent.name}; it has {known}"
            )
        manifest = read_manifest(version_folder(parent, version))
        require_content(manifest)
        return manifest

    def _ids(self, manifest: Manifest) -> tuple[NDArray[np.uint16], dict[str, Json]]:
        path = manifest.folder / _LABEL
        try:
            label = read_label(path, verified=True)
            label.grid.require_same(self._grid, str(path))
        except (ImageError, LabelError) as error:
            raise SchemaError(f"{path} is damaged: {error}") from error
        return label.array, {str(s.id): s.name for s in label.segments}

    def _origin(self, manifest: Manifest) -> NDArray[np.uint8]:
        found = self._map(manifest.folder / _ORIGIN).astype(np.uint8, copy=False)
        if found.max(initial=0) > max(Origin):
            raise SchemaError(f"{manifest.folder / _ORIGIN} is damaged: unknown values")
        return found

    def _confidence(self, manifest: Manifest) -> NDArray[np.float32] | None:
        path = manifest.folder / _CONFIDENCE
        if manifest.schema == 1 and not path.exists():
            return None
        return _from_steps(self._map(path))

    def _map(self, path: Path) -> NDArray[np.generic]:
        try:
            array, grid = read_map(path, verified=True)
            grid.require_same(self._grid, str(path))
        except ImageError as error:
            raise SchemaError(f"{path} is damaged: {error}") from error
        return array


def checked_map(
    array: NDArray[np.integer], grid: Grid, known_ids: tuple[int, ...], what: str
) -> NDArray[np.uint16]:
    """`array` as ids (z, y, x) on `grid`.

    GeometryMismatchError when the shape is another; LabelError when a value is no whole number
    or none of `known_ids`.
    """
    _require_shape(array, grid, what)
    if array.dtype.kind not in "biu":
        raise LabelError(f"{what} has values of type {array.dtype}; expected whole numbers (ids)")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise LabelError(f"{what} has values from {low} to {high}; ids lie between 0 and 65535")
    ids = array.astype(np.uint16, copy=False)
    strange = [i for i in present_ids(ids) if i not in known_ids]
    if strange:
        known = ", ".join(map(str, known_ids)) or "none: add structures to the protocol first"
        raise LabelError(
            f"{what} has the value {strange[0]}, which is no id it may use ({known}); map the "
            "values to the ids of the protocol first"
        )
    return ids


def checked_weights(array: NDArray[np.floating], grid: Grid, what: str) -> NDArray[np.float32]:
    """`array` as float32 (z, y, x) on `grid`; LabelError unless all of it lies in [0, 1]."""
    _require_shape(array, grid, what)
    weights = np.asarray(array, dtype=np.float32)
    low, high = float(weights.min()), float(weights.max())
    if not (low >= 0 and high <= 1):  # NaN fails, too
        raise LabelError(f"{what} has values from {low:g} to {high:g}; expected 0 to 1")
    return weights


def _require_shape(array: NDArray[np.generic], grid: Grid, what: str) -> None:
    if array.shape != grid.shape_zyx:
        raise GeometryMismatchError(
            f"{what} has the shape {array.shape} (z, y, x), its image {grid.shape_zyx}; bring it "
            "onto the image's grid first"
        )


def _in_steps(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Whole steps: far finer than what weights say, and quick and small to save."""
    steps = np.empty(weights.shape, np.uint8)
    for into, part in zip(steps, weights, strict=True):  # by slice, to spare memory
        into[...] = np.rint(part * np.float32(_STEPS))
    return steps


def _from_steps(steps: NDArray[np.generic]) -> NDArray[np.float32]:
    weights = steps.astype(np.float32)
    weights /= np.float32(_STEPS)
    return weights


def _as_json(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Json]:
    return {kind: dict(found) for kind, found in counts.items()}
