"""Giving back the space of versions that nothing needs any more."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from semiseg.config import check_range
from semiseg.errors import SchemaError, StudyError
from semiseg.events import Json
from semiseg.study.case import Problem
from semiseg.study.history import KINDS, History, Item, VersionRow
from semiseg.study.owner import temporary_name
from semiseg.study.results import Results
from semiseg.study.storage import on_disk, sync_folder
from semiseg.study.suggestion import newest_propagation
from semiseg.study.versions import version_folder


class Pruning(History, Results):
    """The part of `Study` about versions that may go."""

    def prunable(self, *, keep: int = 2) -> tuple[VersionRow, ...]:
        """The versions that nothing needs: rows whose sizes are what pruning gives back.

        Never the newest `keep` of each label, segmentation and the models, pinned or named ones,
        those that a kept one or the newest evaluation refers to, nor what can be undone to.
        Where names and pins cannot be read, none goes, and `problems` say so.
        """
        check_range("keep", keep, 1, 1_000_000)
        rows = {row.item: row for row in self.version_rows()}
        kept = self._newest_ones(rows, keep)
        kept |= {item for item, row in rows.items() if row.pinned or row.name}
        kept |= self._perhaps_pinned(rows) | self._evaluated() | self._shown()
        kept |= _makers(rows, kept)
        kept |= {item for item, row in rows.items() if _takes_back(row, kept)}
        return tuple(row for item, row in rows.items() if item not in kept)

    def prune(self, items: Iterable[Item], *, keep: int = 2) -> int:
        """Deletes versions for good; returns the bytes given back.

        StudyError, with nothing deleted, when one of them is not `prunable`.
        """
        with self.writing():
            free = {row.item: row for row in self.prunable(keep=keep)}
            chosen = list(dict.fromkeys(items))
            needed = [item for item in chosen if item not in free]
            if needed:
                raise StudyError(
                    f"{needed[0]} cannot go: it is new, pinned, named, or something rests on it; "
                    "unpin it, or keep fewer of the newest"
                )
            for item in chosen:
                self._delete(item)
            total = sum(free[item].size_bytes for item in chosen)
            gone: list[Json] = [str(item) for item in chosen]
            if gone:
                self._note("pruned", items=gone, bytes=total)
            return total

    def _newest_ones(self, rows: Mapping[Item, VersionRow], keep: int) -> set[Item]:
        """The last `keep` that are whole of each kind and case, and whatever is newer."""
        kept: set[Item] = set()
        for group in {(item.kind, item.case_id) for item in rows}:
            mine = sorted(i for i in rows if (i.kind, i.case_id) == group)
            whole = [item for item in mine if not rows[item].problem]
            first = whole[-keep:][0] if whole else mine[0]
            kept |= {item for item in mine if item >= first}
        return kept

    def _perhaps_pinned(self, rows: Mapping[Item, VersionRow]) -> set[Item]:
        """Those of which it cannot be read whether somebody pinned or named them."""
        parents = {item: self.version_parent(item.kind, item.case_id) for item in rows}
        unclear: set[Path] = set()
        for parent in set(parents.values()):
            try:
                self._said_of(parent)
            except SchemaError as error:
                unclear.add(parent)
                remedy = "until then none of them is pruned"
                self._tell(Problem(path=parent, message=str(error), remedy=remedy))
        return {item for item, parent in parents.items() if parent in unclear}

    def _evaluated(self) -> set[Item]:
        """What the newest evaluation judged."""
        found: set[Item] = set()
        for evaluation in self.evaluations()[-1:]:
            for row in evaluation.rows:
                version, model = row.get("version"), row.get("model_id")
                kind = KINDS[0] if model is None else KINDS[1]
                if isinstance(version, int):
                    found.add(Item(kind=kind, case_id=str(row.get("case")), number=version))
        return found

    def _shown(self) -> set[Item]:
        """What is suggested now, and what comes back when that is taken back."""
        found: set[Item] = set()
        for case_id in self.cases:
            counting = self.prediction_versions(case_id)[-2:]
            found |= {Item(kind="prediction", case_id=case_id, number=n) for n in counting}
            said = newest_propagation(self._files(self.cases[case_id]))
            if said is not None:
                follows = said.manifest.info.get("follows")
                rests_on = [said.version, *([follows] if isinstance(follows, int) else [])]
                found |= {Item(kind="label", case_id=case_id, number=n) for n in rests_on}
        return found

    def _delete(self, item: Item) -> None:
        parent = self.version_parent(item.kind, item.case_id)
        folder = version_folder(parent, item.number)
        waste = parent / temporary_name("pruned")
        with on_disk("remove", folder):
            folder.rename(waste)  # a kill after this leaves a leftover, not half of a version
            sync_folder(parent)
        _remove_tree(waste)


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what resists is a leftover, removed later


def _makers(rows: Mapping[Item, VersionRow], kept: set[Item]) -> set[Item]:
    """The models that made the segmentations that are kept."""
    made_by = [
        rows[item].info.get("model_id")
        for item in kept
        if item.kind == "prediction" and item in rows
    ]
    return {item for item in rows if item.kind == "model" and item.number in made_by}


def _takes_back(row: VersionRow, kept: set[Item]) -> bool:
    """Whether `row` says that a version that is kept does not count."""
    kind, case_id = row.info.get("kind"), row.item.case_id
    if row.item.kind != "label":
        return False
    if kind == "withdrawn":
        target = row.info.get("withdraws")
        return any(i.kind == "label" and (i.case_id, i.number) == (case_id, target) for i in kept)
    if kind == "rolled_back":
        target = row.info.get("to")
        start = target if isinstance(target, int) else 0
        return any(
            i.kind == "label" and i.case_id == case_id and start < i.number < row.item.number
            for i in kept
        )
    return False
