"""Rows about several clips: drawn the same way every time, judged by their gold, kept with all their clips, and trained on."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from lhotse import CutSet

from nemo_desta.config import GenerationConfig
from nemo_desta.corpora.manifests import read_cuts
from nemo_desta.data.conversation import AudioLayout, render
from nemo_desta.data.supervision import CLIPS, further_clips, self_generated
from nemo_desta.generation import runner
from nemo_desta.generation.comparison import answers_comparison, comparison_rows, ordinals, says_number, says_same, whole_plan
from nemo_desta.generation.filters import reject_reason
from nemo_desta.generation.perplexity import target_texts
from nemo_desta.generation.runner import generate_targets
from nemo_desta.seed.attributes import attributes_of
from nemo_desta.seed.prompts import COMPARISON, load_pool
from tests.generation.clips import answer, clip, config, corpus
from tests.generation.test_runner import Parrot
from tests.tiny import PLACEHOLDER, read_json, tiny_tokenizer

POOL, TOKENIZER = load_pool(), tiny_tokenizer()
CONFIG = GenerationConfig(rows=40, multi_audio_fraction=1.0, focused_seed=True)


def compared(cuts: CutSet | None = None, count: int = 120, **changes: object) -> list:
    return comparison_rows(cuts or corpus(), POOL, replace(CONFIG, **changes), TOKENIZER, count)


def test_the_rows_are_a_function_of_cuts_pool_and_configuration() -> None:
    rows = compared()
    assert rows == compared(CutSet.from_cuts(reversed(list(corpus())))) and rows != compared(seed=1)
    assert len(rows) == len({row.row_id for row in rows}) == 120 and rows[:20] == compared(count=20)
    asks = Counter(row.prompt.ask for row in rows)
    assert {"which", "same", "count", "list", "open"} <= set(asks) and {len(row.others) for row in rows} == {1, 2}
    plan = whole_plan(list(corpus()), POOL, replace(CONFIG, multi_audio_fraction=0.25), TOKENIZER)
    assert sum(bool(row.others) for row in plan) == 10 and len(plan) == 50
    assert whole_plan(list(corpus()), POOL, replace(CONFIG, multi_audio_fraction=0.0), TOKENIZER) == plan[:40]
    assert not any(row.prompt.kind == COMPARISON for row in plan[:40]), "questions about several clips are never asked about one"


def test_every_question_has_the_one_answer_that_its_clips_give() -> None:
    values = {cut.id: attributes_of(cut) for cut in corpus()}
    seen = set()
    for row in compared(count=200):
        names = [row.cut_id, *row.others]
        assert len(set(names)) == row.prompt.clips == len(row.seeds) == row.messages[-1]["content"].count("<|AUDIO|>") and "{" not in row.prompt.text
        own = [values[name].get(row.prompt.attribute, "") for name in names]
        asked = [value for value in row.values if value and re.search(rf"\b{'a sound effect' if value == 'sound' else value}\b", row.prompt.text)]
        seen.add(row.prompt.ask)
        if row.prompt.ask == "which":
            named = own[["first", "second", "third"].index(row.gold)]
            assert own.count(named) == 1 and asked == [named]
        elif row.prompt.ask == "count":
            assert len(asked) == 1 and int(row.gold) == own.count(asked[0])
        elif row.prompt.ask == "same":
            assert row.gold == ("yes" if len(set(own)) == 1 else "no")
        elif row.prompt.ask == "list":
            assert row.gold == ", ".join(own)
    assert seen == {"which", "same", "count", "list", "open"}, "clips of one length are not asked for the longest"


def test_numbers_are_compared_where_they_differ_clearly() -> None:
    cuts = CutSet.from_cuts(clip(f"m{i}", "music", genre="polka", tempo_bpm=tempo) for i, tempo in enumerate([60, 62, 100, 101, 150]))
    pool = load_pool()
    rows = comparison_rows(cuts, type(pool)(tuple(p for p in pool if p.attribute == "tempo_bpm")), CONFIG, TOKENIZER, 60)
    tempo = {cut.id: float(attributes_of(cut)["tempo_bpm"]) for cut in cuts}
    assert {row.prompt.ask for row in rows if row.prompt.kind == COMPARISON} == {"most", "sort"}
    for row in rows:
        own = [tempo[name] for name in (row.cut_id, *row.others)]
        places = [["first", "second", "third"].index(name) for name in row.gold.split(", ")]
        assert own[places[-1]] == max(own) and sorted(own)[-1] >= 1.2 * sorted(own)[-2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The second clip.", ["second"]),
        ("Clip 2 has a female speaker, clip 1 does not.", ["second", "first"]),
        ("2nd", ["second"]),
        ("Clip number three, then clips one and the second", ["third", "first", "second"]),
        ("Both clips, the first and the second.", []),
        ("The speaker waits a second time.", ["second"]),
        ("It takes seconds.", []),
    ],
)
def test_ordinals(text: str, found: list[str]) -> None:
    assert ordinals(text) == found


def test_yes_no_and_counts() -> None:
    assert (says_same("Yes, it is the same."), says_same("They are not the same."), says_same("Different languages"), says_same("I hear two voices")) == (
        "yes",
        "no",
        "no",
        None,
    )
    assert says_same("Yes and no.") is None
    assert (says_number("Two of the three speakers."), says_number("2"), says_number("None of them."), says_number("One or two")) == (2, 2, 0, None)


def test_what_is_not_the_gold_is_a_contradiction() -> None:
    row = next(r for r in compared() if r.prompt.ask == "which" and r.prompt.attribute == "gender" and r.prompt.clips == 2)
    wrong = {"first": "second", "second": "first"}[row.gold]
    assert reject_reason(row, answer(f"The {row.gold} clip."), {}) is None
    assert reject_reason(row, answer(f"The {wrong} clip."), {}) == "contradiction" == reject_reason(row, answer("They are lively."), {})
    listed = next(r for r in compared() if r.prompt.ask == "list" and r.prompt.attribute == "language" and len(set(r.gold.split(", "))) == 2)
    one, two = listed.gold.split(", ")
    assert answers_comparison(listed, f"The first clip is in {one} and the second is in {two}.")
    assert not answers_comparison(listed, f"The first clip is in {two} and the second is in {one}.")
    opened = next(r for r in compared() if r.prompt.ask == "open")
    assert opened.gold is None and reject_reason(opened, answer("The first voice is calmer."), {}) is None


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "model_revision", lambda reference: reference)


def test_the_rows_are_written_with_all_their_clips(tmp_path: Path, no_model: None) -> None:
    settings = {"multi_audio_fraction": 0.5, "multi_turn_fraction": 1.0, "drop_rejected": False, "focused_seed": True}
    read: list[str] = []
    engine = Parrot(lambda prompt: read.append(prompt) or "The first one.")
    path = generate_targets(config(tmp_path, **settings), engine=engine)
    rows = [(cut, row) for cut in read_cuts(path) for row in self_generated(cut) if (row.custom or {}).get(CLIPS)]
    assert len(rows) == 20
    cut, row = rows[0]
    others = further_clips(row)
    assert cut.id not in {o.id for o in others} and all(o.recording.sources[0].source == f"{o.id}.flac" for o in others)
    assert [o.supervisions[0].text for o in others] == [c.supervisions[0].text for o in others for c in corpus() if c.id == o.id]
    seeds = row.custom["generator"]["seed_texts"]
    text = next(prompt for prompt in read if row.custom["prompt"] in prompt and all(f"Clip {n}: <start_audio>{s}" in prompt for n, s in enumerate(seeds, 1)))
    assert text in [t.context for t in target_texts([cut], tiny_tokenizer())]
    assert not any(len(r.custom["messages"]) > 2 for _, r in rows), "a second question about one clip does not follow one about several"
    rendered = render(row.custom["messages"], TOKENIZER, AudioLayout(PLACEHOLDER, 3), transcripts=[None] * (1 + len(others)), response=row.text)
    assert len(rendered.audio_spans) == 1 + len(others)
    counts = read_json(tmp_path / "targets" / "manifest.json")["targets"]
    assert counts["yield_by_kind"][COMPARISON]["asked"] == 20 and 0 < counts["yield_by_kind"][COMPARISON]["kept"] < 20
    rejected = (tmp_path / "targets" / "rejected.jsonl").read_text()
    assert '"other_clips"' in rejected and '"gold": "second"' in rejected


def test_a_run_with_comparisons_goes_on_and_equals_a_whole_one(tmp_path: Path, no_model: None) -> None:
    settings = {"multi_audio_fraction": 0.5, "drop_rejected": False}
    whole = Parrot()
    expected = generate_targets(config(tmp_path / "whole", **settings), engine=whole).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        generate_targets(config(tmp_path / "again", **settings), engine=Parrot(fail_at=whole.calls - 1))
    assert generate_targets(config(tmp_path / "again", **settings), engine=Parrot()).read_bytes() == expected
    with pytest.raises(ValueError, match=r"multi_audio_fraction was 0\.5, is None"):
        generate_targets(config(tmp_path / "again", drop_rejected=False), engine=Parrot())
    with pytest.raises(ValueError, match=r"multi_audio_fraction=1\.5 is outside"):
        whole_plan(list(corpus()), POOL, replace(CONFIG, multi_audio_fraction=1.5), TOKENIZER)
    with pytest.raises(ValueError, match=r"no prompt of kind 'comparison' fits"):
        comparison_rows(list(corpus())[:1], POOL, CONFIG, TOKENIZER, 3)
