"""`semiseg demo`: the whole loop on the sample scans."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from semiseg.cli.options import DeviceName, Seed, shell_path
from semiseg.cli.scores import loop_columns, loop_rows
from semiseg.cli.screen import Screen, screen_of
from semiseg.config import Device, PredictConfig, PropagationConfig, RegistrationConfig, TrainConfig

if TYPE_CHECKING:
    from semiseg.loop import LoopCase, LoopConfig, LoopResult

SLICES = {"CT": 5, "MR": 3}
NOTE = (
    "Compared with automatic TotalSegmentator labels, not with an expert. The few drawn slices "
    "come from the same labels and are part of the propagated ones; both scans were learnt from. "
    "So this shows how the loop works; it is no test on unseen patients."
)


def register(app: typer.Typer) -> None:
    """Add this file's command to `app`."""
    app.command("demo")(demo)


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option(help="Folder of the study to make.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Time for learning.")] = 5.5,
    steps: Annotated[int | None, typer.Option(help="End learning after this many steps.")] = None,
    seed: Seed = 0,
    device: DeviceName = "auto",
) -> None:
    """Run the whole loop on the sample CT and MR.

    About seven minutes on two cores. Five slices per organ of the CT and three of the MR are taken
    as a human's; they are propagated, learnt from, and both scans are segmented, scored, exported
    and put in a report. Where the folder exists, a new one with a number is made (demo-2);
    nothing is overwritten.

    \b
    Examples:
      semiseg demo
      semiseg demo --folder /tmp/try --minutes 1
    """
    screen = screen_of(context)
    began = time.monotonic()
    training = TrainConfig(minutes=minutes, steps=steps, seed=seed, device=cast("Device", device))
    screen.loading()
    from semiseg.loop import fresh_folder, run_loop

    chosen = fresh_folder(folder)
    screen.say(f"making a study of the sample CT and MR in {chosen}")
    config = _config(training)
    result = run_loop(chosen, _cases(), config, screen.emit)
    _show(screen, result, time.monotonic() - began)


def _cases() -> tuple[LoopCase, ...]:
    from semiseg.loop import LoopCase
    from semiseg.sample import sample_cases

    return tuple(
        LoopCase(
            case_id=sample.name,
            image=sample.image,
            modality=sample.modality,
            label=sample.label,
            slices=SLICES[sample.modality],
            split="train",
        )
        for sample in sample_cases()
    )


def _config(training: TrainConfig) -> LoopConfig:
    from semiseg.loop import LoopConfig
    from semiseg.sample import ORIGIN, STRUCTURES
    from semiseg.study.protocol import Protocol, common_structure

    return LoopConfig(
        name="SemiSeg demo",
        protocol=Protocol(tuple(common_structure(name, i) for i, name in STRUCTURES.items())),
        propagation=PropagationConfig(
            registration=RegistrationConfig(seed=training.seed, device=training.device)
        ),
        training=training,
        prediction=PredictConfig(device=training.device),
        reference_note=f"TotalSegmentator's automatic labels ({ORIGIN}), which no expert checked",
        copy_images=True,
    )


def _show(screen: Screen, result: LoopResult, seconds: float) -> None:
    from semiseg.cli.progress import duration

    rows = loop_rows(result.label_rows, result.prediction_rows)
    screen.table("Demo", loop_columns(), rows)
    screen.say(NOTE)
    stages = ", ".join(f"{name} {duration(taken)}" for name, taken in result.seconds.items())
    screen.say(f"{duration(seconds)} in all: {stages}")
    screen.data(
        study=str(result.study),
        model=result.model_id,
        label_rows=list(result.label_rows),
        prediction_rows=list(result.prediction_rows),
        seconds=dict(result.seconds),
        report=str(result.report),
    )
    screen.say(f"segmentations: {result.exported}")
    screen.say(f"report: {result.report}")
    screen.next(f"semiseg study status {shell_path(result.study)}")
