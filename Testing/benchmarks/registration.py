"""One atlas onto another patient: Dice of the atlas' labels carried over, per pair of scans.

Methods: `centres` puts the volumes' middles together, `start` is SemiSeg's placement and size
alone, `semiseg` the whole registration; the others are peers with their own defaults, each given
SemiSeg's start (see registration_peers.py): convexadam, demons, bspline, elastix, ants. `all` is
start, semiseg and every peer that is installed. Labels are compared on the fixed scan in voxels of
about the working spacing; folding is counted in the fixed body. `seconds` are processor seconds
of this process for one pair without reading the files: preparing both scans, the start, and the
method; `own_seconds` leave out, for a peer, what SemiSeg does for it. The second table compares
each pair with ConvexAdam on the same pair.

All methods of a pair run one after another, pairs of the groups take turns, and the result is
written after each pair: the same command goes on where it was stopped.

`--data` holds NAME_image.nii.gz and NAME_label.nii.gz at any depth. `--pairs` is a JSON file
{"pairs": {group: [[moving, fixed], ...]}}. The script uses labels for scores
alone; SemiSeg's defaults were once chosen on abdominal pairs, so measure on other patients too.

    python Testing/benchmarks/registration.py --data abdomen --pairs pairs.json --out reg.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import SimpleITK as sitk
import torch
from registration_peers import NEEDS, ONE_MODALITY, PEERS, installed
from registration_tables import REFERENCE, compared_table, key, table

import semiseg
from semiseg.config import RegistrationConfig
from semiseg.images.grid import Grid
from semiseg.images.intensity import guess_modality
from semiseg.images.labels import LabelMap, read_label
from semiseg.images.reading import read_image
from semiseg.images.resampling import resample_label, spaced_grid
from semiseg.metrics import score
from semiseg.registration.field import folded_fraction
from semiseg.registration.register import (
    Field,
    Prepared,
    best_start,
    prepare,
    register,
    warp_image,
    warp_label,
)
from semiseg.registration.start import Start

METHODS = ("centres", "start", "semiseg", *PEERS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    data: str
    pairs: str
    out: str
    seeds: int
    methods: tuple[str, ...]
    groups: tuple[str, ...]
    exclude: tuple[str, ...]
    limit: int | None
    device: str
    threads: int
    quick: bool


@dataclass(frozen=True, kw_only=True)
class Scan:
    name: str
    modality: str
    label: LabelMap
    prepared: Prepared
    seconds: float


def main() -> int:
    settings = parse()
    torch.set_num_threads(settings.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(settings.threads)
    rows = earlier(settings)
    done = {key(row) for row in rows}
    for (group, moving, fixed), seed in itertools.product(order(settings), range(settings.seeds)):
        left = [m for m in settings.methods if (group, moving, fixed, seed, m) not in done]
        if not left:
            continue
        found = pair_rows(group, moving, fixed, seed, left, settings)
        if not found:
            continue  # what is left serves one modality only
        rows += found
        say(f"{group} {moving} to {fixed}: {last_dice(rows)}")
        save(Path(settings.out), {"settings": describe(settings), "rows": rows})
    print(table(rows))
    if any(row["method"] == REFERENCE for row in rows):
        print("\n" + compared_table(rows))
    return 0


def earlier(settings: Settings) -> list[dict]:
    """What an earlier run with the same settings left; other settings are refused."""
    path = Path(settings.out)
    if not path.exists():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    now = describe(settings)
    for name in ("data", "pairs", "device", "threads", "registration", "semiseg", "torch"):
        if kept["settings"][name] != now[name]:
            sys.exit(f"{path} was made with another {name}: give --out another name or remove it")
    return kept["rows"]


def order(settings: Settings) -> list[tuple[str, str, str]]:
    """The pairs, those of the groups in turn."""
    groups = chosen_pairs(settings)
    columns = [
        [(group, moving, fixed) for moving, fixed in pairs[: settings.limit]]
        for group, pairs in groups.items()
    ]
    return [pair for row in itertools.zip_longest(*columns) for pair in row if pair]


def parse() -> Settings:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of NAME_image and NAME_label files")
    parser.add_argument("--pairs", required=True, help="JSON file with the pairs")
    parser.add_argument("--out", required=True, help="JSON file")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", default="start,semiseg", help=", ".join(("all", *METHODS)))
    parser.add_argument("--groups", default="", help="only these groups of the file")
    parser.add_argument("--exclude", default="", help="leave out pairs with any of these scans")
    parser.add_argument("--limit", type=int, help="at most so many pairs of a group")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "auto"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute: one pair of each group")
    given = vars(parser.parse_args())
    for name in ("methods", "groups", "exclude"):
        given[name] = tuple(part for part in given[name].split(",") if part)
    if given["methods"] == ("all",):
        given["methods"] = ("start", "semiseg", *installed())
    unknown = set(given["methods"]) - set(METHODS)
    if unknown:
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    for name in set(given["methods"]) & set(PEERS) - set(installed()):
        parser.error(f"{name} needs the package {NEEDS[name]}; install it or leave it out")
    if given["quick"]:
        given |= {"seeds": 1, "limit": 1}
    return Settings(**given)


def chosen_pairs(settings: Settings) -> dict[str, list[list[str]]]:
    groups = json.loads(Path(settings.pairs).read_text(encoding="utf-8"))["pairs"]
    wanted = settings.groups or tuple(groups)
    missing = set(wanted) - set(groups)
    if missing:
        sys.exit(f"{settings.pairs} has no group {', '.join(sorted(missing))}")
    left_out = set(settings.exclude)
    return {name: [pair for pair in groups[name] if not left_out & set(pair)] for name in wanted}


def pair_rows(
    group: str,
    moving_name: str,
    fixed_name: str,
    seed: int,
    methods: list[str],
    settings: Settings,
) -> list[dict]:
    fixed = scan(settings.data, fixed_name, settings.device)
    moving = scan(settings.data, moving_name, settings.device)
    config = RegistrationConfig(device=settings.device, seed=seed)
    grid, reference = compared(fixed.label, config.spacing_mm)
    rows = []
    for method in methods:
        if method in ONE_MODALITY and fixed.modality != moving.modality:
            continue
        found = run(method, fixed, moving, config, settings.threads)
        carried = warp_label(moving.label.array, moving.label.grid, found.field, grid)
        common = {
            "case": fixed_name,
            "atlas": moving_name,
            "group": group,
            "modality": fixed.modality,
            "method": method,
            "seed": seed,
            "folded": folded_fraction(found.field, fixed.prepared.mask),
            "seconds": round(found.seconds, 2),
            "own_seconds": round(found.own_seconds, 2),
            **found.extra,
        }
        ids = [int(i) for i in np.unique(reference) if i > 0]
        for one in score(carried, reference, ids, grid.spacing_mm_zyx):
            rows.append(common | {"structure": str(one.id)} | numbers(one.dice, one.hd95_mm))
    return rows


def numbers(dice: float, hd95_mm: float) -> dict:
    return {
        "dice": None if math.isnan(dice) else round(dice, 4),
        "hd95_mm": None if math.isnan(hd95_mm) else round(hd95_mm, 2),
    }


@cache
def scan(data: str, name: str, device: str) -> Scan:
    paths = sorted(Path(data).rglob(f"{name}_image.nii.gz"))
    if not paths:
        sys.exit(f"{data} holds no {name}_image.nii.gz")
    image = read_image(paths[0])
    modality = guess_modality(image).modality
    clock = time.process_time()
    prepared = prepare(image, modality, RegistrationConfig(device=device))
    _ = prepared.overview, prepared.plain.cells, prepared.plain.large_cells
    seconds = time.process_time() - clock
    label = read_label(paths[0].with_name(f"{name}_label.nii.gz"))
    return Scan(name=name, modality=modality, label=label, prepared=prepared, seconds=seconds)


def compared(label: LabelMap, spacing_mm: float) -> tuple[Grid, np.ndarray]:
    """Where labels are compared, and the reference there."""
    grid = spaced_grid(label.grid, (spacing_mm,) * 3)
    return grid, resample_label(label.array, label.grid, grid)


@dataclass(frozen=True, kw_only=True)
class Found:
    field: Field
    seconds: float
    own_seconds: float
    extra: dict


def run(method: str, fixed: Scan, moving: Scan, config: RegistrationConfig, threads: int) -> Found:
    clock, wall = time.process_time(), time.perf_counter()
    prepared = fixed.seconds + moving.seconds
    shared, extra = 0.0, {}
    if method == "semiseg":
        result = register(fixed.prepared, moving.prepared, config)
        field = result.field
        extra = {
            "certainty": round(result.start_certainty, 3),
            "similarity": round(result.similarity_after, 4),
        }
    elif method == "centres":
        middle = moving.prepared.grid.centre_mm_lps - fixed.prepared.grid.centre_mm_lps
        field = shifted(fixed.prepared.grid, middle)
    else:
        start = best_start(fixed.prepared, moving.prepared, config)
        field = started(fixed.prepared.grid, start)
        if method in PEERS:
            shared = prepared + time.process_time() - clock
            field = onward(method, fixed.prepared, moving.prepared, field, threads)
    seconds = time.process_time() - clock + prepared
    extra["wall_seconds"] = round(time.perf_counter() - wall, 2)
    return Found(field=field, seconds=seconds, own_seconds=seconds - shared, extra=extra)


def shifted(grid: Grid, offset_mm_lps: np.ndarray) -> Field:
    parts = [np.full(grid.shape_zyx, offset, dtype=np.float32) for offset in offset_mm_lps]
    return Field(displacement_mm=np.stack(parts), grid=grid)


def started(grid: Grid, start: Start) -> Field:
    """The start alone as a field."""
    z, y, x = np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij")
    world = grid.to_world(np.stack([x, y, z], axis=-1).astype(float))
    points_zyx = torch.from_numpy(world[..., ::-1].reshape(-1, 3).astype(np.float32))
    moved = start(points_zyx.to(start.matrix.device)).cpu() - points_zyx
    parts = moved.numpy()[:, ::-1].T.reshape(3, *grid.shape_zyx)
    return Field(displacement_mm=np.ascontiguousarray(parts), grid=grid)


def onward(peer: str, fixed: Prepared, moving: Prepared, start: Field, threads: int) -> Field:
    """What the peer finds from the start, and the start."""
    fill = float(moving.array.min())
    brought = warp_image(moving.array, moving.grid, start, fixed.grid, fill)
    own = PEERS[peer](fixed.array, brought, fixed.grid, threads).astype(np.float32)
    z, y, x = np.meshgrid(*map(np.arange, fixed.grid.shape_zyx), indexing="ij")
    world = fixed.grid.to_world(np.stack([x, y, z], axis=-1).astype(float))
    further = start.at(world + np.moveaxis(own, 0, -1))
    total = own + np.moveaxis(further, -1, 0)
    return Field(displacement_mm=np.ascontiguousarray(total), grid=fixed.grid)


def last_dice(rows: list[dict]) -> str:
    last = rows[-1]
    same = [r for r in rows if (r["case"], r["atlas"]) == (last["case"], last["atlas"])]
    parts = []
    for method in dict.fromkeys(row["method"] for row in same):
        values = [r["dice"] for r in same if r["method"] == method and r["dice"] is not None]
        parts.append(f"{method} {statistics.fmean(values):.3f}" if values else f"{method} -")
    return ", ".join(parts)


def describe(settings: Settings) -> dict:
    return asdict(settings) | {
        "data": Path(settings.data).name,
        "pairs": Path(settings.pairs).name,
        "out": Path(settings.out).name,
        "registration": asdict(RegistrationConfig(device=settings.device)),
        "date": datetime.now(UTC).date().isoformat(),
        "semiseg": semiseg.__version__,
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
    }


def save(out: Path, content: dict) -> None:
    temporary = out.with_name(out.name + ".part")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(out)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
