"""Which mesh files a case gets, and the surfaces that go into them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from semiseg.config import MeshFormat, MeshSpace, check_choice
from semiseg.images.grid import Grid
from semiseg.meshes.files import FORMATS, WITH_OBJECTS, Named, write_meshes
from semiseg.meshes.surface import Mesh, require_packages, surface
from semiseg.study.protocol import Protocol, Structure

_TINY_VOXELS = 8


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """The space of the coordinates, and whether formats with objects take all into one file."""

    space: MeshSpace = "LPS"
    together: bool = True

    def __post_init__(self) -> None:
        check_choice("space", self.space, get_args(MeshSpace))


@dataclass(frozen=True, kw_only=True)
class MeshWork:
    """One file to write: its structures, and how."""

    format: MeshFormat
    space: MeshSpace
    structures: tuple[Structure, ...]


class Surfaces:
    """The surfaces of one case, each made once; `notes` say what is odd about them."""

    def __init__(self, case_id: str, array: NDArray[np.uint16], grid: Grid) -> None:
        self.notes: list[str] = []
        self._case_id, self._array, self._grid = case_id, array, grid
        self._made: dict[int, Mesh | None] = {}

    def write(self, path: Path, work: MeshWork) -> bool:
        """Write a file; False, and no file, where none of its structures has a voxel."""
        made = ((structure, self._of(structure)) for structure in work.structures)
        surfaces = [Named(name=s.name, color=s.color, mesh=mesh) for s, mesh in made if mesh]
        if surfaces:
            write_meshes(path, surfaces, work.format, work.space)
        else:
            path.unlink(missing_ok=True)  # one of an earlier export would show what is gone
        return bool(surfaces)

    def _of(self, structure: Structure) -> Mesh | None:
        if structure.id not in self._made:
            mask = self._array == structure.id
            n_voxels = int(np.count_nonzero(mask))
            self._made[structure.id] = surface(mask, self._grid)
            if n_voxels == 0:
                self.notes.append(f"{self._case_id}: {structure.name} has no voxel, so no mesh")
            elif n_voxels < _TINY_VOXELS:
                self.notes.append(
                    f"{self._case_id}: {structure.name} has {n_voxels} "
                    f"voxel{'' if n_voxels == 1 else 's'}; its mesh has the volume, but no shape "
                    "to speak of"
                )
        return self._made[structure.id]


def mesh_files(
    folder: Path,
    stem: str,
    formats: Sequence[str],
    protocol: Protocol,
    options: MeshOptions,
) -> Mapping[Path, MeshWork]:
    """Path -> what goes into it; ConfigError when what meshes need is not installed."""
    files: dict[Path, MeshWork] = {}
    wanted = [name for name in FORMATS if name in formats]
    if wanted:
        require_packages()
    for name in wanted:
        if options.together and name in WITH_OBJECTS:
            parts = {stem: protocol.structures}
        else:
            parts = {f"{stem}_{s.id}_{file_name_part(s.name)}": (s,) for s in protocol.structures}
        for part, structures in parts.items():
            work = MeshWork(format=name, space=options.space, structures=structures)
            files[folder / f"{part}.{name}"] = work
    return files


def file_name_part(name: str) -> str:
    """A structure's `name` as it may stand in a file name."""
    return re.sub(r"\W+", "_", name).strip("_")[:60]
