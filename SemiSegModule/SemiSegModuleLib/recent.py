"""The studies that were open lately, kept in the application's settings."""

import json
from pathlib import Path

import qt

_KEY = "SemiSeg/RecentStudies"
_MOST = 10


def recent_studies() -> list[Path]:
    """Folders, the latest first; those that are gone are left out."""
    return [path for path in _stored() if (path / "study.json").is_file()]


def remember_study(folder: Path) -> None:
    """Put `folder` at the head of the list."""
    others = [path for path in _stored() if path != folder]
    texts = [str(path) for path in (folder, *others)][:_MOST]
    qt.QSettings().setValue(_KEY, json.dumps(texts))


def forget_studies() -> None:
    """Empty the list; the studies stay on the disk."""
    qt.QSettings().remove(_KEY)


def _stored() -> list[Path]:
    # One text instead of a list: Qt hands a list of one back as a plain text on some systems.
    try:
        found = json.loads(str(qt.QSettings().value(_KEY) or "[]"))
    except ValueError:
        return []
    return [Path(text) for text in found if isinstance(text, str)]
