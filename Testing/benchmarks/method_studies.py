"""Studies to compare methods on: what is drawn in them, and labels carried on once for all.

What is drawn is given by a number of labelled scans of each modality, drawn by the seed, or by a
protocol of the abdomen: `AB-1` one CT and one MR of the pool fully drawn; `AB-5` five axial slices
for each organ on these two, evenly over its extent with both tips; `ct-to-mr` all CT of the pool
drawn and no MR, `mr-to-ct` the reverse; `atlases` five CT and three MR drawn. Seed s draws scan
number s of each pool in AB-1 and AB-5 (as loop.py does), in `atlases` a permutation's first.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from data_sets import Scan

if TYPE_CHECKING:
    from semiseg.study.study import Study

ALL = 1_000
PROTOCOLS: dict[str, dict[str, int]] = {
    "AB-1": {"CT": 1, "MR": 1},
    "AB-5": {"CT": 1, "MR": 1},
    "ct-to-mr": {"CT": ALL, "MR": 0},
    "mr-to-ct": {"CT": 0, "MR": ALL},
    "atlases": {"CT": 5, "MR": 3},
}
SLICES = {"AB-5": 5}
IN_TURN = ("AB-1", "AB-5")
PROPAGATED = "+propagated"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared: a method, on both modalities or one alone, on drawn labels or carried."""

    method: str
    alone: str | None = None
    propagated: bool = False

    @classmethod
    def named(cls, name: str) -> Arm:
        """`METHOD`, `METHOD@CT` (a study without the other modality), `METHOD+propagated`."""
        rest = name.removesuffix(PROPAGATED)
        method, _, alone = rest.partition("@")
        return cls(method=method, alone=alone or None, propagated=rest != name)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One study: the same one for all methods that learn from it.

    `pool`: patients of each modality that are in it besides those tested on, labelled ones too.
    """

    labelled: str
    seed: int
    alone: str | None
    propagated: bool
    pool: int = ALL

    @property
    def name(self) -> str:
        return "-".join(
            (
                self.labelled,
                self.alone or "all",
                "propagated" if self.propagated else "drawn",
                f"seed{self.seed}",
            )
        )


def is_possible(drawn: Drawn) -> bool:
    """Whether anything is drawn in it."""
    counts = PROTOCOLS.get(drawn.labelled)
    return counts is None or drawn.alone is None or counts[drawn.alone] > 0


def drawn_names(drawn: Drawn, scans: list[Scan], at_least: int = 0) -> set[str]:
    """All scans of the labelled patients of the pool, and of the next drawn up to `at_least`."""
    names = set()
    for modality in sorted({scan.modality for scan in scans}):
        ours = [scan for scan in scans if scan.pool and scan.modality == modality]
        count = max(_count(drawn, modality), at_least)
        chosen = _in_order(drawn, sorted({scan.patient for scan in ours}))[:count]
        names |= {scan.name for scan in ours if scan.patient in chosen}
    return names


def _count(drawn: Drawn, modality: str) -> int:
    counts = PROTOCOLS.get(drawn.labelled)
    return int(drawn.labelled) if counts is None else counts[modality]


def _in_order(drawn: Drawn, patients: list[str]) -> list[str]:
    """The pool's patients of one modality; the first ones are labelled."""
    order = [str(p) for p in np.random.default_rng((drawn.seed, 5)).permutation(patients)]
    if drawn.labelled in IN_TURN:
        first = patients[drawn.seed % len(patients)]
        order = [first, *(one for one in order if one != first)]
    return order


def study_cases(drawn: Drawn, scans: list[Scan]) -> list:
    """The study's scans: its part of the pool, and every scan that is tested on."""
    from semiseg.loop import LoopCase

    labelled, slices = drawn_names(drawn, scans), SLICES.get(drawn.labelled, 0)
    pool = drawn_names(drawn, scans, at_least=drawn.pool)
    return [
        LoopCase(
            case_id=scan.name,
            image=scan.image,
            modality=scan.modality,  # type: ignore[arg-type]
            label=scan.label,
            slices=slices if scan.name in labelled else 0,
            full=scan.name in labelled and not slices,
            patient=scan.patient,
            split="train" if scan.pool else "test",
        )
        for scan in scans
        if not scan.pool or (scan.name in pool and drawn.alone in (None, scan.modality))
    ]


def prepare(
    drawn: Drawn, scans: list[Scan], names: tuple[str, ...], out: Path, registrations: Path
) -> dict:
    """Make the study under `out`/prepared unless it is there; how long its propagation took."""
    folder = out / "prepared" / drawn.name
    if not is_prepared(drawn, out):
        part = folder.with_name(f"{drawn.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        figures = _make(drawn, study_cases(drawn, scans), names, part, registrations)
        (part / "prepared.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
        part.rename(folder)
    return preparation(drawn, out)


def is_prepared(drawn: Drawn, out: Path) -> bool:
    """Whether `prepare` has succeeded."""
    return (out / "prepared" / drawn.name).exists()


def preparation(drawn: Drawn, out: Path) -> dict:
    """What `prepare` measured."""
    path = out / "prepared" / drawn.name / "prepared.json"
    found: dict = json.loads(path.read_text(encoding="utf-8"))
    return found


def _make(
    drawn: Drawn, cases: list, names: tuple[str, ...], folder: Path, registrations: Path
) -> dict:
    from semiseg.config import PropagationConfig
    from semiseg.loop import LoopConfig, annotated
    from semiseg.propagation import propagate
    from semiseg.study.protocol import Protocol, common_structure

    structures = tuple(common_structure(name, i) for i, name in enumerate(names, 1))
    config = LoopConfig(name=drawn.name, protocol=Protocol(structures))
    study = annotated(folder, cases, config)
    registrations.mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "registration").symlink_to(registrations.resolve())
    kept = len(list(registrations.iterdir()))
    wall, processor = time.monotonic(), time.process_time()
    if drawn.propagated:
        pool = tuple(case.case_id for case in cases if case.split == "train")
        propagate(study, PropagationConfig(), case_ids=pool)
    return {
        "seconds": round(time.monotonic() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "registrations_before": kept,
        "registrations_after": len(list(registrations.iterdir())),
    }


def copy_of(drawn: Drawn, out: Path, name: str) -> Study:
    """The prepared study once more, for one run to work in; as deep, so that images are found."""
    from semiseg.study.study import Study

    folder = out / "running" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(out / "prepared" / drawn.name, folder, symlinks=True)
    return Study.open(folder)


def drop_copy(out: Path, name: str) -> None:
    """Remove what `copy_of` made, and the folder of copies with the last of them."""
    shutil.rmtree(out / "running" / name, ignore_errors=True)
    if not os.listdir(out / "running"):  # noqa: PTH208
        (out / "running").rmdir()
