"""Accuracy, its intervals and its baselines.

Two intervals, for two questions:

* `wilson`: the 95 % score interval of a proportion. No resampling, honest at 0 %, at 100 % and for a dozen items; it takes the items as independent.
* `cluster_bootstrap`: seeded percentile bootstrap that draws whole clusters (speakers, source files), for items of one voice that are not independent,
  for macro accuracy and for differences between two conditions on the same items.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
Interval = tuple[float, float]


def wilson(correct: int, n: int, z: float = Z95) -> Interval:
    """Wilson's score interval of `correct` out of `n`.

    Raises:
        ValueError: `n` is not positive or `correct` is not within 0..n.
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"no interval for {correct} correct of {n}: there must be at least one item and 0 <= correct <= n")
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # p: rounding at 0 and 1


def majority_share(golds: Sequence[str]) -> float:
    """Accuracy of always giving the most common gold answer."""
    return max(Counter(golds).values()) / len(golds) if golds else 0.0


def swap_agreement(golds: Sequence[str]) -> float:
    """Probability that two different items have the same gold answer: what a perfect model scores on average when the clips are swapped."""
    n = len(golds)
    return sum(count * (count - 1) for count in Counter(golds).values()) / (n * (n - 1)) if n > 1 else 0.0


def macro_accuracy(golds: Sequence[str], scores: Sequence[float]) -> float:
    """Mean over the gold values of the accuracy on that value."""
    by_value: dict[str, list[float]] = {}
    for gold, score in zip(golds, scores, strict=True):
        by_value.setdefault(gold, []).append(score)
    return sum(sum(s) / len(s) for s in by_value.values()) / len(by_value) if by_value else 0.0


def derangement(n: int, seed: int) -> list[int]:
    """A seeded random permutation of ``range(n)`` that leaves nothing in its place (Sattolo's algorithm: one cycle, all such cycles equally likely).

    Raises:
        ValueError: `n` is 1, which has none.
    """
    if n == 1:
        raise ValueError("one item cannot be swapped with another: at least two are needed")
    order = list(range(n))
    rng = np.random.default_rng(seed)
    for i in range(n - 1, 0, -1):
        j = int(rng.integers(0, i))
        order[i], order[j] = order[j], order[i]
    return order


def _draws(clusters: Sequence[Hashable], resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of each item's cluster [n] and how often each cluster is drawn [resamples, clusters]."""
    names = list(dict.fromkeys(clusters))
    position = {name: i for i, name in enumerate(names)}
    index = np.array([position[c] for c in clusters])
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return index, counts


def _sums(values: np.ndarray, index: np.ndarray, clusters: int) -> np.ndarray:
    return np.bincount(index, weights=values, minlength=clusters)


def cluster_bootstrap(
    scores: Sequence[float], clusters: Sequence[Hashable], *, resamples: int, seed: int, golds: Sequence[str] | None = None, level: float = 0.95
) -> Interval | None:
    """Percentile interval of the mean score under resampling of whole clusters.

    Args:
        scores: one number an item; differences of two conditions are as good as scores.
        clusters: the item's cluster; give each item its own for the ordinary bootstrap.
        golds: give them for the macro mean (mean over gold values; a value that a draw misses is left out of that draw).
        level: coverage.

    Returns:
        (low, high); None where there are fewer than two clusters, or no resamples are asked for.
    """
    if resamples <= 0 or len(set(clusters)) < 2:
        return None
    values = np.asarray(scores, dtype=np.float64)
    index, counts = _draws(clusters, resamples, seed)
    labels = np.asarray(golds) if golds is not None else np.zeros(len(values), dtype=int)
    means = []
    for label in np.unique(labels):
        member = (labels == label).astype(np.float64)
        drawn = counts @ _sums(member, index, counts.shape[1])
        total = counts @ _sums(values * member, index, counts.shape[1])
        means.append(np.where(drawn > 0, total / np.maximum(drawn, 1), np.nan))
    statistic = np.nanmean(np.stack(means), axis=0)
    low, high = np.nanquantile(statistic, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
