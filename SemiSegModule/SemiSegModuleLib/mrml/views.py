"""What the slice views show: one case at a time, where the user left it; exact slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import vtk
from numpy.typing import NDArray

from semiseg.images.grid import PLANES, Grid, Plane, plane_axis
from SemiSegModuleLib.mrml.binding import ROLES, STUDY, CaseNodes
from SemiSegModuleLib.mrml.geometry import affine_ras, grid_of, to_numpy, to_vtk
from SemiSegModuleLib.mrml.structures import ROLE

_STRAIGHT = 1e-3
_REFORMAT = "Reformat"


@dataclass(frozen=True, kw_only=True)
class _Position:
    """Where one slice view was: its slice's matrix, millimetres per pixel, depth and shift.

    Pixels, not the whole field of view: the window may have another shape by then.
    """

    slice_to_ras: NDArray[np.float64]
    pixel_mm: float
    depth_mm: float
    shift: tuple[float, ...]


class Views:
    """The slice views of a layout manager, over nodes of one scene."""

    def __init__(self, layout_manager, scene) -> None:
        self._layout, self._scene = layout_manager, scene
        self._positions: dict[tuple[str, str], dict[str, _Position]] = {}
        self._volume_id: str | None = None
        self._shown: tuple[str, str] | None = None  # study and case
        self._active_name = ""

    def show(self, nodes: CaseNodes, case_id: str = "") -> None:
        """Show a case's volume, drawing and suggestion; hide those of other cases.

        The first time the views are turned to an oblique volume's own planes and fitted to it;
        later they come back to where they were.
        """
        volume_id = nodes.volume.GetID() if nodes.volume is not None else None
        study = (nodes.volume.GetAttribute(STUDY) or "") if nodes.volume is not None else ""
        is_new = (self._shown, self._volume_id) != ((study, case_id), volume_id)
        if self._shown is not None and is_new:
            self._keep(self._shown)
        self._volume_id, self._shown = volume_id, (study, case_id)
        self._show_segmentations(nodes)
        for logic in self._logics():
            composite = logic.GetSliceCompositeNode()
            if composite.GetBackgroundVolumeID() != volume_id:
                composite.SetBackgroundVolumeID(volume_id)
            over = composite.GetForegroundVolumeID()
            mine = nodes.uncertainty is not None and over == nodes.uncertainty.GetID()
            if self._is_ours(over) and not mine:
                composite.SetForegroundVolumeID(None)
        if nodes.volume is not None and is_new and not self.restore(case_id):
            self._first_look(nodes.volume)

    def remember(self, case_id: str) -> None:
        """Keep where the views are, for `case_id`."""
        self._keep((self._study, case_id))

    def restore(self, case_id: str) -> bool:
        """Bring the views back to where they were for `case_id`; False when that is unknown."""
        kept = self._positions.get((self._study, case_id))
        if kept is None:
            return False
        for node in self._slice_nodes():
            position = kept.get(node.GetLayoutName())
            if position is not None:
                _move(node, position)
        return True

    def forget(self, case_id: str) -> None:
        """The case is gone: look at it anew if it comes back."""
        self._positions.pop((self._study, case_id), None)
        if self._shown == (self._study, case_id):
            self._shown, self._volume_id = (self._study, ""), None

    def close(self) -> None:
        """Forget all cases."""
        self._shown, self._volume_id = None, None
        self._positions.clear()

    def slice_index(self, plane: Plane, grid: Grid) -> int | None:
        """The slice that the view of `plane` shows, counted along the array's axis.

        None when no view shows that plane straight, or it is outside the volume.
        """
        voxel_to_world = self._voxel_to_world(grid)
        node = self._view_of(plane, grid, voxel_to_world)
        if node is None or not _is_straight(node, plane, grid, voxel_to_world):
            return None
        point = to_numpy(node.GetSliceToRAS())[:, 3]
        place = (np.linalg.inv(voxel_to_world) @ point)[2 - plane_axis(grid, plane)]
        index = int(np.floor(place + 0.5))
        return index if 0 <= index < grid.shape_zyx[plane_axis(grid, plane)] else None

    def jump(self, plane: Plane, grid: Grid, index: int) -> None:
        """Bring the view of `plane` to the middle of slice `index`; turns it straight if needed."""
        voxel_to_world = self._voxel_to_world(grid)
        node = self._view_of(plane, grid, voxel_to_world)
        if node is None:
            return
        volume = self._volume()
        if volume is not None and not _is_straight(node, plane, grid, voxel_to_world):
            node.RotateToVolumePlane(volume)
        middle = np.append((np.asarray(grid.size_xyz) - 1) / 2.0, 1.0)
        middle[2 - plane_axis(grid, plane)] = index
        node.JumpSliceByOffsetting(*(float(v) for v in (voxel_to_world @ middle)[:3]))

    def active_plane(self, grid: Grid) -> Plane:
        """The plane of the slice view that the mouse was last in, else of the first view."""
        node = self._active_node()
        if node is None:
            return "axial"
        normal = to_numpy(node.GetSliceToRAS())[:3, 2]
        voxel_to_world = self._voxel_to_world(grid)
        return max(PLANES, key=lambda plane: _alignment(normal, plane, grid, voxel_to_world))

    def show_overlay(self, node, opacity: float = 0.6) -> None:
        """Lay an overlay's node over the background; None takes ours away."""
        for logic in self._logics():
            composite = logic.GetSliceCompositeNode()
            if node is not None:
                composite.SetForegroundVolumeID(node.GetID())
                composite.SetForegroundOpacity(opacity)
            elif self._is_ours(composite.GetForegroundVolumeID()):
                composite.SetForegroundVolumeID(None)

    def _is_ours(self, node_id: str | None) -> bool:
        node = self._scene.GetNodeByID(node_id) if node_id else None
        return node is not None and bool(node.GetAttribute(STUDY))

    def _show_segmentations(self, nodes: CaseNodes) -> None:
        shown = {node.GetID() for node in nodes.all()}
        for number in range(self._scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
            node = self._scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode")
            if node.GetAttribute(STUDY) and node.GetAttribute(ROLE) in ROLES:
                node.SetDisplayVisibility(node.GetID() in shown)

    @property
    def _study(self) -> str:
        return self._shown[0] if self._shown is not None else ""

    def _volume(self):
        return self._scene.GetNodeByID(self._volume_id) if self._volume_id else None

    def _keep(self, key: tuple[str, str]) -> None:
        self._positions[key] = {
            node.GetLayoutName(): _position_of(node) for node in self._slice_nodes()
        }

    def _first_look(self, volume) -> None:
        oblique = _is_oblique(volume)
        for logic in self._logics():
            node = logic.GetSliceNode()
            if node.GetOrientation() == _REFORMAT:
                node.SetOrientationToDefault()
            if oblique:
                node.RotateToVolumePlane(volume)
            logic.FitSliceToBackground()

    def _logics(self) -> list:
        names = self._layout.sliceViewNames() if self._layout is not None else ()
        widgets = [self._layout.sliceWidget(name) for name in names]
        return [widget.sliceLogic() for widget in widgets if widget is not None]

    def _slice_nodes(self) -> list:
        return [logic.GetSliceNode() for logic in self._logics()]

    def _view_of(self, plane: Plane, grid: Grid, voxel_to_world: NDArray):
        """The view that shows `plane` best, if no other plane better; visible ones first."""
        for nodes in (self._shown_nodes(), self._slice_nodes()):
            best, found = 0.0, None
            for node in nodes:
                normal = to_numpy(node.GetSliceToRAS())[:3, 2]
                cosines = {p: _alignment(normal, p, grid, voxel_to_world) for p in PLANES}
                if max(cosines, key=lambda p: cosines[p]) == plane and cosines[plane] > best + 1e-6:
                    best, found = cosines[plane], node
            if found is not None:
                return found
        return None

    def _active_node(self):
        """The view under the mouse; once it has left, the one that it was last seen in."""
        crosshair = self._scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        nodes = {node.GetLayoutName(): node for node in self._shown_nodes()}
        node = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0]) if crosshair is not None else None
        if node is not None and node.GetLayoutName() in nodes:
            self._active_name = node.GetLayoutName()
        return nodes.get(self._active_name, next(iter(nodes.values()), None))

    def _shown_nodes(self) -> list:
        """The views that the layout shows; all where it does not say."""
        nodes = self._slice_nodes()
        return [node for node in nodes if node.IsMappedInLayout()] or nodes

    def _voxel_to_world(self, grid: Grid) -> NDArray[np.float64]:
        """(4, 4) to RAS, with the shown volume's linear parent transform."""
        volume = self._volume()
        transform = volume.GetParentTransformNode() if volume is not None else None
        if transform is None or not transform.IsTransformToWorldLinear():
            return affine_ras(grid)
        matrix = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(matrix)
        return to_numpy(matrix) @ affine_ras(grid)


def _axis_of(plane: Plane, grid: Grid, voxel_to_world: NDArray) -> NDArray[np.float64]:
    """One step in world millimetres normal to the slices of `plane`."""
    steps = voxel_to_world[:3, :3].T
    axis = 2 - plane_axis(grid, plane)
    normal = np.cross(steps[(axis + 1) % 3], steps[(axis + 2) % 3])
    normal /= np.linalg.norm(normal)
    return normal * (normal @ steps[axis])


def _alignment(normal: NDArray, plane: Plane, grid: Grid, voxel_to_world: NDArray) -> float:
    axis = _axis_of(plane, grid, voxel_to_world)
    return abs(float(normal @ axis)) / (np.linalg.norm(axis) * np.linalg.norm(normal))


def _is_straight(node, plane: Plane, grid: Grid, voxel_to_world: NDArray) -> bool:
    """Whether the view stays within half a slice all over the volume."""
    frame = to_numpy(node.GetSliceToRAS())
    steps = voxel_to_world[:3, :3].T
    axis = 2 - plane_axis(grid, plane)
    normal = frame[:3, 2] / np.linalg.norm(frame[:3, 2])
    rise = sum(
        abs(float(normal @ steps[other])) * (grid.size_xyz[other] - 1) / 2
        for other in range(3)
        if other != axis
    )
    return rise < 0.5 * abs(float(normal @ steps[axis]))


def _is_oblique(volume_node) -> bool:
    cosines = np.abs(np.asarray(grid_of(volume_node).direction))
    return bool(np.any((cosines > _STRAIGHT) & (cosines < 1 - _STRAIGHT)))


def _position_of(node) -> _Position:
    field = node.GetFieldOfView()
    return _Position(
        slice_to_ras=to_numpy(node.GetSliceToRAS()),
        pixel_mm=field[0] / max(node.GetDimensions()[0], 1),
        depth_mm=field[2],
        shift=tuple(node.GetXYZOrigin()),
    )


def _move(node, position: _Position) -> None:
    modifying = node.StartModify()
    node.GetSliceToRAS().DeepCopy(to_vtk(position.slice_to_ras))
    width, height, _depth = node.GetDimensions()
    node.SetFieldOfView(
        position.pixel_mm * max(width, 1), position.pixel_mm * max(height, 1), position.depth_mm
    )
    node.SetXYZOrigin(*position.shift)
    node.UpdateMatrices()
    node.EndModify(modifying)
