"""Values of a DICOM header, read without trusting them."""

from __future__ import annotations

import contextlib
import math
import struct
import warnings
from collections.abc import Iterator
from decimal import InvalidOperation

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.sequence import Sequence as DicomSequence

# What a damaged header makes pydicom raise when one of its values is looked at.
DAMAGED = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    InvalidOperation,
    EOFError,
    OSError,
    AssertionError,
    struct.error,
    RuntimeError,
    BytesLengthException,
    InvalidDicomError,
)
_LONGEST_TEXT = 256


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what pydicom warns of: what matters of it is told in our own sentences."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def text(dataset: Dataset, keyword: str) -> str:
    """The value as text without blanks around it; empty when missing, damaged or very long."""
    try:
        value = dataset.get(keyword)
        found = "" if value is None else str(value).strip(" \0")
    except DAMAGED:
        return ""
    return found if len(found) <= _LONGEST_TEXT else ""


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of an element as text; () when missing or damaged."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return ()
        many = [value] if isinstance(value, str) else list(value)
        return tuple(str(part).strip() for part in many)
    except DAMAGED:
        return ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """One finite number, the first of several; None when missing, damaged or not finite."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """A whole number; None when missing, damaged or fractional."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found == int(found) else None


def numbers(dataset: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...]:
    """Finite numbers; () when missing, damaged, not finite or not `count` of them."""
    try:
        value = dataset.get(keyword)
        if value is None or isinstance(value, bytes):
            return ()
        many = [value] if isinstance(value, str | int | float) else list(value)
        found = tuple(float(part) for part in many)
    except DAMAGED:
        return ()
    if (count is not None and len(found) != count) or not all(map(math.isfinite, found)):
        return ()
    return found


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; [] when missing, empty or damaged."""
    try:
        value = dataset.get(keyword)
        return list(value) if isinstance(value, DicomSequence) else []
    except DAMAGED:
        return []


def first(dataset: Dataset, *keywords: str) -> Dataset:
    """The first item down a path of sequences; an empty one where there is none."""
    for keyword in keywords:
        found = items(dataset, keyword)
        dataset = found[0] if found else Dataset()
    return dataset
