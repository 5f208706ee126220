"""Shared fixtures: small studies of phantoms, and synthetic DICOM series."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from semiseg.config import Modality
from semiseg.dicom.scan import scan
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.importing import add_series
from semiseg.study.protocol import Protocol, Structure, common_structure
from semiseg.study.study import Study

PhantomStudy = Callable[..., Study]
SeriesMaker = Callable[..., list[Path]]
_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}

# Small volumes on many threads wait for each other: a busy machine then takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background work deaf to Ctrl-C, and children inherit that; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def phantom_study(tmp_path: Path) -> PhantomStudy:
    """Makes a study of phantoms with structures 1 and 2 on anisotropic 10 x 16 x 16 grids.

    `modalities` one per case "c0", "c1", ...; the first `annotated` have `slices` done.
    """

    def make(
        modalities: tuple[Modality, ...] = ("CT", "MR"),
        *,
        annotated: int = 2,
        slices: tuple[int, ...] = (2, 4, 5, 7),
        splits: tuple[str, ...] = (),
    ) -> Study:
        protocol = Protocol((common_structure("liver", 1), common_structure("spleen", 2)))
        study = Study.create(tmp_path / "study", name="phantoms", protocol=protocol)
        grid = Grid(size_xyz=(16, 16, 10), spacing_mm_xyz=(3.0, 3.0, 4.0))
        for number, modality in enumerate(modalities):
            path = tmp_path / f"c{number}.nii.gz"
            image, label = _phantom(number, modality)
            write_image(path, image, grid)
            split = splits[number] if splits else "train"
            study.add_case(path, case_id=f"c{number}", modality=modality, split=split)
            if number < annotated:
                study.annotate(
                    f"c{number}", label, plane="axial", indices=slices, structure_ids=(1, 2)
                )
        return study

    return make


def _phantom(seed: int, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:10, :16, :16]
    body = (y - 8) ** 2 + (x - 8) ** 2 < 50
    one = (z - 5) ** 2 + (y - 8) ** 2 + (x - 5 - seed % 2) ** 2 < 10
    two = (z - 5) ** 2 + (y - 9) ** 2 + (x - 11) ** 2 < 10
    greys = {"CT": (-150.0, 40.0, 120.0, -60.0), "MR": (5.0, 300.0, 100.0, 700.0)}[modality]
    image = np.select([one, two, body], [greys[2], greys[3], greys[1]], greys[0])
    image = image + rng.normal(0, 8, body.shape)
    return image.astype(np.float32), np.select([one, two], [1, 2]).astype(np.uint16)


@pytest.fixture
def dicom_series() -> SeriesMaker:
    """Writes a series into a folder: `n` slices of 12 x 10 pixels, 2.5 mm apart, one file each.

    `heights` or `positions` place the slices; `values` maps world points (..., 3) to grey
    values; `change(dataset, k)` has the last word on each file; `key` sets the unique ids.
    """
    return _series


@pytest.fixture
def dicom_study(tmp_path: Path, dicom_series: SeriesMaker) -> Callable[..., Study]:
    """A study with one case "CT-7" or "MR-7" from DICOM on which two structures are drawn.

    The series is in `tmp_path / "in"`; all options but `empty` are those of `dicom_series`.
    """

    def make(empty: bool = False, **series: object) -> Study:
        dicom_series(tmp_path / "in", **series)
        liver, kidney = common_structure("liver", 1), common_structure("kidney_left", 2)
        odd = Structure(id=9, name="odd thing", color=(1, 2, 3))
        study = Study.create(tmp_path / "study", name="s", protocol=Protocol((liver, kidney, odd)))
        (volume,) = scan(tmp_path / "in").volumes
        case = add_series(study, tmp_path / "in", volume)
        array = np.zeros(case.grid.shape_zyx, np.uint16)
        if not empty:
            array[1:4, 2:9, 2:8] = 1
            array[2, 4:6, 4:6] = 0
            array[1:3, 2:5, 8:10] = 9
        study.annotate(case.id, array, plane="axial", indices=range(5))
        return study

    return make


def _series(
    folder: Path,
    *,
    n: int = 5,
    modality: str = "CT",
    heights: Sequence[float] | None = None,
    positions: Sequence[Sequence[float]] | None = None,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: tuple[float, float] = (1.5, 1.25),
    values: Callable[[np.ndarray], np.ndarray] | None = None,
    change: Callable[[Dataset, int], None] = lambda dataset, k: None,
    key: str = "a",
    prefix: str = "slice",
) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    if positions is None:
        steps = np.arange(n) * 2.5 if heights is None else np.array(heights)
        positions = np.array([-20.0, 30.0, 100.0]) + steps[:, None] * np.cross(row, column)
    paths = []
    for k, position in enumerate(positions):
        dataset = _slice(key, k, modality, folder / f"{prefix}{k}.dcm")
        dataset.ImagePositionPatient = [round(float(v), 6) for v in position]
        dataset.ImageOrientationPatient = [round(float(v), 8) for v in orientation]
        dataset.PixelSpacing = list(spacing)
        y, x = np.mgrid[:12, :10]
        world = np.asarray(position) + (
            y[..., None] * spacing[0] * column + x[..., None] * spacing[1] * row
        )
        grey = (values or _grey)(world)
        offset = 1024 if modality == "CT" else 0
        dataset.PixelData = np.rint(grey + offset).astype("<i2").tobytes()
        change(dataset, k)
        dataset.save_as(folder / f"{prefix}{k}.dcm", enforce_file_format=True)
        paths.append(folder / f"{prefix}{k}.dcm")
    return paths


def _grey(world: np.ndarray) -> np.ndarray:
    """Differs at every point and looks like CT: from air to bone."""
    return world @ np.array([10.0, 3.0, 7.0]) - 1000.0


def _slice(key: str, k: int, modality: str, path: Path) -> FileDataset:
    dataset = FileDataset(str(path), {}, preamble=b"\0" * 128)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = _CLASSES.get(modality, _CLASSES["CT"])
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[key, str(k)])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", key])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    dataset.PositionReferenceIndicator = ""
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "MRN-0815"
    dataset.PatientBirthDate = "19500101"
    dataset.PatientSex = "F"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = (
        "20260102"
    )
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = (
        "101112"
    )
    dataset.StudyID = "1"
    dataset.AccessionNumber = "A1"
    dataset.ReferringPhysicianName = "Who^Doctor"
    dataset.Manufacturer = "Nobody"
    dataset.ManufacturerModelName = "Phantom"
    dataset.Modality = modality
    dataset.SeriesNumber = 7
    dataset.SeriesDescription = "phantom of Jane"
    dataset.InstanceNumber = k + 1
    dataset.AcquisitionNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SliceThickness = 2.5
    dataset.KVP = 120
    dataset.PatientPosition = "HFS"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = 12, 10
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    if modality == "CT":
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    return dataset
