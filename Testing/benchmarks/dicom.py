"""DICOM series in and out, against the tags, SimpleITK's reader and other programs.

    python Testing/benchmarks/dicom.py series --data /path/to/dicom --out series.json
    python Testing/benchmarks/dicom.py scan --files 10000
    python Testing/benchmarks/dicom.py objects --data /path/to/dicom --dcmqi segimage2itkimage

`series` reads every series below a folder and every file that pydicom is tested with; `scan`
times a large folder; `objects` writes SEG and RTSTRUCT of every series, validates them with
dciodvfy and dcentvfy, and has another program read the SEG. `dicom_fuzz.py` has the mutations.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from semiseg.dicom.geometry import Layout, lay_out
from semiseg.dicom.loading import Loaded, load
from semiseg.dicom.pixels import OpenFile
from semiseg.dicom.scan import scan
from semiseg.dicom.series import Volume
from semiseg.dicom.sources import FolderSource
from semiseg.errors import ImageError
from semiseg.export import export_study
from semiseg.images.grid import Grid
from semiseg.images.intensity import guess_modality
from semiseg.images.labels import place_on
from semiseg.images.reading import Image, to_sitk
from semiseg.importing import add_series, read_label_for
from semiseg.pacs import DicomOptions
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("series", "scan", "objects"))
    parser.add_argument("--data", type=Path, help="folder with series in sub-folders")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--dcmqi", default="segimage2itkimage", help="dcmqi's SEG reader")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    warnings.simplefilter("ignore")
    if options.what == "scan":
        rows = [time_scan(options.files)]
    elif options.what == "series":
        rows = series_rows(options.data) + test_file_rows()
    else:
        rows = object_rows(options.data, options.dcmqi)
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


def series_rows(data: Path | None) -> list[Row]:
    """Each volume below `data`: geometry and voxels against the tags and SimpleITK."""
    if data is None:
        return []
    return [row for folder in _folders(data) for row in _rows_of(folder)]


def _folders(data: Path) -> list[Path]:
    found = {path.parent for path in data.rglob("*") if path.is_file() and path.parent != data}
    return sorted(found)


def _rows_of(folder: Path) -> list[Row]:
    found = scan(folder)
    rows = [_row(folder, volume) for volume in found.volumes]
    for reason, count in found.reasons.items():
        rows.append({"series": folder.name, "files": count, "left out": reason})
    return rows


def _row(folder: Path, volume: Volume) -> Row:
    row: Row = {"series": folder.name, "slices": len(volume.frames)}
    try:
        start = time.monotonic()
        loaded = load(folder, volume)
    except ImageError as error:
        return row | {"refused": str(error)}
    row["seconds"] = round(time.monotonic() - start, 2)
    guess = guess_modality(
        Image(
            array=loaded.array.astype(np.float32),
            grid=loaded.grid,
            modality_tag=loaded.modality_tag,
        )
    )
    row |= {"tag": loaded.modality_tag, "taken for": guess.modality}
    row["size"] = " x ".join(map(str, loaded.grid.size_xyz))
    row["tags_mm"] = _against_tags(folder, volume, loaded)
    if not loaded.reference.exact:
        row["picture_mm"] = _picture_shift_mm(folder, volume, loaded)
    row |= _against_sitk(folder, loaded)
    row["notes"] = "; ".join(loaded.notes)
    return row


def _against_tags(folder: Path, volume: Volume, loaded: Loaded) -> float:
    """Largest distance, in mm, of a slice's corner from where its own tags put it.

    Where the volume was resampled: of the places in the new grid that the slices were put to.
    """
    worst = 0.0
    layout = lay_out(volume.frames)
    for k, (file, frame) in enumerate(loaded.reference.slices):
        tags = dcmread(folder / loaded.reference.files[file].name, stop_before_pixels=True)
        place, turn, (down, across) = _tags_of(tags, frame)
        corner = place + turn[:3] * across * (tags.Columns - 1) + turn[3:] * down * (tags.Rows - 1)
        first = np.array([*layout.shifts_px[k], layout.heights[k]])
        last = first + np.array([tags.Columns - 1, tags.Rows - 1, 0])
        off = loaded.grid.to_world(np.array([first, last])) - (place, corner)
        worst = max(worst, float(np.linalg.norm(off, axis=1).max()))
    return round(worst, 5)


def _tags_of(tags: Dataset, frame: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Position, orientation and spacing as the file states them, for one frame."""
    position, orientation, measures = tags, tags, tags
    if "PerFrameFunctionalGroupsSequence" in tags:
        groups = (
            tags.PerFrameFunctionalGroupsSequence[frame],
            tags.SharedFunctionalGroupsSequence[0],
        )
        names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        position, orientation, measures = (
            next(group[name][0] for group in groups if name in group) for name in names
        )
    down, across = (float(v) for v in measures.PixelSpacing)
    place = np.array([float(v) for v in position.ImagePositionPatient])
    return place, np.array([float(v) for v in orientation.ImageOrientationPatient]), (down, across)


def _picture_shift_mm(folder: Path, volume: Volume, loaded: Loaded) -> float:
    """How far pictures in a resampled volume lie from the slices they were made of, in plane.

    Slices that coincide with planes of the grid are sampled where their tags put them, moved by
    up to a pixel; the parabola through the errors has its lowest point at the true offset.
    """
    layout = lay_out(volume.frames)
    source = [volume.frames[index] for index in layout.order]
    image = to_sitk(loaded.array.astype(np.float32), loaded.grid)
    worst = 0.0
    for k, frame in enumerate(source):
        if abs(layout.heights[k] - round(layout.heights[k])) > 0.03:
            continue
        low = float(loaded.array.min())
        stored = OpenFile(FolderSource(folder), frame.name).slice(frame).values
        values = np.maximum(np.nan_to_num(stored, nan=low), low)
        for axis in (0, 1):
            error = [
                _misfit(image, loaded, layout, k, values, (axis, offset))
                for offset in (-1.0, 0.0, 1.0)
            ]
            curve = error[0] - 2 * error[1] + error[2]
            pixels = 0.5 * (error[0] - error[2]) / curve if curve > 0 else 0.0
            worst = max(worst, abs(pixels) * loaded.grid.spacing_mm_xyz[axis])
    return round(worst, 4)


def _misfit(
    image: sitk.Image,
    loaded: Loaded,
    layout: Layout,
    k: int,
    values: np.ndarray,
    move: tuple[int, float],
) -> float:
    """Mean squared difference of a slice and the volume's values at its moved pixels."""
    start = np.array([*layout.shifts_px[k], round(layout.heights[k])])
    start[move[0]] += move[1]
    x, y, z = loaded.grid.spacing_mm_xyz
    target = Grid(
        size_xyz=(values.shape[1], values.shape[0], 1),
        spacing_mm_xyz=(x, y, z),
        origin_mm_lps=tuple(loaded.grid.to_world(start)),
        direction=loaded.grid.direction,
    )
    like = to_sitk(values[None].astype(np.float32), target)
    moved = sitk.Resample(image, like, sitk.Transform(), sitk.sitkLinear, float(values.min()))
    return float(np.mean((sitk.GetArrayFromImage(moved)[0] - values) ** 2))


def _against_sitk(folder: Path, loaded: Loaded) -> Row:
    """How far SimpleITK's reader is off in mm, and whether its voxels are the same."""
    names = [str(folder / loaded.reference.files[file].name) for file, _ in loaded.reference.slices]
    if len(set(names)) < len(names):
        return {"sitk_mm": "multi-frame"}
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    try:
        other = reader.Execute()
    except RuntimeError as error:
        return {"sitk_mm": f"cannot: {str(error).splitlines()[0][:60]}"}
    if not loaded.reference.exact:
        return {"sitk_mm": "resampled here, stretched there"}
    last = tuple(int(n) - 1 for n in other.GetSize())
    ours = loaded.grid.to_world(np.array([[0, 0, 0], last], dtype=float))
    theirs = [other.TransformIndexToPhysicalPoint(p) for p in ((0, 0, 0), last)]
    off = float(np.abs(ours - np.array(theirs)).max())
    array = sitk.GetArrayFromImage(other)
    same = array.shape == loaded.array.shape
    differing = int((array != loaded.array).sum()) if same else -1
    return {"sitk_mm": round(off, 5), "voxels_differing": differing}


def test_file_rows() -> list[Row]:
    """Every file that pydicom is tested with, each alone in a folder; and its folders."""
    rows: list[Row] = []
    for path in sorted(map(Path, get_testdata_files())):
        if not path.is_file():
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copy(path, folder / path.name)
            rows += [row | {"series": path.name} for row in _rows_of(folder)]
    top = next(Path(p) for p in get_testdata_files() if Path(p).name == "dicomdirtests")
    for folder in _folders(top) if top.is_dir() else ():
        rows += [row for row in _rows_of(folder) if "left out" not in row]
    return rows


def time_scan(files: int) -> Row:
    """Seconds and peak memory of a scan of `files` slices in ten series."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for series in range(10):
            (folder / str(series)).mkdir()
            uid = generate_uid()
            for k in range(files // 10):
                _small(folder / str(series) / f"{k}.dcm", uid, k)
        peak, stop = [0], threading.Event()
        before = psutil.Process().memory_info().rss
        watcher = threading.Thread(target=_watch, args=(peak, stop))
        watcher.start()
        start, cpu = time.monotonic(), time.process_time()
        found = scan(folder)
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        stop.set()
        watcher.join()
    return {
        "files": found.n_files,
        "volumes": len(found.volumes),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "memory_growth_mb": round((peak[0] - before) / 2**20, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "python": sys.version.split()[0],
    }


def _watch(peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(0.05):
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)


def _small(path: Path, series: str, k: int) -> None:
    dataset = dcmread(str(next(p for p in _CT)))
    dataset.SeriesInstanceUID = series
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{series}.{k}"[-60:]
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = [0, 0, 1.5 * k]
    dataset.save_as(path)


_CT = [path for path in get_testdata_files("CT_small.dcm") if path.endswith("CT_small.dcm")]


def object_rows(data: Path | None, dcmqi: str) -> list[Row]:
    """SEG and RTSTRUCT of every series: round trip, validators, another program's reading."""
    rows: list[Row] = []
    if data is None:
        return rows
    with tempfile.TemporaryDirectory() as name:
        study = Study.create(
            Path(name) / "study",
            name="objects",
            protocol=Protocol((common_structure("liver", 1), common_structure("kidney_left", 2))),
        )
        for folder in _folders(data):
            for volume in scan(folder).volumes:
                rows += _objects(study, folder, volume, dcmqi)
    return rows


def _objects(study: Study, folder: Path, volume: Volume, dcmqi: str) -> list[Row]:
    try:
        case = add_series(study, folder, volume)
    except ImageError as error:
        return [{"series": folder.name, "refused": str(error)}]
    z, y, x = np.indices(case.grid.shape_zyx) / np.array(case.grid.shape_zyx)[:, None, None, None]
    ball = (z - 0.5) ** 2 + (y - 0.45) ** 2 + (x - 0.4) ** 2
    array = np.select([ball < 0.01, ball < 0.06, (x > 0.8) & (y > 0.8) & (z < 0.3)], [0, 1, 2])
    study.annotate(case.id, array.astype(np.uint16), plane="axial", indices=[0])
    rows = []
    for kind in ("dicom-seg", "rtstruct"):
        out = study.folder.parent / f"{case.id}-{kind}"
        row: Row = {"series": folder.name, "object": kind}
        start = time.monotonic()
        try:
            paths = export_study(
                study, out, "label", kind, [case.id], dicom=DicomOptions(identity="keep")
            )
        except ImageError as error:
            rows.append(row | {"refused": str(error)})
            continue
        path = next(p for p in paths if p.suffix == ".dcm")
        back = place_on(read_label_for(study, case.id, path), case.grid)
        row |= {
            "seconds": round(time.monotonic() - start, 2),
            "kb": path.stat().st_size // 1024,
            "voxels_differing": int((back.array != array).sum()),
            "dciodvfy_errors": _errors(["dciodvfy", "-new", str(path)]),
            "dcentvfy_errors": _errors(["dcentvfy", *_sources(folder, volume), str(path)]),
        }
        if kind == "dicom-seg":
            row["dcmqi_differing"] = _dcmqi(dcmqi, path, array, case.grid.to_sitk_header)
        rows.append(row)
    return rows


def _sources(folder: Path, volume: Volume) -> list[str]:
    return [str(folder / frame.name) for frame in volume.frames]


def _errors(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in (said.stderr + said.stdout).splitlines() if "Error" in line]
    return "0" if not lines else f"{len(lines)}: {lines[0][:150]}"


def _dcmqi(program: str, path: Path, array: np.ndarray, header: Any) -> str:
    """Voxels in which dcmqi's reading, brought to the image's grid, differs."""
    if shutil.which(program) is None:
        return "not installed"
    out = path.parent / "dcmqi"
    out.mkdir()
    command = [program, "--inputDICOM", str(path), "--outputDirectory", str(out)]
    said = subprocess.run([*command, "-t", "nrrd"], capture_output=True, text=True, check=False)
    files = sorted(out.glob("*.nrrd"))
    if not files:
        return f"failed: {said.stderr[-100:]}"
    grid = header(sitk.GetImageFromArray(array.astype(np.uint8)))
    found = np.zeros(array.shape, np.uint8)
    for number, file in enumerate(files, 1):
        moved = sitk.Resample(
            sitk.ReadImage(str(file)), grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0
        )
        found[sitk.GetArrayFromImage(moved) > 0] = number
    return str(int((found != array).sum()))


if __name__ == "__main__":
    main()
