"""Surfaces as STL, OBJ, PLY or glTF files, in millimetres, that say which space they are in."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from semiseg.config import MeshFormat, MeshSpace
from semiseg.errors import StorageError
from semiseg.images.writing import replacing
from semiseg.meshes.surface import Mesh

FORMATS: tuple[MeshFormat, ...] = get_args(MeshFormat)
# Formats that name several objects in one file; the others hold one surface each.
WITH_OBJECTS: tuple[MeshFormat, ...] = ("obj", "glb")
_STL_HEADER_BYTES = 80
_SAME_VOLUME = 1e-3
_METRES_PER_MM = 0.001


@dataclass(frozen=True, kw_only=True, eq=False)
class Named:
    """A surface with the name and color (0 to 255) of its structure."""

    name: str
    color: tuple[int, int, int]
    mesh: Mesh


def write_meshes(
    path: Path, surfaces: Sequence[Named], format_: MeshFormat, space: MeshSpace = "LPS"
) -> None:
    """Write `surfaces` to `path`, whole or not at all, and read them back.

    Coordinates are millimetres in `space`; "SPACE=LPS" or "SPACE=RAS" in the file's header or
    comment tells so to readers, Slicer among them, which takes LPS where nothing is said. In
    glTF, whose unit is the metre, each object's matrix scales millimetres to metres. Formats
    without objects take one surface. StorageError when the disk refuses.
    """
    content = _ENCODERS[format_](surfaces, space)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        _verify(temporary, path.name, surfaces, format_)


def _header(space: MeshSpace) -> str:
    return f"SemiSeg. SPACE={space}; unit: mm"


def _trimesh(named: Named, space: MeshSpace) -> Any:
    import trimesh  # noqa: PLC0415 - an optional package

    points = named.mesh.vertices_mm
    if space == "RAS":  # half a turn about the third axis, so triangles keep their outer side
        points = points * np.array([-1.0, -1.0, 1.0])
    return trimesh.Trimesh(points, named.mesh.faces, process=False)


def _stl(surfaces: Sequence[Named], space: MeshSpace) -> bytes:
    from trimesh.exchange.stl import export_stl  # noqa: PLC0415

    (named,) = surfaces
    content: bytes = export_stl(_trimesh(named, space))
    header = _header(space).encode("ascii").ljust(_STL_HEADER_BYTES)
    return header + content[_STL_HEADER_BYTES:]


def _ply(surfaces: Sequence[Named], space: MeshSpace) -> bytes:
    from trimesh.exchange.ply import export_ply  # noqa: PLC0415

    (named,) = surfaces
    content: bytes = export_ply(_trimesh(named, space), include_attributes=False)
    head, comment, body = content.partition(b"comment ")
    return head + comment + _header(space).encode("ascii") + b"\n" + body.partition(b"\n")[2]


def _obj(surfaces: Sequence[Named], space: MeshSpace) -> bytes:
    from trimesh.exchange.obj import export_obj  # noqa: PLC0415

    text: str = export_obj(
        _scene(surfaces, space, scale=1.0),
        include_normals=False,
        include_color=False,
        include_texture=False,
        header=_header(space),
    )
    return text.encode("utf-8")


def _glb(surfaces: Sequence[Named], space: MeshSpace) -> bytes:
    from trimesh.exchange.gltf import export_glb  # noqa: PLC0415

    def say_space(tree: dict[str, Any]) -> None:
        tree["asset"]["generator"] = "SemiSeg"
        tree["asset"]["extras"] = {"comment": _header(space), "space": space}

    content: bytes = export_glb(
        _scene(surfaces, space, scale=_METRES_PER_MM),
        include_normals=False,
        tree_postprocessor=say_space,
    )
    return content


def _scene(surfaces: Sequence[Named], space: MeshSpace, *, scale: float) -> Any:
    import trimesh  # noqa: PLC0415
    from trimesh.visual.material import PBRMaterial  # noqa: PLC0415
    from trimesh.visual.texture import TextureVisuals  # noqa: PLC0415

    scene = trimesh.Scene()
    for named in surfaces:
        shape = _trimesh(named, space)
        if scale != 1.0:
            material = PBRMaterial(
                name=named.name, baseColorFactor=[*named.color, 255], metallicFactor=0.0
            )
            shape.visual = TextureVisuals(material=material)
        matrix = np.diag([scale, scale, scale, 1.0])
        scene.add_geometry(shape, node_name=named.name, geom_name=named.name, transform=matrix)
    return scene


def _verify(path: Path, name: str, surfaces: Sequence[Named], format_: MeshFormat) -> None:
    """StorageError unless the file gives closed surfaces of the same volumes."""
    expected = sorted(named.mesh.volume_ml for named in surfaces)
    try:
        found = sorted(_volumes_ml(path, format_))
    except Exception as error:  # trimesh has no exception of its own
        raise StorageError(f"{name} was written but cannot be read back: {error}") from error
    if len(found) != len(expected) or not np.allclose(found, expected, rtol=_SAME_VOLUME, atol=0):
        raise StorageError(
            f"{name} does not read back as what was written; is the disk failing? Delete the "
            "file and export to another disk"
        )


def _volumes_ml(path: Path, format_: MeshFormat) -> list[float]:
    import trimesh  # noqa: PLC0415

    with path.open("rb") as file, _quiet():
        # Only OBJ has to be told that its objects are to be kept apart.
        how = {"split_objects": True} if format_ == "obj" else {}
        scene = trimesh.load_scene(file, file_type=format_, **how)
    unit = _METRES_PER_MM if format_ == "glb" else 1.0
    return [float(shape.volume) / unit**3 / 1000.0 for shape in scene.dump()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without trimesh's remarks on materials that a mesh file does not have."""
    logger = logging.getLogger("trimesh")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


_ENCODERS: Mapping[MeshFormat, Any] = {"stl": _stl, "obj": _obj, "ply": _ply, "glb": _glb}
