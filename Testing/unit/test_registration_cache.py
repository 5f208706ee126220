"""Registrations kept on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from semiseg.config import RegistrationConfig
from semiseg.errors import ConfigError, ImageError, StorageError
from semiseg.events import Event
from semiseg.images.grid import Grid
from semiseg.registration import cache
from semiseg.registration.aligned import Pair
from semiseg.registration.cache import Source, cached_register, register_missing
from semiseg.registration.field import Field
from semiseg.registration.landmarks import Landmarks
from semiseg.registration.prepared import Prepared
from semiseg.registration.register import RegistrationResult
from semiseg.registration.sampling import FeatureMap, feature_map

CONFIG = RegistrationConfig(device="cpu")
GRID = Grid(size_xyz=(4, 5, 6), spacing_mm_xyz=(3.0,) * 3, origin_mm_lps=(-500.0, 20.0, 1000.0))


class _Register:
    """Stands in for the long work and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.landmarks: object = None

    def __call__(
        self,
        fixed: object,
        moving: object,
        config: object,
        emit: object,
        *,
        both_ways: bool,
        landmarks: object = None,
    ) -> RegistrationResult:
        self.calls += 1
        self.landmarks = landmarks
        rng = np.random.default_rng(self.calls)
        parts = rng.normal([[[[800.0]]], [[[-5.0]]], [[[0.0]]]], 20.0, (3, *GRID.shape_zyx))
        field = Field(displacement_mm=parts.astype(np.float32), grid=GRID)
        return RegistrationResult(
            field=field,
            inverse=replace(field) if both_ways else None,
            folded=0.001,
            similarity_before=0.8,
            similarity_after=0.9,
            inverse_error_mm=2.5 if both_ways else None,
            start_certainty=0.7,
            start_reason="found",
            seconds=1.5,
        )


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> _Register:
    stand_in = _Register()
    monkeypatch.setattr(cache, "register", stand_in)
    return stand_in


def _never() -> Prepared:
    raise AssertionError("a kept registration needs no image")


def _unreadable() -> Prepared:
    raise ImageError("it is damaged")


def _source(name: str, prepared: object = None) -> Source:
    return Source(sha256=name, modality="CT", load=lambda: prepared)  # type: ignore[arg-type, return-value]


def _same(first: RegistrationResult, second: RegistrationResult) -> None:
    np.testing.assert_array_equal(first.field.displacement_mm, second.field.displacement_mm)
    assert first.field.grid == second.field.grid
    bare = [replace(r, field=first.field, inverse=None) for r in (first, second)]
    assert bare[0] == bare[1]


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_second_call_returns_the_same_without_loading_images(
    tmp_path: Path, work: _Register, both_ways: bool
) -> None:
    first = cached_register(tmp_path, _source("a"), _source("b"), CONFIG, both_ways=both_ways)
    lazy = [Source(sha256=name, modality="CT", load=_never) for name in "ab"]
    second = cached_register(tmp_path, lazy[0], lazy[1], CONFIG, both_ways=both_ways)
    _same(first, second)
    assert (second.inverse is not None) == both_ways
    assert work.calls == 1


def test_what_is_kept_is_close_to_what_was_found(tmp_path: Path, work: _Register) -> None:
    kept = cached_register(tmp_path, _source("a"), _source("b"), CONFIG)
    work.calls = 0
    found = work(None, None, None, None, both_ways=False)
    off = np.abs(kept.field.displacement_mm - found.field.displacement_mm)
    assert off.max() < 0.05


def test_other_images_settings_or_directions_are_other_entries(
    tmp_path: Path, work: _Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = _source("a"), _source("b")
    cached_register(tmp_path, a, b, CONFIG)
    cached_register(tmp_path, b, a, CONFIG)
    cached_register(tmp_path, a, replace(b, modality="MR"), CONFIG)
    cached_register(tmp_path, a, b, replace(CONFIG, iterations=5))
    cached_register(tmp_path, a, b, CONFIG, both_ways=True)
    monkeypatch.setattr(cache, "ALGORITHM", cache.ALGORITHM + 1)
    cached_register(tmp_path, a, b, CONFIG)
    assert work.calls == len(list(tmp_path.glob("*.safetensors"))) == 6


def _cut_short(content: bytes) -> bytes:
    return content[:-100]


def _bit_flipped(content: bytes) -> bytes:
    return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]


def _without_field(content: bytes) -> bytes:
    arrays = {name: a for name, a in load(content).items() if name in ("about", "digest")}
    arrays["about"] = np.frombuffer(b"{}", dtype=np.uint8)
    arrays["digest"] = cache._digest({"about": arrays["about"]})
    return bytes(save(arrays))


@pytest.mark.parametrize("damage", [_cut_short, _bit_flipped, _without_field, lambda _: b"no"])
def test_a_corrupt_entry_is_said_and_computed_again(
    tmp_path: Path, work: _Register, damage: object
) -> None:
    events: list[Event] = []
    cached_register(tmp_path, _source("a"), _source("b"), CONFIG)
    [path] = tmp_path.glob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    again = cached_register(tmp_path, _source("a"), _source("b"), CONFIG, events.append)
    assert work.calls == 2
    assert "corrupt" in events[0].message
    third = cached_register(tmp_path, _source("a"), _source("b"), CONFIG)
    _same(again, third)
    assert work.calls == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, work: _Register) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="file"):
        cached_register(blocked / "cache", _source("a"), _source("b"), CONFIG)


def test_what_both_images_know_guides_and_makes_another_entry(
    tmp_path: Path, work: _Register
) -> None:
    def known() -> FeatureMap:
        mask = torch.ones(2, 2, 2)
        return feature_map(mask[None].repeat(2, 1, 1, 1), mask, torch.zeros(3), 6.0)

    plain = [_source("a"), _source("b")]
    told = [replace(source, known_key="liver", known=known) for source in plain]
    cached_register(tmp_path, told[0], plain[1], CONFIG)
    assert work.landmarks is None
    cached_register(tmp_path, told[0], told[1], CONFIG)
    assert isinstance(work.landmarks, Landmarks)
    cached_register(tmp_path, told[0], replace(told[1], known_key="other"), CONFIG)
    assert work.calls == 3


def test_on_a_gpu_what_is_missing_is_registered_as_a_batch_and_found_later(
    work: _Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (_source(name, object()) for name in "abc")
    cached_register(tmp_path, first, second, CONFIG)
    asked: list[int] = []

    def many(pairs: list[Pair], config: object, *_: object, both_ways: bool) -> list[object]:
        asked.append(len(pairs))
        done = work(None, None, config, None, both_ways=both_ways)
        return [ConfigError("one that fails")] * (len(pairs) - 1) + [done]

    monkeypatch.setattr(cache, "register_many", many)
    gone = Source(sha256="d", modality="CT", load=_unreadable)
    pairs = [(first, second), (first, third), (gone, first), (second, third)]
    register_missing(tmp_path, pairs, CONFIG)
    assert asked == []
    monkeypatch.setattr(cache, "choose_device", lambda *_: torch.device("cuda"))
    register_missing(tmp_path, pairs, CONFIG)
    assert asked == [2]
    calls = work.calls
    cached_register(tmp_path, second, third, CONFIG)
    assert work.calls == calls
    cached_register(tmp_path, first, third, CONFIG)
    assert work.calls == calls + 1
