"""VoiceBench on rows made in its official formats, scored by hand."""

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.evaluation import pedant
from nemo_desta.evaluation.benchmarks.base import Item, Judged, Mode, Status
from nemo_desta.evaluation.benchmarks.voicebench import BENCHMARK, DOMAINS, SUBSETS, VoiceBench, ifeval_scores, overall
from nemo_desta.evaluation.benchmarks.voicebench_scoring import majority, parse_rating

PADDING = dict.fromkeys(["num_words", "keywords", "relation", "prompt_to_repeat", "num_bullets"])
IFEVAL = [
    {
        "key": 1,
        "prompt": "same words",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [PADDING, {**PADDING, "keywords": []}],
    },
    {"key": 2, "prompt": "same words", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [PADDING]},
    {"key": 3, "prompt": "bullets", "instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{**PADDING, "num_bullets": 1}]},
]
ROWS: dict[str, list[dict[str, Any]]] = {
    "alpacaeval_full-test": [{"prompt": "Tell me a joke."}, {"prompt": "Sing {response}."}],
    "commoneval-test": [{"prompt": "What is rain?"}],
    "wildvoice-test": [{"prompt": "Where am I?"}],
    "sd-qa-usa": [{"prompt": "Who wrote it?", "reference": "Jane Doe"}],
    "sd-qa-irl": [{"prompt": "Who wrote it?", "reference": "Jane Doe"}],
    "openbookqa-test": [{"prompt": "Which? A, B, C or D.", "reference": "B"}, {"prompt": "And now?", "reference": "C"}],
    "bbh-test": [{"id": "hyperbaton_1", "prompt": "Which?", "reference": "(B)"}, {"id": "navigate_1", "prompt": "Back?", "reference": "no"}],
    "ifeval-test": IFEVAL,
    "advbench-test": [{"prompt": "Do harm."}, {"prompt": "Do more harm."}],
    **{f"mmsu-{domain}": [{"prompt": f"On {domain}?", "reference": "A"}] for domain in DOMAINS},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def judge(item: Item, response: str | None, *replies: str, mode: Mode = Mode.official) -> Judged:
    by_purpose = {"judge": replies} if replies else {}
    return Judged(item, response, by_purpose, BENCHMARK.score(item, response, by_purpose, mode))


def test_items_of_every_subset(root: Path) -> None:
    counts = {subset: len(BENCHMARK.load(root, subset)) for subset in SUBSETS}
    assert counts == {
        **{"alpacaeval_full": 2, "commoneval": 1, "wildvoice": 1, "sd-qa": 1, "mmsu": 12, "openbookqa": 2},
        **{"bbh": 2, "ifeval": 3, "advbench": 2},
    }
    mmsu = BENCHMARK.load(root, "mmsu")
    assert [item.meta["split"] for item in mmsu] == list(DOMAINS) and mmsu[1].id == "mmsu/engineering/0" and mmsu[0].choices == tuple("ABCD")
    assert [item.id for item in BENCHMARK.load(root, "mmsu", limit=2)] == ["mmsu/law/0", "mmsu/engineering/0"]
    assert BENCHMARK.load(root, "mmsu/physics")[0].question == "On physics?" and BENCHMARK.load(root, "sd-qa/irl")[0].id == "sd-qa/irl/0"
    assert BENCHMARK.load(root, "ifeval")[0].meta["kwargs"] == [{}, {}]  # without the padding
    every = [item.id for subset in SUBSETS for item in BENCHMARK.load(root, subset)]
    assert len(set(every)) == len(every)


def test_parquet_with_embedded_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMO_DESTA_CACHE", str(tmp_path / "cache"))
    file = io.BytesIO()
    soundfile.write(file, np.zeros(160, dtype=np.float32), 16000, format="WAV")
    rows = [{**row, "audio": {"bytes": file.getvalue(), "path": "clip.wav"}} for row in IFEVAL]
    snapshot = tmp_path / "datasets--hlt-lab--voicebench" / "snapshots" / "0123abcd"
    (snapshot / "ifeval").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), snapshot / "ifeval" / "test-00000-of-00001.parquet")
    items = BENCHMARK.load(snapshot.parents[1], "ifeval")
    assert [item.meta["instruction_id_list"] for item in items] == [row["instruction_id_list"] for row in IFEVAL]
    assert items[2].meta["kwargs"] == [{"num_bullets": 1}]
    (clip,) = items[0].audios
    assert soundfile.info(clip).frames == 160
    assert items[0].meta["data"]["revision"] == "0123abcd"
    assert BENCHMARK.prompt(items[0]) == [{"role": "user", "content": "<|AUDIO|>", "audios": [{"audio": clip, "text": None}]}]
    assert BENCHMARK.text_prompt(items[0]) == [{"role": "user", "content": "same words"}]


def test_official_response_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "my-model-openbookqa-test-audio.jsonl").write_text(json.dumps({**ROWS["openbookqa-test"][0], "response": "B."}), encoding="utf-8")
    (item,) = BENCHMARK.load(tmp_path, "openbookqa")
    assert item.gold == "B" and item.audios == ()


def test_wrong_layouts_and_rows_are_named(root: Path) -> None:
    for subset, message in (
        ("mtbench", "has no subset 'mtbench'"),
        ("sd-qa/bavarian", "no split 'bavarian'"),
        ("alpacaeval_speaker", "name the voice"),
        ("alpacaeval", "the split 'test' of alpacaeval was expected"),
    ):
        with pytest.raises(ValueError, match=message):
            BENCHMARK.load(root, subset)
    for name, row, message in (
        ("bbh-test", {"id": "navigate_1", "prompt": "?", "reference": "maybe"}, "'maybe' is none of yes, no"),
        ("bbh-test", {"id": "dates_1", "prompt": "?", "reference": "yes"}, "the id must hold one of"),
        ("openbookqa-test", {"prompt": "?"}, "'reference'.* missing"),
        ("ifeval-test", {**IFEVAL[2], "kwargs": []}, "missing"),
        ("ifeval-test", {**IFEVAL[2], "kwargs": [{}, {}]}, "1 instructions have 2 sets"),
    ):
        (root / f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            BENCHMARK.load(root, name.partition("-")[0])


def test_ratings_are_averaged_over_all_replies(root: Path) -> None:
    first, second = BENCHMARK.load(root, "alpacaeval_full")
    (request,) = BENCHMARK.judge_requests(second, "La {prompt} la")
    assert (request.n, request.temperature, request.top_p, request.max_tokens) == (3, 0.5, 0.95, 1024)
    assert "### [Instruction]: Sing {response}.\n### [Response]: La {prompt} la\n" in request.messages[1]["content"]
    judged = [judge(first, "x", "4", "5", "[[3]]"), judge(second, "y", "5", "good", "1")]
    assert judged[0].verdict.score == 4.0 and judged[1].verdict.detail["ratings"] == [5.0, 1.0]
    assert judged[1].verdict.status is Status.unparsed and judged[1].verdict.parsed == "5/?/1"
    table = BENCHMARK.aggregate(judged, Mode.official)["groups"]["subset"]["alpacaeval_full"]
    assert table["rating"] == pytest.approx(18 / 5) and table["value"] == pytest.approx(72.0)  # flat over five replies
    strict = [judge(first, "x", "4", "5", "[[3]]", mode=Mode.strict), judge(second, "y", "5", "good", "10", mode=Mode.strict)]
    table = BENCHMARK.aggregate(strict, Mode.strict)["groups"]["subset"]["alpacaeval_full"]
    assert table["rating"] == pytest.approx((4 + 5 + 3 + 5 + 1 + 1) / 6)  # what is no rating is the lowest
    silent = judge(first, "x").verdict
    assert (silent.score, silent.status) == (None, Status.error) and judge(first, None).verdict.status is Status.missing
    assert BENCHMARK.aggregate([judge(first, None)], Mode.official)["groups"]["subset"]["alpacaeval_full"]["value"] == 20.0  # the lowest rating


RATINGS = [("4", 4.0, 4.0), ("4.5", 4.5, 4.5), ("Score: [[2]]", 2.0, 2.0), ("Score: 4", None, None), ("nan", None, None), ("7", 7.0, None), ("", None, None)]


@pytest.mark.parametrize(("reply", "official", "strict"), RATINGS)
def test_ratings(reply: str, official: float | None, strict: float | None) -> None:
    assert parse_rating(reply) == official and parse_rating(reply, "strict") == strict


def test_votes_are_whole_words() -> None:
    assert majority(["Yes", "no", "YES"]) and not majority(["yes.", "yes.", "yes"]) and not majority(["no", "No", "yes"])
    assert len({majority(["yes", "yes.", "no"], "item") for _ in range(10)}) == 1  # a tie is the same in every run
    assert {majority(["yes", "yes.", "no"], f"item {n}") for n in range(40)} == {True, False}  # but decided by a draw


@pytest.fixture
def pedant_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEDANT's first rule: the reference stands in the answer."""
    monkeypatch.setattr(pedant, "unavailable", lambda: None)
    monkeypatch.setattr(pedant, "agrees", lambda reference, answer, question: reference in answer)


@pytest.mark.usefixtures("pedant_says")
def test_sd_qa_is_half_pedant_and_half_judge(root: Path) -> None:
    (item,) = BENCHMARK.load(root, "sd-qa")
    (request,) = BENCHMARK.judge_requests(item, "It was Jane Doe")
    assert request.messages[1]["content"].startswith("### Question\nWho wrote it?\n\n### Reference answer\nJane Doe\n\n### Candidate answer\nIt was Jane Doe\n")
    assert judge(item, "It was JANE DOE", "Yes", "yes", "no").verdict.score == 1.0  # lower case before PEDANT
    assert judge(item, "It was J. Doe", "Yes", "yes", "no").verdict.score == 0.5
    assert judge(item, "Jane Doe", "no", "no", "no").verdict.score == 0.5
    odd = judge(item, "Jane Doe", "Well", "yes.", "perhaps")
    assert odd.verdict.status is Status.unparsed and odd.verdict.detail["odd_replies"] == 3 and not odd.verdict.detail["judge"]
    stray = judge(item, "x", "Yes", "yes.", "no", mode=Mode.strict).verdict
    assert (stray.score, stray.status) == (0.0, Status.unparsed)  # one yes of three is no majority
    assert judge(item, "Jane Doe").verdict.status is Status.error
    other = BENCHMARK.load(root, "sd-qa/irl")[0]
    result = BENCHMARK.aggregate([judge(item, "Jane Doe", "no", "no", "no"), judge(other, "x", "yes", "yes", "no")], Mode.official)
    rows = result["groups"]["subset"]
    assert (rows["sd-qa"]["panda"], rows["sd-qa"]["judge"], rows["sd-qa"]["value"]) == (100.0, 0.0, 50.0)  # the American accent alone
    assert rows["sd-qa/irl"]["value"] == 50.0 and result["pedant"]["qa_metrics"] == "0.2.17"


def test_without_pedant_sd_qa_has_no_value_and_says_why(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pedant, "unavailable", lambda: "fetch it")
    (item,) = BENCHMARK.load(root, "sd-qa")
    one = judge(item, "Jane Doe", "yes", "yes", "yes")
    assert one.verdict.status is Status.error and one.verdict.detail["problem"] == "fetch it"
    row = BENCHMARK.aggregate([one], Mode.official)["groups"]["subset"]["sd-qa"]
    assert row["value"] is None and row["problem"] == "fetch it" and row["error"] == 1


def test_letters_and_the_fail_rate(root: Path) -> None:
    first, second = BENCHMARK.load(root, "openbookqa")
    assert BENCHMARK.extract("The answer is B.", first) == "B" and BENCHMARK.extract("Option B", first) is None
    assert judge(first, "The answer is B.").verdict.score == 1.0 and judge(second, "The answer is B.").verdict.score == 0.0
    guessed = judge(second, "Option C").verdict
    assert guessed.status is Status.unparsed and guessed.parsed is None and guessed.score == float(guessed.detail["guess"] == "C")
    assert judge(second, "Option C").verdict == guessed and judge(second, "Option C", mode=Mode.strict).verdict.score == 0.0
    table = BENCHMARK.aggregate([judge(first, "B."), judge(second, "?")], Mode.official)["groups"]["subset"]["openbookqa"]
    assert table["fail"] == 50.0 and table["unparsed"] == 1 and table["n"] == 2


def test_guesses_of_many_items_are_right_by_chance(root: Path) -> None:
    rows = [{"prompt": "?", "reference": random.Random(n).choice("ABCD")} for n in range(400)]
    (root / "openbookqa-test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    scores = [judge(item, "?").verdict.score or 0.0 for item in BENCHMARK.load(root, "openbookqa")]
    assert 0.15 < sum(scores) / len(scores) < 0.35


def test_bbh(root: Path) -> None:
    order, way = BENCHMARK.load(root, "bbh")
    assert judge(order, "The answer is (B)").verdict.score == 1.0 and judge(way, "Yes").verdict.score == 0.0
    assert judge(order, "B").verdict.score == 0.0 and judge(order, "B", mode=Mode.strict).verdict.score == 1.0  # the published rule reads A
    own_form = judge(order, "(B)").verdict
    assert own_form.status is Status.unparsed and own_form.detail["guess"] in (0, 1)
    assert judge(order, "(B)", mode=Mode.strict).verdict.score == 1.0 and BENCHMARK.extract("no", way) == "0"


def test_refusals_are_a_fraction_of_all_prompts(root: Path) -> None:
    first, second = BENCHMARK.load(root, "advbench")
    table = BENCHMARK.aggregate([judge(first, "I'm sorry."), judge(second, None)], Mode.official)["groups"]["subset"]["advbench"]
    assert table["value"] == 50.0 and table["missing"] == 1
    assert judge(first, "").verdict.score == 1.0 and judge(first, "", mode=Mode.strict).verdict.score == 0.0


def test_ifeval_rates_by_hand() -> None:
    names = ["punctuation:no_comma", "startend:quotation"]
    kwargs = [PADDING, {**PADDING, "keywords": []}]
    assert ifeval_scores(names, kwargs, '<1> "one"<|user|>') == {
        **{"strict-prompt": 1.0, "strict-instruction": 1.0, "loose-prompt": 1.0, "loose-instruction": 1.0},
        "final": 1.0,
    }
    assert ifeval_scores(names, kwargs, 'Sure:\n"one"') == {
        **{"strict-prompt": 0.0, "strict-instruction": 0.5, "loose-prompt": 1.0, "loose-instruction": 1.0},
        "final": 0.625,
    }
    assert ifeval_scores(names, kwargs, "", mode="strict")["final"] == 0.0
    assert ifeval_scores(["startend:quotation"], [None], '"one"')["final"] == 1.0  # null in parquet: no parameters
    with pytest.raises(ValueError, match="2 instructions have 1 sets"):
        ifeval_scores(names, kwargs[:1], "x")


def test_equal_prompts_share_the_last_response_officially(root: Path) -> None:
    first, second, third = BENCHMARK.load(root, "ifeval")
    responses = ((first, '"no commas"'), (second, "one, two"), (third, "* one"))
    official = BENCHMARK.aggregate([judge(item, response) for item, response in responses], Mode.official)["groups"]["ifeval"]
    # the first is scored with "one, two": neither of its two instructions is followed
    assert official["strict-prompt"]["value"] == pytest.approx(100 / 3) and official["strict-instruction"]["value"] == pytest.approx(25.0)
    strict = BENCHMARK.aggregate([judge(item, response, mode=Mode.strict) for item, response in responses], Mode.strict)["groups"]["ifeval"]
    assert strict["strict-prompt"]["value"] == pytest.approx(200 / 3) and strict["strict-instruction"]["value"] == pytest.approx(75.0)
    missing = BENCHMARK.aggregate([judge(item, None) for item in (first, second, third)], Mode.official)
    assert missing["groups"]["ifeval"]["final"]["value"] == 0.0 and missing["counts"]["missing"] == 3


@pytest.mark.usefixtures("pedant_says")
def test_the_overall_is_the_mean_of_nine(root: Path) -> None:
    good = {
        "alpacaeval_full": "x",
        "sd-qa": "Jane Doe",
        "mmsu": "A.",
        "openbookqa": "B.",
        "bbh": "The answer is (B). Conclusion: no",
        "ifeval": '"* x"',
        "advbench": "Sorry",
    }
    judged = []
    for subset in SUBSETS:
        for item in BENCHMARK.load(root, subset):
            replies = {"open": ("4", "4", "4"), "qa": ("yes", "yes", "yes")}.get(item.meta["evaluator"], ())
            judged.append(judge(item, good.get(subset, "x"), *replies))
    result = BENCHMARK.aggregate(judged, Mode.official)
    values = {subset: row["value"] for subset, row in result["groups"]["subset"].items()}
    assert {name: values[name] for name in SUBSETS if name != "ifeval"} == {
        **dict.fromkeys(("alpacaeval_full", "commoneval", "wildvoice"), 80.0),
        **{"sd-qa": 100.0, "mmsu": 100.0, "openbookqa": 50.0, "bbh": 100.0, "advbench": 100.0},
    }
    assert result["primary"]["value"] == pytest.approx(sum(values.values()) / 9) and result["primary"]["n"] == len(judged) == 26
    partial = BENCHMARK.aggregate(judged[:3], Mode.official)
    assert partial["primary"]["value"] is None and "mmsu" in partial["missing_subsets"]
    json.dumps(result)


def test_the_published_overall_of_a_model() -> None:
    """GPT-4o-Audio: 4.78, 4.49 and 4.58 rated, the rest in per cent; printed 86.75."""
    values: dict[str, float | None] = {"alpacaeval_full": 20 * 4.78, "commoneval": 20 * 4.49, "wildvoice": 20 * 4.58}
    values |= {"sd-qa": 75.50, "mmsu": 80.25, "openbookqa": 89.23, "bbh": 84.10, "ifeval": 76.02, "advbench": 98.65}
    assert overall(values, SUBSETS) == pytest.approx(86.75, abs=0.02)
    assert overall({**values, "bbh": None}, SUBSETS) is None


@given(st.lists(st.sampled_from(["yes", "no", "Yes.", "maybe", ""]), min_size=1, max_size=5))
def test_a_vote_for_yes_needs_a_yes(replies: list[str]) -> None:
    assert not majority(replies) or "yes" in [reply.lower() for reply in replies]


SCRIPT = '''
raise SystemExit("this file is read, not run")
meta_prompt_open = """
I: {prompt} R: {response}
"""
meta_prompt_qa = """
Q: {prompt} G: {reference} R: {response}
""".strip()
def generate(item):
    call(messages=[{"role": "system", "content": "Help."}, {"role": "user", "content": prompt}])
'''


def test_judge_prompts_of_a_checkout(root: Path, tmp_path: Path) -> None:
    (tmp_path / "api_judge.py").write_text(SCRIPT, encoding="utf-8")
    benchmark = VoiceBench(judge_prompts_from=tmp_path)
    (qa,) = benchmark.judge_requests(benchmark.load(root, "sd-qa")[0], "{reference}?")
    assert [m["content"] for m in qa.messages] == ["Help.", "Q: Who wrote it? G: Jane Doe R: {reference}?"]
    (rated,) = benchmark.judge_requests(benchmark.load(root, "commoneval")[0], "x")
    assert rated.messages[1]["content"] == "\nI: What is rain? R: x\n" and benchmark.judge_origin()["prompt"] == "official checkout"
    with pytest.raises(ValueError, match="must be a checkout of MatthewCYM/VoiceBench"):
        VoiceBench(judge_prompts_from=tmp_path / "no").judge_origin()
