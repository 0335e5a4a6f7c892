"""Statistics by prompt, self-consistency, and a person's verdicts that the next run obeys."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from nemo_desta.corpora.manifests import read_cuts, write_cuts
from nemo_desta.data.supervision import add_self_generated, self_generated
from nemo_desta.generation import runner
from nemo_desta.generation.engines.base import LENGTH, Completion
from nemo_desta.generation.quality import consistency, prompt_statistics
from nemo_desta.generation.review import add_verdict, flags, overrule, read_verdicts, review_items
from nemo_desta.generation.runner import generate_targets
from tests.generation.clips import answer, config, corpus, row
from tests.generation.test_runner import Parrot, echo_seed
from tests.tiny import read_json, write_tone
from tools import target_quality
from tools.review_targets import main, make_server


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "model_revision", lambda reference: reference)


def test_lengths_and_refusals_are_counted_by_prompt() -> None:
    import dataclasses

    rows = [dataclasses.replace(row(gender="male"), row_id=str(i)) for i in range(3)]
    other = dataclasses.replace(row(None, "Describe it."), row_id="3")
    other = dataclasses.replace(other, prompt=dataclasses.replace(other.prompt, id="q"))
    answers = {
        "0": answer("A man."),
        "1": answer("I'm sorry, I cannot hear that."),
        "2": answer("one two three", LENGTH),
        "3": answer("A man is speaking here."),
    }
    found = prompt_statistics([*rows, other], answers, {"0": None, "1": "refusal", "2": "cut_off", "3": None})
    assert [entry["prompt_id"] for entry in found["by_prompt"]] == ["p", "q"]
    first = found["by_prompt"][0]
    assert (first["asked"], first["kept"], first["yield"], first["refused"], first["rejected"]) == (3, 1, 0.3333, 0.3333, {"refusal": 1, "cut_off": 1})
    assert first["words"] == {"min": 2, "p10": 2.2, "median": 3, "p90": 5.4, "max": 6} and first["tokens"]["max"] == 7
    assert set(found["by_kind"]) == {"attribute", "description"} and found["overall"]["asked"] == 4


class Wavering(Parrot):
    """Answers by the number behind the key."""

    def generate(self, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        self.calls += len(keys)
        texts = {"a": ["A man.", "A man.", "A woman."], "b": ["A man."] * 3, "c": ["dogs bark", "dogs bark", "cats purr"]}
        return [answer(texts[key[0]][int(key.rpartition("#")[2])]) for key in keys]


def test_consistency_counts_right_and_equal_answers() -> None:
    import dataclasses

    rows = [dataclasses.replace(row(gender="male"), row_id=name) for name in "ab"] + [dataclasses.replace(row(None, "Describe it."), row_id="c")]
    engine = Wavering()
    found = consistency(rows, engine, 3, {"gender": ["female", "male"]})
    assert engine.calls == 9
    assert found["attribute_rows"] == {"rows": 2, "correct": pytest.approx(5 / 6), "unanimous": 0.5, "always_correct": 0.5}
    assert found["open_rows"] == {"rows": 1, "agreement": pytest.approx(1 / 3)}
    assert found["rows"][0]["right"] == [True, True, False]
    with pytest.raises(ValueError, match="at least 2 samples"):
        consistency(rows, engine, 1, {})


def test_the_quality_tool_reads_a_run_and_asks_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    c = config(tmp_path)
    c.trainer.max_steps = 1
    generate_targets(c, engine=Parrot(echo_seed))
    stats = read_json(tmp_path / "targets" / "prompts.json")
    assert stats["overall"]["asked"] == 40 == sum(entry["asked"] for entry in stats["by_prompt"])
    assert target_quality.main(["stats", str(tmp_path)]) == 0 and "worst yields" in capsys.readouterr().out
    seen: list[float] = []
    monkeypatch.setattr(target_quality, "make_engine", lambda c: seen.append(c.generation.temperature) or Parrot(echo_seed))
    assert target_quality.main(["consistency", str(tmp_path), "--rows", "7", "--samples", "2"]) == 0
    found = read_json(tmp_path / "targets" / "consistency.json")
    assert seen == [0.7] and len(found["rows"]) == 7 and found["attribute_rows"].get("unanimous", 1.0) == 1.0
    assert target_quality.main(["consistency", str(tmp_path), "--temperature", "0"]) == 1
    assert target_quality.main(["stats", str(tmp_path / "absent")]) == 1


def test_the_last_verdict_counts_and_torn_lines_do_not(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    for row_id, verdict in (("a", "accept"), ("a", "reject"), ("b", "accept"), ("c", "reject"), ("c", "clear")):
        add_verdict(path, row_id, verdict)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"row_id": "d", "verd')
    assert read_verdicts(path) == {"a": "reject", "b": "accept"} and read_verdicts(tmp_path / "none") == {}
    assert overrule({"a": None, "b": "refusal", "x": "empty"}, read_verdicts(path)) == {"a": "review", "b": None, "x": "empty"}
    with pytest.raises(ValueError, match="'maybe'"):
        add_verdict(path, "a", "maybe")
    assert flags("yes", "empty") == ["empty", "short"] and flags("a b c", None) == [] and flags("word " * 130, None) == ["long"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with sound."""
    c = config(tmp_path)
    cuts = []
    for cut in corpus():
        write_tone(tmp_path / "audio" / f"{cut.id}.flac", 2.0, amplitude=0.1)
        cut.recording.sources[0].source = str(tmp_path / "audio" / f"{cut.id}.flac")
        cuts.append(cut)
    write_cuts(tmp_path / "corpus" / "cuts_train.jsonl.gz", cuts)
    generate_targets(c, engine=Parrot(echo_seed))
    return tmp_path


def test_the_page_has_a_balanced_sample_and_is_safe(run: Path) -> None:
    items = review_items(run / "targets", run / "corpus" / "cuts_train.jsonl.gz", 12)
    assert len(items) == 12 and sum("contradiction" in item["flags"] for item in items) == 5
    assert len({(item["domain"], item["kind"]) for item in items if not item["flags"]}) >= 4
    assert [i["row_id"] for i in items] == [i["row_id"] for i in review_items(run / "targets", run / "corpus" / "cuts_train.jsonl.gz", 12)]
    (run / "audio" / f"{items[0]['cut_id']}.flac").write_bytes(b"")
    cuts = list(read_cuts(run / "targets" / "cuts_train.jsonl.gz"))
    next(c for c in cuts if c.id == items[1]["cut_id"]).supervisions[-1].text = "<script>alert(1)</script>"
    write_cuts(run / "targets" / "cuts_train.jsonl.gz", cuts)
    assert main(["build", str(run), "--count", "200"]) == 0
    page = (run / "targets" / "review" / "index.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and page.count("<article") == len(read_json(run / "targets" / "review" / "items.json"))
    assert "cannot be played" in page and len(list((run / "targets" / "review" / "audio").glob("*.flac"))) > 3


def test_a_row_about_several_clips_can_be_heard_whole(run: Path) -> None:
    first, *others = list(read_cuts(run / "corpus" / "cuts_train.jsonl.gz"))[:3]
    about = {"prompt": "Which?", "prompt_id": "c", "prompt_kind": "comparison", "attribute": "gender", "generator": {"model": "m"}}
    kept = add_self_generated(first, row_id="several", response="The first.", messages=[], clips=others, **about)
    write_cuts(run / "targets" / "cuts_train.jsonl.gz", [kept])
    line = json.loads((run / "targets" / "rejected.jsonl").read_text().splitlines()[0])
    dropped = {**line, "row_id": "dropped", "cut_id": first.id, "other_clips": [others[0].id], "kind": "comparison"}
    (run / "targets" / "rejected.jsonl").write_text(json.dumps(dropped) + "\n")
    assert main(["build", str(run), "--count", "5"]) == 0
    page = (run / "targets" / "review" / "index.html").read_text()
    assert page.count("<audio") == 5 and page.count("· comparison ·") == 2


def test_verdicts_go_from_the_page_into_the_targets(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["build", str(run), "--count", "12"]) == 0
    ids = json.loads((run / "targets" / "review" / "items.json").read_text())
    before = {s.id for cut in read_cuts(run / "targets" / "cuts_train.jsonl.gz") for s in self_generated(cut)}
    kept, dropped = next(i for i in ids if i in before), next(i for i in ids if i not in before)
    with make_server(run, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        with httpx.Client(timeout=120) as client:
            assert "<article" in client.get(f"{base}/").text and client.get(f"{base}/../review.jsonl").status_code == 404

            def post(body: Any, **kwargs: Any) -> int:
                return client.post(f"{base}/verdicts", json=body, **kwargs).status_code

            assert post({"row_id": kept, "verdict": "reject"}) == post({"row_id": dropped, "verdict": "accept"}) == 204
            assert post({"row_id": "nobody", "verdict": "reject"}) == post({"row_id": kept, "verdict": "maybe"}) == post([1]) == 400
            assert post({"row_id": kept, "verdict": "accept"}, headers={"Content-Type": "text/plain"}) == 400
            assert post({"row_id": kept, "verdict": "accept", "note": "x" * 20_000}) == 400
        server.shutdown()
    engine = Parrot(echo_seed)
    generate_targets(config(run), engine=engine)
    after = {s.id for cut in read_cuts(run / "targets" / "cuts_train.jsonl.gz") for s in self_generated(cut)}
    assert engine.calls == 0 and after == before - {kept} | {dropped}
    assert read_json(run / "targets" / "manifest.json")["targets"]["rejected_by_filter"]["review"] == 1
    downloaded = run / "mine.jsonl"
    downloaded.write_text(json.dumps({"row_id": kept, "verdict": "clear"}) + "\n")
    assert main(["merge", str(run), str(downloaded)]) == 0 and main(["merge", str(run)]) == 1
    generate_targets(config(run), engine=engine)
    again = {s.id for cut in read_cuts(run / "targets" / "cuts_train.jsonl.gz") for s in self_generated(cut)}
    assert again == before | {dropped} and main(["build", str(run / "absent")]) == 1
