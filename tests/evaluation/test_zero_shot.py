import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from nemo_desta.config import Precision
from nemo_desta.evaluation import benchmarks
from nemo_desta.evaluation.benchmarks import get_benchmark
from nemo_desta.evaluation.config import EndpointConfig, GenerationOverrides, JudgingConfig, ZeroShotConfig
from nemo_desta.evaluation.journal import read_rows
from nemo_desta.evaluation.report.zero_shot import shown, summary_table
from nemo_desta.evaluation.zero_shot import evaluate_zero_shot
from tests.evaluation import toy_benchmark
from tests.evaluation.loopback import HANGS, Act, said, serving
from tests.evaluation.toy_benchmark import COLOURS
from tests.tiny import tiny_llm

ROOT = Path(__file__).resolve().parents[2]
IDS = [*(f"rule-{i}" for i in range(6)), *(f"judged-{i}" for i in range(4))]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(benchmarks.MODULES, "toy", "tests.evaluation.toy_benchmark")


@pytest.fixture
def data(tmp_path):
    return toy_benchmark.make(tmp_path / "data" / "toy").parent


def gold(item: str) -> str:
    return COLOURS[int(item.split("-")[1]) % 4]


def item_of(payload) -> str:
    return said(payload).split(":")[0]


def right(payload, attempt) -> Act:
    """A model that is always right and a judge that always agrees."""
    n = payload.get("n", 1)
    return Act(["yes"] * n) if "yes or no?" in said(payload) else Act([f"It is {gold(item_of(payload))}."])


def config(tmp_path, data, server=None, **more) -> ZeroShotConfig:
    url = server.url if server else "http://127.0.0.1:9/v1"  # nobody listens there
    endpoint = EndpointConfig(base_url=url, timeout=60.0, backoff=0.01, max_backoff=0.05, max_attempts=2, concurrency=3)
    endpoint.identity = "loopback"  # its port changes from server to server
    judging = JudgingConfig(endpoint=endpoint, cache_dir=str(tmp_path / "cache"))
    settings = {"run_dir": str(tmp_path / "run"), "model": "openai:m", "judge": "openai:j", "endpoint": endpoint, "judging": judging, "bootstrap": 50}
    return ZeroShotConfig(name="t", benchmarks=["toy"], data_root=str(data), **{**settings, **more})


def run(cfg):
    return evaluate_zero_shot(cfg, progress=False)


def test_a_run_asks_judges_scores_and_reports(tmp_path, data):
    with serving(right) as server:
        results = run(config(tmp_path, data, server))
        requests = len(server.requests)
        again = run(config(tmp_path, data, server))
        assert len(server.requests) == requests == 14  # ten items and four verdicts; nothing is paid for twice
    toy = results["benchmarks"]["toy"]
    assert results["complete"] and toy["strict"]["primary"]["value"] == toy["official"]["primary"]["value"] == 100
    assert toy["strict"]["counts"] == {"scored": 10, "unparsed": 0, "missing": 0, "error": 0}
    assert toy["strict"]["ci95"]["primary"] == [100, 100] and toy["subsets"] == {"rule": 6, "judged": 4}
    assert toy["prompt"]["id"] == "heldout" and len(toy["prompt"]["sha256"]) == 64 and toy["judged_items"] == 4
    assert results["manifest"]["data"] == {"toy": {"rule.json": "f00d", "judged.json": "f00d"}}
    assert results["judging"]["estimated_calls"] == 4 and again["judging"]["estimated_calls"] == 0
    assert again["benchmarks"] == results["benchmarks"]
    folder = tmp_path / "run"
    scored = read_rows(folder / "scored" / "toy.jsonl")
    assert [row["item"] for row in scored] == IDS and scored[-1]["judges"] == [{"judge": "j", "replies": {"verdict": ["yes"] * 3}}]
    assert {f.name for f in folder.iterdir()} >= {"results.json", "report.html", "report.md", "manifest.json", "predictions", "judgements", "scored"}


def test_both_modes_and_all_counts_are_reported(tmp_path, data):
    rows = json.loads((data / "toy" / "rule.json").read_text())
    rows[5]["audio"] = "missing.wav"
    (data / "toy" / "rule.json").write_text(json.dumps(rows))

    def act(payload, attempt):
        if "yes or no?" in said(payload):
            return Act(status=500, body=b"down") if "green" in said(payload) else Act(["maybe"] * 3) if "blue" in said(payload) else Act(["yes"] * 3)
        item = item_of(payload)
        if item == "rule-4":
            return Act(["x"], sleep=HANGS)
        return Act(["I hear nothing."]) if item == "rule-3" else right(payload, attempt)

    with serving(act) as server:
        cfg = config(tmp_path, data, server)
        cfg.endpoint.timeout = 3.0
        results = run(cfg)
    toy = results["benchmarks"]["toy"]
    assert not results["complete"] and not toy["complete"]
    assert toy["strict"]["counts"] == {"scored": 5, "unparsed": 2, "missing": 0, "error": 3}
    assert toy["official"]["primary"]["value"] == 60 and toy["strict"]["primary"]["value"] == 50  # the official rule of the toy hands out one
    assert toy["errors"].keys() == {"rule-4", "rule-5", "judged-1"}
    assert (
        toy["errors"]["rule-4"].startswith("timeout: ") and "missing.wav" in toy["errors"]["rule-5"] and toy["errors"]["judged-1"].startswith("judge: HTTP 500")
    )
    page = (tmp_path / "run" / "report.html").read_text()
    assert "rule-5" in page and 'src="clips/toy_' in page and "Not complete" in page
    assert "| toy | accuracy | 10 | 60.00 % |" in (tmp_path / "run" / "report.md").read_text()

    rows[5]["audio"] = "clip.wav"
    (data / "toy" / "rule.json").write_text(json.dumps(rows))
    with serving(right) as server:
        results = run(config(tmp_path, data, server))
        asked = Counter(item_of(p) for _, p, _ in server.requests if "yes or no?" not in said(p))
    assert asked == {"rule-4": 1, "rule-5": 1}  # only what failed is asked again
    assert results["complete"] and results["benchmarks"]["toy"]["strict"]["counts"]["unparsed"] == 2


def test_a_dead_server_is_left_alone_and_the_rest_is_missing(tmp_path, data):
    cfg = config(tmp_path, data, generation=GenerationOverrides(give_up_after=3), judge=None)
    cfg.endpoint.max_attempts, cfg.endpoint.concurrency = 1, 1
    toy = run(cfg)["benchmarks"]["toy"]
    assert toy["strict"]["counts"] == {"scored": 0, "unparsed": 0, "missing": 7, "error": 3}
    assert len(toy["missing"]) == 7 and toy["strict"]["primary"]["value"] == 0


def test_without_a_judge_its_items_are_errors(tmp_path, data):
    with serving(right) as server:
        results = run(config(tmp_path, data, server, judge=None))
    toy = results["benchmarks"]["toy"]
    assert toy["strict"]["counts"]["error"] == 4 and toy["errors"]["judged-0"] == "judge: none was given" and results["judging"] == {"open_requests": 4}


def test_the_budget_is_checked_before_anything_is_spent(tmp_path, data):
    with serving(right) as server:
        cfg = config(tmp_path, data, server)
        cfg.judging.max_calls = 3
        with pytest.raises(ValueError, match=r"judging needs 4 requests, about \d+ tokens to read, at most 96 to write.*max_calls=3"):
            run(cfg)
        assert not [p for _, p, _ in server.requests if "yes or no?" in said(p)]
        cfg.judging.max_calls = 4
        assert run(cfg)["complete"]


def test_replies_of_judges_are_shared_by_runs_and_raw_replies_are_kept(tmp_path, data):
    with serving(right) as server:
        run(config(tmp_path, data, server))
        before = len(server.requests)
        results = run(config(tmp_path, data, server, run_dir=str(tmp_path / "other")))
        assert len(server.requests) == before + 10  # the model is asked anew, the judge is not
        (kept, *_) = (tmp_path / "cache").glob("*/*.json")
        changed = config(tmp_path, data, server, run_dir=str(tmp_path / "third"))
        changed.judging.temperature = 0.0
        before = len(server.requests)
        run(changed)
        assert len(server.requests) == before + 14  # other parameters are another question
    stored = json.loads(kept.read_text())
    assert stored["raw"]["usage"] == {"total_tokens": 7} and stored["parameters"]["n"] == 3 and stored["judge"]["model"] == "j"
    assert results["complete"] and all(row["cached"] for row in read_rows(tmp_path / "other" / "judgements" / "toy.jsonl"))


def test_two_judges_are_compared(tmp_path, data):
    def act(payload, attempt):
        strict_one = payload["model"] == "k" and "green" in said(payload)
        return Act(["no"] * 3) if strict_one else right(payload, attempt)

    with serving(act) as server:
        results = run(config(tmp_path, data, server, second_judge="openai:k"))
    found = results["benchmarks"]["toy"]["agreement"]
    assert found["n"] == 4 and found["same"] == 0.75 and found["items"] == ["judged-1"] and found["judges"] == ["j", "k"]
    assert found["mean_difference"] == 0.25 and found["kappa"] == 0  # one judge said yes to everything: agreement by chance
    assert results["benchmarks"]["toy"]["strict"]["primary"]["value"] == 100  # scores are the first judge's


@pytest.mark.parametrize("name", ["toy.jsonl", "toy.json"])
def test_stored_predictions_are_scored_without_a_model(tmp_path, data, name):
    rows = [{"id": item, "model_output": f"raw {gold(item)}"} for item in IDS[1:]] + [{"id": "stranger", "model_output": "x"}]
    rows[0]["response"] = "black"  # goes before the raw output
    folder = tmp_path / "stored"
    folder.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows)
    (folder / name).write_text(text)
    with serving(right) as server:
        toy = run(config(tmp_path, data, server, model=None, predictions=str(folder)))["benchmarks"]["toy"]
        assert len(server.requests) == 4
    assert toy["missing"] == ["rule-0"] and toy["strict"]["counts"] == {"scored": 9, "unparsed": 0, "missing": 1, "error": 0}
    assert toy["strict"]["primary"]["value"] == 80 and toy["unknown_predictions"] == ["stranger"]


def test_a_runs_own_predictions_are_scored_again(tmp_path, data):
    with serving(right) as server:
        first = run(config(tmp_path, data, server))
        asked = len(server.requests)
        again = run(config(tmp_path, data, server, model=None, predictions=str(tmp_path / "run" / "predictions"), run_dir=str(tmp_path / "again")))
        assert len(server.requests) == asked
    assert again["benchmarks"]["toy"]["strict"] == first["benchmarks"]["toy"]["strict"]


def test_subsets_that_are_not_there_are_named_unless_asked_for(tmp_path, data):
    (data / "toy" / "judged.json").unlink()
    with serving(right) as server:
        toy = run(config(tmp_path, data, server))["benchmarks"]["toy"]
        assert toy["n"] == 6 and "judged.json is missing" in toy["subsets_left_out"]["judged"]
        with pytest.raises(ValueError, match=r"judged\.json is missing"):
            run(config(tmp_path, data, server, subsets={"toy": ["judged"]}))
        assert run(config(tmp_path, data, server, subsets={"toy": ["rule"]}, limit=2))["benchmarks"]["toy"]["n"] == 2


def test_mistakes_of_the_configuration_are_sentences(tmp_path, data):
    for wrong, said_ in [
        ({"model": None}, "either model"),
        ({"predictions": "x"}, "either model"),
        ({"benchmarks": ["nonsense"]}, "unknown benchmark 'nonsense': choose of "),
        ({"data_root": None}, "where is the data of toy"),
        ({"prompts": {"toy": "heldout/nothing"}}, "no prompt 'heldout/nothing'"),
        ({"prompts": {"toys": "heldout"}}, r"prompts.toys: unknown benchmark 'toys': choose of "),
        ({"predictions": str(tmp_path), "model": None}, r"neither toy\.jsonl nor toy\.json"),
        ({"predictions": str(tmp_path / "typo"), "model": None}, r"predictions=.*typo does not exist"),
        ({"model": str(tmp_path / "nowhere")}, "no checkpoint at"),
    ]:
        cfg = config(tmp_path, data)
        for key, value in wrong.items():
            setattr(cfg, key, value)
        with pytest.raises(ValueError, match=said_):
            run(cfg)


def test_another_prompt_or_model_is_another_question(tmp_path, data):
    with serving(right) as server:
        run(config(tmp_path, data, server))
        before = len(server.requests)
        run(config(tmp_path, data, server, model="openai:other"))
        assert len(server.requests) == before + 10
        rows = read_rows(tmp_path / "run" / "predictions" / "toy.jsonl")
        assert len(rows) == 20 and len({row["key"] for row in rows}) == 20
        with pytest.raises(ValueError, match="responses of 2 models or settings"):
            run(config(tmp_path, data, server, model=None, predictions=str(tmp_path / "run" / "predictions")))
        assert rows[0]["messages"][0]["audios"][0]["audio"] == "clip.wav"  # relative to the data


def test_another_server_is_another_model_and_another_judge(tmp_path, data):
    with serving(right) as first, serving(right) as second:
        run(config(tmp_path, data, first))
        cfg = config(tmp_path, data, second)
        cfg.endpoint.identity = None
        run(cfg)
        assert len(second.requests) == 14  # the same names at another address
        again = config(tmp_path, data, first)
        run(again)
        assert len(first.requests) == 14


def test_a_benchmark_of_one_run_does_not_change_that_of_another():
    benchmark = get_benchmark("toy", judge_prompts_from=Path("checkout"))
    assert benchmark.judge_prompts_from == Path("checkout") and toy_benchmark.BENCHMARK.judge_prompts_from is None
    assert get_benchmark("speech_ifeval", options={"task_level": True}).task_level and not get_benchmark("speech_ifeval").task_level
    with pytest.raises(ValueError, match="no option 'nonsense'"):
        get_benchmark("speech_ifeval", options={"nonsense": True})
    with pytest.raises(ValueError, match="classification='vote': write judge or exact"):
        get_benchmark("dynamic_superb", options={"classification": "vote"})
    with pytest.raises(ValueError, match="takes no judge prompts"):
        get_benchmark("heldout", judge_prompts_from=Path("checkout"))


CHILD = """
import sys
from nemo_desta.config import Precision
from nemo_desta.evaluation import benchmarks
from nemo_desta.evaluation.report.zero_shot import shown, summary_table
from nemo_desta.evaluation.zero_shot import evaluate_zero_shot
from tests.evaluation.test_zero_shot import config
from types import SimpleNamespace
from pathlib import Path
benchmarks.MODULES["toy"] = "tests.evaluation.toy_benchmark"
tmp, url = Path(sys.argv[1]), sys.argv[2]
evaluate_zero_shot(config(tmp, tmp / "data", SimpleNamespace(url=url)), progress=False)
"""


class Gate:
    """Answers so many requests and lets the others wait."""

    def __init__(self) -> None:
        self.allowed, self.came, self.changed, self.reached = 0, 0, threading.Condition(), threading.Event()

    def open(self, allowed: int) -> None:
        with self.changed:
            self.allowed = allowed
            self.reached.clear()
            self.changed.notify_all()

    def __call__(self, payload, attempt) -> Act:
        with self.changed:
            self.came += 1
            number = self.came
            if number > self.allowed:
                self.reached.set()
            self.changed.wait_for(lambda: number <= self.allowed, timeout=280)
        return right(payload, attempt)


def test_a_killed_run_loses_nothing_and_pays_for_nothing_twice(tmp_path):
    data = toy_benchmark.make(tmp_path / "data" / "toy", rule=30, judged=20).parent
    gate = Gate()
    with serving(gate) as server:
        command = [sys.executable, "-c", CHILD, str(tmp_path), server.url]
        kills = 0
        journal = tmp_path / "run" / "predictions" / "toy.jsonl"
        for stage in ("the model answers", "the judge does"):  # once each
            missing = 50 - journal.read_bytes().count(b"\n") if journal.exists() else 0
            gate.open(12 if stage == "the model answers" else gate.came + missing + 1)  # how many were under way at the first kill is chance
            child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            kills += gate.reached.wait(timeout=280) and child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
        gate.open(1000)
        stored = journal.read_bytes()
        journal.write_bytes(stored[:-20])  # as if it had been killed while writing its last line
        results = run(config(tmp_path, data, server))
        asked = Counter(said(payload) for _, payload, _ in server.requests)
    assert kills == 2 and results["complete"] and results["benchmarks"]["toy"]["n"] == 50
    rows = read_rows(journal)
    assert Counter(row["item"] for row in rows) == Counter([*(f"rule-{i}" for i in range(30)), *(f"judged-{i}" for i in range(20))])
    # Beyond once: what was under way at a kill (three at a time) and the line that was cut.
    assert sum(asked.values()) - len(asked) <= 3 * kills + 1


def test_figures_are_shown_with_their_unit():
    figures = [shown(0.5, "share"), shown(12.0, "%"), shown(12.0, "% WER"), shown(3.5, ""), shown(None, "%")]
    assert figures == ["50.00 %", "12.00 %", "12.00 % WER", "3.50", "–"]


def test_the_table_of_the_console_fits_into_eighty_columns():
    figures = {"primary": {"name": "mean accuracy of the attributes", "value": 66.0, "unit": "%"}, "ci95": {"primary": [61.2, 69.9]}}
    found = {
        mode: {**figures, "counts": {"scored": 990, "unparsed": unparsed, "missing": 4, "error": 17}} for mode, unparsed in (("official", 9), ("strict", 12))
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table({"name": "e", "model": {"name": "m"}, "benchmarks": {"dynamic_superb": {**found, "n": 10000, "complete": False}}}))
    text = console.export_text()
    assert all(word in text for word in ("dynamic_superb", "10000", "66.00 %", "(61.2 – 69.9)", "9 / 12", "17"))


def test_a_local_judge_replies_without_a_server(tmp_path, data):
    judge = tiny_llm(tmp_path / "llm")
    with serving(right) as server:
        cfg = config(tmp_path, data, server, judge=str(judge))
        cfg.generation.precision = Precision.fp32
        results = run(cfg)
        again = run(cfg)
        assert len(server.requests) == 10
    toy = results["benchmarks"]["toy"]
    assert toy["strict"]["counts"] == {"scored": 6, "unparsed": 4, "missing": 0, "error": 0}  # random weights say neither yes nor no
    rows = read_rows(tmp_path / "run" / "judgements" / "toy.jsonl")
    assert len(rows) == 4 and all(len(row["replies"]) == 3 for row in rows) and again["benchmarks"] == results["benchmarks"]
    assert results["judges"][0]["kind"] == "text"


def test_ten_thousand_items_are_scored_in_seconds(tmp_path):
    data = toy_benchmark.make(tmp_path / "data" / "toy", rule=10_000, judged=0).parent
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps({"item": f"rule-{i}", "response": "red"}) + "\n" for i in range(10_000)))
    started = time.process_time()
    results = run(config(tmp_path, data, model=None, predictions=str(tmp_path), judge=None, bootstrap=1000))
    assert time.process_time() - started < 30  # a few seconds on an idle machine
    assert results["benchmarks"]["toy"]["strict"]["primary"]["value"] == 25
