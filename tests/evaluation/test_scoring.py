import pytest

from nemo_desta.evaluation.benchmarks.base import WITH_AUDIO, Item, Scored
from nemo_desta.evaluation.runner import GenerationSettings, run_benchmark
from nemo_desta.evaluation.scoring import OTHER, UNPARSED, confusion, score_predictions, summarise_tracks
from tests.evaluation.toys import HearingModel


def results_of(benchmark, model, tmp_path):
    predictions = run_benchmark(benchmark, lambda: model, tmp_path / "p.jsonl", run="r", settings=GenerationSettings(), progress=False)
    return benchmark.aggregate(score_predictions(benchmark, predictions))["attributes"]


def test_a_model_that_hears_is_perfect_and_falls_to_the_swap_rate(benchmark, tmp_path):
    results = results_of(benchmark, HearingModel({"gender": "A woman."}), tmp_path)
    for name, row in results.items():
        assert row["with_audio"]["accuracy"] == row["with_audio"]["macro_accuracy"] == 1.0, name
        assert row["shuffled_follows_clip"] == 1.0
        agreeing = sum(i.gold == i.meta["shuffled_value"] for i in benchmark.load() if i.track == name)
        assert row["shuffled"]["correct"] == agreeing
        assert row["gain_over_shuffled"]["difference"] == pytest.approx(1 - row["shuffled"]["accuracy"])
    silent = results["gender"]["no_audio"]
    assert silent["accuracy"] == results["gender"]["majority"] == 0.5
    assert silent["macro_accuracy"] == 0.5 and silent["unparsed"] == 0


def test_a_deaf_model_scores_the_same_under_all_conditions(benchmark, tmp_path):
    class Deaf(HearingModel):
        def answer(self, conversation):
            return "It is music."

    row = results_of(benchmark, Deaf(), tmp_path)["domain"]
    assert row["with_audio"]["accuracy"] == row["shuffled"]["accuracy"] == row["no_audio"]["accuracy"] == pytest.approx(1 / 3)
    assert row["gain_over_shuffled"]["difference"] == 0.0


def test_unreadable_answers_are_wrong_and_counted(benchmark, tmp_path):
    class Vague(HearingModel):
        def answer(self, conversation):
            return "male or female, English or French, who knows?"

    row = results_of(benchmark, Vague(), tmp_path)["gender"]["with_audio"]
    assert row["accuracy"] == 0.0 and row["unparsed"] == row["n"] and row["ci95"][1] > 0


def scored(gold, parsed, n, cluster="a"):
    return [Scored(Item(f"{gold}{parsed}{i}{cluster}", "t", "q", gold, cluster=cluster), WITH_AUDIO, "", parsed, float(gold == parsed)) for i in range(n)]


def test_confusion_counts_add_up():
    counts = confusion(scored("x", "x", 3) + scored("x", "y", 1) + scored("y", None, 2) + scored("y", "z", 4))
    assert counts == {"gold": ["x", "y"], "answers": ["x", "y", OTHER, UNPARSED], "matrix": [[3, 1, 0, 0], [0, 0, 4, 2]]}


def test_summary_of_a_known_table():
    rows = scored("x", "x", 8, "s1") + scored("x", "y", 2, "s2") + scored("y", "y", 1, "s3") + scored("y", None, 4, "s4")
    row = summarise_tracks(rows, resamples=200, seed=0)["t"]
    heard = row["with_audio"]
    assert (heard["n"], heard["correct"], heard["unparsed"]) == (15, 9, 4)
    assert heard["accuracy"] == pytest.approx(0.6) and heard["macro_accuracy"] == pytest.approx((0.8 + 0.2) / 2)
    assert row["majority"] == pytest.approx(10 / 15) and row["values"] == {"x": 10, "y": 5} and row["clusters"] == 4
    assert heard["ci95_clusters"][1] - heard["ci95_clusters"][0] > heard["ci95"][1] - heard["ci95"][0]  # four voices tell less than fifteen clips
    assert "shuffled" not in row
