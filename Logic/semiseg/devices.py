"""Which device the work runs on: asked for, proven by a kernel, never changed silently."""

from __future__ import annotations

import torch

from semiseg.config import Device
from semiseg.errors import DeviceError
from semiseg.events import Emit, Event, ignore
from semiseg.resources import usable_threads

_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def set_threads(n: int | None = None) -> int:
    """Let torch use `n` threads, by default all usable ones; the number set."""
    n = usable_threads() if n is None else max(1, n)
    torch.set_num_threads(n)
    return n


def choose_device(requested: Device = "auto", emit: Emit = ignore) -> torch.device:
    """The device for `requested`, after a small convolution on it gave the right numbers.

    "auto" takes the GPU if there is one that works; one that does not is said in an event.
    DeviceError: "cuda" was asked for and none works.
    """
    if requested == "cpu":
        return torch.device("cpu")
    trouble = cuda_trouble()
    if trouble is None:
        return torch.device("cuda", torch.cuda.current_device())
    if requested == "cuda":
        raise DeviceError(f"{trouble}; choose device cpu or auto, or repair the GPU's driver")
    if torch.cuda.is_available():
        message = f"The GPU is not used: {trouble}. Working on the CPU."
        emit(Event(kind="progress", phase="device", message=message))
    return torch.device("cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device or the main memory is used up."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _MEMORY_SIGNS)


def release_memory(device: torch.device) -> None:
    """Give cached blocks of `device` back, so that a smaller try can have them."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def cuda_trouble() -> str | None:
    """Why no GPU can be used; None when one computes a convolution right."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return "this PyTorch was built without GPU support"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU on this machine"
    try:
        right = convolution_works(torch.device("cuda", torch.cuda.current_device()))
    except RuntimeError as error:
        first_line = (str(error).strip().splitlines() or ["no reason given"])[0]
        return f"the GPU cannot compute ({first_line})"
    return None if right else "the GPU computed a wrong result in a test"


def convolution_works(device: torch.device) -> bool:
    """Whether a 3 x 3 x 3 convolution of ones on `device` counts its neighbours right."""
    ones = torch.ones(1, 1, 8, 8, 8, device=device)
    kernel = torch.ones(1, 1, 3, 3, 3, device=device)
    counts = torch.nn.functional.conv3d(ones, kernel, padding=1).cpu()
    return bool(counts[0, 0, 4, 4, 4] == 27) and bool(counts[0, 0, 0, 0, 0] == 8)
