"""How much an installation downloads for this system and Python: the sizes said in the panel.

Fetches the wheels into a temporary folder (about 3 GB with the GPU's build of torch) and removes
them. `python Testing/benchmarks/download_sizes.py [--index-url URL] [--out FILE.json]`
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH_PARTS = ("torch", "triton", "nvidia_", "cuda_")
BUNDLED = ("numpy", "scipy", "simpleitk")


def fetch(folder: Path, options: list[str]) -> None:
    """Download torch and the requirements with all they need into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", *options]
    requirements = ["-r", str(ROOT / "Resources" / "requirements.txt"), "torch>=2.2"]
    subprocess.run([*command, "-d", str(folder), *requirements], check=True)


def group(name: str) -> str:
    """To which line of the table a wheel belongs."""
    if name.lower().startswith(BUNDLED):
        return "part of Slicer"
    return "torch and its libraries" if name.lower().startswith(TORCH_PARTS) else "the rest"


def main() -> None:
    """Print a Markdown table; write JSON with `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index-url", help="e.g. that of the CPU builds of torch")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    options = ["--extra-index-url", arguments.index_url] if arguments.index_url else []
    totals: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        fetch(Path(folder), options)
        wheels = sorted(Path(folder).glob("*.whl"))
        for wheel in wheels:
            totals[group(wheel.name)] = totals.get(group(wheel.name), 0) + wheel.stat().st_size
        torch = next(wheel.name for wheel in wheels if wheel.name.startswith("torch-"))
    settings = {"system": platform.platform(), "python": platform.python_version(), "torch": torch}
    if arguments.out:
        arguments.out.write_text(json.dumps({"settings": settings, "rows": totals}, indent=1))
    print(f"{settings}\n\n| packages | MB |\n|---|---|")
    for name, size in sorted(totals.items()):
        print(f"| {name} | {size / 1e6:.0f} |")


if __name__ == "__main__":
    main()
