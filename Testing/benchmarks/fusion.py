"""Several atlases onto one target: ways of fusing them, how true their confidence is, the gate.

Targets are the first scans of each modality by name, their atlases the next ones of the same
modality in a circle; `--exclude` names scans that must not be looked at. Labels of targets are
used for scores alone. Printed are the Dice of each fusion and of single atlases; the reliability
of the confidence where any atlas claims a structure, with its expected calibration error (ECE);
and how well the gate's score tells results with a mean Dice below 0.7 (area under the curve, AUC),
fused ones and those of each atlas alone. The weight of the newest finding, borders, was chosen on
such targets; so the AUC is also told with that weight chosen anew for each target, by results in
which neither the target nor an atlas is this patient.

A run that was broken off goes on where it was: finished targets are kept in `--out`,
registrations in the folder beside it.

    python Testing/benchmarks/fusion.py --data abdomen --out fusion.json --exclude ct_27,mr_33
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import semiseg
from semiseg.atlases.borders import border_contrast, border_ratios
from semiseg.atlases.fusion import Fused, fuse, on_grid
from semiseg.atlases.gate import BORDERS, Findings, factors_of, score_of, volume_ratios
from semiseg.atlases.library import body_girth_mm2
from semiseg.atlases.transfer import Atlas, Transfer, drawn_places, fusion_grid, transfer
from semiseg.config import RegistrationConfig
from semiseg.images.grid import Grid
from semiseg.images.intensity import guess_modality
from semiseg.images.labels import read_label
from semiseg.images.reading import read_image
from semiseg.images.resampling import resample_image, resample_label, spaced_grid
from semiseg.metrics import dice
from semiseg.registration.cache import Source, cached_register
from semiseg.registration.register import Prepared, prepare

FUSIONS = ("both", "vote", "staple")
BORDER_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2)
BINS = 20
FAILED = 0.7  # Dice


@dataclass(frozen=True, kw_only=True)
class Settings:
    data: str
    out: str
    atlases: int
    targets: int
    exclude: tuple[str, ...]
    device: str
    diffeomorphic: bool
    threads: int
    quick: bool


@dataclass(frozen=True)
class Scan:
    """One scan, read when needed."""

    path: Path
    config: RegistrationConfig

    @property
    def name(self) -> str:
        return self.path.name.removesuffix("_image.nii.gz")

    @cached_property
    def prepared(self) -> Prepared:
        image = read_image(self.path)
        return prepare(image, guess_modality(image).modality, self.config)

    @cached_property
    def atlas(self) -> Atlas:
        label = read_label(self.path.with_name(f"{self.name}_label.nii.gz"))
        return Atlas(
            case_id=self.name,
            grid=label.grid,
            array=label.array,
            confidence=np.ones(label.array.shape, dtype=np.float32),
            ids=tuple(int(i) for i in np.unique(label.array) if i > 0),
        )

    @cached_property
    def borders(self) -> dict[int, float]:
        own, image = self.atlas, self.prepared
        return border_contrast(image, resample_label(own.array, own.grid, image.grid), own.ids)

    def source(self) -> Source:
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return Source(sha256=digest, modality=self.modality, load=lambda: self.prepared)

    @property
    def modality(self) -> str:
        return "CT" if self.path.parent.name.upper().startswith("CT") else "MR"


def main() -> int:
    settings = parse()
    torch.set_num_threads(settings.threads)
    found = kept(Path(settings.out))
    for target, atlases in tasks(settings):
        if target.name in found:
            continue
        found[target.name] = one_target(target, atlases, settings)
        save(Path(settings.out), {"settings": describe(settings), "targets": found})
        say(f"{target.name}: {summary(found[target.name])}")
    print(table(found))
    print(reliability(found))
    print(gate(found))
    return 0


def parse() -> Settings:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of NAME_image and NAME_label files")
    parser.add_argument("--out", required=True, help="JSON file; registrations go beside it")
    parser.add_argument("--atlases", type=int, default=5)
    parser.add_argument("--targets", type=int, default=4, help="of each modality")
    parser.add_argument("--exclude", default="", help="names of scans to leave alone")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "auto"))
    parser.add_argument("--diffeomorphic", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute: one target, two atlases")
    given = vars(parser.parse_args())
    given["exclude"] = tuple(part for part in given["exclude"].split(",") if part)
    if given["diffeomorphic"] is None:
        given["diffeomorphic"] = RegistrationConfig().diffeomorphic
    if given["quick"]:
        given |= {"targets": 1, "atlases": 2}
    return Settings(**given)


def tasks(settings: Settings) -> list[tuple[Scan, list[Scan]]]:
    config = RegistrationConfig(device=settings.device, diffeomorphic=settings.diffeomorphic)
    groups: dict[str, list[Scan]] = {}
    for path in sorted(Path(settings.data).rglob("*_image.nii.gz")):
        scan = Scan(path, config)
        if scan.name not in settings.exclude:
            groups.setdefault(path.parent.name, []).append(scan)
    if not groups:
        sys.exit(f"{settings.data} holds no file NAME_image.nii.gz")
    found = []
    for scans in groups.values():
        for number, target in enumerate(scans[: settings.targets]):
            others = (scans[number + 1 :] + scans[:number])[: settings.atlases]
            found.append((target, others))
    return found


def one_target(target: Scan, atlases: list[Scan], settings: Settings) -> dict:
    clock = time.process_time()
    transfers, grid = carried(target, atlases, settings)
    own = target.atlas
    where = spaced_grid(own.grid, (3.0,) * 3)
    truth = resample_label(own.array, own.grid, where)
    pairs = list(zip(atlases, transfers, strict=True))
    ways = {name: fuse(transfers, grid, name) for name in FUSIONS}
    singles = {scan.name: fuse([one], grid) for scan, one in pairs}
    scored = {n: scores(fused, where, truth, own.ids) for n, fused in (ways | singles).items()}
    gates = {"both": judged(target, atlases, transfers, ways["both"], where)}
    for scan, one in pairs:
        gates[scan.name] = judged(target, [scan], [one], singles[scan.name], where)
    return {
        "modality": target.modality,
        "ids": list(own.ids),
        "seconds": round(time.process_time() - clock, 1),
        "dice": scored,
        "bins": {name: bins(fused, where, truth) for name, fused in ways.items()},
        "gate": gates,
    }


def carried(target: Scan, atlases: list[Scan], settings: Settings) -> tuple[list[Transfer], Grid]:
    """The atlases' labels on the part of the target where they land."""
    folder = Path(settings.out).with_suffix(".registrations")
    found = [
        (scan, cached_register(folder, target.source(), scan.source(), scan.config, both_ways=True))
        for scan in atlases
    ]
    moved = [
        result.inverse.moved(drawn_places(scan.atlas))
        for scan, result in found
        if result.inverse is not None
    ]
    own = target.atlas.grid
    grid = fusion_grid(spaced_grid(own, own.spacing_mm_xyz), moved)
    images = [(target.prepared, scan.prepared) for scan, _ in found]
    transfers = [
        transfer(scan.atlas, result, pair, grid)
        for (scan, result), pair in zip(found, images, strict=True)
    ]
    return transfers, grid


def scores(fused: Fused, where: Grid, truth: np.ndarray, ids: tuple[int, ...]) -> list[float]:
    array = on_grid(fused, where)[0]
    return [round(float(dice(array == i, truth == i)), 4) for i in ids]


def bins(fused: Fused, where: Grid, truth: np.ndarray) -> list[list[float]]:
    """Per bin of confidence: voxels, sum of confidence, voxels that are right."""
    array, confidence = on_grid(fused, where)
    shares = [resample_image(share, fused.grid, where, fill=0.0) for share in fused.share]
    claimed = np.max(shares, axis=0) > 0.01
    sure, right = confidence[claimed], (array == truth)[claimed]
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        [int((place == b).sum()), float(sure[place == b].sum()), int(right[place == b].sum())]
        for b in range(BINS)
    ]


def judged(
    target: Scan, atlases: list[Scan], transfers: list[Transfer], fused: Fused, where: Grid
) -> dict:
    """The gate's "score"; its sums of logarithms and of weights, with "borders" apart."""
    girth = body_girth_mm2(target.prepared)
    scales = [girth / body_girth_mm2(scan.prepared) for scan in atlases]
    evidence = [one.evidence for one in transfers]
    image = target.prepared
    contrast = border_contrast(image, on_grid(fused, image.grid)[0], fused.ids)
    alike = all(scan.modality == target.modality for scan in atlases)
    found = Findings(
        evidence=evidence,
        agreement=fused.agreement,
        ratios=volume_ratios(on_grid(fused, where)[0], where.voxel_ml, evidence, scales),
        borders=border_ratios(contrast, [scan.borders for scan in atlases], alike=alike),
    )
    names = {i: str(i) for i in fused.ids}
    with_borders = factors_of(found, names)
    without = factors_of(replace(found, borders={}), names)
    total = sum(f.weight for f in without)
    score, base = score_of(with_borders), math.log(score_of(without)) * total
    weight = BORDERS if found.borders else 0.0
    return {
        "score": score,
        "base": base,
        "weight": total,
        "borders": (math.log(score) * (total + weight) - base) / BORDERS if weight else 0.0,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def summary(found: dict) -> str:
    return ", ".join(f"{m} {statistics.fmean(found['dice'][m]):.3f}" for m in FUSIONS)


def table(found: dict) -> str:
    lines = ["| modality | method | targets | mean Dice | sd | worst |", "|---" * 6 + "|"]
    for modality in sorted({one["modality"] for one in found.values()}):
        own = [one for one in found.values() if one["modality"] == modality]
        rows = {m: [statistics.fmean(one["dice"][m]) for one in own] for m in FUSIONS}
        rows["single atlas"] = [
            statistics.fmean(values)
            for one in own
            for name, values in one["dice"].items()
            if name not in FUSIONS
        ]
        for method, values in rows.items():
            spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else "-"
            cells = [modality, method, str(len(values)), f"{statistics.fmean(values):.4f}"]
            lines.append("| " + " | ".join([*cells, spread, f"{min(values):.2f}"]) + " |")
    return "\n".join(lines)


def reliability(found: dict) -> str:
    lines = ["| method | confidence | voxels | mean confidence | right |", "|---" * 5 + "|"]
    for method in FUSIONS:
        total = np.sum([one["bins"][method] for one in found.values()], axis=0)
        error = 0.0
        for number, (count, sure, right) in enumerate(total):
            if count:
                error += abs(sure - right) / total[:, 0].sum()
                edges = f"{number / BINS:.2f} to {(number + 1) / BINS:.2f}"
                cells = [method, edges, str(int(count)), f"{sure / count:.3f}"]
                lines.append("| " + " | ".join([*cells, f"{right / count:.3f}"]) + " |")
        lines.append(f"| {method} | all | {int(total[:, 0].sum())} | ECE | {error:.3f} |")
    return "\n".join(lines)


def gate(found: dict) -> str:
    rows = [
        {
            **one["gate"][name],
            "target": target,
            "bad": statistics.fmean(one["dice"][name]) < FAILED,
            "patients": {target, name} if name in one["dice"] and name not in FUSIONS else {target},
            "fused": name in FUSIONS,
        }
        for target, one in found.items()
        for name in one["gate"]
    ]
    for row in (row for row in rows if row["fused"]):
        row["patients"] = {row["target"], *found[row["target"]]["gate"]} - set(FUSIONS)
    bad = sum(row["bad"] for row in rows)
    lines = [f"gate: {bad} of {len(rows)} results below a Dice of {FAILED}"]
    if not 0 < bad < len(rows):
        return f"{lines[0]}; no curve"
    lines.append(f"gate: AUC {area(rows, [row['score'] for row in rows]):.3f}")
    singles = [row for row in rows if not row["fused"]]
    lines.append(
        f"gate: AUC {area(singles, [row['score'] for row in singles]):.3f}, single atlases"
    )
    lines.append(f"gate: AUC {area(rows, weighed(rows, 0.0)):.3f} without borders")
    lines.append(f"gate: AUC {area(rows, patientwise(rows)):.3f}, weight of borders by patient")
    return "\n".join(lines)


def weighed(rows: list[dict], borders: float) -> list[float]:
    return [(r["base"] + borders * r["borders"]) / (r["weight"] + borders) for r in rows]


def patientwise(rows: list[dict]) -> list[float]:
    """Logarithms of scores, each with the weight that is best for results of other patients."""
    chosen = {}
    for target in {row["target"] for row in rows}:
        others = [row for row in rows if target not in row["patients"]]
        chosen[target] = max(BORDER_WEIGHTS, key=lambda w: area(others, weighed(others, w)))
    return [weighed([row], chosen[row["target"]])[0] for row in rows]


def area(rows: list[dict], scores: list[float]) -> float:
    """Area under the curve; 0.5 where all results are good, or all bad."""
    good = [score for row, score in zip(rows, scores, strict=True) if not row["bad"]]
    bad = [score for row, score in zip(rows, scores, strict=True) if row["bad"]]
    wins = [(g > b) + (g == b) / 2 for g in good for b in bad]
    return statistics.fmean(wins) if wins else 0.5


def kept(out: Path) -> dict:
    return json.loads(out.read_text(encoding="utf-8"))["targets"] if out.exists() else {}


def describe(settings: Settings) -> dict:
    return asdict(settings) | {
        "data": Path(settings.data).name,
        "out": Path(settings.out).name,
        "date": datetime.now(UTC).date().isoformat(),
        "semiseg": semiseg.__version__,
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
    }


def save(out: Path, content: dict) -> None:
    temporary = out.with_name(out.name + ".part")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(out)


if __name__ == "__main__":
    raise SystemExit(main())
