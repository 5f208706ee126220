"""What a training step of each method costs, against a supervised step on as many patches.

All methods have the network of the plan for this kind of device and made-up patches of one size.
Steps of all methods alternate, so that a busy machine slows all alike; the fastest of `--steps`
counts. On a CPU that is its own time, not the clock's. Columns: seconds per step, the ratio to a
supervised step on the same number of patches, and on a GPU the most memory that it held.

    python Testing/benchmarks/method_speed.py --device cpu --patch 40,48,32 --threads 1
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tables import markdown

from semiseg.data.batch import Batch
from semiseg.learning.learner import Learner
from semiseg.learning.means import MEANS
from semiseg.learning.plan import Plan
from semiseg.learning.speed import made_up
from semiseg.methods.base import MethodSettings, method_class, method_names
from semiseg.networks import NetworkSpec

N_CLASSES = 5
STREAMS = ("CT", "MR")
"""For methods that look at several volumes of a case; others do not see them."""


def main() -> None:
    given = parse()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    timed = {}
    for name in dict.fromkeys(("supervised", *given.methods.split(","))):
        plan = plan_of(given, unlabelled=method_class(name).uses_unlabelled)
        timed[name] = Timed(name, plan, made_up(plan, device), device)
    everything = replace(plan_of(given, unlabelled=False), n_labelled=2 * given.labelled)
    timed["supervised, twice the patches"] = Timed(
        "supervised", everything, made_up(everything, device), device
    )
    for _ in range(given.steps + 1):
        for one in timed.values():
            one.step()
    rows = [row(name, one, timed) for name, one in timed.items()]
    print(table(rows))
    if given.out:
        Path(given.out).write_text(json.dumps({"settings": vars(given), "rows": rows}, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--methods", default=",".join(method_names()))
    parser.add_argument("--patch", default="40,48,32", help="z,y,x; 1,y,x for 2-D networks")
    parser.add_argument("--labelled", type=int, default=2, help="and as many unlabelled")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="a JSON file")
    return parser.parse_args()


def plan_of(given: argparse.Namespace, *, unlabelled: bool) -> Plan:
    means, (z, y, x) = MEANS[given.device], (int(n) for n in given.patch.split(","))
    channels = means.channels if z > 1 else means.slice_channels
    steps = len(channels) - 1
    network = NetworkSpec(
        n_classes=N_CLASSES,
        channels=channels,
        convolutions=(means.convolutions[0], *(2,) * steps),
        strides=((2, 2, 2) if z > 1 else (2, 2),) * steps,
    )
    return Plan(
        streams=STREAMS,
        spacing_mm_zyx=(2.0, 2.0, 2.0),
        patch_zyx=(z, y, x),
        n_labelled=given.labelled,
        n_unlabelled=given.labelled if unlabelled else 0,
        network=network,
        device=given.device,
    )


class Timed:
    """A method whose steps are timed one by one; the first is to warm up."""

    def __init__(self, name: str, plan: Plan, batch: Batch, device: torch.device) -> None:
        settings = MethodSettings(network=plan.network, streams=plan.streams)
        self._learner = Learner(name, settings, device, seed=0)
        self._batch, self._device = batch, device
        self._clock: Callable[[], float] = (
            time.process_time if device.type == "cpu" else time.perf_counter
        )
        self.n_patches = plan.n_labelled + plan.n_unlabelled
        self.seconds, self.peak_bytes, self._warm = math.inf, 0, False

    def step(self) -> None:
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if on_gpu else 0
        start = self._clock()
        float(self._learner.learn(self._batch, 0.9))  # reading the loss waits for the device
        if self._warm:
            self.seconds = min(self.seconds, self._clock() - start)
        self._warm = True
        if on_gpu:
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated() - held)


def row(name: str, one: Timed, timed: dict[str, Timed]) -> dict[str, float | str | int]:
    same = [t for key, t in timed.items() if key.startswith("supervised")]
    base = next(t for t in same if t.n_patches == one.n_patches)
    return {
        "method": name,
        "patches": one.n_patches,
        "seconds per step": round(one.seconds, 4),
        "ratio": round(one.seconds / base.seconds, 2),
        "peak MiB": round(one.peak_bytes / 2**20),
    }


def table(rows: list[dict[str, float | str | int]]) -> str:
    return markdown(list(rows[0]), [[str(value) for value in row.values()] for row in rows])


if __name__ == "__main__":
    main()
