"""A study: one folder with everything that the user reopens tomorrow."""

from __future__ import annotations

from semiseg.study.casework import CaseWork
from semiseg.study.companions import CompanionWork
from semiseg.study.drafts import Draft
from semiseg.study.pruning import Pruning
from semiseg.study.results import Evaluation, ModelRecord

__all__ = ["Draft", "Evaluation", "ModelRecord", "Study"]


class Study(CaseWork, CompanionWork, Pruning):
    """Cases, protocol, labels, predictions, models and journal of one folder.

    Reading needs no lock: every file is replaced as a whole. Writing takes the lock by itself.
    """
