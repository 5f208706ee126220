"""Models handed on and taken over, and learning that begins with one."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _

from semiseg.errors import StudyError
from semiseg.events import Event
from SemiSegModuleLib.session_core import told
from SemiSegModuleLib.session_history import HistoryPart
from SemiSegModuleLib.session_work import Prepare


class ModelsPart(HistoryPart):
    """The part of `Session` about models of other studies, as MONAI bundles."""

    @told
    def export_model(self, path: Path, model: int | None) -> None:
        """Write a model, the newest if none is named, to the .zip file `path`."""
        chosen = () if model is None else ("--model", str(model))
        words = ("model", "export", "STUDY", str(path), *chosen, "--overwrite")
        self._begin("export_model", words)

    @told
    def import_model(self, path: Path) -> None:
        """Add the model in a bundle to the study's, to segment with."""
        self._begin("import_model", ("model", "import", "STUDY", str(path)))

    def _why_not_export_model(self) -> str:
        return "" if self.model_ids() else _("Learn a model first")

    def _begin(self, kind: str, parts: tuple[str, ...], prepare: Prepare | None = None) -> None:
        bundle = self.parameters.start_from
        if kind == "learn" and bundle:
            if not Path(bundle).exists():
                text = _("{bundle}, which Learn is to start from, is not there; choose another.")
                raise StudyError(text.format(bundle=bundle))
            parts = (*parts, "--start-from", bundle)
        super()._begin(kind, parts, prepare)

    def _summary(self, kind: str, event: Event, done: tuple[str, ...]) -> str:
        model = event.data.get("model", "")
        if kind == "export_model":
            text = _("Wrote model {model} to {file}. It states no terms of use: agree on them.")
            return text.format(model=model, file=event.data.get("bundle", ""))
        if kind == "import_model":
            text = _("The model is now model {model} of this study. Press Segment to use it.")
            return text.format(model=model)
        return super()._summary(kind, event, done)
