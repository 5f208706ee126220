"""The whole loop on given scans: slices drawn by a simulated human, up to export and report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from semiseg.config import Modality, PredictConfig, PropagationConfig, TrainConfig
from semiseg.errors import ConfigError, StorageError
from semiseg.evaluation import evaluate
from semiseg.events import Emit, Event, Json, ignore
from semiseg.export import export_study
from semiseg.images.grid import plane_axis
from semiseg.images.labels import read_label
from semiseg.importing import to_protocol
from semiseg.inference import predict
from semiseg.propagation import propagate
from semiseg.report.report import write_report
from semiseg.simulation import Per, SimulationConfig, simulate
from semiseg.study.case import Split
from semiseg.study.protocol import Protocol
from semiseg.study.study import Study
from semiseg.trainer import train

Rows = list[dict[str, Json]]


@dataclass(frozen=True, kw_only=True)
class LoopCase:
    """One scan of the loop.

    `slices` of `label` are drawn by the simulated human: per structure or volume (see
    `LoopConfig.per`), all of them with `full`, none when 0. With a `label` the results are
    scored on it, whether it was drawn from or not.
    """

    case_id: str
    image: Path
    modality: Modality | None = None
    label: Path | None = None
    slices: int = 0
    full: bool = False
    patient: str | None = None
    split: Split | None = None

    def __post_init__(self) -> None:
        if self.slices < 0:
            raise ConfigError(f"{self.case_id}: slices must be 0 or more, got {self.slices}")
        if (self.slices or self.full) and self.label is None:
            raise ConfigError(f"{self.case_id}: slices can only be drawn from a full label")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of each stage; `propagation` None leaves that stage out.

    `propagate_splits` and `predict_splits` name the cases of these stages; None means all.
    """

    name: str
    protocol: Protocol
    per: Per = "organ"
    draw_seed: int | None = None
    propagation: PropagationConfig | None = field(default_factory=PropagationConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    prediction: PredictConfig = field(default_factory=PredictConfig)
    propagate_splits: tuple[Split, ...] | None = None
    predict_splits: tuple[Split, ...] | None = None
    reference_note: str = ""
    copy_images: bool = False
    write_files: bool = True


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """What came of a loop: rows as from `evaluate`, seconds per stage, where the files are."""

    study: Path
    model_id: int
    label_rows: Rows
    prediction_rows: Rows
    seconds: Mapping[str, float]
    report: Path | None = None
    exported: Path | None = None


@dataclass
class _Clock:
    emit: Emit
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.emit(Event(kind="progress", phase="loop", message=name))
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)


def run_loop(
    folder: Path, cases: Sequence[LoopCase], config: LoopConfig, emit: Emit = ignore
) -> LoopResult:
    """Make a study of `cases` in the new folder `folder` and run every stage once.

    Each stage is the ordinary call that the command line makes too; errors are theirs.
    """
    clock = _Clock(emit)
    with clock.stage("annotate"):
        study = annotated(folder, cases, config)
    if config.propagation is not None:
        with clock.stage("propagate"):
            targets = _in_splits(study, config.propagate_splits)
            propagate(study, config.propagation, emit, case_ids=targets)
    with clock.stage("train"):
        model_id = train(study, config.training, emit)
    with clock.stage("predict"):
        predict(study, model_id, _in_splits(study, config.predict_splits), config.prediction, emit)
    with clock.stage("evaluate"):
        label_rows, prediction_rows = _scores(study, cases, config, emit)
    report = exported = None
    if config.write_files:
        with clock.stage("export"):
            exported = folder / "export"
            export_study(study, exported, emit=emit)
        with clock.stage("report"):
            report = write_report(study, emit)
    return LoopResult(
        study=folder,
        model_id=model_id,
        label_rows=label_rows,
        prediction_rows=prediction_rows,
        seconds=clock.seconds,
        report=report,
        exported=exported,
    )


def annotated(folder: Path, cases: Sequence[LoopCase], config: LoopConfig) -> Study:
    """The first stage alone: a new study in `folder` with what the simulated human drew."""
    study = Study.create(folder, name=config.name, protocol=config.protocol)
    for case in cases:
        study.add_case(
            case.image,
            case_id=case.case_id,
            name=case.case_id,
            patient=case.patient,
            modality=case.modality,
            split=case.split,
            copy=config.copy_images,
        )
        _draw(study, case, config)
    return study


def fresh_folder(folder: Path) -> Path:
    """`folder`, or with the next free number (`demo-2`) when something is there already."""
    if not folder.exists():
        return folder
    for number in range(2, 10_000):
        candidate = folder.with_name(f"{folder.name}-{number}")
        if not candidate.exists():
            return candidate
    raise StorageError(f"{folder} and its 9998 numbered neighbours exist; remove some")


def _draw(study: Study, case: LoopCase, config: LoopConfig) -> None:
    if case.label is None or not (case.slices or case.full):
        return
    grid = study.cases[case.case_id].grid
    array = to_protocol(read_label(case.label), study.protocol, grid)
    if case.full:
        every = tuple(range(grid.shape_zyx[plane_axis(grid, "axial")]))
        study.annotate(case.case_id, array, plane="axial", indices=every, author="simulated")
        return
    drawing = SimulationConfig(slices=case.slices, per=config.per, seed=config.draw_seed)
    simulate(study, case.case_id, array, drawing)


def _in_splits(study: Study, wanted: tuple[Split, ...] | None) -> tuple[str, ...]:
    return tuple(key for key, case in study.cases.items() if wanted is None or case.split in wanted)


def _scores(
    study: Study, cases: Sequence[LoopCase], config: LoopConfig, emit: Emit
) -> tuple[Rows, Rows]:
    references = {case.case_id: case.label for case in cases if case.label is not None}
    if not references:
        return [], []
    labelled = {key: path for key, path in references.items() if study.label(key) is not None}
    note = config.reference_note
    rows = evaluate(study, labelled, "label", reference_note=note, emit=emit) if labelled else []
    segmented = _in_splits(study, config.predict_splits)
    predicted = {key: references[key] for key in segmented if key in references}
    return rows, evaluate(study, predicted, "prediction", reference_note=note, emit=emit)
