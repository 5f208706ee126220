"""What this machine can do, measured: `semiseg doctor` and the estimates before a run.

Importing this module is cheap; torch is loaded by the functions that need it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from semiseg.errors import StorageError
from semiseg.events import Emit, Json, Progress, ignore
from semiseg.resources import usable_memory, usable_threads

if TYPE_CHECKING:
    import torch

PACKAGES = ("semiseg", "torch", "monai", "SimpleITK", "numpy", "scipy", "safetensors")
CT_SHAPE_ZYX = (300, 512, 512)
CT_SPACING_MM_ZYX = (1.5, 0.75, 0.75)
N_CLASSES = 11
TRAINING_MM = 2.0
WINDOW = 64
BATCH = 2
_LEAST_MEMORY = 6 * 2**30
_LEAST_DISK = 2 * 2**30
_REPEAT_S = 0.5
_NESTED = ("gpu", "versions", "trial", "speeds")
_GFLOP = 1e9


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as the driver describes it; `trouble` says why it cannot be used."""

    name: str
    memory_bytes: int
    free_bytes: int
    driver: str | None
    trouble: str | None

    def summary(self) -> str:
        """In one line."""
        state = self.trouble or f"works, {_gib(self.free_bytes)} of {_gib(self.memory_bytes)} free"
        driver = f" (driver {self.driver})" if self.driver else ""
        return f"{self.name}{driver}: {state}"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured on `device`, with the network of the default size.

    `train_steps_per_minute`: steps of `BATCH` patches of `WINDOW`^3 voxels. `ct_seconds`: a CT of
    512 x 512 x 300 voxels with 10 structures, half-overlapping windows, without reading it.
    """

    device: str
    conv_gflops: float
    train_steps_per_minute: float
    ct_seconds: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The device that device "auto" works on, and how long a small convolution took on it."""

    device: str
    name: str
    milliseconds: float

    def summary(self) -> str:
        """In one line."""
        return f"{self.name} ({self.device}): ran a test kernel in {self.milliseconds:.1f} ms"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine as this process may use it; `problems` are sentences for the user."""

    system: str
    cpu: str
    physical_cores: int
    logical_cores: int
    usable_threads: int
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    gpu: Gpu | None
    versions: Mapping[str, str]
    trial: Trial
    speeds: tuple[Speed, ...]
    problems: tuple[str, ...]

    def summary(self) -> dict[str, str]:
        """What a person reads, by its heading."""
        found = {
            "System": self.system,
            "Processor": f"{self.cpu}: {self.physical_cores} cores, {self.usable_threads} usable",
            "Memory": f"{_gib(self.memory_bytes)}, {_gib(self.free_memory_bytes)} free",
            "Disk": f"{_gib(self.free_disk_bytes)} free",
            "GPU": "none" if self.gpu is None else self.gpu.summary(),
            "Device in use": self.trial.summary(),
            "Versions": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        }
        for speed in self.speeds:
            found[f"Speed on {speed.device}"] = (
                f"{speed.conv_gflops:.0f} GFLOP/s in 3-D convolution, "
                f"{speed.train_steps_per_minute:.0f} training steps/min, "
                f"{speed.ct_seconds:.0f} s to segment a CT of 512 x 512 x 300"
            )
        found["Problems"] = " ".join(self.problems) or "none"
        return found

    def to_json(self) -> dict[str, Json]:
        """Plain values."""
        return {
            **{k: v for k, v in vars(self).items() if k not in _NESTED},
            "problems": list(self.problems),
            "versions": dict(self.versions),
            "gpu": None if self.gpu is None else dict(vars(self.gpu)),
            "trial": dict(vars(self.trial)),
            "speeds": [dict(vars(speed)) for speed in self.speeds],
        }


def examine(folder: Path, emit: Emit = ignore, *, quick: bool = False) -> Machine:
    """Look at this machine and measure it, in about 15 s; `folder` is on the disk to look at.

    `quick` only tries the device with a small convolution, and has no `speeds`.
    """
    progress = Progress(emit, "doctor", 3)
    progress.update(0, "looking at processor, memory and disk")
    memory, threads, disk = usable_memory(), usable_threads(), free_disk(folder)
    progress.update(1, "trying the GPU")
    gpu = find_gpu()
    trial = try_device(gpu)
    progress.update(2, "measuring the speed")
    speeds = () if quick else measure_speeds(with_gpu=trial.device != "cpu")
    progress.update(3)
    return Machine(
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        cpu=cpu_name(),
        physical_cores=psutil.cpu_count(logical=False) or 1,
        logical_cores=os.cpu_count() or 1,
        usable_threads=threads,
        memory_bytes=memory.total_bytes,
        free_memory_bytes=memory.free_bytes,
        free_disk_bytes=disk,
        gpu=gpu,
        versions=installed_versions(),
        trial=trial,
        speeds=speeds,
        problems=_problems(memory.total_bytes, disk, folder, gpu),
    )


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform knows a name
    return platform.processor() or platform.machine()


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of `folder`, or of its nearest parent that exists."""
    try:
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        return shutil.disk_usage(there).free
    except (OSError, StopIteration) as error:
        raise StorageError(f"cannot look at the disk of {folder}: {error}") from error


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter; "not installed" where one is missing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def find_gpu() -> Gpu | None:
    """The GPU that torch sees, tried with a kernel; one that only the driver sees has a trouble."""
    import torch  # noqa: PLC0415

    from semiseg.devices import cuda_trouble  # noqa: PLC0415

    name, driver, total = _driver_says()
    if torch.cuda.is_available():
        trouble = cuda_trouble()
        free, total = (0, total) if trouble else torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Gpu(name=name, memory_bytes=total, free_bytes=free, driver=driver, trouble=trouble)
    if name is None:
        return None
    return Gpu(name=name, memory_bytes=total, free_bytes=0, driver=driver, trouble=cuda_trouble())


def try_device(gpu: Gpu | None) -> Trial:
    """Run a small convolution where device "auto" works: on `gpu` when it does, else on the CPU."""
    import torch  # noqa: PLC0415

    from semiseg.devices import convolution_works, set_threads  # noqa: PLC0415

    threads = set_threads()
    works = gpu is not None and gpu.trouble is None
    device = torch.device("cuda" if works else "cpu")
    convolution_works(device)  # the first call loads libraries
    start = time.perf_counter()
    convolution_works(device)  # brings its result to the CPU, so the GPU has finished
    milliseconds = (time.perf_counter() - start) * 1000
    name = gpu.name if gpu is not None and works else f"CPU, {threads} thread{'s' * (threads > 1)}"
    return Trial(device=device.type, name=name, milliseconds=milliseconds)


def measure_speeds(*, with_gpu: bool) -> tuple[Speed, ...]:
    """The CPU with all usable threads, and the GPU if there is one that works."""
    import torch  # noqa: PLC0415

    from semiseg.devices import set_threads  # noqa: PLC0415

    set_threads()
    names = ("cpu", "cuda") if with_gpu else ("cpu",)
    return tuple(measure_speed(torch.device(name)) for name in names)


def measure_speed(device: torch.device, *, side: int = WINDOW) -> Speed:
    """Time one convolution, one training step and one window on `device`."""
    import torch  # noqa: PLC0415

    from semiseg.networks import NetworkSpec, build_network  # noqa: PLC0415

    network = build_network(NetworkSpec(n_classes=N_CLASSES)).to(device)
    patch = torch.zeros(BATCH, 1, side, side, side, device=device)

    def step() -> None:
        network.zero_grad()
        network(patch).square().mean().backward()

    @torch.inference_mode()
    def window() -> None:
        network(patch[:1])

    step_s, window_s = _seconds(step, device), _seconds(window, device)
    scale = (WINDOW / side) ** 3
    return Speed(
        device=str(device),
        conv_gflops=_conv_gflops(device, side),
        train_steps_per_minute=60 / (step_s * scale),
        ct_seconds=_ct_seconds(window_s * scale, device),
    )


def _conv_gflops(device: torch.device, side: int) -> float:
    """Billions of multiplications and additions per second of a 3 x 3 x 3 convolution."""
    import torch  # noqa: PLC0415

    channels = 32
    image = torch.zeros(1, channels, side, side, side, device=device)
    conv = torch.nn.Conv3d(channels, channels, 3, padding=1, bias=False).to(device)

    @torch.inference_mode()
    def run() -> None:
        conv(image)

    return 2 * 27 * channels**2 * side**3 / _seconds(run, device) / _GFLOP


def _ct_seconds(window_s: float, device: torch.device) -> float:
    """Windows times their seconds, and bringing the probabilities back to the CT's own grid."""
    import torch  # noqa: PLC0415

    from semiseg.sliding import (  # noqa: PLC0415
        count_windows,
        label_and_uncertainty,
        upsample,
        window_plans,
    )

    depth, height, width = (
        round(n * mm / TRAINING_MM) for n, mm in zip(CT_SHAPE_ZYX, CT_SPACING_MM_ZYX, strict=True)
    )
    plan = window_plans(
        (depth, height, width),
        N_CLASSES,
        window_zyx=(WINDOW,) * 3,
        multiple_zyx=(8, 8, 8),
        overlap=0.5,
        device=device,
    )[0]
    few = torch.full((N_CLASSES, 2, height, width), 1 / N_CLASSES, device=device)
    target = (8, *CT_SHAPE_ZYX[1:])

    def back() -> None:
        for _, values in upsample([few], (2, height, width), target):
            label_and_uncertainty(values)

    back_s = _seconds(back, device) * CT_SHAPE_ZYX[0] / target[0]
    return count_windows((depth, height, width), plan) * window_s + back_s


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of one `work`, the best of as many as fit into half a second; one to warm up."""
    import torch  # noqa: PLC0415

    work()
    best, spent = float("inf"), 0.0
    while spent < _REPEAT_S:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
    return best


def _driver_says() -> tuple[str | None, str | None, int]:
    """Name, driver version and memory of the first NVIDIA GPU; Nones where no tool tells."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, None, 0
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(
            [tool, *query], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        name, driver, megabytes = (part.strip() for part in said.splitlines()[0].split(","))
        return name, driver, int(float(megabytes)) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None, None, 0


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


def _problems(memory: int, disk: int, folder: Path, gpu: Gpu | None) -> tuple[str, ...]:
    found = []
    if memory < _LEAST_MEMORY:
        found.append(
            f"Only {_gib(memory)} of memory; large CTs need 6. Crop them, or use another machine."
        )
    if disk < _LEAST_DISK:
        found.append(f"Only {_gib(disk)} are free on the disk of {folder}; make space.")
    if gpu is not None and gpu.trouble:
        found.append(
            f"The GPU {gpu.name} is not used: {gpu.trouble}. Install the PyTorch that fits the "
            "driver (in Slicer: the PyTorch extension)."
        )
    return tuple(found)
