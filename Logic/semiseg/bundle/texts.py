"""The JSON files and the page of a bundle; values in, plain JSON out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import monai
import numpy as np
import torch

from semiseg import __version__
from semiseg.bundle import layout
from semiseg.bundle.source import PACKAGE
from semiseg.events import Json
from semiseg.models import Model
from semiseg.networks import NetworkSpec
from semiseg.study.protocol import Structure

NO_LICENSE = (
    "Whoever trained this model has not said under which terms it may be used. Ask them before "
    "you use or pass on the weights. The Python files in scripts/ are part of SemiSeg, Apache-2.0."
)
NOT_FOR_PATIENTS = "Not a medical device: for research, and every result is to be checked."


def inference(model: Model, spec: NetworkSpec, n_networks: int) -> dict[str, Json]:
    """configs/inference.json: the workflow that `python -m monai.bundle run` runs."""
    # Where both can be meant the user has to say which; a wrong guess would spoil the grey values.
    modality = model.modalities[0] if len(model.modalities) == 1 else ""
    load = "$@network.load_state_dict(torch.load(@checkpoint, map_location=@device, "
    segment = (
        "$sum(bool(@postprocessing({**data, 'pred': @inferer(data['image'][None].to(@device), "
        "@network)[0]})) for data in @dataset)"
    )
    return {
        "imports": ["$import glob", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "checkpoint": f"$@bundle_root + '/{layout.WEIGHTS}'",
        "images": "$sorted(glob.glob(@bundle_root + '/images/*.nii.gz'))",
        "modality": modality,
        "output_dir": "$@bundle_root + '/segmentations'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": f"{PACKAGE}.runtime.Segmenter",
            "spec": spec.to_json(),
            "n_networks": n_networks,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {
                    "_target_": f"{PACKAGE}.runtime.ToTrainingGridd",
                    "keys": "image",
                    "spacing_mm_zyx": list(model.spacing_mm_zyx),
                    "modality": "@modality",
                },
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': name} for name in @images]",
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": f"{PACKAGE}.runtime.ProbabilityInferer",
            "roi_size": list(model.window_zyx),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
            "padding_mode": "constant",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": f"{PACKAGE}.runtime.ToOwnGridd",
                    "keys": "pred",
                    "classes": list(model.classes),
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "seg",
                    "output_dtype": "$np.uint16",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "initialize": [f"{load}weights_only=True))", "$@network.eval()"],
        "segment": segment,
        "run": ["$torch.set_grad_enabled(False)", "@segment"],
    }


def metadata(
    model: Model, names: Sequence[str], words: Mapping[str, str], license_note: str
) -> dict[str, Json]:
    """configs/metadata.json, as MONAI's schema asks."""
    ct = model.modalities == ("CT",)
    sides: list[Json] = [n for n in model.window_zyx if n > 1 or model.window_zyx[0] > 1]
    channels: dict[str, Json] = {str(i): name for i, name in enumerate(["background", *names])}
    shape: dict[str, Json] = {"spatial_shape": sides, "dtype": "float32", "is_patch_data": True}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/"
        "0.8.1/meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": "exported from SemiSeg"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.2", "scipy": "1.11"},
        "name": words["name"],
        "task": f"Segmentation of {', '.join(names)} in {' and '.join(model.modalities)}",
        "description": words["description"],
        "authors": words["authors"],
        "copyright": license_note.splitlines()[0],
        "intended_use": NOT_FOR_PATIENTS,
        "network_data_format": {
            "inputs": {
                "image": {
                    **shape,
                    "type": "image",
                    "format": "hounsfield" if ct else "magnitude",
                    "modality": " or ".join(model.modalities),
                    "num_channels": 1,
                    "value_range": [-1, 1],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    **shape,
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(model.classes),
                    "value_range": [],
                    "channel_def": channels,
                }
            },
        },
    }


def description(
    model: Model,
    spec: NetworkSpec,
    structures: Sequence[Structure],
    info: Mapping[str, Any],
    n_networks: int,
) -> dict[str, Json]:
    """configs/semiseg.json: what SemiSeg needs to go on from the bundle; names no case."""
    validation = info.get("validation") or {}
    cases = info.get("cases") or {}
    return {
        "format": layout.FORMAT,
        "format_version": layout.VERSION,
        "semiseg_version": __version__,
        "protocol": [structure.to_json() for structure in structures],
        "network": spec.to_json(),
        "n_networks": n_networks,
        "spacing_mm_zyx": list(model.spacing_mm_zyx),
        "patch_zyx": list(model.window_zyx[-spec.dims :]),
        "modalities": list(model.modalities),
        "mirror_axes": list(model.mirror_axes),
        "normalisation": info.get("normalisation"),
        "method": info.get("method"),
        "steps": info.get("steps"),
        "study_id": model.study_id,
        "trained_on_cases": len(cases),
        "scores": {
            "kind": validation.get("kind"),
            "dice": validation.get("dice"),
            "structures": validation.get("structures") or {},
            "cases": len(validation.get("cases") or {}),
        },
    }


def readme(described: Mapping[str, Any], words: Mapping[str, str], license_note: str) -> str:
    """docs/README.md."""
    scores = described["scores"]
    rows = [
        f"| {part['id']} | {part['name']} | {_score(scores['structures'].get(str(part['id'])))} |"
        for part in described["protocol"]
    ]
    return "\n".join(
        [
            f"# {words['name']}",
            "",
            words["description"],
            "",
            NOT_FOR_PATIENTS,
            "",
            f"Modalities: {', '.join(described['modalities'])}. "
            f"Trained on {_cases(described['trained_on_cases'])} with SemiSeg "
            f"{described['semiseg_version']} ({described['method']}).",
            "",
            f"Validation ({scores['kind'] or 'none'}, {_cases(scores['cases'])}):",
            "",
            "| label value | structure | Dice |",
            "|---|---|---|",
            *rows,
            "",
            "Run in the bundle's folder, with the images as NIfTI files in `images/` and their "
            "modality (CT or MR):",
            "",
            "```",
            "python -m monai.bundle run --config_file configs/inference.json --modality CT",
            "```",
            "",
            "Label maps appear in `segmentations/`, on the images' own grids. Needs `monai`, "
            "`nibabel`, `scipy` and `fire`; SemiSeg is not needed. SemiSeg itself also removes "
            "loose islands afterwards, and hears labels that registration brought to a scan beside "
            "the network; the bundle does neither.",
            "",
            "## License",
            "",
            license_note,
            "",
        ]
    )


def _cases(number: int) -> str:
    return f"{number} case{'' if number == 1 else 's'}"


def _score(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "not scored"
