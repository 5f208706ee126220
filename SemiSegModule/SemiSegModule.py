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
TUTORIAL = "https://github.com/semiseg/SlicerSemiSeg#the-first-ten-minutes"
_OUR_PACKAGES = ("SemiSegModuleLib", "semiseg")


def registerSampleData():
    """Offer the shipped CT and MR once Slicer is up; nothing of ours is loaded before."""
    from SemiSegModuleLib.sample_data import register  # noqa: PLC0415

    register(RESOURCES)


class SemiSegModule(ScriptedLoadableModule):
    """What Slicer shows in its list of modules."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SemiSeg")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["SemiSeg contributors"]
        parent.helpText = _(
            "Segment many CT and MR scans of different patients from a few slices that you draw: "
            "SemiSeg carries them to all scans by registration, learns from them on this computer, "
            "segments all scans, shows where it is unsure, and exports. "
            '<p><a href="{tutorial}">The first ten minutes, step by step</a>, with the CT and the '
            "MR of the Sample Data module (category SemiSeg).</p>"
            "<p><b>Research use only, not for clinical decisions.</b> Nothing leaves this computer "
            "unless you choose a cluster and agree to what is sent.</p>"
        ).format(tutorial=TUTORIAL)
        parent.acknowledgementText = _(
            "Built on 3D Slicer, PyTorch, MONAI and SimpleITK. Registration with MIND-SSC features "
            "(Heinrich et al., MICCAI 2013). Methods of learning after mean teacher (Tarvainen and "
            "Valpola, NeurIPS 2017), UA-MT (Yu et al., MICCAI 2019), cross pseudo supervision "
            "(Chen et al., CVPR 2021), cross teaching (Luo et al., MIDL 2022), BCP (Bai et al., "
            "CVPR 2023), DTC (Luo et al., AAAI 2021) and CCT-R (Liu et al., WACV 2025); please "
            "cite the one that you use. Sample scans from TotalSegmentator (Wasserthal et al., "
            "Radiology: Artificial Intelligence 2023)."
        )
        parent.icon = qt.QIcon(self.resourcePath("Icons/SemiSegModule.png"))
        slicer.app.connect("startupCompleted()", registerSampleData)

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
        if getattr(self, "panel", None) is not None:
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
    """Slicer's own self-test, on the real panel; see SemiSegModuleLib/self_test.py."""

    def runTest(self):
        from SemiSegModuleLib import self_test  # noqa: PLC0415

        for check in self_test.CHECKS:
            slicer.mrmlScene.Clear(0)
            self.delayDisplay(check.__doc__)
            check(self, slicer.util.getModuleWidget("SemiSegModule").panel)
