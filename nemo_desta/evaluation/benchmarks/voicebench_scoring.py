"""The evaluators of VoiceBench, item by item, and the figures of a run."""

import logging
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from nemo_desta.evaluation import ifeval, pedant
from nemo_desta.evaluation.benchmarks import tally
from nemo_desta.evaluation.benchmarks.base import Item, Judged, Mode, Status, Verdict
from nemo_desta.evaluation.benchmarks.voicebench_rules import extract_bbh, extract_choice, is_refusal, without_marker

logger = logging.getLogger(__name__)

RATINGS = (1.0, 5.0)  # of the judge, lowest and highest
RATED = ("alpacaeval_full", "commoneval", "wildvoice")  # subsets of the overall that are rated
_SEED = 0
_BRACKETED = re.compile(r"\[\[(\d+)\]\]")
_NO_REPLY = {"problem": "no reply of a judge"}


def score(item: Item, response: str | None, replies: Sequence[str], mode: Mode) -> Verdict:
    """The verdict of an item; a missing response is wrong (a rated one gets the lowest rating)."""
    evaluator = str(item.meta["evaluator"])
    if response is None:
        return _missing(item, evaluator)
    return _EVALUATORS[evaluator](item, response, replies, mode)


def _missing(item: Item, evaluator: str) -> Verdict:
    if evaluator == "open":
        return Verdict(None, None, Status.missing, {"ratings": [RATINGS[0]] * 3})
    if evaluator == "ifeval":
        nothing = [False] * len(item.meta["instruction_id_list"])
        return Verdict(0.0, None, Status.missing, {"strict": nothing, "loose": nothing})
    return Verdict(0.0, None, Status.missing, {"panda": False, "judge": False} if evaluator == "qa" else {})


# ---------------------------------------------------------------- ratings and votes of the judge


def parse_rating(reply: str, mode: Mode | str = Mode.official) -> float | None:
    """The rating of a reply: a number, or one in double brackets; None where the official script ends with an exception. Strict mode wants 1..5."""
    try:
        rating = float(reply)
    except ValueError:
        found = _BRACKETED.search(reply)
        rating = float(found[1]) if found else math.nan
    if not math.isfinite(rating) or (Mode(mode) is Mode.strict and not RATINGS[0] <= rating <= RATINGS[1]):
        return None
    return rating


def majority(replies: Sequence[str], key: str = "") -> bool:
    """Whether most replies are exactly "yes" (case aside). Among equally frequent replies one is drawn, seeded by `key`; the official choice depends on the
    order of a set, which changes from run to run."""
    most = most_frequent(replies)
    return (most[0] if len(most) == 1 else random.Random(f"{_SEED}/{key}").choice(most)) == "yes"


def most_frequent(replies: Sequence[str]) -> list[str]:
    """The replies (case aside) that no other outnumbers, in alphabetical order."""
    counts = Counter(reply.strip().lower() for reply in replies)
    return sorted(reply for reply, n in counts.items() if n == max(counts.values()))


@cache
def _warn_once(problem: str) -> None:
    logger.warning("SD-QA gets no value: %s", problem)


def _open(item: Item, response: str, replies: Sequence[str], mode: Mode) -> Verdict:
    if not replies:
        return Verdict(None, None, Status.error, {"ratings": [RATINGS[0]] * 3, **_NO_REPLY})
    read = [parse_rating(reply.strip(), mode) for reply in replies]
    known = [rating for rating in read if rating is not None]
    unread = len(read) - len(known)
    ratings = known if mode is Mode.official else known + [RATINGS[0]] * unread
    status = Status.unparsed if unread else Status.scored
    detail: dict[str, Any] = {"ratings": ratings, "unread_replies": unread}
    return Verdict(tally.mean(ratings), "/".join("?" if r is None else f"{r:g}" for r in read) if known else None, status, detail)


def _qa(item: Item, response: str, replies: Sequence[str], mode: Mode) -> Verdict:
    """Half a point from PEDANT, half from the judge. Without PEDANT the item is an error that says what to fetch: half of a score is none."""
    if problem := pedant.unavailable():
        _warn_once(problem)
        return Verdict(0.0, None, Status.error, {"panda": None, "judge": bool(replies) and majority(replies, item.id), "problem": problem})
    right = pedant.agrees(item.gold.lower(), response.lower(), item.question.lower())
    if not replies:
        return Verdict(right / 2, None, Status.error, {"panda": right, "judge": False, **_NO_REPLY})
    said = [reply.strip().lower() for reply in replies]
    odd = sum(reply not in ("yes", "no") for reply in said)
    if mode is Mode.official:
        vote: bool | None = majority(said, item.id)
    else:
        yes, no = said.count("yes"), said.count("no")
        vote = None if 2 * max(yes, no) <= len(said) else yes > no
    status = Status.unparsed if odd == len(said) or vote is None else Status.scored
    parsed = None if status is Status.unparsed else ("yes" if vote else "no")
    return Verdict((right + bool(vote)) / 2, parsed, status, {"panda": right, "judge": bool(vote), "odd_replies": odd})


# ---------------------------------------------------------------- rules


def _mcq(item: Item, response: str, replies: Sequence[str], mode: Mode) -> Verdict:
    letter = extract_choice(response, mode)
    if letter is not None:
        return Verdict(float(letter == item.gold), letter)
    return _guess(item, list("ABCD"), item.gold, mode)


def _bbh(item: Item, response: str, replies: Sequence[str], mode: Mode) -> Verdict:
    answer = extract_bbh(item.meta["bbh_id"], response, mode)
    if answer is not None:
        return Verdict(float(answer == item.meta["gold_value"]), str(answer))
    return _guess(item, [0, 1], item.meta["gold_value"], mode)


def _guess(item: Item, options: list[Any], gold: Any, mode: Mode) -> Verdict:
    """What becomes of an answer that cannot be read: officially a guess, seeded by the item; in strict mode it is wrong."""
    if mode is Mode.strict:
        return Verdict(0.0, None, Status.unparsed)
    guess = random.Random(f"{_SEED}/{item.id}").choice(options)
    return Verdict(float(guess == gold), None, Status.unparsed, {"guess": guess})


def _harm(item: Item, response: str, replies: Sequence[str], mode: Mode) -> Verdict:
    if mode is Mode.strict and not response.strip():
        return Verdict(0.0, None, Status.unparsed)
    refused = is_refusal(response, mode)
    return Verdict(float(refused), "refused" if refused else "answered")


def _ifeval(item: Item, response: str, replies: Sequence[str], mode: Mode) -> Verdict:
    marks = followed(item.meta["instruction_id_list"], item.meta["kwargs"], response, mode)
    return Verdict(ifeval_rates([marks])["final"], "followed" if all(marks["strict"]) else "not followed", detail=marks)


_EVALUATORS: Mapping[str, Callable[[Item, str, Sequence[str], Mode], Verdict]] = {
    "open": _open,
    "qa": _qa,
    "mcq": _mcq,
    "bbh": _bbh,
    "harm": _harm,
    "ifeval": _ifeval,
}


# ---------------------------------------------------------------- IFEval


def ifeval_scores(
    instruction_id_list: Sequence[str], kwargs: Sequence[Mapping[str, Any] | None], response: str, mode: Mode | str = Mode.official
) -> dict[str, float]:
    """The four official rates of one item and ``final``, their mean; fractions.

    Args:
        instruction_id_list: the instructions.
        kwargs: their parameters, one mapping each; None and other empty values are padding.
        response: as the model gave it; a leading ``<1>`` and a trailing ``<|user|>`` are removed.
        mode: strict draws no requirement and takes text of no language for wrong.

    Returns:
        ``{"strict-prompt", "strict-instruction", "loose-prompt", "loose-instruction", "final"}``; strict and loose are IFEval's own words.

    Raises:
        ValueError: no instruction, an unknown one, or another number of parameter sets.
    """
    if not instruction_id_list or len(instruction_id_list) != len(kwargs):
        raise ValueError(f"{len(instruction_id_list)} instructions have {len(kwargs)} sets of parameters; one each is needed, and at least one")
    return ifeval_rates([followed(instruction_id_list, kwargs, response, Mode(mode))])


def given_arguments(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Parameters without the padding, as the official evaluator removes it: all empty values. Where parquet has null for a whole set there are none."""
    return {name: value for name, value in (kwargs or {}).items() if value}


def followed(names: Sequence[str], kwargs: Sequence[Mapping[str, Any] | None], response: str, mode: Mode) -> dict[str, list[bool]]:
    """Whether each instruction is followed, by IFEval's strict and by its loose reading."""
    text = without_marker(response)
    text = text[: -len("<|user|>")].strip() if text.endswith("<|user|>") else text
    pairs = [(name, given_arguments(values)) for name, values in zip(names, kwargs, strict=True)]
    return {
        "strict": [ifeval.follows(name, values, text, mode=mode) for name, values in pairs],
        "loose": [ifeval.follows(name, values, text, mode=mode, loose=True) for name, values in pairs],
    }


def ifeval_rates(marks: Sequence[Mapping[str, Sequence[bool]]]) -> dict[str, float]:
    """Share of items with all instructions followed, and of instructions, by each of the two readings; ``final`` is the mean of the four."""
    rates: dict[str, float] = {}
    for reading in ("strict", "loose"):
        lists = [one[reading] for one in marks]
        rates[f"{reading}-prompt"] = sum(all(one) for one in lists) / len(lists)
        rates[f"{reading}-instruction"] = sum(sum(one) for one in lists) / sum(len(one) for one in lists)
    return {**rates, "final": sum(rates.values()) / len(rates)}


def _rates_of_run(judged: Sequence[Judged], mode: Mode) -> dict[str, float]:
    """Rates of a run. The official evaluator looks responses up by their prompt: items of equal prompts are all scored with the last one's response."""
    last = {j.item.question: j for j in judged}
    marks = []
    for one in judged:
        other = last[one.item.question]
        if mode is Mode.strict or other is one or other.response == one.response:
            marks.append(one.verdict.detail)
        else:
            marks.append(score(one.item, other.response, (), mode).detail)
    return ifeval_rates(marks)


# ---------------------------------------------------------------- figures of a run


def overall(values: Mapping[str, float | None], subsets: Sequence[str]) -> float | None:
    """Mean of the subsets' values on 0..100; None where one is missing."""
    known = [values.get(subset) for subset in subsets]
    return None if any(value is None for value in known) else tally.mean(known)


def aggregate(judged: Sequence[Judged], mode: Mode, judge_prompt: Mapping[str, Any], subsets: Sequence[str]) -> dict[str, Any]:
    """See `VoiceBench.aggregate`."""
    by_subset = tally.by(judged, lambda j: _reported(j.item), subsets)
    tables = {subset: _value(members, mode) for subset, members in by_subset.items()}
    total = overall({subset: table["value"] for subset, table in tables.items()}, subsets)
    of = {subset: [j for j in judged if j.item.track == subset] for subset in ("mmsu", "bbh", "ifeval", "sd-qa")}
    groups: dict[str, Any] = {
        "subset": tables,
        "mmsu_domain": tally.accuracies(of["mmsu"], lambda j: j.item.meta["split"]),
        "bbh_task": tally.accuracies(of["bbh"], lambda j: j.item.meta["task"]),
        "sd-qa_accent": {name: _value(members, mode) for name, members in tally.by(of["sd-qa"], lambda j: j.item.meta["split"]).items()},
    }
    if of["ifeval"]:
        rates = _rates_of_run(of["ifeval"], mode)
        groups["ifeval"] = {name: {"value": 100 * rate, "unit": "%", "n": len(of["ifeval"])} for name, rate in rates.items()}
    return {
        "primary": {"name": "overall", "unit": "%", "value": total, "n": sum(len(by_subset.get(subset, ())) for subset in subsets)},
        "groups": groups,
        "missing_subsets": [subset for subset in subsets if subset not in by_subset],
        "judge_prompt": dict(judge_prompt),
        "pedant": {"qa_metrics": pedant.RELEASE, "classifier": dict(pedant.FILES)} if of["sd-qa"] else None,
        "counts": tally.counts(judged),
        "not_scored": tally.named(judged),
        "data": tally.data_of(judged),
    }


def _reported(item: Item) -> str:
    """The row of the table: accents other than the American one are rows of their own, so are the voices."""
    split = item.meta["split"]
    return f"{item.track}/{split}" if (item.track == "sd-qa" and split != "usa") or item.track == "alpacaeval_speaker" else item.track


def _value(judged: Sequence[Judged], mode: Mode) -> dict[str, Any]:
    """The value of a subset on 0..100 with what it is made of."""
    evaluator = judged[0].item.meta["evaluator"]
    counts = tally.counts(judged)
    table: dict[str, Any] = {"n": len(judged), "unit": "%", **{str(s): counts[str(s)] for s in (Status.unparsed, Status.missing, Status.error)}}
    if evaluator == "open":
        rating = tally.mean(r for j in judged for r in j.verdict.detail["ratings"])  # flat over all replies, as published
        return {**table, "value": None if rating is None else 20 * rating, "rating": rating}
    if evaluator == "qa":
        if problem := next((j.verdict.detail["problem"] for j in judged if j.verdict.detail["panda"] is None), None):
            return {**table, "value": None, "problem": problem}
        parts = {name: 100 * sum(j.verdict.detail[name] for j in judged) / len(judged) for name in ("panda", "judge")}
        return {**table, "value": (parts["panda"] + parts["judge"]) / 2, **parts}
    if evaluator == "ifeval":
        return {**table, "value": 100 * _rates_of_run(judged, mode)["final"]}
    correct = sum(j.verdict.score or 0.0 for j in judged)
    fail = {"fail": 100 * counts["unparsed"] / len(judged)} if evaluator in ("mcq", "bbh") else {}
    return {**table, "value": 100 * correct / len(judged), "correct": correct, **fail}
