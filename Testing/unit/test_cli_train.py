"""What `semiseg train` asks of the engine, alone and under torchrun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semiseg.cli import app
from semiseg.config import TrainConfig
from semiseg.errors import ExitCode
from semiseg.study.study import Study

Make = Callable[..., Study]


class Asked:
    """In the place of the trainer."""

    def __init__(self) -> None:
        self.config = TrainConfig()
        self.group: Any = None
        self.watched: Any = None

    def __call__(self, study: Study, config: TrainConfig, emit: Any, **more: Any) -> int:
        self.config, self.group = config, more["group"]
        self.watched = more["watched"]
        return 3


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setattr("semiseg.trainer.train", found)
    return found


def test_frame_options_reach_the_settings(asked: Asked, phantom_study: Make) -> None:
    folder = str(phantom_study().folder)
    flags = ["--sparing", "--deep-supervision", "--atlas-warps", "--bridging", "--dims", "2.5"]
    assert app.run(["train", folder, *flags, "--method", "auto"]) == 0
    config = asked.config
    assert (config.sparing, config.deep_supervision, config.atlas_warps) == (True, True, True)
    assert (config.dims, config.method, config.bridging) == ("2.5", "auto", True)
    assert asked.group.size == 1


@pytest.mark.parametrize(
    ("flags", "sparing"), [([], None), (["--sparing"], True), (["--no-sparing"], False)]
)
def test_sparing_can_be_asked_for_and_refused(
    asked: Asked, phantom_study: Make, flags: list[str], sparing: bool | None
) -> None:
    assert app.run(["train", str(phantom_study().folder), *flags]) == 0
    assert asked.config.sparing is sparing


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


def test_a_slice_is_watched_when_asked_for(
    asked: Asked, phantom_study: Make, tmp_path: Path
) -> None:
    folder = str(phantom_study().folder)
    assert app.run(["train", folder, "--watch", "c:1:axial:4", "--watch-out", str(tmp_path)]) == 0
    found = asked.watched
    assert (found.case_id, found.plane, found.index) == ("c:1", "axial", 4)
    assert (found.folder, found.every_s) == (tmp_path, 3.0)
    assert app.run(["train", folder]) == 0
    assert asked.watched is None


@pytest.mark.parametrize(
    "options",
    [
        ["--watch", "c0:axial:1"],
        ["--watch-out", "x"],
        ["--watch", "c0:1", "--watch-out", "x"],
        ["--watch", "c0:axial:one", "--watch-out", "x"],
        ["--watch", "c0:oblique:1", "--watch-out", "x"],
    ],
)
def test_a_slice_that_is_not_named_whole_is_refused(
    asked: Asked, phantom_study: Make, options: list[str]
) -> None:
    assert app.run(["train", str(phantom_study().folder), *options]) == ExitCode.USAGE


def test_workers_of_a_training_need_a_cluster(
    asked: Asked, phantom_study: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(phantom_study().folder)
    assert app.run(["train", folder, "--workers", "2"]) == ExitCode.USAGE
    assert "--ray is needed" in capfd.readouterr().err
    watched = ["--watch", "c0:axial:3", "--watch-out", folder]
    assert app.run(["train", folder, "--ray", "h:1", *watched]) == ExitCode.USAGE
    assert "does not go together" in capfd.readouterr().err


def test_a_cluster_gets_the_training_and_its_settings(
    asked: Asked, phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []

    def over(folder: Path, config: TrainConfig, *where: Any, **more: Any) -> int:
        given.append((folder, config.steps, where[:2], more["resume"]))
        return 4

    monkeypatch.setattr("semiseg.distributed.training.train_over", over)
    folder = phantom_study().folder
    flags = ["--ray", "10.0.0.5:6379", "--workers", "4", "--steps", "2", "--fresh"]
    assert app.run(["train", str(folder), *flags]) == 0
    assert given == [(folder, 2, ("10.0.0.5:6379", 4), False)]


def test_workers_share_what_is_propagated_and_segmented(
    phantom_study: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, int, object]] = []
    monkeypatch.setattr(
        "semiseg.distributed.registrations.propagate_over",
        lambda study, config, executor, emit, case_ids: given.append(
            ("propagate", executor.workers, case_ids)
        ),
    )
    monkeypatch.setattr(
        "semiseg.distributed.predictions.predict_over",
        lambda study, model, cases, config, executor, emit: given.append(
            ("predict", executor.workers, cases)
        ),
    )
    study = phantom_study()
    study.add_model(lambda path: None, {"name": "m"})
    assert app.run(["propagate", str(study.folder), "c1", "--workers", "3"]) == 0
    assert app.run(["predict", str(study.folder), "--workers", "2"]) == 0
    assert given == [("propagate", 3, ("c1",)), ("predict", 2, ("c0", "c1"))]
    assert app.run(["predict", str(study.folder), "--workers", "0"]) == ExitCode.USAGE
