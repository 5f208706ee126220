"""The structures of a study: stable ids, names, colours and codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from semiseg.errors import ProtocolError, SchemaError
from semiseg.events import Json
from semiseg.images.labels import LabelMap, Segment
from semiseg.study.fields import Fields
from semiseg.study.terminology import ANATOMICAL_STRUCTURE, PALETTE, Code, Color, find_term

LARGEST_ID = 65535


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One thing to segment; voxels carry `id` (1 to 65535), which never changes its meaning.

    `category` is what kind of thing `code` is; None stands for an anatomical structure.
    """

    id: int
    name: str
    color: Color
    code: Code | None = None
    modifier: Code | None = None
    category: Code | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.id <= LARGEST_ID:
            raise ProtocolError(
                f"structure {self.name!r} has the id {self.id}; give it one from 1 to {LARGEST_ID}"
            )
        if not self.name.strip() or any(ord(c) < 32 for c in self.name):
            raise ProtocolError(f"structure {self.id} needs a name of visible characters")
        if len(self.color) != 3 or not all(0 <= part <= 255 for part in self.color):
            raise ProtocolError(f"the colour of {self.name!r} must be three numbers from 0 to 255")

    def segment(self) -> Segment:
        """The same as a segment of a label file, its code in Slicer's notation."""
        return Segment(id=self.id, name=self.name, color=self.color, terminology=self.terminology)

    @property
    def terminology(self) -> str:
        """Category, type and modifier as Slicer's terminology entry; empty without a code."""
        if self.code is None:
            return ""
        parts = (self.category or ANATOMICAL_STRUCTURE, self.code, self.modifier)
        terms = "~".join(_caret(part) for part in parts)
        return (
            f"Segmentation category and type - DICOM master list~{terms}"
            "~Anatomic codes - DICOM master list~^^~^^"
        )

    def to_json(self) -> dict[str, Json]:
        """Plain values for study.json."""
        return {
            "id": self.id,
            "name": self.name,
            "color": list(self.color),
            "code": _code_json(self.code),
            "modifier": _code_json(self.modifier),
            "category": _code_json(self.category),
        }

    @classmethod
    def from_json(cls, fields: Fields) -> Structure:
        """SchemaError when a value is missing or out of range."""
        color = fields.integers("color")
        if len(color) != 3:
            raise SchemaError(f"{fields.where}: 'color' should be three numbers, found {color}")
        try:
            return cls(
                id=fields.integer("id"),
                name=fields.text("name"),
                color=(color[0], color[1], color[2]),
                code=_code(fields.optional_part("code")),
                modifier=_code(fields.optional_part("modifier")),
                category=_code(fields.optional_part("category")),
            )
        except ProtocolError as error:
            raise SchemaError(f"{fields.where}: {error}") from error


@dataclass(frozen=True)
class Protocol:
    """The structures of a study in the user's order; ids and names are unique."""

    structures: tuple[Structure, ...] = ()

    def __post_init__(self) -> None:
        _require_unique("id", [str(s.id) for s in self.structures])
        _require_unique("name", [s.name.casefold() for s in self.structures])

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids in the protocol's order."""
        return tuple(structure.id for structure in self.structures)

    def by_id(self, structure_id: int) -> Structure:
        """ProtocolError when no structure has this id."""
        for structure in self.structures:
            if structure.id == structure_id:
                return structure
        raise ProtocolError(f"the protocol has no structure {structure_id}; it has {self._known}")

    def by_name(self, name: str) -> Structure:
        """ProtocolError when no structure has this name; upper and lower case are one."""
        for structure in self.structures:
            if structure.name.casefold() == name.casefold():
                return structure
        raise ProtocolError(f"the protocol has no structure {name!r}; it has {self._known}")

    def require_ids(self, ids: Iterable[int]) -> tuple[int, ...]:
        """`ids` sorted and without repeats; ProtocolError names the first that is unknown."""
        return tuple(sorted({self.by_id(structure_id).id for structure_id in ids}))

    def segments(self) -> tuple[Segment, ...]:
        """The structures as segments of a label file."""
        return tuple(structure.segment() for structure in self.structures)

    def add(self, structure: Structure) -> Protocol:
        """With one structure more; ProtocolError when its id or name is taken."""
        return Protocol((*self.structures, structure))

    def rename(self, structure_id: int, name: str) -> Protocol:
        """With another name for `structure_id`; its voxels stay its own."""
        renamed = replace(self.by_id(structure_id), name=name)
        return Protocol(tuple(renamed if s.id == renamed.id else s for s in self.structures))

    def remove(self, structure_id: int) -> Protocol:
        """Without `structure_id`."""
        gone = self.by_id(structure_id)
        return Protocol(tuple(s for s in self.structures if s.id != gone.id))

    def to_json(self) -> list[Json]:
        """Plain values for study.json."""
        return [structure.to_json() for structure in self.structures]

    @classmethod
    def from_json(cls, parts: Iterable[Fields]) -> Protocol:
        """SchemaError when a structure is broken or occurs twice."""
        try:
            return cls(tuple(Structure.from_json(part) for part in parts))
        except ProtocolError as error:
            raise SchemaError(f"the protocol is broken: {error}") from error

    @property
    def _known(self) -> str:
        names = [f"{s.id} {s.name}" for s in self.structures]
        return ", ".join(names) or "none yet: add structures first"


def common_structure(name: str, structure_id: int) -> Structure:
    """Structure `name` with its SNOMED CT code and colour where the name is a common one."""
    term = find_term(name)
    if term is None:
        return Structure(
            id=structure_id, name=name, color=PALETTE[(structure_id - 1) % len(PALETTE)]
        )
    return Structure(
        id=structure_id, name=name, color=term.color, code=term.code, modifier=term.modifier
    )


def parse_structures(text: str) -> Protocol:
    """The protocol of `"1=liver,2=kidney_right"`; without numbers, ids count from 1."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    found = []
    for position, entry in enumerate(entries, start=1):
        number, equals, name = entry.partition("=")
        if equals and not number.strip().isdecimal():
            raise ProtocolError(
                f"cannot read the structure {entry!r}; write it as number=name, for example 1=liver"
            )
        structure_id = int(number) if equals else position
        found.append(common_structure(name.strip() if equals else entry, structure_id))
    return Protocol(tuple(found))


def structures_of_label(label: LabelMap) -> Protocol:
    """The protocol that a label file describes; values without a name become "structure N"."""
    named = {segment.id: segment for segment in label.segments}
    values = {int(value) for value in np.unique(label.array)} | set(named)
    found = []
    for value in sorted(values - {0}):
        segment = named.get(value)
        structure = common_structure(segment.name if segment else f"structure {value}", value)
        found.append(replace(structure, color=segment.color) if segment else structure)
    return Protocol(tuple(found))


def _require_unique(what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ProtocolError(
            f"two structures share the {what} {', '.join(twice)}; give each its own"
        )


def _caret(code: Code | None) -> str:
    return "^^" if code is None else f"{code.scheme}^{code.value}^{code.meaning}"


def _code_json(code: Code | None) -> dict[str, Json] | None:
    if code is None:
        return None
    return {"scheme": code.scheme, "value": code.value, "meaning": code.meaning}


def _code(fields: Fields | None) -> Code | None:
    if fields is None:
        return None
    return Code(
        scheme=fields.text("scheme"), value=fields.text("value"), meaning=fields.text("meaning")
    )
