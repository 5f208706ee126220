"""Phantoms, an untrained model and digests of results, for `distributed.py`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from semiseg.distributed.values import pack
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image

ORGANS = ("liver", "kidney_right", "kidney_left", "spleen")


def phantom(
    path: Path,
    shape_zyx: tuple[int, ...],
    seed: int,
    spacing_mm: tuple[float, float, float] = (3.5, 3.5, 3.5),
) -> None:
    """A body with organs and vessels, of another shape for each seed."""
    rng = np.random.default_rng(seed)
    axes = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape_zyx)
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    wave = 0.06 * np.sin(3 * z + seed) * np.cos(2 * x - seed)
    volume = np.full(shape_zyx, -1000, np.float32)
    volume[(y + wave) ** 2 / 0.6 + x**2 / 0.75 < 1] = 0
    for value in (60, 110, 150, -80, 220, 30, 90, 180):
        centre, radii = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.12, 0.4, 3)
        place = zip((z, y + wave, x), centre, radii, strict=True)
        volume[sum(((a - c) / r) ** 2 for a, c, r in place) < 1] = value
    volume += rng.normal(0, 12, shape_zyx).astype(np.float32)
    grid = Grid(size_xyz=tuple(shape_zyx[::-1]), spacing_mm_xyz=spacing_mm)
    write_image(path, volume.astype(np.int16), grid)


def untrained(folder: Path, device: str = "cpu") -> Path:
    """The folder of a model with the default network and random weights."""
    from safetensors.torch import save_file

    from semiseg.learning.means import MEANS
    from semiseg.methods.base import MethodSettings, build_method
    from semiseg.networks import NetworkSpec

    model = folder / "model"
    if model.exists():
        return model
    means = MEANS[device]
    spec = NetworkSpec(
        n_classes=len(ORGANS) + 1,
        channels=means.channels,
        convolutions=means.convolutions,
        strides=((2, 2, 2),) * (len(means.channels) - 1),
    )
    description = {
        "method": "supervised",
        "network": spec.to_json(),
        "classes": list(range(spec.n_classes)),
        "names": {str(i): name for i, name in enumerate(ORGANS, 1)},
        "spacing_mm_zyx": [3.0, 3.0, 3.0] if device == "cpu" else [1.5, 1.5, 1.5],
        "patch_zyx": [32, 48, 48] if device == "cpu" else [96, 128, 128],
        "modalities": ["CT", "MR"],
    }
    model.mkdir(parents=True)
    torch.manual_seed(0)
    network = build_method("supervised", MethodSettings(network=spec))
    save_file(network.modules.state_dict(), model / "weights.safetensors")
    (model / "model.json").write_text(json.dumps(description), encoding="utf-8")
    return model


def registered(value: dict) -> str:
    """A digest of both fields and all figures of a registration but its seconds."""
    from safetensors.numpy import load

    arrays = load(value["entry"].tobytes())
    about = json.loads(arrays.pop("about").tobytes())
    del about["seconds"], arrays["digest"]  # the digest covers the seconds, too
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        total.update(arrays[name].tobytes())
    return total.hexdigest()


def predicted(value: dict) -> str:
    """A digest of a prediction without its seconds."""
    return hashlib.sha256(pack({**value, "seconds": 0})).hexdigest()
