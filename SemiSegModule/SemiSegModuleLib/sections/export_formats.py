"""The formats of `semiseg export`, in words; the engine says which there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from slicer.i18n import tr as _

from semiseg.export import Format

_COMPOSITE = {"both"}  # two others at once: here one ticks two boxes


@dataclass(frozen=True)
class Choice:
    """Something to choose: its name for the engine, its title and what it is good for."""

    name: str
    title: str
    tool_tip: str = ""


def formats() -> tuple[Choice, ...]:
    """Every format that the engine knows; a new one shows by its own name until it is named."""
    return tuple(_format(name) for name in get_args(Format) if name not in _COMPOSITE)


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


def _format(name: str) -> Choice:
    known = {
        "seg.nrrd": Choice(
            name,
            _("Segmentation for Slicer (.seg.nrrd)"),
            _("Names, colors and terminology; opens in Slicer as a segmentation"),
        ),
        "nii.gz": Choice(
            name,
            _("Label map (.nii.gz)"),
            _("One NIfTI file per scan; a number per structure"),
        ),
        "structures": Choice(
            name,
            _("One mask per structure (.nii.gz)"),
            _("A NIfTI file of zeros and ones for each structure"),
        ),
        "csv": Choice(
            name,
            _("Only volumes and gray values (.csv)"),
            _("The table that every export has, without any image files"),
        ),
        "dicom-seg": Choice(
            name,
            _("DICOM segmentation (.dcm)"),
            _("For the hospital's archive; scans that came from DICOM only"),
        ),
    }
    return known.get(name, Choice(name, name))
