"""Segmentations and measurements of a study, as files for other programs.

Every file lies on its image's own grid, appears whole or not at all, and is read back and
compared before its path is given out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import ExportFormat, ExportWhat, check_choice
from semiseg.errors import (
    ImageError,
    NotEnoughLabelsError,
    SchemaError,
    SemiSegError,
    StorageError,
    StudyError,
)
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.images.grid import Grid
from semiseg.images.labels import Segment, read_label, write_label
from semiseg.images.reading import Image
from semiseg.images.writing import replacing, storage_error
from semiseg.pacs import DICOM_FORMATS, SUFFIXES, DicomOptions, DicomWork, Drawn, prepare, write
from semiseg.study.case import Case, CaseLabel, Origin, Prediction
from semiseg.study.combined import combined
from semiseg.study.protocol import Protocol
from semiseg.study.study import Study

What = ExportWhat
Format = ExportFormat
_Content = tuple[Segment, ...] | int | DicomWork
MEASUREMENTS = "measurements.csv"
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "both": ("seg.nrrd", "nii.gz"),
    "seg.nrrd": ("seg.nrrd",),
    "nii.gz": ("nii.gz",),
    "structures": (),
    "csv": (),
    "dicom-seg": (),
    "rtstruct": (),
}
_ORIGINS = (Origin.HUMAN, Origin.CORRECTED, Origin.PROPAGATED, Origin.PREDICTED)
_COLUMNS = (
    "case",
    "patient",
    "modality",
    "source",
    "structure_id",
    "structure",
    "voxels",
    "volume_ml",
    "mean",
    "sd",
    "unit",
    *(f"{origin.name.lower()}_ml" for origin in _ORIGINS),
)


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What of a case is exported: ids and origins (z, y, x), and the versions they are from."""

    case: Case
    array: NDArray[np.uint16]
    origin: NDArray[np.uint8]
    source: str
    model_id: int | None = None


def export_study(  # noqa: PLR0913 - one call says all about an export
    study: Study,
    folder: Path,
    what: str = "combined",
    format_: str | Sequence[str] = "both",
    case_ids: Sequence[str] | None = None,
    emit: Emit = ignore,
    *,
    overwrite: bool = False,
    dicom: DicomOptions | None = None,
) -> list[Path]:
    """Write the segmentations of `case_ids` (all that have one by default) into `folder`.

    `what`: the prediction under a human's decisions (combined; the label where nothing was
    predicted), the prediction, or the label. `format_`, one or several: `.seg.nrrd`, one NIfTI
    label map, both, one NIfTI mask per structure (structures), no voxels at all (csv), or, for
    cases that came from DICOM, a DICOM SEG or RTSTRUCT as `dicom` says.
    `measurements.csv` is always written. Returns the paths.
    StorageError when a file is in the way and not to be overwritten, or the disk refuses;
    NotEnoughLabelsError when a chosen case, or every case, has nothing to export.
    """
    check_choice("what", what, get_args(What))
    formats = (format_,) if isinstance(format_, str) else tuple(format_)
    for name in formats:
        check_choice("format", name, get_args(Format))
    cases = [study.case(case_id) for case_id in _exportable(study, what, case_ids)]
    files = {case.id: _files(folder, case, what, formats, study.protocol) for case in cases}
    for case in cases:
        files[case.id] |= _dicom_files(study, folder, case, what, formats, dicom or DicomOptions())
    paths = [*(path for part in files.values() for path in part), folder / MEASUREMENTS]
    _prepare(folder, paths, overwrite=overwrite)
    rows: list[dict[str, str]] = []
    progress = Progress(emit, "export", len(cases), interval_s=0.0)
    for number, case in enumerate(cases, 1):
        progress.update(number - 1, f"exporting {case.id}")
        found = segmentation(study, case.id, what)
        if found is None:
            raise SchemaError(f"no {what} of {case.id} can be read; run: semiseg study check")
        for path, content in files[case.id].items():
            _write(path, found, content)
        image, message = _image(study, case)
        rows += measurements(found, image, study.protocol)
        said: dict[str, Json] = {"case": case.id, "files": [str(path) for path in files[case.id]]}
        progress.update(number, message or f"{case.id} exported", {**said, "saved": True})
    write_measurements(folder / MEASUREMENTS, rows)
    return paths


def segmentation(study: Study, case_id: str, what: str) -> Segmentation | None:
    """The case's newest segmentation of the kind `what`; None when there is none."""
    case = study.case(case_id)
    label = None if what == "prediction" else study.label(case_id)
    prediction = None if what == "label" else study.prediction(case_id)
    if prediction is not None:
        return _predicted(case, prediction, label, study.protocol)
    if label is None:
        return None
    source = f"label {label.version}"
    return Segmentation(case=case, array=label.array, origin=label.origin, source=source)


def measurements(
    found: Segmentation, image: Image | None, protocol: Protocol
) -> list[dict[str, str]]:
    """One row per structure of the protocol: volume, grey values (mean, sd) and who drew it.

    Grey values are empty without an image; a structure without voxels has a row too.
    """
    voxel_ml = found.case.grid.voxel_ml
    rows = []
    for structure in protocol.structures:
        inside = found.array == structure.id
        counts = np.bincount(found.origin[inside], minlength=len(Origin))
        values = image.array[inside].astype(np.float64) if image is not None else np.empty(0)
        row = {
            "case": found.case.id,
            "patient": found.case.patient,
            "modality": found.case.modality,
            "source": found.source,
            "structure_id": str(structure.id),
            "structure": structure.name,
            "voxels": str(int(counts.sum())),
            "volume_ml": f"{counts.sum() * voxel_ml:.4f}",
            "mean": f"{values.mean():.3f}" if values.size else "",
            "sd": f"{values.std():.3f}" if values.size else "",
            "unit": "HU" if found.case.modality == "CT" else "intensity",
        }
        row |= {f"{o.name.lower()}_ml": f"{counts[o] * voxel_ml:.4f}" for o in _ORIGINS}
        rows.append(row)
    return rows


def write_measurements(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write `rows` as CSV in UTF-8 with the mark that spreadsheets look for."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8-sig", newline="") as file,
    ):
        table = csv.DictWriter(file, _COLUMNS)
        table.writeheader()
        table.writerows(rows)


def _predicted(
    case: Case, prediction: Prediction, label: CaseLabel | None, protocol: Protocol
) -> Segmentation:
    """`prediction`, under the human decisions in `label` where there is one.

    Structures that were removed from the protocol since are left out.
    """
    source = f"prediction {prediction.version} (model {prediction.model_id})"
    array = np.where(np.isin(prediction.array, protocol.ids), prediction.array, np.uint16(0))
    origin = np.where(array > 0, np.uint8(Origin.PREDICTED), np.uint8(Origin.NONE))
    if label is not None:
        array, origin = combined(array, label, case.grid, protocol.ids)
        source += f" under label {label.version}"
    return Segmentation(
        case=case, array=array, origin=origin, source=source, model_id=prediction.model_id
    )


def _exportable(study: Study, what: str, case_ids: Sequence[str] | None) -> list[str]:
    """The chosen cases, or all that have something; NotEnoughLabelsError names what has none."""
    chosen = list(dict.fromkeys(study.cases if case_ids is None else case_ids))
    full = [case_id for case_id in chosen if _has(study, case_id, what)]
    if case_ids is not None and len(full) < len(chosen):
        empty = ", ".join(case_id for case_id in chosen if case_id not in full)
        raise NotEnoughLabelsError(
            f"nothing to export ({what}) for {empty}; annotate or predict first, or leave it out"
        )
    if not full:
        raise NotEnoughLabelsError(
            f"no case has anything to export ({what}); annotate or predict first"
        )
    return full


def _has(study: Study, case_id: str, what: str) -> bool:
    labels = what != "prediction" and bool(study.label_versions(case_id))
    return labels or (what != "label" and bool(study.prediction_versions(case_id)))


def _files(
    folder: Path, case: Case, what: str, formats: Sequence[str], protocol: Protocol
) -> dict[Path, _Content]:
    """Path -> the segments of a label map, or the id of a mask of one structure."""
    stem = f"{case.id}_{what}"
    files: dict[Path, _Content] = {
        folder / f"{stem}.{suffix}": protocol.segments()
        for name in formats
        for suffix in _SUFFIXES[name]
    }
    if "structures" in formats:
        for structure in protocol.structures:
            name = re.sub(r"\W+", "_", structure.name).strip("_")[:60]
            files[folder / f"{stem}_{structure.id}_{name}.nii.gz"] = structure.id
    return files


def _dicom_files(
    study: Study,
    folder: Path,
    case: Case,
    what: str,
    formats: Sequence[str],
    options: DicomOptions,
) -> dict[Path, _Content]:
    """Path -> a DICOM object that can be written; refuses before anything is written."""
    return {
        folder / f"{case.id}_{what}.{SUFFIXES[name]}": prepare(study, case, name, options)
        for name in DICOM_FORMATS
        if name in formats
    }


def _write(path: Path, found: Segmentation, content: _Content) -> None:
    if isinstance(content, DicomWork):
        drawn = Drawn(array=found.array, origin=found.origin, model_id=found.model_id)
        write(path, content, drawn)
        return
    segments = () if isinstance(content, int) else content
    mask = isinstance(content, int)
    array = (found.array == content).astype(np.uint16) if mask else found.array
    write_label(path, array, found.case.grid, segments)
    _verify(path, array, found.case.grid, segments)


def _verify(
    path: Path, array: NDArray[np.uint16], grid: Grid, segments: tuple[Segment, ...]
) -> None:
    """StorageError unless `path` reads back as what was written."""
    try:
        back = read_label(path)
        same = np.array_equal(back.array, array) and back.grid.difference(grid) is None
        names = {segment.id: segment.name for segment in back.segments}
        same &= not names or names == {segment.id: segment.name for segment in segments}
    except SemiSegError as error:
        raise StorageError(f"{path} was written but cannot be read back: {error}") from error
    if not same:
        raise StorageError(
            f"{path} does not read back as what was written; is the disk failing? "
            "Delete the file and export to another disk"
        )


def _image(study: Study, case: Case) -> tuple[Image | None, str]:
    """The case's image, or the sentence that says why its grey values are left out."""
    try:
        return study.image(case.id), ""
    except (ImageError, StudyError) as error:
        return None, f"{case.id}: grey values are left out of {MEASUREMENTS}: {error}"


def _prepare(folder: Path, files: Iterable[Path], *, overwrite: bool) -> None:
    """Make `folder`; StorageError when a file is in the way and may not be overwritten."""
    taken = [path.name for path in files if path.exists()]
    if taken and not overwrite:
        listed = ", ".join(taken[:3]) + (", ..." if len(taken) > 3 else "")
        raise StorageError(
            f"{len(taken)} of the files exist in {folder} already ({listed}); choose another "
            "folder, or say that they may be overwritten"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
