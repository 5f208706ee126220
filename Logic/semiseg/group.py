"""Processes that train one model together, each on its own GPU; usually there is one.

`torchrun` starts them. Each draws its own patches, gradients are averaged, and what one clock or
one file decides, the first process decides for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

from semiseg.config import Device
from semiseg.errors import DeviceError

T = TypeVar("T")


class Group:
    """A process alone, which agrees with itself."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    def agreed(self, value: T) -> T:
        """The first process' value, in all of them."""
        return value

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of `tensors` by its mean over the processes."""

    def wait(self) -> None:
        """Until all processes are here."""


ALONE = Group()


class Joined(Group):
    """One of several processes; torch's process group must exist."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def agreed(self, value: T) -> T:
        """The first process' value, in all of them; all wait here for it."""
        held: list[object] = [value]
        distributed.broadcast_object_list(held, src=0)
        return cast(T, held[0])

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of `tensors` by its mean over the processes; in one exchange."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def wait(self) -> None:
        """Until all processes are here."""
        self.average([torch.zeros(1)])


@contextlib.contextmanager
def joined(size: int, local_rank: int, device: Device = "auto") -> Iterator[Group]:
    """The group that `torchrun` started `size` processes for, each with a GPU of its own.

    The address comes from torchrun's environment. Alone where `size` is 1. DeviceError where
    there are fewer GPUs than processes.
    """
    if size == 1:
        yield ALONE
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    if on_gpus:
        n_gpus = torch.cuda.device_count()
        if local_rank >= n_gpus:
            raise DeviceError(
                f"torchrun started process {local_rank + 1} of this machine, which has {n_gpus} "
                "GPUs; give --nproc-per-node that number, or train with --device cpu"
            )
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    try:
        yield Joined()
    finally:
        distributed.destroy_process_group()
