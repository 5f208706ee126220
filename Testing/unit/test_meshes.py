"""Meshes: closed, as large as the mask, on the right side, whatever the grid."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import semiseg.meshes.files as files_module
from semiseg.config import MeshFormat, MeshSpace
from semiseg.errors import ConfigError, StorageError
from semiseg.events import Event
from semiseg.export import export_study
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.meshes.files import FORMATS, WITH_OBJECTS, Named, write_meshes
from semiseg.meshes.surface import Mesh, surface
from semiseg.meshes.work import MeshOptions
from semiseg.study.protocol import Protocol, Structure
from semiseg.study.study import Study

OBLIQUE = (0.6, 0.8, 0.0, 0.8, -0.6, 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
TURNED = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PLAIN = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def grid_of(
    shape_zyx: tuple[int, ...], spacing: tuple[float, float, float], direction: Any
) -> Grid:
    z, y, x = shape_zyx
    return Grid(
        size_xyz=(x, y, z),
        spacing_mm_xyz=spacing,
        origin_mm_lps=(-120.0, 80.5, 31.0),
        direction=direction,
    )


def solid(mesh: Mesh) -> Any:
    return trimesh.Trimesh(mesh.vertices_mm, mesh.faces, process=False)


def blob(shape: tuple[int, int, int] = (8, 12, 14)) -> np.ndarray:
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    return (z - 4) ** 2 / 6 + (y - 6) ** 2 / 14 + (x - 9) ** 2 / 12 < 1


def named(mask: np.ndarray, grid: Grid, name: str = "liver") -> Named:
    mesh = surface(mask, grid)
    assert mesh is not None
    return Named(name=name, color=(200, 100, 50), mesh=mesh)


@settings(max_examples=60, deadline=None)
@given(
    mask=arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    direction=st.sampled_from([PLAIN, OBLIQUE, FLIPPED, TURNED]),
)
def test_surface_of_any_mask_is_closed_and_has_its_volume(
    mask: np.ndarray, spacing: tuple[float, float, float], direction: Any
) -> None:
    grid = grid_of(mask.shape, spacing, direction)
    mesh = surface(mask, grid)
    if not mask.any():
        assert mesh is None
        return
    assert mesh is not None
    shape = solid(mesh)
    assert shape.is_watertight
    assert shape.is_winding_consistent
    expected = np.count_nonzero(mask) * grid.voxel_ml
    assert mesh.volume_ml == pytest.approx(expected, rel=0.01)
    assert shape.volume / 1000 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("direction", [PLAIN, OBLIQUE, FLIPPED, TURNED])
def test_surface_lies_where_the_voxels_are(direction: Any) -> None:
    mask = blob()
    grid = grid_of(mask.shape, (1.0, 1.5, 3.0), direction)
    mesh = surface(mask, grid)
    assert mesh is not None
    voxels = grid.to_world(np.argwhere(mask)[:, ::-1].astype(float))
    np.testing.assert_allclose(solid(mesh).center_mass, voxels.mean(axis=0), atol=0.3)
    low, high = mesh.vertices_mm.min(axis=0), mesh.vertices_mm.max(axis=0)
    np.testing.assert_array_less(np.abs(low - voxels.min(axis=0)), 3.0)
    np.testing.assert_array_less(np.abs(high - voxels.max(axis=0)), 3.0)


def test_surface_of_a_ball_is_smooth_and_round() -> None:
    z, y, x = np.mgrid[:30, :30, :30]
    mask = (z - 15) ** 2 + (y - 15) ** 2 + (x - 15) ** 2 < 12**2
    mesh = surface(mask, grid_of(mask.shape, (1.0, 1.0, 1.0), PLAIN))
    assert mesh is not None
    middle = np.array([-105.0, 95.5, 46.0])
    radius = np.linalg.norm(mesh.vertices_mm - middle, axis=1)
    assert radius.std() < 0.15
    assert mesh.area_cm2 == pytest.approx(4 * np.pi * 1.2**2, rel=0.02)


def test_structure_that_touches_every_edge_of_the_volume_is_closed() -> None:
    mask = np.ones((3, 4, 5), bool)
    grid = grid_of(mask.shape, (2.0, 2.0, 2.0), FLIPPED)
    mesh = surface(mask, grid)
    assert mesh is not None
    assert solid(mesh).is_watertight
    assert mesh.volume_ml == pytest.approx(60 * 0.008, rel=1e-3)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("space", ["LPS", "RAS"])
@pytest.mark.parametrize("direction", [OBLIQUE, FLIPPED])
def test_file_says_its_space_and_holds_millimetres(
    tmp_path: Path, format_: MeshFormat, space: MeshSpace, direction: Any
) -> None:
    mask = blob()
    grid = grid_of(mask.shape, (1.0, 1.5, 3.0), direction)
    one = named(mask, grid)
    path = tmp_path / f"liver.{format_}"
    write_meshes(path, [one], format_, space)
    assert f"SPACE={space}; unit: mm".encode() in path.read_bytes()
    shape = trimesh.load_mesh(path, process=True)
    scale = 1000.0 if format_ == "glb" else 1.0
    shape.apply_scale(scale)
    assert shape.is_watertight
    sign = np.array([-1, -1, 1]) if space == "RAS" else np.ones(3)
    np.testing.assert_allclose(shape.center_mass, solid(one.mesh).center_mass * sign, atol=1e-2)
    assert shape.volume == pytest.approx(np.count_nonzero(mask) * grid.voxel_ml * 1000, rel=0.01)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format_", WITH_OBJECTS)
def test_objects_of_one_file_keep_their_names(tmp_path: Path, format_: MeshFormat) -> None:
    grid = grid_of((8, 12, 14), (1.0, 1.0, 1.0), PLAIN)
    parts = [named(blob(), grid, "Leber / liver"), named(blob()[::-1], grid, "Milz ä")]
    path = tmp_path / f"all.{format_}"
    write_meshes(path, parts, format_)
    if format_ == "obj":
        text = path.read_text(encoding="utf-8")
        assert [line[2:] for line in text.splitlines() if line.startswith("o ")] == [
            "Leber / liver",
            "Milz ä",
        ]
        return
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    tree = json.loads(content[20 : 20 + length])
    assert {node["name"] for node in tree["nodes"]} >= {"Leber / liver", "Milz ä"}
    assert tree["asset"]["extras"]["space"] == "LPS"
    color = tree["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"]
    np.testing.assert_allclose(color[:3], np.array([200, 100, 50]) / 255, atol=0.01)


@pytest.mark.parametrize("lie", ["another volume", "an error"])
def test_mesh_that_reads_back_differently_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    def read(path: Path, format_: str) -> list[float]:
        if lie == "an error":
            raise ValueError("broken")
        return [99.0]

    monkeypatch.setattr(files_module, "_volumes_ml", read)
    grid = grid_of((8, 12, 14), (1.0, 1.0, 1.0), PLAIN)
    with pytest.raises(StorageError, match="read back"):
        write_meshes(tmp_path / "a.stl", [named(blob(), grid)], "stl")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """One case: a liver at the edge, a spot of one voxel, an empty structure."""
    structures = tuple(
        Structure(id=i, name=name, color=(9 * i, 50, 90))
        for i, name in ((1, "liver"), (2, "Spot / 2"), (3, "nothing"))
    )
    made = Study.create(tmp_path / "study", name="test", protocol=Protocol(structures))
    grid = grid_of((8, 12, 14), (1.0, 1.5, 3.0), OBLIQUE)
    image = np.random.default_rng(0).normal(0, 50, grid.shape_zyx).astype(np.float32)
    write_image(tmp_path / "ct.nii.gz", image, grid)
    made.add_case(tmp_path / "ct.nii.gz", case_id="ct", modality="CT")
    label = blob().astype(np.uint16)
    label[7, 11, 13] = 2
    made.annotate("ct", label)
    return made


def test_export_writes_a_mesh_per_structure_and_says_what_is_odd(
    study: Study, tmp_path: Path
) -> None:
    events: list[Event] = []
    out = tmp_path / "out"
    formats = ("stl", "ply", "obj", "glb")
    paths = export_study(study, out, "label", formats, emit=events.append)
    assert sorted(path.name for path in paths) == sorted(path.name for path in out.iterdir())
    assert sorted(path.name for path in paths) == [
        "ct_label.glb",
        "ct_label.obj",
        "ct_label_1_liver.ply",
        "ct_label_1_liver.stl",
        "ct_label_2_Spot_2.ply",
        "ct_label_2_Spot_2.stl",
        "measurements.csv",
    ]
    message = events[-1].message
    assert "ct: nothing has no voxel, so no mesh" in message
    assert "ct: Spot / 2 has 1 voxel; its mesh has the volume" in message
    assert len(events[-1].data["notes"]) == 2  # type: ignore[arg-type]
    spot = trimesh.load_mesh(out / "ct_label_2_Spot_2.stl", process=True)
    assert spot.is_watertight
    assert spot.volume == pytest.approx(4.5, rel=0.01)


def test_objects_may_be_kept_apart_and_old_meshes_go(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ct_label_3_nothing.obj").write_text("of last week")
    options = MeshOptions(space="RAS", together=False)
    with pytest.raises(StorageError, match="exist in"):
        export_study(study, out, "label", "obj", meshes=options)
    paths = export_study(study, out, "label", "obj", meshes=options, overwrite=True)
    assert [p.name for p in paths] == [
        "ct_label_1_liver.obj",
        "ct_label_2_Spot_2.obj",
        "measurements.csv",
    ]
    assert not (out / "ct_label_3_nothing.obj").exists()


def test_missing_package_is_named_with_the_command_before_anything_is_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "trimesh":
            raise ModuleNotFoundError("No module named 'trimesh'", name="trimesh")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"trimesh.* -m pip install scikit-image trimesh"):
        export_study(study, tmp_path / "out", "label", "stl")
    assert not (tmp_path / "out").exists()


def test_other_spaces_than_lps_and_ras_are_refused() -> None:
    with pytest.raises(ConfigError, match="LPS, RAS"):
        MeshOptions(space="LAS")  # type: ignore[arg-type]
