"""The choices of `semiseg export`, in words; a test compares them with `semiseg.config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from slicer.i18n import tr as _

from semiseg.config import DicomFormat, MeshFormat

TABLE = "csv"  # written with every export, so it has no box
DICOM = frozenset(get_args(DicomFormat))
MESHES = frozenset(get_args(MeshFormat))


@dataclass(frozen=True)
class Choice:
    """Something to choose: its name for the engine, its title and what it is good for."""

    name: str
    title: str
    tool_tip: str = ""


def kinds() -> tuple[Choice, ...]:
    """What can be exported of a case; the first is the usual choice."""
    return (
        Choice(
            "combined",
            _("Yours where you decided, else the model's"),
            _("What you drew and finished counts; everywhere else the newest segmentation"),
        ),
        Choice(
            "prediction",
            _("The model's alone"),
            _("As the model made it, also where you decided otherwise: to judge the model"),
        ),
        Choice(
            "label",
            _("Drawn and propagated, no model"),
            _("What you drew and what was carried over to other slices and scans"),
        ),
    )


def formats() -> tuple[Choice, ...]:
    """Every format that can be ticked; the engine's "both" is two of them, the table none."""
    return (
        Choice(
            "seg.nrrd",
            _("Segmentation for Slicer (.seg.nrrd)"),
            _("Names, colors and terminology; opens in Slicer as a segmentation"),
        ),
        Choice(
            "nii.gz",
            _("Label map (.nii.gz)"),
            _("One NIfTI file per scan; a number per structure"),
        ),
        Choice(
            "structures",
            _("One mask per structure (.nii.gz)"),
            _("A NIfTI file of zeros and ones for each structure"),
        ),
        Choice(
            "stl",
            _("Surfaces for printing (.stl)"),
            _("A closed surface for each structure, in millimeters; needs scikit-image, trimesh"),
        ),
        Choice(
            "obj",
            _("Surfaces as objects (.obj)"),
            _("One file per scan with all structures; needs scikit-image and trimesh"),
        ),
        Choice(
            "ply",
            _("Surfaces as triangles (.ply)"),
            _("A closed surface for each structure; needs scikit-image and trimesh"),
        ),
        Choice(
            "glb",
            _("Colored scene (glTF, .glb)"),
            _("One file per scan for 3-D viewers and slides; needs scikit-image and trimesh"),
        ),
        Choice(
            "xlsx",
            _("Measurements as Excel workbook (.xlsx)"),
            _("The same figures as measurements.csv; needs xlsxwriter"),
        ),
        Choice(
            "dicom-seg",
            _("DICOM segmentation (SEG)"),
            _("For the hospital's archive; scans that came from DICOM only"),
        ),
        Choice(
            "rtstruct",
            _("DICOM contours (RTSTRUCT)"),
            _("Contours for treatment planning; scans that came from DICOM only"),
        ),
    )


def spaces() -> tuple[Choice, ...]:
    """The axes of mesh coordinates; the first is what Slicer writes and expects."""
    return (
        Choice("LPS", _("LPS (left, back, up): as Slicer")),
        Choice("RAS", _("RAS (right, front, up)")),
    )


def identities() -> tuple[Choice, ...]:
    """What becomes of the patient's identity in DICOM files; the first one is no answer."""
    return (
        Choice("ask", _("Choose ...")),
        Choice("keep", _("Keep: for the hospital's archive")),
        Choice("remove", _("Remove: for research")),
    )
