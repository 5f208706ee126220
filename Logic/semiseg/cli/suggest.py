"""`semiseg suggest`: which slice to draw next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, cast

import typer

from semiseg.cli.options import StudyFolder
from semiseg.cli.screen import screen_of
from semiseg.errors import ConfigError
from semiseg.events import Json

if TYPE_CHECKING:
    from semiseg.images.grid import Plane
    from semiseg.study.study import Study


def register(app: typer.Typer) -> None:
    """Add this file's command to `app`."""
    app.command("suggest")(suggest)


def suggest(
    context: typer.Context,
    folder: StudyFolder,
    n: Annotated[int, typer.Option("--n", help="How many slices, best first.")] = 5,
    plane: Annotated[
        list[str] | None,
        typer.Option(help="axial, coronal or sagittal; all three if none. May come again."),
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(help="Only these cases; all that teach if none.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="CASE", help="The case that is open now.")
    ] = None,
    doubts: Annotated[
        bool, typer.Option("--doubts", help="Also tell how unsure programs are, case by case.")
    ] = False,
    mark: Annotated[
        bool, typer.Option("--mark", help="Put the slices into the ledgers as suggested.")
    ] = False,
) -> None:
    """Say which slices to draw next, and why: those that gain most per minute of drawing.

    Slices where model and propagation disagree or are unsure, far from what is drawn, and like
    many others; before any model exists, slices that stand for most of the scans. Data of the
    last event: "suggestions", best first, of {"case", "plane", "index" as in the ledger, "gain"
    in mean Dice of the study, "minutes", "gain_per_minute", "structure" (id or null), "reason"}.
    With --doubts "uncertainty" by case: {"structures": {id: mean}, "slices": {plane: [mean]}}.

    \b
    Examples:
      semiseg suggest abdomen
      semiseg suggest abdomen --n 1 --plane axial --at ct7 --mark
    """
    from semiseg.images.grid import PLANES

    screen = screen_of(context)
    wrong = [name for name in plane or () if name not in PLANES]
    if wrong:
        raise ConfigError(f"there is no plane {wrong[0]!r}; there are {', '.join(PLANES)}")
    from semiseg.study.study import Study
    from semiseg.suggestion.ranking import SuggestConfig, case_views, mark_suggested
    from semiseg.suggestion.ranking import suggest as run
    from semiseg.suggestion.views import uncertainties

    study = Study.open(folder)
    config = SuggestConfig(
        n=n,
        planes=cast("tuple[Plane, ...]", tuple(plane or PLANES)),
        case_ids=None if case is None else tuple(case),
        at=at,
    )
    found = run(study, config, screen.emit)
    if doubts:
        told = uncertainties(study, case_views(study, config))
        screen.data(uncertainty=told)
        screen.table("Uncertainty", ("case", "structure", "mean"), _doubt_rows(study, told))
    if mark:
        mark_suggested(study, found)
    screen.data(suggestions=[one.to_json() for one in found])
    rows = [
        (one.case_id, one.plane, str(one.index), f"{one.minutes:.1f}", one.reason) for one in found
    ]
    screen.table("Draw next", ("case", "plane", "slice", "minutes", "why"), rows)
    if not found:
        screen.say("every slice that may be drawn is done")


def _doubt_rows(study: Study, told: Mapping[str, Json]) -> list[tuple[str, str, str]]:
    names = {str(s.id): s.name for s in study.protocol.structures}
    rows = []
    for case_id, found in told.items():
        parts = found.get("structures") if isinstance(found, dict) else None
        for key, value in parts.items() if isinstance(parts, dict) else ():
            rows.append((case_id, names.get(key, key), f"{value:.3f}"))
    return rows
