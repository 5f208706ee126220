"""What a job is: plain values without identity, whose digest is the job's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, cast, get_args

from semiseg import __version__
from semiseg.config import Rule
from semiseg.errors import SchemaError
from semiseg.events import Json
from semiseg.study.fields import Fields

FORMAT = 1
Kind = Literal["propagate", "train", "predict"]
KINDS: tuple[Kind, ...] = ("propagate", "train", "predict")
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file by its content."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> Piece:
        """The piece that `content` is."""
        return cls(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))

    @classmethod
    def from_json(cls, fields: Fields) -> Piece:
        """SchemaError when it names no digest."""
        sha256 = fields.text("sha256")
        if len(sha256) != 64 or not set(sha256) <= _HEX:
            raise SchemaError(f"{fields.where}: {sha256[:80]!r} is no SHA-256")
        return cls(sha256=sha256, size_bytes=fields.integer("size_bytes"))


@dataclass(frozen=True, kw_only=True)
class Version:
    """A label, a segmentation or a model: files by name, and what is told of them."""

    files: Mapping[str, Piece]
    info: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Fields) -> Version:
        """SchemaError when a file's name is not a plain one."""
        listed = fields.part("files")
        for name in listed.values:
            if not name or name.startswith(".") or "/" in name or "\\" in name:
                raise SchemaError(f"{listed.where}: {name!r} is no file name")
        files = {name: Piece.from_json(listed.part(name)) for name in listed.values}
        return cls(files=files, info=fields.mapping("info"))


@dataclass(frozen=True, kw_only=True)
class SentCase:
    """A case under a name that says nothing; `asked`: work is wanted for it."""

    id: str
    patient: str
    modality: str
    split: str
    asked: bool
    image: Piece
    label: Version | None = None
    sequence: str | None = None

    @classmethod
    def from_json(cls, fields: Fields) -> SentCase:
        """SchemaError when a value is missing."""
        label = fields.optional_part("label")
        return cls(
            id=fields.text("id"),
            patient=fields.text("patient"),
            modality=fields.text("modality"),
            split=fields.text("split"),
            asked=fields.flag("asked"),
            image=Piece.from_json(fields.part("image")),
            label=None if label is None else Version.from_json(label),
            sequence=fields.optional_text("sequence"),
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One job: `arguments` are options of the command `kind`, `structures` the protocol's ids.

    `rules` say for each structure what the clean-up may leave of it.
    """

    kind: Kind
    arguments: tuple[str, ...]
    structures: tuple[int, ...]
    rules: tuple[Rule, ...]
    cases: tuple[SentCase, ...]
    model: Version | None = None
    semiseg: str = __version__
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """The same bytes for the same job."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return text.encode()

    @property
    def job_id(self) -> str:
        """Two submissions of the same job have the same name."""
        return f"semiseg-{hashlib.sha256(self.to_bytes()).hexdigest()[:32]}"

    @property
    def pieces(self) -> dict[str, Piece]:
        """All files that the job needs, by digest."""
        versions = [case.label for case in self.cases if case.label is not None]
        versions += [] if self.model is None else [self.model]
        found = [case.image for case in self.cases]
        found += [piece for version in versions for piece in version.files.values()]
        return {piece.sha256: piece for piece in found}

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """SchemaError when it is not a job of this format."""
        try:
            values = json.loads(content)
        except ValueError as error:
            raise SchemaError(f"the job's description is damaged: {error}") from error
        fields = Fields(values if isinstance(values, dict) else {}, "the job's description")
        number = fields.integer("format")
        if number != FORMAT:
            raise SchemaError(f"the job has the format {number}, this SemiSeg reads {FORMAT}")
        model = fields.optional_part("model")
        return cls(
            kind=cast(Kind, fields.choice("kind", KINDS)),
            arguments=fields.texts("arguments"),
            structures=fields.integers("structures"),
            rules=_rules(fields),
            cases=tuple(SentCase.from_json(part) for part in fields.parts("cases")),
            model=None if model is None else Version.from_json(model),
            semiseg=fields.text("semiseg"),
        )


def _rules(fields: Fields) -> tuple[Rule, ...]:
    found = fields.texts("rules")
    known = tuple(rule for rule in get_args(Rule) if rule in found)
    if set(known) != set(found) or len(found) != len(fields.integers("structures")):
        raise SchemaError(f"{fields.where}: one of {get_args(Rule)} is needed for each structure")
    return cast("tuple[Rule, ...]", found)
