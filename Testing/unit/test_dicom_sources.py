"""Folders and ZIP files of DICOM files: read in place, dangerous ones refused."""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiseg.dicom import sources
from semiseg.dicom.loading import load
from semiseg.dicom.scan import scan
from semiseg.dicom.sources import FolderSource, open_source
from semiseg.errors import ImageError
from semiseg.events import Event

SeriesMaker = Callable[..., list[Path]]


def _zip(target: Path, files: dict[str, bytes], **options: int) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def test_zip_gives_the_same_volume_as_its_folder(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    paths = dicom_series(tmp_path / "folder")
    archive = _zip(tmp_path / "all.zip", {f"DICOM/{p.name}": p.read_bytes() for p in paths})
    before = sorted(tmp_path.rglob("*"))
    (one,), (other,) = scan(tmp_path / "folder").volumes, scan(archive).volumes
    packed = load(archive, other)
    assert np.array_equal(load(tmp_path / "folder", one).array, packed.array)
    assert packed.reference.source_kind == "zip"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["../evil.dcm", "/etc/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:\\evil.dcm"]
)
def test_zip_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="leads out of the archive"):
        scan(_zip(tmp_path / "evil.zip", {name: b"x"}))
    assert [path.name for path in tmp_path.iterdir()] == ["evil.zip"]


def test_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ImageError, match="is a link"):
        scan(tmp_path / "link.zip")


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"a.dcm": b"x" * 100})
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="is encrypted"):
        scan(path)


def test_swelling_zip_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = _zip(tmp_path / "bomb.zip", {"a.dcm": bytes(10_000)})
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="announces more than it can hold"):
        scan(path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("LARGEST_FILE", 5, "is larger than"), ("_MOST_MEMBERS", 0, "would unpack to 1 files")],
)
def test_zip_beyond_the_limits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int, reason: str
) -> None:
    monkeypatch.setattr(sources, name, value)
    with pytest.raises(ImageError, match=reason):
        scan(_zip(tmp_path / "a.zip", {"a.dcm": b"123456"}))


def test_damaged_zip_is_told(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    paths = dicom_series(tmp_path / "folder", n=2)
    path = _zip(tmp_path / "a.zip", {p.name: p.read_bytes() for p in paths})
    content = bytearray(path.read_bytes())
    content[80:120] = bytes(40)
    path.write_bytes(bytes(content))
    assert "is damaged" in " ".join(scan(path).reasons)
    path.write_bytes(bytes(content[:-8]))
    with pytest.raises(ImageError, match="neither a folder nor a ZIP"):
        scan(path)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=str
)
def test_damaged_member_is_told_however_it_is_packed(tmp_path: Path, method: int) -> None:
    path, content = tmp_path / "a.zip", np.random.default_rng(0).bytes(500)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a", content)
    whole = path.read_bytes()
    for place in range(60, 360, 15):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with closing(open_source(path)) as source, pytest.raises(ImageError, match="is damaged"):
            source.read("a")


class _Scratched(io.BytesIO):
    """A file on a disc that can be opened but not be read."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_file_that_cannot_be_read_does_not_stop_a_scan_and_is_told_on_loading(
    tmp_path: Path, dicom_series: SeriesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = dicom_series(tmp_path, n=3)[-1]
    volume = scan(tmp_path).volumes[0]
    plain = Path.open

    def opened(path: Path, *given: Any, **named: Any) -> Any:
        return _Scratched() if path == last else plain(path, *given, **named)

    monkeypatch.setattr(Path, "open", opened)
    found = scan(tmp_path)
    assert [(s.name, "cannot be read" in s.reason) for s in found.skipped] == [(last.name, True)]
    with pytest.raises(ImageError, match=f"{last.name} cannot be read: Input/output error"):
        load(tmp_path, volume)


def test_zip_whose_end_is_whole_but_nothing_else_is_told(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"b")
    broken = stream.getvalue()
    place = broken.index(b"PK\x01\x02")
    path = tmp_path / "a.zip"
    path.write_bytes(broken[:place] + b"XX" + broken[place + 2 :])
    with pytest.raises(ImageError, match="not a readable ZIP"):
        scan(path)


def test_member_that_is_not_there_is_told(tmp_path: Path) -> None:
    with (
        closing(open_source(_zip(tmp_path / "a.zip", {"d/": b"", "a": b"b"}))) as source,
        pytest.raises(ImageError, match="has no file"),
    ):
        source.read("c")


def test_what_is_neither_folder_nor_zip_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for name, reason in (("a.txt", "neither"), ("b", "not there")):
        with pytest.raises(ImageError, match=reason):
            open_source(tmp_path / name)


def test_folder_never_reads_outside_of_itself(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    for name in ("../x", "/etc/passwd"):
        with pytest.raises(ImageError, match="leads out"):
            source.read(name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_pipes_dead_links_and_large_files_are_left_out_at_once(
    tmp_path: Path, dicom_series: SeriesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom_series(tmp_path, n=2)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "large").write_bytes(bytes(9000))
    monkeypatch.setattr(sources, "LARGEST_FILE", 8000)
    found = scan(tmp_path)
    assert len(found.volumes) == 1
    told = " ".join(found.reasons)
    assert all(word in told for word in ("not an ordinary file", "cannot be read", "larger than"))


def test_scan_tells_its_progress(tmp_path: Path, dicom_series: SeriesMaker) -> None:
    dicom_series(tmp_path, n=3)
    events: list[Event] = []
    scan(tmp_path, events.append)
    assert (events[-1].phase, events[-1].step, events[-1].total) == ("scan", 3, 3)


def test_files_without_the_mark_and_damaged_ones_do_not_stop_a_scan(
    tmp_path: Path, dicom_series: SeriesMaker
) -> None:
    paths = dicom_series(tmp_path, n=4)
    paths[0].write_bytes(paths[0].read_bytes()[132:])
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    paths[2].write_bytes(b"\x08\x00" + os.urandom(50))
    paths[3].write_bytes(b"\x00\x08\x00" + bytes(300))
    found = scan(tmp_path)
    assert found.n_files == 4
    assert len(found.skipped) + sum(len(v.frames) for v in found.volumes) == 4
