"""What this machine can do, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semiseg.config import Device
from semiseg.events import Emit, ignore

if TYPE_CHECKING:
    import torch


def choose_device(requested: Device = "auto", emit: Emit = ignore) -> torch.device:
    """As `devices.choose_device`, without loading torch before it is called."""
    from semiseg import devices  # noqa: PLC0415

    return devices.choose_device(requested, emit)
