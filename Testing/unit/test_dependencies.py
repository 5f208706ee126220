"""What is missing, what the user is asked, what is handed to pip, and why pip failed."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[2] / "Resources" / "requirements.txt"


@pytest.fixture
def slicer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Slicer that only translates; our modules are loaded anew with it."""
    fake: Any = ModuleType("slicer")
    fake.app = SimpleNamespace(testingEnabled=lambda: False)
    fake.util = SimpleNamespace()
    i18n: Any = ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    monkeypatch.setitem(sys.modules, "slicer", fake)
    monkeypatch.setitem(sys.modules, "slicer.i18n", i18n)
    monkeypatch.delitem(sys.modules, "slicer.packaging", raising=False)
    for name in [each for each in sys.modules if each.startswith("SemiSegModuleLib")]:
        monkeypatch.delitem(sys.modules, name)
    return fake


@pytest.fixture
def dependencies(slicer: Any) -> Any:
    return importlib.import_module("SemiSegModuleLib.dependencies")


@pytest.fixture
def installing(dependencies: Any) -> Any:
    return importlib.import_module("SemiSegModuleLib.installing")


def versions(**found: str) -> Any:
    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    return version


class Recorder:
    """An installer that remembers what it was told, and may fail."""

    def __init__(self, *, extension: bool = True, said: str = "", declined: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.constraints = ""
        self._extension, self._said, self._declined = extension, said, declined

    def testing(self) -> bool:
        return False

    def torch_extension_there(self) -> bool:
        return self._extension

    def install_torch(self, requirement: str, backend: str | None) -> bool:
        self.calls.append(("torch", requirement, backend))
        return not self._declined

    def install(self, arguments: Sequence[str], constraints: Path) -> None:
        self._remember("index", arguments, constraints)

    def install_wheels(self, arguments: Sequence[str], folder: Path, constraints: Path) -> None:
        self._remember(folder, arguments, constraints)

    def _remember(self, where: Any, arguments: Sequence[str], constraints: Path) -> None:
        self.calls.append((where, tuple(arguments)))
        self.constraints = constraints.read_text(encoding="utf-8")
        if self._said:
            print(self._said)  # noqa: T201  (Slicer prints what pip says)
            raise RuntimeError("pip failed")


NOTHING = versions(numpy="2.4.6", scipy="1.17.1", SimpleITK="2.5.5")


def test_installed_missing_and_old_packages_are_told_apart(dependencies: Any) -> None:
    found = dependencies.look(
        REQUIREMENTS, versions(torch="2.9.0+cu128", monai="0.9", numpy="2.4.6", scipy="1.0")
    )
    states = {each.name: each.state() for each in found}
    assert states["torch"] == "installed"
    assert states["monai"] == "to be replaced"
    assert states["safetensors"] == "missing"
    assert states["numpy"] == "part of Slicer"
    assert states["scipy"] == "too old: update Slicer"
    assert [each.needed for each in found if each.name == "torch"] == [">=2.2"]


def test_dicoms_packages_are_never_installed_and_may_be_missing(
    dependencies: Any, installing: Any
) -> None:
    found = dependencies.look(
        REQUIREMENTS, versions(numpy="2.0.2", scipy="1.13", SimpleITK="2.4", pydicom="2.4.4")
    )
    states = {each.name: each.state() for each in found}
    assert states["pydicom"] == states["highdicom"] == "DICOM needs Slicer 5.12"
    plan = dependencies.plan(found)
    assert not {"pydicom", "highdicom"} & {each.name for each in plan.requirements}
    assert "pydicom" not in dependencies.summary(found)


def test_reading_versions_imports_no_package(dependencies: Any) -> None:
    before = set(sys.modules)
    dependencies.look(REQUIREMENTS)
    names = {"torch", "monai", "safetensors", "rich"}
    assert not names & (set(sys.modules) - before)


def test_what_slicer_bundles_is_never_handed_to_pip(
    dependencies: Any, installing: Any, tmp_path: Path
) -> None:
    file = tmp_path / "requirements.txt"
    own = "numpy>=9\nsimpleitk\nSimpleITK>=9 # no\nTorch\nscipy\npydicom>=9\n"
    file.write_text(own + "monai>=1.4\n-r x\n\n", encoding="ascii")
    assert [str(each) for each in dependencies.read_requirements(file)] == ["monai>=1.4"]
    for wheels in (None, tmp_path):
        installer = Recorder()
        packages = dependencies.look(file, versions())
        installing.carry_out(dependencies.plan(packages, wheels=wheels), installer)
        handed = [line for call in installer.calls if call[0] != "torch" for line in call[1]]
        names = {canonicalize_name(Requirement(line).name) for line in handed}
        assert names == ({"monai"} if wheels is None else {"torch", "monai"})


def test_shipped_requirements_are_ranges_without_slicers_own_packages(dependencies: Any) -> None:
    lines = [Requirement(line) for line in REQUIREMENTS.read_text("ascii").splitlines()[1:]]
    assert len(dependencies.installable(lines)) == len(lines)
    assert all(str(each.specifier).startswith(">=") and not each.url for each in lines)


def test_shipped_requirements_are_those_of_the_package(dependencies: Any) -> None:
    import tomllib

    project = tomllib.loads((REQUIREMENTS.parents[1] / "pyproject.toml").read_text("utf-8"))
    of_package = {Requirement(line).name: line for line in project["project"]["dependencies"]}
    ours = [dependencies.TORCH, *dependencies.BUNDLED, *dependencies.FOR_DICOM]
    ours += [str(each) for each in dependencies.read_requirements(REQUIREMENTS)]
    assert {Requirement(line).name: line for line in ours} == of_package


def test_present_versions_are_pinned_so_that_nothing_replaces_them(
    dependencies: Any, installing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = versions(torch="2.4.1+cu121", numpy="2.4.6", scipy="1.17.1", SimpleITK="2.5.5")
    monkeypatch.setattr(installing, "pins", lambda: dependencies.pins(found))
    installer = Recorder()
    installing.carry_out(dependencies.plan(dependencies.look(REQUIREMENTS, found)), installer)
    assert installer.constraints.split() == [
        "numpy==2.4.6",
        "scipy==1.17.1",
        "SimpleITK==2.5.5",
        "torch==2.4.1+cu121",
    ]
    assert [call[0] for call in installer.calls] == ["index"]


def test_torch_comes_first_and_through_its_extension(dependencies: Any, installing: Any) -> None:
    packages = dependencies.look(REQUIREMENTS, NOTHING)
    installer = Recorder()
    installing.carry_out(dependencies.plan(packages, backend="cpu"), installer)
    assert installer.calls[0] == ("torch", ">=2.2", "cpu")
    assert "monai>=1.4" in installer.calls[1][1]
    assert not any(line.startswith("torch") for line in installer.calls[1][1])
    automatic = Recorder()
    installing.carry_out(dependencies.plan(packages), automatic)
    assert automatic.calls[0] == ("torch", ">=2.2", None)


def test_without_the_extension_nothing_is_installed(dependencies: Any, installing: Any) -> None:
    installer = Recorder(extension=False)
    with pytest.raises(installing.InstallationError, match="Extensions Manager"):
        installing.carry_out(dependencies.plan(dependencies.look(REQUIREMENTS, NOTHING)), installer)
    assert installer.calls == []


def test_declined_torch_leaves_everything_as_it_was(dependencies: Any, installing: Any) -> None:
    installer = Recorder(declined=True)
    with pytest.raises(installing.InstallationError, match="nothing else was changed"):
        installing.carry_out(dependencies.plan(dependencies.look(REQUIREMENTS, NOTHING)), installer)
    assert len(installer.calls) == 1


def test_nothing_missing_means_nothing_done(dependencies: Any, installing: Any) -> None:
    installer = Recorder(extension=False)
    installing.carry_out(dependencies.plan(()), installer)
    assert installer.calls == []


@pytest.mark.parametrize(
    ("settings", "platform", "gpu", "expected"),
    [
        ({}, "linux", True, ("NVIDIA GPU", "About 3 GB")),
        ({}, "win32", False, ("no NVIDIA driver", "About 230 MB")),
        ({"backend": "cpu"}, "linux", True, ("processor alone", "About 230 MB")),
        ({}, "darwin", False, ("macOS", "About 130 MB")),
        ({"wheels": Path("/stick/räder 1")}, "linux", True, ("in the folder", "/stick/räder 1")),
    ],
)
def test_the_question_says_what_how_large_and_from_where(
    dependencies: Any,
    settings: dict[str, Any],
    platform: str,
    gpu: bool,
    expected: tuple[str, ...],
) -> None:
    plan = dependencies.plan(dependencies.look(REQUIREMENTS, NOTHING), **settings)
    text = dependencies.announce(plan, platform=platform, gpu=gpu)
    for part in (*expected, "torch>=2.2", "monai>=1.4", "What Slicer brings itself"):
        assert part in text


def test_only_the_small_packages_are_small(dependencies: Any) -> None:
    found = versions(torch="2.9", numpy="2.4.6", scipy="1.17.1", SimpleITK="2.5.5")
    plan = dependencies.plan(dependencies.look(REQUIREMENTS, found))
    assert "About 30 MB" in dependencies.announce(plan, platform="linux", gpu=True)


def test_the_summary_says_what_to_do(dependencies: Any) -> None:
    assert "Press Install" in dependencies.summary(dependencies.look(REQUIREMENTS, NOTHING))
    assert dependencies.summary(()) == "Everything that the engine needs is installed."
    old = dependencies.look(REQUIREMENTS, versions(numpy="1.0", scipy="1.17.1", SimpleITK="2.5"))
    assert dependencies.summary(old).startswith("numpy, a part of Slicer")
    assert "3.9" in dependencies.python_problem((3, 9))
    assert dependencies.python_problem((3, 12)) == ""


WHEELS = Path("/stick/räder 1")


@pytest.mark.parametrize(
    ("said", "wheels", "expected"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", None, "disk is full"),
        ("ERROR: [WinError 32] The process cannot access the file", None, "restart Slicer"),
        ("ERROR: [Errno 13] Permission denied: '/opt/Slicer'", None, "cannot be written"),
        (
            "WARNING: Retrying after ... ProxyError('Cannot connect', 407 Proxy)\n"
            "ERROR: No matching distribution found for monai>=1.4",
            None,
            "HTTPS_PROXY",
        ),
        ("SSLError(SSLCertVerificationError(CERTIFICATE_VERIFY_FAILED))", None, "certificate"),
        (
            "WARNING: NewConnectionError: Temporary failure in name resolution\n"
            "ERROR: No matching distribution found for monai>=1.4",
            None,
            "network could not be reached",
        ),
        ("ERROR: No matching distribution found for monai>=1.4", None, "Slicer 5.10"),
        ("ERROR: No matching distribution found for monai>=1.4", WHEELS, "is not in /stick/räder"),
        ("ERROR: Package 'monai' requires a different Python: 3.9", None, "There is no package"),
        ("ERROR: ResolutionImpossible: for help visit", None, "do not go together"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", None, "arrived damaged"),
        ("ERROR: something new", None, "The installation failed."),
    ],
)
def test_a_failure_names_its_cause_pips_reason_and_what_to_do(
    dependencies: Any, installing: Any, said: str, wheels: Path | None, expected: str
) -> None:
    packages = dependencies.look(REQUIREMENTS, NOTHING)
    installer = Recorder(said=said)
    with pytest.raises(installing.InstallationError) as failure:
        installing.carry_out(dependencies.plan(packages, wheels=wheels), installer)
    assert expected in str(failure.value)
    assert said.splitlines()[-1] in str(failure.value)


def test_what_pip_says_still_reaches_the_console(
    dependencies: Any, installing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = dependencies.plan(dependencies.look(REQUIREMENTS, NOTHING))
    with pytest.raises(installing.InstallationError):
        installing.carry_out(plan, Recorder(said="ERROR: no"))
    assert "ERROR: no" in capsys.readouterr().out


def test_newer_slicers_install_by_their_packaging_module(
    slicer: Any, installing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    packaging: Any = ModuleType("slicer.packaging")
    packaging.pip_ensure = lambda lines, **settings: calls.append((lines, settings))
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    installing.SlicerInstaller().install(["monai>=1.4"], Path("/t m/c.txt"))
    settings = {"constraints": "/t m/c.txt", "prompt_install": False, "requester": "SemiSeg"}
    assert calls == [(["monai>=1.4"], settings)]


def test_older_slicers_install_by_their_utilities(slicer: Any, installing: Any) -> None:
    calls: list[list[str]] = []
    slicer.util.pip_install = calls.append
    installing.SlicerInstaller().install(["monai>=1.4"], Path("/t m/c.txt"))
    assert calls == [["--only-binary=:all:", "-c", "/t m/c.txt", "monai>=1.4"]]


def test_a_folder_of_wheels_with_spaces_and_umlauts_is_one_argument(
    slicer: Any, installing: Any
) -> None:
    calls: list[list[str]] = []
    slicer.util.pip_install = calls.append
    installing.SlicerInstaller().install_wheels(["monai>=1.4"], WHEELS, Path("c.txt"))
    assert calls[0][:3] == ["--no-index", "--find-links", "/stick/räder 1"]


def test_torch_is_asked_of_the_extension_in_its_own_words(
    installing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    class Logic:
        def installTorch(self, **settings: Any) -> object:  # noqa: N802  (the extension's name)
            calls.append(settings)
            return None if settings["forceComputationBackend"] else object()

    extension: Any = ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = Logic
    installer = installing.SlicerInstaller()
    assert not installer.torch_extension_there()
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    assert installer.torch_extension_there()
    assert installer.install_torch(">=2.2", None)
    assert not installer.install_torch(">=2.2", "cpu")
    assert calls[0] == {
        "askConfirmation": False,
        "forceComputationBackend": None,
        "torchVersionRequirement": ">=2.2",
    }


def test_under_testing_slicers_python_is_left_alone(
    slicer: Any, dependencies: Any, installing: Any
) -> None:
    slicer.app = SimpleNamespace(testingEnabled=lambda: True)
    plan = dependencies.plan(dependencies.look(REQUIREMENTS, NOTHING))
    with pytest.raises(installing.InstallationError, match="--testing"):
        installing.carry_out(plan, installing.SlicerInstaller())


def wheel(folder: Path, name: str) -> None:
    """A package without content, as a wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.5.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.5-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def real_pip(target: Path) -> Any:
    """`slicer.util.pip_install` as Slicer does it, into `target` instead of Slicer's Python."""

    def pip_install(arguments: list[str]) -> None:
        command = [sys.executable, "-m", "pip", "install", "--target", str(target), *arguments]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        print(done.stdout)  # noqa: T201  (so does Slicer)
        done.check_returncode()

    return pip_install


def test_real_pip_installs_from_a_folder_with_spaces_and_umlauts(
    slicer: Any, dependencies: Any, installing: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "Räder für OP 1"
    wheel(folder, "semiseg_probe_one")
    slicer.util.pip_install = real_pip(tmp_path / "site")
    requirement = Requirement("semiseg_probe_one>=1.0")
    plan = dependencies.Plan(torch=None, requirements=(requirement,), wheels=folder)
    installing.carry_out(plan, installing.SlicerInstaller())
    assert (tmp_path / "site" / "semiseg_probe_one.py").is_file()
    missing = Requirement("semiseg_probe_two>=1.0")
    plan = dependencies.Plan(torch=None, requirements=(missing,), wheels=folder)
    with pytest.raises(installing.InstallationError) as failure:
        installing.carry_out(plan, installing.SlicerInstaller())
    assert f"is not in {folder}" in str(failure.value)
    assert "No matching distribution found for semiseg_probe_two" in str(failure.value)


def test_real_pip_refuses_to_replace_what_is_pinned(
    slicer: Any, dependencies: Any, installing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "wheels", "semiseg_probe_one")
    slicer.util.pip_install = real_pip(tmp_path / "site")
    monkeypatch.setattr(installing, "pins", lambda: ("semiseg_probe_one==1.4",))
    requirement = Requirement("semiseg_probe_one>=1.0")
    plan = dependencies.Plan(torch=None, requirements=(requirement,), wheels=tmp_path / "wheels")
    with pytest.raises(installing.InstallationError):
        installing.carry_out(plan, installing.SlicerInstaller())
    assert not (tmp_path / "site" / "semiseg_probe_one.py").exists()
