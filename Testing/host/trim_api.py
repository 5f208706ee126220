"""Makes `slicer_api.json` from a full reading of the application: `python trim_api.py FULL.json`.

Keeps the classes that the module, its tests and the stand-in name, each whole, so that a name
which is missing in the copy is missing in the application.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
# Classes that objects are handed out as though nobody names them, and common ones.
_ALWAYS = """
    QObject QWidget QLayout QLayoutItem QStyle QHeaderView QItemSelectionModel QModelIndex
    QScrollBar QAction QStandardItem QListWidgetItem QTableWidgetItem QTreeWidgetItem QMenuBar
    QStatusBar QToolBar QMouseEvent QKeyEvent QWheelEvent QPaintEvent QResizeEvent QDropEvent
    QDragEnterEvent QMimeData QSize QPoint QRect QPointF QRectF QMargins QPalette QFontMetrics
    QScreen QClipboard QMetaObject QTabBar QStackedWidget QSplitter QDialogButtonBox QCompleter
    QSpinBox QDoubleSpinBox QCheckBox QRadioButton QButtonGroup QGroupBox QTabWidget QToolButton
    QTreeWidget QTextEdit QTextBrowser QMessageBox QInputDialog QProgressDialog QSizePolicy
    QListView QTreeView QScrollArea QUiLoader QFile QDir QFileInfo QTest QImage QPen QBrush QFont
    QPolygonF QPainterPath QLocale QDateTime QElapsedTimer QEventLoop QStyledItemDelegate
    ctkSliderWidget ctkComboBox ctkMessageBox qMRMLSubjectHierarchyComboBox
"""


def named(files: Iterable[Path]) -> set[str]:
    """Names of attributes and classes in Python files."""
    found = set(_ALWAYS.split())
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.ClassDef):
                found.add(node.name)
    return found


def trim(full: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """`full` with the wanted classes of `qt`, `ctk` and `slicer` and what they extend."""
    result = {}
    for key, content in full.items():
        if key in ("qt", "ctk", "slicer"):
            kept = wanted | {entry["extends"] for n, entry in content.items() if n in wanted}
            result[key] = {n: entry for n, entry in content.items() if n in kept}
        else:
            result[key] = content
    return result


def text_of(api: dict[str, Any]) -> str:
    """JSON with one line per class, so that a change shows where it is."""
    parts = []
    for key, content in api.items():
        if isinstance(content, dict):
            rows = ",\n".join(f"  {json.dumps(n)}: {json.dumps(e)}" for n, e in content.items())
            parts.append(f"{json.dumps(key)}: {{\n{rows}\n}}")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(content)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(full: Path) -> None:
    folders = (_ROOT / "SemiSegModule", _HERE, _ROOT / "Testing" / "gui")
    files = [file for folder in folders for file in folder.rglob("*.py")]
    trimmed = trim(json.loads(full.read_text(encoding="utf-8")), named(files))
    (_HERE / "slicer_api.json").write_text(text_of(trimmed), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
