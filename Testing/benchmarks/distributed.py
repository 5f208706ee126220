"""Fan-out over a real Ray cluster of this computer's processes: speed, equality, faults, overhead.

A head without cores and two nodes of one core each run as separate processes on loopback, with
token authentication. `--parts` (all by default):

register  24 registrations, in this process, with 1 and with 2 workers, in one run
predict   16 inferences, likewise, with a network of the default size and random weights
kill      a worker SIGKILLed in the middle of registrations
small     10,000 small tasks: time per task and memory of the driver, thousand by thousand
node      a whole node ended in the middle of small tasks
cases     1,000 cases: adding, opening, and asking for all as tasks
pieces    what `--model` needs, on a volume of `--size` voxels, on `--device`

Results of workers are compared with those of this process, bit by bit (seconds left out). Workers
have one thread; starting them and loading libraries is measured apart. `--executor local` takes
child processes in place of the cluster. Scans are phantoms, or all NAME_image.nii.gz of `--data`
(24 pairs of them in turn). `--model FILE` needs no run: it reads what `pieces` and `small` wrote
and says how long 10,000 cases take on 1, 8 and 64 GPUs, and what is full first.

    python Testing/benchmarks/distributed.py --out distributed.json
    python Testing/benchmarks/distributed.py --parts pieces,small --device cuda --out gpu.json
    python Testing/benchmarks/distributed.py --model gpu.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import torch
from distributed_data import phantom, predicted, registered, untrained
from distributed_model import model_table
from distributed_pieces import case_rows, piece_rows
from records import circumstances
from tables import markdown

from semiseg.config import PredictConfig, RegistrationConfig
from semiseg.distributed.cluster import RayExecutor
from semiseg.distributed.executor import Executor, Outcome, Task
from semiseg.distributed.local import LocalExecutor
from semiseg.distributed.loopback import LoopbackCluster
from semiseg.distributed.predictions import prediction_task
from semiseg.distributed.registrations import registration_task
from semiseg.distributed.serial import SerialExecutor
from semiseg.images.intensity import guess_modality
from semiseg.images.reading import read_image

# In this order: a node that was ended does not come back.
PARTS = ("register", "predict", "kill", "small", "node", "cases", "pieces")
ECHO = "semiseg.distributed.probes:echo"


def main() -> int:
    given = parse()
    if given.model:
        print(model_table(json.loads(Path(given.model).read_text(encoding="utf-8"))["rows"]))
        return 0
    torch.set_num_threads(1)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="semiseg-distributed-") as name:
        bench = Bench(given, Path(name))
        with cluster_of(given) as cluster:
            bench.connect(cluster)
            for part in (part for part in PARTS if part in given.parts.split(",")):
                rows += getattr(bench, part)()
                Path(given.out).write_text(
                    json.dumps({"settings": describe(given), "rows": rows}, indent=1),
                    encoding="utf-8",
                )
    print(table(rows))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder of NAME_image.nii.gz files; phantoms if none")
    parser.add_argument("--out", default="distributed.json", help="JSON file")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="for pieces")
    parser.add_argument("--size", default="512,512,200", help="x,y,z voxels for pieces")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller tasks")
    parser.add_argument("--model", metavar="FILE", help="only say what follows from FILE")
    given = parser.parse_args()
    unknown = set(given.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if given.executor == "local":
        given.parts = ",".join(part for part in given.parts.split(",") if part != "node")
    return given


def cluster_of(given: argparse.Namespace) -> contextlib.AbstractContextManager:
    """The cluster where one is needed."""
    needs = set(given.parts.split(",")) - {"cases", "pieces"}
    if given.executor == "ray" and needs:
        return LoopbackCluster(2)
    return contextlib.nullcontext()


class Bench:
    """The parts; each gives rows."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.cluster: LoopbackCluster | None = None
        quick = given.quick
        self.n_pairs, self.n_cases = (6, 4) if quick else (24, 16)
        self.shape_zyx = (40, 44, 48) if quick else (72, 88, 96)
        self.config = RegistrationConfig(device="cpu", iterations=20 if quick else 60)
        self._scans: list[tuple[Path, str]] = []
        self._serial: dict[str, tuple[dict[int, str], float]] = {}

    def connect(self, cluster: LoopbackCluster | None) -> None:
        """Use `cluster`; this process becomes one of its drivers."""
        self.cluster = cluster
        if cluster is not None:
            os.environ.update(cluster.environment)

    def executor(self, workers: int) -> Executor:
        """A new executor of the kind asked for."""
        if self.cluster is None:
            return LocalExecutor(workers)
        return RayExecutor(self.cluster.address, workers)

    def register(self) -> list[dict]:
        return self.compared("register", self.pairs(self.n_pairs), registered)

    def predict(self) -> list[dict]:
        model = untrained(self.folder)
        scans = self.scans(4)
        config = PredictConfig(device="cpu")
        tasks = [
            prediction_task(model, *scans[n % len(scans)], config) for n in range(self.n_cases)
        ]
        return self.compared("predict", tasks, predicted)

    def kill(self) -> list[dict]:
        """A worker dies after a third of the tasks."""
        tasks = self.pairs(self.n_pairs)
        expected, _ = self.serial("register", tasks, registered)
        with self.executor(2) as executor:
            warm(executor, tasks[0])
            start, outcomes = time.perf_counter(), []
            for outcome in executor.map(tasks):
                outcomes.append(outcome)
                if len(outcomes) == len(tasks) // 3:
                    os.kill(int(outcome.worker.split()[-1].rstrip(")")), signal.SIGKILL)
            seconds = time.perf_counter() - start
        return [self.row("kill", 2, outcomes, seconds) | same(outcomes, expected, registered)]

    def node(self) -> list[dict]:
        """A node with all its processes is ended after a third of the tasks."""
        n = 20 if self.given.quick else 60
        with self.executor(2) as executor:
            warm(executor, echo(0))
            start, outcomes = time.perf_counter(), []
            for outcome in executor.map(echo(i, seconds=0.2) for i in range(n)):
                outcomes.append(outcome)
                if len(outcomes) == n // 3:
                    self.cluster.kill_node(2)
            seconds = time.perf_counter() - start
        exact = {o.index: o.require() for o in outcomes} == {i: i for i in range(n)}
        return [self.row("node", 2, outcomes, seconds) | {"identical": exact}]

    def small(self) -> list[dict]:
        """Time per task and the driver's memory, thousand by thousand."""
        n, step = (1_000, 250) if self.given.quick else (10_000, 1_000)
        rows, count, driver = [], 0, psutil.Process()
        with self.executor(2) as executor:
            warm(executor, echo(0))
            start = time.perf_counter()
            for outcome in executor.map(echo(i) for i in range(n)):
                outcome.require()
                count += 1
                if count % step == 0:
                    now = time.perf_counter()
                    rows.append(
                        {
                            "part": "small",
                            "method": self.given.executor,
                            "workers": 2,
                            "tasks": count,
                            "seconds": round(now - start, 3),
                            "overhead_ms": round((now - start) / step * 1000, 3),
                            "driver_mib": round(driver.memory_info().rss / 2**20, 1),
                        }
                    )
                    start = time.perf_counter()
        return rows

    def cases(self) -> list[dict]:
        return case_rows(self.folder, quick=self.given.quick)

    def pieces(self) -> list[dict]:
        size = "64,64,40" if self.given.quick else self.given.size
        x, y, z = map(int, size.split(","))
        extent_mm = 150 if self.given.quick else 400
        return piece_rows(self.folder, (x, y, z), extent_mm, self.given.device)

    def compared(self, part: str, tasks: list[Task], digest: Callable) -> list[dict]:
        """Here, with one worker, and with two."""
        expected, seconds = self.serial(part, tasks, digest)
        rows = [
            {
                "part": part,
                "method": "here",
                "workers": 1,
                "tasks": len(tasks),
                "seconds": round(seconds, 2),
            }
        ]
        single = None
        for workers in (1, 2):
            clock = time.perf_counter()
            with self.executor(workers) as executor:
                warm(executor, tasks[0])
                ready = time.perf_counter() - clock
                clock = time.perf_counter()
                outcomes = list(executor.map(tasks))
                took = time.perf_counter() - clock
            single = single or took
            rows.append(
                self.row(part, workers, outcomes, took)
                | same(outcomes, expected, digest)
                | {"start_s": round(ready, 1), "speed_up": round(single / took, 3)}
            )
            say(f"{part}, {workers} workers: {took:.1f} s")
        return rows

    def serial(self, part: str, tasks: list[Task], digest: Callable) -> tuple[dict, float]:
        """Digests and seconds of the same tasks in this process; once per part."""
        if part not in self._serial:
            with SerialExecutor() as here:
                list(here.map(tasks[:1]))
                clock = time.perf_counter()
                outcomes = list(here.map(tasks))
                seconds = time.perf_counter() - clock
            self._serial[part] = ({o.index: digest(o.require()) for o in outcomes}, seconds)
            say(f"{part}, in this process: {seconds:.1f} s")
        return self._serial[part]

    def row(self, part: str, workers: int, outcomes: list[Outcome], seconds: float) -> dict:
        """What the workers' time exceeds that of their functions by, per task.

        With one worker that is overhead; with two also the wait for the last, and for a new one.
        """
        rest = "overhead_ms" if workers == 1 else "idle_ms"
        own = sum(outcome.seconds for outcome in outcomes)
        return {
            "part": part,
            "method": self.given.executor,
            "workers": workers,
            "tasks": len(outcomes),
            "seconds": round(seconds, 2),
            "task_seconds": round(statistics.fmean(o.seconds for o in outcomes), 3),
            rest: round((seconds * workers - own) / len(outcomes) * 1000, 1),
            "repeated": sum(outcome.attempts - 1 for outcome in outcomes),
        }

    def pairs(self, n: int) -> list[Task]:
        """Registration tasks between neighbours in the list of scans."""
        scans = self.scans(6)
        tasks = []
        for number in range(n):
            shift = 1 + number // len(scans) % (len(scans) - 1)
            fixed, moving = scans[number % len(scans)], scans[(number + shift) % len(scans)]
            files = {"fixed": fixed[0], "moving": moving[0]}
            tasks.append(registration_task(fixed[1], moving[1], self.config, files))
        return tasks

    def scans(self, n: int) -> list[tuple[Path, str]]:
        """(file, modality) of the data's scans, or of `n` phantoms."""
        if not self._scans and self.given.data:
            paths = sorted(Path(self.given.data).rglob("*_image.nii.gz"))
            if len(paths) < 2:
                sys.exit(f"{self.given.data} holds fewer than two NAME_image.nii.gz")
            self._scans = [(path, guess_modality(read_image(path)).modality) for path in paths]
        while not self.given.data and len(self._scans) < n:
            path = self.folder / f"scan{len(self._scans)}.nii.gz"
            phantom(path, self.shape_zyx, len(self._scans))
            self._scans.append((path, "CT"))
        return self._scans


def echo(value: int, seconds: float = 0.0) -> Task:
    return Task(function=ECHO, arguments={"value": value, "seconds": seconds})


def warm(executor: Executor, task: Task) -> None:
    """Until every worker has done one task: processes run, libraries are loaded."""
    seen: set[str] = set()
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        outcomes = list(executor.map([task] * executor.workers))
        seen |= {outcome.worker for outcome in outcomes if outcome.error is None}
        if len(seen) >= executor.workers:
            return
        time.sleep(0.2)
    outcomes[0].require()
    sys.exit(f"only {len(seen)} of {executor.workers} workers came")


def same(outcomes: list[Outcome], expected: dict[int, str], digest: Callable) -> dict:
    found = {outcome.index: digest(outcome.require()) for outcome in outcomes}
    return {"identical": found == expected and len(outcomes) == len(expected)}


def describe(given: argparse.Namespace) -> dict:
    return vars(given) | {
        "data": Path(given.data).name if given.data else "phantoms",
        "out": Path(given.out).name,
        **circumstances(),
        "load": round(os.getloadavg()[0], 1),
    }


def table(rows: list[dict]) -> str:
    """All rows that are no pieces of the model, then these."""
    columns = (
        "part", "method", "workers", "tasks", "seconds", "speed_up", "identical", "repeated",
        "overhead_ms", "idle_ms", "driver_mib", "start_s", "add_ms", "open_ms", "result_mb",
        "file_mb", "kept_mb",
    )  # fmt: skip
    used = [name for name in columns if any(name in row for row in rows)]
    cells = [[str(row.get(name, "")) for name in used] for row in rows]
    return markdown(used, cells)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
