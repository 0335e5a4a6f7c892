"""Speech-IFEval (arXiv:2505.19037, kehanlu/Speech-IFEval): does a model that hears still follow instructions about the form of its answer?

Data: ``data/eval_data/*.jsonl`` of a checkout, audio in ``data/audios/``. Closed-ended and creative questions are scored by the IFEval rules with the changes
of Speech-IFEval (`nemo_desta.evaluation.ifeval`), the chain of thought by a judge. IFrate is the mean of the three rates; the forgetting rate is its change
relative to the backbone LLM that gets the benchmark's text of each clip (`text_prompt`). The fourth subset has the closed questions without their constraint:
task accuracy and WER by a judge. `task_level` asks that judge about the closed questions too.

``official`` follows the published scripts. Where their aggregation crashes (a judge's reply without a verdict) the item counts as not followed and as unparsed.
``strict`` further wants a verdict that is a whole word and not contradicted, and draws no requirement.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_desta.evaluation import ifeval
from nemo_desta.evaluation.benchmarks import sources, tally
from nemo_desta.evaluation.benchmarks.base import Item, Judged, JudgeRequest, Mode, Status, Verdict
from nemo_desta.evaluation.benchmarks.judge_prompts import SPEECH_IFEVAL_SCRIPT, speech_ifeval_prompt
from nemo_desta.evaluation.benchmarks.responses import StoredRow, match_rows
from nemo_desta.evaluation.benchmarks.text import basic_normalised
from nemo_desta.evaluation.benchmarks.turns import asked, pinned, turns
from nemo_desta.evaluation.model import Conversation

CLOSED, CREATIVE, COT, PLAIN = "closed_ended_questions", "creative_writing", "chain-of-thought", "closed_ended_questions-woprompt"
SUBSETS = (CLOSED, CREATIVE, COT, PLAIN)
RATES = (CLOSED, CREATIVE, COT)  # IFrate is the mean of theirs
JUDGE_MODEL = "gpt-4o-2024-11-20"  # of the published figures, at the API's default temperature
_GROUPS = {
    "change_case": ("change_case:english_capital", "change_case:english_lowercase"),
    "json_format": ("detectable_format:json_format",),
    "wrapping": ("startend:quotation", "detectable_format:title"),
    "startend": ("combination:repeat_prompt", "startend:end_checker"),
    "bullet_lists": ("detectable_format:number_bullet_lists",),
    "length_constraints": ("length_constraints:number_words", "length_constraints:number_sentences", "length_constraints:number_paragraphs"),
    "keywords": ("keywords:existence", "keywords:forbidden_words"),
}
GROUPS = {instruction: group for group, members in _GROUPS.items() for instruction in members}
_VERDICT = re.compile(r"(?i)(?<=result:\s)(yes|no)")
_WHOLE_VERDICT = re.compile(r"(?i)(?<=result:\s)(yes|no)\b")


def follows(instruction_id: str, kwargs: Mapping[str, Any] | None, response: str, mode: Mode | str = Mode.official) -> bool:
    """Whether a response follows one instruction, by IFEval's rules with Speech-IFEval's four changes.

    Args:
        instruction_id: e.g. ``startend:end_checker``.
        kwargs: its parameters; None-padded ones do no harm, and None is no parameter at all.
        response: the model's whole response.
        mode: strict draws no requirement that the parameters lack.

    Raises:
        ValueError: unknown instruction or mode, or a parameter is missing.
    """
    return ifeval.follows(instruction_id, kwargs or {}, response, variant=ifeval.Variant.speech_ifeval, mode=Mode(mode))


def parse_verdict(reply: str, mode: Mode | str = Mode.official) -> bool | None:
    """The judge's verdict; None where there is none.

    Officially the first ``Result:``, one white space, and the letters of yes or no, a word like "nothing" too; a bracketed verdict is none. Strict mode wants
    whole words that all say the same.
    """
    if Mode(mode) is Mode.official:
        found = _VERDICT.search(reply)
        return found[0].lower() == "yes" if found else None
    whole = [word.lower() for word in _WHOLE_VERDICT.findall(reply)]
    return whole[0] == "yes" if len(set(whole)) == 1 and len(whole) == len(_VERDICT.findall(reply)) else None


def if_rate(rates: Mapping[str, float | None]) -> float | None:
    """Mean of the closed-ended, creative and chain-of-thought rates (per cent); None where one is missing."""
    values = [rates.get(name) for name in RATES]
    return None if any(value is None for value in values) else tally.mean(values)


def forgetting_rate(model: float, reference: float) -> float:
    """Change of IFrate relative to that of the text LLM, per cent; negative where the model forgot.

    Raises:
        ValueError: the reference follows nothing.
    """
    if not reference:
        raise ValueError(f"the reference's IFrate is {reference}: the forgetting rate is relative to it")
    return 100 * (model - reference) / reference


@dataclass
class SpeechIfeval:
    """The benchmark.

    Attributes:
        prompt_id: entry of prompts/speech_ifeval.yaml that the model is asked with.
        judge_prompts_from: checkout of kehanlu/Speech-IFEval whose judge prompts are used; None = this project's.
        task_level: also have the closed-ended answers judged for being right (933 more calls).
        question_only: show judges the question without its constraint, as in the published closed-ended judgements. (The script decides by the file's name,
            and the names have changed since.) The chain of thought is judged with the whole instruction, as published.
    """

    prompt_id: str = "speech_ifeval"
    judge_prompts_from: Path | str | None = None
    task_level: bool = False
    question_only: bool = True
    name: str = "speech_ifeval"
    subsets: tuple[str, ...] = SUBSETS
    response_files: str = "<subset>.jsonl of an outputs/<model> folder"

    def load(self, root: Path, subset: str, limit: int | None = None) -> list[Item]:
        """Items in the order of the file.

        Raises:
            ValueError: an unknown subset, no file of it, a line that is not JSON, a row without a needed key, or an unknown instruction.
        """
        if subset not in SUBSETS:
            raise sources.unknown_subset(self.name, subset, SUBSETS)
        place = sources.locate(root)
        folder = next((f for f in (place.path / "data", place.path) if (f / "eval_data").is_dir()), None)
        file = folder / "eval_data" / f"{subset}.jsonl" if folder else None
        if folder is None or file is None or not file.is_file():
            raise ValueError(f"{place.path}: data/eval_data/{subset}.jsonl was expected, the layout of a checkout of kehanlu/Speech-IFEval")
        data = sources.describe([file], place)
        return [_item(row, index, subset, folder / "audios", data) for index, row in enumerate(sources.read_jsonl(file)[:limit])]

    def prompt(self, item: Item) -> Conversation:
        """System message, clip and instruction."""
        return asked(self.prompt_id, item.audios, question=item.question)

    def text_prompt(self, item: Item) -> Conversation | None:
        """The instruction with the benchmark's text of the clip; None where a row has none."""
        speech = item.meta.get("textual_audio")
        return asked("speech_ifeval/text", speech=speech, question=item.question) if speech else None

    def extract(self, text: str, item: Item) -> str | None:
        """The response as it is; None for a blank one."""
        return text if text.strip() else None

    def judge_requests(self, item: Item, response: str) -> Sequence[JudgeRequest]:
        """One question for the chain of thought and for questions without a constraint; for closed-ended ones with `task_level`."""
        if item.track == CREATIVE or (item.track == CLOSED and not self.task_level):
            return ()
        purpose = str(item.meta["metric"])  # cot, accuracy or wer
        question = item.meta["bare_question"] if self.question_only and purpose != "cot" else item.question
        values = {"question": str(question), "gold": item.gold, "response": response}
        if self.judge_prompts_from is not None:
            system, user = speech_ifeval_prompt(Path(self.judge_prompts_from).expanduser(), purpose, **values)
        else:
            system, user = pinned(f"speech_ifeval/judge_{purpose}").fill(**values)
        return (JudgeRequest(purpose, tuple(turns(system, user))),)

    def score(self, item: Item, response: str | None, replies: Mapping[str, tuple[str, ...]], mode: Mode) -> Verdict:
        """1 for a followed instruction (closed, creative), for reasoning (chain of thought), or for a right answer (no constraint); WER in `detail`."""
        if response is None:
            return Verdict(0.0, None, Status.missing, self._task(item, None, replies, mode))
        if item.track in (CLOSED, CREATIVE):
            pairs = zip(item.meta["instruction_id_list"], item.meta["kwargs"], strict=True)
            followed = [follows(name, kwargs, response, mode) for name, kwargs in pairs]
            detail = {"followed": followed, **self._task(item, response, replies, mode)}
            return Verdict(float(all(followed)), "followed" if all(followed) else "not followed", detail=detail)
        return self._judged(item, response, replies, mode)

    def aggregate(self, judged: Sequence[Judged], mode: Mode) -> dict[str, Any]:
        """IFrate, the three rates, rates by constraint and by instruction, and what the judge says of the tasks."""
        by_subset = tally.by(judged, lambda j: j.item.track, SUBSETS)
        rates = {name: tally.accuracy(members) for name, members in by_subset.items() if name in RATES}
        total = if_rate({name: rate["value"] for name, rate in rates.items()})
        ruled = [j for name in (CLOSED, CREATIVE) for j in by_subset.get(name, [])]
        return {
            "primary": {"name": "IFrate", "unit": "%", "value": total, "n": sum(rate["n"] for rate in rates.values())},
            "groups": {
                "subset": rates,
                "constraint": tally.accuracies(ruled, lambda j: GROUPS.get(j.item.meta["instruction_id_list"][0], "other"), tuple(_GROUPS)),
                "instruction": tally.accuracies(ruled, lambda j: j.item.meta["instruction_id_list"][0]),
                "task": _tasks(by_subset),
            },
            "missing_subsets": [name for name in RATES if name not in by_subset],
            "counts": tally.counts(judged),
            "not_scored": tally.named(judged),
            "judge_prompt": self.judge_origin(),
            "data": tally.data_of(judged),
        }

    def official_rows(self, files: Sequence[Path], items: Sequence[Item]) -> Iterator[StoredRow]:
        """Rows of ``<subset>.jsonl``, and of ``reports/llm_eval@<subset>.jsonl`` with what the judge replied; matched by clip and instruction."""
        for file in files:
            subset = file.stem.removeprefix("llm_eval@")
            members = [item for item in items if item.track == subset]
            if file.suffix == ".jsonl" and members:
                yield from match_rows(
                    file,
                    sources.read_jsonl(file),
                    members,
                    of_row=lambda row: (row.get("audio_filepath"), row.get("instruction")),
                    of_item=lambda item: (item.cluster, item.question),
                    replies=lambda row: {str(row.get("metric")): (str(row["eval_response"]),)} if row.get("eval_response") is not None else {},
                )

    def judge_origin(self) -> dict[str, Any]:
        """Which judge prompts are used, for the results.

        Raises:
            ValueError: `judge_prompts_from` is no checkout.
        """
        if self.judge_prompts_from is None:
            return {"prompt": "own", "entries": [pinned(f"speech_ifeval/judge_{metric}").origin() for metric in ("cot", "accuracy", "wer")]}
        path = Path(self.judge_prompts_from).expanduser()
        speech_ifeval_prompt(path, "cot", question="", response="")
        return {"prompt": "official checkout", "file": str(SPEECH_IFEVAL_SCRIPT), "sha256": sources.sha256_of(path / SPEECH_IFEVAL_SCRIPT)}

    def _judged(self, item: Item, response: str, replies: Mapping[str, tuple[str, ...]], mode: Mode) -> Verdict:
        """By the judge alone."""
        metric = item.meta["metric"]
        detail = self._task(item, response, replies, mode)
        if not replies.get(metric):
            return Verdict(0.0, None, Status.error, {**detail, "problem": "no reply of a judge"})
        if metric == "wer" and detail:
            return Verdict(max(0.0, 1.0 - detail["wer"]), str(detail["transcript"]), detail=detail)
        if detail.get("right") is None:  # here the published aggregation ends with an exception
            return Verdict(None if mode is Mode.official else 0.0, None, Status.unparsed, {**detail, "problem": "no verdict in the judge's reply"})
        return Verdict(float(detail["right"]), "yes" if detail["right"] else "no", detail=detail)

    def _task(self, item: Item, response: str | None, replies: Mapping[str, tuple[str, ...]], mode: Mode) -> dict[str, Any]:
        """What the judge's reply says: ``right``, or word errors of the transcript that it copied; empty where the judge was not asked."""
        metric = item.meta["metric"]
        reply = (replies.get(str(metric)) or ("",))[0]
        if response is None:
            return {"wer": 1.0, "errors": len(normal(item.gold).split()), "words": len(normal(item.gold).split())} if metric == "wer" else {}
        if not reply.strip():
            return {}
        return {"right": parse_verdict(reply, mode)} if metric in ("accuracy", "cot") else _word_errors(item.gold, reply, response, mode)


def _tasks(by_subset: Mapping[str, Sequence[Judged]]) -> dict[str, dict[str, Any]]:
    """Task accuracy by data set and the corpus WER, of the subsets whose answers were judged."""
    results: dict[str, dict[str, Any]] = {}
    for subset in (CLOSED, PLAIN):
        asked = [j for j in by_subset.get(subset, []) if j.item.meta["metric"] in j.replies or subset == PLAIN]
        for dataset, members in tally.by(asked, lambda j: j.item.meta["dataset"]).items():
            name = f"{subset}/{dataset}"
            if members[0].item.meta["metric"] == "wer":
                known = [j.verdict.detail for j in members if "words" in j.verdict.detail]
                words = sum(d["words"] for d in known)
                unparsed = len(members) - len(known)
                wer = 100 * sum(d["errors"] for d in known) / words if words else None
                results[name] = {"value": wer, "unit": "% WER", "n": len(members), "words": words, "unparsed": unparsed}
            else:
                right = sum(bool(j.verdict.detail.get("right")) for j in members)
                unparsed = sum(j.verdict.detail.get("right") is None for j in members)
                results[name] = {"value": 100 * right / len(members), "unit": "%", "n": len(members), "correct": right, "unparsed": unparsed}
    return results


def _word_errors(gold: str, transcript: str, response: str, mode: Mode) -> dict[str, Any]:
    """Word errors of the judge's copy. One that is no part of the response was not copied: counted, in strict mode replaced by the whole response."""
    import jiwer

    copied = normal(transcript) in normal(response)
    said = transcript if copied or mode is Mode.official else response
    truth, heard = normal(gold), normal(said)
    found = jiwer.process_words([truth], [heard])
    errors = found.substitutions + found.deletions + found.insertions
    return {"wer": found.wer, "errors": errors, "words": len(truth.split()), "transcript": said, "copied": copied}


def normal(text: str) -> str:
    """What word errors are counted on: Whisper's basic normalisation after removing angle brackets, which it would take for markup."""
    return basic_normalised(text.replace("<", "").replace(">", ""))


def _item(row: Mapping[str, Any], index: int, subset: str, audios: Path, data: Mapping[str, str]) -> Item:
    needed = ("audio_filepath", "instruction", "metric", *(("label",) if subset in (CLOSED, PLAIN) else ()))
    missing = [key for key in (*needed, *(("instruction_id_list", "kwargs") if subset in (CLOSED, CREATIVE) else ())) if not row.get(key)]
    if missing:
        raise ValueError(f"{subset}, row {index + 1}: {missing} are missing; it has {sorted(row)}")
    names = list(row.get("instruction_id_list") or ())
    kwargs = [dict(values or {}) for values in row.get("kwargs") or ()]
    for name, values in zip(names, kwargs, strict=True):
        if problem := ifeval.instruction_problem(name, values, ifeval.Variant.speech_ifeval):
            raise ValueError(f"{subset}, row {index + 1}: {problem}")
    meta = {key: row.get(key) for key in ("dataset", "metric", "textual_audio", "key")} | {"instruction_id_list": names, "kwargs": kwargs}
    return Item(
        id=f"{subset}/{row.get('id', index)}",  # the chain of thought has no ids
        track=subset,
        question=str(row["instruction"]),
        gold=str(row.get("label") or ""),
        audios=(str(audios / row["audio_filepath"]),),
        cluster=str(row["audio_filepath"]),
        meta=meta | {"subset": subset, "bare_question": str(row["instruction"]).split("\n")[0], "data": data},
    )


BENCHMARK = SpeechIfeval()
