"""What the result files of several benchmarks share: when and where they were made, how written."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def circumstances() -> dict[str, str]:
    """Date, versions and machine, to stand beside the settings of a measurement."""
    import semiseg  # late: panel.py says first where it is to come from

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "semiseg": semiseg.__version__,
        "torch": version("torch"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
    }


def save(path: Path, content: Mapping[str, object]) -> None:
    """`content` as JSON in `path`, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    temporary.replace(path)
