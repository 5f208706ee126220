"""What the real application offers to Python, read from `slicer_api.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["property", "method", "signal", "constant"]
NAMESPACES = ("qt", "ctk", "slicer")
API_FILE = Path(__file__).with_name("slicer_api.json")
# Offered by Python or PythonQt to every object of the real application, and so not listed there.
PYTHONQT_METHODS = ("connect", "disconnect", "delete", "className", "help", "inherits", "exec_")
# Names that came after the reading of the listed version, with the version that brought them.
NEWER = {"slicer.packaging": "5.12"}


@cache
def load() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(API_FILE.read_text(encoding="utf-8"))
    return content


@cache
def class_api(name: str) -> dict[str, Any] | None:
    """The entry of a class in `qt`, `ctk` or `slicer`; None where the application has none."""
    for namespace in NAMESPACES:
        if name in load()[namespace]:
            entry: dict[str, Any] = load()[namespace][name]
            return entry
    return None


@cache
def kinds(class_name: str, name: str) -> frozenset[Kind]:
    """As what `name` exists on objects of a class: empty where it does not exist."""
    found: set[Kind] = set()
    current: str | None = class_name
    while current is not None and (entry := class_api(current)) is not None:
        for kind in ("property", "method", "signal", "constant"):
            if name in entry.get(kind, ()):
                found.add(kind)
        current = entry["extends"]
    if name in PYTHONQT_METHODS:
        found.add("method")
    return frozenset(found)


@cache
def names(where: str) -> frozenset[str]:
    """Names of a Python module or object, such as `slicer.util` or `slicer.app`."""
    content = load()
    found = content["python"].get(where)
    if found is None:
        found = content.get(where, {}).get("names", ())
    return frozenset(found)
