"""What `semiseg train` asks of the engine, alone and under torchrun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from semiseg.cli import app
from semiseg.config import TrainConfig
from semiseg.study.study import Study

Make = Callable[..., Study]


class Asked:
    """In the place of the trainer."""

    def __init__(self) -> None:
        self.config = TrainConfig()
        self.group: Any = None

    def __call__(self, study: Study, config: TrainConfig, emit: Any, **more: Any) -> int:
        self.config, self.group = config, more["group"]
        return 3


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setattr("semiseg.trainer.train", found)
    return found


def test_frame_options_reach_the_settings(asked: Asked, phantom_study: Make) -> None:
    folder = str(phantom_study().folder)
    flags = ["--sparing", "--deep-supervision", "--atlas-warps", "--dims", "2.5"]
    assert app.run(["train", folder, *flags, "--method", "auto"]) == 0
    config = asked.config
    assert (config.sparing, config.deep_supervision, config.atlas_warps) == (True, True, True)
    assert (config.dims, config.method) == ("2.5", "auto")
    assert asked.group.size == 1


def test_by_default_methods_are_as_published(asked: Asked, phantom_study: Make) -> None:
    assert app.run(["train", str(phantom_study().folder)]) == 0
    assert asked.config == TrainConfig()


def test_unknown_dims_are_refused(
    asked: Asked, phantom_study: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["train", str(phantom_study().folder), "--dims", "4"]) != 0
    assert "auto, 2, 2.5, 3" in capfd.readouterr().err


def test_a_later_process_of_torchrun_keeps_quiet(
    asked: Asked,
    phantom_study: Make,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import contextlib

    from semiseg.group import ALONE

    seen: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def joined(size: int, local_rank: int, device: str):  # type: ignore[no-untyped-def]
        seen.append((size, local_rank))
        yield ALONE

    monkeypatch.setattr("semiseg.group.joined", joined)
    ranks = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    assert app.run(["train", str(phantom_study().folder)]) == 0
    assert seen == [(4, 1)]
    assert capfd.readouterr().out == ""
