"""What the extension's build installs, what the extensions index checks, and that it starts.

A tree is built by CMake with small stand-ins for Slicer's macros, or with Slicer's own when
SEMISEG_SLICER_CMAKE names a folder with a SlicerConfig.cmake; see Resources/Docs/packaging.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SemiSegModule"
SCRIPTED = Path("lib/Slicer-5.12/qt-scripted-modules")
REPOSITORY_LIMIT = 100_000_000  # bytes, with .git, as the extensions index counts

CONFIG = f"""
set(Slicer_USE_FILE ${{CMAKE_CURRENT_LIST_DIR}}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${{CMAKE_CURRENT_LIST_DIR}}/Nothing.cmake)
set(Slicer_EXTENSION_CPACK ${{CMAKE_CURRENT_LIST_DIR}}/Pack.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR {SCRIPTED.as_posix()})
"""
# Only what is listed is copied, and the folder that it is copied to is installed, as in Slicer.
USE = """
include(CTest)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME)
    message(FATAL_ERROR "wrong arguments: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  set(target ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    configure_file(${file} ${target}/${file} COPYONLY)
  endforeach()
  install(DIRECTORY ${target}/ DESTINATION ${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT})
    message(FATAL_ERROR "wrong arguments: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  add_test(NAME py_${MY_SCRIPT} COMMAND Slicer ${MY_SLICER_ARGS})
endmacro()
"""
PACK = """
foreach(file ${EXTENSION_README_FILE} ${EXTENSION_LICENSE_FILE})
  if(NOT EXISTS ${file})
    message(FATAL_ERROR "no such file: ${file}")
  endif()
endforeach()
"""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CMake Warning" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of scripted modules in an install tree made by CMake."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    place = tmp_path_factory.mktemp("packaging")
    slicer = os.environ.get("SEMISEG_SLICER_CMAKE", "")
    if not slicer:
        slicer = str(place / "slicer")
        _write_stand_ins(place / "slicer")
    build, tree = str(place / "build"), place / "tree with ä space"
    run("cmake", "-S", str(ROOT), "-B", build, f"-DSlicer_DIR={slicer}", "-DBUILD_TESTING=ON")
    run("cmake", "--build", build)
    run("cmake", "--install", build, "--prefix", str(tree))
    return tree / SCRIPTED


def _write_stand_ins(folder: Path) -> None:
    folder.mkdir()
    files = {"SlicerConfig": CONFIG, "UseSlicer": USE, "Pack": PACK, "Nothing": ""}
    for name, text in files.items():
        (folder / f"{name}.cmake").write_text(text, encoding="utf-8")


def needed() -> Iterator[tuple[Path, Path]]:
    """Each file that must be installed: in the source tree, and below the scripted modules."""
    yield MODULE / "SemiSegModule.py", Path("SemiSegModule.py")
    library = MODULE / "SemiSegModuleLib"
    for path in library.rglob("*"):
        yield path, path.relative_to(MODULE)
    engine = ROOT / "Logic" / "semiseg"
    for path in engine.rglob("*"):
        yield path, path.relative_to(ROOT / "Logic")
    for pattern in ("UI/*.ui", "Icons/*.png", "SampleData/*", "requirements.txt"):
        for path in (ROOT / "Resources").glob(pattern):
            yield path, path.relative_to(ROOT)


def test_every_needed_file_is_installed_as_it_is(installed: Path) -> None:
    files = [
        (source, target)
        for source, target in needed()
        if source.is_file() and "__pycache__" not in source.parts and source.suffix != ".pyc"
    ]
    assert len(files) > 150
    absent = [str(target) for _, target in files if not (installed / target).is_file()]
    assert absent == []
    # Files under work may differ; CMake copied them a moment ago.
    for name in ("SemiSegModule.py", "Resources/requirements.txt"):
        source = next(source for source, target in files if target == Path(name))
        assert (installed / name).read_bytes() == source.read_bytes()


def test_nothing_else_is_installed(installed: Path) -> None:
    wanted = {str(target) for _, target in needed()}
    found = {
        str(path.relative_to(installed))
        for path in installed.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found - wanted == set()


def test_each_folder_that_slicer_scans_has_one_module_at_most(installed: Path) -> None:
    for folder in (MODULE, installed):
        assert [path.name for path in folder.glob("*.py")] == ["SemiSegModule.py"]
    assert list((ROOT / "Logic").glob("*.py")) == []
    assert not (MODULE / "__init__.py").exists()
    assert "(ScriptedLoadableModule)" in (MODULE / "SemiSegModule.py").read_text("utf-8")


def test_resources_that_the_code_names_are_there() -> None:
    pattern = re.compile(r'(?:resourcePath|resource_path)\(\s*f?"([^"{}]+)"')
    named = {
        name
        for path in MODULE.rglob("*.py")
        for name in pattern.findall(path.read_text(encoding="utf-8"))
    }
    assert {"requirements.txt", "Icons/SemiSegModule.png"} <= named
    assert [name for name in sorted(named) if not (ROOT / "Resources" / name).is_file()] == []


# --- what the extensions index reads ---------------------------------------------------------


def metadata() -> dict[str, str]:
    """The EXTENSION_ variables of the top CMakeLists.txt; each must fit on its line."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]*)"\)$', text, re.MULTILINE))


def entry() -> dict[str, object]:
    read: dict[str, object] = json.loads((ROOT / "SemiSeg.json").read_text(encoding="utf-8"))
    return read


def test_the_entry_has_the_fields_of_its_schema_and_no_others() -> None:
    fields = entry()
    required = {"$schema", "category", "scm_url"}
    optional = {
        "scm_revision",
        "build_dependencies",
        "build_subdirectory",
        "dicom_support_rule",
        "enabled",
        "tier",
    }
    assert required <= set(fields) <= required | optional
    assert str(fields["$schema"]).endswith("extension-catalog-entry-schema-v1.0.2.json#")
    assert fields["category"] == "Segmentation"
    assert str(fields["scm_url"]).startswith("https://")
    assert fields["tier"] == 3
    assert b"\r" not in (ROOT / "SemiSeg.json").read_bytes()


def test_names_agree_with_each_other_and_with_the_indexs_rules() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    project = re.search(r"^project\((\w+)", text, re.MULTILINE)
    assert project is not None
    assert [path.stem for path in ROOT.glob("*.json")] == [project.group(1)]
    assert not project.group(1).startswith("Slicer")
    repository = str(entry()["scm_url"]).rsplit("/", 1)[1].removesuffix(".git")
    assert repository.startswith("Slicer")
    assert metadata()["HOMEPAGE"] == str(entry()["scm_url"]).removesuffix(".git")


def test_both_places_name_the_same_extensions_that_this_one_needs() -> None:
    depends = metadata()["DEPENDS"].split()
    assert depends == entry()["build_dependencies"] == ["PyTorch"]


def test_what_the_index_shows_is_said_in_one_line_each() -> None:
    found = metadata()
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS"):
        assert found[name], name
    for address in (found["ICONURL"], *found["SCREENSHOTURLS"].split()):
        assert address.startswith("https://")
        assert address.endswith(".png")
        path = ROOT / address.split("/main/", 1)[1]
        assert path.is_file(), address
    assert (ROOT / "LICENSE").is_file()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("SemiSegModule.png", (128, 128)),
        ("SemiSegSampleCT.png", (192, 128)),
        ("SemiSegSampleMR.png", (192, 128)),
    ],
)
def test_icons_are_small_pngs_of_the_right_size(name: str, size: tuple[int, int]) -> None:
    content = (ROOT / "Resources" / "Icons" / name).read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == size
    assert len(content) < 30_000


def test_the_repository_is_small_enough_for_the_index() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in os.fsdecode(listed.stdout).split("\0") if name]
    size = sum(path.stat().st_size for path in paths if path.is_file())
    size += sum(path.stat().st_size for path in (ROOT / ".git").rglob("*") if path.is_file())
    assert size < REPOSITORY_LIMIT


# --- starting ------------------------------------------------------------------------------------

LATER = (
    "torch",
    "monai",
    "safetensors",
    "psutil",
    "typer",
    "rich",
    "jinja2",
    "contourpy",
    "PIL",
    "highdicom",  # Slicer 5.10 does not have it
)
START = """
import sys
sys.path.insert(0, {testing!r})
from host import install
install()
from host.module_manager import load_module, unload_module

class NotYet:
    # What the Install button brings later is not there yet, as in a fresh Slicer.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {later!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

import importlib.metadata as metadata
version_of = metadata.version
def version(name):
    if name in {later!r}:
        raise metadata.PackageNotFoundError(name)
    return version_of(name)
metadata.version = version
sys.meta_path.insert(0, NotYet())
# The environment itself may lie in the source tree (.venv).
kept = (sys.prefix, {testing!r})
sys.path[:] = [p for p in sys.path if not p.startswith({root!r}) or p.startswith(kept)]

import logging, os, time
from pathlib import Path
import slicer
logging.basicConfig(level=logging.INFO)
module = load_module(Path({folder!r}) / "SemiSegModule.py")
assert "semiseg" not in sys.modules and "SemiSegModuleLib" not in sys.modules, "work at import"
assert not module.icon.isNull(), "no icon"
slicer.app.startupCompleted.emit()
assert os.path.isfile(module._python.resourcePath("requirements.txt"))
begin = time.perf_counter()
widget = slicer.util.getModuleWidget("SemiSegModule")
seconds = time.perf_counter() - begin
heavy = {{"torch", "monai", "pydicom", "highdicom"}} & set(sys.modules)
assert not heavy, heavy
import semiseg, SemiSegModuleLib
for package in (semiseg, SemiSegModuleLib):
    assert package.__file__.startswith({prefix!r}), package.__file__
from semiseg.sample import sample_cases
assert len(sample_cases()) == 2
assert {fresh!r} != widget.panel.sections["engine"].ready
assert widget.panel.areas["engine"].collapsed != {fresh!r}
sys.modules["SemiSegModule"].SemiSegModuleTest().runTest()
unload_module("SemiSegModule")
print("OPENED in", round(seconds, 3), "s")
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture
def host() -> None:
    for name in ("slicer", "PySide6"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if not (ROOT / "Testing" / "host" / "installation.py").is_file():
        pytest.skip("the stand-in of the application is not there")


def start(folder: Path, *, fresh: bool) -> str:
    """Open the panel of `folder` in a process of its own, and run the module's self-test in it.

    `fresh`: without the packages that are installed later.
    """
    script = START.format(
        testing=str(ROOT / "Testing"),
        later=LATER if fresh else (),
        root=str(ROOT),
        folder=str(folder),
        prefix=str(ROOT if folder == MODULE else folder),
        fresh=fresh,
    )
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OPENED" in done.stdout
    return done.stdout + done.stderr


def test_self_test_passes_in_an_install_tree(host: None, installed: Path) -> None:
    assert "left out" not in start(installed, fresh=False)


def test_the_panel_of_an_install_tree_opens_before_anything_is_installed(
    host: None, installed: Path
) -> None:
    assert "left out" in start(installed, fresh=True)


def test_the_panel_of_the_source_tree_opens_before_anything_is_installed(host: None) -> None:
    assert "left out" in start(MODULE, fresh=True)
