"""The state of a run in one file of tensors, from which it goes on to the bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from semiseg.study.storage import write_bytes_atomic


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors by name ("modules/...", "mean/...", "optimizer/...") and plain values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below `name`/."""
        prefix = f"{name}/"
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint`, whole or not at all; StorageError when the disk refuses."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    values = json.dumps(checkpoint.values)
    write_bytes_atomic(path, safetensors.torch.save(tensors, {"values": values}))


def load_checkpoint(path: Path) -> Checkpoint | None:
    """What `save_checkpoint` wrote; None where there is no file, or one that cannot be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(tensors=tensors, values=json.loads(file.metadata()["values"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def module_tensors(modules: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as "modules/..."."""
    return {f"modules/{name}": tensor for name, tensor in modules.state_dict().items()}


def optimizer_tensors(optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state as "optimizer/<name>/<parameter>/<key>"."""
    return {
        f"optimizer/{name}/{number}/{key}": torch.as_tensor(value)
        for name, optimizer in optimizers.items()
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizers(optimizers: dict[str, Optimizer], checkpoint: Checkpoint) -> None:
    """Put the state that `optimizer_tensors` took back into fresh optimizers."""
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for path, tensor in checkpoint.part(f"optimizer/{name}").items():
            number, key = path.split("/")
            state.setdefault(int(number), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
