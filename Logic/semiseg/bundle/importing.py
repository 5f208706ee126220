"""A bundle as a model of a study, to segment with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from semiseg.bundle.matching import match
from semiseg.bundle.reading import Bundle, read_bundle
from semiseg.errors import StudyError
from semiseg.events import Json
from semiseg.images.intensity import NORMALISATION
from semiseg.models import WEIGHTS
from semiseg.study.storage import write_bytes_atomic
from semiseg.study.study import Study

# How many networks -> the method that predicts with so many, and the names of its networks.
_METHODS: Mapping[int, tuple[str, tuple[str, ...]]] = {
    1: ("supervised", ("network",)),
    2: ("cross_pseudo", ("one", "other")),
}


def import_bundle(study: Study, path: Path) -> int:
    """Add the bundle in `path` to the study's models; the id of the new one.

    StudyError when the study lacks a structure that it segments; as `read_bundle` otherwise.
    """
    bundle = read_bundle(path)
    if len(bundle.weights) not in _METHODS:
        raise StudyError(
            f"{bundle.name} has {len(bundle.weights)} networks; SemiSeg predicts with one or two"
        )
    method, names = _METHODS[len(bundle.weights)]
    tensors: dict[str, Tensor] = {
        f"{name}.{key}": tensor.contiguous()
        for name, weights in zip(names, bundle.weights, strict=True)
        for key, tensor in weights.items()
    }
    described = _description(study, bundle, method)
    return study.add_model(
        lambda draft: write_bytes_atomic(draft / WEIGHTS, safetensors.torch.save(tensors)),
        described,
    )


def _description(study: Study, bundle: Bundle, method: str) -> dict[str, Json]:
    """The content of model.json."""
    classes = _classes(study, bundle)
    return {
        "name": bundle.name,
        "method": method,
        "network": bundle.spec.to_json(),
        "classes": [0, *classes],
        "names": {str(i): study.protocol.by_id(i).name for i in classes},
        "spacing_mm_zyx": list(bundle.spacing_mm_zyx),
        "patch_zyx": list(bundle.patch_zyx[-bundle.spec.dims :]),
        "mirror_axes": list(bundle.mirror_axes),
        "normalisation": NORMALISATION,
        "modalities": list(bundle.modalities),
        "study_id": study.id,
        "imported": {"bundle": bundle.name, "license_note": bundle.license_note},
    }


def _classes(study: Study, bundle: Bundle) -> list[int]:
    """The study's ids by channel, from 1."""
    found = {
        channel: i for i, channel in match(bundle.structures, study.protocol.structures).items()
    }
    missing = [s.name for channel, s in enumerate(bundle.structures, 1) if channel not in found]
    if missing:
        raise StudyError(
            f"{bundle.name} segments {', '.join(missing)}, which this study does not have; add "
            "the structures first (semiseg study structures), or only start from it: "
            "semiseg train --start-from"
        )
    return [found[channel] for channel in range(1, len(bundle.structures) + 1)]
