"""Slicer's DICOM database: what is asked of it, over files that tests put in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PySide6 import QtCore


@dataclass
class _Image:
    path: str
    tags: dict[str, str] = field(default_factory=dict)


_TAGS = {
    "SOPInstanceUID": "0008,0018",
    "SeriesInstanceUID": "0020,000e",
    "StudyInstanceUID": "0020,000d",
    "PatientID": "0010,0020",
    "PatientsName": "0010,0010",
    "Modality": "0008,0060",
    "SeriesNumber": "0020,0011",
    "SeriesDescription": "0008,103e",
    "SeriesDate": "0008,0021",
    "StudyDate": "0008,0020",
    "StudyDescription": "0008,1030",
}
_ALL = (*_TAGS.values(), "0008,0008")


class ctkDICOMDatabase(QtCore.QObject):  # noqa: N801
    """Open from the start and empty; nothing is stored.

    Series, studies and patients are named by unique ids, as in the application, where a patient
    has a number of the database's own.
    """

    def __init__(self) -> None:
        QtCore.QObject.__init__(self)
        self._images: dict[str, _Image] = {}

    @property
    def isOpen(self) -> bool:  # noqa: N802
        return True

    def insert(self, path: str, *_options: Any) -> None:
        """Take in a file; one that is no DICOM is passed over."""
        import pydicom  # what never asks for the database loads no reader

        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (OSError, pydicom.errors.InvalidDicomError):
            return
        image = _Image(path=str(path))
        for tag in _ALL:
            group, element = (int(part, 16) for part in tag.split(","))
            value = header.get((group, element))
            image.tags[tag] = "" if value is None else _text(value.value)
        self._images[image.tags[_TAGS["SOPInstanceUID"]]] = image

    def patients(self) -> list[str]:
        return self._distinct("PatientID", {})

    def studiesForPatient(self, patient: str) -> list[str]:  # noqa: N802
        return self._distinct("StudyInstanceUID", {"PatientID": patient})

    def seriesForStudy(self, study: str) -> list[str]:  # noqa: N802
        return self._distinct("SeriesInstanceUID", {"StudyInstanceUID": study})

    def instancesForSeries(self, series: str, *_hits: Any) -> list[str]:  # noqa: N802
        return self._distinct("SOPInstanceUID", {"SeriesInstanceUID": series})

    def filesForSeries(self, series: str, *_hits: Any) -> list[str]:  # noqa: N802
        return [self._images[uid].path for uid in self.instancesForSeries(series)]

    def fileForInstance(self, uid: str) -> str:  # noqa: N802
        return self._images[uid].path if uid in self._images else ""

    def instanceForFile(self, path: str) -> str:  # noqa: N802
        return next((uid for uid, image in self._images.items() if image.path == path), "")

    def seriesForFile(self, path: str) -> str:  # noqa: N802
        return self.instanceValue(self.instanceForFile(path), _TAGS["SeriesInstanceUID"])

    def nameForPatient(self, patient: str) -> str:  # noqa: N802
        return self._field("PatientsName", {"PatientID": patient})

    def fieldForStudy(self, name: str, study: str) -> str:  # noqa: N802
        return self._field(name, {"StudyInstanceUID": study})

    def fieldForSeries(self, name: str, series: str) -> str:  # noqa: N802
        return self._field(name, {"SeriesInstanceUID": series})

    def instanceValue(self, uid: str, tag: str) -> str:  # noqa: N802
        return self._images[uid].tags.get(tag.lower(), "") if uid in self._images else ""

    def removeSeries(self, series: str, *_options: Any) -> bool:  # noqa: N802
        """Forget a series; its files stay."""
        gone = self.instancesForSeries(series)
        for uid in gone:
            del self._images[uid]
        return bool(gone)

    def _distinct(self, name: str, wanted: dict[str, str]) -> list[str]:
        return list(dict.fromkeys(image.tags[_TAGS[name]] for image in self._fitting(wanted)))

    def _field(self, name: str, wanted: dict[str, str]) -> str:
        return next((image.tags[_TAGS[name]] for image in self._fitting(wanted)), "")

    def _fitting(self, wanted: dict[str, str]) -> list[_Image]:
        return [
            image
            for image in self._images.values()
            if all(image.tags[_TAGS[name]] == value for name, value in wanted.items())
        ]


def _text(value: Any) -> str:
    if isinstance(value, str) or not hasattr(value, "__iter__") or hasattr(value, "components"):
        return "" if value is None else str(value)
    return "\\".join(map(str, value))
