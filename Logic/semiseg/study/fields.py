"""Reads values out of a JSON object and says in a sentence what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Never

from semiseg.errors import SchemaError
from semiseg.events import Json


@dataclass(frozen=True)
class Fields:
    """The values of one JSON object; SchemaError names `where` and the field that is wrong."""

    values: Mapping[str, Json]
    where: str

    def text(self, name: str, default: str | None = None) -> str:
        """A string; `default` where it is absent and one is given."""
        value = self._value(name, default)
        return value if isinstance(value, str) else self._fail(name, "text", value)

    def optional_text(self, name: str) -> str | None:
        """A string, or None where it is absent or null."""
        return None if self.values.get(name) is None else self.text(name)

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        value = self._value(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        return self._fail(name, "a whole number", value)

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self._value(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return self._fail(name, "a number", value)

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(name, default)
        return value if isinstance(value, bool) else self._fail(name, "true or false", value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """A string out of `choices`."""
        value = self.text(name)
        if value not in choices:
            return self._fail(name, f"one of {', '.join(choices)}", value)
        return value

    def items(self, name: str) -> list[Json]:
        """A list; empty where it is absent."""
        value = self._value(name, [])
        return value if isinstance(value, list) else self._fail(name, "a list", value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self.items(name)
        texts = tuple(item for item in found if isinstance(item, str))
        return texts if len(texts) == len(found) else self._fail(name, "a list of text", found)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        found = self.items(name)
        numbers = tuple(n for n in found if isinstance(n, int) and not isinstance(n, bool))
        if len(numbers) != len(found):
            return self._fail(name, "a list of whole numbers", found)
        return numbers

    def mapping(self, name: str) -> dict[str, Json]:
        """An object; empty where it is absent."""
        value = self._value(name, {})
        return value if isinstance(value, dict) else self._fail(name, "an object", value)

    def optional_part(self, name: str) -> Fields | None:
        """The object `name` to read further from; None where it is absent or null."""
        return None if self.values.get(name) is None else self.part(name)

    def part(self, name: str) -> Fields:
        """The object `name`, to read further from."""
        return Fields(self.mapping(name), f"{self.where}, {name}")

    def parts(self, name: str) -> list[Fields]:
        """The objects in the list `name`."""
        found = self.items(name)
        return [self._item(name, item) for item in found]

    def _item(self, name: str, item: Json) -> Fields:
        if not isinstance(item, dict):
            return self._fail(name, "a list of objects", item)
        return Fields(item, f"{self.where}, {name}")

    def _value(self, name: str, default: Json) -> Json:
        value = self.values.get(name, default)
        return default if value is None else value

    def _fail(self, name: str, expected: str, found: Json) -> Never:
        shown = "nothing" if found is None else repr(found)[:60]
        raise SchemaError(f"{self.where}: {name!r} should be {expected}, found {shown}")
