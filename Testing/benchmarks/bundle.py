"""A study's model as a MONAI bundle, run where SemiSeg cannot be imported, against SemiSeg itself.

`--data` is a study with a model. Per case: the largest difference of the prepared image and of the
logits of one window, the share of voxels with the same label (without SemiSeg's clean-up), and
seconds of either. Nothing is trained here.

    semiseg demo --folder demo && python Testing/benchmarks/bundle.py --data demo
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import semiseg
from semiseg.bundle.writing import export_bundle
from semiseg.config import PredictConfig
from semiseg.data.training_grid import to_training_grid
from semiseg.images.labels import read_label
from semiseg.images.reading import write_image
from semiseg.inference import predict_image
from semiseg.models import Model, load_model
from semiseg.study.study import Study

CHILD = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "semiseg":
            raise ModuleNotFoundError("semiseg is not installed here")
sys.meta_path.insert(0, Gone())
sys.path.insert(0, ".")
import numpy as np, torch
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config("configs/inference.json")
parser["images"], parser["modality"] = [sys.argv[1]], sys.argv[2]
parser["device"] = "$torch.device('cpu')"
side = [int(n) for n in sys.argv[3].split(",")]
with torch.no_grad():
    parser.get_parsed_content("initialize")
    image = parser.get_parsed_content("dataset")[0]["image"]
    window = image[None][..., :side[0], :side[1], :side[2]]
    network = parser.get_parsed_content("network")
    logits = network(window[:, :, 0] if side[0] == 1 else window)
    parser.get_parsed_content("run")
np.savez("out.npz", image=image[0].numpy(), logits=logits.numpy())
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="one case")
    settings = parser.parse_args()
    study = Study.open(settings.data)
    with tempfile.TemporaryDirectory() as place:
        bundle = export_bundle(study, Path(place) / "bundle")
        model = load_model(study.model().folder, torch.device("cpu"))
        cases = list(study.cases)[: 1 if settings.quick else None]
        rows = [compare(study, case_id, model, bundle) for case_id in cases]
    said = {"data": str(settings.data), "quick": settings.quick, "semiseg": semiseg.__version__}
    if settings.out:
        settings.out.write_text(json.dumps({"settings": said, "rows": rows}, indent=1))
    print(f"| {' | '.join(rows[0])} |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")
    return 0


def compare(study: Study, case_id: str, model: Model, bundle: Path) -> dict[str, object]:
    image, modality = study.image(case_id), study.case(case_id).modality
    path = bundle / f"{case_id}.nii.gz"
    write_image(path, image.array, image.grid)
    ready = to_training_grid(image, modality, model.spacing_mm_zyx).array
    side = tuple(
        min(n, w) // m * m
        for n, w, m in zip(ready.shape, model.window_zyx, model.multiple_zyx, strict=True)
    )
    start = time.perf_counter()
    theirs = run(bundle, path, modality, side)
    seconds = time.perf_counter() - start
    window = torch.from_numpy(ready)[None, None, : side[0], : side[1], : side[2]]
    with torch.no_grad():
        logits = model.network(window[:, :, 0] if side[0] == 1 else window).numpy()
    start = time.perf_counter()
    config = PredictConfig(device="cpu", clean_up=False)
    ours = predict_image(model, image, modality, config).label
    label = read_label(bundle / "segmentations" / f"{case_id}_seg.nii.gz").array
    return {
        "case": case_id,
        "modality": modality,
        "voxels": image.array.size,
        "image_max_difference": float(f"{np.abs(theirs['image'] - ready).max():.3g}"),
        "logits_max_difference": float(f"{np.abs(theirs['logits'] - logits).max():.3g}"),
        "same_label_percent": round(100 * float((label == ours).mean()), 4),
        "different_voxels": int((label != ours).sum()),
        "seconds_bundle": round(seconds, 1),
        "seconds_semiseg": round(time.perf_counter() - start, 1),
    }


def run(bundle: Path, image: Path, modality: str, side: tuple[int, ...]) -> dict[str, np.ndarray]:
    arguments = [str(image.absolute()), modality, ",".join(map(str, side))]
    command = [sys.executable, "-W", "ignore", "-c", CHILD, *arguments]
    subprocess.run(command, cwd=bundle, check=True, stdout=subprocess.DEVNULL)
    return dict(np.load(bundle / "out.npz"))


if __name__ == "__main__":
    raise SystemExit(main())
