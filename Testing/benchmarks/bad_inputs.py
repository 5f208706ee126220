"""Bad input of every kind, the sentence that the user sees, and the proof that nothing was lost.

Each case is one command on a small good study. Before and after, every file of every version of
labels, predictions and models and the study file are hashed: a refused command must leave all of
them as they were, must end with a documented exit code and must not show a traceback.

    python Testing/benchmarks/bad_inputs.py --out bad_inputs.json
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from phantom import SHAPE_ZYX, make_phantoms
from records import circumstances, save

KEPT = ("study.json", "cases/*/labels/*/*", "cases/*/predictions/*/*", "models/*/*")
LOCKS: list[object] = []


@dataclass(frozen=True, kw_only=True)
class Bad:
    """`make` prepares the input in a fresh copy of the study and returns the command.

    `fine` says that the input is odd but must be taken in without loss.
    """

    name: str
    make: Callable[[Place], list[str]]
    fine: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one case works: its folder, its copy of the study, the good files."""

    folder: Path
    study: Path
    good: Path

    def add(self, image: Path) -> list[str]:
        return ["study", "add", str(self.study), str(image)]

    def annotate(self, label: Path, *more: str) -> list[str]:
        return ["annotate", str(self.study), "ct", str(label), *(more or ("--done", "10"))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="JSON file")
    parser.add_argument("--quick", action="store_true", help="the first ten")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semiseg-bad-") as top:
        good = make_good(Path(top))
        rows = [try_one(bad, Path(top), good) for bad in (CASES[:10] if given.quick else CASES)]
    save(Path(given.out), {"settings": circumstances(), "rows": rows})
    print(table(rows))
    return 0 if all(row["right"] for row in rows) else 1


def make_good(top: Path) -> Path:
    good = top / "good"
    good.mkdir()
    make_phantoms(good)
    study = good / "study"
    semiseg("study", "new", str(study), "--structures", "1=liver,2=spleen", check=True)
    semiseg("study", "add", str(study), str(good / "ct.nii.gz"), "--modality", "CT", check=True)
    label = str(good / "ct_label.nii.gz")
    semiseg("annotate", str(study), "ct", label, "--done", "15,20,25", check=True)
    return good


def try_one(bad: Bad, top: Path, good: Path) -> dict:
    folder = Path(tempfile.mkdtemp(dir=top))
    study = folder / "study"
    shutil.copytree(good / "study", study)
    before = hashes(study)
    try:
        arguments = bad.make(Place(folder=folder, study=study, good=good))
    except ImpossibleError as error:
        return row(bad, sentence=f"not tried: {error}", code=None, lost=0, right=True)
    prepared = hashes(study)
    done = semiseg(*arguments)
    unmount(folder)
    changed_by_us = {name for name in before if prepared.get(name) != before[name]}
    after = hashes(study)
    lost = [n for n in before if n not in changed_by_us and after.get(n) != before[n]]
    lost = [] if bad.fine else lost
    text = (done.stderr + done.stdout).replace(str(folder), "").replace(str(good), "").strip()
    right = "Traceback" not in text and not lost and done.returncode != 1
    right = right and (done.returncode == 0) == bad.fine
    print(f"{bad.name}: {done.returncode} {text[:160]}", file=sys.stderr, flush=True)
    return row(bad, sentence=text[:600], code=done.returncode, lost=len(lost), right=right)


def row(bad: Bad, *, sentence: str, code: int | None, lost: int, right: bool) -> dict:
    words = " ".join(sentence.split())
    return {"case": bad.name, "sentence": words, "exit_code": code, "lost": lost, "right": right}


def semiseg(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semiseg", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=300)


def hashes(study: Path) -> dict[str, str]:
    found = {}
    for path in (path for pattern in KEPT for path in sorted(study.glob(pattern))):
        if path.is_file() and not path.name.startswith("."):
            found[str(path.relative_to(study))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class ImpossibleError(Exception):
    """This machine cannot make the case."""


# --- the inputs -------------------------------------------------------------------------------


def array_file(place: Place, name: str, array: np.ndarray, *, vector: bool = False) -> Path:
    image = sitk.GetImageFromArray(array, isVector=vector)
    path = place.folder / name
    sitk.WriteImage(image, str(path))
    return path


def patched(place: Place, name: str, edit: Callable[[bytearray], None]) -> Path:
    """The good CT, uncompressed, with bytes of its NIfTI header edited."""
    raw = bytearray(gzip.decompress((place.good / "ct.nii.gz").read_bytes()))
    edit(raw)
    path = place.folder / name
    path.write_bytes(gzip.compress(bytes(raw)) if name.endswith(".gz") else bytes(raw))
    return path


def poke(offset: int, form: str, *values: float) -> Callable[[bytearray], None]:
    return lambda raw: struct.pack_into(form, raw, offset, *values)


def truncated(place: Place) -> list[str]:
    path = place.folder / "cut.nii.gz"
    path.write_bytes((place.good / "ct.nii.gz").read_bytes()[:9000])
    return place.add(path)


def text_file(place: Place) -> list[str]:
    path = place.folder / "notes.nii.gz"
    path.write_text("this is no image")
    return place.add(path)


def empty_file(place: Place) -> list[str]:
    path = place.folder / "empty.nii.gz"
    path.write_bytes(b"")
    return place.add(path)


def with_nan(place: Place) -> list[str]:
    array = np.random.default_rng(0).normal(size=SHAPE_ZYX).astype(np.float32)
    array[3:9] = np.nan
    return place.add(array_file(place, "nan.nii.gz", array))


def all_nan(place: Place) -> list[str]:
    return place.add(array_file(place, "nan.nii.gz", np.full(SHAPE_ZYX, np.nan, np.float32)))


def constant(place: Place) -> list[str]:
    return place.add(array_file(place, "flat.nii.gz", np.full(SHAPE_ZYX, 7, np.int16)))


def two_d(place: Place) -> list[str]:
    return place.add(
        array_file(place, "flat.nii.gz", np.arange(900, dtype=np.int16).reshape(30, 30))
    )


def single_slice(place: Place) -> list[str]:
    array = np.random.default_rng(0).normal(200, 50, (1, 40, 40)).astype(np.float32)
    return [*place.add(array_file(place, "one.nii.gz", array)), "--modality", "MR"]


def four_d(place: Place) -> list[str]:
    raw = sitk.JoinSeries([sitk.ReadImage(str(place.good / "ct.nii.gz"))] * 3)
    path = place.folder / "series.nii.gz"
    sitk.WriteImage(raw, str(path))
    return place.add(path)


def colour(place: Place) -> list[str]:
    array = np.zeros((20, 20, 20, 3), np.uint8)
    return place.add(array_file(place, "rgb.nrrd", array, vector=True))


def bomb(place: Place) -> list[str]:
    raw = gzip.decompress((place.good / "ct.nii.gz").read_bytes())
    path = place.folder / "bomb.nii.gz"
    with gzip.open(path, "wb") as file:
        file.write(raw)
        for _ in range(200):
            file.write(bytes(10_000_000))
    return place.add(path)


def symlink_loop(place: Place) -> list[str]:
    path = place.folder / "loop.nii.gz"
    path.symlink_to(path)
    return place.add(path)


def folder_as_file(place: Place) -> list[str]:
    path = place.folder / "folder.nii.gz"
    path.mkdir()
    return place.add(path)


def same_again(place: Place) -> list[str]:
    return place.add(place.good / "ct.nii.gz")


def non_ascii(place: Place) -> list[str]:
    path = place.folder / "Bauch übersicht 腹部" / "mein scan.nii.gz"
    path.parent.mkdir()
    shutil.copy(place.good / "mr.nii.gz", path)
    return place.add(path)


def label_map(
    place: Place, edit: Callable[[np.ndarray], np.ndarray], name: str = "l.nii.gz"
) -> Path:
    good = sitk.ReadImage(str(place.good / "ct_label.nii.gz"))
    image = sitk.GetImageFromArray(edit(sitk.GetArrayFromImage(good)))
    if image.GetSize() == good.GetSize():
        image.CopyInformation(good)
    path = place.folder / "edited.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def shifted_label(place: Place) -> list[str]:
    image = sitk.ReadImage(str(place.good / "ct_label.nii.gz"))
    image.SetOrigin([value + 5 for value in image.GetOrigin()])
    path = place.folder / "shifted.nii.gz"
    sitk.WriteImage(image, str(path))
    return place.annotate(path)


def spaced_label(place: Place) -> list[str]:
    image = sitk.ReadImage(str(place.good / "ct_label.nii.gz"))
    image.SetSpacing((3.0, 3.0, 5.0))
    path = place.folder / "spaced.nii.gz"
    sitk.WriteImage(image, str(path))
    return place.annotate(path)


def newer_schema(place: Place) -> list[str]:
    path = place.study / "study.json"
    body = json.loads(path.read_text())
    body["schema_version"] = 999
    path.write_text(json.dumps(body))
    return place.add(place.good / "mr.nii.gz")


def broken_study(place: Place) -> list[str]:
    (place.study / "study.json").write_text('{"schema_version": 2, "na')
    shutil.rmtree(place.study / "backups", ignore_errors=True)
    return ["propagate", str(place.study)]


def missing_image(place: Place) -> list[str]:
    path = next((place.study / "cases").glob("ct/case.json"))
    body = path.read_text().replace("ct.nii.gz", "gone.nii.gz")
    path.write_text(body)
    return ["propagate", str(place.study)]


def changed_image(place: Place) -> list[str]:
    copy = place.folder / "moving.nii.gz"
    shutil.copy(place.good / "mr.nii.gz", copy)
    semiseg(*place.add(copy), check=True)
    shutil.copy(place.good / "ct.nii.gz", copy)
    return ["propagate", str(place.study)]


def nothing_done(place: Place) -> list[str]:
    study = place.folder / "fresh"
    semiseg("study", "new", str(study), "--structures", "1=liver", check=True)
    semiseg("study", "add", str(study), str(place.good / "ct.nii.gz"), check=True)
    return ["propagate", str(study)]


def nothing_to_learn(place: Place) -> list[str]:
    return ["train", *nothing_done(place)[1:], "--steps", "5"]


def no_structures(place: Place) -> list[str]:
    study = place.folder / "fresh"
    semiseg("study", "new", str(study), check=True)
    semiseg("study", "add", str(study), str(place.good / "ct.nii.gz"), check=True)
    return ["annotate", str(study), "ct", str(place.good / "ct_label.nii.gz"), "--done", "all"]


def locked(place: Place) -> list[str]:
    from semiseg.study.study import Study

    held = Study.open(place.study).writing()
    held.__enter__()
    LOCKS.append(held)
    return place.annotate(place.good / "ct_label.nii.gz", "--done", "12")


def small_disk(place: Place, options: str) -> Path:
    disk = place.folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if platform.system() != "Linux" or os.geteuid() != 0:
        raise ImpossibleError("needs a Linux superuser to make a small disk")
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        raise ImpossibleError("this system does not let a small disk be made")
    return disk


def unmount(folder: Path) -> None:
    if (folder / "disk").is_dir():
        subprocess.run(["umount", str(folder / "disk")], capture_output=True, check=False)


def disk_full(place: Place) -> list[str]:
    disk = small_disk(place, "size=300k")
    shutil.copytree(place.study, disk / "study")
    room = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(room - 8192, 0)))
    label = str(place.good / "ct_label.nii.gz")
    return ["annotate", str(disk / "study"), "ct", label, "--done", "12"]


def read_only(place: Place) -> list[str]:
    disk = small_disk(place, "size=2m")
    shutil.copytree(place.study, disk / "study")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=True)
    label = str(place.good / "ct_label.nii.gz")
    return ["annotate", str(disk / "study"), "ct", label, "--done", "12"]


def over_exported(place: Place) -> list[str]:
    target = str(place.folder / "out")
    command = ["export", str(place.study), target, "--what", "label"]
    semiseg(*command, check=True)
    return command


def foreign_model(place: Place) -> list[str]:
    folder = place.study / "models" / "0001"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"method": "somebody-elses"}))
    (folder / "weights.safetensors").write_bytes(b"not tensors")
    return ["predict", str(place.study)]


def gone_reference(place: Place) -> list[str]:
    return ["evaluate", str(place.study), "--reference", "ct=/nowhere.nii.gz", "--what", "label"]


CASES = (
    Bad(name="NIfTI cut short", make=truncated),
    Bad(name="text named .nii.gz", make=text_file),
    Bad(name="file of 0 bytes", make=empty_file),
    Bad(name="some voxels are NaN", make=with_nan, fine=True),
    Bad(name="all voxels are NaN", make=all_nan),
    Bad(name="constant image", make=constant),
    Bad(name="2-D image", make=two_d),
    Bad(name="one slice only", make=single_slice, fine=True),
    Bad(name="4-D series", make=four_d),
    Bad(name="colour image", make=colour),
    Bad(
        name="header claims 32767 voxels a side",
        make=lambda p: p.add(patched(p, "huge.nii.gz", poke(42, "<3h", 32767, 32767, 32767))),
    ),
    Bad(
        name="header claims 20 slices more",
        make=lambda p: p.add(patched(p, "more.nii.gz", poke(46, "<h", SHAPE_ZYX[0] + 20))),
    ),
    Bad(
        name="spacing 0", make=lambda p: p.add(patched(p, "zero.nii.gz", poke(80, "<3f", 0, 0, 0)))
    ),
    Bad(
        name="spacing NaN",
        make=lambda p: p.add(patched(p, "nan.nii.gz", poke(80, "<3f", float("nan"), 3, 4))),
    ),
    Bad(
        name="unknown voxel type",
        make=lambda p: p.add(patched(p, "type.nii.gz", poke(70, "<h", 9999))),
    ),
    Bad(name="zip bomb .nii.gz", make=bomb),
    Bad(name="symlink loop", make=symlink_loop),
    Bad(name="folder named .nii.gz", make=folder_as_file),
    Bad(name="file that is not there", make=lambda p: p.add(p.folder / "gone.nii.gz")),
    Bad(name="file of an unknown kind", make=lambda p: p.add(Path(__file__))),
    Bad(name="the same scan added twice", make=same_again),
    Bad(name="path with spaces, umlauts and Chinese", make=non_ascii, fine=True),
    Bad(
        name="label value that the protocol lacks",
        make=lambda p: p.annotate(label_map(p, lambda a: np.where(a == 2, 77, a).astype(np.uint8))),
    ),
    Bad(
        name="negative label value",
        make=lambda p: p.annotate(label_map(p, lambda a: -a.astype(np.int16))),
    ),
    Bad(
        name="label with fractions",
        make=lambda p: p.annotate(label_map(p, lambda a: a.astype(np.float32) * 0.5)),
    ),
    Bad(
        name="label of another size",
        make=lambda p: p.annotate(label_map(p, lambda a: a[:-3].astype(np.uint8))),
    ),
    Bad(name="label of another origin", make=shifted_label),
    Bad(name="label of another spacing", make=spaced_label),
    Bad(
        name="done slice outside the image",
        make=lambda p: p.annotate(p.good / "ct_label.nii.gz", "--done", "400"),
    ),
    Bad(
        name="no slice said to be done",
        make=lambda p: p.annotate(p.good / "ct_label.nii.gz", "--structures", "liver"),
    ),
    Bad(
        name="unknown structure",
        make=lambda p: p.annotate(
            p.good / "ct_label.nii.gz", "--done", "10", "--structures", "hearts"
        ),
    ),
    Bad(
        name="unknown case",
        make=lambda p: [
            "annotate",
            str(p.study),
            "ct9",
            str(p.good / "ct_label.nii.gz"),
            "--done",
            "10",
        ],
    ),
    Bad(name="protocol without structures", make=no_structures),
    Bad(name="propagate before any slice is done", make=nothing_done),
    Bad(name="train before any slice is done", make=nothing_to_learn),
    Bad(name="predict before any model", make=lambda p: ["predict", str(p.study)]),
    Bad(name="a model of somebody else", make=foreign_model),
    Bad(name="unknown method", make=lambda p: ["train", str(p.study), "--method", "magic"]),
    Bad(name="minutes below 0", make=lambda p: ["train", str(p.study), "--minutes", "-3"]),
    Bad(
        name="a GPU where there is none",
        make=lambda p: ["train", str(p.study), "--steps", "2", "--device", "cuda"],
    ),
    Bad(name="study of a newer version", make=newer_schema),
    Bad(name="study.json cut short, no backup", make=broken_study),
    Bad(name="a case's image is missing", make=missing_image),
    Bad(name="a case's image has changed", make=changed_image),
    Bad(name="folder that is no study", make=lambda p: ["propagate", str(p.folder)]),
    Bad(name="another process is writing", make=locked),
    Bad(name="disk full", make=disk_full),
    Bad(name="read-only disk", make=read_only),
    Bad(name="export over existing files", make=over_exported),
    Bad(name="reference that is not there", make=gone_reference),
)


def table(rows: list[dict]) -> str:
    lines = ["| input | what the user sees | exit code | lost |", "|---|---|---|---|"]
    for row in rows:
        sentence = row["sentence"].replace("|", "/") or "(taken in, nothing to say)"
        flag = "" if row["right"] else " **wrong**"
        lines.append(f"| {row['case']} | {sentence} | {row['exit_code']}{flag} | {row['lost']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
