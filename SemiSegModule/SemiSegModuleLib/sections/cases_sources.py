"""Which volumes of the scene could become cases, which not and why; no widgets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from semiseg.errors import SemiSegError
from SemiSegModuleLib.dicom_database import instances_of

# DICOM's codes of the quantity that the DICOM module writes on a volume node.
_QUANTITIES = {"112031": "CT", "110852": "MR"}
_MODALITIES = {"CT": "CT", "MR": "MR"}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A volume node that is no case yet; `refusal` says why it cannot be one, "" when it can."""

    node: Any
    name: str
    refusal: str
    from_dicom: bool
    modality: str | None


def candidates(
    scene: Any, study_id: str, require_usable: Callable[[Any], None], *, only_dicom: bool = False
) -> list[Candidate]:
    """The scene's visible volumes that belong to no study, in the scene's order."""
    found = []
    nodes = scene.GetNodesByClass("vtkMRMLVolumeNode")
    nodes.UnRegister(None)
    for number in range(nodes.GetNumberOfItems()):
        node = nodes.GetItemAsObject(number)
        if _is_offered(node, study_id) and (not only_dicom or _is_dicom(node)):
            found.append(_candidate(scene, node, require_usable))
    return found


def modality_hint(scene: Any, node: Any) -> str | None:
    """CT or MR as DICOM loading wrote it down for `node`; None when nothing says so."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    attribute = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    item = tree.GetItemByDataNode(node) if tree else 0
    written = tree.GetItemAttribute(item, attribute) if item else ""
    if written in _MODALITIES:
        return _MODALITIES[written]
    quantity = node.GetVoxelValueQuantity() if node.IsA("vtkMRMLScalarVolumeNode") else None
    return _QUANTITIES.get(quantity.GetCodeValue()) if quantity else None


def _is_offered(node: Any, study_id: str) -> bool:
    if node.GetHideFromEditors() or not node.IsA("vtkMRMLVolumeNode"):
        return False
    return node.GetAttribute("SemiSeg.StudyId") != study_id or not node.GetAttribute("SemiSeg.Role")


def _is_dicom(node: Any) -> bool:
    return bool(instances_of(node))


def _candidate(scene: Any, node: Any, require_usable: Callable[[Any], None]) -> Candidate:
    refusal = ""
    if node.GetAttribute("SemiSeg.StudyId"):
        refusal = _("It belongs to another study; load its file anew to use it here.")
    else:
        try:
            require_usable(node)
        except SemiSegError as error:
            refusal = str(error)
    return Candidate(
        node=node,
        name=node.GetName() or "",
        refusal=refusal,
        from_dicom=_is_dicom(node),
        modality=modality_hint(scene, node),
    )
