"""Propagate, Learn, Segment: one button each, what they need, and how far they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from semiseg.study.overview import gate_in_words
from SemiSegModuleLib.cluster_words import host_of
from SemiSegModuleLib.qt_helpers import button, column, label, row, set_margins
from SemiSegModuleLib.sections.cluster_consent import ConsentArea
from SemiSegModuleLib.sections.history_words import advice_in_words
from SemiSegModuleLib.sections.slice_words import plane_in_words
from SemiSegModuleLib.sections.work_models import ModelsArea
from SemiSegModuleLib.sections.work_progress import ProgressArea

_DRAWING = {"case", "ledger", "structures", "suggestion", "drawn"}
_TOPICS = _DRAWING | {"study", "cases", "task", "cluster"}
_DEVICES = ("auto", "cpu", "cuda")
_NEWEST = 0
_LONGEST_MINUTES = 10_000.0


def method_titles() -> dict[str, str]:
    """Names of ways to learn, in words; the first is the one to start with."""
    return {
        "auto": _("Automatic"),
        "supervised": _("Drawn and propagated slices only"),
        "cascade": _("Propagated labels first, then its own (Cascade)"),
        "mean_teacher": _("Mean teacher"),
        "ua_mt": _("Uncertainty-aware mean teacher"),
        "cross_pseudo": _("Cross pseudo supervision"),
        "cross_teaching": _("Cross teaching"),
        "bcp": _("Bidirectional copy-paste"),
        "dtc": _("Dual-task consistency"),
        "cct_r": _("Cross teaching with registration (CCT-R)"),
        "cmedl": _("Translation between CT and MR (CMEDL)"),
        "maml": _("A network per modality, learning jointly (MAML)"),
        "mass": _("Registration between CT and MR (MASS)"),
        "crii_net": _("Coarse and refined, ranked patches (CRII-Net)"),
        "entropy": _("Entropy minimization"),
    }


class WorkSection:
    """Reads the choices, asks `session`, shows what it says; choices live in its parameters."""

    name = "work"

    def __init__(self, session: Any, _resource_path: Callable[[str], str]) -> None:
        self._session = session
        self._models: tuple[int, ...] | None = None
        self._quiet = False
        self.progress, self.consent = ProgressArea(session), ConsentArea(session)
        self.models = ModelsArea(session)
        self.widget = qt.QWidget()
        self._build_scope()
        self._build_buttons()
        self._build_choices()
        self._lay_out()
        self.refresh(_TOPICS)

    def title(self) -> str:
        """The section's heading."""
        return _("Propagate, Learn, Segment")

    def refresh(self, topics: set[str]) -> None:
        """Show what can be done now, and why the rest cannot."""
        if "task" in topics:
            self.progress.show()
        if topics & {"study", "cases", "task", "cluster"}:
            self._show_choices()
            self.consent.show()
            self.models.show()
        if topics & {"study", "history", "task"}:
            self._show_advice()
        if topics & _TOPICS:
            self._show_enabled()
            self._show_case()

    def close(self) -> None:
        """Delete the plot's widgets and nodes."""
        self.progress.close()

    def onPropagate(self, *_args: Any) -> None:
        self._session.propagate(all_cases=self._all_cases())

    def onLearn(self, *_args: Any) -> None:
        choices = self._session.parameters
        self._session.learn(choices.minutes, choices.device, choices.method, choices.seed)

    def onSegment(self, *_args: Any) -> None:
        choices = self._session.parameters
        model = None if choices.model == _NEWEST else choices.model
        self._session.segment(all_cases=self._all_cases(), model=model, device=choices.device)

    def onUndo(self, *_args: Any) -> None:
        self._session.undo_suggestion()

    def onChoice(self, *_args: Any) -> None:
        """Keep what the user chose in the parameter node."""
        if self._quiet:
            return
        choices = self._session.parameters
        choices.scope = "case" if self.thisCaseButton.checked else "all"
        choices.minutes = float(self.minutesBox.value)
        choices.device = _DEVICES[self.deviceBox.currentIndex]
        choices.method = list(method_titles())[self.methodBox.currentIndex]
        choices.seed = int(self.seedBox.value)
        choices.watch = bool(self.watchCheckBox.checked)
        position = self.modelBox.currentIndex
        if self._models is not None and position >= 0:
            choices.model = (_NEWEST, *self._models)[position]
        self._show_enabled()

    def _all_cases(self) -> bool:
        return bool(self._session.parameters.scope != "case")

    def _build_scope(self) -> None:
        self.thisCaseButton = qt.QRadioButton(_("This case"))
        self.allCasesButton = qt.QRadioButton(_("All cases"))
        self.allCasesButton.checked = True
        for choice in (self.thisCaseButton, self.allCasesButton):
            choice.toolTip = _("What Propagate and Segment work on; Learn always uses all cases")
            choice.connect("toggled(bool)", self.onChoice)

    def _build_buttons(self) -> None:
        self.propagateButton = button(_("Propagate"), self.onPropagate)
        self.learnButton = button(_("Learn"), self.onLearn)
        self.segmentButton = button(_("Segment all"), self.onSegment)
        self.undoButton = button(_("Undo suggestion"), self.onUndo)
        self.caseLabel, self.adviceLabel, self.previewLabel = label(), label(), label()
        self.whereLabel = label()

    def _build_choices(self) -> None:
        self.minutesBox = qt.QDoubleSpinBox()
        self.minutesBox.minimum, self.minutesBox.maximum = 0.1, _LONGEST_MINUTES
        self.minutesBox.decimals = 1
        self.minutesBox.suffix = _(" min")
        self.minutesBox.toolTip = _(
            "How long to learn; after Cancel, Learn with the same choices goes on from there"
        )
        self.minutesBox.connect("valueChanged(double)", self.onChoice)
        self.deviceBox = self._combo([_("Automatic"), _("Processor"), _("GPU (CUDA)")])
        self.deviceBox.toolTip = _("What computes; automatic takes the GPU where one works")
        self.methodBox = self._combo(list(method_titles().values()))
        self.methodBox.toolTip = _("How scans without annotation take part in learning")
        self.modelBox = self._combo([_("Newest")])
        self.modelBox.toolTip = _("The model that Segment uses")
        self.seedBox = qt.QSpinBox()
        self.seedBox.maximum = 1_000_000
        self.seedBox.toolTip = _("Start of everything random; another seed, another model")
        self.seedBox.connect("valueChanged(int)", self.onChoice)

    def _watch_box(self) -> Any:
        self.watchCheckBox = qt.QCheckBox(_("Watch the shown slice while learning"))
        self.watchCheckBox.toolTip = _(
            "Every few seconds the slice that is shown when you press Learn is segmented anew and "
            "laid over the image. It is not kept, and takes at most 5 % of the time."
        )
        self.watchCheckBox.connect("toggled(bool)", self.onChoice)
        return self.watchCheckBox

    def _combo(self, texts: list[str]) -> Any:
        box = qt.QComboBox()
        box.addItems(texts)
        box.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
        box.minimumContentsLength = 10
        box.connect("currentIndexChanged(int)", self.onChoice)
        return box

    def _lay_out(self) -> None:
        self.advancedArea = ctk.ctkCollapsibleGroupBox()
        self.advancedArea.title = _("Advanced")
        form = qt.QFormLayout(self.advancedArea)
        form.addRow(_("Method"), self.methodBox)
        form.addRow(_("Model"), self.modelBox)
        form.addRow("", row(self.models.exportButton, self.models.importButton, 1))
        form.addRow(_("Start from"), self.models.startEdit)
        form.addRow(_("Seed"), self.seedBox)
        self.advancedArea.collapsed = True
        steps = qt.QGridLayout()
        set_margins(steps, 0, 0, 0, 0)
        steps.addWidget(self.propagateButton, 0, 0)
        steps.addWidget(self.learnButton, 0, 1)
        steps.addWidget(self.segmentButton, 0, 2)
        scope = row(self.thisCaseButton, self.allCasesButton, 1)
        timeLabel, deviceLabel = qt.QLabel(_("Learn for")), qt.QLabel(_("on"))
        times = row(timeLabel, self.minutesBox, deviceLabel, self.deviceBox, 1)
        self.caseArea = qt.QWidget()
        column(self.caseArea, self.caseLabel, row(1, self.undoButton))
        column(
            self.widget,
            scope,
            times,
            self._watch_box(),
            self.whereLabel,
            steps,
            self.consent.widget,
            self.progress.widget,
            self.previewLabel,
            self.adviceLabel,
            self.caseArea,
            self.advancedArea,
        )

    def _show_choices(self) -> None:
        """Bring the widgets to what the parameters and the study say."""
        self._quiet = True
        choices = self._session.parameters
        self.thisCaseButton.checked = choices.scope == "case"
        self.allCasesButton.checked = choices.scope != "case"
        self.minutesBox.value = choices.minutes
        self.deviceBox.currentIndex = _place(_DEVICES, choices.device)
        self.methodBox.currentIndex = _place(tuple(method_titles()), choices.method)
        self.seedBox.value = choices.seed
        self.watchCheckBox.checked = choices.watch
        self._fill_models()
        self._quiet = False
        on_cluster = self._session.on_cluster
        self.watchCheckBox.visible = not on_cluster
        said = self._said_of_place()
        self.whereLabel.text, self.whereLabel.visible = said, bool(said)

    def _said_of_place(self) -> str:
        """What is chosen elsewhere and easily forgotten: another computer, another start."""
        choices, said = self._session.parameters, []
        if self._session.on_cluster:
            host = host_of(choices.cluster_address)
            said.append(_("These run on the cluster {host}.").format(host=host))
        if choices.start_from:
            name = Path(choices.start_from).name
            said.append(_("Learn starts from {bundle}.").format(bundle=name))
        return " ".join(said)

    def _show_advice(self) -> None:
        """Whether another round pays, and which slice is a preview."""
        self.adviceLabel.text = advice_in_words(self._session.advice)
        self.adviceLabel.visible = bool(self._session.advice) and not self._session.busy()
        watched = self._session.previewed
        text = _("Preview in {case}, {plane} slice {index}: as the model has it now; not kept.")
        self.previewLabel.visible = watched is not None
        if watched is not None:
            plane = plane_in_words(watched.plane)
            self.previewLabel.text = text.format(
                case=watched.case_id, plane=plane, index=watched.index
            )

    def _fill_models(self) -> None:
        found = tuple(reversed(self._session.model_ids()))
        if found != self._models:
            self._models = found
            self.modelBox.clear()
            names = [_("Model {number}").format(number=number) for number in found]
            self.modelBox.addItems([_("Newest"), *names])
        self.modelBox.currentIndex = _place((_NEWEST, *found), self._session.parameters.model)

    def _show_enabled(self) -> None:
        every = self._all_cases()
        self.segmentButton.text = _("Segment all") if every else _("Segment this case")
        self._allow(
            self.propagateButton,
            self._session.why_not("propagate", all_cases=every),
            _("Carry finished slices to the whole volume and to the other scans"),
        )
        self._allow(
            self.learnButton,
            self._session.why_not("learn"),
            _("Train a model on drawn and propagated slices"),
        )
        self._allow(
            self.segmentButton,
            self._session.why_not("segment", all_cases=every),
            _("Let the model segment; what you drew stays as it is"),
        )
        self._allow(
            self.undoButton,
            self._session.why_not("undo"),
            _("Take back the newest suggestion of this case; what you drew stays"),
        )

    @staticmethod
    def _allow(widget: Any, reason: str, tool_tip: str) -> None:
        """Enable, or say in the tool tip why not."""
        if bool(widget.enabled) == bool(reason):
            widget.enabled = not reason
        widget.toolTip = reason or tool_tip

    def _show_case(self) -> None:
        """What the programs say of the current case, in words."""
        current = self._session.current
        shown = self._session.row(current) if current else None
        text = ""
        if shown is not None and shown.state == "propagated" and shown.gate is not None:
            text = _("{case}: {gate}").format(case=shown.id, gate=gate_in_words(shown.gate))
        elif shown is not None and shown.state == "segmented":
            text = _("{case}: segmented").format(case=shown.id)
            if shown.uncertainty is not None:
                text += _(", unsure {percent:.0f} %").format(percent=100 * shown.uncertainty)
        self.caseLabel.text = text
        self.caseArea.setVisible(bool(text))


def _place(choices: tuple[Any, ...], choice: Any) -> int:
    """The position of `choice`, the first when it is not among them."""
    return choices.index(choice) if choice in choices else 0
