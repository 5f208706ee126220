"""Any order of strokes, undo, programs' writes and changes of the protocol: no voxel is lost."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from semiseg.images.grid import Grid
from semiseg.study.protocol import Protocol, common_structure
from SemiSegModuleLib.mrml import segments, structures

_GRID = Grid(
    size_xyz=(6, 5, 4),
    spacing_mm_xyz=(1.0, 2.0, 3.0),
    direction=(0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0),
)
_IDS = (3, 7, 300)
_ALL = (*_IDS, 9)
_CORNER = st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5))
_SIZE = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


def _conftest():
    spec = importlib.util.spec_from_file_location("scenes", Path(__file__).parent / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _box(corner, size) -> tuple[slice, slice, slice]:
    return tuple(
        slice(start, min(start + length, end))
        for start, length, end in zip(corner, size, _GRID.shape_zyx, strict=True)
    )


class Drawing(RuleBasedStateMachine):
    """The node against a model: one mask per structure, and a stack of them for undo."""

    @initialize()
    def make(self):
        """An empty drawing with Slicer's editor on it."""
        scenes = _conftest()
        self.world = scenes.World()
        self.protocol = Protocol(tuple(common_structure(f"s{i}", i) for i in _IDS))
        volume = self.world.volume(_GRID)
        self.node = segments.create_drawn(self.world.scene, volume, self.protocol, "scan")
        self.said = segments.create_suggestion(self.world.scene, volume, self.protocol, "scan")
        self.editor = scenes.Editor(self.world, volume, self.node)
        self.overlap = False
        self.masks = {i: np.zeros(_GRID.shape_zyx, bool) for i in _ALL}
        self.states: list[dict] = []

    def _keep(self):
        self.states.append({i: mask.copy() for i, mask in self.masks.items()})

    def _extent(self, box) -> tuple[int, ...]:
        z, y, x = box
        return (x.start, x.stop - 1, y.start, y.stop - 1, z.start, z.stop - 1)

    @rule(number=st.sampled_from(_IDS), corner=_CORNER, size=_SIZE, erase=st.booleans())
    def paint(self, number, corner, size, erase):
        """A stroke of the user."""
        if number not in self.protocol.ids:
            return
        box = _box(corner, size)
        self._keep()
        self.editor.paint(self._segment(number), self._extent(box), erase=erase)
        if not erase and not self.overlap:
            for mask in self.masks.values():
                mask[box] = False
        self.masks[number][box] = not erase

    def _segment(self, number: int) -> str:
        infos = structures.structures_in(self.node)
        return next(info.segment_id for info in infos if info.structure_id == number)

    @rule()
    def allow_overlap(self):
        """From now on strokes overwrite nothing."""
        self.editor.allow_overlap()
        self.overlap = True

    @rule()
    def undo(self):
        """The editor's undo button."""
        if self.states:
            self.editor.undo()
            self.masks = self.states.pop()

    @rule(corner=_CORNER, size=_SIZE, data=st.data(), sparse=st.booleans())
    def write(self, corner, size, data, sparse):
        """A program's write of a region, with or without a mask."""
        box = _box(corner, size)
        shape = self.masks[3][box].shape
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        array = rng.choice((0, *self.protocol.ids), shape).astype(np.uint16)
        where = rng.random(shape) < 0.5 if sparse else np.ones(shape, bool)
        after = {number: mask.copy() for number, mask in self.masks.items()}
        for number, mask in after.items():
            mask[box] = np.where(where, array == number, mask[box])
        self._change(
            after,
            lambda: segments.write_region(
                self.node, _GRID, array, corner, where if sparse else None
            ),
        )

    def _change(self, after, act):
        """A program writes; without a difference there is no state, undo would skip it."""
        if any((after[number] != mask).any() for number, mask in self.masks.items()):
            self._keep()
            self.editor.save()
            assert act() > 0
        else:
            assert act() == 0
        self.masks = after

    @rule(corner=_CORNER, size=_SIZE, number=st.sampled_from(_IDS))
    def take_over(self, corner, size, number):
        """A suggestion in a box is taken over."""
        if number not in self.protocol.ids:
            return
        array = np.zeros(_GRID.shape_zyx, np.uint16)
        array[_box(corner, size)] = number
        segments.set_map(self.said, _GRID, array)
        taken = (array == number) & ~self._anything()
        self._change(
            {**self.masks, number: self.masks[number] | taken},
            lambda: segments.take_over(self.node, self.said, _GRID, self.protocol),
        )

    def _anything(self) -> np.ndarray:
        return np.logical_or.reduce(list(self.masks.values()))

    @rule()
    def restore(self):
        """What is drawn is set again, as from a draft after a crash."""
        found = segments.read_layers(self.node, _GRID, self.protocol)
        assert segments.set_layers(self.node, _GRID, found.arrays, found.offset_zyx) == 0

    @rule()
    def collapse(self):
        """Slicer joins layers, as it does when it saves."""
        self.node.GetSegmentation().CollapseBinaryLabelmaps(False)

    @rule()
    def add_structure(self):
        """The protocol gets a structure."""
        if 9 not in self.protocol.ids:
            self.protocol = self.protocol.add(common_structure("s9", 9))
            self._sync()

    @rule()
    def reorder(self):
        """The protocol's order changes."""
        self.protocol = Protocol(tuple(reversed(self.protocol.structures)))
        self._sync()

    def _sync(self):
        for node in (self.node, self.said):
            structures.sync_segments(node, self.protocol)
        self.states = []  # what undo does to segments is Slicer's own; only strokes are looked at
        self.editor.forget()

    @invariant()
    def the_node_says_what_the_model_says(self):
        """Every voxel of every structure, and the count of overlaps."""
        if not hasattr(self, "node"):
            return
        found = segments.read_layers(self.node, _GRID, self.protocol)
        assert found.strangers == ()
        for number in self.protocol.ids:
            read = np.zeros(_GRID.shape_zyx, bool)
            for array in found.arrays:
                box = _box(found.offset_zyx, array.shape)
                read[box] |= array == number
            assert np.array_equal(read, self.masks[number]), number
        overlaps = {
            (a, b): int((self.masks[a] & self.masks[b]).sum()) for a in _ALL for b in _ALL if a < b
        }
        counted = {(a, b): count for a, b, count in found.overlaps}
        assert counted == {pair: count for pair, count in overlaps.items() if count}


Drawing.TestCase.settings = settings(
    max_examples=40, stateful_step_count=15, deadline=None, derandomize=True
)
test_any_order_of_actions_keeps_every_voxel = Drawing.TestCase
