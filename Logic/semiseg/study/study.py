"""A study: one folder with everything that the user reopens tomorrow."""

from __future__ import annotations

from semiseg.study.casework import CaseWork
from semiseg.study.drafts import Draft, Drafts
from semiseg.study.results import Evaluation, ModelRecord, Results
from semiseg.study.suggestion import Suggestions

__all__ = ["Draft", "Evaluation", "ModelRecord", "Study"]


class Study(CaseWork, Drafts, Suggestions, Results):
    """Cases, protocol, labels, predictions, models and journal of one folder.

    Reading needs no lock: every file is replaced as a whole. Writing takes the lock by itself.
    """
