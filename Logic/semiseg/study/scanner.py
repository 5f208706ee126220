"""Which DICOM series the cases of a study came from."""

from __future__ import annotations

from pathlib import Path

from semiseg.dicom.references import NAME, Reference
from semiseg.errors import SchemaError
from semiseg.study.storage import read_json, write_json_atomic
from semiseg.study.study import Study


def reference_of(study: Study, case_id: str) -> Reference | None:
    """Which DICOM series a case came from; None when it came from another kind of file.

    SchemaError when what was kept of it is damaged or not of this image.
    """
    case = study.case(case_id)
    path = _path(study, case_id)
    if not path.exists():
        return None
    reference = Reference.from_json(read_json(path))
    if reference.grid.difference(case.grid) is not None:
        raise SchemaError(f"{path} is not of the image of {case_id}; add the series anew")
    return reference


def keep_reference(study: Study, case_id: str, reference: Reference) -> None:
    """Writes it beside the case's image."""
    write_json_atomic(_path(study, case_id), reference.to_json())


def _path(study: Study, case_id: str) -> Path:
    return study.folder / "cases" / case_id / NAME
