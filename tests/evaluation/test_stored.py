"""Responses for scoring alone: rows of any program, and the response files of every official script as they are written."""

import json
from pathlib import Path

import pytest

from nemo_desta.evaluation import pedant
from nemo_desta.evaluation.benchmarks import get_benchmark
from nemo_desta.evaluation.benchmarks.base import Item
from nemo_desta.evaluation.config import RESPONSE_KEYS, ZeroShotConfig
from nemo_desta.evaluation.stored import Stored, read_predictions
from nemo_desta.evaluation.zero_shot import RECORDED, evaluate_zero_shot
from tests.evaluation.made_data import dynamic_superb, mmau, sakura, speech_ifeval, voicebench


def items_of(name: str, root: Path, *subsets: str) -> list[Item]:
    benchmark = get_benchmark(name)
    return [item for subset in subsets or benchmark.subsets for item in benchmark.load(root, subset)]


def read(name: str, path: Path, items: list[Item]) -> Stored:
    return read_predictions(path, get_benchmark(name), items, RESPONSE_KEYS)


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for module in (dynamic_superb, mmau, sakura, speech_ifeval, voicebench):
        module.make(folder / module.__name__.rsplit(".", 1)[-1])
    return folder


def test_records_of_mmau(root, tmp_path):
    items = items_of("mmau", root / "mmau", "test-mini")
    records = json.loads((root / "mmau" / "mmau-test-mini.json").read_text())
    for n, record in enumerate(records[1:]):
        record["model_output"] = f"raw {n}"
    records[2]["model_prediction"] = "cleaned"
    (tmp_path / "whatever_results.json").write_text(json.dumps(records))
    found = read("mmau", tmp_path, items)
    assert found.responses[items[0].id].response is None  # a record without the key is missing, not left out
    assert found.responses[items[2].id].response == "cleaned" and found.responses[items[3].id].response == "raw 2"
    assert found.files.keys() == {"whatever_results.json"} and found.replies == {}


def test_results_of_sakura_before_and_after_the_official_judge(root, tmp_path):
    items = items_of("sakura", root / "sakura")
    by_track: dict[str, list[Item]] = {}
    for item in items:
        by_track.setdefault(item.track, []).append(item)
    for track, members in by_track.items():
        attribute, hop = track.split("/")
        results = {i.meta["file"]: {"instruction": i.question, "response": f"said {i.id}", "label": i.meta["label"]} for i in members}
        (tmp_path / f"{attribute}_{hop}.json").write_text(json.dumps({"attribute": attribute, "type": hop, "results": results}))
    assert {item: r.response for item, r in read("sakura", tmp_path, items).responses.items()} == {i.id: f"said {i.id}" for i in items}

    first = by_track["Animal/multi"]
    words = ("correct", "incorrect", "correct.")  # the last one is none for the official count
    rows = zip(first, words, strict=True)
    done = {i.meta["file"]: {"Explanation": "E", "Judgement": w, "instruction": i.question, "model_response": f"said {i.id}", "label": ""} for i, w in rows}
    (tmp_path / "Animal_multi_judgements.json").write_text(json.dumps({"judge_model": "j", "temperature": 0.0, "results": done}))
    found = read("sakura", tmp_path, items)
    assert {item: replies["correctness"][0] for item, replies in found.replies.items()} == {
        i.id: f"Explanation: E\nJudgement: {w}" for i, w in zip(first, words, strict=True)
    }


def test_outputs_of_speech_ifeval_without_ids_and_out_of_order(root, tmp_path):
    items = items_of("speech_ifeval", root / "speech_ifeval")
    for subset in {item.track for item in items}:
        rows = [json.loads(line) for line in (root / "speech_ifeval" / "data" / "eval_data" / f"{subset}.jsonl").read_text().splitlines()]
        write_rows(tmp_path / f"{subset}.jsonl", [{**row, "response": f"{subset} {n}"} for n, row in reversed(list(enumerate(rows)))])
    thought = [{"audio_filepath": i.cluster, "instruction": i.question, "metric": "cot", "eval_response": "Result: YES", "correct": True} for i in items[4:6]]
    write_rows(tmp_path / "reports" / "llm_eval@chain-of-thought.jsonl", [{**row, "response": f"chain-of-thought {n}"} for n, row in enumerate(thought)])
    found = read("speech_ifeval", tmp_path, items)
    assert [found.responses[f"chain-of-thought/{n}"].response for n in range(2)] == ["chain-of-thought 0", "chain-of-thought 1"]
    assert found.responses["creative_writing/935"].response == "creative_writing 1" and len(found.responses) == len(items)
    assert found.replies == {f"chain-of-thought/{n}": {"cot": ("Result: YES",)} for n in range(2)}


def test_responses_of_voicebench_without_ids(root, tmp_path):
    items = items_of("voicebench", root / "voicebench")
    rows = [{"key": 2, "prompt": "Same words.", "response": "first"}, {"key": 1, "prompt": "Same words.", "response": "second"}]
    write_rows(tmp_path / "a-model-ifeval-test-audio.jsonl", [*rows, {"key": 9, "prompt": "Of another version.", "response": "x"}])
    write_rows(tmp_path / "a-model-mmsu-law-audio.jsonl", [{"prompt": "What of law?", "response": "B"}])
    judged = [{"prompt": "Who wrote it?", "reference": "Jane Doe", "response": "She", "score": ["Yes", "no", "Yes"]}]
    write_rows(tmp_path / "result-a-model-sd-qa-usa-audio.jsonl", judged)
    write_rows(tmp_path / "a-model-alpacaeval_full-test-audio.jsonl", [{"prompt": "Sing.", "response": "La"}])
    found = read("voicebench", tmp_path, items)
    said = {item: r.response for item, r in found.responses.items()}
    assert said == {
        "ifeval/test/0": "first",  # equal prompts are taken in their order
        "ifeval/test/1": "second",
        "a-model-ifeval-test-audio.jsonl, row 3": "x",
        "mmsu/law/0": "B",
        "sd-qa/usa/0": "She",
        "alpacaeval_full/test/1": "La",
    }
    assert found.replies == {"sd-qa/usa/0": {"judge": ("Yes", "no", "Yes")}}
    write_rows(tmp_path / "another-mmsu-law-audio.jsonl", [{"prompt": "What of law?", "response": "C"}])
    with pytest.raises(ValueError, match=r"a-model-mmsu-law-audio.* and .*another-mmsu-law-audio.*different responses to 'mmsu/law/0'"):
        read("voicebench", tmp_path, items)


def test_instances_of_dynamic_superb(root, tmp_path):
    items = items_of("dynamic_superb", root / "dynamic_superb")
    name = "NoiseDetection_VCTK_MUSAN-Music"
    table = json.loads((root / "dynamic_superb" / name / "metadata.json").read_text())
    for row in table.values():
        row |= {"sllm_name": "m", "sllm_response": f"I say {row['label']}", "messages": [], "evaluation_response": "It fits.\nResult: YES"}
    (tmp_path / "dynamic_superb").mkdir()  # the benchmark's folder of a folder of predictions
    (tmp_path / "dynamic_superb" / f"{name}.json").write_text(json.dumps(table))
    found = read("dynamic_superb", tmp_path, items)
    assert {item: r.response for item, r in found.responses.items()} == {f"{name}/{name}_0.wav": "I say clean", f"{name}/{name}_1.wav": "I say noisy"}
    assert found.replies[f"{name}/{name}_0.wav"] == {"correctness": ("It fits.\nResult: YES",)}
    (tmp_path / "dynamic_superb" / f"{name}.json").write_text("[1]")
    with pytest.raises(ValueError, match="a mapping from clips to rows"):
        read("dynamic_superb", tmp_path, items)


def test_recorded_replies_score_without_a_judge(root, tmp_path):
    items = items_of("speech_ifeval", root / "speech_ifeval", "chain-of-thought")
    replies = ("Result: YES", "Result: <YES>")
    rows = [{"audio_filepath": i.cluster, "instruction": i.question, "metric": "cot", "response": "So"} for i in items]
    rows = [{**row, "eval_response": reply} for row, reply in zip(rows, replies, strict=True)]
    write_rows(tmp_path / "llm_eval@chain-of-thought.jsonl", rows)
    subsets = {"speech_ifeval": ["chain-of-thought"]}
    cfg = ZeroShotConfig(run_dir=str(tmp_path / "run"), benchmarks=["speech_ifeval"], data_root=str(root), predictions=str(tmp_path), subsets=subsets)
    results = evaluate_zero_shot(cfg, progress=False)
    found = results["benchmarks"]["speech_ifeval"]
    assert found["strict"]["groups"]["subset"]["chain-of-thought"]["value"] == 50
    assert found["strict"]["counts"] == {"scored": 1, "unparsed": 1, "missing": 0, "error": 0} and results["complete"]
    assert results["judges"] == [{"kind": "recorded", "name": RECORDED}] and results["judging"] == {"open_requests": 0}
    assert found["predictions"].keys() == {"llm_eval@chain-of-thought.jsonl"}

    write_rows(tmp_path / "llm_eval@chain-of-thought.jsonl", [rows[0], {**rows[1], "eval_response": None}])
    results = evaluate_zero_shot(cfg, progress=False)
    assert results["benchmarks"]["speech_ifeval"]["errors"] == {"chain-of-thought/1": "judge: no reply is recorded with the predictions"}
    assert results["judging"] == {"open_requests": 1} and not results["complete"]


def test_stored_files_are_only_read_and_an_unfinished_line_is_left_out(root, tmp_path):
    items = items_of("mmau", root / "mmau", "test-mini")
    file = tmp_path / "mmau.jsonl"
    file.write_text(f'{{"id": "{items[0].id}", "response": "A dog"}}\n{{"id": "{items[1].id}", "response": "no line end"}}')
    before = file.read_bytes()
    assert [read("mmau", tmp_path, items).responses[i.id].response for i in items[:2]] == ["A dog", "no line end"]
    file.write_bytes(before[:-4])
    assert read("mmau", file, items).responses.keys() == {items[0].id} and file.read_bytes() == before[:-4]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"response": "x"}\n', "row 1 names no item"),
        ('{"item": "a", "answer": "x"}\n', r"no row has a response; response_keys=.*\['answer', 'item'\]"),
        ('{"item": "a", "respo\n{"item": "b", "response": "x"}\n', r"mmau\.jsonl, line 1: not JSON"),
        ("[1]\n", "line 1: an object was expected, found list"),
        ('{"item": "a", "response": "x", "run": "1"}\n{"item": "a", "response": "y", "run": "2"}\n', "responses of 2 models or settings"),
    ],
)
def test_files_that_cannot_be_used_are_named(root, tmp_path, content, said):
    (tmp_path / "mmau.jsonl").write_text(content)
    with pytest.raises(ValueError, match=said):
        read("mmau", tmp_path, items_of("mmau", root / "mmau", "test-mini"))


def test_a_folder_without_predictions_says_what_was_looked_for(root, tmp_path):
    items = items_of("voicebench", root / "voicebench")
    with pytest.raises(ValueError, match=r"neither voicebench\.jsonl nor voicebench\.json, nor <model>-<subset>-<split>-<modality>\.jsonl"):
        read("voicebench", tmp_path, items)


def test_what_a_benchmark_cannot_score_says_why(root, tmp_path, monkeypatch):
    monkeypatch.setattr(pedant, "unavailable", lambda: "PEDANT needs its classifier: run tools/fetch_pedant.py")
    row = {"prompt": "Who wrote it?", "reference": "Jane Doe", "response": "She", "score": ["Yes", "no", "Yes"]}
    write_rows(tmp_path / "result-m-sd-qa-usa-audio.jsonl", [row])
    subsets = {"voicebench": ["sd-qa"]}
    cfg = ZeroShotConfig(run_dir=str(tmp_path / "run"), benchmarks=["voicebench"], data_root=str(root), predictions=str(tmp_path), subsets=subsets)
    results = evaluate_zero_shot(cfg, progress=False)
    assert results["benchmarks"]["voicebench"]["errors"] == {"sd-qa/usa/0": "PEDANT needs its classifier: run tools/fetch_pedant.py"}
    assert not results["complete"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "1 item has an error and counts as wrong" in page and "<dt>Problem</dt>" in page
