"""SIGKILL at random moments of annotate, propagate, train, predict and export: is anything lost?

A small study of a phantom CT and MR is worked on by the command line, and the process is killed at
a random moment. After each kill the study must open without a problem, every version that was
there before must be there byte for byte, every slice that was done must still be done, and
`semiseg study check` must agree. The killed training is then run to its end and compared, bit by
bit, with an unbroken one.

    python Testing/benchmarks/kills.py --out kills.json --kills 50
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from phantom import SHAPE_ZYX, make_phantoms
from records import circumstances

STAGES = ("annotate", "propagate", "train", "predict", "export")
STEPS = 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="JSON file")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="5 kills")
    given = parser.parse_args()
    kills = 5 if given.quick else given.kills
    with tempfile.TemporaryDirectory(prefix="semiseg-kills-") as top:
        bench = Bench(Path(top), np.random.default_rng(given.seed))
        rows = [bench.kill_once(number) for number in range(kills)]
        same = bench.finish_training()
    settings = {
        "kills": kills,
        "seed": given.seed,
        **circumstances(),
        "killed_training_ends_bitwise_equal": same,
    }
    Path(given.out).write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))
    print(table(rows, same=same))
    return 0 if same and not any(row["lost"] or not row["opened"] for row in rows) else 1


class Bench:
    """A study that is worked on and killed."""

    def __init__(self, top: Path, rng: np.random.Generator) -> None:
        self.top, self.rng = top, rng
        self.study, self.unbroken = top / "study", top / "unbroken"
        self.label = top / "ct_label.nii.gz"
        self.drawn = 4
        self.trainings_killed = 0
        make_phantoms(top)
        self._make_study()
        self.typical_s = {stage: self._time(stage) for stage in STAGES}

    def _make_study(self) -> None:
        new = ["study", "new", str(self.study), "--structures", "1=liver,2=spleen"]
        finish(new)
        for name in ("ct", "mr"):
            image = str(self.top / f"{name}.nii.gz")
            finish(["study", "add", str(self.study), image, "--modality", name.upper()])
        for name, done in (("ct", "10,15,20,25,30"), ("mr", "12,20,28")):
            label = str(self.top / f"{name}_label.nii.gz")
            finish(["annotate", str(self.study), name, label, "--done", done, "--only-finished"])
        shutil.copytree(self.study, self.unbroken)
        finish(train_command(self.study))

    def _time(self, stage: str) -> float:
        start = time.monotonic()
        finish(self._command(stage, trial=True))
        return time.monotonic() - start

    def _command(self, stage: str, *, trial: bool = False) -> list[str]:
        study = str(self.study)
        if stage == "annotate":
            self.drawn = self.drawn + 1 if self.drawn < SHAPE_ZYX[0] - 1 else 0
            label, slices = str(self.label), str(self.drawn)
            return ["annotate", study, "ct", label, "--done", slices, "--only-finished"]
        if stage == "propagate":
            # Another number of iterations each time, or the cache would leave nothing to kill.
            count = str(10 + int(self.rng.integers(1000)) if not trial else 10)
            return ["propagate", study, "--iterations", count]
        if stage == "train":
            return train_command(self.study if not trial else copy_of(self.unbroken))
        if stage == "predict":
            return ["predict", study]
        target = self.top / f"export-{time.monotonic_ns()}"
        return ["export", study, str(target)]

    def kill_once(self, number: int) -> dict:
        stage = STAGES[number % len(STAGES)]
        study = self.unbroken_twin() if stage == "train" else self.study
        before = snapshot(study)
        moment = float(self.rng.uniform(0.05, 1.0)) * self.typical_s[stage]
        command = self._command(stage)
        if stage == "train":
            command = train_command(study)
        survived = kill_after(command, moment)
        opened, lost = compare(study, before)
        say(f"{number + 1}: {stage} killed after {moment:.1f} s, opened {opened}, lost {lost}")
        return {
            "case": f"kill {number + 1}",
            "stage": stage,
            "seconds": round(moment, 2),
            "ended_before_the_kill": survived,
            "opened": opened,
            "lost": lost,
        }

    def unbroken_twin(self) -> Path:
        """The study whose training is killed again and again; made once."""
        twin = self.top / "killed"
        if not twin.exists():
            shutil.copytree(self.unbroken, twin)
        return twin

    def finish_training(self) -> bool:
        """Whether killed-and-resumed training ends with the weights of an unbroken one."""
        finish(train_command(self.unbroken))
        finish(train_command(self.unbroken_twin()))
        return weights(self.unbroken) == weights(self.unbroken_twin())


def copy_of(study: Path) -> Path:
    target = study.with_name("trial")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(study, target)
    return target


def train_command(study: Path) -> list[str]:
    steps = ["--steps", str(STEPS), "--batch-size", "1", "--device", "cpu"]
    return ["train", str(study), *steps, "--validation", "none", "--human-only"]


def program(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "semiseg", "--quiet", *arguments]


def finish(arguments: Sequence[str]) -> None:
    """Run to the end; the benchmark stops when the command fails."""
    done = subprocess.run(program(arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")


def kill_after(arguments: Sequence[str], seconds: float) -> bool:
    """SIGKILL the command after `seconds`; whether it had ended before."""
    child = subprocess.Popen(
        program(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return False
    return True


def snapshot(study: Path) -> dict[str, str]:
    """What counts as confirmed: every file of every version, and every done slice."""
    found = {}
    for path in sorted(study.rglob("*")):
        relative = path.relative_to(study)
        inside_version = any(part.isdigit() for part in relative.parts)
        kept = relative.parts[0] in ("cases", "models", "evaluations")
        if path.is_file() and inside_version and kept and path.name != "ledger.json":
            found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found | done_slices(study)


def done_slices(study: Path) -> dict[str, str]:
    from semiseg.study.study import Study

    opened = Study.open(study)
    found = {}
    for case_id in opened.cases:
        label = opened.label(case_id)
        for structure_id in opened.protocol.ids if label is not None else ():
            for index in label.ledger.done("axial", structure_id):
                found[f"{case_id} slice {index} structure {structure_id}"] = "done"
    return found


def compare(study: Path, before: dict[str, str]) -> tuple[bool, int]:
    """Whether the study opens without a problem, and how many confirmed things are lost."""
    from semiseg.study.study import Study

    problems = Study.open(study).problems
    check = subprocess.run(
        program(["study", "check", str(study)]), capture_output=True, text=True, check=False
    )
    if problems or check.returncode != 0:
        say(f"problems: {[p.message for p in problems]} {check.stdout} {check.stderr}")
    after = snapshot(study)
    lost = [name for name, digest in before.items() if after.get(name) != digest]
    return not problems and check.returncode == 0, len(lost)


def weights(study: Path) -> str:
    files = sorted((study / "models").rglob("weights.safetensors"))
    return hashlib.sha256(files[-1].read_bytes()).hexdigest() if files else ""


def table(rows: list[dict], *, same: bool) -> str:
    lines = [
        "| stage | kills | ended before the kill | opened | confirmed things lost |",
        "|---|---|---|---|---|",
    ]
    for stage in STAGES:
        ours = [row for row in rows if row["stage"] == stage]
        lines.append(
            f"| {stage} | {len(ours)} | {sum(row['ended_before_the_kill'] for row in ours)} "
            f"| {sum(row['opened'] for row in ours)} | {sum(row['lost'] for row in ours)} |"
        )
    lines.append("")
    lines.append(f"Killed and resumed training ends bitwise equal to an unbroken one: {same}.")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
