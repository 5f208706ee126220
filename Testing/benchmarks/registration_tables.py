"""The tables of registration.py: Dice and time per group and method, and against one peer."""

from __future__ import annotations

import statistics

REFERENCE = "convexadam"


def key(row: dict) -> tuple:
    return row["group"], row["atlas"], row["case"], row["seed"], row["method"]


def table(rows: list[dict]) -> str:
    """Mean Dice over structures and pairs, spread over pairs."""
    names = sorted({row["structure"] for row in rows}, key=int)
    head = ["group", "method", "pairs", *names, "mean", "sd", "worst", "HD95 mm", "folded %"]
    head += ["CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for group, method in dict.fromkeys((row["group"], row["method"]) for row in rows):
        own = [r for r in rows if (r["group"], r["method"]) == (group, method)]
        lines.append("| " + " | ".join([group, method, *cells(own, names)]) + " |")
    return "\n".join(lines)


def compared_table(rows: list[dict]) -> str:
    """Each pair against the reference on the same pair: Dice gained, and processor time."""
    head = ["group", "method", "pairs", f"Dice above {REFERENCE}", "sd", "better on"]
    head += ["time / its", "spread", "time / its own alone"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    pairs: dict[tuple, dict[str, list[dict]]] = {}
    for row in rows:
        pairs.setdefault(key(row)[:4], {}).setdefault(row["method"], []).append(row)
    both = [
        (place[0], method, found[method], found[REFERENCE])
        for place, found in pairs.items()
        if REFERENCE in found
        for method in found
        if method not in (REFERENCE, "start", "centres")
    ]
    for group, method in dict.fromkeys(one[:2] for one in both):
        own = [one[2:] for one in both if one[:2] == (group, method)]
        lines.append("| " + " | ".join([group, method, *against(own)]) + " |")
    return "\n".join(lines)


def against(pairs: list[tuple[list[dict], list[dict]]]) -> list[str]:
    gains = [mean_dice(ours) - mean_dice(its) for ours, its in pairs]
    times = [ours[0]["seconds"] / its[0]["seconds"] for ours, its in pairs]
    alone = [ours[0]["seconds"] / its[0]["own_seconds"] for ours, its in pairs]
    return [
        str(len(pairs)),
        f"{statistics.fmean(gains):+.3f}",
        f"{statistics.stdev(gains):.3f}" if len(gains) > 1 else "-",
        f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
        f"{statistics.median(times):.2f}",
        f"{min(times):.2f} to {max(times):.2f}",
        f"{statistics.median(alone):.2f}",
    ]


def mean_dice(rows: list[dict]) -> float:
    values = [row["dice"] for row in rows if row["dice"] is not None]
    return statistics.fmean(values) if values else 0.0


def cells(rows: list[dict], names: list[str]) -> list[str]:
    valid = [row for row in rows if row["dice"] is not None]
    pairs: dict[tuple, list[dict]] = {}
    for row in valid:
        pairs.setdefault((row["atlas"], row["case"], row["seed"]), []).append(row)
    means = [statistics.fmean(row["dice"] for row in own) for own in pairs.values()]
    organs = [[row["dice"] for row in valid if row["structure"] == name] for name in names]
    distances = [row["hd95_mm"] for row in valid if row["hd95_mm"] is not None]
    return [
        str(len({pair[:2] for pair in pairs})),
        *(f"{statistics.fmean(values):.3f}" if values else "-" for values in organs),
        f"{statistics.fmean(means):.3f}",
        f"{statistics.stdev(means):.3f}" if len(means) > 1 else "-",
        f"{min(means):.2f}",
        f"{statistics.fmean(distances):.1f}" if distances else "-",
        f"{100 * statistics.fmean(own[0]['folded'] for own in pairs.values()):.3f}",
        f"{statistics.fmean(own[0]['seconds'] for own in pairs.values()):.1f}",
    ]
