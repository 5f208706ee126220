"""Figures of each structure of a segmentation, and tables of them for spreadsheets."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from semiseg.errors import ConfigError
from semiseg.images.grid import Grid, Triple, box_of
from semiseg.images.writing import replacing
from semiseg.study.case import PROTECTED, Origin

_NORMAL_SIGMA_VOXELS = 1.5
_REACH_VOXELS = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Voxels:
    """What is measured; all arrays (z, y, x) on `grid`.

    Without an image there are no grey values, without `uncertainty` ([0, 1]) there is no mean.
    """

    grid: Grid
    label: NDArray[np.uint16]
    origin: NDArray[np.uint8]
    image: NDArray[np.floating] | None = None
    uncertainty: NDArray[np.floating] | None = None


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The figures of one structure; None where there is nothing to measure.

    `longest_diameter_mm` is Feret's: the greatest distance of two points of the voxels.
    `ellipsoid_axes_mm`, longest first, are the full axes of the ellipsoid with the same second
    moments (principal components). `surface_cm2` adds up voxel faces, each by its share in the
    direction of the smoothed surface. The box holds all voxels to their outer edges.
    """

    voxels: int
    volume_ml: float
    mean: float | None = None
    sd: float | None = None
    lowest: float | None = None
    highest: float | None = None
    longest_diameter_mm: float | None = None
    ellipsoid_axes_mm: Triple | None = None
    surface_cm2: float | None = None
    centroid_mm_lps: Triple | None = None
    box_low_mm_lps: Triple | None = None
    box_high_mm_lps: Triple | None = None
    uncertainty_mean: float | None = None
    human_percent: float | None = None
    propagated_percent: float | None = None
    predicted_percent: float | None = None


def measure(found: Voxels, structure_id: int) -> Measures:
    """The figures of the voxels that carry `structure_id`."""
    box = box_of(found.label == structure_id)
    if box is None:
        return Measures(voxels=0, volume_ml=0.0)
    mask = found.label[box] == structure_id
    n = int(np.count_nonzero(mask))
    index = np.argwhere(mask)[:, ::-1] + [part.start for part in reversed(box)]
    points = found.grid.to_world(index.astype(np.float64))
    corners = _corner_points(mask, box, found.grid)
    grey = None if found.image is None else found.image[box][mask].astype(np.float64)
    unsure = None if found.uncertainty is None else found.uncertainty[box][mask]
    shares = np.bincount(found.origin[box][mask], minlength=len(Origin)) * (100.0 / n)
    return Measures(
        voxels=n,
        volume_ml=n * found.grid.voxel_ml,
        mean=None if grey is None else float(grey.mean()),
        sd=None if grey is None else float(grey.std()),
        lowest=None if grey is None else float(grey.min()),
        highest=None if grey is None else float(grey.max()),
        longest_diameter_mm=_longest(corners),
        ellipsoid_axes_mm=_ellipsoid_axes(points, found.grid),
        surface_cm2=_surface_mm2(mask, found.grid) / 100.0,
        centroid_mm_lps=_triple(points.mean(axis=0)),
        box_low_mm_lps=_triple(corners.min(axis=0)),
        box_high_mm_lps=_triple(corners.max(axis=0)),
        uncertainty_mean=None if unsure is None else float(unsure.mean(dtype=np.float64)),
        human_percent=float(sum(shares[origin] for origin in PROTECTED)),
        propagated_percent=float(shares[Origin.PROPAGATED]),
        predicted_percent=float(shares[Origin.PREDICTED]),
    )


def _corner_points(
    mask: NDArray[np.bool_], box: tuple[slice, slice, slice], grid: Grid
) -> NDArray[np.float64]:
    """The outer corners (LPS mm) of the first and last voxel of each row: the hull's are among."""
    rows = np.argwhere(mask.any(axis=2))
    lines = mask[rows[:, 0], rows[:, 1]]
    first = lines.argmax(axis=1)
    last = lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    corners = [
        np.column_stack([end, rows[:, 1] + dy, rows[:, 0] + dz])
        for end in (first - 0.5, last + 0.5)
        for dy in (-0.5, 0.5)
        for dz in (-0.5, 0.5)
    ]
    start = [part.start for part in reversed(box)]
    return grid.to_world(np.concatenate(corners) + start)


def _longest(points: NDArray[np.float64]) -> float:
    """The greatest distance of two of `points` (N, 3)."""
    hull = points[ConvexHull(points).vertices]
    longest = 0.0
    for start in range(0, len(hull), 512):  # in parts, so that the memory stays small
        steps = hull[start : start + 512, None] - hull[None]
        longest = max(longest, float(np.einsum("ijk,ijk->ij", steps, steps).max()))
    return math.sqrt(longest)


def _ellipsoid_axes(points: NDArray[np.float64], grid: Grid) -> Triple:
    """2 sqrt(5 variance) along each principal axis, the extent of the voxels themselves added."""
    step = grid.affine_lps[:3, :3]
    moments = np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((3, 3))
    moments = moments + step @ step.T / 12.0
    return _triple(2.0 * np.sqrt(5.0 * np.linalg.eigvalsh(moments)[::-1]))


def _surface_mm2(mask: NDArray[np.bool_], grid: Grid) -> float:
    """Sum over voxel faces of area times |cosine| to the normal of the smoothed mask.

    Exact for planes of any direction; Lenoir and Malgouyres (1997) sum normals alike.
    """
    padded = np.pad(mask, _REACH_VOXELS).astype(np.float32)
    smooth = ndimage.gaussian_filter(padded, _NORMAL_SIGMA_VOXELS, mode="constant", truncate=3.5)
    spacing = grid.spacing_mm_zyx
    slopes = np.stack([np.gradient(smooth, spacing[axis], axis=axis) for axis in range(3)])
    total = 0.0
    for axis in range(3):
        own = np.moveaxis(padded, axis, 0)
        face = own[1:] != own[:-1]
        around = np.moveaxis(slopes, axis + 1, 1)
        normal = (around[:, 1:] + around[:, :-1])[:, face]
        length = np.linalg.norm(normal, axis=0)
        cosine = np.divide(
            np.abs(normal[axis]), length, out=np.ones_like(length), where=length > 1e-9
        )
        area = math.prod(spacing) / spacing[axis]
        total += area * float(cosine.sum(dtype=np.float64))
    return total


def _triple(values: NDArray[np.floating]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: a structure of a case, where it is from, and its figures.

    `intensity_unit` is HU for CT; MR has no unit.
    """

    case: str
    modality: str
    structure_id: int
    structure: str
    source: str
    label_version: int | None
    prediction_version: int | None
    model: str
    date: str
    measures: Measures

    def cells(self) -> dict[str, Cell]:
        """Heading -> value; the headings carry the units."""
        m = self.measures
        axes = m.ellipsoid_axes_mm or (None, None, None)
        return {
            "case": self.case,
            "modality": self.modality,
            "structure_id": self.structure_id,
            "structure": self.structure,
            "voxels": m.voxels,
            "volume_ml": _rounded(m.volume_ml, 4),
            "intensity_mean": _rounded(m.mean, 3),
            "intensity_sd": _rounded(m.sd, 3),
            "intensity_min": _rounded(m.lowest, 3),
            "intensity_max": _rounded(m.highest, 3),
            "intensity_unit": "HU" if self.modality == "CT" else "none (MR)",
            "longest_diameter_feret_mm": _rounded(m.longest_diameter_mm, 2),
            **{f"ellipsoid_axis_{i}_pca_mm": _rounded(a, 2) for i, a in enumerate(axes, 1)},
            "surface_cm2": _rounded(m.surface_cm2, 3),
            **_places("centroid", m.centroid_mm_lps),
            **_places("box_low", m.box_low_mm_lps),
            **_places("box_high", m.box_high_mm_lps),
            "uncertainty_mean_0_to_1": _rounded(m.uncertainty_mean, 4),
            "drawn_by_human_percent": _rounded(m.human_percent, 2),
            "propagated_percent": _rounded(m.propagated_percent, 2),
            "predicted_percent": _rounded(m.predicted_percent, 2),
            "source": self.source,
            "label_version": self.label_version,
            "prediction_version": self.prediction_version,
            "model": self.model,
            "date": self.date,
        }


EXPLANATIONS: Mapping[str, str] = {
    "case": "the case's id in the study; no patient names",
    "voxels": "number of voxels",
    "volume_ml": "voxels times the volume of one voxel, in milliliters",
    "intensity_mean": "mean gray value inside, in the unit of intensity_unit (as sd, min, max)",
    "intensity_sd": "standard deviation of the gray values inside, divided by n",
    "intensity_unit": "HU (Hounsfield units) for CT; gray values of MR have no unit",
    "longest_diameter_feret_mm": "greatest distance of two points of the voxels (Feret), in mm",
    "ellipsoid_axis_1_pca_mm": (
        "longest full axis of the ellipsoid with the same second moments (principal components), "
        "in mm; _2 and _3 are the others"
    ),
    "surface_cm2": "area of the smoothed surface, in square centimeters",
    "centroid_l_mm": "mean place of the voxels in mm; l grows to the left, p to the back, s up",
    "box_low_l_mm": "the box along l, p, s that holds all voxels to their outer edges, in mm",
    "uncertainty_mean_0_to_1": "the model's mean uncertainty inside: 0 sure, 1 no idea",
    "drawn_by_human_percent": "share of the voxels that a person drew or corrected, in percent",
    "propagated_percent": "share carried over from other slices or scans, in percent",
    "predicted_percent": "share that the model segmented, in percent",
    "source": "what was measured, with its version",
    "date": "day of the export",
}


def _places(name: str, place: Triple | None) -> dict[str, Cell]:
    values = place or (None, None, None)
    return {f"{name}_{axis}_mm": _rounded(v, 2) for axis, v in zip("lps", values, strict=True)}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write `rows` as CSV in UTF-8 with the mark that spreadsheets look for."""
    tables = [row.cells() for row in rows]
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8-sig", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(headings())
        for cells in tables:
            table.writerow([_plain(value) for value in cells.values()])


def write_excel(path: Path, rows: Sequence[Row]) -> None:
    """Write `rows` as an Excel workbook; a second sheet says what the columns hold."""
    require_excel()
    import xlsxwriter  # noqa: PLC0415 - an optional package

    with replacing(path) as temporary:
        settings = {"strings_to_formulas": False, "strings_to_urls": False}
        with xlsxwriter.Workbook(str(temporary), settings) as book:
            sheet = book.add_worksheet("measurements")
            bold = book.add_format({"bold": True})
            sheet.write_row(0, 0, headings(), bold)
            for number, row in enumerate(rows, 1):
                sheet.write_row(number, 0, list(row.cells().values()))
            sheet.freeze_panes(1, 4)
            sheet.autofit()
            notes = book.add_worksheet("columns")
            for number, (name, text) in enumerate(EXPLANATIONS.items()):
                notes.write_row(number, 0, [name, text])
            notes.autofit()


def require_excel() -> None:
    """ConfigError with the command that installs what Excel files need, where that is missing."""
    try:
        import xlsxwriter  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            "Excel files need the package xlsxwriter, which is not installed; run: "
            f"{Path(sys.executable).name} -m pip install xlsxwriter, or take the CSV table"
        ) from error


def headings() -> list[str]:
    """The columns in their order."""
    empty: dict[str, object] = {field.name: "" for field in fields(Row)}
    row = Row(**{**empty, "measures": Measures(voxels=0, volume_ml=0.0)})  # type: ignore[arg-type]
    return list(row.cells())


def _plain(value: Cell) -> str:
    """A value for CSV; a text that a spreadsheet would run as a formula gets an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return repr(value)
