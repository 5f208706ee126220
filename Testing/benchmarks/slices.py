"""Few drawn slices to a whole volume: each way of filling, on the slices that nobody drew.

K axial slices are drawn per structure, evenly over its extent with both tips, as each structure's
own; seeds above 0 move the inner ones by up to a third of their distance. Dice is of the slices
between the tips that were not drawn, HD95 of the extent with the drawn ones in place. `demons` is
a peer: SimpleITK's symmetric demons from slice to slice, outlines carried as signed distances from
both sides and blended by distance. Seconds are those of this process on one thread, per volume.

`--data` holds NAME_image.nii.gz and NAME_label.nii.gz at any depth (or a folder `abdomen` that
does); the folder's name is the modality in the rows. References are expert labels of other slices
of the same scans: nothing is trained or tuned on them.

    python Testing/benchmarks/slices.py --data abdomen --out slices.json --slices 3,5,9
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import SimpleITK as sitk
import torch
from records import circumstances, save
from scipy import ndimage
from tables import markdown

from semiseg.config import SliceConfig
from semiseg.images.labels import read_label
from semiseg.images.reading import read_image
from semiseg.metrics import dice, hd95_mm
from semiseg.slices.fill import fill_slices

OURS = {
    "auto": SliceConfig(),
    "guided": SliceConfig(method="guided"),
    "sdf": SliceConfig(method="interpolated", image_guided=False),
    "nearest": SliceConfig(method="nearest", image_guided=False),
}
METHODS = (*OURS, "demons")
DEMONS_LEVELS = ((4, 40), (2, 30), (1, 20))
OUTSIDE_MM = 50.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    data: str
    out: str
    seeds: int
    methods: tuple[str, ...]
    slices: tuple[int, ...]
    cases: int | None
    quick: bool


def main() -> int:
    settings = parse()
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rows: list[dict] = []
    for image_path in scans(settings):
        rows += scan_rows(image_path, settings)
        save(Path(settings.out), {"settings": describe(settings), "rows": rows})
    print(table(rows))
    return 0


def parse() -> Settings:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of NAME_image and NAME_label files")
    parser.add_argument("--out", required=True, help="JSON file")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", default=",".join(METHODS), help=", ".join(METHODS))
    parser.add_argument("--slices", default="3,5,9", help="drawn per structure")
    parser.add_argument("--cases", type=int, help="at most so many scans of a modality")
    parser.add_argument("--quick", action="store_true", help="a minute: one scan, five slices")
    given = vars(parser.parse_args())
    given["methods"] = tuple(given["methods"].split(","))
    given["slices"] = tuple(int(part) for part in given["slices"].split(","))
    unknown = set(given["methods"]) - set(METHODS)
    if unknown:
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    if given["quick"]:
        given |= {"seeds": 1, "slices": (5,), "cases": 1}
    return Settings(**given)


def scans(settings: Settings) -> list[Path]:
    folder = Path(settings.data)
    if (folder / "abdomen").is_dir():
        folder = folder / "abdomen"
    found = sorted(folder.rglob("*_image.nii.gz"))
    if not found:
        sys.exit(f"{folder} holds no file NAME_image.nii.gz")
    groups: dict[str, list[Path]] = {}
    for path in found:
        groups.setdefault(path.parent.name, []).append(path)
    return [path for group in groups.values() for path in group[: settings.cases]]


def scan_rows(image_path: Path, settings: Settings) -> list[dict]:
    image = read_image(image_path)
    name = image_path.name.removesuffix("_image.nii.gz")
    label = read_label(image_path.with_name(f"{name}_label.nii.gz")).array
    rows = []
    for seed in range(settings.seeds):
        for count in settings.slices:
            lines = drawn_lines(label, count, seed)
            for method in settings.methods:
                start = time.process_time()
                filled = run(method, image.array, label, lines, image.grid.spacing_mm_zyx)
                common = {
                    "case": name,
                    "modality": image_path.parent.name,
                    "method": method,
                    "slices": count,
                    "seed": seed,
                    "seconds": round(time.process_time() - start, 2),
                }
                scores = scored(filled, label, lines, image.grid.spacing_mm_zyx)
                rows += [common | score for score in scores]
        say(f"{name} seed {seed}: {len(rows)} rows")
    return rows


def drawn_lines(label: np.ndarray, count: int, seed: int) -> dict[int, np.ndarray]:
    """Which axial slices are drawn, per structure."""
    rng = np.random.default_rng(seed)
    lines = {}
    for number in np.unique(label[label > 0]):
        seen = np.flatnonzero((label == number).any(axis=(1, 2)))
        places = np.linspace(seen[0], seen[-1], count)
        if seed > 0:
            places[1:-1] += rng.uniform(-1 / 3, 1 / 3, count - 2) * (places[1] - places[0])
        line = np.zeros(len(label), dtype=bool)
        line[np.rint(places).astype(int)] = True
        lines[int(number)] = line
    return lines


def run(method: str, image, label, lines, spacing_mm_zyx) -> np.ndarray:
    if method == "demons":
        return demons(image, label, lines, spacing_mm_zyx)
    drawn = np.zeros_like(label)
    for number, line in lines.items():
        drawn[line] = np.where(label[line] == number, label[line], drawn[line])
    known = {number: {0: line} for number, line in lines.items()}
    return fill_slices(image, drawn, known, spacing_mm_zyx, OURS[method]).array


def scored(filled, label, lines, spacing_mm_zyx) -> list[dict]:
    rows = []
    for number, line in lines.items():
        tips = np.flatnonzero(line)[[0, -1]]
        extent = slice(tips[0], tips[1] + 1)
        undrawn = ~line[extent]
        found, true = filled[extent] == number, label[extent] == number
        found[~undrawn] = true[~undrawn]
        value = dice(found[undrawn], true[undrawn]) if undrawn.any() else math.nan
        rows.append(
            {
                "structure": str(number),
                "dice": None if math.isnan(value) else round(value, 4),
                "hd95_mm": round(hd95_mm(found, true, spacing_mm_zyx), 2),
            }
        )
    return rows


def demons(image, label, lines, spacing_mm_zyx) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.5))
    grey = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.float32)
    filled, best = np.zeros_like(label), np.zeros(label.shape, dtype=np.float32)
    for number, line in lines.items():
        rows, columns = around(label == number)
        cut = np.ascontiguousarray(grey[:, rows, columns])
        mask = (label == number)[:, rows, columns]
        done = np.flatnonzero(line)
        for below, above in itertools.pairwise(done):
            up = carried(cut, mask, below, above, spacing_mm_zyx[1:])
            down = carried(cut, mask, above, below, spacing_mm_zyx[1:])
            for place in range(below + 1, above):
                share = (place - below) / (above - below)
                score = (1 - share) * up[place] + share * down[place]
                wins = score > best[place, rows, columns]
                filled[place, rows, columns][wins] = number
                best[place, rows, columns][wins] = score[wins]
    return filled


def around(mask: np.ndarray) -> tuple[slice, slice]:
    sides = [np.flatnonzero(mask.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    rows, columns = (slice(max(0, s[0] - 16), s[-1] + 17) for s in sides)
    return rows, columns


def carried(grey, mask, start, stop, spacing_mm) -> dict[int, np.ndarray]:
    step = 1 if stop > start else -1
    current = signed_distance(mask[start], spacing_mm)
    found = {}
    for place in range(start + step, stop, step):
        motion = demons_motion(grey[place], grey[place - step], spacing_mm)
        source = planar(current, spacing_mm)
        moved = sitk.Resample(source, source, motion, sitk.sitkLinear, -OUTSIDE_MM)
        current = sitk.GetArrayFromImage(moved)
        found[place] = current
    return found


def demons_motion(fixed, moving, spacing_mm) -> sitk.Transform:
    fixed, moving, field = planar(fixed, spacing_mm), planar(moving, spacing_mm), None
    for shrink, steps in DEMONS_LEVELS:
        images = [shrunk(image, shrink, spacing_mm) for image in (fixed, moving)]
        method = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        method.SetNumberOfIterations(steps)
        method.SetStandardDeviations(1.5)
        start = () if field is None else (sitk.Resample(field, images[0]),)
        field = method.Execute(*images, *start)
    full = sitk.Cast(sitk.Resample(field, fixed), sitk.sitkVectorFloat64)
    return sitk.DisplacementFieldTransform(full)


def shrunk(image: sitk.Image, factor: int, spacing_mm) -> sitk.Image:
    if factor > 1:
        image = sitk.SmoothingRecursiveGaussian(image, factor / 2 * spacing_mm[0])
    return sitk.Shrink(image, [factor] * 2)


def planar(array: np.ndarray, spacing_mm) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(reversed(spacing_mm)))
    return image


def signed_distance(mask: np.ndarray, spacing_mm) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, -OUTSIDE_MM, dtype=np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return (inside - outside).astype(np.float32)


def describe(settings: Settings) -> dict:
    return asdict(settings) | {
        "data": Path(settings.data).name,
        "out": Path(settings.out).name,
        "threads": 1,
        **circumstances(),
        "simpleitk": sitk.Version.VersionString(),
    }


def table(rows: list[dict]) -> str:
    """Mean Dice over structures and scans; spread over scans; seconds per volume."""
    names = sorted({row["structure"] for row in rows}, key=int)
    head = ["K", "modality", "method", "scans", *names, "mean", "sd", "HD95 mm", "CPU s"]
    lines = []
    keys = {(row["slices"], row["modality"], row["method"]): None for row in rows}
    for key in sorted(keys, key=lambda k: (k[0], k[1], METHODS.index(k[2]))):
        ours = [r for r in rows if (r["slices"], r["modality"], r["method"]) == key]
        lines.append([*map(str, key), *cells(ours, names)])
    return markdown(head, lines)


def cells(rows: list[dict], names: list[str]) -> list[str]:
    valid = [row for row in rows if row["dice"] is not None]
    scans = sorted({(row["case"], row["seed"]) for row in valid})
    per_scan = [
        statistics.fmean(r["dice"] for r in valid if (r["case"], r["seed"]) == scan)
        for scan in scans
    ]
    organs = [[r["dice"] for r in valid if r["structure"] == name] for name in names]
    return [
        str(len({case for case, _ in scans})),
        *(f"{statistics.fmean(values):.3f}" if values else "-" for values in organs),
        f"{statistics.fmean(per_scan):.4f}",
        f"{statistics.stdev(per_scan):.3f}" if len(per_scan) > 1 else "-",
        f"{statistics.fmean(r['hd95_mm'] for r in valid):.1f}",
        f"{statistics.fmean(r['seconds'] for r in valid):.1f}",
    ]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
