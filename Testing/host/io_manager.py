"""`slicer.app.coreIOManager()`: files in and out through Slicer's own logics and scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore

_SEGMENTATION_ENDINGS = (".seg.nrrd", ".seg.nii.gz", ".seg.vtm")
_SCENE_ENDINGS = (".mrml", ".mrb")


class qSlicerCoreIOManager(QtCore.QObject):  # noqa: N801
    """Volumes, segmentations and scenes; other files are refused."""

    fileSaved = QtCore.Signal(object)  # noqa: N815
    newFileLoaded = QtCore.Signal(object)  # noqa: N815

    def fileType(self, path: str) -> str:  # noqa: N802
        name = str(path).lower()
        if name.endswith(_SEGMENTATION_ENDINGS):
            return "SegmentationFile"
        return "SceneFile" if name.endswith(_SCENE_ENDINGS) else "VolumeFile"

    def fileWriterFileType(self, node: Any) -> str:  # noqa: N802
        return "SegmentationFile" if node.IsA("vtkMRMLSegmentationNode") else "VolumeFile"

    def loadNodes(  # noqa: N802
        self, kind: str, properties: dict[str, Any], loaded: Any = None, _messages: Any = None
    ) -> bool:
        node = self._load(kind, str(properties["fileName"]), properties)
        if node is not None and node is not True and loaded is not None:
            loaded.AddItem(node)
        self.newFileLoaded.emit(properties)
        return node is not None

    def _load(self, kind: str, path: str, properties: dict[str, Any]) -> Any:
        name = properties.get("name") or Path(path).name.split(".")[0]
        if kind == "SceneFile":
            return self.loadScene(path, properties.get("clear", False)) or None
        if kind == "SegmentationFile":
            logic = slicer.modules.segmentations.logic()
            return logic.LoadSegmentationFromFile(path, True, name)
        if kind == "VolumeFile":
            options = 1 if properties.get("labelmap") else 0
            logic = slicer.modules.volumes.logic()
            node = logic.AddArchetypeVolume(path, name, options)
            if node is not None and properties.get("show", True):
                slicer.util.setSliceViewerLayers(background=node, fit=True)
            return node
        raise ValueError(f"this stand-in cannot load {kind}")

    def loadScene(self, path: str, clear: bool = True) -> bool:  # noqa: N802
        scene = slicer.mrmlScene
        if path.lower().endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear))
        scene.SetURL(path)
        return bool(scene.Connect() if clear else scene.Import())

    def saveNodes(  # noqa: N802
        self, kind: str, properties: dict[str, Any], _messages: Any = None
    ) -> bool:
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self.saveScene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        node.GetStorageNode().SetFileName(path)
        saved = bool(node.GetStorageNode().WriteData(node))
        self.fileSaved.emit(properties)
        return saved

    def saveScene(self, path: str, *_more: Any) -> bool:  # noqa: N802
        """A bundle, or a .mrml beside the nodes' files."""
        scene = slicer.mrmlScene
        if path.lower().endswith(".mrb"):
            return bool(scene.WriteToMRB(path))
        scene.SetURL(path)
        scene.SetRootDirectory(str(Path(path).parent))
        for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
            if node.GetSaveWithScene() and not node.IsA("vtkMRMLColorNode"):
                self._save_beside(node, Path(path).parent)
        return bool(scene.Commit(path))

    def _save_beside(self, node: Any, folder: Path) -> None:
        if node.GetStorageNode() is None and not node.AddDefaultStorageNode():
            return
        storage = node.GetStorageNode()
        if not storage.GetFileName():
            ending = storage.GetDefaultWriteFileExtension()
            storage.SetFileName(str(folder / f"{node.GetName()}.{ending}"))
        storage.WriteData(node)
