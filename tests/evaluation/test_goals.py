import copy

import pytest

from nemo_desta.evaluation.goals import at_baseline, check_goals


def row(accuracy, majority=0.2, shuffled=0.2, low=0.1):
    return {"with_audio": {"accuracy": accuracy}, "shuffled": {"accuracy": shuffled, "ci95": [low, 1.0]}, "majority": majority}


GOOD = {
    "attributes": {
        "domain": row(0.95, 1 / 3, 1 / 3),
        "language": row(0.80),
        "gender": row(0.85, 0.5, 0.5, 0.4),
        "noise": row(0.99, 0.5, 0.5, 0.4),  # 1.98 times
        "genre": row(0.4, 0.2),  # twice, to the digit
        "pitch": row(0.9, 1 / 3, 0.3),
        "style": row(1.0, 0.1),  # is not among those that count
    },
    "minutes": {"assets": 30.0, "corpus": 10.0, "targets": 15.0, "train": 15.0, "evaluate": 5.0},
    "peak_rss_gib": 8.0,
    "retention": {"identical": True, "prompts": 12, "different": 0},
}


def changed(**parts):
    results = copy.deepcopy(GOOD)
    for path, value in parts.items():
        if path in results:
            results[path] = value
        else:
            results["attributes"][path] = value
    return check_goals(results)


def test_all_goals_are_met_at_the_border():
    goals = check_goals(GOOD)
    assert {key: goal["met"] for key, goal in goals.items()} == dict.fromkeys(goals, True)
    assert [r["attribute"] for r in goals["more_attributes"]["attributes"]] == ["pitch", "genre", "noise"]
    assert goals["more_attributes"]["measured"] == 2 and goals["minutes"]["measured"] == 45.0  # downloads do not count
    assert list(goals["shuffled_at_baseline"]["attributes"]) == ["domain", "language", "gender", "pitch", "genre"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("domain_accuracy", {"domain": row(0.949)}),
        ("language_accuracy", {"language": row(0.79)}),
        ("gender_accuracy", {"gender": row(0.0)}),
        ("more_attributes", {"genre": row(0.39)}),
        ("shuffled_at_baseline", {"language": row(0.9, 0.2, 0.26, 0.21)}),
        ("minutes", {"minutes": {**GOOD["minutes"], "train": 15.1}}),
        ("minutes", {"minutes": {"train": 46.0}}),  # too long already, whatever the other stages take
        ("peak_memory", {"peak_rss_gib": 8.01}),
        ("retention", {"retention": {"identical": False}}),
    ],
)
def test_a_goal_that_is_missed_is_said_alone(key, change):
    goals = changed(**change)
    assert [name for name, goal in goals.items() if goal["met"] is False] == [key]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("minutes", {"minutes": None}),
        ("minutes", {"minutes": {"train": 10.0}}),
        ("minutes", {"minutes": {**GOOD["minutes"], "corpus": None}}),
        ("peak_memory", {"peak_rss_gib": None}),
        ("retention", {"retention": None}),
        ("retention", {"retention": {"identical": None}}),
    ],
)
def test_what_was_not_measured_is_null(key, change):
    assert changed(**change)[key]["met"] is None


def test_attributes_that_were_not_asked_about_are_not_measured():
    goals = check_goals({**GOOD, "attributes": {"domain": row(1.0, 0.5, 0.5, 0.4), "genre": row(1.0)}})
    assert goals["domain_accuracy"]["met"] is True and goals["gender_accuracy"]["met"] is None
    assert goals["more_attributes"]["met"] is None and goals["shuffled_at_baseline"]["met"] is None
    assert all(goal["met"] is None for key, goal in check_goals({"attributes": {}}).items()), "nothing is met by nothing"


@pytest.mark.parametrize(
    ("shuffled", "low", "expected"),
    [(0.5, 0.4, True), (0.6, 0.49, True), (0.55, 0.52, True), (0.56, 0.51, False), (0.0, 0.0, True)],
)
def test_baseline_rule(shuffled, low, expected):
    assert at_baseline(row(1.0, 0.5, shuffled, low)) is expected
