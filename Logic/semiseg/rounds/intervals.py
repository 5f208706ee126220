"""Means over cases, with the interval in which the mean of many more cases would lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from semiseg.config import check_range
from semiseg.events import Json
from semiseg.rounds.summary import ALL, ScoreSummary

_ENOUGH_FOR_BOOTSTRAP = 8
_RESAMPLES = 2000
POLICY = (
    "95 % interval of the mean over patients, each counted once: bootstrap with 2000 resamples, "
    "widened for small numbers; Student's t below 8 patients, since a bootstrap cannot reach "
    "beyond what it saw. None for a single patient."
)


def summaries(
    rows: Iterable[Mapping[str, Json]],
    key: str = "dice",
    *,
    patients: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[ScoreSummary]:
    """Per modality and structure; then "all" structures of each modality.

    `rows` as `evaluate` gives them; `patients` by case id, by default each case is its own.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            case_id, modality = str(row.get("case")), str(row.get("modality"))
            patient = (patients or {}).get(case_id, case_id)
            for structure in (str(row.get("structure")), ALL):
                group = found.setdefault((modality, structure), {})
                group.setdefault(patient, []).append(float(value))
    ordered = sorted(found.items(), key=lambda item: (item[0][0], item[0][1] == ALL))
    return [_summary(*group, values, seed) for group, values in ordered]


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean of scores in [0, 1], see `POLICY`; None for fewer than two.

    Values above 1 (millimetres) are allowed; the lower end is never below 0.
    """
    if len(values) < 2:
        return None
    top = 1.0 if max(values) <= 1 else np.inf
    n, array = len(values), np.asarray(values, dtype=np.float64)
    if n < _ENOUGH_FOR_BOOTSTRAP:
        half = float(stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
        low, high = float(array.mean()) - half, float(array.mean()) + half
    else:
        # Expanded percentiles (Hesterberg 2015): resampling n values is too narrow by about
        # sqrt((n - 1) / n) and knows nothing of t.
        tail = float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)))
        rng = np.random.default_rng(seed)
        means = array[rng.integers(0, n, size=(_RESAMPLES, n))].mean(axis=1)
        low, high = (float(v) for v in np.quantile(means, [tail, 1 - tail]))
    return max(low, 0.0), min(high, float(top))


def _summary(
    modality: str, structure: str, values: Mapping[str, Sequence[float]], seed: int
) -> ScoreSummary:
    check_range("seed", seed, 0, 2**63)
    each = [float(np.mean(found)) for found in values.values()]
    ends = interval(each, seed=seed)
    return ScoreSummary(
        modality=modality,
        structure=structure,
        mean=float(np.mean(each)),
        n=len(each),
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
    )
