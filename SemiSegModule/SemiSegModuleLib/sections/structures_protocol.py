"""Changes of a study's structures, each as a new protocol; no widgets."""

from collections.abc import Mapping
from dataclasses import replace

from slicer.i18n import tr as _

from semiseg.errors import ProtocolError
from semiseg.study.protocol import LARGEST_ID, Protocol, Structure, common_structure
from semiseg.study.terminology import Code, Color, common_names, find_term


def suggestions() -> list[str]:
    """The common structures as a clinician writes them: "left kidney", not "kidney_left"."""
    return sorted(_spoken(name) for name in common_names())


def presets() -> dict[str, tuple[str, ...]]:
    """Sets of structures that are often segmented together, by the name of the set."""
    return {
        _("Abdomen"): (
            "liver", "spleen", "left kidney", "right kidney", "pancreas", "gallbladder",
        ),
        _("Heart"): (
            "left ventricle", "right ventricle", "left atrium", "right atrium", "myocardium",
            "aorta", "pulmonary artery",
        ),
        _("Thorax"): (
            "left lung", "right lung", "heart", "aorta", "esophagus", "trachea", "spinal cord",
        ),
        _("Pelvis"): ("urinary bladder", "prostate", "rectum", "left femur", "right femur"),
        _("Hippocampus"): ("hippocampus",),
    }  # fmt: skip


def added(protocol: Protocol, name: str, retired: Mapping[int, str]) -> Protocol:
    """With the structure `name`; ProtocolError when the name is empty or taken.

    `retired` are the ids of removed structures by name: such a name gets its old id and voxels.
    """
    name = checked_name(protocol, name)
    return protocol.add(common_structure(name, _id_for(protocol, name, retired)))


def with_preset(protocol: Protocol, names: tuple[str, ...], retired: Mapping[int, str]) -> Protocol:
    """With those of `names` whose name or code the protocol does not have yet."""
    for name in names:
        term = find_term(name)
        known = {s.name.casefold() for s in protocol.structures}
        codes = {(s.code, s.modifier) for s in protocol.structures if s.code}
        if name.casefold() not in known and (not term or (term.code, term.modifier) not in codes):
            protocol = added(protocol, name, retired)
    return protocol


def renamed(protocol: Protocol, structure_id: int, name: str) -> Protocol:
    """With another name; a structure without a code gets the one that the name stands for."""
    name = checked_name(protocol, name, structure_id)
    structure, term = protocol.by_id(structure_id), find_term(name)
    if structure.code is None and term is not None:
        structure = replace(structure, code=term.code, modifier=term.modifier)
    return _with(protocol, replace(structure, name=name))


def recolored(protocol: Protocol, structure_id: int, color: Color) -> Protocol:
    """With another color for `structure_id`."""
    return _with(protocol, replace(protocol.by_id(structure_id), color=color))


def coded(
    protocol: Protocol, structure_id: int, category: Code | None, code: Code, modifier: Code | None
) -> Protocol:
    """With another term for `structure_id`; `category` None: an anatomical structure."""
    structure = protocol.by_id(structure_id)
    changed = replace(structure, category=category, code=code, modifier=modifier)
    return _with(protocol, changed)


def moved(protocol: Protocol, structure_id: int, step: int) -> Protocol:
    """With `structure_id` up (-1) or down (+1) in the order; its label value stays."""
    structures = list(protocol.structures)
    place = protocol.ids.index(structure_id)
    target = min(max(place + step, 0), len(structures) - 1)
    structures.insert(target, structures.pop(place))
    return Protocol(tuple(structures))


def checked_name(protocol: Protocol, name: str, own_id: int | None = None) -> str:
    """`name` without outer spaces; ProtocolError when empty or another structure has it."""
    name = " ".join(name.split())
    if not name:
        raise ProtocolError(_("A structure needs a name; type one, for example liver."))
    for structure in protocol.structures:
        if structure.id != own_id and structure.name.casefold() == name.casefold():
            raise ProtocolError(
                _("There is a structure {name} already; give this one another name.").format(
                    name=structure.name
                )
            )
    return name


def term_in_words(structure: Structure) -> str:
    """The term of a structure, for example "Kidney, left"; a dash without one."""
    if structure.code is None:
        return "-"
    if structure.modifier is None:
        return structure.code.meaning
    return f"{structure.code.meaning}, {structure.modifier.meaning.lower()}"


def term_tip(structure: Structure) -> str:
    """The codes behind `term_in_words`."""
    if structure.code is None:
        return _("No code; other programs see the name only. Double-click to choose one.")
    codes = (structure.code, structure.modifier)
    return "\n".join(f"{code.scheme} {code.value} {code.meaning}" for code in codes if code)


def _id_for(protocol: Protocol, name: str, retired: Mapping[int, str]) -> int:
    for number, old in retired.items():
        if old.casefold() == name.casefold() and number not in protocol.ids:
            return number
    return min(max((0, *protocol.ids, *retired)) + 1, LARGEST_ID)


def _with(protocol: Protocol, structure: Structure) -> Protocol:
    return Protocol(tuple(structure if s.id == structure.id else s for s in protocol.structures))


def _spoken(name: str) -> str:
    words = name.split("_")
    if words[-1] in ("left", "right") and len(words) > 1:
        words = [words[-1], *words[:-1]]
    return " ".join(words)
