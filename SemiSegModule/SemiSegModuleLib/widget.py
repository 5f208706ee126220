"""The panel: run the engine's steps on a study folder as child processes, never blocking Slicer."""

import time
from pathlib import Path

import ctk
import qt
from slicer.i18n import tr as _

from semiseg.errors import SemiSegError
from semiseg.jobs import Job

_POLL_MS = 150


class EnginePanel:
    """One study folder, one button for each step of the loop, progress, Cancel.

    `job_class` is what starts a step; a test hands in a fake.
    """

    def __init__(self, layout, job_class=Job):
        self._job_class = job_class
        self._job = None
        self._build(layout)
        self._timer = qt.QTimer()
        self._timer.interval = _POLL_MS
        self._timer.timeout.connect(self.onTimer)
        self._show_state()

    def close(self):
        """Stop polling and end the running step; what it had finished stays in the study."""
        self._timer.stop()
        if self._job is not None:
            self._job.cancel()
            self._job = None

    def _build(self, layout):
        self.folderEdit = ctk.ctkPathLineEdit()
        self.folderEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.folderEdit.settingKey = "SemiSeg/StudyFolder"
        self.folderEdit.toolTip = _("The study's folder; the demo makes a new one inside it.")
        self.folderEdit.currentPathChanged.connect(self._show_state)
        self.minutesSpinBox = qt.QDoubleSpinBox()
        self.minutesSpinBox.minimum = 0.5
        self.minutesSpinBox.maximum = 10000
        self.minutesSpinBox.value = 10
        self.minutesSpinBox.suffix = _(" min")
        form = qt.QFormLayout()
        form.addRow(_("Study folder"), self.folderEdit)
        form.addRow(_("Learning time"), self.minutesSpinBox)
        layout.addLayout(form)
        self._build_buttons(layout)
        self.progressBar = qt.QProgressBar()
        self.messageLabel = qt.QLabel()
        self.messageLabel.wordWrap = True
        layout.addWidget(self.progressBar)
        layout.addWidget(self.messageLabel)
        layout.addStretch(1)

    def _build_buttons(self, layout):
        self.demoButton = self._button(layout, _("Demo on the sample CT and MR"), self.onDemo)
        self.propagateButton = self._button(layout, _("Propagate"), self.onPropagate)
        self.learnButton = self._button(layout, _("Learn"), self.onLearn)
        self.segmentButton = self._button(layout, _("Segment all"), self.onSegment)
        self.exportButton = self._button(layout, _("Export"), self.onExport)
        self.reportButton = self._button(layout, _("Report"), self.onReport)
        self.cancelButton = self._button(layout, _("Cancel"), self.onCancel)

    @staticmethod
    def _button(layout, text, slot):
        button = qt.QPushButton(text)
        button.connect("clicked()", slot)
        layout.addWidget(button)
        return button

    def onDemo(self):
        self._start(["demo", "--folder", str(Path(self.folderEdit.currentPath) / "semiseg-demo")])

    def onPropagate(self):
        self._start(["propagate", self.folderEdit.currentPath])

    def onLearn(self):
        minutes = str(self.minutesSpinBox.value)
        self._start(["train", self.folderEdit.currentPath, "--minutes", minutes])

    def onSegment(self):
        self._start(["predict", self.folderEdit.currentPath])

    def onExport(self):
        folder = Path(self.folderEdit.currentPath)
        target = folder / "export" / time.strftime("%Y%m%d-%H%M%S")
        self._start(["export", str(folder), str(target)])

    def onReport(self):
        self._start(["report", self.folderEdit.currentPath])

    def onCancel(self):
        self._job.cancel()
        self._finish(_("Stopped. Everything finished so far is kept."))

    def onTimer(self):
        for event in self._job.poll():
            self._show_event(event)
        if not self._job.running:
            self._finish(None)

    def _start(self, arguments):
        folder = Path(self.folderEdit.currentPath)
        try:
            record = folder / "jobs" / time.strftime("%Y%m%d-%H%M%S")
            self._job = self._job_class.start(arguments, folder=record)
        except SemiSegError as error:
            self.messageLabel.text = str(error)
            return
        self.folderEdit.addCurrentPathToHistory()
        self.messageLabel.text = _("Starting ...")
        self.progressBar.maximum = 0
        self._timer.start()
        self._show_state()

    def _show_event(self, event):
        if event.kind == "progress":
            self.progressBar.maximum = event.total
            self.progressBar.value = event.step
        self.messageLabel.text = " ".join(part for part in (event.phase, event.message) if part)

    def _finish(self, message):
        self._timer.stop()
        self._job = None
        self.progressBar.maximum = 1
        self.progressBar.value = 1
        if message:
            self.messageLabel.text = message
        self._show_state()

    def _show_state(self, *_ignored):
        idle = self._job is None
        has_folder = bool(self.folderEdit.currentPath)
        for button in (
            self.propagateButton,
            self.learnButton,
            self.segmentButton,
            self.exportButton,
            self.reportButton,
        ):
            button.enabled = idle and has_folder
        self.demoButton.enabled = idle
        self.folderEdit.enabled = idle
        self.cancelButton.enabled = not idle
