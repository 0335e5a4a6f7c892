"""Scores and aggregates of classification questions; nothing here calls a model, so a journal can be scored again at any time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nemo_desta.evaluation import stats
from nemo_desta.evaluation.benchmarks.base import NO_AUDIO, SHUFFLED, WITH_AUDIO, Benchmark, Scored
from nemo_desta.evaluation.journal import Prediction

UNPARSED = "(unparsed)"
OTHER = "(other)"  # an answer outside the gold values of the track


def score_predictions(benchmark: Benchmark, predictions: Iterable[Prediction]) -> list[Scored]:
    """Extract and score journaled responses with the benchmark's current rules.

    Raises:
        ValueError: an item and condition of the benchmark has no prediction: denominators never shrink silently.
    """
    by_key = {(p.item, p.condition): p for p in predictions}
    scored, missing = [], []
    for item in benchmark.load():
        for condition in benchmark.conditions:
            prediction = by_key.get((item.id, condition))
            if prediction is None:
                missing.append(f"{item.id} ({condition})")
                continue
            parsed = benchmark.extract(item, prediction.response)
            scored.append(Scored(item, condition, prediction.response, parsed, benchmark.score(item, parsed)))
    if missing:
        raise ValueError(f"{len(missing)} items have no prediction, first {', '.join(missing[:3])}: run the evaluation again, it goes on where it stopped")
    return scored


def confusion(scored: Sequence[Scored]) -> dict[str, Any]:
    """Counts of gold (rows) against given answers (columns; the last two are `OTHER` and `UNPARSED`)."""
    golds = sorted({s.item.gold for s in scored})
    columns = [*golds, OTHER, UNPARSED]
    matrix = [[0] * len(columns) for _ in golds]
    for s in scored:
        given = UNPARSED if s.parsed is None else s.parsed if s.parsed in golds else OTHER
        matrix[golds.index(s.item.gold)][columns.index(given)] += 1
    return {"gold": golds, "answers": columns, "matrix": matrix}


def condition_summary(scored: Sequence[Scored], *, resamples: int, seed: int) -> dict[str, Any]:
    """Accuracy of one condition of one track, with its intervals and counts."""
    scores = [s.score for s in scored]
    golds = [s.item.gold for s in scored]
    clusters = [s.item.cluster or s.item.id for s in scored]
    correct = sum(score == 1.0 for score in scores)
    return {
        "accuracy": correct / len(scores),
        "n": len(scores),
        "ci95": list(stats.wilson(correct, len(scores))),
        "ci95_clusters": _listed(stats.cluster_bootstrap(scores, clusters, resamples=resamples, seed=seed)),
        "macro_accuracy": stats.macro_accuracy(golds, scores),
        "macro_ci95": _listed(stats.cluster_bootstrap(scores, clusters, resamples=resamples, seed=seed, golds=golds)),
        "correct": correct,
        "unparsed": sum(s.parsed is None for s in scored),
    }


def track_summary(scored: Sequence[Scored], *, resamples: int, seed: int) -> dict[str, Any]:
    """All conditions of one track, its baselines and the gain of hearing the clip over hearing another one."""
    by_condition: dict[str, list[Scored]] = {}
    for s in scored:
        by_condition.setdefault(s.condition, []).append(s)
    first = next(iter(by_condition.values()))
    golds = [s.item.gold for s in first]
    summary: dict[str, Any] = {name: condition_summary(rows, resamples=resamples, seed=seed) for name, rows in by_condition.items()}
    summary["majority"] = stats.majority_share(golds)
    summary["swap_agreement"] = stats.swap_agreement(golds)
    summary["values"] = {value: golds.count(value) for value in sorted(set(golds))}
    summary["clusters"] = len({s.item.cluster or s.item.id for s in first})
    for other in (SHUFFLED, NO_AUDIO):
        if WITH_AUDIO in by_condition and other in by_condition:
            summary[f"gain_over_{other}"] = _gain(by_condition[WITH_AUDIO], by_condition[other], resamples=resamples, seed=seed)
    summary["confusion"] = {name: confusion(rows) for name, rows in by_condition.items()}
    return summary


def summarise_tracks(scored: Sequence[Scored], *, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """`track_summary` of every track, in the order of their first item."""
    by_track: dict[str, list[Scored]] = {}
    for s in scored:
        by_track.setdefault(s.item.track, []).append(s)
    return {track: track_summary(rows, resamples=resamples, seed=seed) for track, rows in by_track.items()}


def _gain(heard: Sequence[Scored], other: Sequence[Scored], *, resamples: int, seed: int) -> Mapping[str, Any]:
    """Mean difference on the same items."""
    base = {s.item.id: s.score for s in other}
    differences = [s.score - base[s.item.id] for s in heard]
    clusters = [s.item.cluster or s.item.id for s in heard]
    return {
        "difference": sum(differences) / len(differences),
        "ci95": _listed(stats.cluster_bootstrap(differences, clusters, resamples=resamples, seed=seed)),
    }


def _listed(interval: stats.Interval | None) -> list[float] | None:
    return list(interval) if interval else None
