"""What the engine needs of Slicer's Python, what is there, and what an installation would fetch.

Versions are read from the packages' metadata; no package is imported.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from slicer.i18n import tr as _

Backend = Literal["automatic", "cpu"]
Version = Callable[[str], str]

TORCH = "torch>=2.2"
# Slicer's own: shown, kept as they are, never installed.
BUNDLED = ("numpy>=1.26", "scipy>=1.11", "SimpleITK>=2.3")
# Slicer's own from 5.12 on; without them all but DICOM files works.
FOR_DICOM = ("pydicom>=3", "highdicom>=0.27")
_KEPT = (*BUNDLED, *FOR_DICOM, TORCH)
PYTHON = (3, 11)
# Megabytes of the wheels for Linux, with what they need (Resources/Docs/packaging.md).
TORCH_CPU_MB = 200
TORCH_CUDA_MB = 3000
TORCH_MAC_MB = 100
OTHERS_MB = 30


@dataclass(frozen=True, kw_only=True)
class Package:
    """One distribution: the range that is needed and the version that was found (None: missing)."""

    requirement: Requirement
    found: str | None
    bundled: bool = False
    optional: bool = False

    @property
    def name(self) -> str:
        """As its requirement spells it."""
        return self.requirement.name

    @property
    def needed(self) -> str:
        """The range, e.g. ">=1.4"."""
        return str(self.requirement.specifier)

    @property
    def satisfied(self) -> bool:
        """Whether the version found is in the range; pre-releases count."""
        return self.found is not None and self.requirement.specifier.contains(
            self.found, prereleases=True
        )

    def state(self) -> str:
        """In words."""
        if self.satisfied:
            return _("part of Slicer") if self.bundled else _("installed")
        if self.optional:
            return _("DICOM needs Slicer 5.12")
        if self.bundled:
            return _("too old: update Slicer")
        return _("missing") if self.found is None else _("to be replaced")


def read_requirements(path: Path) -> tuple[Requirement, ...]:
    """The requirements in `path`, one per line, without what Slicer bundles and without torch."""
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return tuple(installable(Requirement(line) for line in lines if line and line[0] != "-"))


def installable(requirements: Iterable[Requirement]) -> list[Requirement]:
    """`requirements` without those that must never be handed to pip: Slicer's own, and torch."""
    kept = {canonicalize_name(Requirement(line).name) for line in _KEPT}
    return [each for each in requirements if canonicalize_name(each.name) not in kept]


def look(path: Path, version: Version = metadata.version) -> tuple[Package, ...]:
    """The packages that the engine needs: torch, those of the file `path`, and Slicer's own."""
    importlib.invalidate_caches()
    needed = (Requirement(TORCH), *read_requirements(path))
    return (
        *(Package(requirement=each, found=_found(each.name, version)) for each in needed),
        *(_own(line, version) for line in BUNDLED),
        *(_own(line, version, optional=True) for line in FOR_DICOM),
    )


def _own(line: str, version: Version, *, optional: bool = False) -> Package:
    """A package that is Slicer's own."""
    each = Requirement(line)
    return Package(
        requirement=each, found=_found(each.name, version), bundled=True, optional=optional
    )


def _found(name: str, version: Version) -> str | None:
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        return None


def pins(version: Version = metadata.version) -> tuple[str, ...]:
    """Lines for a constraints file: what must stay as it is while other packages are installed."""
    names = [Requirement(line).name for line in _KEPT]
    found = {name: _found(name, version) for name in names}
    return tuple(f"{name}=={each}" for name, each in found.items() if each is not None)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one installation does: torch if `torch`, then `requirements`; all from `wheels` if set.

    `torch_backend` "automatic" takes the build that fits the GPU's driver.
    """

    torch: Requirement | None
    requirements: tuple[Requirement, ...]
    torch_backend: Backend = "automatic"
    wheels: Path | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is missing."""
        return self.torch is None and not self.requirements

    @property
    def arguments(self) -> tuple[str, ...]:
        """One argument for pip per requirement, torch's among them when it comes from a folder."""
        names = [str(each) for each in self.requirements]
        if self.torch is not None and self.wheels is not None:
            names.insert(0, str(self.torch))
        return tuple(names)


def plan(
    packages: Sequence[Package], *, backend: Backend = "automatic", wheels: Path | None = None
) -> Plan:
    """What is missing of `packages`, as one installation."""
    missing = [each.requirement for each in packages if not each.satisfied and not each.bundled]
    torch = next((each for each in missing if each.name == "torch"), None)
    return Plan(
        torch=torch,
        requirements=tuple(installable(missing)),
        torch_backend=backend,
        wheels=wheels,
    )


def nvidia_driver_there() -> bool:
    """Whether the NVIDIA driver's tool is on the path; the PyTorch extension asks the driver."""
    return shutil.which("nvidia-smi") is not None


def announce(plan: Plan, *, platform: str = sys.platform, gpu: bool | None = None) -> str:
    """What the user is asked before anything is done: packages, ranges, source and size."""
    gpu = nvidia_driver_there() if gpu is None else gpu
    lines = [_("This will be installed into Slicer's Python:"), ""]
    megabytes = 0
    if plan.torch is not None:
        build, megabytes = _torch_build(plan, platform, gpu)
        lines.append(f"- {plan.torch}  ({build})")
    if plan.requirements:
        megabytes += OTHERS_MB
        lines += [f"- {each}" for each in plan.requirements]
    lines += ["", _source(plan, megabytes), ""]
    lines.append(
        _(
            "What Slicer brings itself (numpy, SimpleITK ...) stays as it is. Slicer does not "
            "react until it is done; with PyTorch this takes some minutes."
        )
    )
    return "\n".join(lines)


def _torch_build(plan: Plan, platform: str, gpu: bool) -> tuple[str, int]:
    """Which build of torch, in words, and its megabytes with what it needs."""
    if plan.wheels is not None:
        return _("the build in the folder"), 0
    if platform == "darwin":
        return _("the build for macOS"), TORCH_MAC_MB
    if plan.torch_backend == "cpu":
        return _("the build for the processor alone, through the PyTorch extension"), TORCH_CPU_MB
    if gpu:
        return (
            _("the build for the NVIDIA GPU's driver, through the PyTorch extension"),
            TORCH_CUDA_MB,
        )
    return _("no NVIDIA driver found: the build for the processor"), TORCH_CPU_MB


def _source(plan: Plan, megabytes: int) -> str:
    if plan.wheels is not None:
        return _("Nothing is downloaded; all comes from {folder}.").format(folder=plan.wheels)
    size = f"{megabytes / 1000:.0f} GB" if megabytes >= 1000 else f"{megabytes} MB"
    return _(
        "About {size} are downloaded (the size of the packages for Linux in November 2026; other "
        "systems and versions differ), and up to five times as much is needed on the disk."
    ).format(size=size)


def python_problem(version: tuple[int, int] = sys.version_info[:2]) -> str:
    """Why this Slicer's Python cannot run the engine; "" when it can."""
    if version >= PYTHON:
        return ""
    found, needed = (".".join(map(str, each)) for each in (version, PYTHON))
    return _(
        "This Slicer's Python is {found}, and SemiSeg needs {needed} or newer; install Slicer 5.10 "
        "or newer."
    ).format(found=found, needed=needed)


def summary(packages: Sequence[Package]) -> str:
    """In one sentence: ready, or what is missing."""
    problem = python_problem()
    if problem:
        return problem
    lacking = [each for each in packages if not each.satisfied and not each.optional]
    missing = [each.name for each in lacking if not each.bundled]
    old = [each.name for each in lacking if each.bundled]
    if old:
        return _(
            "{names}, a part of Slicer, is missing or too old for SemiSeg; update Slicer."
        ).format(names=", ".join(old))
    if missing:
        return _("Missing or too old: {names}. Press Install.").format(names=", ".join(missing))
    return _("Everything that the engine needs is installed.")
