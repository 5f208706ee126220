"""Tables of compared methods: Dice and HD95 per modality and structure, gains, times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tables import figure, markdown, mean, spread

Run = dict
BASELINES = ("supervised", "supervised@CT", "supervised@MR")
"""Supervised learning from drawn labels alone: on both modalities, and on one without the other."""


def tables(runs: list[Run]) -> str:
    """Everything that is known of `runs`, each the content of one file."""
    parts = [
        ("Dice", dice_table(runs)),
        ("Gain in Dice over the better baseline, per structure", gain_table(runs)),
        ("HD95 in mm", hd95_table(runs)),
        ("Seconds", time_table(runs)),
    ]
    return "\n\n".join(f"**{title}**\n\n{found}" for title, found in parts)


def dice_table(runs: list[Run]) -> str:
    """Mean over scans and seeds; the gain is over the better supervised baseline."""
    head = ["labelled", "tested on", "method", *structures(runs), "mean", "sd over seeds"]
    head += ["steps", "gain (95 % interval)", "over"]
    rows = []
    for labelled, modality, method, ours in groups(runs):
        over, base = better_baseline(runs, labelled, modality)
        steps = [run["steps"] for run in ours]
        rows.append(
            [
                *(labelled, modality, method),
                *(figure(overall(ours, modality, "dice", one)) for one in structures(runs)),
                figure(overall(ours, modality, "dice")),
                figure(spread(seed_means(ours, modality, "dice"))),
                f"{min(steps)}-{max(steps)}",
                *(("-", "-") if method == over else (gain(ours, base, modality), over)),
            ]
        )
    return markdown(head, rows)


def gain_table(runs: list[Run]) -> str:
    """Paired differences of Dice for each structure."""
    rows = []
    for labelled, modality, method, ours in groups(runs):
        over, base = better_baseline(runs, labelled, modality)
        if method != over:
            gains = (gain(ours, base, modality, only=one) for one in structures(runs))
            rows.append([labelled, modality, method, over, *gains])
    return markdown(["labelled", "tested on", "method", "over", *structures(runs)], rows)


def hd95_table(runs: list[Run]) -> str:
    """Means over what was found; structures that a network missed altogether are counted."""
    head = ["labelled", "tested on", "method", *structures(runs), "mean", "missed"]
    head += ["difference (95 % interval)", "to"]
    rows = []
    for labelled, modality, method, ours in groups(runs):
        over, base = better_baseline(runs, labelled, modality)
        difference = gain(ours, base, modality, what="hd95_mm", digits=1)
        rows.append(
            [
                *(labelled, modality, method),
                *(figure(overall(ours, modality, "hd95_mm", one), 1) for one in structures(runs)),
                figure(overall(ours, modality, "hd95_mm"), 1),
                missed(ours, modality),
                *(("-", "-") if method == over else (difference, over)),
            ]
        )
    return markdown(head, rows)


def time_table(runs: list[Run]) -> str:
    """Mean seconds of each stage, of the wall clock / of processors; carrying is done once."""
    stages = ("propagate", "train", "predict", "segment_pool")
    rows = []
    for labelled, method in sorted({(labelled_of(r), r["run"]["method"]) for r in runs}):
        ours = chosen(runs, labelled, method)
        rows.append([labelled, method, *(seconds(ours, stage) for stage in stages)])
    return markdown(["labelled", "method", *stages], rows)


def seconds(runs: list[Run], stage: str) -> str:
    wall = mean(run["seconds"].get(stage) for run in runs)
    processor = mean(run.get("processor_seconds", {}).get(stage) for run in runs)
    return "-" if wall is None else f"{wall:.0f} / {figure(processor, 0)}"


def groups(runs: list[Run]) -> Iterator[tuple[str, str, str, list[Run]]]:
    """Labels, tested modality, method, and the runs that have all of them, in this order."""
    keys = sorted({(labelled_of(r), m) for r in runs for m in r["modality"].values()})
    for labelled, modality in keys:
        for method in sorted({r["run"]["method"] for r in runs}):
            ours = chosen(runs, labelled, method)
            if ours:
                yield labelled, modality, method, ours


def chosen(runs: list[Run], labelled: str, method: str) -> list[Run]:
    return [r for r in runs if labelled_of(r) == labelled and r["run"]["method"] == method]


def labelled_of(run: Run) -> str:
    return str(run["run"]["labelled"])


def structures(runs: list[Run]) -> list[str]:
    """In the order of the protocol."""
    return list(dict.fromkeys(key.rsplit(" ", 1)[1] for run in runs for key in run["dice"]))


def better_baseline(runs: list[Run], labelled: str, modality: str) -> tuple[str, list[Run]]:
    """The baseline with the higher mean Dice on what is tested, so that no gain is too large."""
    found = {name: chosen(runs, labelled, name) for name in BASELINES}
    scores = {name: overall(ours, modality, "dice") for name, ours in found.items() if ours}
    if not scores:
        return "-", []
    name = max(scores, key=lambda one: scores[one] or 0.0)
    return name, found[name]


def overall(runs: list[Run], modality: str, what: str, only: str | None = None) -> float | None:
    """Mean over seeds of the mean over scans of the mean over structures, or of `only` one."""
    return mean(seed_means(runs, modality, what, only))


def seed_means(
    runs: list[Run], modality: str, what: str, only: str | None = None
) -> list[float | None]:
    return [mean(per_scan(run, modality, what, only).values()) for run in runs]


def per_scan(
    run: Run, modality: str, what: str = "dice", only: str | None = None
) -> dict[str, float]:
    """Mean over structures of each test scan; what has no figure is left out."""
    scans: dict[str, list[float]] = {}
    for key, value in run.get(what, {}).items():
        name, structure = key.rsplit(" ", 1)
        if value is not None and run["modality"][name] == modality and only in (None, structure):
            scans.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in scans.items()}


def missed(runs: list[Run], modality: str) -> str:
    """Structures without an HD95 of those with a Dice: one of the two is empty."""
    keys = [
        (run, key)
        for run in runs
        for key, dice in run["dice"].items()
        if "hd95_mm" in run
        and dice is not None
        and run["modality"][key.rsplit(" ", 1)[0]] == modality
    ]
    without = sum(run["hd95_mm"][key] is None for run, key in keys)
    return f"{without} of {len(keys)}" if keys else "-"


def gain(
    ours: list[Run],
    base: list[Run],
    modality: str,
    *,
    what: str = "dice",
    only: str | None = None,
    digits: int = 3,
) -> str:
    """Mean paired difference with its 95 % bootstrap interval over patients.

    Scan by scan within each seed that both have, then averaged over seeds and a patient's scans.
    """
    pairs = paired(ours, base, modality, what, only)
    values = [float(np.mean(found)) for found in pairs.values()]
    if not values:
        return "-"
    middle = f"{np.mean(values):+.{digits}f}"
    if len(values) < 3:
        return middle
    low, high = interval(values)
    return f"{middle} ({low:+.{digits}f} to {high:+.{digits}f})"


def paired(
    ours: list[Run], base: list[Run], modality: str, what: str, only: str | None
) -> dict[str, list[float]]:
    """Differences by patient."""
    theirs = {run["run"]["seed"]: run for run in base}
    found: dict[str, list[float]] = {}
    for run in ours:
        if run["run"]["seed"] not in theirs:
            continue
        mine = per_scan(run, modality, what, only)
        other = per_scan(theirs[run["run"]["seed"]], modality, what, only)
        for name in mine.keys() & other.keys():
            patient = run.get("patient", {}).get(name, name)
            found.setdefault(patient, []).append(mine[name] - other[name])
    return dict(sorted(found.items()))


def interval(values: list[float]) -> tuple[float, float]:
    """Percentiles of resampled means; the same for the same values."""
    from scipy import stats

    found = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(0), method="percentile")
    low, high = found.confidence_interval
    return float(low), float(high)
