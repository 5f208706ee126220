"""The module `ctk`: thin widgets with the properties and signals of CTK's that panels use."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from host import api, plain
from host.dicom_database import ctkDICOMDatabase  # noqa: F401 - handed on by `build`
from host.qt_module import QFileDialog


def _push_button_size(button: QtWidgets.QPushButton) -> QtCore.QSize:
    return plain.method(QtWidgets.QPushButton, "sizeHint")(button)


class ctkCollapsibleButton(QtWidgets.QPushButton):  # noqa: N801
    """A titled area that a click folds away."""

    contentsCollapsed = QtCore.Signal(bool)  # noqa: N815

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        parent = next((a for a in arguments if isinstance(a, QtWidgets.QWidget)), None)
        QtWidgets.QPushButton.__init__(self, text, parent)
        self.checkable, self.checked = True, True
        self._hidden_by_us: list[QtWidgets.QWidget] = []
        self._title_height = _push_button_size(self).height()
        self.setContentsMargins(0, self._title_height, 0, 0)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Preferred, policy.Minimum)
        self.toggled.connect(self._on_toggled)

    @property
    def collapsed(self) -> bool:
        return not self.checked

    @collapsed.setter
    def collapsed(self, value: bool) -> None:
        self.checked = not value

    def _on_toggled(self, *_values: Any) -> None:
        self._fold()
        self.updateGeometry()
        self.update()
        self.contentsCollapsed.emit(self.collapsed)

    def _fold(self) -> None:
        """Hide what is inside while collapsed, also what was put in since; show it again after."""
        if not self.collapsed:
            hidden, self._hidden_by_us = self._hidden_by_us, []
            for child in hidden:
                child.setVisible(True)
            return
        children = [c for c in self.children() if isinstance(c, QtWidgets.QWidget)]
        for child in [c for c in children if not c.isHidden()]:
            self._hidden_by_us.append(child)
            child.setVisible(False)

    def event(self, event: QtCore.QEvent) -> bool:
        kinds = QtCore.QEvent.Type
        if event.type() in (kinds.LayoutRequest, kinds.Polish, kinds.Show) and self.collapsed:
            self._fold()
        return QtWidgets.QPushButton.event(self, event)

    def sizeHint(self) -> QtCore.QSize:  # noqa: N802
        own = QtCore.QSize(_push_button_size(self).width(), self._title_height)
        if self.collapsed or self.layout() is None:
            return own
        return self.layout().totalSizeHint().expandedTo(own)

    def minimumSizeHint(self) -> QtCore.QSize:  # noqa: N802
        own = QtCore.QSize(0, self._title_height)
        if self.collapsed or self.layout() is None:
            return own
        return self.layout().totalMinimumSize().expandedTo(own)

    def hitButton(self, position: QtCore.QPoint) -> bool:  # noqa: N802
        return position.y() < self._title_height

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:  # noqa: N802
        painter = QtWidgets.QStylePainter(self)
        title = QtCore.QRect(0, 0, self.width, self._title_height)
        painter.fillRect(title, self.palette().button())
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(4, title.center().y() - 5, 12, 12)
        kinds = QtWidgets.QStyle.PrimitiveElement
        kind = kinds.PE_IndicatorArrowDown if self.checked else kinds.PE_IndicatorArrowRight
        self.style().drawPrimitive(kind, arrow, painter, self)
        flags = QtCore.Qt.AlignmentFlag
        left = int(flags.AlignVCenter | flags.AlignLeft)
        role = QtGui.QPalette.ColorRole.ButtonText
        inside = title.adjusted(22, 0, -8, 0)
        self.style().drawItemText(
            painter, inside, left, self.palette(), self.enabled, self.text, role
        )


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):  # noqa: N801
    """A group box that its check mark folds away."""

    def __init__(self, *arguments: Any) -> None:
        QtWidgets.QGroupBox.__init__(self, *arguments)
        self.checkable, self.checked = True, True
        self._hidden_by_us: list[QtWidgets.QWidget] = []
        self.toggled.connect(self._on_toggled)

    collapsed = ctkCollapsibleButton.collapsed

    def _on_toggled(self, *_values: Any) -> None:
        if self.collapsed:
            children = [c for c in self.children() if isinstance(c, QtWidgets.QWidget)]
            self._hidden_by_us = [c for c in children if not c.isHidden()]
        for child in self._hidden_by_us:
            child.setVisible(not self.collapsed)
        self.flat = self.collapsed
        self.setMaximumHeight(self.fontMetrics().height() + 8 if self.collapsed else 16777215)


class ctkPathLineEdit(QtWidgets.QWidget):  # noqa: N801
    """An editable path with history and a browse button."""

    Dirs, Files, Drives = 0x001, 0x002, 0x004
    NoSymLinks, Readable, Writable, Executable = 0x008, 0x010, 0x020, 0x040
    label, filters, options, settingKey, nameFilters = "", 0, 0, "", ()  # noqa: N815
    showBrowseButton, showHistoryButton = True, True  # noqa: N815
    currentPathChanged = QtCore.Signal(str)  # noqa: N815
    validInputChanged = QtCore.Signal(bool)  # noqa: N815

    def __init__(self, *arguments: Any) -> None:
        parent = arguments[-1] if arguments and not isinstance(arguments[-1], str) else None
        QtWidgets.QWidget.__init__(self, parent)
        self.label = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        self._combo = QtWidgets.QComboBox()
        self._combo.editable = True
        self._combo.editTextChanged.connect(self.currentPathChanged)
        self._button = QtWidgets.QToolButton()
        self._button.text = "..."
        self._button.clicked.connect(lambda *_: self.browse())
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo, 1)
        layout.addWidget(self._button)

    @property
    def currentPath(self) -> str:  # noqa: N802
        return self._combo.currentText

    @currentPath.setter
    def currentPath(self, path: str) -> None:  # noqa: N802
        self._combo.lineEdit().text = path

    def setCurrentPath(self, path: str) -> None:  # noqa: N802
        self.currentPath = path

    def comboBox(self) -> QtWidgets.QComboBox:  # noqa: N802
        return self._combo

    def addCurrentPathToHistory(self) -> None:  # noqa: N802
        path = self.currentPath
        if path and self._combo.findText(path) < 0:
            self._combo.insertItem(0, path)
        if self.settingKey:
            paths = [self._combo.itemText(i) for i in range(self._combo.count)]
            QtCore.QSettings().setValue(self.settingKey, paths)
        self.currentPath = path

    def retrieveHistory(self) -> None:  # noqa: N802
        paths = QtCore.QSettings().value(self.settingKey) or []
        self._combo.clear()
        self._combo.addItems([paths] if isinstance(paths, str) else list(paths))

    def browse(self) -> None:
        if self.filters & self.Files:
            path = QFileDialog.getOpenFileName(self, "", self.currentPath)
        else:
            path = QFileDialog.getExistingDirectory(self, "", self.currentPath)
        if path:
            self.currentPath = path


class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):  # noqa: N801
    """A spin box for numbers with decimals."""


class ctkSliderWidget(QtWidgets.QWidget):  # noqa: N801
    """A slider with a spin box beside it."""

    valueChanged = QtCore.Signal(float)  # noqa: N815
    valueIsChanging = QtCore.Signal(float)  # noqa: N815

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QWidget.__init__(self, parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._box = QtWidgets.QDoubleSpinBox()
        self._box.maximum = 99.0
        self._slider.maximum = 99
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._slider.valueChanged.connect(self._from_slider)
        self._box.valueChanged.connect(self._from_box)

    def _from_slider(self, step: int) -> None:
        if round(self.value / self.singleStep) != step:
            self.value = step * self.singleStep

    def _from_box(self, value: float) -> None:
        self._slider.value = round(value / self.singleStep)
        self.valueIsChanging.emit(value)
        self.valueChanged.emit(value)

    def _fit_slider(self) -> None:
        self._slider.minimum = round(self.minimum / self.singleStep)
        self._slider.maximum = round(self.maximum / self.singleStep)


def _forwarded(name: str) -> property:
    def read(self: Any) -> Any:
        return getattr(self._box, name)

    def write(self: Any, value: Any) -> None:
        setattr(self._box, name, value)
        self._fit_slider()

    return property(read, write)


for _name in ("value", "minimum", "maximum", "singleStep", "decimals", "prefix", "suffix"):
    setattr(ctkSliderWidget, _name, _forwarded(_name))


class ctkSearchBox(QtWidgets.QLineEdit):  # noqa: N801
    """A line edit to type a filter into."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QLineEdit.__init__(self, parent)
        self.placeholderText, self.clearButtonEnabled = "Search...", True


class ctkComboBox(QtWidgets.QComboBox):  # noqa: N801
    """A combo box with a text for when nothing is chosen."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        QtWidgets.QComboBox.__init__(self, parent)
        self._default_text = ""

    @property
    def defaultText(self) -> str:  # noqa: N802
        return self._default_text

    @defaultText.setter
    def defaultText(self, text: str) -> None:  # noqa: N802
        self._default_text = text


class ctkMessageBox(QtWidgets.QMessageBox):  # noqa: N801
    """A message box that may remember not to be shown again."""

    dontShowAgain, dontShowAgainVisible, dontShowAgainSettingsKey = False, False, ""  # noqa: N815


def build() -> ModuleType:
    """A new module with the widgets above."""
    module = ModuleType("ctk")
    for name, value in globals().items():
        if name.startswith("ctk") and name in api.load()["ctk"]:
            setattr(module, name, value)
    return module
