"""The module as Slicer loads it: its entry, its sample data, its self-test, its parameters."""

from __future__ import annotations

import hashlib
import sys
import urllib.request
from pathlib import Path
from typing import Any

RESOURCES = Path(__file__).parents[2] / "Resources"


class Registry:
    """What is used of `SampleData.SampleDataLogic`."""

    def __init__(self) -> None:
        self.sources: list[dict[str, Any]] = []

    def registerCustomSampleDataSource(self, **source: Any) -> None:  # noqa: N802
        self.sources.append(source)


def test_the_entry_says_what_the_module_is_for(module_widget: Any) -> None:
    import slicer

    module = slicer.modules.semisegmodule
    assert module.title == "SemiSeg"
    assert list(module.categories) == ["Segmentation"]
    assert "Research use only" in module.helpText
    assert "first ten minutes" in module.helpText
    assert "please cite" in module.acknowledgementText
    assert module.contributors
    assert not module.icon.isNull()


def test_sample_scans_are_registered_with_their_checksums(application: Any, tmp_path: Path) -> None:
    from SemiSegModuleLib.sample_data import register

    registry = Registry()
    register(RESOURCES, registry)
    assert [source["sampleName"] for source in registry.sources] == ["SemiSegCT", "SemiSegMR"]
    for source in registry.sources:
        target = tmp_path / source["fileNames"]
        # As Slicer's Sample Data fetches it.
        urllib.request.urlretrieve(source["uris"], target)
        algorithm, digest = source["checksums"].split(":")
        assert algorithm == "SHA256"
        assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
        assert Path(source["thumbnailFileName"]).is_file()


def test_paths_with_spaces_and_umlauts_make_valid_addresses(
    application: Any, tmp_path: Path
) -> None:
    from SemiSegModuleLib.sample_data import IMAGES, register

    folder = tmp_path / "Räder für OP 1%" / "SampleData"
    folder.mkdir(parents=True)
    for name in IMAGES.values():
        (folder / name).write_bytes(b"x")
    registry = Registry()
    register(folder.parent, registry)
    for source in registry.sources:
        with urllib.request.urlopen(source["uris"]) as file:
            assert file.read() == b"x"


def test_a_slicer_without_sample_data_starts_nevertheless(application: Any) -> None:
    from SemiSegModuleLib.sample_data import register

    assert "SampleData" not in sys.modules
    register(RESOURCES)


def test_choices_are_back_after_closing_a_scene_without_a_study(module_widget: Any) -> None:
    import slicer

    session = module_widget.panel.session
    slicer.mrmlScene.Clear(0)
    assert session.plane == "axial"
    assert session.parameters.minutes == 10.0
