"""A model of a study as a MONAI bundle that runs without SemiSeg."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from semiseg.bundle import layout
from semiseg.bundle.runtime import Segmenter
from semiseg.bundle.source import PACKAGE, bundle_scripts
from semiseg.bundle.texts import NO_LICENSE, description, inference, metadata, readme
from semiseg.config import MODALITIES
from semiseg.disclosure import warn_of_identity
from semiseg.errors import StorageError, StudyError
from semiseg.events import Emit, Json, ignore
from semiseg.images.writing import replacing
from semiseg.models import Model, load_model
from semiseg.networks import NetworkSpec, UNet
from semiseg.study.protocol import Structure, common_structure
from semiseg.study.storage import draft_folder, make_folder, publish_folder, sync_tree
from semiseg.study.study import Study

_SAME_LOGITS = 1e-4
_CHECK_SIDE = 16
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes


@dataclass(frozen=True, kw_only=True)
class BundleWords:
    """What people read in the bundle; empty where nothing is to be said."""

    name: str = ""
    description: str = ""
    authors: str = ""
    license_note: str = ""


def export_bundle(
    study: Study,
    target: Path,
    model_id: int | None = None,
    words: BundleWords | None = None,
    emit: Emit = ignore,
    *,
    overwrite: bool = False,
) -> Path:
    """Write model `model_id` (the newest by default) to `target`, a folder or a `.zip` file.

    The bundle names structures and no case. Before it is written, its network must give the
    logits of the model, or StudyError says that the method cannot be expressed. StorageError
    when something is in the way and not to be overwritten, or the disk refuses.
    """
    words = words or BundleWords()
    record = study.model(model_id)
    if target.exists() and not overwrite:
        raise StorageError(
            f"{target} exists already; choose another name, or say that it may be overwritten"
        )
    if target.is_dir() and any(target.iterdir()) and not (target / layout.DESCRIPTION).is_file():
        raise StorageError(f"{target} is a folder with other things; choose another name")
    model = load_model(record.folder, torch.device("cpu"))
    structures = _structures(study, model)
    segmenter = _segmenter(model, record.name)
    texts = {**vars(words), **{f"the structure {s.name!r}": s.name for s in structures}}
    warn_of_identity(study, target, texts, emit, phase="bundle")
    files = _files(model, segmenter, structures, record.info, _said(words, record.id))
    if target.suffix.lower() == ".zip":
        _write_zip(target, files)
    else:
        _write_folder(target, files)
    return target


def _said(words: BundleWords, model_id: int) -> BundleWords:
    """`words` with something to read where nothing was said."""
    return BundleWords(
        name=words.name or f"SemiSeg model {model_id}",
        description=words.description or "Segmentation model trained with SemiSeg.",
        authors=words.authors or "not stated",
        license_note=words.license_note or NO_LICENSE,
    )


def _structures(study: Study, model: Model) -> list[Structure]:
    """What the channels stand for; those that left the protocol keep their learned name."""
    known = {structure.id: structure for structure in study.protocol.structures}
    return [
        known.get(i) or common_structure(model.names.get(i) or f"structure {i}", i)
        for i in model.classes[1:]
    ]


def _segmenter(model: Model, name: str) -> Segmenter:
    """The model as the bundle's network, with the same logits; StudyError where none has them."""
    networks = [part for part in model.network.modules() if isinstance(part, UNet)]
    if not networks:
        raise _no_bundle(name)
    alike = [part for part in networks if part.spec == networks[0].spec]
    image = torch.randn(1, 1, *_check_shape(model), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.network(image)
        _require_one(model, image, expected, name)
        for parts in (*([part] for part in networks), alike):
            made = _assembled(parts)
            if torch.allclose(made(image), expected, rtol=0, atol=_SAME_LOGITS / 10):
                return made
    raise _no_bundle(name)


def _no_bundle(name: str) -> StudyError:
    return StudyError(
        f"{name} was learned by a method whose network a bundle cannot hold; train with "
        "another method (for example supervised or mean_teacher), or export another model"
    )


def _require_one(model: Model, image: Tensor, expected: Tensor, name: str) -> None:
    """StudyError where CT and MR, or other kinds of volumes, have networks of their own."""
    if len(model.streams) > 1:
        raise StudyError(
            f"{name} has a network each for {', '.join(model.streams)}, and a bundle holds one for "
            "all; segment with SemiSeg itself, or export a model of another method"
        )
    for modality in MODALITIES:
        own = model.predictor(modality)(image)
        if not torch.allclose(own, expected, rtol=0, atol=_SAME_LOGITS / 10):
            raise StudyError(
                f"{name} has one network for CT and another for MR, and a bundle holds one for "
                "both; segment with SemiSeg itself, or export a model of another method"
            )


def _assembled(parts: list[UNet]) -> Segmenter:
    made = Segmenter(parts[0].spec.to_json(), len(parts)).eval()
    for own, part in zip(made.networks, parts, strict=True):
        own.load_state_dict(part.state_dict())
    return made


def _check_shape(model: Model) -> tuple[int, ...]:
    sides = [
        min(side, max(2 * multiple, -(-_CHECK_SIDE // multiple) * multiple))
        for side, multiple in zip(model.window_zyx, model.multiple_zyx, strict=True)
    ]
    return tuple(sides[1:] if model.window_zyx[0] == 1 else sides)


def _files(
    model: Model,
    segmenter: Segmenter,
    structures: list[Structure],
    info: Mapping[str, Json],
    words: BundleWords,
) -> dict[str, bytes]:
    """Path in the bundle -> content."""
    spec, n_networks = _spec_of(segmenter), len(segmenter.networks)
    described = description(model, spec, structures, info, n_networks)
    said = {"name": words.name, "description": words.description, "authors": words.authors}
    names = [structure.name for structure in structures]
    files = {
        layout.METADATA: _json(metadata(model, names, said, words.license_note)),
        layout.INFERENCE: _json(inference(model, spec, n_networks)),
        layout.DESCRIPTION: _json({**described, "license_note": words.license_note}),
        layout.WEIGHTS: _weights(segmenter.state_dict()),
        layout.README: readme(described, said, words.license_note).encode(),
        layout.LICENSE: (words.license_note + "\n").encode(),
    }
    return files | {f"{PACKAGE}/{n}": text.encode() for n, text in bundle_scripts().items()}


def _spec_of(segmenter: nn.Module) -> NetworkSpec:
    return next(part.spec for part in segmenter.modules() if isinstance(part, UNet))


def _weights(state: Mapping[str, Tensor]) -> bytes:
    """A state_dict as MONAI's own bundles have it; read with weights_only, so nothing runs."""
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous().clone() for name, tensor in state.items()}, buffer)
    return buffer.getvalue()


def _json(values: Mapping[str, Json]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write_zip(target: Path, files: Mapping[str, bytes]) -> None:
    make_folder(target.parent)
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{target.stem}/{name}", _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """The whole folder or nothing: a bundle that was there goes once the new one is complete."""
    with draft_folder(target.parent, target.name) as draft:
        for name, content in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        sync_tree(draft)
        if target.is_dir():
            shutil.rmtree(target)
        publish_folder(draft, target)
