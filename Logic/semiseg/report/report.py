"""One self-contained HTML page per study: pictures, figures, decisions, provenance."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from semiseg import __version__
from semiseg.errors import StorageError
from semiseg.events import Emit, Event, Progress, ignore
from semiseg.report.cases import CaseReport, report_case
from semiseg.report.colors import css, distinct_segments, text_on
from semiseg.report.evaluation_tables import EvaluationTable, evaluation_table, newest_per_subject
from semiseg.report.learning import ModelReport, report_model
from semiseg.report.privacy import Scrubber
from semiseg.report.provenance import Provenance, file_name, provenance
from semiseg.report.rounds import RoundsReport, report_rounds
from semiseg.report.summary import Tile, summary_sentence, tiles
from semiseg.study.protocol import Structure
from semiseg.study.storage import make_folder, on_disk, write_bytes_atomic
from semiseg.study.study import Study

_NAME = re.compile(r"report-(\d{4,})\.html")


@dataclass(frozen=True, kw_only=True)
class LegendEntry:
    """One structure as the pictures show it; `changed` where its own colour was too alike."""

    id: int
    name: str
    color: str
    text_color: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything the template shows."""

    study: Study
    version: str
    date: str
    summary: str
    tiles: Sequence[Tile]
    legend: Sequence[LegendEntry]
    cases: Sequence[CaseReport]
    evaluations: Sequence[EvaluationTable]
    earlier: Sequence[EvaluationTable]
    models: Sequence[ModelReport]
    rounds: RoundsReport | None
    provenance: Provenance
    problems: Sequence[tuple[str, str]]


def write_report(study: Study, emit: Emit = ignore, *, path: Path | None = None) -> Path:
    """Write the report of `study` and return where it is: the next number in its report folder.

    The page needs no network and no other file. StorageError when `path` exists (a report is
    never overwritten) or the disk refuses. What cannot be read of the study is said in the page.
    """
    progress = Progress(emit, "report", len(study.cases) + 1)
    scrub = Scrubber(study.folder, _places(study))
    cases = _cases(study, scrub, progress)
    page = _page(study, scrub, cases)
    progress.update(len(cases), "writing the page")
    target = _save(_render(page).encode("utf-8"), path, study)
    progress.update(len(cases) + 1)
    emit(
        Event(
            kind="result", phase="report", message=f"report: {target}", data={"path": str(target)}
        )
    )
    return target


def _cases(study: Study, scrub: Scrubber, progress: Progress) -> list[CaseReport]:
    segments = distinct_segments(study.protocol.segments())
    found = []
    for number, case in enumerate(study.cases.values()):
        progress.update(number, f"drawing {case.id}")
        report = report_case(study, case, segments, number + 1)
        complaints, remarks = map(scrub, report.complaints), map(scrub, report.remarks)
        found.append(replace(report, complaints=tuple(complaints), remarks=tuple(remarks)))
    return found


def _page(study: Study, scrub: Scrubber, cases: Sequence[CaseReport]) -> Page:
    evaluations = [
        evaluation_table(found.rows, found.settings, number=found.id, date=found.created[:10])
        for found in study.evaluations()
    ]
    newest = newest_per_subject(evaluations)
    structures = study.protocol.structures
    names = {structure.id: structure.name for structure in structures}
    models = [report_model(record, names) for record in study.models()]
    models = [_scrubbed(model, scrub) for model in models]
    origin = provenance(study, scrub)
    return Page(
        study=study,
        version=__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        summary=summary_sentence(cases, len(structures), models, newest),
        tiles=tiles(cases, len(structures), models, newest),
        legend=_legend(study),
        cases=cases,
        evaluations=newest,
        earlier=[table for table in evaluations if table not in newest],
        models=models,
        rounds=report_rounds(study),
        provenance=origin,
        problems=[(scrub(p.message), scrub(p.remedy)) for p in study.problems],
    )


def _places(study: Study) -> Iterator[str]:
    """Files of the author's disk that the study names: in whole, because names may hold spaces."""
    yield from (case.image.absolute for case in study.cases.values())
    for model in study.models():
        settings = model.info.get("settings")
        begin = settings.get("start_from") if isinstance(settings, dict) else None
        if isinstance(begin, str):
            yield begin


def _scrubbed(model: ModelReport, scrub: Scrubber) -> ModelReport:
    """Without places of the author's disk: settings name the bundle that a training began with."""
    facts = tuple((name, scrub(text)) for name, text in model.facts)
    return replace(model, complaint=scrub(model.complaint), facts=facts)


def _legend(study: Study) -> list[LegendEntry]:
    segments = distinct_segments(study.protocol.segments())
    return [
        LegendEntry(
            id=segment.id,
            name=segment.name,
            color=css(segment.color),
            text_color=text_on(segment.color),
            code=_code(structure),
        )
        for segment, structure in zip(segments, study.protocol.structures, strict=True)
    ]


def _code(structure: Structure) -> str:
    """The structure's term and its codes, e.g. "Kidney, Right (SCT 64033007, 24028007)"."""
    parts = [part for part in (structure.code, structure.modifier) if part is not None]
    if not parts:
        return ""
    meaning, codes = ", ".join(p.meaning for p in parts), ", ".join(p.value for p in parts)
    return f"{meaning} ({parts[0].scheme} {codes})"


def _render(page: Page) -> str:
    environment = Environment(
        loader=PackageLoader("semiseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["file_name"] = file_name
    return environment.get_template("report.html").render(page=page)


def _save(content: bytes, path: Path | None, study: Study) -> Path:
    """Writes the page under a name that nothing had before."""
    target = _next_name(study.report_dir) if path is None else path
    make_folder(target.parent)
    try:
        with on_disk("save", target), target.open("xb"):
            pass
    except StorageError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        raise StorageError(
            f"{target} exists already, and a report is never overwritten; choose another name"
        ) from error
    try:
        write_bytes_atomic(target, content)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            target.unlink()
        raise
    return target


def _next_name(folder: Path) -> Path:
    with on_disk("read", folder):
        found = [_NAME.fullmatch(entry.name) for entry in folder.iterdir()]
    number = max((int(match[1]) for match in found if match), default=0) + 1
    return folder / f"report-{number:04d}.html"
