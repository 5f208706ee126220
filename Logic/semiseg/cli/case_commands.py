"""`semiseg study apply|modality|remove|restore|undo|view`: one case at a time.

A window runs these as short jobs; what each one's last event holds is said with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from semiseg.cli.options import CaseId, CaseIds, StudyFolder, chosen_cases, shell_path
from semiseg.cli.screen import screen_of
from semiseg.config import MODALITIES, check_choice
from semiseg.errors import LabelError, SemiSegError, StorageError, StudyLockedError
from semiseg.events import Event, Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from semiseg.config import Modality
    from semiseg.study.study import Study

    _Arrays = dict[str, NDArray[np.generic] | None]

_STEPS = 200
_KEPT_S = 60.0


def register(app: typer.Typer) -> None:
    """Add this file's commands to the group `study`."""
    for command in (apply, modality, remove, restore, undo, view):
        app.command(command.__name__)(command)


def apply(context: typer.Context, folder: StudyFolder, cases: CaseIds = None) -> None:
    """Merge drawings that a window kept as drafts into the labels.

    A draft that cannot be merged stays, and the others go on. Data of the last event: "applied",
    a list of {"case", "version"} (null without a draft), "refused", of {"case", "error"}, and
    "problems", sentences.

    \b
    Examples:
      semiseg study apply abdomen
      semiseg study apply abdomen ct1
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    chosen = chosen_cases(study, cases) or study.drafts()
    applied: list[Json] = []
    refused: list[Json] = []
    errors: list[SemiSegError] = []
    screen.data(applied=applied, refused=refused)
    for number, case_id in enumerate(chosen, 1):
        data: dict[str, Json] = {"case": case_id}
        try:
            data["version"] = study.apply_draft(case_id)
        except (StudyLockedError, StorageError):
            raise
        except SemiSegError as error:
            errors.append(error)
            data["error"] = str(error)
        (refused if "error" in data else applied).append(data)
        screen.emit(
            Event(kind="progress", phase="apply", step=number, total=len(chosen), data=data)
        )
        if "version" in data:
            _record_correction(study, case_id)
            screen.say(_applied(case_id, data["version"]))
    screen.data(problems=[str(problem) for problem in study.problems])
    if errors:
        raise errors[0] if len(errors) == 1 else LabelError("; ".join(map(str, errors)))


def _record_correction(study: Study, case_id: str) -> None:
    """Keeps how much of what was suggested the drawing changed."""
    if study.newest_said(case_id) is None:
        return  # and spares the time of loading scipy
    from semiseg.rounds.corrections import record_corrections

    with contextlib.suppress(SemiSegError):  # it is worked out later; the drawing is safe
        record_corrections(study, [case_id], newest_only=True)


def _applied(case_id: str, version: Json) -> str:
    if version is None:
        return f"{case_id}: no drawing waits"
    return f"{case_id}: the drawing is in label version {version}"


def modality(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    what: Annotated[str, typer.Argument(metavar="CT|MR|auto", help="auto guesses anew.")],
) -> None:
    """Say whether a case is CT or MR.

    Data of the last event: "case", "modality", "overridden", "confidence".

    \b
    Examples:
      semiseg study modality abdomen scan7 MR
      semiseg study modality abdomen scan7 auto
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    chosen = None if what.lower() == "auto" else what.upper()
    if chosen is not None:
        check_choice("modality", chosen, MODALITIES)
    study = Study.open(folder)
    study.set_modality(case_id, cast("Modality | None", chosen))
    case = study.cases[case_id]
    screen.data(
        case=case.id,
        modality=case.modality,
        overridden=case.modality_overridden,
        confidence=case.modality_confidence,
    )
    screen.say(f"{case.id}: {case.modality}")


def remove(context: typer.Context, folder: StudyFolder, case_id: CaseId) -> None:
    """Take a case out of the study; its folder is kept and can be put back.

    Data of the last event: "case", and "folder", where it lies now.

    \b
    Example:
      semiseg study remove abdomen ct7
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    place = Study.open(folder).remove_case(case_id)
    screen.data(case=case_id, folder=str(place))
    screen.say(f"{case_id} is out of the study; its labels are kept in {place}")
    screen.next(f"semiseg study restore {shell_path(folder)} {place.name}")


def restore(
    context: typer.Context,
    folder: StudyFolder,
    place: Annotated[Path, typer.Argument(metavar="FOLDER", help="As `study remove` said.")],
) -> None:
    """Put a case back that was taken out.

    Data of the last event: "case".

    \b
    Example:
      semiseg study restore abdomen ct7-20260101T120000
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    case = Study.open(folder).restore_case(place)
    screen.data(case=case.id)
    screen.say(f"{case.id} is in the study again")


def undo(context: typer.Context, folder: StudyFolder, case_id: CaseId) -> None:
    """Take back the newest propagation or segmentation of a case.

    What a human drew stays as it is, and no file is deleted; the one before it counts again.
    Data of the last event: "case", "label_version", "prediction_version", "source".

    \b
    Example:
      semiseg study undo abdomen ct7
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    screen.say(study.withdraw_suggestion(case_id))
    said = study.newest_said(case_id)
    source = None if said is None else said.source
    screen.data(case=case_id, source=source, **_versions(study, case_id))


def view(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the files.")],
    origin: Annotated[
        bool, typer.Option("--origin", help="Also who set each voxel (origin*.npy).")
    ] = False,
) -> None:
    """Write what is shown of a case as plain arrays on the image's grid, for memory mapping.

    human*.npy and suggestion*.npy (uint16) hold ids, uncertainty*.npy (uint8) steps of 1/200,
    origin*.npy (uint8) 0 nobody, 1 drawn, 2 propagated, 3 predicted, 4 corrected by a human.
    Data of the last event: "case", "label_version", "prediction_version", "source" (propagated,
    predicted or null), "text", and "files": paths of "human", "suggestion", "uncertainty", each
    null if there is none, with --origin "origin". Older such files in FOLDER are removed.

    \b
    Example:
      semiseg study view abdomen ct7 --out /tmp/view
    """
    import numpy as np

    from semiseg.study.study import Study

    screen = screen_of(context)
    study = Study.open(folder)
    versions = _versions(study, case_id)
    shown = study.view(case_id)
    said = shown.suggestion
    arrays: _Arrays = {
        "human": shown.human.array,
        "suggestion": None if said is None else said.array,
        "uncertainty": None
        if said is None or said.uncertainty is None
        else np.rint(said.uncertainty * np.float32(_STEPS)).astype(np.uint8),
    }
    if origin:
        arrays["origin"] = shown.origin
    files = write_arrays(out, case_id, arrays)
    screen.data(
        case=case_id,
        source=None if said is None else said.source,
        text="" if said is None else said.text,
        files=files,
        **{**versions, "label_version": shown.human.version or None},
    )
    screen.say(f"{case_id}: wrote {sum(path is not None for path in files.values())} arrays")


def _versions(study: Study, case_id: str) -> dict[str, Json]:
    labels, predictions = study.label_versions(case_id), study.prediction_versions(case_id)
    return {
        "label_version": labels[-1] if labels else None,
        "prediction_version": predictions[-1] if predictions else None,
    }


def write_arrays(folder: Path, case_id: str, arrays: _Arrays) -> dict[str, Json]:
    """Paths by name. No file is ever rewritten: another program may have it mapped."""
    import numpy as np

    from semiseg.study.storage import make_folder, on_disk

    make_folder(folder)
    _prune(folder, arrays)
    stamp, files = f"{case_id}-{time.time_ns()}", dict[str, Json]()
    for name, array in arrays.items():
        path = folder.absolute() / f"{name}-{stamp}.npy"
        if array is not None:
            with on_disk("write", path):
                np.save(path, array, allow_pickle=False)
        files[name] = None if array is None else str(path)
    return files


def _prune(folder: Path, names: Iterable[str]) -> None:
    """Removes earlier files, but for those that their reader may not have opened yet."""
    for path in (path for name in names for path in folder.glob(f"{name}-*.npy")):
        with contextlib.suppress(OSError):  # still mapped, on Windows: the next time, then
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink()
