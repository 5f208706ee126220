"""Peak memory and time of segmenting large volumes; each case runs in a process of its own.

    python Testing/benchmarks/memory.py --out memory.json [--quick] [--network conv|unet]

The volume is synthetic. "beyond" is the peak resident memory of the whole process (Python and
torch included) less the volume itself; issue and README promise at most 4 GB of it for
512 x 512 x 600 voxels and 10 structures.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

LIMIT_GB = 4.0
N_STRUCTURES = 10
CASES = {
    "256x256x150": ((256, 256, 150), (1.5, 1.5, 2.0), 2.0),
    "512x512x600": ((512, 512, 600), (0.75, 0.75, 1.0), 2.0),
    "512x512x600 fine": ((512, 512, 600), (0.75, 0.75, 1.0), 1.0),
    "512x512x600 own": ((512, 512, 600), (0.75, 0.75, 1.0), 0.75),
}
QUICK = ("256x256x150",)


def main() -> None:
    """Measure, write JSON, print a table."""
    options = _options()
    if options.child:
        print(json.dumps(_measure(options.child, options.network, options.overlap)))
        return
    names = QUICK if options.quick else tuple(options.cases.split(",") if options.cases else CASES)
    rows = [_in_child(name, options) for name in names]
    settings = {
        "network": options.network,
        "overlap": options.overlap,
        "structures": N_STRUCTURES,
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} threads",
        "python": platform.python_version(),
    }
    if options.out:
        options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))
    _print_table(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="only the small volume")
    parser.add_argument("--cases", help=f"comma-separated, of: {', '.join(CASES)}")
    parser.add_argument("--network", choices=("conv", "unet"), default="unet")
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--threads", type=int, help="threads of torch, by default all usable")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_child(name: str, options: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, __file__, "--child", name, "--network", options.network]
    command += ["--overlap", str(options.overlap)]
    if options.threads:
        command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed ({done.returncode}): {done.stderr[-2000:]}")
    row: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return row


def _measure(name: str, network: str, overlap: float) -> dict[str, object]:
    import torch

    from semiseg.config import PredictConfig
    from semiseg.inference import memory_needed, predict_image

    threads = _options().threads
    if threads:
        torch.set_num_threads(threads)
    size, spacing, training_mm = CASES[name]
    image = _volume(size, spacing)
    model = _model(network, training_mm)
    before = psutil.Process().memory_info().rss
    cpu_before = time.process_time()
    with _Peak() as peak:
        result = predict_image(model, image, "CT", PredictConfig(device="cpu", overlap=overlap))
    volume = image.array.nbytes
    return {
        "case": name,
        "training_mm": training_mm,
        "window": "x".join(map(str, result.window_zyx)),
        "threads": torch.get_num_threads(),
        "volume_gb": round(volume / 1e9, 3),
        "before_gb": round(before / 1e9, 3),
        "peak_gb": round(peak.bytes / 1e9, 3),
        "beyond_gb": round((peak.bytes - volume) / 1e9, 3),
        "announced_gb": round(memory_needed(model, image.grid) / 1e9, 3),
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu_before, 1),
        "passed": (peak.bytes - volume) / 1e9 <= LIMIT_GB,
    }


def _volume(size_xyz: tuple[int, int, int], spacing_mm: tuple[float, float, float]):
    from semiseg.images.grid import Grid
    from semiseg.images.reading import Image

    rng = np.random.default_rng(0)
    grid = Grid(size_xyz=size_xyz, spacing_mm_xyz=spacing_mm)
    array = np.empty(grid.shape_zyx, dtype=np.float32)
    for plane in array:
        plane[:] = rng.normal(0, 100, plane.shape)
    return Image(array=array, grid=grid)


def _model(network: str, training_mm: float):
    import torch

    from semiseg.inference import Model
    from semiseg.networks import NetworkSpec, build_network

    torch.manual_seed(0)
    n_classes = N_STRUCTURES + 1
    if network == "unet":
        net = build_network(NetworkSpec(n_classes=n_classes))
    else:
        net = torch.nn.Conv3d(1, n_classes, 1)
    return Model(
        name=network,
        network=net,
        classes=tuple(range(n_classes)),
        names=dict.fromkeys(range(1, n_classes), "liver"),
        spacing_mm_zyx=(training_mm,) * 3,
        window_zyx=(96, 96, 96),
        multiple_zyx=(8, 8, 8),
        device=torch.device("cpu"),
    )


class _Peak:
    """The largest resident memory of this process, looked at every 10 ms."""

    def __enter__(self) -> _Peak:
        self.bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._end.is_set():
            self.bytes = max(self.bytes, process.memory_info().rss)
            time.sleep(0.01)


def _print_table(rows: list[dict[str, object]]) -> None:
    names = ["case", "training_mm", "window", "threads", "volume_gb", "peak_gb", "beyond_gb"]
    names += ["announced_gb", "seconds", "cpu_seconds", "passed"]
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in names) + " |")


if __name__ == "__main__":
    main()
