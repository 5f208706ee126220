"""The shipped CT and MR in Slicer's Sample Data module."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from semiseg.sample import SHA256

CATEGORY = "SemiSeg"
# Modality -> file. Nothing is downloaded: the addresses are those of installed files.
IMAGES = {"CT": "ts_ct_full112_image.nii.gz", "MR": "ts_mr_sm20_image.nii.gz"}


def register(resources: Path, logic: Any = None) -> None:
    """Offer the sample scans in `resources`; a Slicer without Sample Data goes without.

    `logic` is `SampleData.SampleDataLogic`, looked up when None.
    """
    if logic is None:
        try:
            from SampleData import SampleDataLogic  # noqa: PLC0415  (loaded by Slicer at start-up)
        except ModuleNotFoundError:
            logging.info("SemiSeg: Slicer's Sample Data module is not there")
            return
        logic = SampleDataLogic
    for modality, name in IMAGES.items():
        logic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=f"SemiSeg{modality}",
            thumbnailFileName=str(resources / "Icons" / f"SemiSegSample{modality}.png"),
            uris=(resources / "SampleData" / name).as_uri(),
            fileNames=f"SemiSeg-{name}",
            nodeNames=_("Sample {modality}").format(modality=modality),
            checksums=f"SHA256:{SHA256[name]}",
            loadFileType="VolumeFile",
        )
