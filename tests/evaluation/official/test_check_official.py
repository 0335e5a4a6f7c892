"""The check against official scorers, on checkouts made for these tests: it agrees where the scorers agree, and fails where they do not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_desta.evaluation.benchmarks.dynamic_superb_data import dimensions
from nemo_desta.evaluation.benchmarks.sakura import TRACKS
from nemo_desta.evaluation.official import dynamic_superb, mmau, sakura
from nemo_desta.evaluation.official.common import Report, commit_of, import_file, run_script
from nemo_desta.evaluation.prompts import load_prompt

ROOT = Path(__file__).resolve().parents[3]

# A scorer of the documented rule and the documented tables, written for this test.
EVALUATION = """
import argparse, json, re
def words(text):
    return set(re.findall(r"\\b\\w+\\b", text.lower()))
def string_match(answer, prediction, choices):
    said, wanted = words(prediction), words(answer)
    wrong = set()
    for choice in choices:
        if words(choice) != wanted:
            wrong |= words(choice) - wanted
    return bool(said) and wanted <= said and not said & wrong
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--input")
    rows = json.load(open(parser.parse_args().input))
    def show(name, chosen):
        hits = sum(string_match(r["answer"], r["model_output"], r["choices"]) for r in chosen)
        print(f"{name}: {100 * hits / len(chosen):.2f}% over {len(chosen)} samples")
    for key in ("task", "difficulty", "sub-category"):
        for value in dict.fromkeys(r[key] for r in rows):
            show(value + (" " if key != "total" else ""), [r for r in rows if r[key] == value])
    show("Total Accuracy", rows)
"""

# The judge's script and the counting script, with the documented markers, reply format and output.
JUDGE = """
import argparse, json, os, re
from openai import OpenAI
from tqdm import tqdm
parser = argparse.ArgumentParser()
parser.add_argument("-i")
parser.add_argument("-o")
options = parser.parse_args()
system_prompt = "Judge."
user_prompt_template = "Q [QUESTION] A [GROUND_TRUTH_ANSWER] R [MODEL_GENERATED_RESPONSE]"
client, results = OpenAI(api_key="none"), {}
for key, row in tqdm(json.load(open(options.i))["results"].items()):
    user = user_prompt_template.replace("[QUESTION]", row["instruction"]).replace("[MODEL_GENERATED_RESPONSE]", row["response"])
    user = user.replace("[GROUND_TRUTH_ANSWER]", row["label"])
    messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": user}]
    reply = client.chat.completions.create(messages=messages, model="m", temperature=0.0, top_p=0.9).choices[0].message.content
    found = re.search(r"Explanation: (.*?)\\nJudgement: (.*?)(?:\\n\\n|$)", reply, re.DOTALL)
    results[key] = {"Judgement": found.group(2) if found else "none"}
json.dump({"results": results}, open(os.path.join(options.o, os.path.basename(options.i).replace(".json", "_judgements.json")), "w"))
"""
COUNT = """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("-i")
words = [r["Judgement"].lower().strip() for r in json.load(open(parser.parse_args().i))["results"].values()]
print(f"Total count: {len(words)}")
print(f"Accuracy: {100 * words.count('correct') / len(words):.2f}%")
"""


def record(n, answer, choices, task):
    return {
        "id": f"m{n}", "audio_id": f"./test-mini-audios/m{n}.wav", "question": "What is it?", "choices": choices, "answer": answer, "dataset": "made",
        "task": task, "split": "test-mini", "category": "Reasoning", "sub-category": "Made", "difficulty": "easy",
    }  # fmt: skip


RECORDS = [
    record(0, "Yes", ["Yes", "No, the other"], "sound"),
    record(1, "one two", ["one two", "two one", "three"], "music"),
    record(2, "x", list("xy"), "speech"),
]


@pytest.fixture
def mmau_checkout(tmp_path):
    (tmp_path / "evaluation.py").write_text(EVALUATION, encoding="utf-8")
    (tmp_path / "mmau-test-mini.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def sakura_checkout(tmp_path):
    for track in TRACKS:
        folder = tmp_path / "data" / track
        folder.mkdir(parents=True)
        row = {
            "attribute_label": "up",
            "single_instruction": "Where? (a) up (b) down",
            "single_answer": " (a) up",
            "multi_instruction": "Far? (a) yes (b) no",
            "multi_answer": "(b) no",
        }
        (folder / "metadata.json").write_text(json.dumps({f"data/{track}/audio/{n}.wav": row for n in range(40)}), encoding="utf-8")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "llm_judge.py").write_text(JUDGE, encoding="utf-8")
    (tmp_path / "evaluation" / "calculate_acc.py").write_text(COUNT, encoding="utf-8")
    return tmp_path


def test_mmau_agrees_with_the_documented_rule_and_finds_another(mmau_checkout):
    report = mmau.check({"mmau": mmau_checkout})
    assert report.differences == [] and report.compared["made predictions"] > 40
    (mmau_checkout / "evaluation.py").write_text(EVALUATION.replace("wanted <= said and", ""), encoding="utf-8")
    assert "prediction" in mmau.check({"mmau": mmau_checkout}).differences[0]


def test_published_predictions_are_scored_with_the_answers_beside_them(mmau_checkout, tmp_path, monkeypatch):
    path = tmp_path / "desta" / mmau.PREDICTIONS
    path.parent.mkdir(parents=True)
    outputs = ['The correct answer is: "Yes".', "The correct answer is: three", "The correct answer is: y"]
    rows = [{**r, "model_output": o, "model_prediction": o.replace("The correct answer is: ", "").strip()} for r, o in zip(RECORDS, outputs, strict=True)]
    rows[2]["answer"] = "y"  # corrected since
    path.write_text(json.dumps(rows), encoding="utf-8")
    system = load_prompt("mmau/desta25").system
    (tmp_path / "desta" / mmau.INFERENCE).write_text(f"def main():\n    system_prompt = {system!r}\n", encoding="utf-8")
    monkeypatch.setattr(mmau, "PUBLISHED", {"mmau/desta25": (66.67, 100.0, 0.0, 100.0), "mmau/desta25_unstripped": (33.33, 0.0, 0.0, 100.0)})
    checkouts = {"mmau": mmau_checkout, "desta": tmp_path / "desta"}
    report = mmau.check(checkouts)
    assert report.differences == [] and report.compared["published figures, mmau/desta25"] == 4
    assert report.notes[0].startswith("1 answers") and report.notes[0].endswith("with today's: 33.33")
    rows[0]["model_prediction"] = "No"
    path.write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "desta" / mmau.INFERENCE).write_text("system_prompt = 'Another.'", encoding="utf-8")
    assert [d.split(":")[0] for d in mmau.check(checkouts).differences] == ["extraction, mmau/desta25", "system message of the reference"]


def test_sakura_agrees_request_by_request_and_finds_another_parser_and_prompt(sakura_checkout):
    report = sakura.check({"sakura": sakura_checkout})
    assert report.differences == []
    assert report.compared["verdicts"] == 320 and report.compared["accuracies of calculate_acc.py"] == 8
    assert 200 < report.compared["requests to the judge"] < 320  # but for the responses with a marker
    script = sakura_checkout / "evaluation" / "llm_judge.py"
    script.write_text(JUDGE.replace("top_p=0.9", "top_p=1.0").replace('else "none"', 'else "correct"'), encoding="utf-8")
    kinds = {difference.split(":")[0] for difference in sakura.check({"sakura": sakura_checkout}).differences}
    assert kinds == {"requests to the judge", "verdicts", "accuracies of calculate_acc.py"}


METRIC = "def get_score(pred, ref):\n    return pred.lower() == ref.lower()\n"  # the documented rule


@pytest.fixture
def dynamic_superb_checkout(tmp_path):
    for name in [*dimensions(), "Another_Task"]:
        card = tmp_path / "dynamic_superb" / "benchmark_tasks" / name.split("_")[0] / name / "instance.json"
        card.parent.mkdir(parents=True)
        card.write_text(json.dumps({"name": name, "metrics": ["accuracy"]}), encoding="utf-8")
    (tmp_path / "api" / "metrics").mkdir(parents=True)
    (tmp_path / "api" / "metrics" / "accuracy.py").write_text(METRIC, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    tasks = {name.split("_")[0]: dimension for name, dimension in dimensions().items()}
    rows = "".join(f"| {dimension} | {task[:4]}-{task[4:]} | some data |\n" for task, dimension in tasks.items())
    (tmp_path / "docs" / "task_list.md").write_text(f"Dimension | Task | Datasets |\n|---|---|---|\n{rows}", encoding="utf-8")
    return tmp_path


def test_dynamic_superb_agrees_with_the_documented_rule_and_finds_another(dynamic_superb_checkout):
    root = dynamic_superb_checkout
    report = dynamic_superb.check({"dynamic_superb": root})
    assert report.differences == [] and "Another_Task" in report.notes[0]
    assert report.compared["accuracies"] == 56 and report.compared["dimensions of docs/task_list.md"] == 55 and report.compared["made responses"] > 8000
    (root / "api" / "metrics" / "accuracy.py").write_text(METRIC.replace("pred.lower()", "pred.strip().lower()"), encoding="utf-8")
    (root / "docs" / "task_list.md").write_text("| Speaker | Sarcasm Detection | Mustard |\n", encoding="utf-8")
    card = next(root.glob("dynamic_superb/*/SarcasmDetection/*/instance.json"))
    card.write_text(card.read_text(encoding="utf-8").replace("accuracy", "wer"), encoding="utf-8")
    kinds = {difference.split(":")[0] for difference in dynamic_superb.check({"dynamic_superb": root}).differences}
    assert {"made responses", "accuracies", "metrics of cards", "dimensions of docs/task_list.md"} == kinds
    card.unlink()
    assert any("SarcasmDetection" in d for d in dynamic_superb.check({"dynamic_superb": root}).differences if d.startswith("instances of phase 1"))


def test_command_line(mmau_checkout, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "tools/check_official.py", *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    good = run("--mmau", mmau_checkout, "--json", tmp_path / "check.json")
    assert good.returncode == 0 and "0 differences" in good.stdout, good.stderr
    assert json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))[0]["name"] == "mmau"
    (mmau_checkout / "evaluation.py").write_text("def string_match(*_):\n    return True\n", encoding="utf-8")
    bad = run("--mmau", mmau_checkout)
    assert bad.returncode == 1 and "DIFFERENT made predictions" in bad.stdout
    assert run("--mmau", tmp_path / "nothing").returncode == 2 and run().returncode == 2


def test_helpers(tmp_path):
    assert commit_of(tmp_path) == ""
    report = Report("x")
    report.compare("a", "here", 1, 1)
    report.compare("a", "there", 1, 2)
    assert report.compared == {"a": 2} and report.differences == ["a: there: official 1, ours 2"]
    with pytest.raises(ValueError, match="right checkout"):
        import_file(tmp_path / "absent.py")
    (tmp_path / "bad.py").write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(RuntimeError, match="ended with 3"):
        run_script(tmp_path / "bad.py")
    (tmp_path / "uses.py").write_text("from no_such_bar import bar\nvalue = list(bar([1]))\n", encoding="utf-8")
    assert import_file(tmp_path / "uses.py", stubs=("no_such_bar",)).value == [1]
    assert "no_such_bar" not in sys.modules  # other libraries look at every module that is loaded
