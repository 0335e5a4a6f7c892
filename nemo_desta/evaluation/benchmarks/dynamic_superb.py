"""Dynamic-SUPERB, phases 1 and 2: instructions on speech, music and sound, hundreds of data sets with a metric each.

Classification is judged by an LLM (`parse_verdict`); the official rule of phase 1, equality but for case, stands beside it as ``exact_match``. Numbers are
read from a response by an LLM where the response is not a number by itself (`parse_number`); what gives none is counted in the N/A rate. Sequences are
measured as they are.
Phase 1's rule is compared with its repository's (`nemo_desta.evaluation.official.dynamic_superb`). No official scorer of phase 2 could be had when this was
written: its judge's reply format, normalisation and metrics follow published descriptions and ports, and the results say so.

``phase1`` holds the 55 instances of phase 1, ``phase2`` those that phase 2 added: the second phase as published is both.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_desta.evaluation.benchmarks import dynamic_superb_metrics as metrics
from nemo_desta.evaluation.benchmarks import sources
from nemo_desta.evaluation.benchmarks.base import Item, Judged, JudgeRequest, Mode, Status, Verdict
from nemo_desta.evaluation.benchmarks.dynamic_superb_data import PHASES, find_instances, read_items
from nemo_desta.evaluation.benchmarks.dynamic_superb_tables import aggregate_all
from nemo_desta.evaluation.benchmarks.responses import StoredRow
from nemo_desta.evaluation.benchmarks.turns import asked, pinned, turns
from nemo_desta.evaluation.model import Conversation

CORRECTNESS, NUMBER = "correctness", "number"  # purposes of the judge's replies
LOCATOR = "<|AUDIO|>"
_TEMPLATES = {CORRECTNESS: ("dynamic_superb/judge", "classification.txt"), NUMBER: ("dynamic_superb/number", "number.txt")}


def parse_verdict(reply: str, mode: Mode | str = Mode.official) -> bool | None:
    """The verdict of a classification judge's reply, ``Result: YES`` or ``Result: NO``.

    Args:
        reply: a reason, and the verdict in the last line.
        mode: ``official``: the first such words anywhere in the reply, also where another word begins with them. ``strict``: the last line is the verdict
            and nothing else, and no other line gives the other one.

    Returns:
        None where there is no verdict.
    """
    found = _results(reply, "yes|no", Mode(mode))
    return None if found is None else found == "yes"


def parse_number(reply: str, mode: Mode | str = Mode.official) -> float | None:
    """The number of a judge's reply, ``Result: 3.5``, or None for ``Result: N/A`` and for a reply without one; the modes are those of `parse_verdict`."""
    found = _results(reply, rf"{metrics.NUMBER}|n/?a", Mode(mode))
    return metrics.plain_number(found) if found else None


def _results(reply: str, what: str, mode: Mode) -> str | None:
    """What stands after "result:", in lower case."""
    text = reply.lower()
    found = re.search(rf"result:\s*({what})", text)
    if found is None or mode == Mode.official:
        return found[1] if found else None
    lines = [m[1] for line in text.splitlines() if (m := re.fullmatch(rf"\s*result:\s*({what})\s*", line))]
    last = text.rstrip().rsplit("\n", 1)[-1]
    return lines[-1] if len(set(lines)) == 1 and re.fullmatch(rf"\s*result:\s*({what})\s*", last) else None


def shares(sizes: Sequence[int], limit: int | None) -> list[int]:
    """How many of each, `limit` in all, given out one by one in turn."""
    given = [0] * len(sizes)
    left = sum(sizes) if limit is None else min(limit, sum(sizes))
    while left:
        for i in [i for i, size in enumerate(sizes) if given[i] < size][:left]:
            given[i] += 1
            left -= 1
    return given


@dataclass
class DynamicSuperb:
    """The benchmark.

    Attributes:
        prompt_id: entry of prompts/dynamic_superb.yaml.
        classification: ``judge``, or ``exact`` for the official rule of phase 1 alone, which needs no judge.
        judge_prompts_from: folder with ``classification.txt`` and ``number.txt``, judge prompts of the user's with the places {instruction}, {label} and
            {response}; None = this project's own.
        reference: scores of a reference system (`read_scores`) for the relative gain by domain; None = ``reference.json`` below the root of the data, if there
            is one, else no gains.
    """

    prompt_id: str = "dynamic_superb"
    classification: str = "judge"
    judge_prompts_from: Path | str | None = None
    reference: Path | str | None = None
    name: str = "dynamic_superb"
    subsets: tuple[str, ...] = PHASES
    response_files: str = "<Instance>.json with sllm_response"
    _beside: Path | None = field(default=None, repr=False)  # reference.json below the root that was loaded last

    def check_options(self) -> None:
        """Refuse a way of classification that there is not.

        Raises:
            ValueError: of that.
        """
        if self.classification not in ("judge", "exact"):
            raise ValueError(f"options.dynamic_superb.classification={self.classification!r}: write judge or exact")

    def load(self, root: Path, subset: str, limit: int | None = None) -> list[Item]:
        """Items of a phase, or of one instance or task by its name; a limit is shared by the instances as evenly as they allow.

        Raises:
            ValueError: nothing of the subset below `root`.
        """
        place = sources.locate(root)
        instances = find_instances(place)
        chosen = [i for i in instances if subset in (i.phase, i.name, i.task)]
        if not chosen:
            raise ValueError(
                f"{place.path} holds nothing of {subset!r}; subsets are {', '.join(PHASES)} and the instances {', '.join(i.name for i in instances)}"
            )
        beside = place.path / "reference.json"
        self._beside = beside if beside.is_file() else None
        read = [read_items(instance, limit) for instance in chosen]
        return [item for items, share in zip(read, shares([len(items) for items in read], limit), strict=True) for item in items[:share]]

    def prompt(self, item: Item) -> Conversation:
        """All the clips, then the instruction; no clip for the instance that has none."""
        return asked(self.prompt_id, item.audios, locators=f"{LOCATOR}\n" * len(item.audios), question=item.question)

    def text_prompt(self, item: Item) -> Conversation | None:
        """The instruction of the instance without audio; None for all others, of whose clips nothing is said in words."""
        return None if item.audios else self.prompt(item)

    def extract(self, text: str, item: Item) -> str | None:
        """The response as it is; None for an empty one."""
        return text if text.strip() else None

    def judge_requests(self, item: Item, response: str) -> Sequence[JudgeRequest]:
        """Is a classification right; which number does a response give. Nothing for sequences, for numbers that stand alone, and for empty responses."""
        metric = item.meta["metrics"][0]
        if not response.strip():
            return ()
        if metric == metrics.ACCURACY and self.classification == "judge":
            return (self._request(CORRECTNESS, item, response),)
        if metric in metrics.REGRESSION and metrics.plain_number(response) is None:
            return (self._request(NUMBER, item, response),)
        return ()

    def _request(self, purpose: str, item: Item, response: str) -> JudgeRequest:
        prompt_id, file = _TEMPLATES[purpose]
        entry = pinned(prompt_id)
        values = {"instruction": item.question, "label": item.gold, "response": response}
        system, user = entry.fill(**values)
        if self.judge_prompts_from is not None:
            system, user = "", fill_template(Path(self.judge_prompts_from).expanduser() / file, values)
        return JudgeRequest(purpose, tuple(turns(system, user)), temperature=entry.decoding["temperature"], max_tokens=entry.max_new_tokens)

    def official_rows(self, files: Sequence[Path], items: Sequence[Item]) -> Iterator[StoredRow]:
        """Rows of ``<Instance>.json`` as the benchmark's team writes them, with the judge's reply (``evaluation_response``) where there is one."""
        instances = {item.track for item in items}
        for file in files:
            table = sources.read_json(file) if file.suffix == ".json" and file.stem in instances else {}
            if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
                raise ValueError(f"{file}: a mapping from clips to rows was expected")
            for key, row in table.items():
                reply = row.get("evaluation_response")
                yield StoredRow(f"{file.stem}/{key}", row, file, {CORRECTNESS: (str(reply),)} if reply is not None else {})

    def judge_origin(self) -> dict[str, Any]:
        """Which judge prompts are used, for the results."""
        if self.judge_prompts_from is None:
            return {"prompt": "own", "entries": [pinned(prompt_id).origin() for prompt_id, _ in _TEMPLATES.values()]}
        folder = Path(self.judge_prompts_from).expanduser()
        return {"prompt": "given", "sha256": {file: sources.sha256_of(folder / file) for _, file in _TEMPLATES.values() if (folder / file).is_file()}}

    def score(self, item: Item, response: str | None, replies: Mapping[str, tuple[str, ...]], mode: Mode) -> Verdict:
        """0..1: the judge's verdict; whether a number is exactly right; 1 less the error rate, or F1, of a sequence. The aggregate uses `detail`."""
        metric = item.meta["metrics"][0]
        if metric == metrics.UNSUPPORTED:
            return Verdict(None, response, Status.missing if response is None else Status.unparsed, {"problem": "the instance's metric is not supported"})
        if metric == metrics.ACCURACY:
            return self._classified(item, response, replies, mode)
        if metric in metrics.REGRESSION:
            return _read_number(item, response, replies, mode)
        measured = metrics.measure(metric, item.gold, response or "")
        return Verdict(measured.score, response, Status.missing if response is None else Status.scored, measured.detail)

    def _classified(self, item: Item, response: str | None, replies: Mapping[str, tuple[str, ...]], mode: Mode) -> Verdict:
        if response is None:
            return Verdict(0.0, None, Status.missing)
        exact = metrics.exact_match(item.gold, response)
        by_rule = {"exact": exact, "consecutive": metrics.consecutive_words(item.gold, response)}
        if self.classification == "exact":
            return Verdict(float(exact), response, detail=by_rule)
        if not response.strip():
            return Verdict(0.0, None, Status.unparsed, {**by_rule, "problem": "an empty response"})
        if not replies.get(CORRECTNESS):
            return Verdict(0.0, response, Status.error, {**by_rule, "problem": "no reply of a judge"})
        verdict = parse_verdict(replies[CORRECTNESS][0], mode)
        if verdict is None:
            return Verdict(0.0, response, Status.unparsed, {**by_rule, "problem": "no verdict in the judge's reply"})
        return Verdict(float(verdict), response, detail=by_rule)

    def aggregate(self, judged: Sequence[Judged], mode: Mode) -> dict[str, Any]:
        """Figures by instance, task (folds averaged), dimension, phase and domain, with the gain over the reference where there is one."""
        path = self.reference or self._beside
        reference = read_scores(Path(path).expanduser()) if path is not None else None
        return {
            **aggregate_all(judged, mode, reference),
            "classification": self.classification,
            "judge_prompt": self.judge_origin(),
            "official": "phase 1: exact_match is the official rule; phase 2: after published descriptions and ports, no official scorer compared",
        }


def _read_number(item: Item, response: str | None, replies: Mapping[str, tuple[str, ...]], mode: Mode) -> Verdict:
    gold = metrics.plain_number(item.gold)
    if response is None:
        return Verdict(0.0, None, Status.missing, {"gold": gold, "value": None})
    if gold is None:
        return Verdict(None, response, Status.unparsed, {"problem": f"the label {item.gold!r} is no number"})
    value = metrics.plain_number(response)
    if value is None and response.strip():
        if not replies.get(NUMBER):
            return Verdict(0.0, response, Status.error, {"gold": gold, "value": None, "problem": "no reply of a judge"})
        value = parse_number(replies[NUMBER][0], mode)
    detail = {"gold": gold, "value": value}
    return Verdict(0.0, None, Status.unparsed, detail) if value is None else Verdict(float(math.isclose(value, gold)), f"{value:g}", detail=detail)


def fill_template(path: Path, values: Mapping[str, str]) -> str:
    """A judge prompt of the user's with {instruction}, {label} and {response} filled in at once; other braces stay.

    Raises:
        ValueError: no such file, or it never shows the response.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: judge_prompts_from must hold classification.txt and number.txt")
    text = path.read_text(encoding="utf-8")
    if "{response}" not in text:
        raise ValueError(f"{path} has no {{response}}")
    return re.sub(r"\{(instruction|label|response)\}", lambda m: values[m[1]], text)


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """Scores of a reference system, instance or task -> metric -> figure (per cent for accuracies and rates).

    Args:
        path: an aggregate of this benchmark as JSON (its ``groups``), or a submission of the official leaderboard (shares of 1, turned into per cent).

    Raises:
        ValueError: neither.
    """
    content = sources.read_json(path)
    if isinstance(content, list) and all(isinstance(row, dict) and "name" in row and "scores" in row for row in content):
        found: dict[str, dict[str, float]] = {}
        for row in content:
            for score in row["scores"]:
                metric = metrics.canonical(score["metric"])
                found.setdefault(row["name"], {})[metric] = float(score["value"]) * (100 if metric in metrics.PER_CENT else 1)
        return found
    groups = content.get("groups", content) if isinstance(content, dict) else {}
    if not isinstance(groups, dict) or "task" not in groups:
        raise ValueError(f"{path} is neither an aggregate with groups.task nor a list of names with scores")
    rows = {**groups.get("instance", {}), **groups["task"]}
    return {name: {row["metric"]: row["value"]} for name, row in rows.items() if row.get("value") is not None}


def write_leaderboard(aggregate: Mapping[str, Any], path: Path, *, seen: Sequence[str] = ()) -> int:
    """Write the official leaderboard's submission: a list of instances with their scores; accuracies and rates as shares of 1.

    Args:
        aggregate: of `DynamicSuperb.aggregate`.
        path: named after the model, ``my_model.json``.
        seen: instances whose task the model was trained on.

    Returns:
        How many instances were written.

    Raises:
        ValueError: fewer than two tasks, which the leaderboard does not take.
    """
    rows = {name: row for name, row in aggregate["groups"]["instance"].items() if row["value"] is not None}
    tasks = {name.split("_")[0] for name in rows}
    if len(tasks) < 2:
        raise ValueError(f"the leaderboard takes two tasks or more; there are scores of {sorted(tasks)}")
    content = []
    for name, row in rows.items():
        value = row["value"] / 100 if row["metric"] in metrics.PER_CENT else row["value"]
        content.append({"name": name, "scores": [{"metric": row["metric"], "value": value, "version": row["version"], "seen": name in seen}]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
    return len(content)


BENCHMARK = DynamicSuperb()
