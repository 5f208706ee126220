"""What each part of our own training is good for: runs with one of them left out.

Only scans of the training pool are read (names as in loop.py): the first seven CT and four MR are
learned from, one of each with five drawn slices per organ, number s for seed s, propagated to the
others; the last three CT and two MR of the pool are looked at. Nothing here is a test figure: these
runs chose settings. Each variant learns for the same processor seconds on one thread. Dice is of
the most probable class at 2 mm without any clean-up, mean over organs and scans, so unfinished
training shows fully. Each run writes one JSON file; runs whose file is there are not repeated.

Variants: "full_resolution" is `supervised` without the stem that the planner chooses on a CPU,
"cascade+without=paste" and the like leave an ingredient of cascade out (see its options), "+deep"
adds deep supervision, "+warps" atlas warps.

    python Testing/benchmarks/ablation.py --data abdomen --out runs --seconds 80 --seeds 2 \\
        --variants full_resolution,supervised,cascade,cascade+without=paste
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from semiseg.config import PropagationConfig, TrainConfig
from semiseg.data.cases import load_training_case
from semiseg.data.supervision import Wanted, to_channels
from semiseg.events import ignore
from semiseg.images.labels import read_label
from semiseg.images.resampling import spaced_grid, zoom_linear, zoom_nearest
from semiseg.learning.means import MEANS
from semiseg.learning.scoring import segment
from semiseg.learning.session import Session
from semiseg.learning.survey import survey
from semiseg.propagation import propagate
from semiseg.simulation import SimulationConfig, simulate
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study

ORGANS = ("liver", "kidney_right", "kidney_left", "spleen")
POOL = {"CT": (10, 7), "MR": (6, 4)}
SLICES = 5
SCORED_AT_MM = 2.0


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        for variant in given.variants.split(","):
            path = out / f"{variant}-seed{seed}.json"
            if not path.exists():
                found = measure(study_of(given, seed), variant, seed, given)
                path.write_text(json.dumps(found, indent=1), encoding="utf-8")
                print(f"{path.stem}: {found['mean']}", flush=True)
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*-seed*.json"))]
    print(table([run for run in runs if run["variant"] in given.variants.split(",")]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with ct/ and mr/")
    parser.add_argument("--out", required=True, help="folder for studies and one file per run")
    parser.add_argument("--variants", default="supervised,cascade")
    parser.add_argument("--seconds", type=float, default=80.0, help="processor seconds per run")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--spacing", type=float, help="mm; default: as planned")
    parser.add_argument("--patch", help="z,y,x where there is a stem; default: as planned")
    return parser.parse_args()


def study_of(given: argparse.Namespace, seed: int) -> Study:
    """The development study of this seed, propagated; made once."""
    folder = Path(given.out) / f"study-{seed}"
    if folder.exists():
        return Study.open(folder)
    names = enumerate(ORGANS, 1)
    protocol = Protocol(tuple(common_structure(name, i) for i, name in names))
    study = Study.create(folder, name="development", protocol=protocol)
    for modality, (n_pool, n_train) in POOL.items():
        images = sorted((Path(given.data) / modality.lower()).glob("*_image.nii.gz"))[:n_pool]
        for number, image in enumerate(images):
            name = image.name.removesuffix("_image.nii.gz")
            split = "train" if number < n_train else "test"
            study.add_case(
                image, case_id=name, name=name, patient=name, modality=modality, split=split
            )
            if number == seed % n_train:
                label = read_label(label_path(given, name)).array
                simulate(study, name, label, SimulationConfig(slices=SLICES))
    learned = [case_id for case_id, case in study.cases.items() if case.split == "train"]
    propagate(study, PropagationConfig(), case_ids=learned)
    return Study.open(folder)


def label_path(given: argparse.Namespace, name: str) -> Path:
    return Path(given.data) / name.split("_", maxsplit=1)[0] / f"{name}_label.nii.gz"


def measure(study: Study, variant: str, seed: int, given: argparse.Namespace) -> dict:
    """One training, and Dice on the scans that are looked at."""
    config, stem = settings(variant, seed, given)
    own = MEANS["cpu"]
    MEANS["cpu"] = replace(own, stem=stem)
    with tempfile.TemporaryDirectory() as folder:
        found = survey(study, use_propagated=True)
        session = Session(study, config, found, Path(folder) / "run", ignore)
        session.prepare(torch.device("cpu"), time.process_time())
        run = session.final_run()
    MEANS["cpu"] = own
    with run.learner.averaged() as method:
        dice = {}
        for case_id, case in study.cases.items():
            if case.split == "test":
                dice |= scored(study, case_id, method, run.plan, found.classes, given)
    plan = run.plan
    return {
        "variant": variant,
        "seed": seed,
        "steps": run.learner.step,
        "seconds": given.seconds,
        "spacing_mm_zyx": plan.spacing_mm_zyx,
        "patch_zyx": plan.patch_zyx,
        "mean": {key: mean(dice, key.lower()) for key in POOL},
        "dice": dice,
    }


def settings(variant: str, seed: int, given: argparse.Namespace) -> tuple[TrainConfig, bool]:
    """The training's settings, and whether its network may have a stem."""
    name, stem = variant, True
    if variant == "full_resolution":
        name, stem = "supervised", False
    parts = name.split("+")
    patch = tuple(int(n) for n in given.patch.split(",")) if given.patch and stem else None
    config = TrainConfig(
        method="+".join(part for part in parts if part not in ("deep", "warps")),
        minutes=given.seconds / 60,
        seed=seed,
        device="cpu",
        validation="none",
        spacing_mm=given.spacing,
        patch=patch,
        deep_supervision="deep" in parts,
        atlas_warps="warps" in parts,
        clock="processor",
    )
    return config, stem


def scored(study, case_id, method, plan, classes, given) -> dict[str, float]:
    """Dice of each organ of one scan, on its own field of view at 2 mm."""
    wanted = Wanted(classes=classes)
    case = load_training_case(study, study.cases[case_id], plan.spacing_mm_zyx, wanted)
    turn = case.image.orientation
    shape = spaced_grid(turn.grid, (SCORED_AT_MM,) * 3).shape_zyx
    parts: list[np.ndarray] = []
    segment(method, plan, case, lambda _case, _first, chunk: parts.append(chunk.cpu().numpy()))
    channels = np.concatenate(parts, axis=1)
    likely = np.stack([zoom_linear(np.ascontiguousarray(c), shape) for c in channels]).argmax(0)
    truth = turn.apply(read_label(label_path(given, case_id)).array)
    truth = to_channels(zoom_nearest(truth, shape), classes)
    return {
        f"{case_id} {classes[k]}": round(
            2
            * float(((likely == k) & (truth == k)).sum())
            / float((likely == k).sum() + (truth == k).sum()),
            4,
        )
        for k in range(1, len(classes))
        if (truth == k).any()
    }


def mean(dice: dict[str, float], start: str) -> float:
    return round(statistics.fmean(v for key, v in dice.items() if key.startswith(start)), 4)


def table(runs: list[dict]) -> str:
    """A row per variant, mean over seeds."""
    lines = ["| variant | seeds | steps | CT | MR | mean |", "|---|---|---|---|---|---|"]
    for variant in dict.fromkeys(run["variant"] for run in runs):
        ours = [run for run in runs if run["variant"] == variant]
        both = [statistics.fmean(run["mean"][m] for run in ours) for m in POOL]
        steps = "-".join(str(f(run["steps"] for run in ours)) for f in (min, max))
        cells = [variant, str(len(ours)), steps, *(f"{v:.3f}" for v in (*both, sum(both) / 2))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
