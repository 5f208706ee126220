"""The Engine section: what is installed, one button to install the rest, proof of the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from semiseg.events import Event
from semiseg.jobs import Job
from SemiSegModuleLib.dependencies import Backend, Package, Plan, announce, look, plan, summary
from SemiSegModuleLib.engine_report import told_by_doctor
from SemiSegModuleLib.installing import (
    InstallationError,
    Installer,
    SlicerInstaller,
    carry_out,
    no_extension,
)
from SemiSegModuleLib.own_tasks import OwnTasks
from SemiSegModuleLib.qt_helpers import button, column, label, row
from SemiSegModuleLib.tasks import JobClass, Task

_BACKENDS: tuple[Backend, ...] = ("automatic", "cpu")
_ROW_HEIGHT, _FRAME = 22, 8  # pixels


class EngineSection:
    """Works without an open study; everything that changes Slicer's Python starts from a click.

    `installer`, `confirm` and `job_class` are what really installs, asks and starts a child.
    """

    name = "engine"

    def __init__(
        self,
        session: Any,
        resource_path: Callable[[str], str],
        *,
        installer: Installer | None = None,
        confirm: Callable[..., bool] | None = None,
        job_class: JobClass = Job,
        look_at: Callable[[Path], tuple[Package, ...]] = look,
    ) -> None:
        self._session, self._look = session, look_at
        self._requirements = Path(resource_path("requirements.txt"))
        self._installer = SlicerInstaller() if installer is None else installer
        self._confirm = slicer.util.confirmOkCancelDisplay if confirm is None else confirm
        self._tasks = OwnTasks("engine", job_class)
        self._told = False
        self._packages: tuple[Package, ...] = ()
        self._build()
        self.look_again()

    def title(self) -> str:
        """The section's heading."""
        return _("Engine")

    @property
    def ready(self) -> bool:
        """Whether everything that the engine needs is installed."""
        return bool(self._packages) and all(
            each.satisfied or each.optional for each in self._packages
        )

    @property
    def wants_attention(self) -> bool:
        """Whether the panel should show the section opened: nothing works before Install."""
        return not self.ready

    def enter(self) -> None:
        """Say it once when something is missing, where the user looks first."""
        if not self.ready and not self._told:
            self._told = True
            text = _("{what} See the section Engine.").format(what=summary(self._packages))
            self._session.say(text)

    def refresh(self, topics: set[str]) -> None:
        """Nothing may be installed while a child works with the packages."""
        if topics & {"study", "task"}:
            self._show_enabled()

    def tick(self) -> None:
        """Take what the child has said; the panel's timer calls this."""
        self._tasks.tick()

    def close(self) -> None:
        """End the test, if one runs."""
        self._tasks.close()

    def _build(self) -> None:
        self.widget = qt.QWidget()
        self.stateLabel, self.resultLabel = label(), label()
        self.table = qt.QTableWidget()
        self._prepare_table()
        self.installButton = button(
            _("Install"),
            self.onInstall,
            _("Says first what is installed, from where, and how large it is."),
        )
        self.extensionsButton = button(_("Open Extensions Manager"), self.onExtensions)
        self.testButton = button(
            _("Test engine"),
            self.onTest,
            _("Runs a small computation in a child process, on the device that work will use."),
        )
        buttons = row(self.installButton, self.extensionsButton, self.testButton)
        choices = self._build_choices()
        column(self.widget, self.stateLabel, self.table, choices, buttons, self.resultLabel)

    def _prepare_table(self) -> None:
        self.table.columnCount = 4
        self.table.setHorizontalHeaderLabels(
            [_("Package"), _("Needed"), _("Found"), _("State")],
        )
        self.table.editTriggers = qt.QAbstractItemView.NoEditTriggers
        self.table.selectionMode = qt.QAbstractItemView.NoSelection
        self.table.horizontalHeader().stretchLastSection = True
        self.table.verticalHeader().visible = False
        self.table.verticalHeader().defaultSectionSize = _ROW_HEIGHT

    def _build_choices(self) -> Any:
        self.backendBox = qt.QComboBox()
        self.backendBox.addItems([_("Fits this computer's GPU"), _("Processor only (small)")])
        self.backendBox.toolTip = _("Which build of PyTorch is installed, if it is missing.")
        self.wheelsEdit = ctk.ctkPathLineEdit()
        self.wheelsEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.wheelsEdit.toolTip = _(
            "For computers without a network: a folder of wheels (.whl) for this Python and "
            "system. Leave it empty to download."
        )
        form = qt.QFormLayout()
        form.addRow(_("PyTorch build"), self.backendBox)
        form.addRow(_("Offline wheel folder"), self.wheelsEdit)
        return form

    def look_again(self) -> None:
        """Read the installed versions and show them."""
        self._packages = self._look(self._requirements)
        self.table.rowCount = len(self._packages)
        for index, package in enumerate(self._packages):
            cells = (package.name, package.needed, package.found or "-", package.state())
            for place, text in enumerate(cells):
                self.table.setItem(index, place, qt.QTableWidgetItem(text))
        self.table.resizeColumnsToContents()
        height = _ROW_HEIGHT * (len(self._packages) + 1) + _FRAME
        self.table.minimumHeight = self.table.maximumHeight = height
        self.stateLabel.text = summary(self._packages)
        self._show_enabled()

    def _show_enabled(self) -> None:
        busy = self._session.busy() or self._tasks.running
        plan = self._plan()
        self.installButton.enabled = not plan.empty and not busy
        self.testButton.enabled = self.ready and not self._tasks.running
        needs_extension = plan.torch is not None and plan.wheels is None
        missing = needs_extension and not self._installer.torch_extension_there()
        self.extensionsButton.visible = missing and _extensions_manager() is not None

    def _plan(self) -> Plan:
        path = self.wheelsEdit.currentPath.strip()
        return plan(
            self._packages,
            backend=_BACKENDS[max(0, self.backendBox.currentIndex)],
            wheels=Path(path) if path else None,
        )

    def onInstall(self, *_args: Any) -> None:
        """Ask, with packages, source and size; then install on this thread, as Slicer demands."""
        plan = self._plan()
        trouble = self._trouble(plan)
        if trouble:
            self._say(trouble, error=True)
        elif self._confirm(announce(plan), windowTitle=_("Install what SemiSeg needs")):
            self._install(plan)

    def _trouble(self, plan: Plan) -> str:
        """Why `plan` cannot begin; "" when it can."""
        if plan.wheels is None:
            lacking = plan.torch is not None and not self._installer.torch_extension_there()
            return no_extension() if lacking else ""
        if not plan.wheels.is_dir():
            return _("The folder {folder} does not exist; choose one that holds wheels.").format(
                folder=plan.wheels
            )
        if not any(plan.wheels.glob("*.whl")):
            return _(
                "The folder {folder} holds no wheels (files that end in .whl); choose another."
            ).format(folder=plan.wheels)
        return ""

    def _install(self, plan: Plan) -> None:
        try:
            with slicer.util.WaitCursor():
                carry_out(plan, self._installer)
        except InstallationError as error:
            self.look_again()
            self._say(str(error), error=True)
            return
        self.look_again()
        if self.ready:
            self._say(_("Installed. Now the device is tested."))
            self.onTest()
        else:
            self._say(summary(self._packages), error=True)

    def onExtensions(self, *_args: Any) -> None:
        """Open Slicer's Extensions Manager."""
        show = _extensions_manager()
        if show is not None:
            show()

    def onTest(self, *_args: Any) -> None:
        """Let a child look at the machine and compute a little on the device in use."""
        if self._tasks.running:
            return
        self.resultLabel.text = _("Testing ...")
        study = self._session.study
        where = Path.home() if study is None else study.folder
        self._tasks.start(Task("doctor", ["doctor", str(where), "--quick"], self._tested))
        self._show_enabled()

    def _tested(self, _task: Task, event: Event) -> None:
        if event.kind == "result":
            self.resultLabel.text = told_by_doctor(event.data.get("machine"))
        else:
            text = _("The engine does not work: {reason}").format(reason=event.message)
            self._say(text, error=True)
            self.resultLabel.text = text
        self._show_enabled()

    def _say(self, text: str, *, error: bool = False) -> None:
        self.resultLabel.text = text
        self._session.say(text, error=error)


def _extensions_manager() -> Callable[[], None] | None:
    """Slicer's way to the Extensions Manager; None in a build without it."""
    return getattr(slicer.app, "openExtensionsManagerDialog", None)
