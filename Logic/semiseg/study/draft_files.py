"""Drafts as files: what a human has drawn in a case and no label version holds yet.

A draft is an uncompressed zip of .npy arrays (`numpy.load` reads it): a JSON head as bytes, and
each layer as runs of equal voxels, which is small and quick for drawn maps. The zip's checksums
tell a half-written one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from semiseg.errors import SchemaError, StorageError
from semiseg.events import Json
from semiseg.images.grid import PLANES, Plane
from semiseg.images.packing import DAMAGED_ZIP
from semiseg.study.case import Problem
from semiseg.study.fields import Fields
from semiseg.study.ledger import SliceState
from semiseg.study.merge import Mark, present_ids
from semiseg.study.owner import Owner, temporary_name
from semiseg.study.storage import make_folder, on_disk, remove_leftovers, sync_folder

Zyx = tuple[int, int, int]
Layers = tuple[NDArray[np.uint16], ...]
Number = TypeVar("Number", np.uint8, np.uint16, np.uint32)
_FORMAT = 1
_NAME = re.compile(r"(\d{6,})\.(npz|applied|kept)")
_FOREIGN_S = 24 * 3600.0
_LARGEST_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class DraftHead:
    """Whose draft it is and of which image (`image` is its sha256), and the marks in it."""

    study: str
    case_id: str
    image: str
    shape_zyx: Zyx
    offset_zyx: Zyx
    marks: tuple[Mark, ...]
    author: str
    owner: Owner


class DraftFiles:
    """The drafts of one case in `folder` (`drafts/<case id>`); needs no lock.

    `N.npz` is a draft, `N.applied` the last that a label version was made of, `N.kept` one that
    another program wrote at the same time and that was not applied.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def numbers(self) -> tuple[int, ...]:
        """The drafts that wait, rising; those that a killed writer only announced are left out."""
        return tuple(number for number in self._listed("npz") if self._size(self.path(number)) != 0)

    def path(self, number: int, kind: str = "npz") -> Path:
        """The file of a draft."""
        return self.folder / f"{number:06d}.{kind}"

    def write(self, head: DraftHead, layers: Sequence[NDArray[np.integer]]) -> int:
        """Puts a draft on the disk under the next number, and removes those that it replaces."""
        make_folder(self.folder)
        remove_leftovers(self.folder)
        temporary = self.folder / temporary_name("draft")
        with on_disk("save the draft in", self.folder):
            try:
                with temporary.open("wb") as file:
                    file.write(_packed(head, layers))
                    file.flush()
                    os.fsync(file.fileno())
                number = self._publish(temporary)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            self._remove_before(number, head.owner)
        return number

    def read(self, number: int) -> tuple[DraftHead, Layers]:
        """SchemaError when the draft is missing or not whole."""
        path = self.path(number)
        with _opened(path) as members:
            head = _head(members, path)
            box = _three(members.head, "box")
            if any(
                o + n > size
                for o, n, size in zip(head.offset_zyx, box, head.shape_zyx, strict=True)
            ):
                raise SchemaError(f"{path} is corrupt: its box lies outside of its image")
            count = members.head.integer("layers")
            layers = tuple(members.layer(i, box) for i in range(count))
        return head, layers

    def newest_ids(self) -> set[int]:
        """The structures drawn in the newest draft that is whole."""
        for number in reversed(self.numbers()):
            with contextlib.suppress(SchemaError, StorageError):
                return drawn_ids(self.read(number)[1])
        return set()

    def settle(self, number: int) -> tuple[Path, ...]:
        """After draft `number` was applied: takes it and older ones away.

        Those that another living program wrote are kept aside; their paths are returned.
        """
        owner = self._owner(number)
        aside = []
        with on_disk("take away the applied draft in", self.folder):
            for older in self._listed("npz"):
                if older < number and owner is not None and self._is_foreign(older, owner):
                    aside.append(self.keep(older))
                elif older < number:
                    self.path(older).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self.path(number).replace(self.path(number, "applied"))
            for older in self._listed("applied"):
                if older < number:
                    self.path(older, "applied").unlink(missing_ok=True)
            sync_folder(self.folder)
        return tuple(aside)

    def keep(self, number: int) -> Path:
        """Puts a draft aside, so that it is neither shown nor applied; returns where it is."""
        aside = self.path(number, "kept")
        with on_disk("put aside", self.path(number)):
            self.path(number).replace(aside)
        return aside

    def _publish(self, temporary: Path) -> int:
        """Gives the file the next number; two writers cannot take the same one."""
        number = max(self._listed("npz", "applied", "kept"), default=0) + 1
        while True:
            try:
                os.close(os.open(self.path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                break
            except FileExistsError:
                number += 1
        try:
            temporary.replace(self.path(number))
        except BaseException:
            with contextlib.suppress(OSError):
                self.path(number).unlink()
            raise
        sync_folder(self.folder)
        return number

    def _remove_before(self, number: int, owner: Owner) -> None:
        for older in self._listed("npz"):
            if older < number and not self._is_foreign(older, owner):
                with contextlib.suppress(OSError):  # the newest counts all the same
                    self.path(older).unlink(missing_ok=True)

    def _is_foreign(self, number: int, owner: Owner) -> bool:
        """Whether another program that may still run wrote it, without knowing of newer ones."""
        other = self._owner(number)
        if other is None:
            return False
        if (other.host, other.pid, other.started) == (owner.host, owner.pid, owner.started):
            return False
        alive = other.alive()
        return alive is True or (alive is None and self._age_s(number) < _FOREIGN_S)

    def _owner(self, number: int) -> Owner | None:
        try:
            with _opened(self.path(number)) as members:
                return _head(members, self.path(number)).owner
        except (SchemaError, StorageError):
            return None

    def _listed(self, *kinds: str) -> tuple[int, ...]:
        try:
            with os.scandir(self.folder) as entries:
                found = [_NAME.fullmatch(entry.name) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(int(match[1]) for match in found if match and match[2] in kinds))

    def _age_s(self, number: int) -> float:
        with contextlib.suppress(OSError):
            return time.time() - self.path(number).stat().st_mtime
        return 0.0

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0


class _Members:
    """The parts of an opened draft."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive, self._path = archive, path
        values = json.loads(self._array("head", np.uint8).tobytes())
        if not isinstance(values, dict):
            raise ValueError("the head is no object")
        self.head = Fields(values, str(path))

    def layer(self, index: int, box_zyx: Zyx) -> NDArray[np.uint16]:
        """Layer `index`, from its runs."""
        values = self._array(f"values{index}", np.uint16)
        lengths = self._array(f"lengths{index}", np.uint32)
        # Added up as Python integers would be: a corrupt length must not wrap around.
        if len(values) != len(lengths) or int(lengths.sum(dtype=np.uint64)) != math.prod(box_zyx):
            raise ValueError(f"the runs of layer {index} do not fill its box")
        return np.repeat(values, lengths).reshape(box_zyx)

    def _array(self, name: str, dtype: type[Number]) -> NDArray[Number]:
        info = self._archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > _LARGEST_BYTES:
            raise ValueError(f"{name} is packed or too large")
        # Read whole first: then the checksum is known to be right, and so is the array's head.
        array: NDArray[Number] = np.load(BytesIO(self._archive.read(info)), allow_pickle=False)
        if array.dtype != np.dtype(dtype) or array.ndim != 1:
            raise ValueError(f"{name} is of another kind")
        return array


def drawn_ids(layers: Layers) -> set[int]:
    """The structures with a voxel in any layer."""
    return {number for layer in layers for number in present_ids(layer)}


def draft_problem(case_id: str, path: Path, number: int, cause: str) -> Problem:
    """A draft that cannot be used; the one before it takes its place."""
    return Problem(
        case_id=case_id,
        path=path,
        message=f"draft {number} of {case_id} cannot be used: {cause}",
        remedy=f"the draft before it, or else the saved label, is used; the file is kept: {path}",
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Members]:
    """The parts of the draft at `path`; SchemaError when it is missing or not whole."""
    try:
        with on_disk("read", path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
            yield _Members(archive, path)
    except (KeyError, *DAMAGED_ZIP) as error:
        raise SchemaError(f"{path} is corrupt: {error}") from error


def _packed(head: DraftHead, layers: Sequence[NDArray[np.integer]]) -> bytes:
    """The whole file."""
    box = layers[0].shape if layers else (0, 0, 0)
    values = _json_of(head) | {"box": list(box), "layers": len(layers)}
    text = json.dumps(values, ensure_ascii=True, allow_nan=False)
    arrays: dict[str, NDArray[np.generic]] = {"head": np.frombuffer(text.encode(), np.uint8)}
    for index, layer in enumerate(layers):
        arrays[f"values{index}"], arrays[f"lengths{index}"] = _runs(layer)
    packed = BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    return packed.getvalue()


def _runs(layer: NDArray[np.integer]) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Values and lengths of the runs of equal voxels, in C order."""
    flat = np.ascontiguousarray(layer).reshape(-1)
    if not flat.size:
        return np.empty(0, np.uint16), np.empty(0, np.uint32)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return flat[starts].astype(np.uint16), lengths.astype(np.uint32)


def _json_of(head: DraftHead) -> dict[str, Json]:
    return {
        "format": _FORMAT,
        "study": head.study,
        "case": head.case_id,
        "image": head.image,
        "shape": list(head.shape_zyx),
        "offset": list(head.offset_zyx),
        "author": head.author,
        "owner": asdict(head.owner),
        "marks": [
            {
                "plane": mark.plane,
                "indices": list(mark.indices),
                "state": mark.state.value,
                "ids": list(mark.ids),
            }
            for mark in head.marks
        ],
    }


def _head(members: _Members, path: Path) -> DraftHead:
    fields = members.head
    if fields.integer("format") != _FORMAT:
        raise SchemaError(
            f"{path} was written by a newer SemiSeg (draft format {fields.integer('format')}); "
            "update SemiSeg to use it"
        )
    owner = fields.part("owner")
    return DraftHead(
        study=fields.text("study"),
        case_id=fields.text("case"),
        image=fields.text("image"),
        shape_zyx=_three(fields, "shape"),
        offset_zyx=_three(fields, "offset"),
        author=fields.text("author"),
        owner=Owner(
            host=owner.text("host"),
            pid=owner.integer("pid"),
            started=owner.number("started"),
            uptime_s=owner.number("uptime_s"),
        ),
        marks=tuple(_mark(part) for part in fields.parts("marks")),
    )


def _three(fields: Fields, name: str) -> Zyx:
    found = fields.integers(name)
    if len(found) != 3 or min(found) < 0:
        raise SchemaError(f"{fields.where}: {name!r} should be three sizes, found {found}")
    return found[0], found[1], found[2]


def _mark(fields: Fields) -> Mark:
    states = tuple(state.value for state in SliceState)
    return Mark(
        plane=cast(Plane, fields.choice("plane", PLANES)),
        indices=fields.integers("indices"),
        state=SliceState(fields.choice("state", states)),
        ids=fields.integers("ids"),
    )
