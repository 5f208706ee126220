"""Which sections the panel has, in the order of the work; a new one is named here and nowhere else.

A section is a class with `name`, `title()`, `widget`, `refresh(topics)` and `close()`, made from
a session and a function that finds files under Resources; `enter()`, `exit()` and `tick()` are
called where it has them.
"""

from __future__ import annotations

from SemiSegModuleLib.sections.annotate import AnnotateSection
from SemiSegModuleLib.sections.cases import CasesSection
from SemiSegModuleLib.sections.cluster import ClusterSection
from SemiSegModuleLib.sections.engine import EngineSection
from SemiSegModuleLib.sections.export import ExportSection
from SemiSegModuleLib.sections.history import HistorySection
from SemiSegModuleLib.sections.structures import StructuresSection
from SemiSegModuleLib.sections.study import StudySection
from SemiSegModuleLib.sections.work import WorkSection

SECTIONS: tuple[type, ...] = (
    StudySection,
    CasesSection,
    StructuresSection,
    AnnotateSection,
    WorkSection,
    HistorySection,
    ExportSection,
    ClusterSection,
    EngineSection,
)
