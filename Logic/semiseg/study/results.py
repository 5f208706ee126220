"""What learning leaves in a study: models and their figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semiseg.errors import SchemaError, StorageError, StudyError
from semiseg.events import Json
from semiseg.study.core import StudyCore
from semiseg.study.fields import Fields
from semiseg.study.journal import utc_now
from semiseg.study.migrate import SCHEMA, schema_of
from semiseg.study.opening import label_problem
from semiseg.study.storage import (
    draft_folder,
    make_folder,
    read_json,
    sync_tree,
    write_json_atomic,
)
from semiseg.study.versions import (
    publish_version,
    read_manifest,
    version_folder,
    version_numbers,
    write_manifest,
)

# A model took long to make, so its saving waits longer for the lock than a click does.
_MODEL_WAIT_S = 120.0
_EVALUATION = re.compile(r"(\d{4,})\.json")


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A trained model in `folder`; `info` is what its maker told."""

    id: int
    folder: Path
    name: str
    created: str
    info: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures: one row per case and structure, and the settings they were made with."""

    id: int
    created: str
    settings: Mapping[str, Json]
    rows: tuple[Mapping[str, Json], ...]


class Results(StudyCore):
    """The part of `Study` about models and evaluations."""

    def add_model(self, write: Callable[[Path], None], info: Mapping[str, Json]) -> int:
        """Lets `write` fill a folder and keeps it as the next model, whose id it returns.

        `info` becomes model.json unless `write` made one.
        """
        with draft_folder(self._models, "model") as draft:
            write(draft)
            sync_tree(draft)
            if not (draft / "model.json").exists():
                write_json_atomic(draft / "model.json", info)
            write_manifest(draft, info)
            with self.writing(wait_s=_MODEL_WAIT_S):
                number = publish_version(draft, self._models)
                self._note("model_added", model=number)
        return number

    def models(self) -> tuple[ModelRecord, ...]:
        """The models that are whole, oldest first; others are told in `problems`."""
        found = []
        for number in version_numbers(self._models):
            try:
                found.append(self._model(number))
            except (SchemaError, StorageError) as error:
                self._tell(label_problem("the study", self._models, number, str(error)))
        return tuple(found)

    def model(self, model_id: int | None = None) -> ModelRecord:
        """The model `model_id`, the newest by default; StudyError when there is none."""
        known = self.models()
        for record in reversed(known):
            if model_id is None or record.id == model_id:
                return record
        if not known:
            raise StudyError("the study has no model yet; train one first")
        ids = ", ".join(str(record.id) for record in known)
        raise StudyError(f"the study has no model {model_id} that can be used; it has {ids}")

    def add_evaluation(
        self, rows: Iterable[Mapping[str, Json]], settings: Mapping[str, Json]
    ) -> int:
        """Keeps figures; returns their number."""
        with self.writing():
            make_folder(self._evaluations)
            number = max(self.evaluation_numbers(), default=0) + 1
            body: dict[str, Json] = {
                "schema_version": SCHEMA,
                "created": utc_now(),
                "settings": dict(settings),
                "rows": [dict(row) for row in rows],
            }
            write_json_atomic(self._evaluations / f"{number:04d}.json", body)
            self._note("evaluated", evaluation=number)
            return number

    def evaluations(self) -> tuple[Evaluation, ...]:
        """All evaluations that can be read, oldest first; others are told in `problems`."""
        found = []
        for number in self.evaluation_numbers():
            path = self._evaluations / f"{number:04d}.json"
            try:
                found.append(_evaluation(number, path))
            except (SchemaError, StorageError) as error:
                self._tell(label_problem("the study", self._evaluations, number, str(error)))
        return tuple(found)

    @property
    def _models(self) -> Path:
        return self.folder / "models"

    @property
    def _evaluations(self) -> Path:
        return self.folder / "evaluations"

    def _model(self, number: int) -> ModelRecord:
        manifest = read_manifest(version_folder(self._models, number))
        name = Fields(manifest.info, str(manifest.folder)).text("name", f"model {number}")
        return ModelRecord(
            id=number,
            folder=manifest.folder,
            name=name,
            created=manifest.created,
            info=manifest.info,
        )

    def evaluation_numbers(self) -> tuple[int, ...]:
        """The numbers of the evaluations, rising."""
        if not self._evaluations.is_dir():
            return ()
        found = (_EVALUATION.fullmatch(path.name) for path in self._evaluations.iterdir())
        return tuple(sorted(int(match[1]) for match in found if match))


def _evaluation(number: int, path: Path) -> Evaluation:
    values = read_json(path)
    schema_of(values, str(path))
    fields = Fields(values, str(path))
    return Evaluation(
        id=number,
        created=fields.text("created"),
        settings=fields.mapping("settings"),
        rows=tuple(part.values for part in fields.parts("rows")),
    )
