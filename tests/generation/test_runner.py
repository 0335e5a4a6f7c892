"""Target generation survives being killed, says what is wrong, and counts what it drops."""

import dataclasses
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_desta.config import GenerationConfig
from nemo_desta.corpora.manifests import read_cuts
from nemo_desta.data.supervision import self_generated
from nemo_desta.generation import journal as journal_module
from nemo_desta.generation import runner
from nemo_desta.generation.engines.base import LENGTH, STOP, Completion
from nemo_desta.generation.journal import Journal
from nemo_desta.generation.runner import generate_targets, model_revision
from nemo_desta.locking import exclusive
from nemo_desta.seed.describe import describe
from nemo_desta.seed.prompts import load_pool
from tests.generation.clips import answer, config, lively_llm
from tests.tiny import read_json, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]


class Parrot:
    """An engine that answers by a rule, without a model."""

    name = "parrot"
    batches_in_flight = 1

    def __init__(self, rule: Callable[[str], str] = lambda prompt: "I hear it well.", fail_at: int = -1) -> None:
        self.rule, self.fail_at = rule, fail_at
        self.tokenizer = tiny_tokenizer()
        self.calls = 0

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        return [len(p) // 4 for p in prompts]

    def generate(self, prompts: Sequence[str], keys: Sequence[str]) -> list[Completion]:
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        return [Completion(self.rule(prompt), STOP, 5) for prompt in prompts]

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parrot's model needs no fingerprint; a directory keeps its own."""
    original = runner.model_revision
    monkeypatch.setattr(runner, "model_revision", lambda reference: reference if reference in ("none", "other") else original(reference))


def echo_seed(prompt: str) -> str:
    """One answer for every clip: right for some, wrong for others."""
    return "The speaker is female, and the language is Spanish."


def files(root: Path) -> dict[str, bytes]:
    names = ["rows.jsonl", "rejected.jsonl", "cuts_train.jsonl.gz", "plan.json"]
    return {name: (root / "targets" / name).read_bytes() for name in names}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    llm = str(lively_llm(tmp_path / "llm"))
    torch.set_num_threads(1)
    generate_targets(config(tmp_path / "whole", llm, drop_rejected=False))
    lines = []
    for batch, when in [("3", "answering"), ("4", "writing")]:
        command = [sys.executable, "-m", "tests.generation.generate_child", str(tmp_path / "killed"), llm, batch, when]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        lines.append((tmp_path / "killed" / "targets" / "rows.jsonl").read_bytes())
    assert 0 < len(lines[0]) < len(lines[1]) and not lines[1].endswith(b"\n"), "the second kill must leave a torn line"
    generate_targets(config(tmp_path / "killed", llm, drop_rejected=False))
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    ids = [json.loads(line)["row_id"] for line in files(tmp_path / "killed")["rows.jsonl"].splitlines()]
    assert len(ids) == len(set(ids)) == 40


def test_result_has_rows_with_provenance_and_counts(tmp_path: Path) -> None:
    path = generate_targets(config(tmp_path), engine=Parrot(echo_seed))
    rows = [(cut, s) for cut in read_cuts(path) for s in self_generated(cut)]
    manifest = read_json(tmp_path / "targets" / "manifest.json")
    counts = manifest["targets"]
    rejected = [json.loads(line) for line in (tmp_path / "targets" / "rejected.jsonl").read_text().splitlines()]
    assert len(rows) == counts["kept"] > 0 and len(rejected) == counts["asked"] - counts["kept"] > 0
    assert counts["asked"] == 40 and sum(counts["rejected_by_filter"].values()) == len(rejected)
    assert {r["reason"] for r in rejected} == {"contradiction"}
    assert sum(v["asked"] for v in counts["yield_by_kind"].values()) == 40
    cut, row = rows[0]
    assert row.text == echo_seed("") and row.recording_id == cut.recording_id
    assert {"model", "revision", "engine", "temperature", "top_p", "max_tokens", "seed", "prompt_sha256", "finish_reason"} <= set(row.custom["generator"])
    assert all(c.custom["seed_description"] == describe(c) for c, _ in rows)
    assert "Type: sound" in next(c for c, _ in rows if c.custom["domain"] == "sound").custom["seed_description"]
    assert all(r.custom["generator"]["seed_text"] == c.custom["seed_description"] for c, r in rows), "an unfocused row reads the whole description"
    assert row.custom["messages"][-1]["content"].startswith("<|AUDIO|>\n\n") and row.custom["prompt_kind"]
    for cut, row in rows:
        gender = cut.supervisions[0].gender
        assert row.custom["attribute"] != "gender" or gender == "female"
        assert row.custom["attribute"] is not None or gender in (None, "female")


def test_a_focused_row_keeps_what_the_backbone_read(tmp_path: Path) -> None:
    read: list[str] = []
    path = generate_targets(config(tmp_path, focused_seed=True), engine=Parrot(lambda prompt: read.append(prompt) or echo_seed(prompt)))
    rows = [(cut, s.custom) for cut in read_cuts(path) for s in self_generated(cut)]
    gender = next(custom for _, custom in rows if custom["attribute"] == "gender")
    assert gender["generator"]["seed_text"] == "The speaker is female."
    assert all(any(custom["generator"]["seed_text"] in prompt and custom["prompt"] in prompt for prompt in read) for _, custom in rows)
    assert all(cut.custom["seed_description"] == describe(cut) for cut, _ in rows)


def test_a_hub_model_has_the_commit_of_its_snapshot_as_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--owner--name"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    assert model_revision.__wrapped__("hf://owner/name") == commit
    assert model_revision.__wrapped__("hf://owner/absent") == "unknown"


def test_prompts_come_from_the_configured_files(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text('- {group: own, domain: any, kind: attribute, attribute: domain, prompts: ["Which type of audio might this be?"]}')
    path = generate_targets(config(tmp_path / "own", prompt_files=[str(own)], drop_rejected=False), engine=Parrot())
    assert {s.custom["prompt"] for cut in read_cuts(path) for s in self_generated(cut)} == {"Which type of audio might this be?"}
    both = load_pool(runner.prompt_paths(GenerationConfig(prompt_files=["shipped", str(own)])))
    assert len(both) == len(load_pool()) + 1 and runner.prompt_paths(GenerationConfig()) is None


def test_a_run_goes_on_with_another_number_of_threads(tmp_path: Path) -> None:
    class Threaded(Parrot):
        def describe(self) -> dict[str, Any]:
            return {"engine": "parrot", "threads": self.fail_at}

    path = generate_targets(config(tmp_path), engine=Threaded(fail_at=1000))
    path.unlink()
    generate_targets(config(tmp_path), engine=Threaded(fail_at=2000))
    assert read_json(tmp_path / "targets" / "manifest.json")["generator"]["threads"] == 2000


def test_a_complete_run_is_skipped_without_loading_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = generate_targets(config(tmp_path), engine=Parrot())
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(runner, "make_engine", lambda config: pytest.fail("the model was loaded"))
    assert generate_targets(config(tmp_path)) == path and path.stat().st_mtime_ns == before


def test_a_damaged_result_is_made_again_from_the_journal(tmp_path: Path) -> None:
    path = generate_targets(config(tmp_path), engine=Parrot())
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    engine = Parrot()
    generate_targets(config(tmp_path), engine=engine)
    assert path.read_bytes() == good and engine.calls == 0


def test_keeping_rejected_rows_needs_no_new_answers(tmp_path: Path) -> None:
    generate_targets(config(tmp_path), engine=Parrot(echo_seed))
    engine = Parrot(echo_seed)
    path = generate_targets(config(tmp_path, drop_rejected=False), engine=engine)
    assert engine.calls == 0 and sum(len(self_generated(cut)) for cut in read_cuts(path)) == 40


def test_other_settings_are_refused(tmp_path: Path) -> None:
    generate_targets(config(tmp_path), engine=Parrot())
    with pytest.raises(ValueError, match=r"temperature was 0.0, is 0.5.*choose another run_dir"):
        generate_targets(config(tmp_path, temperature=0.5), engine=Parrot())
    other = dataclasses.replace(config(tmp_path))
    other.model.llm = "other"
    with pytest.raises(ValueError, match=r"model.llm was 'none', is 'other'"):
        generate_targets(other, engine=Parrot())


def test_interrupt_leaves_the_journal_whole_and_says_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        generate_targets(config(tmp_path), engine=Parrot(fail_at=2))
    assert "the same command goes on" in caplog.text
    first = (tmp_path / "targets" / "rows.jsonl").read_bytes()
    assert first.endswith(b"\n") and not (tmp_path / "targets" / "manifest.json").exists()
    generate_targets(config(tmp_path), engine=Parrot())
    assert (tmp_path / "targets" / "rows.jsonl").read_bytes().startswith(first)


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all = journal_module._write_all
    calls = []

    def full(descriptor: int, data: bytes) -> None:
        calls.append(1)
        if len(calls) == 3:
            write_all(descriptor, data[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(descriptor, data)

    monkeypatch.setattr(journal_module, "_write_all", full)
    with pytest.raises(OSError, match=r"No space left.*2 batches are safe"):
        generate_targets(config(tmp_path), engine=Parrot())
    monkeypatch.setattr(journal_module, "_write_all", write_all)
    engine = Parrot()
    generate_targets(config(tmp_path), engine=engine)
    generate_targets(config(tmp_path / "whole"), engine=Parrot())
    assert files(tmp_path) == files(tmp_path / "whole")


def test_nothing_kept_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 40 answers.*rejected.jsonl"):
        generate_targets(config(tmp_path), engine=Parrot(lambda prompt: "..."))


def test_a_missing_corpus_and_an_unknown_engine_are_named(tmp_path: Path) -> None:
    c = config(tmp_path)
    with pytest.raises(ValueError, match=r"generation.engine='gpt'.*transformers"):
        generate_targets(config(tmp_path, engine="gpt"))
    (tmp_path / "corpus" / "cuts_train.jsonl.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"prepare_corpus\.py"):
        generate_targets(c)


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    c = config(tmp_path)
    with exclusive(tmp_path / "targets"), pytest.raises(ValueError, match="being written by process"):
        generate_targets(c, engine=Parrot())


@pytest.mark.parametrize("cut", [0, 1, 30, 75, 120, 150, 200])
def test_journal_drops_what_is_incomplete(tmp_path: Path, cut: int) -> None:
    path, batches = tmp_path / "rows.jsonl", [["a", "b"], ["c"], ["d", "e"]]
    whole = Journal(path, batches)
    for batch in batches:
        whole.append([answer(f"text {name}", LENGTH) for name in batch])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    again = Journal(path, batches)
    again.open()
    assert path.read_bytes() == data[: path.stat().st_size] and (again.dropped > 0) == (path.stat().st_size < len(data) - cut)
    for batch in batches[again.done :]:
        again.append([answer(f"text {name}", LENGTH) for name in batch])
    assert path.read_bytes() == data and again.answers == whole.answers


def test_a_foreign_journal_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "rows.jsonl", [["x"]]).append([answer("hello")])
    with pytest.raises(ValueError, match="'x'"):
        Journal(tmp_path / "rows.jsonl", [["y"]]).open()
