"""Costs of single steps without workers: many cases, one large one; for `distributed.py`."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import torch
from distributed_data import ORGANS, phantom, untrained

from semiseg.config import PredictConfig, RegistrationConfig
from semiseg.distributed.predictions import arrays_of, prediction_task
from semiseg.distributed.registrations import registration_task
from semiseg.distributed.serial import SerialExecutor
from semiseg.distributed.values import pack
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.inference import save_prediction
from semiseg.study.protocol import Protocol, common_structure
from semiseg.study.study import Study


def case_rows(folder: Path, *, quick: bool) -> list[dict]:
    """A large study: what each further hundred cases costs."""
    n, step = (100, 50) if quick else (1_000, 200)
    protocol = Protocol((common_structure("liver", 1),))
    study = Study.create(folder / "study", name="many", protocol=protocol)
    rows, rng, model = [], np.random.default_rng(0), untrained(folder)
    grid = Grid(size_xyz=(8, 8, 8), spacing_mm_xyz=(3.0, 3.0, 3.0))
    added_s = 0.0
    for number in range(1, n + 1):
        path = folder / f"tiny{number}.nii.gz"
        write_image(path, rng.normal(0, 100, (8, 8, 8)).astype(np.float32), grid)
        clock = time.perf_counter()
        study.add_case(path, case_id=f"c{number}", modality="CT")
        added_s += time.perf_counter() - clock
        if number % step == 0:
            rows.append(asked(study, model, number) | {"add_ms": round(added_s / step * 1000, 2)})
            added_s = 0.0
    return rows


def asked(study: Study, model: Path, number: int) -> dict:
    """Opening a study of `number` cases, and packing each as a task."""
    clock = time.perf_counter()
    opened = Study.open(study.folder)
    open_s = time.perf_counter() - clock
    clock = time.perf_counter()
    for case in opened.cases.values():
        path = opened.image_path(case.id)
        pack(prediction_task(model, path, case.modality, PredictConfig()).arguments)
    return {
        "part": "cases",
        "method": "study",
        "tasks": number,
        "open_ms": round(open_s / number * 1000, 3),
        "overhead_ms": round((time.perf_counter() - clock) / number * 1000, 3),
        "driver_mib": round(psutil.Process().memory_info().rss / 2**20, 1),
    }


def piece_rows(
    folder: Path, size_xyz: tuple[int, int, int], extent_mm: float, device: str
) -> list[dict]:
    """What one case of a real size costs where; the second of two runs, which loads nothing."""
    x, y, z = size_xyz
    spacing = (extent_mm / x, extent_mm / y, extent_mm / z)
    paths = [folder / f"large{n}.nii.gz" for n in range(2)]
    for number, path in enumerate(paths):
        phantom(path, (z, y, x), number, spacing_mm=spacing)
    files = {"fixed": paths[0], "moving": paths[1]}
    model = untrained(folder / device, device)
    work = {
        "register": registration_task("CT", "CT", RegistrationConfig(device=device), files),
        "predict": prediction_task(model, paths[0], "CT", PredictConfig(device=device)),
    }
    rows, value = [], {}
    for name, task in work.items():
        with SerialExecutor() as here:
            outcome = list(here.map([task] * 2))[-1]
        value = outcome.require()
        rows.append(
            {
                "part": "pieces",
                "method": f"{name} on {device_name(device)}",
                "piece": name,
                "tasks": 1,
                "seconds": round(outcome.seconds, 3),
                "result_mb": round(len(pack(value)) / 1e6, 2),
                "file_mb": round(paths[0].stat().st_size / 1e6, 2),
                "voxels_xyz": [x, y, z],
            }
        )
    return [*rows, saving(folder, paths[0], value)]


def saving(folder: Path, path: Path, value: dict) -> dict:
    """What the driver does for each case: keep the prediction."""
    protocol = Protocol(tuple(common_structure(n, i) for i, n in enumerate(ORGANS, 1)))
    study = Study.create(folder / "saving", name="one", protocol=protocol)
    case = study.add_case(path, case_id="one", modality="CT")
    clock = time.perf_counter()
    found = arrays_of(value)
    save_prediction(study, case, found, model=(1, "m"), config=PredictConfig())
    seconds = time.perf_counter() - clock
    kept = sum(f.stat().st_size for f in study.folder.rglob("*") if f.is_file())
    return {
        "part": "pieces",
        "method": "save in the driver",
        "piece": "save",
        "tasks": 1,
        "seconds": round(seconds, 3),
        "kept_mb": round(kept / 1e6, 2),
    }


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "one CPU thread"
