"""Does the score that a study tells hold on other scans? Intervals, calibration, found errors.

Each simulated study has 2 to 5 labelled scans (drawn by its seed, every slice done), is trained
with leave-one-out validation, and is then confronted with test scans that it never saw:

- covered: does the 95 % interval that the study tells (`learning/honest.py`: over the left-out
  scans, up to where the longer training may get) hold the mean Dice of the kept model on the test
  scans? `open` counts the intervals that reach 1 because the shorter trainings hardly learned, and
  `width` is the others' mean width: an interval that says nothing covers all.
- ECE per structure on the test scans, before and after the temperature that was fitted on the
  left-out scans: voxels where background is not certain or a structure is, 15 bins.
- AUROC: how well the uncertainty of the test scans' segmentations finds wrong voxels within two
  voxels of a surface.

`--resample TABLE.json ...` answers a narrower question in seconds: scores of 2 to 5 scans are drawn
without replacement from measured per-scan Dice (JSON files with {"dice": {scan: value}}, as
methods.py and annotator.py write) and the interval is held against the mean of the scans that were
not drawn. It tells whether the interval is wide enough for the spread of scores, and nothing of
the bias of leave-one-out.

Studies are kept in `--out`, one JSON file each, and are not repeated. Data sets as in data_sets.py.

    python Testing/benchmarks/honesty.py hippocampus --data hippocampus --out runs --studies 20 \\
        --seconds 20 --parallel 2
    python Testing/benchmarks/honesty.py --resample runs/*.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from annotator import auroc
from annotator_scans import coarse
from data_sets import DATA_SETS, Scan, scans_of

FEWEST, MOST = 2, 5


def main() -> int:
    given = parse()
    if given.resample:
        print(resampled([Path(name) for name in given.resample], given.draws))
        return 0
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    names = DATA_SETS[given.data_set][1]
    scans = scans_of(given.data_set, Path(given.data))
    if given.coarse is not None:
        scans = coarse(scans, out / f"scans-{given.coarse:g}mm", given.coarse, names)
    seeds = [k for k in range(given.studies) if not (out / f"study{k:03}.json").exists()]
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.parallel, mp_context=fresh, max_tasks_per_child=1) as pool:
        futures = {pool.submit(measure, seed, scans, names, given): seed for seed in seeds}
        for future in as_completed(futures):
            write(out / f"study{futures[future]:03}.json", future.result())
    print(table([json.loads(path.read_text()) for path in sorted(out.glob("study*.json"))]))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_set", nargs="?", choices=sorted(DATA_SETS), default="hippocampus")
    parser.add_argument("--data", help="the data set's folder")
    parser.add_argument("--out", help="folder for one JSON file per study")
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="of processor time to learn")
    parser.add_argument("--test", type=int, default=8, help="so many test scans per study")
    parser.add_argument("--dims", default="auto")
    parser.add_argument("--coarse", type=float, metavar="MM", help="least voxel size of the scans")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--resample", nargs="+", metavar="JSON", help="see above")
    parser.add_argument("--draws", type=int, default=2000, help="simulated studies per table")
    given = parser.parse_args()
    if not given.resample and not (given.data and given.out):
        parser.error("--data and --out are needed, or --resample")
    return given


def measure(
    seed: int, scans: list[Scan], names: tuple[str, ...], given: argparse.Namespace
) -> dict:
    """One simulated study."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from semiseg.config import TrainConfig
    from semiseg.models import load_model
    from semiseg.rounds.summary import read_overall
    from semiseg.trainer import train

    torch.set_num_threads(1)
    start, rng = time.process_time(), np.random.default_rng((seed, 23))
    pool, test = ([s for s in scans if s.pool is kept] for kept in (True, False))
    count = FEWEST + seed % (MOST - FEWEST + 1)
    labelled = [pool[k] for k in rng.permutation(len(pool))[:count]]
    tested = [test[k] for k in sorted(rng.permutation(len(test))[: given.test])]
    with tempfile.TemporaryDirectory(prefix="semiseg-honesty-") as folder:
        study = make_study(Path(folder) / "study", labelled, tested, names)
        config = TrainConfig(
            minutes=given.seconds / 60,
            clock="processor",
            device="cpu",
            seed=seed,
            dims=given.dims,
            validation="leave_one_out",
        )
        record = study.model(train(study, config))
        validation = record.info["validation"]
        own = [statistics.fmean(row.values()) for row in validation["cases"].values() if row]
        told = read_overall(validation)
        model = load_model(record.folder, torch.device("cpu"))
        rows = [on_test(study, model, scan) for scan in tested]
    return {
        "seed": seed,
        "labelled": len(labelled),
        "own": own,
        "interval": [told.low, told.high],
        "dice": {scan.name: row["dice"] for scan, row in zip(tested, rows, strict=True)},
        "auroc": [row["auroc"] for row in rows if row["auroc"] is not None],
        "ece": {
            key: pooled_ece([row["samples"] for row in rows], t) for key, t in temperatures(model)
        },
        "temperature": model.temperature,
        "cpu_s": round(time.process_time() - start, 1),
        "settings": {k: v for k, v in vars(given).items() if k not in ("data", "out", "resample")},
    }


def temperatures(model) -> list[tuple[str, float]]:
    return [("before", 1.0), ("after", model.temperature)]


def make_study(folder: Path, labelled: list[Scan], tested: list[Scan], names: tuple[str, ...]):
    """Every slice of the labelled scans is done; the test scans are set aside."""
    from semiseg.study.protocol import Protocol, common_structure
    from semiseg.study.study import Study

    structures = tuple(common_structure(name, i) for i, name in enumerate(names, 1))
    study = Study.create(folder, name="honesty", protocol=Protocol(structures))
    for scan in (*labelled, *tested):
        split = "train" if scan in labelled else "test"
        study.add_case(
            scan.image,
            case_id=scan.name,
            patient=scan.patient,
            modality=scan.modality,  # type: ignore[arg-type]
            split=split,
        )
        if split == "train":
            truth = truth_of(study, scan)
            study.annotate(scan.name, truth, plane="axial", indices=range(truth.shape[0]))
    return study


def truth_of(study, scan: Scan) -> np.ndarray:
    from semiseg.images.labels import read_label
    from semiseg.importing import to_protocol

    return to_protocol(read_label(scan.label), study.protocol, study.cases[scan.name].grid)


def on_test(study, model, scan: Scan) -> dict:
    """Dice and AUROC on the scan's own grid; probabilities and truth on the training grid."""
    from semiseg.config import PredictConfig
    from semiseg.inference import predict_image
    from semiseg.metrics import score

    image, truth = study.image(scan.name), truth_of(study, scan)
    found = predict_image(model, image, scan.modality, PredictConfig(device="cpu"))
    scores = score(found.label, truth, study.protocol.ids, image.grid.spacing_mm_zyx)
    return {
        "dice": statistics.fmean(s.dice for s in scores if s.dice == s.dice),
        "auroc": auroc(found.label, truth, found.uncertainty),
        "samples": samples_of(model, image, truth, scan),
    }


def samples_of(model, image, truth: np.ndarray, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities (N, C) before any temperature and true channels (N,), near structures."""
    import torch

    from semiseg.data.training_grid import to_training_grid
    from semiseg.images.resampling import resample_label
    from semiseg.sliding import stream_probabilities, window_plans

    ready = to_training_grid(image, scan.modality, model.spacing_mm_zyx)
    known = resample_label(truth, image.grid, ready.grid)
    plan = window_plans(
        ready.grid.shape_zyx,
        len(model.classes),
        window_zyx=model.window_zyx,
        multiple_zyx=model.multiple_zyx,
        overlap=0.25,
        device=torch.device("cpu"),
    )[0]
    network = model.predictor(scan.modality)

    @torch.inference_mode()
    def predictor(windows):
        flat = windows.shape[2] == 1
        logits = network(windows.squeeze(2) if flat else windows)
        return (logits.unsqueeze(2) if flat else logits).float().softmax(dim=1)

    chunks = stream_probabilities(
        predictor,
        torch.from_numpy(ready.array),
        plan,
        fill=ready.fill,
        on_windows=lambda _count: None,
    )
    chances = torch.cat(list(chunks), dim=1).flatten(1).T.double().clamp_min(1e-12).numpy()
    channels = np.zeros(int(max(model.classes)) + 1, np.int64)
    channels[list(model.classes)] = np.arange(len(model.classes))
    right = channels[known.ravel()]
    kept = (1 - chances[:, 0] >= 0.01) | (right > 0)
    return np.log(chances[kept]), right[kept]


def pooled_ece(samples: list[tuple[np.ndarray, np.ndarray]], temperature: float) -> list[float]:
    """Per structure, over the voxels of all test scans."""
    from semiseg.learning.calibration import ece, tempered

    logs, truth = (np.concatenate([one[k] for one in samples]) for k in (0, 1))
    chances = tempered(logs, temperature)
    return [ece(chances[:, k], truth == k) for k in range(1, chances.shape[1])]


def write(path: Path, found: dict) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    temporary.replace(path)
    print(
        f"{path.name}: {found['labelled']} labelled, own {statistics.fmean(found['own']):.3f} "
        f"{found['interval']}, test {mean_dice(found):.3f} ({found['cpu_s']} s)",
        file=sys.stderr,
        flush=True,
    )


def mean_dice(found: dict) -> float:
    return statistics.fmean(found["dice"].values())


def covered(found: dict) -> bool:
    low, high = found["interval"]
    return bool(low <= mean_dice(found) <= high)


def table(found: list[dict]) -> str:
    """A row per number of labelled scans, and one for all."""
    lines = ["| labelled | studies | own score | test Dice | open | width | covered | ECE "]
    lines[0] += "| ECE worst structure | before temperature | AUROC |"
    lines.append("|---" * 11 + "|")
    for count in (*range(FEWEST, MOST + 1), None):
        rows = [row for row in found if count in (None, row["labelled"]) and row["interval"]]
        if rows:
            lines.append("| " + " | ".join(_cells(count, rows)) + " |")
    return "\n".join(lines)


def _cells(count: int | None, rows: list[dict]) -> list[str]:
    from semiseg.learning.honest import HARDLY_LEARNED

    def over(value) -> float:
        return statistics.fmean(value(row) for row in rows)

    areas = [area for row in rows for area in row["auroc"]]
    closed = [row for row in rows if statistics.fmean(row["own"]) >= HARDLY_LEARNED]
    widths = [row["interval"][1] - row["interval"][0] for row in closed]
    return [
        "all" if count is None else str(count),
        str(len(rows)),
        f"{over(lambda r: statistics.fmean(r['own'])):.3f}",
        f"{over(mean_dice):.3f}",
        str(len(rows) - len(closed)),
        f"{statistics.fmean(widths):.3f}" if widths else "-",
        f"{100 * over(covered):.0f} %",
        f"{over(lambda r: statistics.fmean(r['ece']['after'])):.3f}",
        f"{over(lambda r: max(r['ece']['after'])):.3f}",
        f"{over(lambda r: statistics.fmean(r['ece']['before'])):.3f}",
        f"{statistics.fmean(areas):.3f}" if areas else "-",
    ]


def resampled(paths: list[Path], draws: int) -> str:
    """Coverage of the mean of the scans that were not drawn, per table and number of scans."""
    from semiseg.rounds.intervals import interval

    lines = [
        "| table | scans | " + " | ".join(f"{n} drawn" for n in range(FEWEST, MOST + 1)) + " |"
    ]
    lines.append("|---" * (2 + MOST - FEWEST + 1) + "|")
    for path in paths:
        values = scan_scores(json.loads(path.read_text(encoding="utf-8")))
        if len(values) < 2 * MOST:
            continue
        cells = [path.stem, str(len(values))]
        for count in range(FEWEST, MOST + 1):
            rng, hits = np.random.default_rng((count, 5)), 0
            for _ in range(draws):
                order = rng.permutation(len(values))
                ends = interval([float(values[k]) for k in order[:count]])
                hits += ends is not None and ends[0] <= values[order[count:]].mean() <= ends[1]
            cells.append(f"{100 * hits / draws:.1f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scan_scores(found: dict) -> np.ndarray:
    """Mean Dice per scan; keys are scans, or scans and structures with a space between."""
    rows = found.get("dice") or (found.get("rows") or [{}])[-1].get("dice", {})
    each: dict[str, list[float]] = {}
    for key, value in rows.items():
        if isinstance(value, int | float):
            each.setdefault(str(key).split(" ")[0], []).append(float(value))
    return np.array([statistics.fmean(values) for values in each.values()])


if __name__ == "__main__":
    raise SystemExit(main())
