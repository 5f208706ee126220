"""`semiseg history`: rounds, earlier versions, the way back, and giving back space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semiseg.cli.case_commands import write_arrays
from semiseg.cli.options import (
    CaseId,
    CaseIds,
    StructureNames,
    StudyFolder,
    chosen_cases,
    structure_ids,
)
from semiseg.cli.screen import screen_of
from semiseg.errors import ConfigError
from semiseg.events import Json
from semiseg.rounds.summary import read_overall

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from semiseg.rounds.changes import Change
    from semiseg.study.history import Comparison, Item, VersionRow
    from semiseg.study.study import Study

app = typer.Typer(
    name="history",
    help="Rounds and earlier versions: list, compare, name, pin, go back, prune.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_COLUMNS = ("version", "when", "what", "name", "MB")
_ROUND_COLUMNS = (
    "round",
    "minutes",
    "slices",
    "own Dice",
    "corrected",
    "Dice before",
    "added ml",
    "removed ml",
)
Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="label:3 or prediction:2 of CASE, or model:1.")
]
InCase = Annotated[str, typer.Option("--case", help="The case; none for a model.")]


@app.command("list")
def list_versions(
    context: typer.Context,
    folder: StudyFolder,
    cases: CaseIds = None,
    changed: Annotated[
        bool, typer.Option("--changes", help="Also what each changed; reads all voxels once.")
    ] = False,
) -> None:
    """Show every version of labels, segmentations and models.

    Data of the last event: "versions" of {"kind", "case", "number", "created", "what", "name",
    "pinned", "newest", "bytes", "problem", "follows" (the label before it, or null), "voxels",
    "score" (a model's validation Dice, or null; expected from "low" to "high" in new patients, or
    null), "uncertainty" (of a segmentation, or null),
    "minutes" (of drawing or learning, or null),
    "changes": with --changes a list of {"id", "added", "removed"} in voxels, else null}.
    """
    from semiseg.rounds.changes import changes
    from semiseg.rounds.time import minutes_by_version
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    rows = study.version_rows(chosen_cases(study, cases))
    found = changes(study, rows) if changed else {}
    drawn = minutes_by_version(study)
    told: list[Json] = []
    for row in rows:
        each = found.get(row.item)
        parts: list[Json] | None = None if each is None else [dict(vars(one)) for one in each]
        told.append({**_as_json(row), **_figures(row, drawn), "changes": parts})
    screen.data(versions=told)
    names = {structure.id: structure.name for structure in study.protocol.structures}
    lines = [(*_cells(row), _changed(found.get(row.item, ()), names)) for row in rows]
    screen.table("Versions", (*_COLUMNS, "changed voxels"), lines)


def _changed(found: Iterable[Change], names: Mapping[int, str]) -> str:
    return ", ".join(f"{names[one.id]} +{one.added} -{one.removed}" for one in found)


@app.command("rounds")
def list_rounds(context: typer.Context, folder: StudyFolder) -> None:
    """Show what each round cost, what had to be corrected, and whether another is worth it.

    What was corrected and is not worked out yet is worked out now. Data of the last event:
    "rounds" of {"number" (models there were), "name", "created", "minutes", "slices",
    "validation" (the model's own Dice, expected from "low" to "high" in new patients),
    "corrected" (slices), "dice" of what was suggested with what was left,
    "added_ml", "removed_ml", "surface_mm"}, "corrections" per case, "go_on" (true, false, or
    null while it cannot be told) and "reason".
    """
    from semiseg.rounds.corrections import corrections, record_corrections
    from semiseg.rounds.rounds import hint, rounds
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    record_corrections(study)
    found = rounds(study)
    told = hint(found)
    screen.data(
        rounds=[one.to_json() for one in found],
        corrections=[one.to_json() for one in corrections(study)],
        go_on=told.go_on,
        reason=told.reason,
    )
    rows = [
        (
            one.name,
            f"{one.minutes:.1f}",
            str(one.slices),
            _own_score(one.validation, one.low, one.high),
            str(one.corrected),
            "-" if one.dice is None else f"{one.dice:.3f}",
            f"{one.added_ml:.1f}",
            f"{one.removed_ml:.1f}",
        )
        for one in found
    ]
    screen.table("Rounds", _ROUND_COLUMNS, rows)
    advice = {True: "go on", False: "stop", None: "not known yet"}[told.go_on]
    screen.say(f"{advice}: {told.reason}")


@app.command()
def compare(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    first: Version,
    second: Version,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the changed voxels (nii.gz, nrrd).")
    ] = None,
    arrays: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write both maps as arrays.")
    ] = None,
) -> None:
    """Say what differs between two versions of a case.

    Data of the last event: "case", "changed" (voxels), "structures" of {"id", "name",
    "added_ml", "removed_ml", "added", "removed" (voxels)}, "file" or null; "files" with
    --arrays: paths of "first" and "second" (uint16 ids on the image's grid, *.npy).

    \b
    Example:
      semiseg history compare abdomen ct7 label:2 label:5 --out changed.nii.gz
    """
    import numpy as np

    from semiseg.images.reading import write_image
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    found = study.compare(case_id, _item(first, case_id), _item(second, case_id))
    parts = _differences(study, found)
    for part in parts:
        ml = f"{part['added_ml']:.2f} ml added, {part['removed_ml']:.2f} ml removed"
        screen.say(f"{part['name']}: {ml}")
    if out is not None:
        write_image(out, found.changed.astype(np.uint8), study.case(case_id).grid)
    count = int(np.count_nonzero(found.changed))
    screen.say(f"{count} voxels differ")
    file = None if out is None else str(out)
    files = {}
    if arrays is not None:
        one, other = (study.version_map(case_id, item) for item in (found.first, found.second))
        files = write_arrays(arrays, case_id, {"first": one, "second": other})
    screen.data(case=case_id, changed=count, structures=[*parts], file=file, files=files)


@app.command()
def back(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    version: Version,
    structures: StructureNames = None,
    human_too: Annotated[
        bool, typer.Option("--human-too", help="Also take back what was drawn since.")
    ] = False,
) -> None:
    """Go back to an earlier label, as a new version, or to an earlier segmentation.

    Drawings since then stay unless --human-too. Nothing is deleted. With --structures the others
    stay as they are in the newest. Data of the last event: "case", "label_version",
    "prediction_version".

    \b
    Example:
      semiseg history back abdomen ct7 label:3 --structures liver
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    item = _item(version, case_id)
    ids = None if structures is None else structure_ids(study, structures)
    if item.kind == "label":
        new = study.roll_back(case_id, item.number, structure_ids=ids, keep_human=not human_too)
        screen.say(f"{case_id}: label version {new} is as version {item.number} was")
    elif item.kind == "prediction" and ids and not human_too:
        new = study.accept_prediction(case_id, item.number, ids)
        screen.say(f"{case_id}: segmentation {new} has these structures as in {item.number}")
    elif item.kind == "prediction" and not human_too:
        gone = study.roll_back_prediction(case_id, item.number)
        screen.say(f"{case_id}: took back {len(gone)} segmentations after {item.number}")
    else:
        raise ConfigError(
            "drawings go back with a label only, and a model by segmenting with it anew "
            "(semiseg predict STUDY --model NUMBER)"
        )
    labels, predictions = study.label_versions(case_id), study.prediction_versions(case_id)
    screen.data(
        case=case_id,
        label_version=labels[-1] if labels else None,
        prediction_version=predictions[-1] if predictions else None,
    )


@app.command()
def name(
    context: typer.Context,
    folder: StudyFolder,
    version: Version,
    text: Annotated[str, typer.Argument(metavar="NAME", help="Empty takes the name away.")],
    case_id: InCase = "",
) -> None:
    """Give a version a name; named ones are never pruned."""
    from semiseg.study.study import Study

    screen = screen_of(context)
    item = _item(version, case_id)
    Study.open(folder).name_version(item, text)
    screen.say(f"{item}: {text or 'no name'}")


@app.command()
def pin(
    context: typer.Context,
    folder: StudyFolder,
    version: Version,
    case_id: InCase = "",
    off: Annotated[bool, typer.Option("--off", help="Let it be pruned again.")] = False,
) -> None:
    """Keep a version from being pruned."""
    from semiseg.study.study import Study

    screen = screen_of(context)
    item = _item(version, case_id)
    Study.open(folder).pin_version(item, pinned=not off)
    screen.say(f"{item}: {'not pinned any more' if off else 'pinned'}")


@app.command()
def prune(
    context: typer.Context,
    folder: StudyFolder,
    keep: Annotated[int, typer.Option(help="The newest of each that stay in any case.")] = 2,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete for good; without it only sizes are shown.")
    ] = False,
) -> None:
    """Show, or give back, the space of versions that nothing needs.

    Never the newest, pinned or named ones, nor what another version, an undo or the newest
    scores rest on. What was corrected is worked out first. Data of the last event: "versions"
    as of `history list`, "bytes", "deleted".
    """
    from semiseg.rounds.corrections import record_corrections
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    free = study.prunable(keep=keep)
    total = sum(row.size_bytes for row in free)
    if delete:
        record_corrections(study)
        total = study.prune([row.item for row in free], keep=keep)
    screen.data(versions=[_as_json(row) for row in free], bytes=total, deleted=delete)
    screen.table("Not needed", _COLUMNS, [_cells(row) for row in free])
    done = "given back" if delete else "can be given back, with --delete"
    screen.say(f"{total / 1e6:.1f} MB of {len(free)} versions {done}")


def _item(text: str, case_id: str) -> Item:
    from semiseg.study.history import KINDS, Item

    kind, colon, number = text.partition(":")
    for known in KINDS:
        if known == kind and colon and number.isdecimal():
            owner = "" if known == "model" else case_id
            if known != "model" and not owner:
                raise ConfigError(f"{text!r} is of a case; say of which with --case")
            return Item(kind=known, case_id=owner, number=int(number))
    raise ConfigError(f"cannot read the version {text!r}; write label:3, prediction:2 or model:1")


def _differences(study: Study, found: Comparison) -> list[dict[str, Json]]:
    """The structures that differ, in voxels and millilitres."""
    return [
        {
            "id": structure.id,
            "name": structure.name,
            "added": found.added.get(structure.id, 0),
            "removed": found.removed.get(structure.id, 0),
            "added_ml": found.added.get(structure.id, 0) * found.voxel_ml,
            "removed_ml": found.removed.get(structure.id, 0) * found.voxel_ml,
        }
        for structure in study.protocol.structures
        if structure.id in found.added or structure.id in found.removed
    ]


def _as_json(row: VersionRow) -> dict[str, Json]:
    return {
        "kind": row.item.kind,
        "case": row.item.case_id or None,
        "number": row.item.number,
        "created": row.created,
        "what": row.what,
        "name": row.name,
        "pinned": row.pinned,
        "newest": row.newest,
        "bytes": row.size_bytes,
        "problem": row.problem,
        "follows": row.info.get("follows"),
        "voxels": row.info.get("voxels"),
    }


def _figures(row: VersionRow, drawn: Mapping[tuple[str, int], float]) -> dict[str, Json]:
    """Score, uncertainty and minutes, null where a version has none."""
    kind, info = row.item.kind, row.info
    told, seconds = info.get("validation"), info.get("seconds")
    learned = round(seconds / 60, 2) if isinstance(seconds, int | float) else None
    by_hand = drawn.get((row.item.case_id, row.item.number)) if kind == "label" else None
    own = read_overall(told) if kind == "model" else None
    return {
        "score": told.get("dice") if kind == "model" and isinstance(told, dict) else None,
        "low": None if own is None else own.low,
        "high": None if own is None else own.high,
        "uncertainty": info.get("uncertainty") if kind == "prediction" else None,
        "minutes": learned if kind == "model" else by_hand,
    }


def _own_score(dice: float | None, low: float | None, high: float | None) -> str:
    if dice is None:
        return "-"
    return f"{dice:.3f}" if low is None or high is None else f"{dice:.3f} ({low:.2f} to {high:.2f})"


def _cells(row: VersionRow) -> tuple[str, ...]:
    what = f"{row.what} (damaged)" if row.problem else row.what
    title = f"{row.name} (pinned)".strip() if row.pinned else row.name
    return str(row.item), row.created[:19], what, title, f"{row.size_bytes / 1e6:.1f}"
