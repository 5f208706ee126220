"""What each version changed against the one before it, in voxels per structure; kept once known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from semiseg.errors import SchemaError, SemiSegError, StorageError
from semiseg.events import Json
from semiseg.study.fields import Fields
from semiseg.study.history import Item, VersionRow
from semiseg.study.storage import make_folder, read_json, write_json_atomic
from semiseg.study.study import Study


@dataclass(frozen=True, kw_only=True)
class Change:
    """Voxels that structure `id` gained and lost."""

    id: int
    added: int
    removed: int


def changes(study: Study, rows: Iterable[VersionRow]) -> dict[Item, tuple[Change, ...]]:
    """For labels and segmentations whose predecessor among `rows` can be read, too.

    What is worked out once is kept in the study's cache; versions never change.
    """
    before: dict[tuple[str, str], Item] = {}
    found: dict[Item, tuple[Change, ...]] = {}
    for item in (row.item for row in rows if not row.problem and row.item.kind != "model"):
        last = before.get((item.kind, item.case_id))
        before[item.kind, item.case_id] = item
        if last is not None:
            with contextlib.suppress(SemiSegError):  # told among the study's problems
                found[item] = _between(study, last, item)
    return found


def _between(study: Study, first: Item, second: Item) -> tuple[Change, ...]:
    folder = study.cache_dir / "history" / first.case_id
    ids = "-".join(map(str, study.protocol.ids))
    path = folder / f"{first.kind}-{first.number:04d}-{second.number:04d}-of-{ids}.json"
    with contextlib.suppress(SchemaError, StorageError):
        return tuple(_parsed(part) for part in Fields(read_json(path), str(path)).parts("changes"))
    compared = study.compare(first.case_id, first, second)
    made = tuple(
        Change(id=i, added=compared.added.get(i, 0), removed=compared.removed.get(i, 0))
        for i in sorted({*compared.added, *compared.removed})
    )
    parts: list[Json] = [dict(vars(one)) for one in made]
    with contextlib.suppress(StorageError):  # it costs time again, nothing else
        make_folder(folder)
        write_json_atomic(path, {"changes": parts})
    return made


def _parsed(part: Fields) -> Change:
    return Change(
        id=part.integer("id"), added=part.integer("added"), removed=part.integer("removed")
    )
