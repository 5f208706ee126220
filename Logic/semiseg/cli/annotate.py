"""`semiseg annotate`: a label file, and which of its slices are finished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from semiseg.cli.options import (
    CaseId,
    StructureNames,
    StudyFolder,
    parse_indices,
    parse_pairs,
    shell_path,
    structure_ids,
)
from semiseg.cli.screen import Screen, screen_of
from semiseg.config import check_choice
from semiseg.errors import ConfigError, NotEnoughLabelsError, ProtocolError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from semiseg.images.grid import Plane
    from semiseg.images.labels import LabelMap
    from semiseg.simulation import Per
    from semiseg.study.case import CaseLabel
    from semiseg.study.study import Study


def register(app: typer.Typer) -> None:
    """Add this file's commands to `app`."""
    app.command("annotate")(annotate)


def annotate(
    context: typer.Context,
    folder: StudyFolder,
    case_id: CaseId,
    label: Annotated[
        Path,
        typer.Argument(metavar="LABEL", help=".seg.nrrd, NIfTI, NRRD, MHA; DICOM SEG, RTSTRUCT."),
    ],
    plane: Annotated[
        str, typer.Option(help="Plane of the slices: axial, coronal or sagittal.")
    ] = "axial",
    done: Annotated[
        str,
        typer.Option(metavar="SLICES", help="Finished slices, from 0: 10,20,30-40, or all, none."),
    ] = "",
    empty: Annotated[
        str, typer.Option(metavar="SLICES", help="Slices finished without a structure.")
    ] = "",
    only_finished: Annotated[
        bool, typer.Option("--only-finished", help="Take nothing from the file's other slices.")
    ] = False,
    structures: StructureNames = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="VALUE=NAME", help="What a value of the file is; 0 drops."),
    ] = None,
    simulate: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Take K slices of a full label as if drawn."),
    ] = None,
    per: Annotated[str, typer.Option(help="K slices per organ or per volume.")] = "organ",
    seed: Annotated[
        int | None, typer.Option(help="Move the simulated inner slices at random.")
    ] = None,
    author: Annotated[str, typer.Option(help="Who drew it.")] = "",
    note: Annotated[str, typer.Option(help="A note kept with the version.")] = "",
) -> None:
    """Take in a label map; say which slices are finished.

    Only finished slices teach, and only for the structures that they are finished for; elsewhere
    the image counts as unknown, never as background. A finished slice without a structure says
    that it is not there. What the file has on other slices is kept as drawn by hand, too, and
    what it leaves empty is erased, unless --only-finished is given.

    \b
    Examples:
      semiseg annotate abdomen ct1 drawn.seg.nrrd --done 10,20,30-40 --empty 5
      semiseg annotate abdomen ct1 liver.nii.gz --done 10,20 --structures liver --map 1=liver
      semiseg annotate abdomen ct1 full.nii.gz --done all
      semiseg annotate abdomen ct1 full.nii.gz --done 40,60 --only-finished
      semiseg annotate abdomen ct1 full.nii.gz --simulate 5
    """
    from semiseg.study.study import Study

    screen = screen_of(context)
    check_choice("plane", plane, ("axial", "coronal", "sagittal"))
    if simulate is not None and (done or empty):
        raise ConfigError("--simulate chooses the slices itself; leave out --done and --empty")
    study = Study.open(folder)
    study.case(case_id)
    array = _drawn(study, case_id, label, mapping or [], screen)
    ids = structure_ids(study, structures)
    if simulate is not None:
        slices = _simulate(study, case_id, array, (simulate, per, plane, seed), ids)
    else:
        slices = _annotate(
            study,
            case_id,
            array,
            plane=plane,
            done=done,
            empty=empty,
            ids=ids,
            only=only_finished,
            words=(author, note),
        )
    screen.data(case=case_id, plane=plane, slices=list(slices))
    names = ", ".join(study.protocol.by_id(structure_id).name for structure_id in ids)
    screen.say(f"{case_id}: {len(slices)} {plane} slices are finished for {names}: {_run(slices)}")
    screen.next(f"semiseg propagate {shell_path(folder)}")


def _drawn(
    study: Study, case_id: str, path: Path, mapping: list[str], screen: Screen
) -> NDArray[np.uint16]:
    from semiseg.importing import read_label_for, to_protocol

    label = read_label_for(study, case_id, path)
    if not study.protocol.structures:
        _adopt_structures(study, label, screen)
    targets = {
        _value(key): 0 if name == "0" else structure_ids(study, name)[0]
        for key, name in parse_pairs(mapping, "--map VALUE=NAME").items()
    }
    return to_protocol(label, study.protocol, study.cases[case_id].grid, targets)


def _value(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"cannot read the label value {text!r}; write --map 3=liver")
    return int(text)


def _adopt_structures(study: Study, label: LabelMap, screen: Screen) -> None:
    from semiseg.study.protocol import structures_of_label

    if not label.segments:
        raise ProtocolError(
            "the study has no structures and the label file names none; name them first: "
            f"semiseg study structures {shell_path(study.folder)} --add 1=liver"
        )
    study.set_protocol(structures_of_label(label))
    names = ", ".join(f"{s.id} {s.name}" for s in study.protocol.structures)
    screen.say(f"took the structures of the label file: {names}")


def _annotate(
    study: Study,
    case_id: str,
    array: NDArray[np.uint16],
    *,
    plane: str,
    done: str,
    empty: str,
    ids: tuple[int, ...],
    only: bool,
    words: tuple[str, str],
) -> tuple[int, ...]:
    from semiseg.images.grid import plane_axis

    grid, where = study.cases[case_id].grid, cast("Plane", plane)
    every = tuple(range(grid.shape_zyx[plane_axis(grid, where)]))
    finished = every if done == "all" else parse_indices(done) if done not in ("", "none") else ()
    without = parse_indices(empty) if empty else ()
    if not finished and not without and done != "none":
        raise NotEnoughLabelsError(
            "no slice is said to be finished, so nothing could be learnt from this label; say "
            "which are with --done 10,20,30-40 (or --done all) and --empty"
        )
    slices = tuple(sorted({*finished, *without}))
    with study.writing():
        base = study.label(case_id) if only else None
        if only:
            array = _only(array, base, slices, plane_axis(grid, where))
        study.annotate(
            case_id,
            array,
            plane=where,
            indices=finished,
            structure_ids=ids,
            empty=without,
            author=words[0],
            note=words[1],
            base_version=None if base is None else base.version,
        )
    return slices


def _only(
    array: NDArray[np.uint16], base: CaseLabel | None, slices: tuple[int, ...], axis: int
) -> NDArray[np.uint16]:
    """`array` in the slices, what is in the study elsewhere."""
    import numpy as np

    kept = np.zeros_like(array) if base is None else base.array.copy()
    where = (slice(None),) * axis + (list(slices),)
    kept[where] = array[where]
    return kept


def _simulate(
    study: Study,
    case_id: str,
    array: NDArray[np.uint16],
    settings: tuple[int, str, str, int | None],
    ids: tuple[int, ...],
) -> tuple[int, ...]:
    from semiseg.simulation import SimulationConfig, simulate

    slices, per, plane, seed = settings
    config = SimulationConfig(
        slices=slices, per=cast("Per", per), plane=cast("Plane", plane), seed=seed
    )
    return simulate(study, case_id, array, config, ids)


def _run(indices: tuple[int, ...]) -> str:
    """`3, 5-8` for (3, 5, 6, 7, 8)."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
