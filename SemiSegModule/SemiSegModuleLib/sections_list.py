"""Which sections the panel has, in the order of the work."""

from __future__ import annotations

from importlib import import_module

_SECTIONS = (
    ("study", "StudySection"),
    ("cases", "CasesSection"),
    ("structures", "StructuresSection"),
    ("annotate", "AnnotateSection"),
    ("work", "WorkSection"),
    ("export", "ExportSection"),
    ("engine", "EngineSection"),
)


def section_classes() -> tuple[type, ...]:
    """The classes of the sections."""
    found = []
    for module, name in _SECTIONS:
        try:
            found.append(getattr(import_module(f"SemiSegModuleLib.sections.{module}"), name))
        except (ModuleNotFoundError, AttributeError):
            continue
    return tuple(found)
