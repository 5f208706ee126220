"""What doctor finds out, with machines that are made up and the one at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from semiseg import devices, machine
from semiseg.errors import DeviceError, StorageError
from semiseg.events import Event
from semiseg.machine import Gpu, Speed


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_importing_machine_does_not_load_torch() -> None:
    code = "import sys, semiseg.machine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_examine_measures_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Speed(device="cpu", conv_gflops=50.0, train_steps_per_minute=20.0, ct_seconds=90.0)
    monkeypatch.setattr(machine, "measure_speed", lambda device: measured)
    events: list[Event] = []
    found = machine.examine(tmp_path / "not" / "there", events.append)
    assert found.usable_threads >= 1
    assert 0 < found.free_memory_bytes <= found.memory_bytes
    assert found.free_disk_bytes > 0
    assert found.versions["torch"] == torch.__version__
    assert json.loads(json.dumps(found.to_json()))["speeds"][0]["conv_gflops"] == 50.0
    assert "90 s to segment a CT" in found.summary()["Speed on cpu"]
    assert events[-1].step == events[-1].total


def test_quick_examination_tries_the_device_and_measures_no_speed(tmp_path: Path) -> None:
    found = machine.examine(tmp_path, quick=True)
    assert found.speeds == ()
    assert found.trial.device in ("cpu", "cuda")
    assert 0 < found.trial.milliseconds < 10_000
    assert "ran a test kernel in" in found.summary()["Device in use"]
    assert json.loads(json.dumps(found.to_json()))["trial"]["name"] == found.trial.name


def test_a_gpu_that_fails_is_not_the_device_in_use() -> None:
    broken = Gpu(name="GT 1", memory_bytes=1, free_bytes=0, driver="1", trouble="no kernel image")
    assert machine.try_device(broken).device == "cpu"
    assert machine.try_device(None).name.startswith("CPU, ")


def test_speed_is_measured_in_plausible_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_REPEAT_S", 0.001)
    found = machine.measure_speed(torch.device("cpu"), side=16)
    assert 0.01 < found.conv_gflops < 1e6
    assert found.train_steps_per_minute > 0
    assert found.ct_seconds > 0


def test_a_gpu_is_measured_only_when_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure_speed", str)
    assert machine.measure_speeds(with_gpu=False) == ("cpu",)
    assert machine.measure_speeds(with_gpu=True) == ("cpu", "cuda")


def test_problems_say_what_to_do(tmp_path: Path) -> None:
    gpu = Gpu(name="GT 1", memory_bytes=2**30, free_bytes=0, driver="1.2", trouble="too old")
    texts = machine._problems(2**32, 2**20, tmp_path, gpu)
    assert [text.split()[0] for text in texts] == ["Only", "Only", "The"]
    assert "too old. Install the PyTorch that fits" in texts[2]
    assert machine._problems(2**40, 2**40, tmp_path, None) == ()
    assert gpu.summary() == "GT 1 (driver 1.2): too old"
    fine = Gpu(name="G", memory_bytes=2**31, free_bytes=2**30, driver=None, trouble=None)
    assert fine.summary() == "G: works, 1.0 GiB of 2.0 GiB free"


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("GT 1, 550.1, 8192\n", ("GT 1", "550.1", 8192 * 2**20)),
        ("No devices were found\n", (None, None, 0)),
        ("", (None, None, 0)),
    ],
)
def test_the_drivers_tool_is_read_with_care(
    monkeypatch: pytest.MonkeyPatch, printed: str, expected: tuple[object, ...]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=printed))
    assert machine._driver_says() == expected


def test_a_gpu_that_only_the_driver_sees_has_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_driver_says", lambda: ("GT 1", "550.1", 2**33))
    found = machine.find_gpu()
    assert found is not None
    assert found.trouble
    monkeypatch.setattr(machine, "_driver_says", lambda: (None, None, 0))
    assert machine.find_gpu() is None


def test_a_gpu_that_torch_sees_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GT 9")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 9))
    monkeypatch.setattr(machine, "_driver_says", lambda: ("x", "7", 9))
    monkeypatch.setattr(devices, "cuda_trouble", lambda: None)
    found = machine.find_gpu()
    assert found == Gpu(name="GT 9", memory_bytes=9, free_bytes=5, driver="7", trouble=None)


def test_the_processor_has_a_name_with_and_without_proc(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor : 0\nmodel name : Fast 9000\n")
    assert machine.cpu_name(told) == "Fast 9000"
    assert machine.cpu_name(tmp_path / "none")


def test_a_disk_that_cannot_be_seen_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def gone(path: Path) -> None:
        raise OSError("gone")

    monkeypatch.setattr("shutil.disk_usage", gone)
    with pytest.raises(StorageError, match="cannot look at the disk"):
        machine.free_disk(tmp_path)


def test_missing_packages_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package"))
    assert machine.installed_versions()["no-such-package"] == "not installed"


# ---- devices -------------------------------------------------------------------------------


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    def works(device: torch.device) -> bool:
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: answer is not None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(devices, "convolution_works", works)


def test_a_gpu_that_computes_right_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, True)
    assert devices.choose_device("auto") == torch.device("cuda", 0)
    assert devices.choose_device("cuda") == torch.device("cuda", 0)
    assert devices.choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("no kernel image is available\nmore"), "cannot compute (no kernel image"),
        (RuntimeError(""), "no reason given"),
        (False, "computed a wrong result"),
    ],
)
def test_a_gpu_that_fails_is_said_and_never_taken(
    monkeypatch: pytest.MonkeyPatch, answer: object, reason: str
) -> None:
    pretend_cuda(monkeypatch, answer)
    events: list[Event] = []
    assert devices.choose_device("auto", events.append) == torch.device("cpu")
    assert reason in events[0].message
    assert "Working on the CPU" in events[0].message
    with pytest.raises(DeviceError, match="choose device cpu or auto"):
        devices.choose_device("cuda")


def test_without_a_gpu_auto_is_the_cpu_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, None)
    events: list[Event] = []
    assert devices.choose_device("auto", events.append) == torch.device("cpu")
    assert not events
    with pytest.raises(DeviceError, match="finds no GPU"):
        devices.choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="built without GPU support"):
        devices.choose_device("cuda")


def test_the_proof_works_on_the_cpu_and_threads_are_set() -> None:
    assert devices.convolution_works(torch.device("cpu"))
    assert devices.set_threads(0) == torch.get_num_threads() == 1
    assert devices.set_threads() >= 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert devices.is_out_of_memory(error) is expected


def test_memory_is_released_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    devices.release_memory(torch.device("cpu"))
    devices.release_memory(torch.device("cuda"))
    assert calls == [1]
