"""The SemiSeg module of 3D Slicer: registration with the application, and nothing else."""

import sys
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

_HERE = Path(__file__).resolve().parent
_IN_SOURCE_TREE = (_HERE.parent / "Logic" / "semiseg").is_dir()
if _IN_SOURCE_TREE and str(_HERE.parent / "Logic") not in sys.path:
    sys.path.insert(0, str(_HERE.parent / "Logic"))
RESOURCES = (_HERE.parent if _IN_SOURCE_TREE else _HERE) / "Resources"
_OUR_PACKAGES = ("SemiSegModuleLib", "semiseg")


class SemiSegModule(ScriptedLoadableModule):
    """What Slicer shows in its list of modules."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SemiSeg")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["SemiSeg contributors"]
        parent.helpText = _(
            "Segment many CT and MR scans from a few annotated slices: propagate the slices by "
            "registration, learn, segment all scans, export. Research use only."
        )
        parent.acknowledgementText = _("Built on 3D Slicer, PyTorch, MONAI and SimpleITK.")
        parent.icon = qt.QIcon(self.resourcePath("Icons/SemiSegModule.png"))

    def resourcePath(self, filename):
        return str(RESOURCES / filename)


class SemiSegModuleWidget(ScriptedLoadableModuleWidget):
    """The panel's shell; its content is in SemiSegModuleLib."""

    def resourcePath(self, filename):
        return str(RESOURCES / filename)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from SemiSegModuleLib.widget import Panel  # noqa: PLC0415

        self.panel = Panel(self.layout, resource_path=self.resourcePath)

    def enter(self):
        """The user came to the module."""
        self.panel.enter()

    def exit(self):
        """The user went to another module; running work goes on."""
        if getattr(self, "panel", None) is not None:
            self.panel.exit()

    def cleanup(self):
        """Save what was drawn and end the child processes when the module or Slicer closes."""
        if getattr(self, "panel", None) is not None:
            self.panel.close()
            self.panel = None

    def onReload(self):
        """Drop our packages first: Slicer re-executes this file alone."""
        self.cleanup()
        for name in [n for n in sys.modules if n.split(".")[0] in _OUR_PACKAGES]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class SemiSegModuleTest(ScriptedLoadableModuleTest):
    """Slicer's own self-test: the panel opens, and the engine is found from it."""

    def runTest(self):
        slicer.mrmlScene.Clear(0)
        self.test_engine_is_importable_without_torch()
        self.test_panel_opens_ready_to_start()

    def test_engine_is_importable_without_torch(self):
        before = "torch" in sys.modules
        import semiseg.jobs  # noqa: PLC0415

        self.assertTrue(Path(semiseg.jobs.__file__).is_file())
        self.assertEqual("torch" in sys.modules, before)

    def test_panel_opens_ready_to_start(self):
        panel = slicer.util.getModuleWidget("SemiSegModule").panel
        self.assertTrue(panel.sections["study"].newButton.enabled)
        self.assertFalse(panel.sections["work"].propagateButton.enabled)
