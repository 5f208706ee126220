"""The buttons of the Cases section by which scans and annotations come in, and their dialogs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from semiseg.images.writing import SUFFIXES
from SemiSegModuleLib.dicom_database import all_series
from SemiSegModuleLib.mrml.volumes import require_image, require_usable
from SemiSegModuleLib.qt_helpers import button
from SemiSegModuleLib.sections.cases_annotation import AnnotationDialog
from SemiSegModuleLib.sections.cases_chooser import VolumeChooser
from SemiSegModuleLib.sections.cases_series import SeriesChooser
from SemiSegModuleLib.sections.cases_sources import Candidate, candidates
from SemiSegModuleLib.sections.cases_waiting import WaitingChooser

_FOLDER_KEY = "SemiSeg/ImageFolder"
_LABEL_KEY = "SemiSeg/LabelFolder"


class AddingPart:
    """The part of the Cases section about what comes in; at most one dialog is open."""

    _session: Any
    widget: Any
    _chooser: Any = None

    def add_files(self) -> None:
        """Ask for image files and add each as a case."""
        settings = qt.QSettings()
        suffixes = [suffix for suffix in SUFFIXES if suffix != ".seg.nrrd"]
        patterns = " ".join(f"*{suffix}" for suffix in (*suffixes, ".zip"))
        paths = qt.QFileDialog.getOpenFileNames(
            self.widget,
            _("Add scans"),
            str(settings.value(_FOLDER_KEY) or ""),
            _("Images ({patterns})").format(patterns=patterns),
        )
        if paths:
            settings.setValue(_FOLDER_KEY, str(Path(paths[0]).parent))
            self._session.add_files([Path(path) for path in paths])

    def add_folder(self) -> None:
        """Ask for a folder and add the DICOM series in it."""
        settings = qt.QSettings()
        path = qt.QFileDialog.getExistingDirectory(
            self.widget, _("Add a folder of DICOM files"), str(settings.value(_FOLDER_KEY) or "")
        )
        if path:
            settings.setValue(_FOLDER_KEY, path)
            self._session.add_files([Path(path)])

    def add_from_scene(self) -> None:
        """Offer the scene's volumes that are no cases yet."""
        self._choose(_("Add volumes from the scene"), only_dicom=False)

    def add_from_dicom(self) -> None:
        """Offer the volumes that the DICOM browser loaded."""
        self._choose(_("Add volumes loaded from DICOM"), only_dicom=True)

    def add_from_database(self) -> None:
        """Offer the series of Slicer's DICOM database, loaded or not."""
        found = self._session.dicom_database()
        rows = [] if found is None else all_series(found)
        if not rows:
            self._session.say(
                _(
                    "Slicer's DICOM database holds no series. Press DICOM browser and import a"
                    " folder there, or add the folder directly (Add folder...)."
                )
            )
            return
        self._open(SeriesChooser(self.widget, rows, self._session.add_database_series))

    def open_dicom(self) -> None:
        """Go to Slicer's DICOM module."""
        slicer.util.selectModule("DICOM")

    def import_annotation(self) -> None:
        """Ask for a label file and for its finished slices, and take it in for the shown case."""
        settings = qt.QSettings()
        path = qt.QFileDialog.getOpenFileName(
            self.widget,
            _("Import an annotation"),
            str(settings.value(_LABEL_KEY) or ""),
            _("Segmentations ({patterns});;All files (*)").format(
                patterns="*.seg.nrrd *.nrrd *.nii *.nii.gz *.mha *.dcm"
            ),
        )
        if not path:
            return
        settings.setValue(_LABEL_KEY, str(Path(path).parent))
        session = self._session
        self._open(AnnotationDialog(self.widget, session, Path(path)))

    def ask_waiting(self) -> None:
        """Ask once which of the volumes that wait are to be added; not over another dialog."""
        if self._chooser is not None and self._chooser.dialog.visible:
            return
        waiting, self._session.waiting = self._session.waiting, ()
        if waiting:
            self._open(WaitingChooser(self.widget, waiting, self._session.add_waiting))

    def _build_adding(self) -> None:
        self.addFilesButton = button(
            _("Add files..."),
            self.add_files,
            _(
                "Add scans from NRRD, NIfTI or MetaImage files, which stay where they are, or from"
                " ZIP files of DICOM series."
            ),
        )
        self.addFolderButton = button(
            _("Add folder..."),
            self.add_folder,
            _("Add the CT and MR series in a folder of DICOM files, and in the folders in it."),
        )
        self.addSceneButton = button(
            _("From scene..."), self.add_from_scene, _("Add volumes that are loaded in Slicer.")
        )
        self._build_dicom()

    def _build_dicom(self) -> None:
        self.addDicomButton = button(
            _("From DICOM..."),
            self.add_from_dicom,
            _("Add volumes that were loaded from Slicer's DICOM browser."),
        )
        self.databaseButton = button(
            _("DICOM database..."),
            self.add_from_database,
            _("Choose series of Slicer's DICOM database; they need not be loaded."),
        )
        self.dicomButton = button(
            _("DICOM browser"),
            self.open_dicom,
            _("Go to Slicer's DICOM module to import and load scans; then come back here."),
        )
        self.annotationButton = button(
            _("Import annotation..."),
            self.import_annotation,
            _(
                "Take a segmentation of the shown scan from a file: .seg.nrrd, NIfTI, DICOM SEG or"
                " RTSTRUCT."
            ),
        )

    def _choose(self, title: str, *, only_dicom: bool) -> None:
        offered = candidates(
            self._session.scene, self._session.study.id, self._require, only_dicom=only_dicom
        )
        if not offered:
            self._session.say(self._nothing(only_dicom=only_dicom))
            return
        self._open(VolumeChooser(self.widget, title, offered, self._add_chosen))

    def _require(self, node: Any) -> None:
        """Of a volume whose DICOM files are there those count, not where the node lies."""
        require_image(node) if self._session.dicom_files(node) else require_usable(node)

    def _add_chosen(self, chosen: list[Candidate]) -> None:
        nodes = [offer.node for offer in chosen]
        self._session.add_volumes(nodes, [offer.modality for offer in chosen])

    @staticmethod
    def _nothing(*, only_dicom: bool) -> str:
        if only_dicom:
            return _(
                "No volume from DICOM is loaded that is not a case yet. Press DICOM browser and"
                " load the scans there, or choose series with DICOM database."
            )
        return _("Every volume in the scene is a case already. Load another, or add files.")

    def _open(self, chooser: Any) -> None:
        self._close_chooser()
        self._chooser = chooser
        chooser.open()

    def _close_chooser(self) -> None:
        if self._chooser is not None:
            self._chooser.close()
            self._chooser = None
