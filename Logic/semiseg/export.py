"""Segmentations and measurements of a study, as files for other programs.

Every file lies on its image's own grid, appears whole or not at all, and is read back and
compared before its path is given out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import ExportFormat, ExportWhat, check_choice
from semiseg.disclosure import warn_of_dicom, warn_of_identity
from semiseg.errors import (
    ImageError,
    NotEnoughLabelsError,
    SchemaError,
    SemiSegError,
    StorageError,
    StudyError,
)
from semiseg.events import Emit, Event, Json, Progress, ignore
from semiseg.images.grid import Grid
from semiseg.images.labels import Segment, read_label, write_label
from semiseg.images.reading import Image
from semiseg.images.writing import storage_error
from semiseg.measurements import Row, Voxels, measure, require_excel, write_csv, write_excel
from semiseg.meshes.work import MeshOptions, MeshWork, Surfaces, file_name_part, mesh_files
from semiseg.pacs import DICOM_FORMATS, SUFFIXES, DicomOptions, DicomWork, Drawn, prepare, write
from semiseg.study.case import Case, CaseLabel, Origin, Prediction
from semiseg.study.combined import combined
from semiseg.study.protocol import Protocol
from semiseg.study.study import Study

What = ExportWhat
Format = ExportFormat
_Content = tuple[Segment, ...] | int | DicomWork | MeshWork
MEASUREMENTS = "measurements.csv"
WORKBOOK = "measurements.xlsx"
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "both": ("seg.nrrd", "nii.gz"),
    "seg.nrrd": ("seg.nrrd",),
    "nii.gz": ("nii.gz",),
}


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What of a case is exported: ids and origins (z, y, x), and the versions they are from."""

    case: Case
    array: NDArray[np.uint16]
    origin: NDArray[np.uint8]
    label_version: int | None = None
    prediction: Prediction | None = None

    @property
    def source(self) -> str:
        """The versions in words."""
        label = "" if self.label_version is None else f"label {self.label_version}"
        if self.prediction is None:
            return label
        name = f"prediction {self.prediction.version} (model {self.prediction.model_id})"
        return f"{name} under {label}" if label else name

    @property
    def model_id(self) -> int | None:
        """The model of the predicted voxels."""
        return None if self.prediction is None else self.prediction.model_id


@dataclass(frozen=True, kw_only=True)
class _Options:
    """How files are written: over others or not, DICOM and meshes by their own settings.

    Of `several` cases one of which no DICOM object can be made does not stop the others;
    `problems` gathers why.
    """

    overwrite: bool
    several: bool
    dicom: DicomOptions
    meshes: MeshOptions
    problems: list[tuple[str, SemiSegError]] = field(default_factory=list)


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
    meshes: MeshOptions | None = None,
) -> list[Path]:
    """Write the segmentations of `case_ids` (all that have one by default) into `folder`.

    `what`: the prediction under a human's decisions (combined; the label where nothing was
    predicted), the prediction, or the label. `format_`, one or several: `.seg.nrrd`, one NIfTI
    label map, both, one NIfTI mask per structure (structures), no voxels at all (csv), a
    workbook of the measurements (xlsx), meshes (stl, obj, ply, glb), or, for cases that came
    from DICOM, a DICOM SEG or RTSTRUCT; a case of which none can be made keeps the others from
    nothing: its reason is told. `measurements.csv` is always written. Returns the paths.
    StorageError when a file is in the way and not to be overwritten, or the disk refuses;
    NotEnoughLabelsError when a chosen case, or every case, has nothing to export; ConfigError
    when a format needs a package that is not installed.
    """
    formats = _formats(what, format_)
    cases = [study.case(case_id) for case_id in _exportable(study, what, case_ids)]
    options = _Options(
        overwrite=overwrite,
        several=len(cases) > 1,
        dicom=dicom or DicomOptions(),
        meshes=meshes or MeshOptions(),
    )
    files = {case.id: _files(study, folder, case, what, formats, options) for case in cases}
    if options.problems and not any(files.values()):
        raise options.problems[0][1]
    tables = [folder / MEASUREMENTS, *([folder / WORKBOOK] if "xlsx" in formats else [])]
    paths = [path for part in files.values() for path in part]
    _prepare(folder, [*paths, *tables], overwrite=options.overwrite)
    _warn(study, folder, cases, formats, options, emit)
    rows: list[Row] = []
    written: list[Path] = []
    progress = Progress(emit, "export", len(cases), interval_s=0.0)
    for number, case in enumerate(cases, 1):
        progress.update(number - 1, f"exporting {case.id}")
        done = _export_case(study, case, what, files[case.id], options)
        rows += done.rows
        written += done.paths
        progress.update(number, done.message, done.data)
    _write_tables(tables, rows)
    for case_id, error in options.problems:
        _tell_problem(case_id, error, emit)
    return [*written, *tables]


def _tell_problem(case_id: str, error: SemiSegError, emit: Emit) -> None:
    text = str(error) if case_id in str(error) else f"{case_id}: {error}"
    data: dict[str, Json] = {"case": case_id, "error": text, "warning": "not written"}
    emit(Event(kind="progress", phase="export", message=f"not written: {text}", data=data))


def segmentation(study: Study, case_id: str, what: str) -> Segmentation | None:
    """The case's newest segmentation of the kind `what`; None when there is none."""
    case = study.case(case_id)
    label = None if what == "prediction" else study.label(case_id)
    prediction = None if what == "label" else study.prediction(case_id)
    if prediction is not None:
        return _predicted(case, prediction, label, study.protocol)
    if label is None:
        return None
    return Segmentation(
        case=case, array=label.array, origin=label.origin, label_version=label.version
    )


def measurements(found: Segmentation, image: Image | None, protocol: Protocol) -> list[Row]:
    """One row per structure of the protocol, also of one without voxels.

    Grey values are empty without an image, the uncertainty without a prediction.
    """
    prediction = found.prediction
    voxels = Voxels(
        grid=found.case.grid,
        label=found.array,
        origin=found.origin,
        image=None if image is None else image.array,
        uncertainty=None if prediction is None else prediction.uncertainty,
    )
    return [
        Row(
            case=found.case.id,
            modality=found.case.modality,
            structure_id=structure.id,
            structure=structure.name,
            source=found.source,
            label_version=found.label_version,
            prediction_version=None if prediction is None else prediction.version,
            model="" if prediction is None else f"model {prediction.model_id}",
            date=datetime.now(UTC).date().isoformat(),
            measures=measure(voxels, structure.id),
        )
        for structure in protocol.structures
    ]


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What was written of a case, and what there is to say."""

    rows: list[Row]
    paths: list[Path]
    message: str
    data: dict[str, Json]


def _export_case(
    study: Study, case: Case, what: str, files: Mapping[Path, _Content], options: _Options
) -> _Done:
    found = segmentation(study, case.id, what)
    if found is None:
        raise SchemaError(f"no {what} of {case.id} can be read; run: semiseg study check")
    surfaces = Surfaces(case.id, found.array, case.grid)
    paths = [
        path for path, content in files.items() if _write(path, found, content, surfaces, options)
    ]
    image, problem = _image(study, case)
    notes = [*surfaces.notes, *([problem] if problem else [])]
    told: list[Json] = [*notes]
    return _Done(
        rows=measurements(found, image, study.protocol),
        paths=paths,
        message="; ".join(notes) or f"{case.id} exported",
        data={"case": case.id, "files": [str(p) for p in paths], "notes": told, "saved": True},
    )


def _write_tables(paths: Sequence[Path], rows: Sequence[Row]) -> None:
    for path in paths:
        write = write_excel if path.name == WORKBOOK else write_csv
        write(path, rows)


def _formats(what: str, format_: str | Sequence[str]) -> tuple[str, ...]:
    """The formats as a tuple, each known and its packages installed; ConfigError otherwise."""
    check_choice("what", what, get_args(What))
    formats = (format_,) if isinstance(format_, str) else tuple(format_)
    for name in formats:
        check_choice("format", name, get_args(Format))
    if "xlsx" in formats:
        require_excel()
    return formats


def _warn(
    study: Study,
    folder: Path,
    cases: Sequence[Case],
    formats: Sequence[str],
    options: _Options,
    emit: Emit,
) -> None:
    """Say what could identify somebody, before anything is written."""
    texts = {f"the case id {case.id!r}": case.id for case in cases}
    texts |= {f"the structure {s.name!r}": s.name for s in study.protocol.structures}
    warn_of_identity(study, folder, texts, emit)
    if options.dicom.identity == "keep" and set(formats) & set(DICOM_FORMATS):
        warn_of_dicom(study, folder, [case.id for case in cases], emit)


def _predicted(
    case: Case, prediction: Prediction, label: CaseLabel | None, protocol: Protocol
) -> Segmentation:
    """`prediction`, under the human decisions in `label` where there is one.

    Structures that were removed from the protocol since are left out.
    """
    array = np.where(np.isin(prediction.array, protocol.ids), prediction.array, np.uint16(0))
    origin = np.where(array > 0, np.uint8(Origin.PREDICTED), np.uint8(Origin.NONE))
    if label is not None:
        array, origin = combined(array, label, case.grid, protocol.ids)
    return Segmentation(
        case=case,
        array=array,
        origin=origin,
        label_version=None if label is None else label.version,
        prediction=prediction,
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
    study: Study,
    folder: Path,
    case: Case,
    what: str,
    formats: Sequence[str],
    options: _Options,
) -> dict[Path, _Content]:
    """Path -> what goes into it: the segments of a label map, the id of a mask's structure,
    a DICOM object or meshes; refuses before anything is written.
    """
    stem = f"{case.id}_{what}"
    protocol = study.protocol
    files: dict[Path, _Content] = {
        folder / f"{stem}.{suffix}": protocol.segments()
        for name in formats
        for suffix in _SUFFIXES.get(name, ())
    }
    if "structures" in formats:
        for structure in protocol.structures:
            name = f"{stem}_{structure.id}_{file_name_part(structure.name)}.nii.gz"
            files[folder / name] = structure.id
    files |= mesh_files(folder, stem, formats, protocol, options.meshes)
    for name in DICOM_FORMATS:
        if name in formats:
            path = folder / f"{stem}.{SUFFIXES[name]}"
            try:
                files[path] = prepare(study, case, name, options.dicom)
            except ImageError as error:
                if not options.several:
                    raise
                options.problems.append((case.id, error))
                break  # the other kind would be refused for the same reason
    return files


def _write(
    path: Path, found: Segmentation, content: _Content, surfaces: Surfaces, options: _Options
) -> bool:
    """Whether there was something to write."""
    if isinstance(content, MeshWork):
        return surfaces.write(path, content)
    if isinstance(content, DicomWork):
        drawn = Drawn(array=found.array, origin=found.origin, model_id=found.model_id)
        try:
            write(path, content, drawn)
        except (ImageError, NotEnoughLabelsError) as error:
            if not options.several:
                raise
            options.problems.append((found.case.id, error))
            return False
        return True
    segments = () if isinstance(content, int) else content
    mask = isinstance(content, int)
    array = (found.array == content).astype(np.uint16) if mask else found.array
    write_label(path, array, found.case.grid, segments)
    _verify(path, array, found.case.grid, segments)
    return True


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
