"""What a run of the small recipe is meant to reach, and whether it did: the ``goals`` of ``results.json``.

A goal is met (true), not met (false), or not measured (null); a figure that is missing never counts as met.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_desta.evaluation.benchmarks.base import SHUFFLED, WITH_AUDIO

ACCURACY = {"domain": 0.95, "language": 0.80, "gender": 0.80}
MORE_ATTRIBUTES = ("sound_class", "instrument_family", "genre", "pitch", "noise")
MORE_COUNT, MORE_RATIO = 2, 2.0  # so many further attributes at so many times their majority baseline
BASELINE_SLACK = 0.05  # above the majority baseline, as a share
MINUTES, PEAK_GIB = 45.0, 8.0
STAGES = ("corpus", "targets", "train", "evaluate")  # whose minutes count; the stage "assets" downloads

AT_LEAST, AT_MOST, EQUAL = "at least", "at most", "equal"
COMPARE = {AT_LEAST: operator.ge, AT_MOST: operator.le, EQUAL: operator.eq}

Goal = dict[str, Any]
"""``{"goal": words, "target", "comparison": "at least" | "at most" | "equal", "measured", "unit", "met": true | false | null, "detail": words}``."""


def check_goals(results: Mapping[str, Any]) -> dict[str, Goal]:
    """Hold results against the goals.

    Args:
        results: ``attributes``, ``minutes``, ``peak_rss_gib`` and ``retention`` of results.json.

    Returns:
        Key -> goal, in the order of the page.
    """
    attributes: Mapping[str, Any] = results["attributes"]
    more = _more(attributes)
    asked = [name for name in ACCURACY if name in attributes] + [row["attribute"] for row in more["attributes"][:MORE_COUNT]]
    return {
        **{f"{name}_accuracy": _accuracy(attributes.get(name), name, target) for name, target in ACCURACY.items()},
        "more_attributes": more,
        "shuffled_at_baseline": _shuffled(attributes, asked, wanted=len(ACCURACY) + MORE_COUNT),
        "minutes": _minutes(results.get("minutes")),
        "peak_memory": _goal("peak memory of any stage", PEAK_GIB, results.get("peak_rss_gib"), "GiB", AT_MOST),
        "retention": _retention(results.get("retention")),
    }


def at_baseline(row: Mapping[str, Any]) -> bool:
    """Whether an attribute's shuffled row is at the majority baseline: its 95 % interval reaches down to it, or it is at most `BASELINE_SLACK` above.

    Below the baseline is at the baseline too: a model that hears the wrong clip well is right as often as two clips share a value, which is less.
    """
    return bool(row[SHUFFLED]["ci95"][0] <= row["majority"] or row[SHUFFLED]["accuracy"] <= row["majority"] + BASELINE_SLACK)


def _goal(words: str, target: Any, measured: Any, unit: str, comparison: str = AT_LEAST, **more: Any) -> Goal:
    met = None if measured is None else bool(COMPARE[comparison](measured, target))
    return {"goal": words, "target": target, "comparison": comparison, "measured": measured, "unit": unit, "met": met, "detail": "", **more}


def _words(attribute: str) -> str:
    return attribute.replace("_", " ")


def _accuracy(row: Mapping[str, Any] | None, name: str, target: float) -> Goal:
    return _goal(f"accuracy of {name}", target, row[WITH_AUDIO]["accuracy"] if row and WITH_AUDIO in row else None, "share")


def _more(attributes: Mapping[str, Any]) -> Goal:
    """Two values in balance have a majority baseline of 0.5, of which twice is 1.0: such an attribute counts only without a single mistake."""
    rows = []
    for name in MORE_ATTRIBUTES:
        if name in attributes and WITH_AUDIO in attributes[name]:
            accuracy, majority = attributes[name][WITH_AUDIO]["accuracy"], attributes[name]["majority"]
            ratio = accuracy / majority
            rows.append({"attribute": name, "accuracy": accuracy, "majority": majority, "ratio": ratio, "met": ratio >= MORE_RATIO - 1e-9})
    rows.sort(key=lambda row: -row["ratio"])
    count = sum(row["met"] for row in rows) if len(rows) >= MORE_COUNT else None  # fewer asked about than wanted: the goal was not put to the test
    words = f"further attributes with accuracy at least {MORE_RATIO:g} times the majority baseline"
    detail = ", ".join(f"{_words(row['attribute'])} {row['ratio']:.2f} times" for row in rows)
    return _goal(words, MORE_COUNT, count, "attributes", attributes=rows, detail=detail)


def _shuffled(attributes: Mapping[str, Any], names: Sequence[str], *, wanted: int) -> Goal:
    found = {name: at_baseline(attributes[name]) for name in names if SHUFFLED in attributes[name]}
    above = [_words(name) for name, fine in found.items() if not fine]
    detail = f"above it: {', '.join(above)}" if above else ", ".join(map(_words, found))
    goal = _goal("attributes of these goals whose shuffled row is at the baseline", wanted, sum(found.values()), "attributes", attributes=found, detail=detail)
    if len(found) < wanted and all(found.values()):
        goal["met"] = None  # some were not asked about
    return goal


def _minutes(minutes: Mapping[str, float | None] | None) -> Goal:
    known = {stage: float(spent) for stage in STAGES if (spent := (minutes or {}).get(stage)) is not None}
    goal = _goal("minutes of all stages, without downloads", MINUTES, sum(known.values()) if known else None, "minutes", AT_MOST)
    missing = [stage for stage in STAGES if stage not in known]
    if goal["met"] and missing:
        goal |= {"met": None, "detail": f"not measured: {', '.join(missing)}"}
    return goal


def _retention(retention: Mapping[str, Any] | None) -> Goal:
    identical = retention["identical"] if retention else None
    return _goal("text-only answers identical before and after training", True, identical, "answer", EQUAL)
