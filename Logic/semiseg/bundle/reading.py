"""Bundles that SemiSeg wrote, read without running anything that is in them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from semiseg.bundle import layout
from semiseg.config import MODALITIES
from semiseg.errors import ConfigError, SchemaError, StorageError, StudyError
from semiseg.events import Json
from semiseg.images.grid import Triple
from semiseg.images.packing import DAMAGED_ZIP
from semiseg.networks import NetworkSpec, build_network
from semiseg.study.fields import Fields
from semiseg.study.protocol import Protocol, Structure

_LARGEST_JSON = 4 * 2**20
_LARGEST_WEIGHTS = 4 * 2**30
# What unpickling damaged bytes raises: the pickle machine does as they say, and trips over it.
_BROKEN_PICKLE = (
    RuntimeError,
    ValueError,
    EOFError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    struct.error,
)
_MOST_NETWORKS = 8
# A description asks for memory before its weights are compared with it.
_MOST_LEVELS, _MOST_CHANNELS, _MOST_CONVOLUTIONS = 8, 2048, 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A model from elsewhere: `structures` by channel, the background left out.

    `weights` are the state of each network. Sides of `patch_zyx` are one for slices.
    """

    name: str
    structures: tuple[Structure, ...]
    spec: NetworkSpec
    weights: tuple[Mapping[str, Tensor], ...]
    spacing_mm_zyx: Triple
    patch_zyx: tuple[int, int, int]
    modalities: tuple[str, ...]
    mirror_axes: tuple[int, ...]
    study_id: str
    license_note: str


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder or a `.zip` file.

    StudyError: not a bundle that SemiSeg wrote, or weights that would have to be unpickled;
    SchemaError: damaged, newer, or parts that do not belong together.
    """
    files = _Files(path)
    fields = Fields(_object(files.read(layout.DESCRIPTION, _LARGEST_JSON), path), path.name)
    if fields.values.get("format") != layout.FORMAT:
        raise _not_ours(path)
    if fields.integer("format_version") > layout.VERSION:
        raise SchemaError(
            f"{path.name} has the bundle format {fields.integer('format_version')}, this SemiSeg "
            f"knows up to {layout.VERSION}; update SemiSeg"
        )
    structures = Protocol.from_json(fields.parts("protocol")).structures
    spec = _spec(fields, len(structures))
    n_networks = fields.integer("n_networks")
    if not 1 <= n_networks <= _MOST_NETWORKS:
        raise SchemaError(f"{path.name}: 'n_networks' should be 1 to 8, found {n_networks}")
    tensors = _tensors(files.read(layout.WEIGHTS, _LARGEST_WEIGHTS), path)
    return Bundle(
        name=path.stem,
        structures=structures,
        spec=spec,
        weights=_by_network(tensors, spec, n_networks, path),
        spacing_mm_zyx=_spacing(fields),
        patch_zyx=_patch(fields, spec),
        modalities=tuple(m for m in fields.texts("modalities") if m in MODALITIES),
        mirror_axes=tuple(a for a in fields.integers("mirror_axes") if a in (0, 1, 2)),
        study_id=fields.optional_text("study_id") or "",
        license_note=fields.text("license_note", ""),
    )


class _Files:
    """The few files of a bundle that are read; nothing is ever extracted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, str] = {}
        if path.is_dir():
            return
        if not zipfile.is_zipfile(path):
            raise _not_ours(path)
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except DAMAGED_ZIP as error:
            raise SchemaError(f"{path.name} is damaged: {error}; get it anew") from error
        wanted = PurePosixPath(layout.DESCRIPTION).parts
        for parts in (PurePosixPath(name).parts for name in names):
            if parts[-2:] == wanted and len(parts) <= 3:
                for own in (layout.DESCRIPTION, layout.WEIGHTS):
                    self._names[own] = "/".join((*parts[:-2], own))

    def read(self, name: str, most_bytes: int) -> bytes:
        """The content of the file `name`; StudyError where there is none, or one too large."""
        try:
            if self._path.is_dir():
                file = self._path / name
                if file.stat().st_size > most_bytes:
                    raise SchemaError(
                        f"{self._path.name}: {name} is larger than {most_bytes} bytes"
                    )
                return file.read_bytes()
            with zipfile.ZipFile(self._path) as archive, archive.open(self._names[name]) as entry:
                content = entry.read(most_bytes + 1)
        except (FileNotFoundError, NotADirectoryError, KeyError) as error:
            raise _not_ours(self._path) from error
        except DAMAGED_ZIP as error:
            raise SchemaError(f"{self._path.name} is damaged: {error}; get it anew") from error
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"{self._path.name} cannot be read: {reason}") from error
        if len(content) > most_bytes:
            raise SchemaError(f"{self._path.name}: {name} is larger than {most_bytes} bytes")
        return content


def _not_ours(path: Path) -> StudyError:
    return StudyError(
        f"{path.name} is not a bundle that SemiSeg wrote (a folder or .zip with "
        f"{layout.DESCRIPTION} and {layout.WEIGHTS}); other models cannot be used as a start"
    )


def _object(content: bytes, path: Path) -> Mapping[str, Json]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{path.name}: {layout.DESCRIPTION} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise SchemaError(f"{path.name}: {layout.DESCRIPTION} should hold an object")
    return values


def _tensors(content: bytes, path: Path) -> Mapping[str, Tensor]:
    # torch has written ZIP files since 1.6, and does not look at their checksums itself.
    if not _sound_zip(content):
        raise SchemaError(f"the weights in {path.name} are damaged, or of a kind that is not read")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StudyError(
            f"the weights in {path.name} hold more than tensors, and reading that could run "
            "foreign code; it is refused. Ask for a bundle with a plain state_dict"
        ) from error
    except _BROKEN_PICKLE as error:
        raise SchemaError(f"the weights in {path.name} are damaged; get it anew") from error
    tensors = isinstance(found, Mapping) and all(isinstance(t, Tensor) for t in found.values())
    if not tensors:
        raise SchemaError(f"the weights in {path.name} are not tensors by name; get it anew")
    return {str(name): tensor for name, tensor in found.items()}


def _sound_zip(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip() is None
    except (OSError, *DAMAGED_ZIP):
        return False


def _by_network(
    tensors: Mapping[str, Tensor], spec: NetworkSpec, n_networks: int, path: Path
) -> tuple[Mapping[str, Tensor], ...]:
    """The state of each network; SchemaError unless it is just that of `spec`."""
    with torch.device("meta"):  # shapes alone: what a foreign file says must not take memory
        expected = build_network(spec).state_dict()
    names = {f"networks.{i}.{name}": (i, name) for i in range(n_networks) for name in expected}
    parts: list[dict[str, Tensor]] = [{} for _ in range(n_networks)]
    if set(names) != set(tensors):
        strange = sorted(set(names) ^ set(tensors))[0]
        raise SchemaError(f"the weights in {path.name} do not fit its network: {strange!r}")
    for full, (number, name) in names.items():
        tensor = tensors[full]
        if tensor.shape != expected[name].shape or not torch.isfinite(tensor).all():
            raise SchemaError(
                f"the weights in {path.name} do not fit its network: {full!r} has the shape "
                f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)} finite numbers"
            )
        parts[number][name] = tensor.to(expected[name].dtype)
    return tuple(parts)


def _spec(fields: Fields, n_structures: int) -> NetworkSpec:
    try:
        spec = NetworkSpec.from_json(fields.part("network").values)
    except ConfigError as error:
        raise SchemaError(f"{fields.where}: {error}; update SemiSeg") from error
    if (
        len(spec.channels) > _MOST_LEVELS
        or max(spec.channels) > _MOST_CHANNELS
        or max(spec.convolutions) > _MOST_CONVOLUTIONS
    ):
        raise SchemaError(f"{fields.where}: the network is larger than any that SemiSeg makes")
    if spec.n_classes != n_structures + 1:
        raise SchemaError(
            f"{fields.where}: {n_structures} structures do not fit a network with "
            f"{spec.n_classes} channels"
        )
    return spec


def _spacing(fields: Fields) -> Triple:
    values = [v for v in fields.items("spacing_mm_zyx") if isinstance(v, int | float)]
    if len(values) != 3 or not all(0.05 <= v <= 50 for v in values):
        raise SchemaError(f"{fields.where}: 'spacing_mm_zyx' should be three lengths in mm")
    return float(values[0]), float(values[1]), float(values[2])


def _patch(fields: Fields, spec: NetworkSpec) -> tuple[int, int, int]:
    sides = fields.integers("patch_zyx")
    fits = len(sides) == spec.dims and all(
        0 < side <= 1024 and side % step == 0
        for side, step in zip(sides, spec.multiple, strict=False)
    )
    if not fits:
        raise SchemaError(f"{fields.where}: 'patch_zyx' does not fit the network: {list(sides)}")
    *first, y, x = sides
    return (first[0] if first else 1), y, x
