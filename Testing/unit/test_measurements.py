"""Measurements against numbers worked out by hand: boxes and ellipsoids on odd grids."""

from __future__ import annotations

import builtins
import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest

from semiseg.errors import ConfigError
from semiseg.events import Event
from semiseg.export import MEASUREMENTS, WORKBOOK, export_study
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.measurements import (
    EXPLANATIONS,
    Measures,
    Row,
    Voxels,
    headings,
    measure,
    write_csv,
    write_excel,
)
from semiseg.study.case import Origin
from semiseg.study.protocol import Protocol, Structure
from semiseg.study.study import Study

OBLIQUE = (0.6, 0.8, 0.0, 0.8, -0.6, 0.0, 0.0, 0.0, 1.0)
PLAIN = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def grid_of(size: tuple[int, int, int], spacing: Any, direction: Any = PLAIN) -> Grid:
    return Grid(
        size_xyz=size,
        spacing_mm_xyz=spacing,
        origin_mm_lps=(10.0, -20.0, 30.0),
        direction=direction,
    )


def voxels(grid: Grid, mask: np.ndarray, **more: Any) -> Voxels:
    label = np.where(mask, np.uint16(7), np.uint16(0))
    origin = np.where(mask, np.uint8(Origin.HUMAN), np.uint8(0))
    return Voxels(**{"grid": grid, "label": label, "origin": origin, **more})


def box() -> tuple[Grid, np.ndarray]:
    """10 x 6 x 4 voxels of 1 x 2 x 5 mm: 10 x 12 x 20 mm, first voxel (2, 1, 3)."""
    grid = grid_of((16, 9, 9), (1.0, 2.0, 5.0))
    mask = np.zeros(grid.shape_zyx, bool)
    mask[3:7, 1:7, 2:12] = True
    return grid, mask


def test_a_box_has_the_figures_of_a_box() -> None:
    grid, mask = box()
    found = measure(voxels(grid, mask), 7)
    assert found.voxels == 240
    assert found.volume_ml == pytest.approx(2.4)
    assert found.centroid_mm_lps == pytest.approx((10 + 6.5, -20 + 7.0, 30 + 22.5))
    assert found.box_low_mm_lps == pytest.approx((11.5, -19.0, 42.5))
    assert found.box_high_mm_lps == pytest.approx((21.5, -7.0, 62.5))
    assert found.longest_diameter_mm == pytest.approx(math.sqrt(10**2 + 12**2 + 20**2))
    # A box of width w has the variance w^2 / 12; an ellipsoid of full axis a has a^2 / 20.
    expected = [w * math.sqrt(20 / 12) for w in (20, 12, 10)]
    assert found.ellipsoid_axes_mm == pytest.approx(expected)
    assert (found.mean, found.uncertainty_mean) == (None, None)


def test_turning_the_grid_turns_places_and_keeps_sizes() -> None:
    grid, mask = box()
    turned = grid_of(grid.size_xyz, grid.spacing_mm_xyz, OBLIQUE)
    plain, found = (measure(voxels(g, mask), 7) for g in (grid, turned))
    for name in ("volume_ml", "longest_diameter_mm", "surface_cm2", "ellipsoid_axes_mm"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name))
    place = turned.to_world(np.array([6.5, 3.5, 4.5]))
    assert found.centroid_mm_lps == pytest.approx(tuple(place))
    corners = turned.to_world(
        np.array([[x, y, z] for x in (1.5, 11.5) for y in (0.5, 6.5) for z in (2.5, 6.5)])
    )
    assert found.box_low_mm_lps == pytest.approx(tuple(corners.min(axis=0)))
    assert found.box_high_mm_lps == pytest.approx(tuple(corners.max(axis=0)))


def test_a_single_voxel_is_a_little_box() -> None:
    grid = grid_of((3, 3, 3), (1.0, 2.0, 5.0))
    mask = np.zeros(grid.shape_zyx, bool)
    mask[0, 0, 0] = True
    found = measure(voxels(grid, mask), 7)
    assert found.longest_diameter_mm == pytest.approx(math.sqrt(1 + 4 + 25))
    assert found.surface_cm2 == pytest.approx(2 * (1 * 2 + 1 * 5 + 2 * 5) / 100)
    assert found.ellipsoid_axes_mm == pytest.approx([w * math.sqrt(20 / 12) for w in (5, 2, 1)])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.1, 3.0)])
@pytest.mark.parametrize("direction", [PLAIN, OBLIQUE])
def test_an_ellipsoid_has_its_axes_volume_and_surface(spacing: Any, direction: Any) -> None:
    radii = np.array([15.0, 11.0, 18.0])
    size = tuple(int(2 * r / s) + 5 for r, s in zip(radii, spacing, strict=True))
    grid = grid_of(size, spacing, direction)  # type: ignore[arg-type]
    x, y, z = (
        ((np.arange(n) - (n - 1) / 2) * s / r) ** 2
        for n, s, r in zip(size, spacing, radii, strict=True)
    )
    mask = x + y[:, None] + z[:, None, None] <= 1
    found = measure(voxels(grid, mask), 7)
    assert found.volume_ml == pytest.approx(4 / 3 * math.pi * radii.prod() / 1000, rel=0.015)
    assert found.ellipsoid_axes_mm == pytest.approx((36, 30, 22), rel=0.015)
    assert found.longest_diameter_mm == pytest.approx(36, rel=0.05)
    # Knud Thomsen's formula, good to 1.1 %.
    a, b, c = radii**1.6075
    area = 4 * math.pi * ((a * b + a * c + b * c) / 3) ** (1 / 1.6075) / 100
    assert found.surface_cm2 == pytest.approx(area, rel=0.03)
    middle = grid.to_world((np.array(size) - 1) / 2)
    assert found.centroid_mm_lps == pytest.approx(tuple(middle), abs=1e-6)


def test_surface_of_a_slanted_plane_is_not_that_of_its_stairs() -> None:
    z, y, x = np.mgrid[:40, :40, :40]
    inside = (np.abs(x + 0.5 * y - 30) < 6) & (y > 4) & (y < 36) & (z > 4) & (z < 36)
    found = measure(voxels(grid_of((40, 40, 40), (1.0, 1.0, 1.0)), inside), 7)
    # Two slanted sides of 31 x 31 sqrt(1.25), two of 31 x 12 and two of 31 x 12 for the ends; by
    # the stairs it would be 31 x 31 x 1.5, which makes 44 cm2 in all. Edges are rounded off.
    expected = (2 * 31 * 31 * math.sqrt(1.25) + 4 * 31 * 12) / 100
    assert found.surface_cm2 == pytest.approx(expected, rel=0.08)


def test_grey_values_uncertainty_and_shares_are_those_of_the_voxels() -> None:
    grid, mask = box()
    image = np.full(grid.shape_zyx, -1000.0, np.float32)
    image[mask] = 40.0
    image[3, 1:7, 2:12] = 80.0
    unsure = np.where(mask, 0.25, 1.0).astype(np.float32)
    origin = np.zeros(grid.shape_zyx, np.uint8)
    origin[3], origin[4] = Origin.HUMAN, Origin.CORRECTED
    origin[5], origin[6] = Origin.PROPAGATED, Origin.PREDICTED
    found = measure(voxels(grid, mask, image=image, uncertainty=unsure, origin=origin), 7)
    assert (found.mean, found.lowest, found.highest) == (50.0, 40.0, 80.0)
    assert found.sd == pytest.approx(math.sqrt((3 * 10**2 + 30**2) / 4))
    assert found.uncertainty_mean == pytest.approx(0.25)
    shares = (found.human_percent, found.propagated_percent, found.predicted_percent)
    assert shares == pytest.approx((50.0, 25.0, 25.0))


def test_an_absent_structure_has_no_figures_but_zero_volume() -> None:
    grid, mask = box()
    assert measure(voxels(grid, mask), 8) == Measures(voxels=0, volume_ml=0.0)


def row(**changed: Any) -> Row:
    values: dict[str, Any] = {
        "case": "ct1",
        "modality": "CT",
        "structure_id": 7,
        "structure": "Leber ä",
        "source": "label 1",
        "label_version": 1,
        "prediction_version": None,
        "model": "",
        "date": "2026-01-02",
        "measures": Measures(voxels=3, volume_ml=0.123456, centroid_mm_lps=(1.0, -2.0, 3.456)),
    }
    return Row(**{**values, **changed})


def test_headings_name_units_and_each_row_has_them_all() -> None:
    names = headings()
    assert len(names) == len(set(names)) == len(row().cells())
    assert {"volume_ml", "surface_cm2", "centroid_l_mm", "drawn_by_human_percent"} <= set(names)
    assert {"longest_diameter_feret_mm", "ellipsoid_axis_1_pca_mm"} <= set(names)
    assert set(EXPLANATIONS) <= set(names)
    assert not [name for name in names if "patient" in name]


def test_csv_is_utf8_and_runs_nothing_in_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write_csv(path, [row(), row(structure="=cmd|' /C calc'!A0")])
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["structure"] == "Leber ä"
    assert (first["volume_ml"], first["centroid_p_mm"]) == ("0.1235", "-2.0")
    assert (first["intensity_mean"], first["prediction_version"]) == ("", "")
    assert second["structure"] == "'=cmd|' /C calc'!A0"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_no_text_of_the_table_starts_like_a_formula(tmp_path: Path, start: str) -> None:
    path = tmp_path / "m.csv"
    write_csv(path, [row(structure=f"{start}SUM(A1)")])
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert next(csv.DictReader(file))["structure"] == f"'{start}SUM(A1)"


def test_workbook_holds_the_same_figures_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "m.xlsx"
    write_excel(path, [row(), row(structure="=1+1", modality="MR")])
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["measurements", "columns"]
    head, first, second = book["measurements"].iter_rows(values_only=True)
    assert list(head) == headings()
    cells = dict(zip(head, first, strict=True))
    assert cells == row().cells() | {"model": None}
    assert second[3] == "=1+1"
    assert book["measurements"].cell(3, 4).data_type != "f"
    explained = {name for name, _ in book["columns"].iter_rows(values_only=True)}
    assert explained == set(EXPLANATIONS)


def test_export_writes_a_workbook_beside_the_table_and_no_patient(tmp_path: Path) -> None:
    study = Study.create(
        tmp_path / "study",
        name="test",
        protocol=Protocol((Structure(id=7, name="liver", color=(1, 2, 3)),)),
    )
    grid, mask = box()
    image = np.random.default_rng(0).normal(0, 50, grid.shape_zyx).astype(np.float32)
    write_image(tmp_path / "a.nii.gz", image, grid)
    study.add_case(tmp_path / "a.nii.gz", case_id="c1", patient="Doe^Jane", modality="CT")
    study.annotate("c1", np.where(mask, 7, 0).astype(np.uint16), author="Dr Who")
    events: list[Event] = []
    paths = export_study(study, tmp_path / "out", "label", "xlsx", emit=events.append)
    assert [path.name for path in paths] == [MEASUREMENTS, WORKBOOK]
    for path in paths:
        assert b"Doe" not in path.read_bytes()
    rows = list(openpyxl.load_workbook(paths[1])["measurements"].iter_rows(values_only=True))
    assert dict(zip(rows[0], rows[1], strict=True))["voxels"] == 240
    assert not [event for event in events if "warning" in event.data]


def test_missing_xlsxwriter_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "xlsxwriter":
            raise ModuleNotFoundError("No module named 'xlsxwriter'", name="xlsxwriter")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"xlsxwriter.*pip install xlsxwriter.*CSV"):
        write_excel(tmp_path / "m.xlsx", [row()])
    assert not (tmp_path / "m.xlsx").exists()
