"""Registrations kept on disk, found again by what went into them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from semiseg.config import Modality, RegistrationConfig, to_json
from semiseg.devices import choose_device
from semiseg.errors import ImageError, SchemaError, SemiSegError
from semiseg.events import Emit, Event, Json, ignore
from semiseg.images.grid import Grid
from semiseg.registration.aligned import Pair
from semiseg.registration.field import Field
from semiseg.registration.landmarks import Landmarks
from semiseg.registration.many import register_many
from semiseg.registration.prepared import Prepared
from semiseg.registration.register import ALGORITHM, RegistrationResult, register
from semiseg.registration.sampling import FeatureMap
from semiseg.study.storage import make_folder, on_disk, write_bytes_atomic

Arrays = dict[str, NDArray[np.generic]]
_IN_MEMORY = 32  # pairs whose images are held at a time
_DIGEST = "digest"
_ABOUT = "about"
_FIGURES = tuple(
    name for name in RegistrationResult.__dataclass_fields__ if name not in ("field", "inverse")
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image by content: `sha256` of its file, its modality, and how to prepare it if needed.

    `known_key` changes with what is known of structures in it; `known` makes that a map.
    """

    sha256: str
    modality: Modality
    load: Callable[[], Prepared]
    known_key: str = ""
    known: Callable[[], FeatureMap] | None = None


def cached_register(
    folder: Path,
    fixed: Source,
    moving: Source,
    config: RegistrationConfig,
    emit: Emit = ignore,
    *,
    both_ways: bool = False,
) -> RegistrationResult:
    """`register`, or what an earlier call with the same images, settings and code found.

    What both sources know serves as landmarks. Fields are kept to about 0.03 mm; the first call
    returns the kept values too. An entry that is corrupt is said in an event and computed anew.
    StorageError when `folder` cannot be written.
    """
    path = entry_path(folder, fixed, moving, config, both_ways=both_ways)
    found = _read(path, emit)
    if found is not None:
        return found
    marks = landmarks_of(fixed, moving)
    images = fixed.load(), moving.load()
    result = register(*images, config, emit, both_ways=both_ways, landmarks=marks)
    return keep_entry(path, packed(result))


def register_missing(
    folder: Path,
    pairs: Iterable[tuple[Source, Source]],
    config: RegistrationConfig,
    emit: Emit = ignore,
    *,
    both_ways: bool = False,
) -> None:
    """On a GPU, what `cached_register` would have to make for `pairs` (fixed, moving), as batches.

    Nothing on a CPU, where batches do not help; `pairs` are not even looked at there. What fails
    is left to `cached_register` to say.
    """
    if choose_device(config.device, emit).type != "cuda":
        return
    left = iter(pairs)
    while some := list(itertools.islice(left, _IN_MEMORY)):
        named = {entry_path(folder, *pair, config, both_ways=both_ways): pair for pair in some}
        loaded = {path: _loaded(*pair) for path, pair in named.items() if not path.exists()}
        ready = {path: pair for path, pair in loaded.items() if pair is not None}
        outcomes = register_many(list(ready.values()), config, emit, both_ways=both_ways)
        for path, outcome in zip(ready, outcomes, strict=True):
            if isinstance(outcome, RegistrationResult):
                keep_entry(path, packed(outcome))


def _loaded(fixed: Source, moving: Source) -> Pair | None:
    """The images and what is known of them; None where one cannot be read."""
    try:
        marks = landmarks_of(fixed, moving)
        return Pair(fixed=fixed.load(), moving=moving.load(), landmarks=marks)
    except ImageError:
        return None


def entry_path(
    folder: Path, fixed: Source, moving: Source, config: RegistrationConfig, *, both_ways: bool
) -> Path:
    """Where `cached_register` keeps what it finds for these."""
    return folder / f"{_key(fixed, moving, config, both_ways)}.safetensors"


def keep_entry(path: Path, content: bytes) -> RegistrationResult:
    """Keep what `packed` made, here or on another computer; SchemaError when it is damaged."""
    result = _unpacked(content)
    make_folder(path.parent)
    write_bytes_atomic(path, content)
    return result


def landmarks_of(fixed: Source, moving: Source) -> Landmarks | None:
    """What both know; None where one of them knows nothing."""
    if fixed.known is None or moving.known is None:
        return None
    return Landmarks(fixed=fixed.known(), moving=moving.known())


def _key(fixed: Source, moving: Source, config: RegistrationConfig, both_ways: bool) -> str:
    parts: dict[str, Json] = {
        "algorithm": ALGORITHM,
        "fixed": [fixed.sha256, fixed.modality],
        "moving": [moving.sha256, moving.modality],
        "known": [fixed.known_key, moving.known_key],
        "config": to_json(config),
        "both_ways": both_ways,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(path: Path, emit: Emit) -> RegistrationResult | None:
    with on_disk("read", path):
        if not path.exists():
            return None
        content = path.read_bytes()
    try:
        return _unpacked(content)
    except (SafetensorError, SemiSegError, ValueError, KeyError, TypeError) as error:
        text = f"A kept registration is corrupt ({error}); it is computed again."
        emit(Event(kind="progress", phase="register", message=text, data={"file": path.name}))
        return None


def packed(result: RegistrationResult) -> bytes:
    """An entry: one safetensors block; the digest covers every other array."""
    about: dict[str, Json] = {name: getattr(result, name) for name in _FIGURES}
    arrays: Arrays = {}
    for name, field in (("field", result.field), ("inverse", result.inverse)):
        if field is not None:
            about[name] = field.grid.to_json()
            arrays |= _packed_field(name, field)
    arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    arrays[_DIGEST] = _digest(arrays)
    return save(arrays)


def _unpacked(content: bytes) -> RegistrationResult:
    arrays: Arrays = load(content)
    if not np.array_equal(arrays.pop(_DIGEST), _digest(arrays)):
        raise SchemaError("its checksum is wrong")
    about: dict[str, Json] = json.loads(arrays[_ABOUT].tobytes())
    field = _unpacked_field("field", arrays, about)
    if field is None:
        raise SchemaError("it holds no field")
    figures = cast("dict[str, float]", {name: about[name] for name in _FIGURES})
    inverse = _unpacked_field("inverse", arrays, about)
    return RegistrationResult(field=field, inverse=inverse, **figures)  # type: ignore[arg-type]


def _packed_field(name: str, field: Field) -> Arrays:
    """Half floats around the mean, which may be large where the images' origins differ."""
    mean = field.displacement_mm.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
    rest = field.displacement_mm - mean[:, None, None, None]
    return {f"{name}_mean": mean, f"{name}_rest": rest.astype(np.float16)}


def _unpacked_field(name: str, arrays: Arrays, about: Mapping[str, Json]) -> Field | None:
    if name not in about:
        return None
    grid = Grid.from_json(cast("dict[str, Json]", about[name]))
    mean = arrays[f"{name}_mean"][:, None, None, None]
    rest = arrays[f"{name}_rest"].astype(np.float32)
    return Field(displacement_mm=np.add(rest, mean, dtype=np.float32), grid=grid)


def _digest(arrays: Arrays) -> NDArray[np.uint8]:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return np.frombuffer(total.digest(), dtype=np.uint8)
