"""Carry out a plan of installation by Slicer's own means, and say in words why one failed."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol, TextIO

import slicer
from slicer.i18n import tr as _

from semiseg.errors import SemiSegError
from SemiSegModuleLib.dependencies import Plan, pins

REQUESTER = "SemiSeg"
_KEPT_CHARACTERS = 100_000


class InstallationError(SemiSegError):
    """Something could not be installed; the sentence has pip's reason and what to do."""


class Installer(Protocol):
    """What really changes Slicer's Python; tests hand in one that only remembers."""

    def testing(self) -> bool: ...
    def torch_extension_there(self) -> bool: ...
    def install_torch(self, requirement: str, backend: str | None) -> bool: ...
    def install(self, arguments: Sequence[str], constraints: Path) -> None: ...
    def install_wheels(self, arguments: Sequence[str], folder: Path, constraints: Path) -> None: ...


class SlicerInstaller:
    """By the PyTorch extension, `slicer.packaging` (5.12 on) and `slicer.util.pip_install`.

    Every method blocks and must be called on the main thread.
    """

    def testing(self) -> bool:
        """Whether Slicer runs with --testing, where its Python must not be changed."""
        return bool(slicer.app.testingEnabled())

    def torch_extension_there(self) -> bool:
        """Whether Slicer's PyTorch extension is installed."""
        return _module("PyTorchUtils") is not None

    def install_torch(self, requirement: str, backend: str | None) -> bool:
        """Install torch in the range `requirement` (">=2.2"); False when the user declined.

        The extension itself imports torch at the end, to see that it works.
        """
        extension = importlib.import_module("PyTorchUtils")
        torch = extension.PyTorchUtilsLogic().installTorch(
            askConfirmation=False,
            forceComputationBackend=backend,
            torchVersionRequirement=requirement,
        )
        return torch is not None

    def install(self, arguments: Sequence[str], constraints: Path) -> None:
        """Install from the package index; what `constraints` pins is not touched."""
        packaging = _module("slicer.packaging")
        if packaging is None:  # Slicer 5.10
            slicer.util.pip_install(_options(arguments, constraints))
            return
        packaging.pip_ensure(
            list(arguments),
            constraints=str(constraints),
            prompt_install=False,  # the panel asked, with the sizes
            requester=REQUESTER,
        )

    def install_wheels(self, arguments: Sequence[str], folder: Path, constraints: Path) -> None:
        """Install from the wheels in `folder` alone; a list needs no quoting of its path."""
        options = _options(arguments, constraints)
        slicer.util.pip_install(["--no-index", "--find-links", str(folder), *options])


def _module(name: str) -> ModuleType | None:
    """The module `name`; None when it is not there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _options(arguments: Sequence[str], constraints: Path) -> list[str]:
    return ["--only-binary=:all:", "-c", str(constraints), *arguments]


def carry_out(plan: Plan, installer: Installer) -> None:
    """Do what `plan` says; InstallationError with the reason when a step fails.

    torch comes first: other packages would fetch a build that does not fit the GPU.
    """
    if plan.empty:
        return
    if installer.testing():
        raise InstallationError(
            _("Slicer runs with --testing, so nothing was installed; start it without.")
        )
    online_torch = plan.torch is not None and plan.wheels is None
    if online_torch and not installer.torch_extension_there():
        raise InstallationError(no_extension())
    with _told(plan):
        if online_torch and plan.torch is not None:
            backend = None if plan.torch_backend == "automatic" else plan.torch_backend
            if not installer.install_torch(str(plan.torch.specifier), backend):
                raise InstallationError(_("PyTorch was not installed; nothing else was changed."))
        if plan.arguments:
            _install_rest(plan, installer)


def _install_rest(plan: Plan, installer: Installer) -> None:
    with tempfile.TemporaryDirectory(prefix="semiseg-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(pins()) + "\n", encoding="utf-8")
        if plan.wheels is not None:
            installer.install_wheels(plan.arguments, plan.wheels, constraints)
        else:
            installer.install(plan.arguments, constraints)


def no_extension() -> str:
    """What to do when the PyTorch extension is missing."""
    return _(
        "PyTorch is installed through Slicer's PyTorch extension, which is not there. Install "
        "“PyTorch” in the Extensions Manager (menu View), restart Slicer, and press Install again; "
        "or choose a folder of wheels."
    )


@contextlib.contextmanager
def _told(plan: Plan) -> Iterator[None]:
    """Turn any failure inside into a sentence, by what pip printed meanwhile."""
    heard = _Tee(sys.stdout)
    try:
        with contextlib.redirect_stdout(heard):
            yield
    except InstallationError:
        raise
    except Exception as error:  # pip, the network and another extension fail in any way
        logging.exception("Installation failed")
        raise InstallationError(explain(f"{heard.text}\n{error}", plan)) from error


class _Tee:
    """Writes on to Slicer's console and keeps the end; Slicer prints what pip says."""

    def __init__(self, console: TextIO | None) -> None:
        self._console = console
        self.text = ""

    def write(self, text: str) -> int:
        self.text = (self.text + text)[-_KEPT_CHARACTERS:]
        if self._console is not None:
            self._console.write(text)
        return len(text)

    def flush(self) -> None:
        if self._console is not None:
            self._console.flush()

    def isatty(self) -> bool:
        return False


def explain(said: str, plan: Plan) -> str:
    """Cause, pip's own reason, and what to do; `said` is all that was printed."""
    lowered = said.lower()
    for signs, sentence in _causes(plan):
        if any(sign in lowered for sign in signs):
            return f"{sentence} {_reason(said)}"
    return f"{_('The installation failed.')} {_reason(said)}"


def _reason(said: str) -> str:
    """pip's last error line, as it stands."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    last = (errors or lines or [_("no reason was given")])[-1]
    return _("pip said: {reason}").format(reason=last[:400])


def _causes(plan: Plan) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Signs in what pip prints, and the sentence for each; the first that fits is the cause.

    A missing network shows as "no matching distribution" too, so it is looked for earlier.
    """
    return (*_disk_causes(), *_network_causes(), *_package_causes(plan))


def _disk_causes() -> tuple[tuple[tuple[str, ...], str], ...]:
    return (
        (
            ("no space left", "errno 28", "winerror 112", "not enough space"),
            _("The disk is full; make space and press Install again."),
        ),
        (
            ("winerror 32", "being used by another process", "winerror 5]"),
            _("A file is in use; restart Slicer and press Install before anything else."),
        ),
        (
            ("permission denied", "errno 13", "access is denied"),
            _(
                "Slicer's folder cannot be written; start Slicer as a user who may, or install "
                "Slicer into a folder of your own."
            ),
        ),
    )


def _network_causes() -> tuple[tuple[tuple[str, ...], str], ...]:
    return (
        (
            ("proxyerror", "407 proxy", "tunnel connection failed", "proxy authentication"),
            _(
                "The proxy refused the connection; set HTTPS_PROXY for Slicer as your network "
                "demands it, or choose a folder of wheels."
            ),
        ),
        (
            ("certificate_verify_failed", "sslerror", "ssl: "),
            _(
                "The server's certificate was not accepted, as happens behind an inspecting proxy; "
                "ask your network's people for its certificate (pip's option cert), or choose a "
                "folder of wheels."
            ),
        ),
        (
            (
                "newconnectionerror",
                "name resolution",
                "getaddrinfo",
                "name or service not known",
                "network is unreachable",
                "connection refused",
                "connection reset",
                "readtimeouterror",
                "connecttimeout",
                "timed out",
                "remote end closed",
                "urlopen error",
            ),
            _(
                "The network could not be reached; check the connection and press Install again, "
                "or choose a folder of wheels."
            ),
        ),
    )


def _package_causes(plan: Plan) -> tuple[tuple[tuple[str, ...], str], ...]:
    found = ".".join(map(str, sys.version_info[:2]))
    if plan.wheels is not None:
        none = _(
            "A package that is needed is not in {folder}, or not for Python {version} on this "
            "system; fetch the wheels with the same Python and system, and choose that folder."
        ).format(folder=plan.wheels, version=found)
    else:
        none = _(
            "There is no package for Python {version} on this system; install Slicer 5.10 or newer."
        ).format(version=found)
    return (
        (
            ("resolutionimpossible", "conflicting dependencies", "cannot install"),
            _(
                "Packages that other extensions installed do not go together with these; remove "
                "the one that is named, and press Install again."
            ),
        ),
        (
            ("do not match the hashes", "badzipfile", "not a valid wheel", "is invalid"),
            _("A package arrived damaged; press Install again."),
        ),
        (("requires-python", "requires a different python", "no matching distribution"), none),
    )
