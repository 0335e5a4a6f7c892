"""Characters at which `str.splitlines` ends a line, and JSON does not, cost nothing: neither in answers nor in notes."""

import json
from pathlib import Path

import pytest

from nemo_desta.corpora.manifests import read_cuts
from nemo_desta.data.supervision import self_generated
from nemo_desta.generation import runner
from nemo_desta.generation.review import add_verdict, read_verdicts, review_items
from nemo_desta.generation.runner import generate_targets
from nemo_desta.generation.written import written
from tests.generation.clips import config
from tests.generation.test_runner import Parrot
from tools import compare_engines, review_targets

ENDS = "\u2028\u2029\x85"
ANSWER = f"The speaker is{ENDS} female."


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose answers, kept and rejected ones, all hold them."""
    monkeypatch.setattr(runner, "model_revision", lambda reference: reference)
    c = config(tmp_path, attribute_prompt_fraction=0.7)
    with pytest.raises(KeyboardInterrupt):
        generate_targets(c, engine=Parrot(lambda prompt: ANSWER, fail_at=2))
    generate_targets(c, engine=Parrot(lambda prompt: ANSWER))
    return tmp_path


def test_answers_with_line_separators_are_read_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets, corpus = run / "targets", run / "corpus" / "cuts_train.jsonl.gz"
    answers = compare_engines.read_answers(run)
    assert len(answers) == 40 and {answer["text"] for answer in answers.values()} == {ANSWER}
    kept = [row.id for cut in read_cuts(targets / "cuts_train.jsonl.gz") for row in self_generated(cut)]
    (one,) = written(targets, corpus)
    rejected = one.rejected_lines()
    assert kept and rejected and len(kept) + len(rejected) == 40 and {line["text"] for line in rejected} == {ANSWER}
    items = review_items(targets, corpus, 100, rejected_share=1.0)
    assert {item["row_id"] for item in items} >= {line["row_id"] for line in rejected} and {item["response"] for item in items} == {ANSWER}
    assert compare_engines.main([str(run), str(run)]) == 0 and "(100.0%)" in capsys.readouterr().out


def test_notes_with_line_separators_keep_their_verdicts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "targets" / "review.jsonl"
    path.parent.mkdir()
    add_verdict(path, "a", "reject", note=f"says{ENDS}nothing")
    assert read_verdicts(path) == {"a": "reject"} and not caplog.records
    downloaded = tmp_path / "mine.jsonl"
    downloaded.write_text(json.dumps({"row_id": "b", "verdict": "accept", "note": f"is{ENDS}good"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert review_targets.merge(tmp_path, downloaded) == 1
    assert read_verdicts(path) == {"a": "reject", "b": "accept"} and not caplog.records
