"""The Python files of a bundle, made from SemiSeg's own, so that both compute the same."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from semiseg import attention, errors, networks
from semiseg.bundle import runtime
from semiseg.config import MODALITIES, check_choice
from semiseg.images import grid, intensity, resampling

PACKAGE = "scripts"
_PROCESSING = "processing"
_VALUES: tuple[tuple[ModuleType, str], ...] = (
    (intensity, "CT_WINDOW_HU"),
    (intensity, "MR_PERCENTILES"),
    (intensity, "_SAMPLES"),
    (resampling, "_BLOCK_BYTES"),
    (grid, "_TIE"),
)
_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    check_choice,
    intensity.normalise,
    intensity._percentile_window,
    intensity.otsu,
    intensity._sample,
    resampling.zoom_linear,
    resampling._zoom_axis,
    resampling._weights,
    resampling._hat_area,
    grid._closest_axes,
)
_WHOLE = (attention, errors, networks, runtime)
_HEAD = '''"""Grey values and grids as SemiSeg prepares them; generated, do not edit."""

from __future__ import annotations

import itertools
import math
from typing import cast

import numpy as np
from scipy import sparse

from {package}.errors import ConfigError

MODALITIES = {modalities!r}
'''


def bundle_scripts() -> dict[str, str]:
    """File name -> content of the package that a bundle brings; it never imports semiseg."""
    files = {"__init__.py": "", f"{_PROCESSING}.py": _processing()}
    for module in _WHOLE:
        files[f"{_last(module.__name__)}.py"] = _own_imports(inspect.getsource(module))
    return files


def _processing() -> str:
    values = [f"{name} = {getattr(module, name)!r}" for module, name in _VALUES]
    functions = [inspect.getsource(function) for function in _FUNCTIONS]
    head = _HEAD.format(package=PACKAGE, modalities=MODALITIES)
    return head + "\n".join(values) + "\n\n\n" + "\n\n".join(functions)


def _own_imports(source: str) -> str:
    """`source` with its imports from semiseg turned to the bundle's package."""
    whole = {module.__name__: _last(module.__name__) for module in _WHOLE}
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("semiseg."):
            target = whole.get(str(node.module), _PROCESSING)
            names = ", ".join(alias.name for alias in node.names)
            lines[node.lineno - 1] = f"from {PACKAGE}.{target} import {names}"
            for number in range(node.lineno, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(lines) + "\n"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
