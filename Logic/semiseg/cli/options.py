"""Arguments and options that several commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiseg.errors import ConfigError

if TYPE_CHECKING:
    from semiseg.study.study import Study

StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of the study.")]
CaseId = Annotated[str, typer.Argument(metavar="CASE", help="Case, as in `study status`.")]
CaseIds = Annotated[
    list[str] | None, typer.Argument(metavar="[CASE]...", help="Cases; all of them if none.")
]
DeviceName = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda.", metavar="DEVICE", show_default=True)
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="Processes that share the work; this one if none."),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Share them over this Ray cluster: host:port."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
StructureNames = Annotated[
    str | None,
    typer.Option("--structures", metavar="NAMES", help="Only these, e.g. liver,spleen."),
]


def parse_indices(text: str) -> tuple[int, ...]:
    """Slice numbers from `"10,20,30-40"`, sorted, each once; ConfigError when it is not that."""
    found: set[int] = set()
    for part in (piece.strip() for piece in text.split(",")):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise ConfigError(
                f"cannot read the slices {text!r}; write them as 10,20,30-40 (numbered from 0)"
            )
        begin, end = int(first), int(last) if dash else int(first)
        if end < begin or end - begin > 100_000:
            raise ConfigError(f"cannot read the slices {part!r}; the second number is the larger")
        found.update(range(begin, end + 1))
    return tuple(sorted(found))


def parse_pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """`{"a": "b"}` from `["a=b"]`; ConfigError when there is no "=" or a key comes twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ConfigError(f"cannot read {text!r}; write {what}")
        if key.strip() in pairs:
            raise ConfigError(f"{key.strip()!r} is given twice; write {what} once for each")
        pairs[key.strip()] = value.strip()
    return pairs


def structure_ids(study: Study, names: str | None) -> tuple[int, ...]:
    """Ids of the named structures (names or numbers, separated by commas); all if None."""
    if names is None:
        return study.protocol.ids
    parts = [part.strip() for part in names.split(",") if part.strip()]
    if not parts:
        raise ConfigError("--structures names no structure; write for example liver,spleen")
    return tuple(
        study.protocol.by_id(int(part)).id if part.isdecimal() else study.protocol.by_name(part).id
        for part in parts
    )


def chosen_cases(study: Study, case_ids: Sequence[str] | None) -> tuple[str, ...] | None:
    """`case_ids` as a tuple, each known to the study; None for all."""
    if not case_ids:
        return None
    for case_id in case_ids:
        study.case(case_id)
    return tuple(case_ids)


def shell_path(path: Path) -> str:
    """`path` as it can be typed."""
    text = str(path)
    return f'"{text}"' if any(character in text for character in " ()&;'") else text
