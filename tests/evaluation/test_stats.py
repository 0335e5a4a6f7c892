import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.evaluation.stats import cluster_bootstrap, derangement, macro_accuracy, majority_share, swap_agreement, wilson


def test_wilson_equals_published_values():
    # Newcombe 1998, table I: 81/263 and 15/148, score method without continuity correction
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


@pytest.mark.parametrize("correct", [0, 20])
def test_wilson_has_width_at_the_ends(correct):
    low, high = wilson(correct, 20)
    assert high - low > 0.1 and 0.0 <= low <= high <= 1.0


def test_wilson_refuses_no_items():
    with pytest.raises(ValueError, match="0 correct of 0"):
        wilson(0, 0)


def test_wilson_covers_the_truth_about_95_times_of_100():
    rng = np.random.default_rng(0)
    hits = [low <= 0.8 <= high for low, high in (wilson(int(rng.binomial(60, 0.8)), 60) for _ in range(2000))]
    assert 0.93 < np.mean(hits) < 0.98


def test_bootstrap_covers_the_mean_of_clustered_scores():
    rng = np.random.default_rng(1)
    hits = plain_hits = 0
    for trial in range(200):
        chance = rng.beta(4, 2, size=40)  # speakers differ: mean 2/3
        scores = [float(rng.random() < p) for p in chance for _ in range(10)]
        clusters = [speaker for speaker in range(40) for _ in range(10)]
        low, high = cluster_bootstrap(scores, clusters, resamples=300, seed=trial)
        hits += low <= 2 / 3 <= high
        low, high = cluster_bootstrap(scores, range(400), resamples=300, seed=trial)
        plain_hits += low <= 2 / 3 <= high
    assert hits / 200 > 0.88
    assert plain_hits < hits  # taking a speaker's clips as independent makes the interval too narrow


def test_bootstrap_is_a_function_of_its_seed():
    scores, clusters = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0] * 5, list("aabbcc") * 5
    first = cluster_bootstrap(scores, clusters, resamples=200, seed=3)
    assert first == cluster_bootstrap(scores, clusters, resamples=200, seed=3)
    assert first != cluster_bootstrap(scores, clusters, resamples=200, seed=4)


def test_bootstrap_needs_two_clusters_and_resamples():
    assert cluster_bootstrap([1.0, 0.0], ["a", "a"], resamples=100, seed=0) is None
    assert cluster_bootstrap([1.0, 0.0], ["a", "b"], resamples=0, seed=0) is None


def test_macro_bootstrap_brackets_the_macro_accuracy():
    golds = ["a"] * 90 + ["b"] * 10
    scores = [1.0] * 90 + [0.0, 1.0] * 5
    macro = macro_accuracy(golds, scores)
    assert macro == pytest.approx(0.75)
    low, high = cluster_bootstrap(scores, range(100), resamples=500, seed=0, golds=golds)
    assert 0.5 < low < macro < high < 1.0


@given(st.integers(2, 60), st.integers(0, 1000))
def test_derangement_moves_everything(n, seed):
    order = derangement(n, seed)
    assert sorted(order) == list(range(n))
    assert all(i != j for i, j in enumerate(order))
    assert order == derangement(n, seed)


def test_one_item_has_no_derangement():
    with pytest.raises(ValueError, match="at least two"):
        derangement(1, 0)


def test_swap_agreement_is_what_a_perfect_model_scores_on_swapped_clips():
    golds = list("aaaabbc")
    measured = np.mean([[golds[i] == golds[j] for i, j in enumerate(derangement(7, seed))] for seed in range(3000)])
    assert swap_agreement(golds) == pytest.approx(measured, abs=0.01)
    assert majority_share(golds) == pytest.approx(4 / 7)
