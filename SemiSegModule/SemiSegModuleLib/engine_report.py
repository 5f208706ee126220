"""What `semiseg doctor` found, in the panel's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

_GIB = 2**30


def told_by_doctor(machine: Any) -> str:
    """Device, GPU, memory and disk, one line each; `machine` as in the data of its result."""
    if not isinstance(machine, Mapping):
        return _("The engine answered, but told nothing about this computer; update SemiSeg.")
    lines = [_device(machine), _gpu_trouble(machine), _memory(machine)]
    problems = machine.get("problems")
    if isinstance(problems, list) and not lines[1]:
        lines += [str(each) for each in problems]
    return "\n".join(line for line in lines if line)


def _device(machine: Mapping[str, Any]) -> str:
    trial = machine.get("trial")
    if not isinstance(trial, Mapping):
        return ""
    return _("In use: {device}: ran a test kernel in {milliseconds} ms.").format(
        device=trial.get("name", "?"), milliseconds=_number(trial.get("milliseconds"), 1)
    )


def _gpu_trouble(machine: Mapping[str, Any]) -> str:
    gpu = machine.get("gpu")
    if not isinstance(gpu, Mapping) or not gpu.get("trouble"):
        return ""
    return _(
        "The GPU {name} is there but not used: {reason}. Update its driver, or install the PyTorch "
        "that fits it (module PyTorch Utils: uninstall, then Install here)."
    ).format(name=gpu.get("name", "?"), reason=gpu["trouble"])


def _memory(machine: Mapping[str, Any]) -> str:
    text = _("Memory: {free} of {total} GB free. Disk: {disk} GB free.").format(
        free=_gib(machine.get("free_memory_bytes")),
        total=_gib(machine.get("memory_bytes")),
        disk=_gib(machine.get("free_disk_bytes")),
    )
    gpu = machine.get("gpu")
    if isinstance(gpu, Mapping) and not gpu.get("trouble"):
        text += " " + _("GPU memory: {free} of {total} GB free.").format(
            free=_gib(gpu.get("free_bytes")), total=_gib(gpu.get("memory_bytes"))
        )
    return text


def _gib(n_bytes: Any) -> str:
    return _number(n_bytes / _GIB, 1) if isinstance(n_bytes, int | float) else "?"


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "?"
