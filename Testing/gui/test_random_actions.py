"""Five hundred random actions on the panel: nothing raises, no human voxel is ever lost.

Short changes and long work run as the real engine in this process; only Learn is told, because
its result would decide nothing here. After each action the panel, the scene and the study on disk
are held against each other, and against what was drawn.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

import slicer
from clinician import Clinician
from host.jobs import Jobs
from host.strokes import stroke
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image

EXAMPLES, STEPS = 10, 50
GRIDS = (
    Grid(size_xyz=(12, 11, 8), spacing_mm_xyz=(2.0, 2.5, 4.0)),
    Grid(
        size_xyz=(10, 12, 9),
        spacing_mm_xyz=(2.0, 2.0, 3.0),
        origin_mm_lps=(5.0, -3.0, 10.0),
        direction=(-1.0, 0.0, 0.0, 0.0, -0.8, 0.6, 0.0, 0.6, 0.8),
    ),
)
STRUCTURES = ("liver", "spleen")
Map = NDArray[np.uint16]


def phantom(number: int, grid: Grid) -> NDArray[np.float32]:
    rng = np.random.default_rng(number)
    z, y, x = np.mgrid[tuple(slice(n) for n in grid.shape_zyx)]
    body = (y - 5) ** 2 + (x - 5) ** 2 < 22
    one = (z - 4) ** 2 + (y - 5) ** 2 + (x - 3) ** 2 < 5
    greys = np.select([one, body], [120.0, 40.0], -150.0 if number % 2 else 5.0)
    return (greys + rng.normal(0, 5, greys.shape)).astype(np.float32)


class RandomClinician(RuleBasedStateMachine):
    """Whatever a hand may do, in any order; `expected` are the drawn maps that must be kept."""

    make_panel: Callable[..., Any]
    make_session: Callable[[Any], Any]
    spin: Callable[..., bool]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="semiseg-random-"))
        self.jobs = Jobs()
        self.jobs.hold = lambda arguments: arguments[0] == "train"
        self.hand: Clinician | None = None
        self.expected: dict[str, Map] = {}
        self.images = []
        for number, grid in enumerate((*GRIDS, GRIDS[0])):
            self.images.append(self.folder / f"scan{number}.nrrd")
            write_image(self.images[-1], phantom(number, grid), grid)

    # What is there -------------------------------------------------------------------------

    @property
    def session(self) -> Any:
        assert self.hand is not None
        return self.hand.session

    @property
    def current(self) -> str | None:
        return self.session.current if self.session.study is not None else None

    def idle(self) -> None:
        """Tick until nothing is left to do."""
        for _ in range(400):
            self.session.tick()
            tasks = self.session.tasks
            if (tasks is None or tasks.idle) and not self.session._chores:
                return
        raise AssertionError(f"never idle: {self.session.message}")

    def drawable(self) -> bool:
        if self.current is None:
            return False
        nodes = self.session.nodes(self.current)
        return nodes.drawn is not None and nodes.volume is not None

    def remember(self) -> None:
        """What is drawn now is what must be kept from here on."""
        if self.drawable():
            self.expected[self.session.current] = self.hand.drawn()  # type: ignore[union-attr]

    # Actions -------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        slicer.mrmlScene.Clear(0)
        self.panel = type(self).make_panel(session=type(self).make_session(self.jobs))
        self.hand = Clinician(self.panel, type(self).spin)
        self.session.confirm = lambda _question: True
        self.panel.enter()
        self.session.create_study(self.folder / "study", "random")
        self.hand.add_structures(STRUCTURES)
        self.session.add_files(self.images[:2])
        self.idle()
        assert len(self.session.rows()) == 2

    def has_study(self) -> bool:
        return self.hand is not None and self.session.study is not None

    @precondition(lambda self: self.has_study())
    @rule()
    def add(self) -> None:
        self.session.add_files(self.images[2:])
        self.idle()

    @precondition(lambda self: self.has_study())
    @rule()
    def add_from_scene(self) -> None:
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "painted")
        slicer.util.updateVolumeFromArray(volume, phantom(7, GRIDS[0]))
        volume.SetSpacing(2.0, 2.0, 4.0)
        self.session.add_volumes([volume])
        self.idle()

    @precondition(lambda self: self.has_study() and len(self.session.rows()) > 1)
    @rule(which=st.integers(0, 9))
    def remove(self, which: int) -> None:
        rows = self.session.rows()
        case_id = rows[which % len(rows)].id
        self.session.remove_case(case_id)
        self.idle()
        if self.session.row(case_id) is None:
            self.expected.pop(case_id, None)

    @precondition(lambda self: self.has_study() and self.session.rows())
    @rule(which=st.integers(0, 9))
    def switch(self, which: int) -> None:
        rows = self.session.rows()
        self.session.select(rows[which % len(rows)].id)
        self.idle()

    @precondition(lambda self: self.has_study() and self.drawable())
    @rule(
        structure=st.sampled_from([1, 2]),
        erase=st.booleans(),
        corner=st.tuples(*(st.integers(0, 7),) * 3),
        size=st.tuples(*(st.integers(1, 5),) * 3),
    )
    def paint(
        self,
        structure: int,
        erase: bool,
        corner: tuple[int, int, int],
        size: tuple[int, int, int],
    ) -> None:
        nodes, hand = self.session.nodes(self.current), self.hand
        assert hand is not None
        before = hand.drawn()
        voxels = np.zeros(before.shape, bool)
        voxels[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = True
        stroke(nodes.drawn, f"SemiSeg_{structure}", nodes.volume, voxels, erase=erase)
        wanted = before.copy()
        wanted[voxels & ((before == structure) if erase else True)] = 0 if erase else structure
        assert np.array_equal(hand.drawn(), wanted)
        self.expected[self.session.current] = wanted

    @precondition(lambda self: self.has_study() and self.drawable())
    @rule(name=st.sampled_from(["done", "empty", "not_done", "take_over"]), at=st.integers(0, 20))
    def mark(self, name: str, at: int) -> None:
        hand = self.hand
        assert hand is not None
        before = hand.drawn()
        self.session.jump_to(at % self.session.n_slices())
        self.session.tick()
        if hand.annotate.buttons[name].enabled:
            hand.annotate.buttons[name].click()
        after = hand.drawn()
        assert np.array_equal(after[before > 0], before[before > 0])
        self.remember()

    @precondition(lambda self: self.has_study() and self.drawable())
    @rule()
    def take_over_case(self) -> None:
        before = self.hand.drawn()  # type: ignore[union-attr]
        self.session.take_over(whole_case=True)
        after = self.hand.drawn()  # type: ignore[union-attr]
        assert np.array_equal(after[before > 0], before[before > 0])
        self.remember()

    @precondition(lambda self: self.has_study() and self.session.why_not("propagate") == "")
    @rule()
    def propagate(self) -> None:
        self.session.propagate(all_cases=True)
        self.idle()

    @precondition(lambda self: self.has_study() and self.session.why_not("learn") == "")
    @rule()
    def learn_and_cancel(self) -> None:
        self.session.learn(1.0, "cpu", "supervised", 0)
        for _ in range(50):
            self.session.tick()
        if self.session.busy():
            self.session.cancel()
        self.idle()
        assert not self.session.busy()

    @precondition(lambda self: self.has_study() and self.current is not None)
    @rule()
    def undo(self) -> None:
        if self.session.why_not("undo") == "":
            self.session.undo_suggestion()
        self.idle()

    @precondition(lambda self: self.has_study() and self.drawable())
    @rule(role=st.sampled_from(["drawn", "suggestion", "volume"]))
    def delete_node(self, role: str) -> None:
        node = getattr(self.session.nodes(self.current), role)
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
        self.idle()

    @precondition(lambda self: self.has_study())
    @rule()
    def close_scene(self) -> None:
        slicer.mrmlScene.Clear(0)
        assert self.session.study is None
        self.session.open_study(self.folder / "study")
        self.idle()

    @precondition(lambda self: self.has_study())
    @rule()
    def reopen(self) -> None:
        self.session.close_study()
        assert self.session.study is None
        self.session.open_study(self.folder / "study")
        self.idle()

    @precondition(lambda self: self.has_study() and self.current is not None)
    @rule()
    def unload(self) -> None:
        self.session.unload_case(self.current)
        self.idle()

    @precondition(lambda self: self.has_study())
    @rule()
    def save_and_load_the_scene(self) -> None:
        path = self.folder / "scene.mrb"
        path.unlink(missing_ok=True)
        assert slicer.util.saveScene(str(path))
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(str(path))
        self.idle()
        if self.session.study is None:
            self.session.open_study(self.folder / "study")
            self.idle()

    # What must always hold -----------------------------------------------------------------

    @invariant()
    def panel_scene_and_study_agree(self) -> None:
        if not self.has_study():
            return
        self.session.save_drafts()
        self.session.apply_drafts()
        self.idle()
        study, session = self.session.study, self.session
        assert [row.id for row in session.rows()] == list(study.cases)
        for case_id, wanted in self.expected.items():
            assert np.array_equal(study.human_map(case_id).array, wanted), case_id
        if self.drawable():
            wanted = self.expected.get(session.current)
            drawn = self.hand.drawn()  # type: ignore[union-attr]
            assert not drawn.any() if wanted is None else np.array_equal(drawn, wanted)
            ledger = study.ledger(session.current)
            states = session.ledger_states()
            for index, state in enumerate(states):
                found = {ledger.state(session.plane, index, i) for i in study.protocol.ids}
                assert (state in ("done", "empty")) == (found <= {"done", "empty"})
        assert "Traceback" not in session.details, session.details

    def teardown(self) -> None:
        if self.hand is not None:
            self.panel.close()
            self.panel.window.delete()
        slicer.mrmlScene.Clear(0)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.timeout(1500)
def test_five_hundred_random_actions_lose_nothing(
    scene: Any,
    panel: Callable[..., Any],
    live_session: Callable[..., Any],
    spin: Callable[..., bool],
) -> None:
    machine = type(
        "Machine",
        (RandomClinician,),
        {
            "make_panel": staticmethod(panel),
            "make_session": staticmethod(live_session),
            "spin": staticmethod(spin),
        },
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
            print_blob=True,
        ),
    )
