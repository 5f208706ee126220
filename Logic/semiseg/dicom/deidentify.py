"""DICOM objects without the patient's identity, by the Basic Profile of DICOM PS3.15 Annex E."""

from __future__ import annotations

import hashlib
import hmac
import io
from collections.abc import Callable

from dicomanonymizer.simpledicomanonymizer import (
    delete_or_empty_or_replace_UID,
    initialize_actions_2024b,
    keep,
    replace_UID,
)
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue

from semiseg.dicom.elements import quiet

Rule = Callable[[Dataset, tuple[int, int]], None]
# Names of structures are the study's, not the patient's, and an export without them is worthless.
_OURS = (
    "StructureSetLabel",
    "ROIName",
    "ROIObservationLabel",
    "ROIGenerationDescription",
    "SegmentLabel",
    "SeriesDescription",
    "ContentDescription",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "TrackingID",
)
_IMAGE_KEEPS = ("Manufacturer", "ManufacturerModelName")
# The library's dummy, the year 1, is a date that validators refuse.
_NO_DATE, _OLD_DATE = "00010101", "19000101"


def deidentified(dataset: Dataset, *, patient: str, secret: str, ours: bool = True) -> Dataset:
    """A copy of `dataset` without what identifies the patient, named `patient` instead.

    Unique ids are replaced by others that only depend on them and on `secret`, so that objects
    of one study still refer to each other, from one export to the next. `ours`: SemiSeg made
    the object, so its labels and descriptions are kept.
    """
    with quiet():
        found = _copy(dataset)
        found.remove_private_tags()
        _clean(found, _rules(secret, _OURS if ours else _IMAGE_KEEPS))
    found.PatientName = found.PatientID = patient
    found.PatientIdentityRemoved = "YES"
    found.DeidentificationMethod = "DICOM PS3.15 Basic Profile"
    found.DeidentificationMethodCodeSequence = [_method()]
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    return found


def _copy(dataset: Dataset) -> FileDataset:
    """Through a file: parts that occur twice are then two, and each is cleaned once."""
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return dcmread(stream)


def replaced_uid(uid: str, secret: str) -> str:
    """Another unique id in place of `uid`, always the same for one `secret`."""
    digest = hmac.new(secret.encode(), uid.encode(), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


class _Rules:
    """What the profile says of a tag: its own rule or that of its repeating group."""

    def __init__(self, table: dict[tuple[int, ...], Rule]) -> None:
        self._single = {tag[:2]: rule for tag, rule in table.items() if len(tag) == 2}
        self._repeated = [(tag, rule) for tag, rule in table.items() if len(tag) == 4]

    def of(self, group: int, element: int) -> Rule | None:
        """None where the profile leaves the value alone."""
        found = self._single.get((group, element))
        if found is not None:
            return found
        for (want_group, want_element, group_mask, element_mask), rule in self._repeated:
            same = group & group_mask == want_group & group_mask
            if same and element & element_mask == want_element & element_mask:
                return rule
        return None


def _clean(dataset: Dataset, rules: _Rules) -> None:
    """Applies the rules at every depth, which the library itself does for the top only."""
    for tag in list(dataset.keys()):
        rule = rules.of(tag.group, tag.element)
        if rule is not None:
            rule(dataset, (tag.group, tag.element))
        if tag not in dataset:
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                _clean(item, rules)
        elif element.VR in ("DA", "DT") and str(element.value).startswith(_NO_DATE):
            element.value = str(element.value).replace(_NO_DATE, _OLD_DATE, 1)


def _rules(secret: str, kept: tuple[str, ...]) -> _Rules:
    def replace(dataset: Dataset, tag: tuple[int, int]) -> None:
        element = dataset[tag]
        if element.VR != "UI" or not element.value:
            return
        many = isinstance(element.value, MultiValue)
        values = list(element.value) if many else [element.value]
        new = [replaced_uid(str(value), secret) for value in values]
        element.value = new if many else new[0]

    by_uid = (replace_UID, delete_or_empty_or_replace_UID)
    table: dict[tuple[int, ...], Rule] = {
        tag: replace if action in by_uid else action
        for tag, action in initialize_actions_2024b().items()
    }
    for keyword in kept:
        number = tag_for_keyword(keyword)
        if number is not None:
            table[(number >> 16, number & 0xFFFF)] = keep
    return _Rules(table)


def _method() -> Dataset:
    item = Dataset()
    item.CodeValue = "113100"
    item.CodingSchemeDesignator = "DCM"
    item.CodeMeaning = "Basic Application Confidentiality Profile"
    return item
