"""`slicer.parameterNodeWrapper`: typed attributes over a real parameter node's strings."""

from __future__ import annotations

import pathlib
import typing
from collections.abc import Callable, Iterable, MutableSequence
from typing import Any

import slicer


class _Value:
    """Reads and writes one parameter under its own name, as the real wrapper does."""

    def __init__(self, name: str, kind: type, default: Any) -> None:
        self.name, self.kind = name, kind
        self.default = self.initial() if default is None else default

    def initial(self) -> Any:
        return self.kind()

    def is_in(self, node: Any) -> bool:
        return bool(node.HasParameter(self.name))

    def check(self, value: Any) -> None:
        accepted = (int, float) if self.kind is float else self.kind
        if not isinstance(value, accepted):
            raise TypeError(f"{self.name} must be a {self.kind.__name__}, got {value!r}")

    def write(self, node: Any, value: Any) -> None:
        self.check(value)
        node.SetParameter(self.name, str(value))

    def read(self, node: Any) -> Any:
        text = node.GetParameter(self.name)
        return text == "True" if self.kind is bool else self.kind(text)


class _NodeValue(_Value):
    """A node, kept as a node reference."""

    def initial(self) -> Any:
        return None

    def check(self, value: Any) -> None:
        if value is not None:
            super().check(value)

    def write(self, node: Any, value: Any) -> None:
        self.check(value)
        node.SetParameter(self.name, "")
        node.SetNodeReferenceID(self.name, None if value is None else value.GetID())

    def read(self, node: Any) -> Any:
        return node.GetNodeReference(self.name)


class ObservedList(MutableSequence[Any]):
    """A list that writes itself back when it is changed."""

    def __init__(self, values: Iterable[Any], save: Callable[[list[Any]], None]) -> None:
        self._values, self._save = list(values), save

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._save(self._values)

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._save(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def insert(self, index: int, value: Any) -> None:
        self._values.insert(index, value)
        self._save(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, ObservedList) else other)

    __hash__ = None  # type: ignore[assignment]


class _ListValue(_Value):
    """A list of one simple type: its length under `name_len`, its items under `name_0` ..."""

    def __init__(self, name: str, kind: type, default: Any) -> None:
        self.item_kind = kind
        super().__init__(name, list, default)

    def _item(self, index: int) -> _Value:
        return _Value(f"{self.name}_{index}", self.item_kind, None)

    def check(self, value: Any) -> None:
        if not isinstance(value, (list, ObservedList)):
            raise TypeError(f"{self.name} must be a list, got {value!r}")

    def is_in(self, node: Any) -> bool:
        return bool(node.HasParameter(f"{self.name}_len"))

    def _length(self, node: Any) -> int:
        return int(node.GetParameter(f"{self.name}_len")) if self.is_in(node) else 0

    def write(self, node: Any, value: Any) -> None:
        self.check(value)
        modifying, before = node.StartModify(), self._length(node)
        for index, item in enumerate(value):
            self._item(index).write(node, item)
        node.SetParameter(f"{self.name}_len", str(len(value)))
        for index in range(len(value), before):
            node.UnsetParameter(f"{self.name}_{index}")
        node.EndModify(modifying)

    def read(self, node: Any) -> Any:
        values = [self._item(index).read(node) for index in range(self._length(node))]
        return ObservedList(values, lambda changed: self.write(node, changed))


def _value(name: str, annotation: Any, default: Any) -> _Value:
    if typing.get_origin(annotation) is list:
        return _ListValue(name, typing.get_args(annotation)[0], default)
    if isinstance(annotation, type) and issubclass(annotation, slicer.vtkMRMLNode):
        return _NodeValue(name, annotation, default)
    if annotation in (str, int, float, bool, pathlib.Path):
        return _Value(name, annotation, default)
    raise TypeError(f"{name}: this stand-in knows no parameters of type {annotation}")


def parameterNodeWrapper(decorated: type) -> type:  # noqa: N802
    """Class decorator: annotated names become attributes stored in the node given to it."""
    annotations = typing.get_type_hints(decorated)
    values = {n: _value(n, a, getattr(decorated, n, None)) for n, a in annotations.items()}

    def initialize(self: Any, node: Any) -> None:
        self.parameterNode = node
        for value in values.values():
            if not value.is_in(node):
                value.write(node, value.default)

    for name, value in values.items():
        setattr(decorated, name, _property(value))
    decorated.__init__ = initialize  # type: ignore[misc]
    forwarded = ("StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified")
    for name in forwarded:
        setattr(decorated, name, _forward(name))
    decorated.default = lambda _self, name: values[name].default  # type: ignore[attr-defined]
    return decorated


def _property(value: _Value) -> property:
    def read(self: Any) -> Any:
        if not value.is_in(self.parameterNode):  # closing the scene empties the node
            value.write(self.parameterNode, value.default)
        return value.read(self.parameterNode)

    def write(self: Any, new: Any) -> None:
        value.write(self.parameterNode, new)

    return property(read, write)


def _forward(name: str) -> Callable[..., Any]:
    return lambda self, *arguments: getattr(self.parameterNode, name)(*arguments)


def content() -> dict[str, Any]:
    """The names of the module."""
    return {"parameterNodeWrapper": parameterNodeWrapper}
