"""`semiseg propagate`, `train` and `predict`: the long work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from semiseg.cli.options import (
    CaseIds,
    DeviceName,
    RayAddress,
    Seed,
    StudyFolder,
    Workers,
    chosen_cases,
    shell_path,
)
from semiseg.cli.screen import screen_of
from semiseg.clock import ClockName
from semiseg.config import (
    Device,
    Dims,
    PredictConfig,
    PropagationConfig,
    RegistrationConfig,
    SliceConfig,
    TrainConfig,
    Validation,
)
from semiseg.errors import ConfigError
from semiseg.learning.presets import preset_help, with_preset

if TYPE_CHECKING:
    from semiseg.images.grid import Plane
    from semiseg.learning.preview import Watched


def register(app: typer.Typer) -> None:
    """Add this file's commands to `app`."""
    app.command("propagate")(propagate)
    app.command("train")(train)
    app.command("predict")(predict)


def propagate(
    context: typer.Context,
    folder: StudyFolder,
    cases: CaseIds = None,
    atlases: Annotated[int, typer.Option(help="Annotated cases that vote on each case.")] = 3,
    spacing: Annotated[
        float, typer.Option("--spacing", metavar="MM", help="Voxel size of the registration.")
    ] = 3.0,
    iterations: Annotated[int, typer.Option(help="Steps of the registration.")] = 90,
    by_shape: Annotated[
        bool, typer.Option("--by-shape", help="Between slices look at shapes only, not the image.")
    ] = False,
    seed: Seed = 0,
    device: DeviceName = "auto",
    workers: Workers = None,
    ray: RayAddress = None,
) -> None:
    """Carry finished slices to volumes and to other cases.

    A human's voxels are never changed. Each case's result is accepted, weighted down or
    rejected by the trust gate; `semiseg study status` and the report say why.

    \b
    Examples:
      semiseg propagate abdomen
      semiseg propagate abdomen mr1 mr2 --atlases 1
      semiseg propagate abdomen --workers 4
    """
    screen = screen_of(context)
    config = PropagationConfig(
        atlases=atlases,
        slices=SliceConfig(image_guided=not by_shape),
        registration=RegistrationConfig(
            spacing_mm=spacing, iterations=iterations, seed=seed, device=cast("Device", device)
        ),
    )
    from semiseg.study.study import Study

    study = Study.open(folder)
    chosen = chosen_cases(study, cases)
    screen.loading()
    from semiseg.distributed.choice import Engine, chosen_executor

    engine = Engine(workers=workers, ray=ray, device=config.registration.device)
    if engine.alone:
        from semiseg.propagation import propagate as run

        run(study, config, screen.emit, case_ids=chosen)
    else:
        from semiseg.distributed.registrations import propagate_over

        with chosen_executor(engine) as executor:
            propagate_over(study, config, executor, screen.emit, case_ids=chosen)
    study.reload()
    gates = {case.id: case.gate for case in study.cases.values() if case.gate is not None}
    for case_id, gate in gates.items():
        why = f" ({'; '.join(gate.reasons)})" if gate.reasons else ""
        screen.say(f"{case_id}: {gate.verdict.replace('_', ' ')}, score {gate.score:.2f}{why}")
    screen.data(gates={case_id: gate.to_json() for case_id, gate in gates.items()})
    screen.next(f"semiseg train {shell_path(folder)}")


def train(
    context: typer.Context,
    folder: StudyFolder,
    method: Annotated[
        str,
        typer.Option(
            help="How to learn; auto chooses and says why. Options of a method follow behind its "
            "name: cmedl+teacher=CT."
        ),
    ] = "supervised",
    minutes: Annotated[
        float | None, typer.Option(help="End after this time; 10 if no end is given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="End after this many steps.")] = None,
    seed: Seed = 0,
    validation: Annotated[
        str, typer.Option(help="auto, split, leave_one_out, slices or none.")
    ] = "auto",
    spacing: Annotated[
        float | None, typer.Option("--spacing", metavar="MM", help="Voxel size; chosen if none.")
    ] = None,
    dims: Annotated[
        str, typer.Option(help="auto, 2 (single axial slices), 2.5 (and their neighbours) or 3.")
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Patches per step; chosen if none.")
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(help="Highest learning rate.")
    ] = TrainConfig.learning_rate,
    human_only: Annotated[
        bool, typer.Option("--human-only", help="Do not learn from propagated labels.")
    ] = False,
    sparing: Annotated[
        bool | None,
        typer.Option(
            "--sparing/--no-sparing",
            help="Less time for unlabelled scans than published methods; by default on a CPU, for "
            "methods that were measured to gain by it.",
        ),
    ] = None,
    deep_supervision: Annotated[
        bool, typer.Option("--deep-supervision", help="Compare coarse levels with labels too.")
    ] = False,
    start_from: Annotated[
        Path | None,
        typer.Option("--start-from", metavar="BUNDLE", help="Begin with the weights of a bundle."),
    ] = None,
    atlas_warps: Annotated[
        bool,
        typer.Option("--atlas-warps", help="Bend annotated scans towards other patients, too."),
    ] = False,
    bridging: Annotated[
        bool, typer.Option("--bridging", help="Give scans random looks between CT and MR.")
    ] = False,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"A published protocol. {preset_help()}")
    ] = None,
    clock: Annotated[
        str, typer.Option("--clock", help="What minutes are counted by: wall or processor.")
    ] = "wall",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over, also where a stopped run could go on.")
    ] = False,
    watch: Annotated[
        str | None,
        typer.Option(metavar="CASE:PLANE:INDEX", help="Segment this slice anew while learning."),
    ] = None,
    watch_out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where preview.npy of it is written.")
    ] = None,
    watch_every: Annotated[
        float, typer.Option(metavar="SECONDS", help="At most so often, and in 5 % of the time.")
    ] = 3.0,
    device: DeviceName = "auto",
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Processes of the cluster; with --ray.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Learn on this Ray cluster: host:port."),
    ] = None,
) -> None:
    """Learn a model from drawn and propagated labels.

    Stopped or killed, the same command goes on from the last checkpoint. The averaged last
    weights are kept; validation only scores them, and test cases are not looked at.

    \b
    Examples:
      semiseg train abdomen --minutes 10
      torchrun --nproc-per-node 4 -m semiseg train abdomen --minutes 30   (4 GPUs)
      semiseg train abdomen --steps 500 --seed 3 --device cpu --validation leave_one_out
      semiseg train abdomen --start-from colleague.zip
      semiseg train abdomen --ray 10.0.0.5:6379 --workers 4
    """
    screen = screen_of(context)
    config = TrainConfig(
        method=method,
        minutes=10.0 if minutes is None and steps is None else minutes,
        steps=steps,
        seed=seed,
        device=cast("Device", device),
        validation=cast("Validation", validation),
        spacing_mm=spacing,
        dims=cast("Dims", dims),
        batch_size=batch_size,
        learning_rate=learning_rate,
        use_propagated=not human_only,
        start_from=None if start_from is None else str(start_from.absolute()),
        sparing=sparing,
        deep_supervision=deep_supervision,
        atlas_warps=atlas_warps,
        bridging=bridging,
        clock=cast("ClockName", clock),
    )
    if preset is not None:
        config = with_preset(preset, config, _asked(context))
    from semiseg.study.study import Study

    study = Study.open(folder)
    rank, size, local_rank = _torchrun()
    if rank:
        screen.mute()
    screen.loading()
    from semiseg.group import joined
    from semiseg.trainer import train as run

    watched = _watched(watch, watch_out, watch_every)
    _check_ray(ray, workers, size, watched)
    if ray is not None:
        from semiseg.distributed.training import train_over

        model_id = train_over(folder, config, ray, workers, screen.emit, resume=not fresh)
    else:
        with joined(size, local_rank, config.device) as group:
            model_id = run(
                study, config, screen.emit, resume=not fresh, group=group, watched=watched
            )
    screen.data(model=model_id)
    screen.say(f"made model {model_id} in {folder}")
    screen.next(f"semiseg predict {shell_path(folder)}")


def _asked(context: typer.Context) -> set[str]:
    """The settings that were given with the command."""
    names = {"spacing": "spacing_mm", "human_only": "use_propagated"}
    given = (name for name in context.params if was_given(context, name))
    return {names.get(name, name) for name in given}


def was_given(context: typer.Context, name: str) -> bool:
    """Whether the option `name` was written in the command."""
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _check_ray(ray: str | None, workers: int, size: int, watched: Watched | None) -> None:
    if ray is None and workers != 1:
        raise ConfigError(
            "--workers of a training are processes of a cluster, so --ray is needed; on one "
            "machine start it with torchrun, as the help says"
        )
    if ray is not None and (size != 1 or watched is not None):
        raise ConfigError("--ray does not go together with torchrun or --watch; leave one of them")


def _watched(text: str | None, folder: Path | None, every_s: float) -> Watched | None:
    from semiseg.learning.preview import Watched

    if text is None and folder is None:
        return None
    parts = (text or "").rsplit(":", 2)
    if folder is None or len(parts) != 3 or not parts[2].isdecimal():
        raise ConfigError(
            "to watch a slice both --watch CASE:PLANE:INDEX, as in ct7:axial:40, and --watch-out "
            "FOLDER are needed"
        )
    return Watched(
        case_id=parts[0],
        plane=cast("Plane", parts[1]),
        index=int(parts[2]),
        folder=folder,
        every_s=every_s,
    )


def _torchrun() -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine; alone where torchrun is not at work."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1, 0
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])


def predict(
    context: typer.Context,
    folder: StudyFolder,
    cases: CaseIds = None,
    model: Annotated[int | None, typer.Option(help="Model; the latest if none.")] = None,
    overlap: Annotated[float, typer.Option(help="Overlap of neighbouring windows.")] = 0.5,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over mirrored images: slower, steadier.")
    ] = False,
    keep_islands: Annotated[
        bool, typer.Option("--keep-islands", help="Do not remove small loose pieces.")
    ] = False,
    no_prior: Annotated[
        bool, typer.Option("--no-prior", help="The network alone: propagated labels have no say.")
    ] = False,
    device: DeviceName = "auto",
    workers: Workers = None,
    ray: RayAddress = None,
) -> None:
    """Segment cases with a model, with the uncertainty per voxel.

    Labels that propagation brought to a case, and that it trusts, have a say beside the network.

    \b
    Examples:
      semiseg predict abdomen
      semiseg predict abdomen ct7 mr2 --model 1 --flips
      semiseg predict abdomen --workers 2 --device cpu
    """
    screen = screen_of(context)
    config = PredictConfig(
        device=cast("Device", device),
        overlap=overlap,
        flips=flips,
        clean_up=not keep_islands,
        prior="off" if no_prior else "auto",
    )
    from semiseg.study.study import Study

    study = Study.open(folder)
    chosen = chosen_cases(study, cases) or tuple(study.cases)
    model_id = study.model(model).id
    screen.loading()
    from semiseg.distributed.choice import Engine, chosen_executor

    engine = Engine(workers=workers, ray=ray, device=config.device)
    if engine.alone:
        from semiseg.inference import predict as run

        run(study, model_id, chosen, config, screen.emit)
    else:
        from semiseg.distributed.predictions import predict_over

        with chosen_executor(engine) as executor:
            predict_over(study, model_id, chosen, config, executor, screen.emit)
    screen.data(model=model_id, cases=list(chosen))
    screen.say(f"segmented {len(chosen)} cases with model {model_id}: {', '.join(chosen)}")
    screen.next(f"semiseg report {shell_path(folder)} --open")
