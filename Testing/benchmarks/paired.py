"""MAML on paired volumes: how much is lost when one of two sequences is missing at test time.

The pairs are made from real scans of one modality, since no set of registered sequences is at hand.
Both volumes of a pair come from the same scan, and each loses what the other keeps, so that neither
can be worked out from the other (`first_sequence`, `second_sequence`):

* first: greys above the 75th percentile of the body saturate, so bright tissues look alike; blurred
  along the image's rows (sigma 2 voxels), so edges across them are lost.
* second: greys below the 25th percentile of the body saturate, so dark tissues look alike; the
  rest is inverted (air stays dark) and stretched by a power of 1.5, so that no monotone curve leads
  from one to the other; blurred along its columns.
* each has a bias field (a smooth factor between about 0.7 and 1.4) and noise (4 % of its range,
  uncorrelated from voxel to voxel) of its own, drawn from the scan's name: what one volume's noise
  hides, the other may show.

Labels are the scan's. This is easier than real pairs in two ways, for which the figures cannot
speak: the volumes are registered to the voxel, and no structure is seen in one of them only.

Patients are split as in data_sets.py; `--labelled` of the pool are drawn by the seed. One training
per seed with both sequences. Then each test scan is segmented from both, from the first alone (its
companion taken out), and from the second alone (a case whose image is said to be that sequence).
`--baselines` trains `supervised` on each sequence alone, as long, for comparison. Nothing is chosen
on test scans: no validation, no early end.

    python Testing/benchmarks/paired.py acdc --data cardiac_acdc --out paired.json --seeds 3
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_sets import DATA_SETS, Scan, rehearsed, scans_of
from numpy.typing import NDArray
from records import circumstances, save
from tables import figure, markdown, mean, spread

FIRST, SECOND = "MR", "second"
WAYS = ("both", "first only", "second only")
BLUR_VOXELS, NOISE, BIAS, POWER = 2.0, 0.04, 0.35, 1.5
Volume = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A scan as two sequences; `pool`: it may be learnt from."""

    scan: Scan
    first: Path
    second: Path


def main() -> int:
    given = parse()
    os.environ["OMP_NUM_THREADS"] = "1"
    out = Path(given.out)
    start = time.process_time()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="semiseg-paired-") as folder:
        scans = one_per_patient(scans_of(given.data_set, Path(given.data)), given)
        for seed in range(given.seeds):
            names = drawn(scans, seed, given.labelled)
            ours = [scan for scan in scans.values() if scan.patient in names or not scan.pool]
            pairs = [made(scan, Path(folder)) for scan in ours]
            say(f"seed {seed}: {len(names)} pairs to learn from, {len(pairs) - len(names)} tests")
            rows += one_seed(seed, pairs, Path(folder), given)
            write(out, rows, given, time.process_time() - start)
    print(table(rows))
    print(losses(rows))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_set", choices=sorted(DATA_SETS))
    parser.add_argument("--data", required=True, help="the data set's folder")
    parser.add_argument("--out", required=True, help="JSON file for the figures")
    parser.add_argument("--labelled", type=int, default=16, help="patients to learn from")
    parser.add_argument("--tests", type=int, help="so many test patients, the first by name")
    parser.add_argument(
        "--rehearsal", action="store_true", help="test on patients of the pool, the last by name"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2.0, help="of one processor, per training")
    parser.add_argument("--steps", type=int, help="end after so many steps instead")
    parser.add_argument("--dims", default="auto")
    parser.add_argument("--baselines", action="store_true", help="`supervised` on each sequence")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a look whether it runs")
    given = parser.parse_args()
    if given.quick:
        given.labelled, given.tests, given.seeds, given.steps = 2, 1, 1, 5
    return given


def one_per_patient(scans: list[Scan], given: argparse.Namespace) -> dict[str, Scan]:
    """A patient's first scan by name; so many test patients, also by name."""
    found: dict[str, Scan] = {}
    for scan in sorted(rehearsed(scans) if given.rehearsal else scans, key=lambda one: one.name):
        found.setdefault(scan.patient, scan)
    names = [name for name, scan in found.items() if not scan.pool][: given.tests]
    return {name: scan for name, scan in found.items() if scan.pool or name in names}


def made(scan: Scan, folder: Path) -> Pair:
    """Both sequences of a scan as files."""
    from semiseg.images.reading import read_image, write_image

    image = read_image(scan.image)
    rng = np.random.default_rng(int(hashlib.sha256(scan.name.encode()).hexdigest()[:8], 16))
    paths = [folder / f"{scan.name}-{kind}.nrrd" for kind in ("first", "second")]
    for path, make in zip(paths, (first_sequence, second_sequence), strict=True):
        write_image(path, make(image.array, rng), image.grid)
    return Pair(scan=scan, first=paths[0], second=paths[1])


def drawn(by_patient: Mapping[str, Scan], seed: int, labelled: int) -> set[str]:
    """The patients that a seed learns from."""
    pool = sorted(name for name, scan in by_patient.items() if scan.pool)
    return set(np.random.default_rng((seed, 5)).permutation(pool)[:labelled])


def first_sequence(array: Volume, rng: np.random.Generator) -> Volume:
    """Bright tissues alike, blurred along x."""
    grey, body = scaled(array)
    limit = float(np.percentile(grey[body], 75))
    return finished(np.minimum(grey, limit) / limit, rng, axis=2)


def second_sequence(array: Volume, rng: np.random.Generator) -> Volume:
    """Dark tissues alike, greys inverted but air, blurred along y."""
    grey, body = scaled(array)
    limit = float(np.percentile(grey[body], 25))
    inverted = ((1 - np.maximum(grey, limit)) / max(1 - limit, 1e-6)) ** POWER
    return finished(inverted * np.clip(grey / (0.5 * limit), 0, 1), rng, axis=1)


def scaled(array: Volume) -> tuple[Volume, NDArray[np.bool_]]:
    """Greys in [0, 1] by percentiles, and where the body is, roughly: above an Otsu's half."""
    from semiseg.images.intensity import otsu

    low, high = np.percentile(array, [0.5, 99.5])
    grey = np.clip((array - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return grey, grey > 0.5 * otsu(grey.ravel())


def finished(grey: Volume, rng: np.random.Generator, *, axis: int) -> Volume:
    """Blurred along `axis`, with bias field and noise, as greys of about 0 to 1000."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter1d(grey, BLUR_VOXELS, axis=axis)
    knots = rng.uniform(-BIAS, BIAS, (2, 4, 4))
    zoom = [n / k for n, k in zip(grey.shape, knots.shape, strict=True)]
    field = ndimage.zoom(knots, zoom, order=1, mode="nearest", grid_mode=True)
    noise = rng.normal(0, NOISE, grey.shape)
    return ((blurred * np.exp(field) + noise) * 1000).astype(np.float32)


def one_seed(seed: int, pairs: list[Pair], folder: Path, given: argparse.Namespace) -> list[dict]:
    """MAML in all ways and, if asked for, each sequence alone."""
    rows = maml_rows(seed, pairs, folder / f"maml{seed}", given)
    if given.baselines:
        for way in WAYS[1:]:
            rows += alone_rows(seed, pairs, folder / f"{way[:3]}{seed}", way, given)
    return rows


def maml_rows(seed: int, pairs: list[Pair], folder: Path, given: argparse.Namespace) -> list[dict]:
    study, steps = learned_study(seed, pairs, folder, "maml", given)
    tests = [pair for pair in pairs if not pair.scan.pool]
    for pair in tests:
        study.add_companion(pair.scan.name, pair.second, SECOND)
    rows = segmented(study, tests, WAYS[0])
    for pair in tests:
        study.remove_companion(pair.scan.name, SECOND)
    rows += segmented(study, tests, WAYS[1])
    for pair in tests:
        second = {"case_id": f"{pair.scan.name}-second", "patient": pair.scan.patient}
        study.add_case(pair.second, modality="MR", **second)
        study.set_sequence(f"{pair.scan.name}-second", SECOND)
    rows += segmented(study, tests, WAYS[2], suffix="-second")
    return [{**row, "method": "maml", "seed": seed, "steps": steps} for row in rows]


def alone_rows(
    seed: int, pairs: list[Pair], folder: Path, way: str, given: argparse.Namespace
) -> list[dict]:
    """`supervised` on one sequence."""
    one = [
        Pair(scan=p.scan, first=p.first if way == WAYS[1] else p.second, second=p.second)
        for p in pairs
    ]
    study, steps = learned_study(seed, one, folder, "supervised", given)
    rows = segmented(study, [pair for pair in one if not pair.scan.pool], way)
    return [{**row, "method": "supervised", "seed": seed, "steps": steps} for row in rows]


def learned_study(seed: int, pairs: list[Pair], folder: Path, method: str, given):
    """A study with the pairs' first volumes as cases and a model; the training cases paired."""
    from semiseg.config import TrainConfig
    from semiseg.images.labels import read_label
    from semiseg.study.protocol import Protocol, common_structure
    from semiseg.study.study import Study
    from semiseg.trainer import train

    names = DATA_SETS[given.data_set][1]
    protocol = Protocol(tuple(common_structure(name, i) for i, name in enumerate(names, 1)))
    study = Study.create(folder, name=folder.name, protocol=protocol)
    for pair in pairs:
        scan = pair.scan
        split = "train" if scan.pool else "test"
        study.add_case(
            pair.first, case_id=scan.name, patient=scan.patient, modality="MR", split=split
        )
        if scan.pool:
            label = read_label(scan.label).array
            study.annotate(scan.name, label, plane="axial", indices=range(len(label)))
            if method == "maml":
                study.add_companion(scan.name, pair.second, SECOND)
    config = TrainConfig(
        method=method,
        minutes=None if given.steps else given.minutes,
        steps=given.steps,
        seed=seed,
        device=given.device,
        dims=given.dims,
        validation="none",
        clock="wall" if given.steps else "processor",
    )
    model_id = train(study, config)
    return study, int(str(study.model(model_id).info["steps"]))


def segmented(study, pairs: list[Pair], way: str, suffix: str = "") -> list[dict]:
    """Dice per test scan and structure from the newest model."""
    from semiseg.config import PredictConfig
    from semiseg.images.labels import read_label
    from semiseg.inference import predict
    from semiseg.metrics import dice

    ids = [f"{pair.scan.name}{suffix}" for pair in pairs]
    predict(study, None, ids, PredictConfig(device="cpu", overlap=0.25))
    rows = []
    for case_id, pair in zip(ids, pairs, strict=True):
        truth, found = read_label(pair.scan.label).array, study.prediction(case_id).array
        for structure in study.protocol.structures:
            one, other = truth == structure.id, found == structure.id
            if one.any() or other.any():
                value = float(dice(one, other))
                told = {"case": pair.scan.name, "structure": structure.name, "modality": "MR"}
                rows.append({**told, "way": way, "dice": value})
    return rows


def write(out: Path, rows: list[dict], given: argparse.Namespace, processor_s: float) -> None:
    settings = vars(given) | {
        "data": Path(given.data).name,
        "out": out.name,
        **circumstances(),
        "blur_voxels": BLUR_VOXELS,
        "noise": NOISE,
        "bias": BIAS,
        "processor_s": round(processor_s, 1),
    }
    save(out, {"settings": settings, "rows": rows})


def table(rows: list[dict]) -> str:
    """Mean Dice over test scans and structures, by method and what was there."""
    lines = []
    for method in sorted({row["method"] for row in rows}):
        for way in WAYS:
            ours = [row for row in rows if (row["method"], row["way"]) == (method, way)]
            if not ours:
                continue
            seeds = sorted({row["seed"] for row in ours})
            means = [mean(row["dice"] for row in ours if row["seed"] == seed) for seed in seeds]
            names = list(dict.fromkeys(row["structure"] for row in ours))
            parts = [
                figure(mean(row["dice"] for row in ours if row["structure"] == name))
                for name in names
            ]
            steps = sorted({row["steps"] for row in ours})
            lines.append(
                [
                    method,
                    way,
                    figure(mean(means)),
                    figure(spread(means)),
                    *parts,
                    f"{steps[0]}-{steps[-1]}",
                ]
            )
    names = list(dict.fromkeys(row["structure"] for row in rows))
    return markdown(["method", "seen", "Dice", "sd over seeds", *names, "steps"], lines)


def losses(rows: list[dict]) -> str:
    """What MAML loses without one sequence: mean paired difference with a bootstrap interval."""
    from scipy import stats

    per_scan: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["method"] == "maml":
            per_scan.setdefault((row["way"], row["case"]), []).append(row["dice"])
    cases = sorted({case for _, case in per_scan})
    lines = []
    for way in WAYS[1:]:
        lost = np.array(
            [np.mean(per_scan[WAYS[0], case]) - np.mean(per_scan[way, case]) for case in cases]
        )
        text = f"{way}: {100 * lost.mean():.2f} points below both"
        if len(lost) > 2:
            rng = np.random.default_rng(0)
            low, high = stats.bootstrap((lost,), np.mean, rng=rng).confidence_interval
            text += f", 95 % interval over scans {100 * low:.2f} to {100 * high:.2f}"
        lines.append(text)
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
