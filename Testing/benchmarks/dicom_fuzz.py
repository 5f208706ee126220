"""Mutated image files: every one must load or be refused in a sentence, soon, without a crash.

Each mutation is read in a child process; a child that dies or takes longer than 5 s is a failure,
as is any exception that is not one of ours.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from semiseg.dicom.label_files import read_dicom_label
from semiseg.dicom.loading import load
from semiseg.dicom.makers import HUMAN, SegmentSpec, Term
from semiseg.dicom.originals import originals
from semiseg.dicom.rtstruct_writing import make_rtstruct
from semiseg.dicom.scan import scan
from semiseg.dicom.seg_writing import make_seg
from semiseg.dicom.sources import is_dicom
from semiseg.errors import SemiSegError
from semiseg.images.grid import Grid
from semiseg.images.reading import read_image

LIMIT_S = 5.0
GRID = Grid(size_xyz=(5, 6, 3), spacing_mm_xyz=(0.8, 0.7, 3.0), origin_mm_lps=(1.5, -2.5, 0.0))
HEADER_BYTES = {
    "dicom": 1400,
    "implicit": 1400,
    "rle": 1400,
    "jpeg2000": 12_000,
    "seg": 6000,
    "rtstruct": 4000,
    "nrrd": 420,
    "nii": 352,
    "mha": 330,
}
DICOM = ("dicom", "implicit", "rle", "jpeg2000", "seg", "rtstruct")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000, help="mutations in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), options.n, options.seed)
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def run(folder: Path, n: int, seed: int) -> dict[str, object]:
    """Outcomes of `n` mutations, shared out over the kinds of files."""
    good = make_files(folder / "good")
    rng = np.random.default_rng(seed)
    work = folder / "work"
    work.mkdir()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest = 0.0
    reader = Reader()
    kinds = list(good)
    for number in range(n):
        kind = kinds[number % len(kinds)]
        target = work / f"case{number}"
        target.mkdir()
        name = mutate(kind, good[kind], target, rng)
        outcome, seconds = reader.read(target / name if kind in SINGLE else target)
        slowest = max(slowest, seconds)
        outcomes[f"{kind}: {outcome.split(':')[0]}"] += 1
        if outcome.startswith("FAILURE"):
            failures.append(f"{number} {kind}: {outcome}")
        outside = {path.name for path in work.iterdir()} - {target.name}
        if outside or {path.name for path in folder.iterdir()} != {"good", "work"}:
            failures.append(f"{number} {kind}: wrote {outside}")
        shutil.rmtree(target)
    reader.close()
    return {
        "mutations": n,
        "seed": seed,
        "outcomes": dict(sorted(outcomes.items())),
        "failures": failures,
        "slowest_s": round(slowest, 2),
    }


SINGLE = ("nrrd", "nii", "mha", "seg", "rtstruct")


def make_files(folder: Path) -> dict[str, list[Path]]:
    """Small sound files of each kind."""
    folder.mkdir()
    made: dict[str, list[Path]] = {}
    syntaxes = {"dicom": ExplicitVRLittleEndian, "implicit": ImplicitVRLittleEndian}
    for kind in ("dicom", "implicit", "rle"):
        (folder / kind).mkdir()
        made[kind] = []
        for k in range(3):
            dataset = _slice(k, syntaxes.get(kind, ExplicitVRLittleEndian))
            if kind == "rle":
                dataset.compress(RLELossless)
            path = folder / kind / f"{k}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            made[kind].append(path)
    made["jpeg2000"] = _jpeg2000(folder / "jpeg2000")
    made |= _objects(folder, made["dicom"])
    image = sitk.GetImageFromArray(np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5))
    for suffix in ("nrrd", "nii", "mha"):
        path = folder / f"a.{suffix}"
        sitk.WriteImage(image, str(path))
        made[suffix] = [path]
    return made


def _jpeg2000(folder: Path) -> list[Path]:
    """Three slices of a real packed file."""
    folder.mkdir()
    paths = []
    for k in range(3):
        dataset = dcmread(str(get_testdata_file("MR_small_jp2klossless.dcm")))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        dataset.ImagePositionPatient = [0, 0, 3 * k]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.save_as(folder / f"{k}.dcm")
        paths.append(folder / f"{k}.dcm")
    return paths


def _objects(folder: Path, series: list[Path]) -> dict[str, list[Path]]:
    """A SEG and an RTSTRUCT of the series."""
    (volume,) = scan(series[0].parent).volumes
    reference = load(series[0].parent, volume).reference
    spec = SegmentSpec(
        id=1,
        name="liver",
        color=(200, 100, 50),
        category=Term("123037004", "SCT", "Anatomical Structure"),
        type=Term("10200004", "SCT", "Liver"),
        modifier=None,
        maker=HUMAN,
        tracking_uid="2.25.7",
    )
    array = np.zeros(reference.grid.shape_zyx, np.uint16)
    array[:, 1:4, 1:3] = 1
    made = {}
    for kind, make in (("seg", make_seg), ("rtstruct", make_rtstruct)):
        path = folder / f"{kind}.dcm"
        make(array, [spec], reference, originals(reference)).save_as(path)
        made[kind] = [path]
    return made


def _slice(k: int, syntax: str) -> FileDataset:
    dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = f"1.2.3.{k + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.4", "1.2.5"
    dataset.FrameOfReferenceUID = "1.2.6"
    dataset.PatientID, dataset.PatientName = "id", "name"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, k + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [1.5, -2.5, 3.0 * k]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.7, 0.8]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 6, 5, 1
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.3", "1.2.9"
    dataset.ReferencedImageSequence = [item]
    dataset.PixelData = np.arange(30 * k, 30 * k + 30, dtype="<i2").tobytes()
    return dataset


def mutate(kind: str, files: list[Path], target: Path, rng: np.random.Generator) -> str:
    """Copies the files with one of them changed; its name."""
    for path in files:
        shutil.copy(path, target)
    path = files[int(rng.integers(len(files)))]
    content = bytearray(path.read_bytes())
    first = 132 if kind in DICOM else 0
    last = min(HEADER_BYTES[kind], len(content))
    for _ in range(int(rng.integers(1, 4))):
        change = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        content = change(content, first, max(min(last, len(content)), first + 1), rng)
    (target / path.name).write_bytes(bytes(content))
    return path.name


Change = Callable[[bytearray, int, int, np.random.Generator], bytearray]


def _flip(content: bytearray, first: int, last: int, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(first, last, size=int(rng.integers(1, 9))):
        if place < len(content):
            content[place] ^= 1 << int(rng.integers(8))
    return content


def _extreme(content: bytearray, first: int, last: int, rng: np.random.Generator) -> bytearray:
    value = [0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF][int(rng.integers(6))]
    place = int(rng.integers(first, last))
    packed = struct.pack("<I", value)[: int(rng.choice([2, 4]))]
    content[place : place + len(packed)] = packed
    return content


def _cut(content: bytearray, first: int, last: int, rng: np.random.Generator) -> bytearray:
    return content[: int(rng.integers(first, len(content) + 1))]


def _drop(content: bytearray, first: int, last: int, rng: np.random.Generator) -> bytearray:
    place = int(rng.integers(first, last))
    return content[:place] + content[place + int(rng.integers(1, 40)) :]


def _insert(content: bytearray, first: int, last: int, rng: np.random.Generator) -> bytearray:
    place = int(rng.integers(first, last))
    return content[:place] + bytearray(rng.bytes(int(rng.integers(1, 40)))) + content[place:]


def _repeat(content: bytearray, first: int, last: int, rng: np.random.Generator) -> bytearray:
    place, size = int(rng.integers(first, last)), int(rng.integers(4, 60))
    return content[: place + size] + content[place : place + size] + content[place + size :]


def _digits(content: bytearray, first: int, last: int, rng: np.random.Generator) -> bytearray:
    """Numbers written as text become others: signs, exponents, not-a-number."""
    places = [p for p in range(first, min(last, len(content))) if 48 <= content[p] <= 57]
    if places:
        word = [b"9", b"-", b"e", b"nan", b"inf", b".", b"0", b"\\"][int(rng.integers(8))]
        place = places[int(rng.integers(len(places)))]
        content[place : place + len(word)] = word
    return content


MUTATIONS: tuple[Change, ...] = (_flip, _extreme, _cut, _drop, _insert, _repeat, _digits)


class Reader:
    """A child process that reads one input after the other; a new one when it dies or hangs."""

    def __init__(self) -> None:
        self._child: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def read(self, path: Path) -> tuple[str, float]:
        """What came of `path`, and after how many seconds."""
        if self._child is None or not self._child.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._child = context.Process(target=serve, args=(other,), daemon=True)
            self._child.start()
            other.close()
            self._pipe.recv()
        assert self._pipe is not None
        start = time.monotonic()
        self._pipe.send(str(path))
        try:
            answer = str(self._pipe.recv()) if self._pipe.poll(LIMIT_S) else "FAILURE: hangs"
        except EOFError:
            answer = "FAILURE: crashed"
        if answer.startswith("FAILURE: "):
            self.close()
        return answer, time.monotonic() - start

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None


def serve(pipe: Connection) -> None:
    """The child: reads what it is told to and says what came of it."""
    pipe.send("ready")
    while True:
        path = Path(pipe.recv())
        try:
            pipe.send(read_one(path))
        except SemiSegError as error:
            pipe.send(f"refused: {error}")
        except BaseException as error:
            pipe.send(f"FAILURE {type(error).__name__}: {error}")


def read_one(path: Path) -> str:
    """Reads a folder of DICOM files or a single image."""
    if path.is_file() and is_dicom(path):
        read_dicom_label(path, GRID)
        return "loaded: label"
    if path.is_file():
        read_image(path)
        return "loaded: image"
    found = scan(path)
    json.dump(found.to_json(), io.StringIO())
    told = "left out: all" if not found.volumes else "loaded: volume"
    for volume in found.volumes:
        if volume.ready:
            load(path, volume)
        else:
            told = "refused: volume"
    return told


if __name__ == "__main__":
    main()
