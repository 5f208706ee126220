"""Simulated clinicians: Dice on test scans against slices and minutes of drawing, by strategy.

A clinician draws the true contours of all structures on one axial slice after the other and pays
for it: seconds per slice, for the contours' true length at a drawing speed, and for opening
another scan. After every `--per-round` slices the study propagates, learns and segments, and the
test scans are scored; they choose nothing. Strategies:

- `ours`: the slice that `semiseg suggest` names, asked anew after each one as Next slice does; no
  peeking at any label.
- `uniform`: scans by turn, in each the slices evenly over the extent of the structures.
- `random`: any slice of any scan that has a structure.
- `case_random`, `case_epistemic`: as MONAI Label does, whole scans: a random one, or the one whose
  segmentation is most uncertain on average (the first at random); all slices with a structure.

All but ours know from the true label where the structures are, as somebody who scrolls through
the scan does; slices without any structure cost ours the same as others.

Each run (strategy, seed) keeps its study and its figures in `--out` and goes on where it was
broken off. The table gives the mean over seeds at each number of slices, and the slices and
minutes after which the mean Dice reaches `--goal`. AUROC: how well the uncertainty of the test
scans' segmentations finds wrong voxels near surfaces. Data sets as in data_sets.py; `phantom`
needs no data; `--quick` is a small phantom run (at most three minutes on one core).

`--no-learning` asks another, cheaper question: how soon are the study's own scans segmented well by
what is drawn and what propagation makes of it? Then no network is trained, Dice and AUROC are of
the scans that are drawn in (a scan of which nothing is known counts 0), and `case_epistemic` goes
by the propagation's uncertainty. With `--coarse` all scans are first brought to larger voxels;
figures are those of the coarse grids.

    python Testing/benchmarks/annotator.py abdomen --data abdomen --out runs --seeds 5 \\
        --rounds 8 --per-round 5 --minutes 2
    python Testing/benchmarks/annotator.py abdomen --data abdomen --out own --seeds 5 --pool 6 \\
        --no-learning --coarse 5 --quick-registration --rounds 20 --per-round 3 --until-goal \\
        --parallel 2 --device cpu
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from annotator_scans import coarse, phantoms
from data_sets import DATA_SETS, Scan, scans_of

PLANE = "axial"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What drawing costs; the defaults of `SuggestConfig`, so that the ranking knows the prices."""

    slice_s: float = 10.0
    case_s: float = 20.0
    mm_per_s: float = 8.0


def main() -> int:
    given = parse()
    Path(given.out).mkdir(parents=True, exist_ok=True)
    scans, names = load(given)
    runs = [(t, seed) for seed in range(given.seeds) for t in given.strategies.split(",")]
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.parallel, mp_context=fresh, max_tasks_per_child=1) as pool:
        futures = [pool.submit(work, *run, scans, names, given) for run in runs]
        for future in as_completed(futures):
            future.result()
    print(table(Path(given.out), given))
    return 0


def load(given: argparse.Namespace) -> tuple[list[Scan], tuple[str, ...]]:
    """The scans to draw in and to test on, coarser where asked for, and their structures."""
    out = Path(given.out)
    if given.data_set == "phantom":
        return phantoms(out / "phantoms"), ("liver", "spleen")
    names = DATA_SETS[given.data_set][1]
    scans = scans_of(given.data_set, Path(given.data))
    if given.no_learning:
        scans = [scan for scan in scans if scan.pool]
    if given.coarse is None:
        return scans, names
    return coarse(scans, out / f"scans-{given.coarse:g}mm", given.coarse, names), names


def work(
    strategy: str, seed: int, scans: list[Scan], names: tuple[str, ...], given: argparse.Namespace
) -> None:
    """One run in a process of its own."""
    # The number of threads must be set before torch is loaded.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch

    torch.set_num_threads(given.threads)
    Clinician(strategy, seed, scans, names, given).work()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_set", nargs="?", choices=(*DATA_SETS, "phantom"), default="phantom")
    parser.add_argument("--data", help="the data set's folder")
    parser.add_argument("--out", required=True, help="folder for figures and studies")
    parser.add_argument("--strategies", default="ours,uniform,random,case_random,case_epistemic")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--per-round", type=int, default=5, help="slices before learning again")
    parser.add_argument("--pool", type=int, help="so many scans to draw in; all if none")
    parser.add_argument("--minutes", type=float, default=2.0, help="of learning per round")
    parser.add_argument("--steps", type=int, help="end learning after so many steps instead")
    parser.add_argument("--dims", default="auto", help="2: networks see single slices; 3; auto")
    parser.add_argument("--clock", default="wall", help="what --minutes are: wall or processor")
    parser.add_argument("--no-propagation", action="store_true")
    parser.add_argument(
        "--no-learning",
        action="store_true",
        help="propagate only; Dice is that of the scans that are drawn in, see above",
    )
    parser.add_argument("--coarse", type=float, metavar="MM", help="least voxel size of the scans")
    parser.add_argument("--quick-registration", action="store_true", help="8 mm, one atlas")
    parser.add_argument("--until-goal", action="store_true", help="a run ends at the goal")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time")
    parser.add_argument("--goal", type=float, default=0.85)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="does it run at all?")
    given = parser.parse_args()
    if given.quick:
        given.data_set, given.seeds, given.rounds, given.per_round = "phantom", 1, 2, 3
        given.steps, given.strategies, given.device = 30, "ours,uniform,random", "cpu"
    if given.data_set != "phantom" and given.data is None:
        parser.error("--data is needed")
    return given


class Clinician:
    """One strategy with one seed, at work in a study of its own."""

    def __init__(
        self,
        strategy: str,
        seed: int,
        scans: list[Scan],
        names: tuple[str, ...],
        given: argparse.Namespace,
    ) -> None:
        self.strategy, self.seed, self.given = strategy, seed, given
        self.file = Path(given.out) / f"{strategy}-seed{seed}.json"
        self.rows: list[dict] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))["rows"]
        self.cost, self.minutes = Cost(), 0.0
        self.at: str | None = None
        rng = np.random.default_rng((seed, 11))
        self.pool = drawn_in([scan for scan in scans if scan.pool], given.pool, rng)
        self.test = [scan for scan in scans if not scan.pool]
        self.study = self._study(names)
        self.truth: dict[str, np.ndarray] = {}

    def work(self) -> None:
        """Rounds until enough are done; each is kept once it is scored."""
        if self.rows:
            self.minutes, self.at = self.rows[-1]["minutes"], self.rows[-1]["at"]
        for number in range(len(self.rows), self.given.rounds):
            if self.given.until_goal and first_at(self.rows, self.given.goal):
                return
            start = time.process_time()
            rng = np.random.default_rng((self.seed, number, 7))
            drawn = 0
            for case_id, index in self._choices(number, rng):
                self._draw(case_id, index)
                drawn += 1
            self._learn(number)
            dice, found_by_doubt = self._score_own() if self.given.no_learning else self._score()
            self.rows.append(
                {
                    "round": number,
                    "slices": self._count(),
                    "minutes": round(self.minutes, 3),
                    "cases": len(self._touched()),
                    "dice": dice,
                    "auroc": found_by_doubt,
                    "at": self.at,
                    "drawn": drawn,
                    "seconds": round(time.process_time() - start, 1),
                }
            )
            self._save()
            last = self.rows[-1]
            say(
                f"{self.file.stem} round {number}: {last['slices']} slices, "
                f"{last['minutes']:.1f} min, Dice {mean(dice):.3f} ({last['seconds']} s)"
            )

    def _study(self, names: tuple[str, ...]):
        from semiseg.study.protocol import Protocol, common_structure
        from semiseg.study.study import Study

        folder = Path(self.given.out) / "studies" / self.file.stem
        if (folder / "study.json").exists():
            return Study.open(folder)
        structures = tuple(common_structure(name, i) for i, name in enumerate(names, 1))
        study = Study.create(folder, name=self.file.stem, protocol=Protocol(structures))
        for scan in (*self.pool, *self.test):
            study.add_case(
                scan.image,
                case_id=scan.name,
                patient=scan.patient,
                modality=scan.modality,  # type: ignore[arg-type]
                split="train" if scan.pool else "test",
            )
        return study

    def _choices(self, number: int, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
        return getattr(self, f"_by_{self.strategy}")(number, rng)

    def _by_ours(self, _number: int, _rng: np.random.Generator) -> Iterator[tuple[str, int]]:
        from semiseg.suggestion.ranking import SuggestConfig, suggest

        for _ in range(self.given.per_round):
            config = SuggestConfig(n=1, planes=(PLANE,), at=self.at, register_s=1e6)
            for one in suggest(self.study, config):
                yield one.case_id, one.index

    def _by_uniform(self, number: int, _rng: np.random.Generator) -> Iterator[tuple[str, int]]:
        case_id = self.pool[number % len(self.pool)].name
        slices = self._with_structures(case_id)
        turn = number // len(self.pool)
        places = (np.arange(self.given.per_round) + (0.5 + 0.37 * turn) % 1) / self.given.per_round
        found = dict.fromkeys(int(slices[int(p * len(slices))]) for p in places)
        return ((case_id, index) for index in found)

    def _by_random(self, _number: int, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
        free = [(s.name, int(i)) for s in self.pool for i in self._with_structures(s.name)]
        done = {(case, i) for case in self._touched() for i in self._done(case)}
        free = [place for place in free if place not in done]
        chosen = rng.permutation(len(free))[: self.given.per_round]
        return (free[k] for k in sorted(chosen))

    def _by_case_random(self, _number: int, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
        free = sorted({scan.name for scan in self.pool} - self._touched())
        if not free:
            return iter(())
        case_id = free[int(rng.integers(len(free)))]
        return ((case_id, int(index)) for index in self._with_structures(case_id))

    def _by_case_epistemic(
        self, number: int, rng: np.random.Generator
    ) -> Iterator[tuple[str, int]]:
        doubts = {}
        for scan in self.pool:
            said = self.study.suggestion(scan.name)
            if scan.name not in self._touched() and said is not None:
                there = said.array > 0
                doubts[scan.name] = float(said.uncertainty[there].mean()) if there.any() else 1.0
        if not doubts:
            return self._by_case_random(number, rng)
        case_id = max(sorted(doubts), key=lambda name: doubts[name])
        return ((case_id, int(index)) for index in self._with_structures(case_id))

    def _draw(self, case_id: str, index: int) -> None:
        """Draw the truth on one slice, and pay."""
        truth = self._truth(case_id)
        drawn = self.study.human_map(case_id).array
        drawn[index] = truth[index]
        self.study.annotate(case_id, drawn, plane=PLANE, indices=[index], author="simulated")
        seconds = self.cost.slice_s + self._contour_mm(case_id, index) / self.cost.mm_per_s
        seconds += 0.0 if case_id == self.at else self.cost.case_s
        self.minutes += seconds / 60
        self.at = case_id

    def _contour_mm(self, case_id: str, index: int) -> float:
        """True length of all contours in a slice: their pixels' sides, less what stairs add."""
        label = self._truth(case_id)[index]
        _z, y, x = self.study.cases[case_id].grid.spacing_mm_zyx
        total = 0.0
        for structure in self.study.protocol.ids:
            mask = np.pad(label == structure, 1)
            total += float(np.count_nonzero(mask[1:] != mask[:-1]) * x)
            total += float(np.count_nonzero(mask[:, 1:] != mask[:, :-1]) * y)
        return total * np.pi / 4

    def _learn(self, number: int) -> None:
        """Propagate, train, segment: whatever of it is asked for."""
        from semiseg.config import PredictConfig, PropagationConfig, RegistrationConfig, TrainConfig
        from semiseg.inference import predict
        from semiseg.propagation import propagate
        from semiseg.trainer import train

        if not self.given.no_propagation:
            quick = RegistrationConfig(spacing_mm=8.0, iterations=8, device=self.given.device)
            config = PropagationConfig()
            if self.given.quick_registration:
                config = PropagationConfig(atlases=1, registration=quick)
            propagate(self.study, config, case_ids=[scan.name for scan in self.pool])
        if self.given.no_learning:
            return
        settings = TrainConfig(
            minutes=None if self.given.steps else self.given.minutes,
            steps=self.given.steps,
            seed=self.seed * 1000 + number,
            device=self.given.device,
            validation="none",
            dims=self.given.dims,
            clock=self.given.clock,
        )
        model = train(self.study, settings)
        predict(self.study, model, None, PredictConfig(device=self.given.device))

    def _score(self) -> tuple[dict[str, float], dict[str, float]]:
        """Mean Dice over structures per test scan, and how well uncertainty finds wrong voxels."""
        found, aurocs = {}, {}
        for scan in self.test:
            prediction, truth = self.study.prediction(scan.name), self._truth(scan.name)
            found[scan.name] = self._dice(scan, prediction.array)
            area = auroc(prediction.array, truth, prediction.uncertainty)
            if area is not None:
                aurocs[scan.name] = area
        return found, aurocs

    def _score_own(self) -> tuple[dict[str, float], dict[str, float]]:
        """The same of the scans that are drawn in: what is drawn and what propagation added."""
        found, aurocs = {}, {}
        for scan in self.pool:
            label = self.study.label(scan.name)
            if label is None:
                found[scan.name] = 0.0
                continue
            found[scan.name] = self._dice(scan, label.array)
            said = self.study.suggestion(scan.name)
            if said is not None and said.uncertainty is not None:
                area = auroc(label.array, self._truth(scan.name), said.uncertainty)
                aurocs |= {} if area is None else {scan.name: area}
        return found, aurocs

    def _dice(self, scan: Scan, array: np.ndarray) -> float:
        from semiseg.metrics import score

        grid, ids = self.study.cases[scan.name].grid, self.study.protocol.ids
        scores = score(array, self._truth(scan.name), ids, grid.spacing_mm_zyx)
        return mean({s.id: s.dice for s in scores if s.dice == s.dice})

    def _truth(self, case_id: str) -> np.ndarray:
        from semiseg.images.labels import read_label
        from semiseg.importing import to_protocol

        if case_id not in self.truth:
            scan = next(s for s in (*self.pool, *self.test) if s.name == case_id)
            grid = self.study.cases[case_id].grid
            self.truth[case_id] = to_protocol(read_label(scan.label), self.study.protocol, grid)
        return self.truth[case_id]

    def _with_structures(self, case_id: str) -> np.ndarray:
        return np.flatnonzero(self._truth(case_id).any(axis=(1, 2)))

    def _done(self, case_id: str) -> tuple[int, ...]:
        return self.study.ledger(case_id).done(PLANE, self.study.protocol.ids[0])

    def _touched(self) -> set[str]:
        return {scan.name for scan in self.pool if self._done(scan.name)}

    def _count(self) -> int:
        return sum(len(self._done(scan.name)) for scan in self.pool)

    def _save(self) -> None:
        body = {"settings": describe(self.given), "strategy": self.strategy, "seed": self.seed}
        temporary = self.file.with_suffix(".part")
        temporary.write_text(json.dumps(body | {"rows": self.rows}, indent=1), encoding="utf-8")
        temporary.replace(self.file)


def drawn_in(pool: list[Scan], count: int | None, rng: np.random.Generator) -> list[Scan]:
    """`count` scans by chance, of each modality as many as the other; all without a count."""
    if count is None:
        return pool
    kinds = sorted({scan.modality for scan in pool})
    found = []
    for number, kind in enumerate(kinds):
        mine = [scan for scan in pool if scan.modality == kind]
        share = count // len(kinds) + (number < count % len(kinds))
        found += [mine[k] for k in sorted(rng.permutation(len(mine))[:share])]
    return found


def auroc(found: np.ndarray, truth: np.ndarray, uncertainty: np.ndarray) -> float | None:
    """Area under the ROC of uncertainty for wrong voxels within two voxels of any surface.

    The chance that a wrong voxel is more uncertain than a right one; None where all are alike.
    """
    from scipy import ndimage, stats

    either = (found > 0) | (truth > 0)
    inner = (found > 0) & (truth > 0)
    band = ndimage.binary_dilation(either, iterations=2)
    band &= ~ndimage.binary_erosion(inner, iterations=2)
    wrong, doubt = (found != truth)[band], uncertainty[band]
    n_wrong, n_right = int(wrong.sum()), int((~wrong).sum())
    if not n_wrong or not n_right:
        return None
    ranks = stats.rankdata(doubt)
    return float((ranks[wrong].sum() - n_wrong * (n_wrong + 1) / 2) / (n_wrong * n_right))


def table(out: Path, given: argparse.Namespace) -> str:
    """A row per strategy and round, and when the goal was reached."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*-seed*.json"))]
    names = ("strategy", "round", "slices", "minutes", "scans", "Dice", "AUROC", "seeds")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    ends = [f"\n| strategy | slices to Dice {given.goal} | minutes | seeds that reach it |"]
    ends.append("|---" * 4 + "|")
    for strategy in given.strategies.split(","):
        mine = [run for run in runs if run["strategy"] == strategy]
        for number in range(max((len(run["rows"]) for run in mine), default=0)):
            rows = [run["rows"][number] for run in mine if len(run["rows"]) > number]
            figures = [over(rows, lambda r, key=key: r[key]) for key in ("slices", "minutes")]
            scans, dice = over(rows, lambda r: r["cases"]), over(rows, lambda r: mean(r["dice"]))
            cells = [strategy, str(number), *(f"{v:.1f}" for v in figures), f"{scans:.1f}"]
            area = over(rows, lambda r: mean(r["auroc"]))
            cells += [f"{dice:.3f}", f"{area:.3f}", str(len(rows))]
            lines.append("| " + " | ".join(cells) + " |")
        reached = [row for row in (first_at(r["rows"], given.goal) for r in mine) if row]
        costs = [f"{over(reached, lambda r, k=k: r[k]):.1f}" for k in ("slices", "minutes")]
        shown = costs if reached else ["-", "-"]
        ends.append(f"| {strategy} | {shown[0]} | {shown[1]} | {len(reached)} of {len(mine)} |")
    return "\n".join([*lines, *ends])


def first_at(rows: list[dict], goal: float) -> dict | None:
    return next((row for row in rows if mean(row["dice"]) >= goal), None)


def over(rows: list[dict], value: Callable[[dict], float]) -> float:
    return statistics.fmean(value(row) for row in rows) if rows else float("nan")


def mean(values: dict) -> float:
    return statistics.fmean(values.values()) if values else 0.0


def describe(given: argparse.Namespace) -> dict:
    import torch

    import semiseg

    return vars(given) | {
        "data": Path(given.data).name if given.data else None,
        "out": Path(given.out).name,
        "date": datetime.now(UTC).date().isoformat(),
        "semiseg": semiseg.__version__,
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "cost": vars(Cost()),
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
