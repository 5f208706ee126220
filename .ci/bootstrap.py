"""Make `.venv` with all that the project needs; safe to run again, prints what it does.

Needs a stock Python 3.11 or 3.12 and nothing else. The CPU build of torch is installed where no
NVIDIA GPU answers, because the default Linux build brings gigabytes of CUDA libraries.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "semiseg-bootstrap.sha256"
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
SUPPORTED = ((3, 11), (3, 12))


def main() -> int:
    """Bring `.venv` up to date; 0 when it is ready."""
    if sys.version_info[:2] not in SUPPORTED:
        say(f"Python 3.11 or 3.12 is needed, this is {platform.python_version()}; install one.")
        return 1
    digest = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == digest and runs(PYTHON, "-c", "import semiseg"):
        return 0
    make_environment()
    install_torch()
    say("Installing SemiSeg and the packages it is tested with ...")
    if not pip("install", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[dev]"):
        say(
            "The packages could not be installed; pip's message above says why. Nothing else "
            "was changed: mend the cause (network, proxy, disk) and run the same command again."
        )
        return 1
    STAMP.write_text(digest)
    say("The environment is ready.")
    return 0


def say(text: str) -> None:
    print(f"[semiseg] {text}", flush=True)  # noqa: T201


def fingerprint() -> str:
    """Changes when the needed packages or the interpreter change."""
    parts = [ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)]
    content = b"".join(part.read_bytes() for part in parts) + sys.version.encode()
    return hashlib.sha256(content).hexdigest()


def make_environment() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        say(
            "This Python cannot make virtual environments (Debian and Ubuntu: install the "
            "package python3-venv), then run the same command again."
        )
        raise SystemExit(1)
    if VENV.exists() and not runs(PYTHON, "-c", "import sys, pip"):
        say("Removing an unfinished .venv ...")
        shutil.rmtree(VENV)
    if not VENV.exists():
        say(f"Making a virtual environment in .venv with Python {platform.python_version()} ...")
        venv.create(VENV, with_pip=True)


def install_torch() -> None:
    """The pinned torch: CUDA build where a GPU answers, else the CPU build."""
    wanted = next(
        line.strip() for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")
    )
    if runs(PYTHON, "-c", f"import torch; assert torch.__version__.startswith('{wanted[7:]}')"):
        return
    has_gpu = shutil.which("nvidia-smi") is not None and runs(Path("nvidia-smi"))
    if has_gpu or platform.system() != "Linux":
        say(f"Installing {wanted} ...")
        done = pip("install", wanted)
    else:
        say(f"No NVIDIA GPU answers: installing the CPU build of {wanted} (about 200 MB) ...")
        done = install_cpu_torch(wanted)
    if not done:
        say("PyTorch could not be installed; the messages above say why.")
        raise SystemExit(1)


def install_cpu_torch(wanted: str) -> bool:
    """From the configured index if it has the CPU build, else from PyTorch's own index by uv."""
    if pip("install", "--quiet", f"{wanted}+cpu", quiet_errors=True):
        return True
    uv = [PYTHON, "-m", "uv", "pip", "install", "--python", str(PYTHON)]
    if pip("install", "--quiet", "uv") and runs(
        uv[0], *map(str, uv[1:]), "--torch-backend=cpu", wanted, show=True
    ):
        return True
    say("The CPU build cannot be reached; installing the default build (several gigabytes) ...")
    return pip("install", wanted)


def pip(*arguments: str, quiet_errors: bool = False) -> bool:
    command = ("-m", "pip", "--disable-pip-version-check", *arguments)
    return runs(PYTHON, *command, show=not quiet_errors)


def runs(program: Path, *arguments: str, show: bool = False) -> bool:
    """Whether the command ends with 0; its output is hidden unless `show`."""
    sink = None if show else subprocess.DEVNULL
    try:
        return (
            subprocess.run([program, *arguments], check=False, stdout=sink, stderr=sink).returncode
            == 0
        )
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
