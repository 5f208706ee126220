"""Structures: stable ids, unique names, codes that Slicer and DICOM know."""

from __future__ import annotations

import re

import numpy as np
import pytest

from semiseg.errors import ProtocolError, SchemaError
from semiseg.images.grid import Grid
from semiseg.images.labels import LabelMap, Segment
from semiseg.study.fields import Fields
from semiseg.study.protocol import (
    Protocol,
    Structure,
    common_structure,
    parse_structures,
    structures_of_label,
)
from semiseg.study.terminology import Code, common_names, find_term


def _structure(number: int, name: str) -> Structure:
    return Structure(id=number, name=name, color=(1, 2, 3))


@pytest.mark.parametrize(
    ("name", "value", "side"),
    [
        ("liver", "10200004", None),
        ("spleen", "78961009", None),
        ("pancreas", "15776009", None),
        ("stomach", "69695003", None),
        ("gallbladder", "28231008", None),
        ("aorta", "15825003", None),
        ("IVC", "64131007", None),
        ("kidney_left", "64033007", "7771000"),
        ("Right kidney", "64033007", "24028007"),
        ("kidney L", "64033007", "7771000"),
        ("adrenal-gland-right", "23451007", "24028007"),
        ("left ventricle", "87878005", None),
        ("Myocardium", "74281007", None),
        ("brain", "12738006", None),
    ],
)
def test_common_names_get_their_snomed_code(name: str, value: str, side: str | None) -> None:
    structure = common_structure(name, 7)
    assert structure.code is not None
    assert (structure.id, structure.name, structure.code.value) == (7, name, value)
    assert structure.code.scheme == "SCT"
    assert (structure.modifier.value if structure.modifier else None) == side


def test_many_common_structures_are_known_and_no_code_is_malformed() -> None:
    assert len(common_names()) >= 30
    for name in common_names():
        term = find_term(name)
        assert term is not None
        assert re.fullmatch(r"\d{6,18}", term.code.value)
        assert _check_digit_is_right(term.code.value), name
        assert all(0 <= part <= 255 for part in term.color)


def _check_digit_is_right(code: str) -> bool:
    """SNOMED CT identifiers end in a check digit (Verhoeff)."""
    total = 0
    for position, digit in enumerate(reversed(code)):
        total = _MULTIPLY[total][_permuted(position, int(digit))]
    return total == 0


def _permuted(position: int, digit: int) -> int:
    for _ in range(position % 8):
        digit = _PERMUTE[digit]
    return digit


_PERMUTE = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
_MULTIPLY = [
    [
        (a + b) % 5
        if a < 5 and b < 5
        else (a + b % 5) % 5 + 5
        if a < 5
        else (a - b) % 5 + 5
        if b < 5
        else (a - b) % 5
        for b in range(10)
    ]
    for a in range(10)
]


def test_left_and_right_differ_in_colour() -> None:
    assert common_structure("left kidney", 1).color != common_structure("right kidney", 1).color


def test_an_unknown_name_gets_a_colour_and_no_code() -> None:
    structure = common_structure("lesion 1", 3)
    assert structure.code is None
    assert structure.terminology == ""
    assert structure.color != common_structure("lesion 2", 4).color
    assert find_term("liver left") is None


def test_a_code_is_written_as_slicer_reads_it() -> None:
    found = common_structure("left kidney", 1).segment().terminology.split("~")
    assert found[1:4] == [
        "SCT^123037004^Anatomical Structure",
        "SCT^64033007^Kidney",
        "SCT^7771000^Left",
    ]
    assert len(found) == 7


def test_a_category_other_than_anatomy_survives() -> None:
    category = Code(scheme="SCT", value="49755003", meaning="Morphologically Altered Structure")
    code = Code(scheme="SCT", value="4147007", meaning="Mass")
    structure = Structure(id=1, name="mass", color=(9, 9, 9), code=code, category=category)
    assert "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~" in (
        structure.terminology
    )
    again = Structure.from_json(Fields(structure.to_json(), "here"))
    assert again == structure
    older = {name: value for name, value in structure.to_json().items() if name != "category"}
    assert Structure.from_json(Fields(older, "here")).category is None


@pytest.mark.parametrize(
    ("number", "name", "color"),
    [(0, "a", (0, 0, 0)), (65536, "a", (0, 0, 0)), (1, " ", (0, 0, 0)), (1, "a", (0, 0, 256))],
)
def test_impossible_structures_are_refused(
    number: int, name: str, color: tuple[int, int, int]
) -> None:
    with pytest.raises(ProtocolError):
        Structure(id=number, name=name, color=color)


def test_ids_and_names_are_unique() -> None:
    with pytest.raises(ProtocolError, match="share the id 1"):
        Protocol((_structure(1, "a"), _structure(1, "b")))
    with pytest.raises(ProtocolError, match="share the name liver"):
        parse_structures("1=liver,2=Liver")


def test_a_protocol_changes_by_id_and_leaves_the_old_one_alone() -> None:
    first = parse_structures("5=liver, 2=spleen")
    added = first.add(_structure(9, "lesion"))
    renamed = added.rename(5, "Leber")
    assert first.ids == (5, 2)
    assert renamed.by_name("leber").id == 5
    assert renamed.by_id(5).code == first.by_id(5).code
    assert renamed.remove(2).ids == (5, 9)
    assert [segment.name for segment in renamed.segments()] == ["Leber", "spleen", "lesion"]


def test_unknown_structures_are_told_with_the_known_ones() -> None:
    protocol = parse_structures("1=liver")
    with pytest.raises(ProtocolError, match="no structure 4; it has 1 liver"):
        protocol.by_id(4)
    with pytest.raises(ProtocolError, match="no structure 'spleen'"):
        protocol.by_name("spleen")
    with pytest.raises(ProtocolError, match="none yet"):
        Protocol().by_id(1)
    assert protocol.require_ids([1, 1]) == (1,)


def test_structures_are_parsed_from_text() -> None:
    assert parse_structures("liver, spleen").ids == (1, 2)
    assert parse_structures("").structures == ()
    with pytest.raises(ProtocolError, match="number=name"):
        parse_structures("one=liver")


def test_structures_are_taken_from_a_label_file() -> None:
    grid = Grid(size_xyz=(3, 1, 1), spacing_mm_xyz=(1, 1, 1))
    array = np.array([[[0, 4, 7]]], np.uint16)
    segments = (
        Segment(id=4, name="Liver", color=(9, 9, 9)),
        Segment(id=5, name="empty one", color=(8, 8, 8)),
    )
    found = structures_of_label(LabelMap(array=array, grid=grid, segments=segments))
    assert [(s.id, s.name) for s in found.structures] == [
        (4, "Liver"),
        (5, "empty one"),
        (7, "structure 7"),
    ]
    assert found.by_id(4).color == (9, 9, 9)
    assert found.by_id(4).code is not None


def test_a_protocol_survives_json() -> None:
    protocol = parse_structures("1=left kidney,7=Läsion")
    parts = Fields({"protocol": protocol.to_json()}, "study.json").parts("protocol")
    assert Protocol.from_json(parts) == protocol


@pytest.mark.parametrize(
    "broken",
    [
        {"id": 1, "name": "a", "color": [1, 2]},
        {"id": 0, "name": "a", "color": [1, 2, 3]},
        {"id": 1, "color": [1, 2, 3]},
        {"id": 1, "name": "a", "color": [1, 2, 3], "code": {"scheme": "SCT"}},
    ],
)
def test_a_broken_structure_in_a_file_is_a_schema_error(broken: dict[str, object]) -> None:
    with pytest.raises(SchemaError):
        Protocol.from_json([Fields(broken, "study.json")])  # type: ignore[arg-type]


def test_a_protocol_with_repeats_in_a_file_is_a_schema_error() -> None:
    part = Fields(_structure(1, "a").to_json(), "study.json")
    with pytest.raises(SchemaError, match="broken"):
        Protocol.from_json([part, part])
