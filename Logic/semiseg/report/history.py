"""Who drew a case's labels and where propagation took them from, told by the versions kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from semiseg.errors import SemiSegError
from semiseg.events import Json
from semiseg.study.versions import read_manifest, version_folder, version_numbers

SIMULATED = "simulated"


@dataclass(frozen=True, kw_only=True)
class LabelHistory:
    """`self_check` is the Dice per structure of left-out drawn slices in the last propagation.

    `atlases` are the cases that lent their labels to it.
    """

    authors: tuple[str, ...] = ()
    propagated: bool = False
    self_check: Mapping[int, float] = field(default_factory=dict)
    atlases: tuple[str, ...] = ()


def label_history(labels: Path) -> LabelHistory:
    """What the label versions in the folder `labels` say; damaged ones are left out."""
    infos = {number: _info(labels, number) for number in version_numbers(labels)}
    authors = (str(info["author"]) for info in infos.values() if info.get("author"))
    withdrawn = [info.get("withdraws") for info in infos.values()]
    kept = [
        info
        for number, info in infos.items()
        if info.get("kind") == "propagated" and number not in withdrawn
    ]
    last: Mapping[str, Json] = kept[-1] if kept else {}
    atlases = last.get("atlases")
    return LabelHistory(
        authors=tuple(dict.fromkeys(authors)),
        propagated=bool(last),
        self_check=_self_check(last.get("self_check")),
        atlases=tuple(map(str, atlases)) if isinstance(atlases, list) else (),
    )


def _info(labels: Path, number: int) -> Mapping[str, Json]:
    try:
        return read_manifest(version_folder(labels, number)).info
    except SemiSegError:  # told among the study's problems
        return {}


def _self_check(value: Json) -> dict[int, float]:
    if not isinstance(value, Mapping):
        return {}
    return {
        int(key): float(dice)
        for key, dice in value.items()
        if key.isdecimal() and isinstance(dice, int | float)
    }
