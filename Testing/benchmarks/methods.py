"""Any methods on a data set, with few labelled scans: Dice on test scans, and paired differences.

Each run (method, number of labelled scans, seed) trains once within the same budget and writes one
JSON file into `--out`; runs whose file is there are not repeated, so a broken call goes on. Test
scans choose nothing: no validation, no early end, the last averaged weights are taken. Seed s
draws which scans of the training pool are labelled; all methods of one seed have the same ones.
The table gives the mean over scans and seeds with its spread over seeds, and for each method the
mean paired difference to `supervised`, scan by scan, with a 95 % bootstrap interval over scans.

Data sets (folders as their publishers name them): `hippocampus` (imagesTr, labelsTr; the first
four fifths of the sorted names are the pool), `acdc` (train, val by patient; both frames of a
patient are in one split; figures are of val), `abdomen` (ct, mr: both modalities in one study,
`--labelled` of each; splits as in loop.py).

CCT-R learns from labels that registration carried over: give `--propagate`, to it and to what it
is compared with. Time to learn is the same with and without; registration is not part of it.

    python Testing/benchmarks/methods.py hippocampus --data hippocampus --out runs \\
        --labelled 4 --seeds 3 --minutes 2 --methods supervised,mean_teacher,bcp,dtc
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

ABDOMEN = ("liver", "kidney_right", "kidney_left", "spleen")
REFERENCE = "supervised"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan of a data set; `pool`: it may be learnt from, otherwise it is tested on."""

    name: str
    patient: str
    modality: str
    image: Path
    label: Path
    pool: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training to measure."""

    method: str
    labelled: int
    seed: int

    @property
    def file(self) -> str:
        return f"{self.method}-{self.labelled}-seed{self.seed}.json"


def main() -> int:
    given = parse()
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    scans = distinct(DATA_SETS[given.data_set][0](Path(given.data)))
    require_settings(out, given)
    runs = [run for run in all_runs(given) if not (out / run.file).exists()]
    say(f"{len(runs)} runs to do; {sum(s.pool for s in scans)} scans in the pool, the rest tests")
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.parallel, mp_context=fresh, max_tasks_per_child=1) as pool:
        futures = {pool.submit(measure, run, scans, given): run for run in runs}
        for future in as_completed(futures):
            found = future.result()
            write(out / futures[future].file, found)
            say(f"{futures[future].file}: mean Dice {mean(found['dice'].values()):.3f}")
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*-seed*.json"))]
    print(table([run for run in found if run["run"]["method"] in given.methods.split(",")]))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_set", choices=sorted(DATA_SETS))
    parser.add_argument("--data", required=True, help="the data set's folder")
    parser.add_argument("--out", required=True, help="folder for one JSON file per run")
    parser.add_argument("--methods", default=REFERENCE)
    parser.add_argument("--labelled", default="4", help="numbers of labelled scans: 1,3,7")
    parser.add_argument(
        "--pool", type=int, help="patients of the pool that are used, labelled ones among them"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--dims", default="auto", help="2: networks see single slices; 3; auto")
    parser.add_argument(
        "--propagate", action="store_true", help="carry labels to the other scans of the pool first"
    )
    parser.add_argument(
        "--registrations",
        help="a folder that keeps registrations from run to run (cct_r, --propagate)",
    )
    parser.add_argument("--sparing", action="store_true", help="less work on unlabelled scans")
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--threads", type=int, default=1, help="per run")
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="what minutes are counted by"
    )
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def all_runs(given: argparse.Namespace) -> list[Run]:
    return [
        Run(method=method, labelled=int(labelled), seed=seed)
        for seed in range(given.seeds)
        for labelled in given.labelled.split(",")
        for method in given.methods.split(",")
    ]


def measure(run: Run, scans: list[Scan], given: argparse.Namespace) -> dict:
    """One loop in a study of its own; Dice per test scan and structure."""
    # Imported here: the number of threads must be set before torch is loaded.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch

    from semiseg.loop import run_loop

    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="semiseg-methods-") as folder:
        study = Path(folder) / "study"
        result = run_loop(
            study,
            loop_cases(run, pooled(run, scans, given.pool)),
            loop_config(run, given),
            sharing(study, given),
        )
        model = json.loads(next(study.glob("models/*/model.json")).read_text(encoding="utf-8"))
    dice = {f"{r['case']} {r['structure']}": r["dice"] for r in result.prediction_rows}
    return {
        "run": asdict(run),
        "dice": dice,
        "modality": {r["case"]: r["modality"] for r in result.prediction_rows},
        "labelled": sorted(labelled_names(run, scans)),
        "pool": sum(s.pool for s in pooled(run, scans, given.pool)),
        "steps": model["steps"],
        "plan": model["plan"],
        "seconds": dict(result.seconds),
        "settings": describe(given),
    }


def sharing(study: Path, given: argparse.Namespace):
    """Listens for the stage that registers first, and gives the study the kept registrations."""

    def hear(event) -> None:
        link = study / "cache" / "registration"
        if given.registrations and event.message in ("propagate", "train") and not link.exists():
            kept = Path(given.registrations).resolve()
            kept.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(kept)

    return hear


def labelled_names(run: Run, scans: list[Scan]) -> set[str]:
    """All scans of `labelled` patients of the pool, drawn by the seed, per modality."""
    names = set()
    for modality in sorted({scan.modality for scan in scans}):
        ours = [scan for scan in scans if scan.pool and scan.modality == modality]
        patients = sorted({scan.patient for scan in ours})
        rng = np.random.default_rng((run.seed, 5))
        chosen = set(rng.permutation(patients)[: run.labelled])
        names |= {scan.name for scan in ours if scan.patient in chosen}
    return names


def pooled(run: Run, scans: list[Scan], patients: int | None) -> list[Scan]:
    """The tests, and the scans of `patients` of the pool: the labelled ones and the next drawn."""
    if patients is None:
        return scans
    names = labelled_names(replace(run, labelled=patients), scans)
    return [scan for scan in scans if scan.name in names or not scan.pool]


def loop_cases(run: Run, scans: list[Scan]) -> list:
    from semiseg.loop import LoopCase

    labelled = labelled_names(run, scans)
    return [
        LoopCase(
            case_id=scan.name,
            image=scan.image,
            modality=scan.modality,  # type: ignore[arg-type]
            label=scan.label,
            full=scan.name in labelled,
            patient=scan.patient,
            split="train" if scan.pool else "test",
        )
        for scan in scans
    ]


def loop_config(run: Run, given: argparse.Namespace):
    from semiseg.config import PropagationConfig, TrainConfig
    from semiseg.loop import LoopConfig
    from semiseg.study.protocol import Protocol, common_structure

    names = DATA_SETS[given.data_set][1]
    return LoopConfig(
        name=run.file,
        protocol=Protocol(tuple(common_structure(name, i) for i, name in enumerate(names, 1))),
        propagation=PropagationConfig() if given.propagate else None,
        propagate_splits=("train",),
        training=TrainConfig(
            method=run.method,
            minutes=None if given.steps else given.minutes,
            steps=given.steps,
            seed=run.seed,
            device=given.device,
            dims=given.dims,
            sparing=given.sparing,
            clock=given.clock,
            validation="none",
        ),
        predict_splits=("test",),
        write_files=False,
    )


def distinct(scans: list[Scan]) -> list[Scan]:
    """Without images that are there twice under other names; a test scan is kept of such twins."""
    kept: dict[str, Scan] = {}
    for one in sorted(scans, key=lambda one: one.pool):
        twin = kept.setdefault(hashlib.sha256(one.image.read_bytes()).hexdigest(), one)
        if twin is not one:
            say(f"{one.name} is left out: its image is that of {twin.name}")
    names = {one.name for one in kept.values()}
    return [one for one in scans if one.name in names]


def hippocampus(folder: Path) -> list[Scan]:
    images = sorted((folder / "imagesTr").glob("*.nii.gz"))
    pool = len(images) * 4 // 5
    return [
        Scan(
            name=path.name.removesuffix(".nii.gz"),
            patient=path.name.removesuffix(".nii.gz"),
            modality="MR",
            image=path,
            label=folder / "labelsTr" / path.name,
            pool=number < pool,
        )
        for number, path in enumerate(images)
    ]


def acdc(folder: Path) -> list[Scan]:
    return [
        scan(path, "MR", path.name.split("_")[0], pool=path.parent.name == "train")
        for path in sorted(folder.glob("*/*_image.nii.gz"))
    ]


def abdomen(folder: Path) -> list[Scan]:
    found = []
    for modality, pool in (("ct", 2 / 3), ("mr", 0.6)):
        images = sorted((folder / modality).glob("*_image.nii.gz"))
        last = {"ct": 0.2, "mr": 0.3}[modality]
        n_pool, n_test = round(pool * len(images)), round(last * len(images))
        for number, path in enumerate(images):
            if number < n_pool or number >= len(images) - n_test:
                name = path.name.removesuffix("_image.nii.gz")
                found.append(scan(path, modality.upper(), name, pool=number < n_pool))
    return found


def scan(path: Path, modality: str, patient: str, *, pool: bool) -> Scan:
    name = path.name.removesuffix("_image.nii.gz")
    label = path.with_name(f"{name}_label.nii.gz")
    return Scan(name=name, patient=patient, modality=modality, image=path, label=label, pool=pool)


DATA_SETS: dict[str, tuple[Callable[[Path], list[Scan]], tuple[str, ...]]] = {
    "hippocampus": (hippocampus, ("hippocampus_anterior", "hippocampus_posterior")),
    "acdc": (acdc, ("right_ventricle", "myocardium", "left_ventricle")),
    "abdomen": (abdomen, ABDOMEN),
}


def require_settings(out: Path, given: argparse.Namespace) -> None:
    """All runs of a folder have the same settings; else the table would compare unlike things."""
    ours = (
        "data_set",
        "minutes",
        "steps",
        "dims",
        "sparing",
        "propagate",
        "pool",
        "clock",
        "device",
        "threads",
        "parallel",
    )
    for path in out.glob("*-seed*.json"):
        old = json.loads(path.read_text())["settings"]
        if any(old.get(name) != getattr(given, name) for name in ours):
            sys.exit(f"{path} was made with other settings; choose another folder with --out")


def describe(given: argparse.Namespace) -> dict:
    import torch

    import semiseg

    return vars(given) | {
        "data": Path(given.data).name,
        "out": Path(given.out).name,
        "date": datetime.now(UTC).date().isoformat(),
        "semiseg": semiseg.__version__,
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write(path: Path, values: dict) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(values, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def table(runs: list[dict]) -> str:
    """A row per method, number of labelled scans and modality."""
    head = ["method", "labelled", "modality", "Dice", "sd over seeds", "steps", "to supervised"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    groups = sorted({(r["run"]["labelled"], r["run"]["method"]) for r in runs})
    for labelled, method in groups:
        ours = [r for r in runs if (r["run"]["labelled"], r["run"]["method"]) == (labelled, method)]
        base = [
            r for r in runs if (r["run"]["labelled"], r["run"]["method"]) == (labelled, REFERENCE)
        ]
        for modality in sorted(set(ours[0]["modality"].values())):
            seeds = [mean(per_scan(r, modality).values()) for r in ours]
            steps = [r["steps"] for r in ours]
            cells = [
                method,
                str(labelled),
                modality,
                f"{mean(seeds):.3f}",
                f"{statistics.stdev(seeds):.3f}" if len(seeds) > 1 else "-",
                f"{min(steps)}-{max(steps)}",
                "-" if method == REFERENCE else difference(ours, base, modality),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def per_scan(run: dict, modality: str) -> dict[str, float]:
    """Mean Dice over structures of each test scan; structures absent from both are left out."""
    scans: dict[str, list[float]] = {}
    for key, dice in run["dice"].items():
        name = key.rsplit(" ", 1)[0]
        if dice is not None and run["modality"][name] == modality:
            scans.setdefault(name, []).append(dice)
    return {name: mean(values) for name, values in scans.items()}


def difference(ours: list[dict], base: list[dict], modality: str) -> str:
    """Mean paired difference over scans (first averaged over the seeds that both have)."""
    from scipy import stats

    seeds = {r["run"]["seed"] for r in ours} & {r["run"]["seed"] for r in base}
    if not seeds:
        return "-"
    gains: dict[str, list[float]] = {}
    for seed in seeds:
        mine, other = (
            per_scan(next(r for r in runs if r["run"]["seed"] == seed), modality)
            for runs in (ours, base)
        )
        for name in mine.keys() & other.keys():
            gains.setdefault(name, []).append(mine[name] - other[name])
    values = [mean(v) for v in gains.values()]
    if len(values) < 3:
        return f"{mean(values):+.3f}"
    found = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0), method="percentile")
    low, high = found.confidence_interval
    return f"{mean(values):+.3f} ({low:+.3f} to {high:+.3f})"


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(v for v in values if v is not None)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
