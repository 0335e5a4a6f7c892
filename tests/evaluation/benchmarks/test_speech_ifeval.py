"""Speech-IFEval on rows made in its official format, scored by hand."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nemo_desta.evaluation.benchmarks import speech_ifeval
from nemo_desta.evaluation.benchmarks.base import Item, Judged, Mode, Status
from nemo_desta.evaluation.benchmarks.speech_ifeval import BENCHMARK, CLOSED, COT, CREATIVE, PLAIN, SpeechIfeval, follows, parse_verdict

JSON_CONSTRAINT = "Wrap it in JSON.\n\nUse:\n\n{\n\n}\n"
ROWS: dict[str, list[dict[str, Any]]] = {
    CLOSED: [
        {
            "id": 0,
            "audio_filepath": "Automatic_speech_recognition/a.flac",
            "textual_audio": "[00:00:00 - 00:00:02] Good day.(Gender: Male, Emotion: happy)",
            "instruction": "Write down what is said.\nAnswer in capital letters.",
            "dataset": "Automatic_speech_recognition",
            "metric": "wer",
            "instruction_id_list": ["change_case:english_capital"],
            "kwargs": [{}],
            "label": "GOOD DAY TO YOU ALL",
        },
        {
            "id": 1,
            "audio_filepath": "Gender_recognition/b.mp3",
            "textual_audio": "[00:00:00 - 00:00:01] Yes.(Gender: Female, Emotion: sad)",
            "instruction": f"Who speaks?\n{JSON_CONSTRAINT}",
            "dataset": "Gender_recognition",
            "metric": "accuracy",
            "instruction_id_list": ["detectable_format:json_format"],
            "kwargs": [{}],
            "label": "woman",
        },
    ],
    CREATIVE: [
        {
            "audio_filepath": "Gender_recognition/b.mp3",
            "key": "bullet-points-0",
            "textual_audio": "[00:00:00 - 00:00:01] Yes.(Gender: Female, Emotion: sad)",
            "instruction": "Summarise the clip in two bullet points.",
            "dataset": "Gender_recognition",
            "metric": "open",
            "instruction_id_list": ["detectable_format:number_bullet_lists"],
            "kwargs": [{"num_bullets": 2}],
            "id": 934,
        },
        {
            "audio_filepath": "Gender_recognition/c.wav",
            "key": "paragraphs-0",
            "textual_audio": "",
            "instruction": "Describe the clip in two paragraphs.",
            "dataset": "Gender_recognition",
            "metric": "open",
            "instruction_id_list": ["length_constraints:number_paragraphs"],
            "kwargs": [{"num_paragraphs": 2}],
            "id": 935,
        },
    ],
    COT: [
        {"audio_filepath": f"MMAU/{n}.wav", "textual_audio": "x", "instruction": "Which one?\nThink step by step.", "dataset": "MMAU", "metric": "cot"}
        for n in range(4)
    ],
}
ROWS[PLAIN] = [
    {**{k: v for k, v in row.items() if k not in ("instruction_id_list", "kwargs")}, "instruction": row["instruction"].split("\n")[0]} for row in ROWS[CLOSED]
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "eval_data"
    folder.mkdir(parents=True)
    for subset, rows in ROWS.items():
        (folder / f"{subset}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def judge(item: Item, response: str | None, *reply: str, mode: Mode = Mode.official, benchmark: SpeechIfeval = BENCHMARK) -> Judged:
    replies: dict[str, tuple[str, ...]] = {str(item.meta["metric"]): reply} if reply else {}
    return Judged(item, response, replies, benchmark.score(item, response, replies, mode))


def test_items_keep_the_order_and_the_layout(root: Path) -> None:
    closed = BENCHMARK.load(root, CLOSED)
    assert [item.id for item in closed] == [f"{CLOSED}/0", f"{CLOSED}/1"]
    assert closed[0].audios == (str(root / "data/audios/Automatic_speech_recognition/a.flac"),) and closed[0].gold == "GOOD DAY TO YOU ALL"
    assert [item.id for item in BENCHMARK.load(root, COT)] == [f"{COT}/{n}" for n in range(4)]  # rows without ids
    assert closed[1].meta["bare_question"] == "Who speaks?" and closed[1].question.count("\n") == 8
    assert len(BENCHMARK.load(root, COT, limit=1)) == 1
    assert BENCHMARK.load(root / "data", CLOSED)[0].question == closed[0].question  # the data folder alone
    (name, digest), *_ = closed[0].meta["data"].items()
    assert name.endswith(f"{CLOSED}.jsonl") and len(digest) == 64
    every = [item.id for subset in BENCHMARK.subsets for item in BENCHMARK.load(root, subset)]
    assert len(set(every)) == len(every)


def test_wrong_layouts_and_rows_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no subset 'closed'"):
        BENCHMARK.load(root, "closed")
    file = root / "data" / "eval_data" / f"{CREATIVE}.jsonl"
    rows: list[tuple[dict[str, Any], str]] = [
        ({"instruction": ""}, "'instruction'"),
        ({"instruction_id_list": ["keywords:nothing"]}, "unknown instruction 'keywords:nothing'"),
        ({"instruction_id_list": ["keywords:existence"]}, "needs keywords"),
    ]
    for change, message in rows:
        file.write_text(json.dumps({**ROWS[CREATIVE][0], **change}), encoding="utf-8")
        with pytest.raises(ValueError, match=f"row 1: .*{message}"):
            BENCHMARK.load(root, CREATIVE)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: not JSON"):
        BENCHMARK.load(root, CREATIVE)
    file.unlink()
    with pytest.raises(ValueError, match=r"creative_writing\.jsonl was expected"):
        BENCHMARK.load(root, CREATIVE)


def test_what_models_are_asked(root: Path) -> None:
    item = BENCHMARK.load(root, CREATIVE)[0]
    assert BENCHMARK.prompt(item) == [
        {"role": "system", "content": "Follow the given instructions."},
        {"role": "user", "content": f"<|AUDIO|>\n\n{item.question}", "audios": [{"audio": item.audios[0], "text": None}]},
    ]
    text = BENCHMARK.text_prompt(item)
    assert text is not None and text[1]["content"] == f"Speech Input: {item.meta['textual_audio']}\n\n{item.question}"
    assert BENCHMARK.text_prompt(BENCHMARK.load(root, CREATIVE)[1]) is None  # no words of the clip


def test_closed_and_creative_answers_are_scored_by_rules(root: Path) -> None:
    capital, in_json = BENCHMARK.load(root, CLOSED)
    bullets, paragraphs = BENCHMARK.load(root, CREATIVE)
    cases = [
        (capital, "GOOD DAY", 1.0),
        (capital, "GUTEN TAG ÄÖ", 1.0),  # no language is asked for
        (capital, "Good day", 0.0),
        (in_json, '```json\n{"answer": "woman"}\n```', 1.0),
        (in_json, "woman", 0.0),
        (bullets, "1. one\n2. two", 1.0),  # digits are bullets
        (bullets, r"* one\n* two", 1.0),  # a literal \n is a line break
        (bullets, "In 2024:\n* one\n* two", 1.0),
        (bullets, "2024:\n* one\n* two", 0.0),
        (paragraphs, "one\ntwo", 1.0),  # one line break parts paragraphs
        (paragraphs, "one\n\n***\n\ntwo", 1.0),
        (paragraphs, "one\ntwo\nthree", 0.0),
        (paragraphs, "   ", 0.0),
    ]
    for item, response, expected in cases:
        for mode in Mode:
            assert BENCHMARK.score(item, response, {}, mode).score == expected, (response, mode)
    assert BENCHMARK.judge_requests(capital, "x") == () and BENCHMARK.judge_requests(bullets, "x") == ()


VERDICTS = [  # reply, official, strict
    ("They agree.\nResult: YES", True, True),
    ("result: no.", False, False),
    ("Result:\nYes", True, True),
    ("Result: <YES>", None, None),
    ("Result: **yes**", None, None),
    ("Result:yes", None, None),  # no white space
    ("Result:  yes", None, None),  # two
    ("Result: nothing to see", False, None),  # a word that begins with "no"
    ("Result: YES\nOn reflection, Result: NO", True, None),
    ("yes", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("reply", "official", "strict"), VERDICTS)
def test_verdicts(reply: str, official: bool | None, strict: bool | None) -> None:
    assert parse_verdict(reply) is official and parse_verdict(reply, mode="official") is official and parse_verdict(reply, mode="strict") is strict


@example("Result: YESResult: no")
@given(st.lists(st.sampled_from(["Result: ", "result:", "YES", "no", "thing", " ", "\n", "<", "."]), max_size=8).map("".join))
def test_a_strict_verdict_is_also_the_official_one(reply: str) -> None:
    strict = parse_verdict(reply, mode="strict")
    assert strict is None or parse_verdict(reply) is strict


def test_the_chain_of_thought_is_judged(root: Path) -> None:
    items = BENCHMARK.load(root, COT)
    (request,) = BENCHMARK.judge_requests(items[0], "First {this}, then that: B.")
    assert request.temperature is None and request.n == 1 and request.purpose == "cot"  # the published script sends no temperature
    assert "Think step by step." in request.messages[1]["content"] and "First {this}, then that: B." in request.messages[1]["content"]
    assert judge(items[0], "a", "Result: YES").verdict.score == 1.0 and judge(items[0], "a", "Result: NO").verdict.score == 0.0
    crash = judge(items[0], "a", "Result: <YES>").verdict
    assert (crash.score, crash.status) == (None, Status.unparsed)
    assert judge(items[0], "a", "Result: <YES>", mode=Mode.strict).verdict.score == 0.0
    silent = judge(items[0], "a").verdict
    assert (silent.score, silent.status) == (0.0, Status.error)
    gone = judge(items[0], None).verdict
    assert (gone.score, gone.status) == (0.0, Status.missing)


def test_if_rate_keeps_every_item_in_the_denominator(root: Path) -> None:
    closed, creative, cot = (BENCHMARK.load(root, subset) for subset in (CLOSED, CREATIVE, COT))
    judged = [
        *(judge(closed[0], "GOOD DAY"), judge(closed[1], "no json")),  # 1 of 2
        *(judge(creative[0], "- a\n- b"), judge(creative[1], None)),  # 1 of 2
        *(judge(cot[0], "x", "Result: YES"), judge(cot[1], "x", "Result: [YES]"), judge(cot[2], "x", "Result: NO"), judge(cot[3], None)),  # 1 of 4
    ]
    result = BENCHMARK.aggregate(judged, Mode.official)
    assert result["primary"] == {"name": "IFrate", "unit": "%", "value": pytest.approx((50 + 50 + 25) / 3), "n": 8}
    assert result["counts"] == {"scored": 5, "unparsed": 1, "missing": 2, "error": 0}
    assert result["groups"]["subset"][COT] == {"value": 25.0, "n": 4, "correct": 1.0, "unparsed": 1, "missing": 1, "error": 0}
    assert {name: row["value"] for name, row in result["groups"]["constraint"].items()} == {
        "change_case": 100.0,
        "json_format": 0.0,
        "bullet_lists": 100.0,
        "length_constraints": 0.0,
    }
    assert result["not_scored"] == {"unparsed": [cot[1].id], "missing": [creative[1].id, cot[3].id], "error": []}
    partial = BENCHMARK.aggregate(judged[:2], Mode.strict)
    assert partial["primary"]["value"] is None and partial["missing_subsets"] == [CREATIVE, COT]
    json.dumps(result)


def test_tasks_are_judged_without_a_constraint(root: Path) -> None:
    spoken, person = BENCHMARK.load(root, PLAIN)
    judged = [judge(spoken, 'It says: "Good day to us <all>"', '"Good day to us <all>"'), judge(person, "a woman", "Result: YES")]
    assert judged[0].verdict.detail["wer"] == pytest.approx(1 / 5) and judged[0].verdict.detail["copied"]  # brackets are no markup
    tasks = BENCHMARK.aggregate(judged, Mode.official)["groups"]["task"]
    assert tasks[f"{PLAIN}/Automatic_speech_recognition"] == {"value": pytest.approx(20.0), "unit": "% WER", "n": 1, "words": 5, "unparsed": 0}
    assert tasks[f"{PLAIN}/Gender_recognition"]["value"] == 100.0
    assert judge(spoken, None).verdict.detail == {"wer": 1.0, "errors": 5, "words": 5}


def test_a_transcript_that_the_judge_made_up_counts_officially_only(root: Path) -> None:
    spoken = BENCHMARK.load(root, PLAIN)[0]
    official = judge(spoken, "good day", "GOOD DAY TO YOU ALL").verdict
    strict = judge(spoken, "good day", "GOOD DAY TO YOU ALL", mode=Mode.strict).verdict
    assert official.detail["wer"] == 0.0 and not official.detail["copied"] and strict.detail["wer"] == pytest.approx(3 / 5)


def test_task_level_asks_about_closed_answers_too(root: Path) -> None:
    benchmark = SpeechIfeval(task_level=True)
    spoken, person = benchmark.load(root, CLOSED)
    (request,) = benchmark.judge_requests(person, "the woman")
    assert request.purpose == "accuracy" and "Who speaks?" in request.messages[1]["content"] and "JSON" not in request.messages[1]["content"]
    (whole,) = SpeechIfeval(task_level=True, question_only=False).judge_requests(person, "the woman")
    assert "Wrap it in JSON." in whole.messages[1]["content"]
    judged = [judge(spoken, "GOOD DAY", "GOOD DAY", benchmark=benchmark), judge(person, "the woman", "Result: YES", benchmark=benchmark)]
    assert [j.verdict.score for j in judged] == [1.0, 0.0]  # the score is that of the rules
    tasks = benchmark.aggregate(judged, Mode.official)["groups"]["task"]
    assert tasks[f"{CLOSED}/Automatic_speech_recognition"]["value"] == pytest.approx(60.0) and tasks[f"{CLOSED}/Gender_recognition"]["value"] == 100.0


SCRIPT = '''
raise SystemExit("this file is read, not run")
def generate_eval_response(data, remove_instruction=False):
    if data["metric"] == "accuracy":
        assert label
        system_prompt = f"""Mark it."""
        content = f"""Q: {instruction}\\nA: {label}\\nR: {model_response}"""
    elif data["metric"] == "cot":
        system_prompt = "Steps?"
        content = f"""I: {instruction} R: {model_response}"""
'''


def test_judge_prompts_of_a_checkout(root: Path, tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "llm_evaluation.py").write_text(SCRIPT, encoding="utf-8")
    benchmark = SpeechIfeval(judge_prompts_from=tmp_path)
    person = benchmark.load(root, PLAIN)[1]
    (request,) = benchmark.judge_requests(person, "{label} woman")
    assert [m["content"] for m in request.messages] == ["Mark it.", "Q: Who speaks?\nA: woman\nR: {label} woman"]
    assert benchmark.judge_origin()["prompt"] == "official checkout" and BENCHMARK.judge_origin()["prompt"] == "own"
    with pytest.raises(ValueError, match="no prompts for the metric 'wer'"):
        benchmark.judge_requests(benchmark.load(root, PLAIN)[0], "x")
    with pytest.raises(ValueError, match=r"must be a checkout of kehanlu/Speech-IFEval"):
        SpeechIfeval(judge_prompts_from=tmp_path / "elsewhere").judge_origin()


def test_rates_by_the_formula() -> None:
    rates: dict[str, float | None] = {CLOSED: 83.71, CREATIVE: 91.75, COT: 91.50}
    rate = speech_ifeval.if_rate(rates)
    assert rate == pytest.approx(88.99, abs=0.005)  # not the 89.23 of the published table
    assert rate is not None and speech_ifeval.forgetting_rate(rate, 92.53) == pytest.approx(-3.83, abs=0.005)
    assert speech_ifeval.if_rate({**rates, COT: None}) is None
    with pytest.raises(ValueError, match="relative to it"):
        speech_ifeval.forgetting_rate(50.0, 0.0)


def test_follows_is_the_variant_of_the_benchmark() -> None:
    assert follows("change_case:english_capital", {}, "XQZ") and follows("combination:repeat_prompt", {"prompt_to_repeat": "Answer:"}, "'ANSWER: 4'")
    assert follows("startend:quotation", None, '"x"')  # a row without parameters
    assert follows("startend:end_checker", {"end_phrase": "Bye.", "num_words": None}, 'So. "BYE."', mode="strict")
    with pytest.raises(ValueError, match="unknown instruction"):
        follows("keywords:nothing", {}, "x")
    with pytest.raises(ValueError, match="lenient"):
        follows("startend:quotation", {}, "x", mode="lenient")


@pytest.mark.assets
def test_sentences_are_counted(asset: Callable[[str], Any]) -> None:
    asset("nltk-punkt")
    few: Sequence[str] = ("Mr. Li left.", "He left at 5 p.m. on Friday.")
    assert all(follows("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 2}, text) for text in few)
