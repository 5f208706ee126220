"""A job holds what its work needs and nothing that tells who somebody is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.errors import SchemaError, StudyError
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.remote.address import parse_address
from semiseg.remote.blobs import PART_BYTES, Store, parcels
from semiseg.remote.consent import disclose
from semiseg.remote.manifest import Manifest, Piece
from semiseg.remote.packing import Wish, bare_image, pack
from semiseg.remote.rebuild import rebuild
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study

GRID = Grid(
    size_xyz=(6, 5, 4),
    spacing_mm_xyz=(0.7, 1 / 3, 4.1),
    origin_mm_lps=(-123.456, 7.0, 0.1),
    direction=(0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0),
)
SECRETS = ("Smith", "smith", "Dr-Jones", "secret-folder", "4711")


@pytest.fixture
def named(tmp_path: Path) -> Study:
    """A study that is full of names."""
    import SimpleITK as sitk

    protocol = Protocol((common_structure("liver", 1), common_structure("cyst of Smith", 7)))
    study = Study.create(tmp_path / "secret-folder", name="Smith 4711", protocol=protocol)
    rng = np.random.default_rng(3)
    for number, case_id in enumerate(("Smith-b", "Smith-a")):
        path = tmp_path / f"smith_4711_{number}.nrrd"
        write_image(path, rng.normal(size=GRID.shape_zyx).astype(np.float32), GRID)
        image = sitk.ReadImage(str(path))
        image.SetMetaData("PatientName", "Smith^Anna")
        sitk.WriteImage(image, str(path))
        study.add_case(path, case_id=case_id, patient="Smith, Anna", modality="CT")
    drawn = np.zeros(GRID.shape_zyx, np.uint16)
    drawn[1, 1:3, 1:3], drawn[1, 4, 4] = 1, 7
    study.annotate(
        "Smith-b", drawn, plane="axial", indices=(1,), author="Dr-Jones", note="Smith is worse"
    )
    return study


def test_nothing_that_is_sent_names_anybody(named: Study) -> None:
    for kind in ("propagate", "train"):
        package = pack(named, Wish(kind=kind))
        contents = [package.manifest.to_bytes(), *(p.read_bytes() for p in package.files.values())]
        for content in contents:
            for secret in SECRETS:
                assert secret.encode() not in content
        assert named.id.encode() not in contents[0]
        assert set(package.names.real.values()) >= {"Smith-a", "Smith-b", "cyst of Smith"}


def test_consent_tells_amounts_and_finds_no_name(named: Study) -> None:
    package = pack(named, Wish(kind="propagate"))
    told = disclose(named, package, parse_address("https://cluster.example"))
    assert told.findings == ()
    assert told.files == 6
    assert told.size_bytes == sum(path.stat().st_size for path in package.files.values())
    assert json.dumps(told.to_json())
    open_way = disclose(named, package, parse_address("http://cluster.example"))
    assert "NOT ENCRYPTED" in open_way.lines[0]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_voxels_arrive_to_the_bit_in_their_place(scale: float) -> None:
    values = np.random.default_rng(0).normal(size=GRID.shape_zyx).astype(np.float32) * scale
    if scale > 1:
        values = np.rint(values)
    content = bare_image(values, GRID)
    assert content == bare_image(values, GRID)
    assert (b"type: short" in content) == (scale > 1)


def test_the_same_study_makes_the_same_job_and_a_stroke_another(named: Study) -> None:
    first = pack(named, Wish(kind="propagate")).manifest
    assert pack(Study.open(named.folder), Wish(kind="propagate")).manifest.job_id == first.job_id
    assert pack(named, Wish(kind="propagate", arguments=("--seed", "1"))).manifest != first
    drawn = np.zeros(GRID.shape_zyx, np.uint16)
    named.annotate("Smith-a", drawn, plane="axial", indices=(0,))
    assert pack(named, Wish(kind="propagate")).manifest.job_id != first.job_id
    assert Manifest.from_bytes(first.to_bytes()) == first


def test_only_what_the_work_needs_is_sent(phantom_study: Callable[..., Study]) -> None:
    study = phantom_study(("CT",) * 4, annotated=2, splits=("train", "test", "train", "val"))
    sent = {k: pack(study, Wish(kind=k)).manifest.cases for k in ("propagate", "train")}
    assert [len(cases) for cases in sent.values()] == [4, 3]
    one = pack(study, Wish(kind="propagate", case_ids=("c2",))).manifest.cases
    assert [(case.id, case.asked) for case in one] == [("scan0001", False), ("scan0003", True)]


def test_work_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "empty", name="empty")
    with pytest.raises(StudyError, match="no structures yet"):
        pack(study, Wish(kind="propagate"))
    study.set_protocol(Protocol((common_structure("liver", 1),)))
    with pytest.raises(StudyError, match="no cases yet"):
        pack(study, Wish(kind="propagate"))


def test_the_study_made_there_holds_the_same_labels(named: Study, tmp_path: Path) -> None:
    package = pack(named, Wish(kind="propagate"))
    store = Store(tmp_path / "store")
    pieces = list(package.manifest.pieces.values())
    for number, piece in enumerate(pieces):
        for part in parcels(piece, package.files[piece.sha256]):
            _unpack(part.content, tmp_path / "parts" / str(number))
    assert store.take(pieces, list((tmp_path / "parts").iterdir())) == []
    assert store.missing(pieces) == []
    there = rebuild(package.manifest, store, tmp_path / "there")
    assert list(there.cases) == ["scan0002", "scan0001"]  # added in the study's order
    mine, other = named.label("Smith-b"), there.label("scan0002")
    assert mine is not None
    assert other is not None
    assert np.array_equal(mine.array, other.array)
    assert np.array_equal(mine.origin, other.origin)
    assert np.array_equal(mine.confidence, other.confidence)
    assert mine.ledger == other.ledger
    assert np.array_equal(named.image("Smith-b").array, there.image("scan0002").array)
    assert rebuild(package.manifest, store, tmp_path / "there").id == there.id


def _unpack(content: bytes, folder: Path) -> None:
    from io import BytesIO
    from zipfile import ZipFile

    with ZipFile(BytesIO(content)) as archive:
        archive.extractall(folder)


def test_a_large_file_travels_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semiseg.remote.blobs.PART_BYTES", 1000)
    content = np.random.default_rng(0).bytes(2500)
    (tmp_path / "file").write_bytes(content)
    piece, store = Piece.of(content), Store(tmp_path / "store")
    parts = list(parcels(piece, tmp_path / "file"))
    assert len(parts) == 3
    assert PART_BYTES < 100 * 2**20
    for number, part in enumerate(parts[:2]):
        _unpack(part.content, tmp_path / "parts" / str(number))
    folders = list((tmp_path / "parts").iterdir())
    assert store.take([piece], folders) == []
    assert store.missing([piece]) == [piece]  # a part is not there yet
    _unpack(parts[2].content, folders[0])
    store.take([piece], folders)
    assert store.path(piece).read_bytes() == content
    assert [p.name for p in parcels(piece, tmp_path / "file", attempt=1)] != [p.name for p in parts]


def test_what_nobody_used_for_long_is_swept_from_the_store(tmp_path: Path) -> None:
    import os

    store = Store(tmp_path)
    for name in (b"old", b"new"):
        path = store.path(Piece.of(name))
        path.parent.mkdir(parents=True)
        path.write_bytes(name)
    os.utime(store.path(Piece.of(b"old")), (0, 0))
    store.sweep()
    assert store.missing([Piece.of(b"old"), Piece.of(b"new")]) == [Piece.of(b"old")]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"kind": "rm"},
        {"cases": [{"id": "x"}]},
        {"model": {"files": {"../x": {"sha256": "0" * 64, "size_bytes": 1}}}},
        {"model": {"files": {"x": {"sha256": "../../etc", "size_bytes": 1}}}},
    ],
)
def test_a_strange_description_is_refused(named: Study, change: dict[str, Any]) -> None:
    values = json.loads(pack(named, Wish(kind="train")).manifest.to_bytes())
    with pytest.raises(SchemaError):
        Manifest.from_bytes(json.dumps({**values, **change}).encode())
    with pytest.raises(SchemaError, match="damaged"):
        Manifest.from_bytes(b"{")


def test_a_stand_in_keeps_the_rule_for_a_structure_and_finds_back() -> None:
    from semiseg.cleanup import rule_for
    from semiseg.remote.names import Names, structure_name

    for name in ("liver", "cyst of Smith", "both lungs", "left kidney"):
        stand_in = structure_name(7, rule_for(name))
        assert rule_for(stand_in) == rule_for(name)
        assert Names(real={"structure0007": name}).text(f"{stand_in}: done") == f"{name}: done"


def test_a_model_that_is_sent_names_nobody(named: Study) -> None:
    def write(folder: Path) -> None:
        (folder / "weights.safetensors").write_bytes(b"weights")

    model_id = named.add_model(
        write,
        {
            "method": "supervised",
            "classes": [0, 1, 7],
            "name": "of Smith",
            "names": {"1": "liver", "7": "cyst of Smith"},
            "cases": {"Smith-a": {"patient": "4711"}},
            "study": "Smith 4711",
            "start_from": "secret-folder/smith.zip",
        },
    )
    manifest = pack(named, Wish(kind="predict", model_id=model_id)).manifest
    assert manifest.model is not None
    assert manifest.model.info["method"] == "supervised"
    assert set(manifest.model.info["names"]) == {"1", "7"}  # type: ignore[arg-type]
    for secret in (*SECRETS, named.id):
        assert secret.encode() not in manifest.to_bytes()


def test_a_piece_that_was_cut_short_on_the_clusters_disk_counts_as_missing(tmp_path: Path) -> None:
    store, piece = Store(tmp_path), Piece.of(b"whole")
    path = store.path(piece)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"who")
    assert store.missing([piece]) == [piece]
    path.write_bytes(b"whole")
    assert store.missing([piece]) == []
