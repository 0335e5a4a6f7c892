"""Verdicts of a benchmark's items under both modes, their counts, intervals and the agreement of two judges. Calls no model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nemo_desta.evaluation import stats
from nemo_desta.evaluation.benchmarks.base import Item, Judged, Mode, Status, Verdict, ZeroShotBenchmark
from nemo_desta.evaluation.inference import Response
from nemo_desta.evaluation.judging import Judgements

AGGREGATED_ITEMS = 200_000  # items that the resamples of a figure aggregate in all: a few seconds
MIN_RESAMPLES = 100
NO_TEXT = "no_text"
NAMED = 200  # missing items and errors that results name; scored/<benchmark>.jsonl names all


@dataclass(frozen=True)
class Loaded:
    """An item and the subset that it was loaded from."""

    item: Item
    subset: str


def judge_item(
    benchmark: ZeroShotBenchmark, item: Item, response: Response | None, judgements: Judgements | None, mode: Mode, *, needs_judge: bool = False
) -> Judged:
    """Score an item; a response or reply that an error prevented is counted as an error, whatever the benchmark's rules say of its absence."""
    replies = judgements.of(item.id) if judgements else {}
    text = response.response if response else None
    verdict = benchmark.score(item, text, replies, mode)
    if text is None:
        failed = response is not None and bool(response.error) and response.kind != NO_TEXT
        verdict = replace(verdict, status=Status.error if failed else Status.missing)
    elif verdict.status is not Status.scored and ((judgements and judgements.error(item.id)) or (needs_judge and judgements is None)):
        verdict = replace(verdict, status=Status.error)
    return Judged(item, text, replies, verdict)


def score_of(verdict: Verdict) -> float:
    """The score as a number: what has none counts as 0."""
    return float(verdict.score or 0.0)


def intervals(
    benchmark: ZeroShotBenchmark, judged: Sequence[Judged], subsets: Sequence[str], whole: Mapping[str, Any], mode: Mode, *, resamples: int, seed: int
) -> dict[str, Any]:
    """95 % intervals of the primary figure and of every group.

    A figure that is a share of right answers (its row has ``correct`` and ``n``) gets Wilson's score interval if it is a group, the primary figure a seeded
    percentile bootstrap over whole clusters. Any other figure, whatever its formula, is computed anew on resamples of whole clusters within each subset.

    Returns:
        ``{"primary": [low, high] | None, "groups": {group: {value: [low, high]}}, "resamples": of figures computed anew, "primary_resamples"}``.
    """
    unit = whole["primary"].get("unit")
    groups = {group: {str(value): _wilson(row, unit) for value, row in rows.items()} for group, rows in (whole.get("groups") or {}).items()}
    primary = _of_mean(judged, whole, resamples=resamples, seed=seed)
    drawn = 0
    if primary is None or any(interval is None for rows in groups.values() for interval in rows.values()):
        drawn = min(resamples, max(MIN_RESAMPLES, AGGREGATED_ITEMS // max(1, len(judged)))) if resamples > 0 else 0
        anew = _resampled(benchmark, judged, subsets, mode, drawn, seed)
        groups = {group: {value: interval or anew.get((group, value)) for value, interval in rows.items()} for group, rows in groups.items()}
        return {"primary": primary or anew.get(("", "")), "groups": groups, "resamples": drawn, "primary_resamples": resamples if primary else drawn}
    return {"primary": primary, "groups": groups, "resamples": 0, "primary_resamples": resamples}


def _wilson(row: Mapping[str, Any], unit: str | None) -> list[float] | None:
    """Wilson's interval of a row that counts right answers, in the row's unit, else that of the primary figure; None for another figure."""
    value, correct, n = row.get("value"), row.get("correct"), row.get("n")
    if not isinstance(value, int | float) or not isinstance(correct, int | float) or not n or correct != int(correct):
        return None
    factor = 100.0 if (row.get("unit") or unit) == "%" else 1.0
    return [factor * bound for bound in stats.wilson(int(correct), n)] if abs(value - factor * correct / n) < 1e-6 else None


def _resampled(
    benchmark: ZeroShotBenchmark, judged: Sequence[Judged], subsets: Sequence[str], mode: Mode, drawn: int, seed: int
) -> dict[tuple[str, str], list[float]]:
    """Percentile intervals of all figures over `drawn` resamples."""
    strata = _strata(judged, subsets)
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(drawn):
        sample = [judged[i] for clusters in strata for c in rng.integers(0, len(clusters), len(clusters)) for i in clusters[c]]
        for key, value in _figures(benchmark.aggregate(sample, mode)).items():
            found.setdefault(key, []).append(value)
    return {key: _percentiles(values) for key, values in found.items() if len(values) > 1}


def _strata(judged: Sequence[Judged], subsets: Sequence[str]) -> list[list[list[int]]]:
    """Indices of the items of each cluster of each subset."""
    by: dict[str, dict[str, list[int]]] = {}
    for index, (j, subset) in enumerate(zip(judged, subsets, strict=True)):
        by.setdefault(subset, {}).setdefault(j.item.cluster or j.item.id, []).append(index)
    return [list(clusters.values()) for clusters in by.values()]


def _figures(aggregate: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """The primary figure under ("", "") and each group's value."""
    figures = {("", ""): (aggregate.get("primary") or {}).get("value")}
    for group, rows in (aggregate.get("groups") or {}).items():
        figures |= {(group, str(value)): row.get("value") for value, row in rows.items()}
    return {key: float(value) for key, value in figures.items() if isinstance(value, int | float) and np.isfinite(value)}


def _percentiles(values: Sequence[float]) -> list[float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def _of_mean(judged: Sequence[Judged], whole: Mapping[str, Any], *, resamples: int, seed: int) -> list[float] | None:
    """Interval of the primary figure if it is the mean score, as a share or in percent; else None."""
    value = (whole.get("primary") or {}).get("value")
    scores = [score_of(j.verdict) for j in judged]
    if not isinstance(value, int | float) or not scores:
        return None
    mean = sum(scores) / len(scores)
    factor = next((f for f in (1.0, 100.0) if abs(value - f * mean) < 1e-9 * max(1.0, abs(value))), None)
    if factor is None:
        return None
    bounds = stats.cluster_bootstrap(scores, [j.item.cluster or j.item.id for j in judged], resamples=resamples, seed=seed)
    return [factor * bound for bound in bounds] if bounds else None


def agreement(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, Any]:
    """How far two judges agree on the items that both gave replies for.

    Returns:
        ``n``; ``same``: share of equal scores; ``kappa``: Cohen's, over the scores as categories, None where there is but one; ``mean_difference``: mean
        absolute difference of the scores; ``items``: the first ids that differ.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.replies and b.replies]
    scores = [(score_of(a.verdict), score_of(b.verdict)) for a, b in pairs]
    if not scores:
        return {"n": 0, "same": None, "kappa": None, "mean_difference": None, "items": []}
    n = len(scores)
    same = sum(a == b for a, b in scores) / n
    left, right = Counter(a for a, _ in scores), Counter(b for _, b in scores)
    chance = sum(left[value] * right[value] for value in left) / (n * n)
    different = [a.item.id for (a, _), (x, y) in zip(pairs, scores, strict=True) if x != y]
    return {
        "n": n,
        "same": same,
        "kappa": None if chance == 1 else (same - chance) / (1 - chance),
        "mean_difference": sum(abs(a - b) for a, b in scores) / n,
        "items": different[:NAMED],
    }
