"""A study: one folder with everything that the user reopens tomorrow."""

from __future__ import annotations

from semiseg.study.casework import CaseWork
from semiseg.study.labelling import Labelling
from semiseg.study.results import Evaluation, ModelRecord, Results

__all__ = ["Evaluation", "ModelRecord", "Study"]


class Study(CaseWork, Labelling, Results):
    """Cases, protocol, labels, predictions, models and journal of one folder.

    Reading needs no lock: every file is replaced as a whole. Writing takes the lock by itself.
    """
