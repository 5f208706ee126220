"""Five hundred random actions on the panel: nothing raises, no human voxel is ever lost.

Short changes and long work run as the real engine in this process; only Learn is told, because
its result would decide nothing here. After each action the panel, the scene and the study on disk
are held against each other, and against what was drawn.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
import slicer
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from clinician import Clinician
from host.jobs import Jobs
from host.strokes import stroke
from semiseg.images.grid import Grid
from semiseg.images.reading import write_image
from semiseg.study.ledger import FINISHED

EXAMPLES, STEPS = 20, 40
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
CORNER = st.tuples(*(st.integers(0, 7),) * 3)
SIZE = st.tuples(*(st.integers(1, 5),) * 3)
NEED_DRAWN = ("paint", "mark", "take_over_case", "delete_node", "undo", "unload")
TAKE_NUMBER = ("switch", "mark", "remove", "delete_node")
ACTIONS = (
    *("paint", "mark") * 6,
    *("switch", "rest", "propagate", "take_over_case", "undo", "save_and_load_the_scene") * 2,
    *("add", "add_from_scene", "remove", "learn_and_cancel", "delete_node", "close_scene"),
    *("reopen", "unload"),
)
# After a stroke, at once: what might lose it.
NEXT = ("", "", "", "", "close_scene", "reopen", "unload", "propagate", "lose_drawn", "switch_on")
Map = NDArray[np.uint16]


def kept(study: Any, case_id: str) -> Map:
    """What the study on disk would show again after a crash."""
    draft = study.draft(case_id)
    found: Map = study.human_map(case_id).array if draft is None else draft.full()
    return found


def phantom(number: int, grid: Grid) -> NDArray[np.float32]:
    rng = np.random.default_rng(number)
    z, y, x = np.mgrid[tuple(slice(n) for n in grid.shape_zyx)]
    body = (y - 5) ** 2 + (x - 5) ** 2 < 22
    one = (z - 4) ** 2 + (y - 5) ** 2 + (x - 3) ** 2 < 5
    greys = np.select([one, body], [120.0, 40.0], -150.0 if number % 2 else 5.0)
    return (greys + rng.normal(0, 5, greys.shape)).astype(np.float32)


class RandomClinician(RuleBasedStateMachine):
    """Whatever a hand may do, in any order; `expected` are the drawn maps that must be kept."""

    n_actions: ClassVar[Counter[str]] = Counter()
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

    def same(self, found: Map, wanted: Map, what: str) -> None:
        lost, extra = int(((wanted > 0) & (found != wanted)).sum()), int((found > wanted).sum())
        assert (lost, extra) == (0, 0), f"{what}: voxels lost, extra. {self.hand.says()}"  # type: ignore[union-attr]

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
        self.switch(0)

    @rule(
        name=st.sampled_from(ACTIONS),
        which=st.integers(0, 20),
        corner=CORNER,
        size=SIZE,
        then=st.sampled_from(NEXT),
    )
    def act(
        self,
        name: str,
        which: int,
        corner: tuple[int, int, int],
        size: tuple[int, int, int],
        then: str,
    ) -> None:
        """One action; where it cannot be done the nearest that can."""
        if name in NEED_DRAWN and not self.drawable():
            name = "switch"
        if name == "paint":
            self.paint(1 + which % 2, which % 5 == 0, corner, size)
        elif name in TAKE_NUMBER:
            getattr(self, name)(which)
        else:
            getattr(self, name)()
        type(self).n_actions[name] += 1
        if then and name == "paint":
            getattr(self, then)()
            type(self).n_actions[then] += 1

    def has_study(self) -> bool:
        return self.hand is not None and self.session.study is not None

    def add(self) -> None:
        self.session.add_files(self.images[2:])
        self.idle()

    def add_from_scene(self) -> None:
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "painted")
        slicer.util.updateVolumeFromArray(volume, phantom(7, GRIDS[0]))
        volume.SetSpacing(2.0, 2.0, 4.0)
        self.session.add_volumes([volume])
        self.idle()

    def remove(self, which: int) -> None:
        rows = self.session.rows()
        if len(rows) < 2:
            return
        case_id = rows[which % len(rows)].id
        self.session.remove_case(case_id)
        self.idle()
        if self.session.row(case_id) is None:
            self.expected.pop(case_id, None)

    def switch(self, which: int) -> None:
        rows = self.session.rows()
        if not rows:
            return
        self.session.select(rows[which % len(rows)].id)
        self.idle()

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

    def mark(self, number: int) -> None:
        name = ("done", "empty", "not_done", "take_over")[number % 4]
        hand = self.hand
        assert hand is not None
        before = hand.drawn()
        self.session.jump_to(5 * number % self.session.n_slices())
        self.session.tick()
        if hand.annotate.buttons[name].enabled:
            hand.annotate.buttons[name].click()
        after = hand.drawn()
        assert np.array_equal(after[before > 0], before[before > 0])
        self.remember()

    def take_over_case(self) -> None:
        before = self.hand.drawn()  # type: ignore[union-attr]
        self.session.take_over(whole_case=True)
        after = self.hand.drawn()  # type: ignore[union-attr]
        assert np.array_equal(after[before > 0], before[before > 0])
        self.remember()

    def propagate(self) -> None:
        if self.session.why_not("propagate"):
            return
        self.session.propagate(all_cases=True)
        self.idle()

    def lose_drawn(self) -> None:
        self.delete_node(0)

    def switch_on(self) -> None:
        self.switch([row.id for row in self.session.rows()].index(self.session.current) + 1)

    def learn_and_cancel(self) -> None:
        if self.session.why_not("learn"):
            return
        self.session.learn(1.0, "cpu", "supervised", 0)
        for _ in range(50):
            self.session.tick()
        if self.session.busy():
            self.session.cancel()
        self.idle()
        assert not self.session.busy()

    def undo(self) -> None:
        if self.session.why_not("undo") == "":
            self.session.undo_suggestion()
        self.idle()

    def delete_node(self, number: int) -> None:
        role = ("drawn", "suggestion", "volume")[number % 3]
        node = getattr(self.session.nodes(self.current), role)
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
        self.idle()

    def close_scene(self) -> None:
        slicer.mrmlScene.Clear(0)
        assert self.session.study is None
        self.session.open_study(self.folder / "study")
        self.idle()

    def reopen(self) -> None:
        self.session.close_study()
        assert self.session.study is None
        self.session.open_study(self.folder / "study")
        self.idle()

    def unload(self) -> None:
        self.session.unload_case(self.current)
        self.idle()

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
        study, session = self.session.study, self.session
        assert [row.id for row in session.rows()] == list(study.cases)
        for case_id, wanted in self.expected.items():
            opened = session.open_cases.get(case_id)
            if opened is None or opened.dirty_since is None:
                self.same(kept(study, case_id), wanted, f"{case_id} on the disk")
        if self.drawable():
            wanted = self.expected.get(session.current)
            drawn = self.hand.drawn()  # type: ignore[union-attr]
            self.same(drawn, np.zeros_like(drawn) if wanted is None else wanted, "the scene")
        assert "Traceback" not in session.details, session.details

    def rest(self) -> None:
        """A quiet minute: all is saved and made label versions."""
        self.session.save_drafts()
        self.session.apply_drafts()
        self.idle()
        study, session = self.session.study, self.session
        for case_id, wanted in self.expected.items():
            self.same(study.human_map(case_id).array, wanted, f"{case_id} in its label")
        if self.drawable():
            ledger = study.ledger(session.current)
            for index, state in enumerate(session.ledger_states()):
                found = {ledger.state(session.plane, index, i) for i in study.protocol.ids}
                assert (state in FINISHED) == (found <= set(FINISHED))

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
    assert sum(machine.n_actions.values()) >= 500, machine.n_actions
