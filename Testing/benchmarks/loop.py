"""The whole loop on unpaired abdominal CT and MR: protocols AB-5 and AB-1.

AB-5: on one CT and one MR of the training pool, five axial slices for each organ, evenly over its
extent with both tips, all organs drawn on each of them. AB-1: the same two scans fully drawn. The
rest of the pool and the validation scans have no labels; figures are of the test scans, which
choose nothing: the last weights of the time budget are taken, no threshold is set on any label.
(The defaults of registration were once chosen on pairs of this data, test scans among them: for a
clean figure of runs with propagation point `--data` at other patients.)

`--data` holds `ct/NAME_image.nii.gz`, `ct/NAME_label.nii.gz` and the same under `mr/` (or a folder
`abdomen` with both). Splits are by sorted names: two thirds of the CT and 60 % of the MR make the
pool, the last fifth (CT) and the last 30 % (MR) the test. Seed s also picks the annotated scans:
number s of each pool.

    python Testing/benchmarks/loop.py --data abdomen --out ab.json --seeds 2 --minutes 10
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from records import circumstances, save
from tables import figure, markdown, mean, spread

ORGANS = {1: "liver", 2: "kidney_right", 3: "kidney_left", 4: "spleen"}
PROTOCOLS = {"AB-5": 5, "AB-1": None}
SHARES = {"ct": (2 / 3, 0.2), "mr": (0.6, 0.3)}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training to measure."""

    protocol: str
    method: str
    propagation: bool
    seed: int

    @property
    def name(self) -> str:
        return f"{self.protocol} {self.method} {'with' if self.propagation else 'no'} propagation"


@dataclass(frozen=True, kw_only=True)
class Settings:
    data: str
    out: str
    seeds: int
    minutes: float
    steps: int | None
    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    propagation: tuple[bool, ...]
    threads: int
    parallel: int
    device: str
    quick: bool
    keep: str | None


def main() -> int:
    settings = parse()
    out = Path(settings.out)
    done = previous(out, settings)
    runs = [run for run in all_runs(settings) if key(run) not in {r["run"] for r in done["runs"]}]
    say(f"{len(runs)} runs to do, {len(done['runs'])} found in {out.name}")
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(settings.parallel, mp_context=fresh, max_tasks_per_child=1) as pool:
        futures = {pool.submit(measure, run, settings): run for run in runs}
        for future in as_completed(futures):
            rows, summary = future.result()
            done["rows"] += rows
            done["runs"].append(summary)
            save(out, done)
            say(f"{key(futures[future])}: {summary['seconds']}")
    print(table(done["rows"]))
    return 0


def parse() -> Settings:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with ct/ and mr/, or abdomen/")
    parser.add_argument("--out", required=True, help="JSON file; finished runs in it are kept")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0, help="training time per run")
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--methods", default="supervised")
    parser.add_argument("--protocols", default="AB-5,AB-1")
    parser.add_argument("--propagation", default="off,on", help="off, on or both")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="per run")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a minute: does it run at all?")
    parser.add_argument("--keep", help="keep the studies in this folder")
    given = vars(parser.parse_args())
    unknown = set(given["protocols"].split(",")) - set(PROTOCOLS)
    if unknown:
        parser.error(f"no protocol {', '.join(sorted(unknown))}; there are AB-5 and AB-1")
    given["methods"] = tuple(given["methods"].split(","))
    given["protocols"] = tuple(given["protocols"].split(","))
    given["propagation"] = tuple(part == "on" for part in given["propagation"].split(","))
    if given["quick"]:
        given |= {"seeds": 1, "minutes": 0.25, "protocols": ("AB-5",), "propagation": (False,)}
    return Settings(**given)


def all_runs(settings: Settings) -> list[Run]:
    return [
        Run(protocol=protocol, method=method, propagation=propagation, seed=seed)
        for seed in range(settings.seeds)
        for protocol in settings.protocols
        for method in settings.methods
        for propagation in settings.propagation
    ]


def key(run: Run) -> str:
    return f"{run.name} seed {run.seed}"


def measure(run: Run, settings: Settings) -> tuple[list[dict], dict]:
    """Run the loop once in a study of its own; rows per test scan and organ, and a summary."""
    # Imported here: the number of threads must be set before torch is loaded.
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    import torch

    from semiseg.loop import run_loop

    torch.set_num_threads(settings.threads)
    top = Path(settings.keep or tempfile.mkdtemp(prefix="semiseg-loop-"))
    folder = top / key(run).replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        result = run_loop(folder, cases(run, settings), config(run, settings), progress(run))
        model = json.loads(next(folder.glob("models/*/model.json")).read_text(encoding="utf-8"))
    finally:
        if settings.keep is None:
            shutil.rmtree(top, ignore_errors=True)
    kinds = {case.case_id: kind(case) for case in cases(run, settings)}
    common = {"method": run.name, "seed": run.seed}
    rows = [
        plain(row) | common | {"kind": "model on test", "seconds": result.seconds["train"]}
        for row in result.prediction_rows
    ]
    rows += [
        plain(row)
        | common
        | {"kind": kinds[row["case"]], "seconds": result.seconds.get("propagate", 0.0)}
        for row in result.label_rows
    ]
    seconds = dict(result.seconds) | {"all": round(time.monotonic() - start, 1)}
    summary = {"run": key(run), "steps": model["steps"], "seconds": seconds}
    return rows, summary | {"spacing_mm": model["spacing_mm_zyx"], "peak_rss_mb": peak_rss_mb()}


def kind(case) -> str:
    """What a label row of this scan shows: the filled annotated scan, or propagation to others."""
    drawn = case.full or case.slices > 0
    return "filled, drawn scan" if drawn else f"propagated, {case.split}"


def cases(run: Run, settings: Settings) -> list:
    from semiseg.loop import LoopCase

    found = []
    for modality in ("ct", "mr"):
        names = scan_names(settings.data, modality)
        pool, test = shares(modality, len(names))
        if settings.quick:
            names = names[:2] + names[-1:]
            pool, test = 1, 1
        for number, (name, image, label) in enumerate(names):
            split = "train" if number < pool else "test" if number >= len(names) - test else "val"
            drawn = number == run.seed % pool
            slices = PROTOCOLS[run.protocol]
            found.append(
                LoopCase(
                    case_id=name,
                    image=image,
                    modality="CT" if modality == "ct" else "MR",
                    label=label,
                    slices=slices if drawn and slices is not None else 0,
                    full=drawn and slices is None,
                    patient=name,
                    split=split,
                )
            )
    return found


def scan_names(data: str, modality: str) -> list[tuple[str, Path, Path]]:
    folder = Path(data) / modality
    if not folder.is_dir():
        folder = Path(data) / "abdomen" / modality
    images = sorted(folder.glob("*_image.nii.gz"))
    if len(images) < 3:
        sys.exit(f"{folder} must hold at least 3 files NAME_image.nii.gz, found {len(images)}")
    names = [path.name.removesuffix("_image.nii.gz") for path in images]
    return [
        (name, path, path.with_name(f"{name}_label.nii.gz"))
        for name, path in zip(names, images, strict=True)
    ]


def shares(modality: str, count: int) -> tuple[int, int]:
    """Scans in the training pool and in the test."""
    pool, test = SHARES[modality]
    return max(1, round(pool * count)), max(1, round(test * count))


def config(run: Run, settings: Settings):
    from semiseg.config import PropagationConfig, TrainConfig
    from semiseg.loop import LoopConfig
    from semiseg.study.protocol import Protocol, common_structure

    structures = tuple(common_structure(name, number) for number, name in ORGANS.items())
    return LoopConfig(
        name=key(run),
        protocol=Protocol(structures),
        propagation=PropagationConfig() if run.propagation else None,
        training=TrainConfig(
            method=run.method,
            minutes=None if settings.steps else settings.minutes,
            steps=settings.steps,
            seed=run.seed,
            device=settings.device,
            validation="none",
        ),
        propagate_splits=("train", "test"),
        predict_splits=("test",),
        reference_note="the data set's expert labels",
        write_files=False,
    )


def progress(run: Run):
    last = [0.0]

    def emit(event) -> None:
        if event.kind == "error" or time.monotonic() - last[0] > 30:
            last[0] = time.monotonic()
            say(f"{key(run)}: {event.phase} {event.step}/{event.total} {event.message}")

    return emit


def plain(row: dict) -> dict:
    return {name: value for name, value in row.items() if not isinstance(value, dict | list)}


def peak_rss_mb() -> float | None:
    """The largest resident size of this process so far; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def previous(out: Path, settings: Settings) -> dict:
    """What `out` holds from an interrupted call with the same settings, else an empty result."""
    fresh = {"settings": describe(settings), "rows": [], "runs": []}
    if not out.is_file():
        return fresh
    old = json.loads(out.read_text(encoding="utf-8"))
    ours = ("minutes", "steps", "device", "threads", "parallel", "quick")
    if any(old["settings"].get(name) != fresh["settings"][name] for name in ours):
        sys.exit(f"{out} was made with other settings; name another file or move it away")
    return old


def describe(settings: Settings) -> dict:
    import torch

    return asdict(settings) | {
        "data": Path(settings.data).name,
        "out": Path(settings.out).name,
        "keep": settings.keep is not None,
        **circumstances(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def table(rows: list[dict]) -> str:
    """Mean Dice per organ over test scans and seeds, the mean of all, and its spread."""
    head = ["run", "scans", *ORGANS.values(), "mean", "sd over scans", "sd over seeds", "HD95 mm"]
    lines = []

    def group(row: dict) -> tuple[str, str, str]:
        return row["kind"], row["modality"], row["method"]

    for kind, modality, method in sorted(set(map(group, rows))):
        ours = [row for row in rows if group(row) == (kind, modality, method)]
        lines.append([f"{method}, {kind} {modality}", *cells(ours)])
    return markdown(head, lines)


def cells(rows: list[dict]) -> list[str]:
    scored = [r for r in rows if r["dice"] is not None]
    scans = sorted({(r["seed"], r["case"]) for r in scored})
    per_scan = [mean(r["dice"] for r in scored if (r["seed"], r["case"]) == scan) for scan in scans]
    seeds = sorted({seed for seed, _ in scans})
    per_seed = [
        mean(value for value, scan in zip(per_scan, scans, strict=True) if scan[0] == seed)
        for seed in seeds
    ]
    organs = [mean(r["dice"] for r in scored if r["structure"] == name) for name in ORGANS.values()]
    distances = [r["hd95_mm"] for r in scored if r["hd95_mm"] is not None]
    return [
        str(len({case for _, case in scans})),
        *map(figure, organs),
        figure(mean(per_scan)),
        figure(spread(per_scan)),
        figure(spread(per_seed)),
        figure(mean(distances), 1),
    ]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
