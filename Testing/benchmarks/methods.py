"""Any methods on a data set, with few labels: Dice and HD95 on test scans, and paired differences.

Each run (method, what is labelled, seed) trains once within the same budget and writes one JSON
file into `--out`; runs whose file is there are not repeated, so a broken call goes on. Test scans
choose nothing: no validation, no early end, the last averaged weights are taken. All methods of
one seed learn from the same labels, see method_studies.py: `--labelled 1,3` scans, or protocols of
the abdomen (AB-1, AB-5, ct-to-mr, mr-to-ct, atlases). Data sets: see data_sets.py.

A method is named as `semiseg train` knows it. `METHOD@CT` learns in a study without MR, `@MR`
without CT. `METHOD+propagated` (or all with `--propagate`) learns from labels that registration
carried to the other scans of the pool, too: CCT-R needs that. Carrying is done once for what is
labelled and a seed, before all budgets, and its seconds are told apart; registrations are kept
in `--registrations`. Its seconds are those of a whole propagation only where none was kept.

Settings are never chosen on the test scans: `--rehearsal` puts the last fifth of the pool's
patients in their place. `--minutes` decides how fine the network sees, too; with `--steps` instead,
and `--spacing` where voxels are to stay as coarse as a short time allows, methods are compared at
equal steps.

Tables: means over scans and seeds, and for each method the mean paired difference to the better
of `supervised`, `supervised@CT` and `supervised@MR` (as far as they were run; the better one on
the tested modality), with a 95 % bootstrap interval over patients.

    python Testing/benchmarks/methods.py hippocampus --data hippocampus --out runs \\
        --labelled 4 --seeds 3 --minutes 2 --methods supervised,mean_teacher,bcp,dtc
    python Testing/benchmarks/methods.py abdomen --data abdomen --out runs --clock processor \\
        --labelled AB-1,AB-5 --methods supervised,supervised@CT,supervised@MR,bcp+propagated
    python Testing/benchmarks/methods.py abdomen --out runs --table
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from data_sets import DATA_SETS, WITHOUT_SPACING, Scan, rehearsed, scans_of
from method_studies import (
    ALL,
    PROTOCOLS,
    Arm,
    Drawn,
    copy_of,
    drop_copy,
    is_possible,
    is_prepared,
    preparation,
    prepare,
)
from method_tables import overall, tables
from records import circumstances, save

SETTINGS = (
    "data_set",
    "minutes",
    "steps",
    "spacing",
    "dims",
    "sparing",
    "rehearsal",
    "propagate",
    "pool",
    "clock",
    "device",
    "threads",
    "parallel",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training to measure."""

    method: str
    labelled: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.labelled}-seed{self.seed}"

    @property
    def file(self) -> str:
        return f"{self.name}.json"

    def drawn(self, given: argparse.Namespace) -> Drawn:
        """The study that it learns from."""
        arm = Arm.named(self.method)
        return Drawn(
            labelled=self.labelled,
            seed=self.seed,
            alone=arm.alone,
            propagated=arm.propagated or given.propagate,
            pool=given.pool or ALL,
        )


def main() -> int:
    given = parse()
    out = Path(given.out)
    complete = True
    if not given.table:
        out.mkdir(parents=True, exist_ok=True)
        require_settings(out, given)
        complete = work(given, out)
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*-seed*.json"))]
    if given.methods is not None:
        found = [run for run in found if run["run"]["method"] in given.methods.split(",")]
    if not found:
        sys.exit(f"{out} holds no finished run of these methods")
    print(tables(found))
    return 0 if complete else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_set", choices=sorted(DATA_SETS))
    parser.add_argument("--data", help="the data set's folder")
    parser.add_argument("--out", required=True, help="folder for one JSON file per run")
    parser.add_argument("--table", action="store_true", help="only print the tables of --out")
    parser.add_argument("--methods", help="supervised by default; with --table all there are")
    parser.add_argument("--labelled", default="4", help="numbers of scans, or protocols: AB-1,AB-5")
    parser.add_argument(
        "--pool", type=int, help="patients of the pool that are used, labelled ones among them"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="of minutes")
    parser.add_argument("--spacing", type=float, metavar="MM", help="voxels to learn at")
    parser.add_argument("--dims", default="auto", help="2: networks see single slices; 3; auto")
    parser.add_argument("--propagate", action="store_true", help="carried labels for all methods")
    parser.add_argument("--registrations", help="folder that keeps them; by default in --out")
    parser.add_argument("--rehearsal", action="store_true", help="test on patients of the pool")
    parser.add_argument("--sparing", action="store_true", help="less work on unlabelled scans")
    parser.add_argument(
        "--segment-pool", action="store_true", help="segment the pool too, to see how long it takes"
    )
    parser.add_argument("--threads", type=int, default=1, help="per run")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time")
    parser.add_argument("--ray", metavar="ADDRESS", help="do the runs on this Ray cluster")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    require_known(parser, given)
    return given


def require_known(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """What is asked for can be done; else the parser says what not."""
    if not given.table and given.data is None:
        parser.error("--data is missing: the data set's folder")
    for labelled in given.labelled.split(","):
        if labelled in PROTOCOLS and given.data_set != "abdomen":
            parser.error(f"{labelled} is a protocol of the data set abdomen")
        if labelled not in PROTOCOLS and not labelled.isdecimal():
            parser.error(f"--labelled takes numbers and {', '.join(PROTOCOLS)}, not {labelled!r}")
    for name in (given.methods or "").split(","):
        if Arm.named(name).alone not in (None, "CT", "MR"):
            parser.error(f"{name!r}: after @ comes CT or MR")


def work(given: argparse.Namespace, out: Path) -> bool:
    """Prepare the studies that are missing, then do the runs that are; whether all succeeded."""
    require_methods(given)
    scans = scans_of(given.data_set, Path(given.data))
    scans = rehearsed(scans) if given.rehearsal else scans
    runs = [run for run in all_runs(given) if not (out / run.file).exists()]
    say(f"{len(runs)} runs to do; {sum(s.pool for s in scans)} scans in the pool, the rest tests")
    studies = list(dict.fromkeys(run.drawn(given) for run in runs))
    for drawn, found in in_processes(make, studies, scans, given):
        say(f"{drawn.name}: {found['processor_seconds']} processor seconds to carry labels")
    ready = [run for run in runs if is_prepared(run.drawn(given), out)]
    for run, found in in_processes(measure, ready, scans, given):
        save(out / run.file, found)
        scores = {
            one: overall([found], one, "dice") for one in sorted(set(found["modality"].values()))
        }
        say(f"{run.file}: mean Dice {scores}")
    return all((out / run.file).exists() for run in runs)


def require_methods(given: argparse.Namespace) -> None:
    """All methods exist: said before the first study is prepared, which takes minutes."""
    from semiseg.errors import ConfigError
    from semiseg.methods.base import method_class

    for name in (given.methods or "supervised").split(","):
        method = Arm.named(name).method
        try:
            if method != "auto":
                method_class(method)
        except ConfigError as error:
            sys.exit(str(error))


def in_processes(
    task: Callable, items: list, scans: list[Scan], given: argparse.Namespace
) -> Iterable[tuple]:
    """`task` of each item in a process of its own; item and result as they come."""
    if given.ray:
        from method_tasks import over_cluster

        for item, found, why in over_cluster(task.__name__, items, given):
            if found is None:
                say(f"{item} failed: {why}")
            else:
                yield item, found
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.parallel, mp_context=fresh, max_tasks_per_child=1) as pool:
        futures = {pool.submit(task, item, scans, given): item for item in items}
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                yield futures[future], future.result()
            else:  # the others are worth having; the same call tries this one again
                say(f"{futures[future]} failed: {error!r}")


def all_runs(given: argparse.Namespace) -> list[Run]:
    runs = [
        Run(method=method, labelled=labelled, seed=seed)
        for seed in range(given.seeds)
        for labelled in given.labelled.split(",")
        for method in (given.methods or "supervised").split(",")
    ]
    empty = sorted({f"{r.method} {r.labelled}" for r in runs if not is_possible(r.drawn(given))})
    if empty:
        say(f"left out, nothing is labelled: {', '.join(empty)}")
    return [run for run in runs if is_possible(run.drawn(given))]


def make(drawn: Drawn, scans: list[Scan], given: argparse.Namespace) -> dict:
    """The study that runs will copy."""
    limit_threads(given)
    out = Path(given.out)
    kept = Path(given.registrations) if given.registrations else out / "registrations"
    return prepare(drawn, scans, DATA_SETS[given.data_set][1], out, kept)


def measure(run: Run, scans: list[Scan], given: argparse.Namespace) -> dict:
    """Learn in a copy of the prepared study and segment the tests; a figure per scan, structure."""
    limit_threads(given)
    from semiseg.evaluation import evaluate
    from semiseg.study.storage import read_json

    out, drawn = Path(given.out), run.drawn(given)
    study = copy_of(drawn, out, run.name)
    try:
        watch = learn_and_segment(study, train_config(run, given), given)
        tests = {s.name: s.label for s in scans if not s.pool}
        rows = evaluate(study, tests, reference_note="the data set's expert labels")
        model = read_json(next(study.folder.glob("models/*/model.json")))
        learnt = [key for key, case in study.cases.items() if case.split == "train"]
    finally:
        drop_copy(out, run.name)
    before = preparation(drawn, out)
    return {
        "run": asdict(run),
        "dice": {f"{r['case']} {r['structure']}": r["dice"] for r in rows},
        **distances(rows, given),
        "modality": {r["case"]: r["modality"] for r in rows},
        "patient": {s.name: s.patient for s in scans if not s.pool},
        "labelled": sorted(k for k, one in model["cases"].items() if one["human"]),
        "pool": len(learnt),
        "steps": model["steps"],
        "plan": model["plan"],
        "seconds": {"propagate": before["seconds"], **watch.wall},
        "processor_seconds": {"propagate": before["processor_seconds"], **watch.processor},
        "preparation": before,
        "settings": describe(given),
    }


def distances(rows: list[dict], given: argparse.Namespace) -> dict:
    if given.data_set in WITHOUT_SPACING:
        return {}
    return {"hd95_mm": {f"{r['case']} {r['structure']}": r["hd95_mm"] for r in rows}}


def learn_and_segment(study, training, given: argparse.Namespace) -> Watch:
    from semiseg.config import PredictConfig
    from semiseg.inference import predict
    from semiseg.trainer import train

    watch, prediction = Watch(), PredictConfig(device=given.device)
    with watch.over("train"):
        model_id = train(study, training)
    by_split = {
        split: tuple(key for key, case in study.cases.items() if case.split == split)
        for split in ("train", "test")
    }
    with watch.over("predict"):
        predict(study, model_id, by_split["test"], prediction)
    if given.segment_pool:
        with watch.over("segment_pool"):
            predict(study, model_id, by_split["train"], prediction)
    return watch


class Watch:
    """Seconds of each stage: of the wall clock, and of this process's processors."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    @contextmanager
    def over(self, stage: str):
        wall, processor = time.monotonic(), time.process_time()
        yield
        self.wall[stage] = round(time.monotonic() - wall, 1)
        self.processor[stage] = round(time.process_time() - processor, 1)


def train_config(run: Run, given: argparse.Namespace):
    from semiseg.config import TrainConfig

    return TrainConfig(
        method=Arm.named(run.method).method,
        minutes=None if given.steps else given.minutes,
        steps=given.steps,
        spacing_mm=given.spacing,
        seed=run.seed,
        device=given.device,
        dims=given.dims,
        sparing=given.sparing,
        clock=given.clock,
        validation="none",
    )


def limit_threads(given: argparse.Namespace) -> None:
    # torch is imported here: the number of threads must be set before.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch

    torch.set_num_threads(given.threads)


def require_settings(out: Path, given: argparse.Namespace) -> None:
    """All runs of a folder have the same settings; else the table would compare unlike things."""
    for path in out.glob("*-seed*.json"):
        old = json.loads(path.read_text())["settings"]
        if any(old.get(name) != getattr(given, name) for name in SETTINGS):
            sys.exit(f"{path} was made with other settings; choose another folder with --out")


def describe(given: argparse.Namespace) -> dict:
    import torch

    return {
        **vars(given),
        "data": Path(given.data).name,
        "out": Path(given.out).name,
        "registrations": None if given.registrations is None else Path(given.registrations).name,
        **circumstances(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
