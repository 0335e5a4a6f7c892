"""Scores equal the model's own loss, whatever the batch; template targets answer the same rows."""

from pathlib import Path

import pytest
import torch
from lhotse import CutSet

from nemo_desta.config import Precision
from nemo_desta.corpora.manifests import write_cuts
from nemo_desta.data.supervision import add_self_generated, self_generated
from nemo_desta.generation.perplexity import Score, Scorer, TargetText, compare, target_texts
from nemo_desta.generation.plan import make_messages
from nemo_desta.generation.template_targets import template_response, template_targets
from nemo_desta.manifests.sinks import open_sink
from tests.generation.clips import clip, lively_llm
from tests.tiny import read_json
from tools.target_perplexity import choose, main, read_set


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_llm(tmp_path_factory.mktemp("llm"))


def targets() -> CutSet:
    cuts = []
    for i, (gender, attribute) in enumerate([("female", "gender"), ("male", None), ("male", "gender"), ("female", "pitch")]):
        cut = clip(f"c{i}", "speech", text="hello there", language="English", gender=gender)
        common = {"prompt": "Who?", "prompt_id": "p", "prompt_kind": "attribute" if attribute else "description", "attribute": attribute}
        generator = {"model": "m", "engine": "transformers", "seed_text": f"It is {gender}." if i else None}
        messages = make_messages("Who?", "Listen.")
        cuts.append(add_self_generated(cut, row_id=f"r{i}", response=f"A {gender} person. " * (i + 1), messages=messages, generator=generator, **common))
    return CutSet.from_cuts(cuts)


def test_scores_are_the_models_own_loss(llm: Path) -> None:
    scorer = Scorer(llm, Precision.fp32, device="cpu")
    texts = target_texts(targets(), scorer.tokenizer)
    assert "[00:00-00:02] hello there" in texts[0].context and "<start_audio>It is male.<end_audio>" in texts[1].context
    assert texts[1].response == "A male person. A male person." and texts[1].kind == "description" and texts[0].kind == "gender"
    scores = scorer.score(texts, batch_tokens=500)
    for text, score in zip(texts, scores, strict=True):
        context = scorer.tokenizer(text.context, add_special_tokens=False)["input_ids"]
        response = [*scorer.tokenizer(text.response, add_special_tokens=False)["input_ids"], scorer.tokenizer.eos_token_id]
        ids = torch.tensor([context + response])
        labels = torch.tensor([[-100] * len(context) + response])
        loss = float(scorer.model(ids, labels=labels).loss)
        assert score.tokens == len(response) and score.nll / score.tokens == pytest.approx(loss, rel=1e-4)
    assert [s.nll for s in scorer.score(texts, batch_tokens=1)] == pytest.approx([s.nll for s in scores], rel=1e-4)


def test_templates_answer_the_same_rows() -> None:
    made = {s.id: s for cut in template_targets(targets()) for s in self_generated(cut)}
    assert set(made) == {"r0", "r1", "r2"}, "a clip without the attribute has no template"
    assert made["r0"].text in ("The speaker is female.", "female", "Answer: female.") and made["r0"].custom["generator"]["engine"] == "template"
    assert made["r1"].text == 'This is speech. The spoken language is English. The speaker is male. The speaker says: "hello there"'
    assert template_response(clip("x", "speech", text="so be it"), "transcript", "r") == 'The speaker says: "so be it"'
    assert {template_response(clip("x", "music", genre="polka"), "genre", str(i)) for i in range(20)} == {
        "The genre of the music is polka.",
        "polka",
        "Answer: polka.",
    }


def test_the_chatty_voice_says_the_same_in_other_words() -> None:
    plain, chatty = ({s.id: s.text for cut in template_targets(targets(), voice) for s in self_generated(cut)} for voice in ("plain", "chatty"))
    assert plain.keys() == chatty.keys() and all("female" in chatty[i] for i in plain if "female" in plain[i])
    assert all(len(chatty[i]) > len(plain[i]) for i in plain) and chatty["r1"].startswith("Okay folks")


def test_sets_are_compared_on_the_rows_that_both_have() -> None:
    own = [Score("a", "gender", 2.0, 2), Score("b", "gender", 4.0, 2), Score("c", "open", 0.0, 1)]
    other = [Score("a", "gender", 4.0, 2), Score("b", "gender", 1.0, 1)]
    found = compare({"own": own, "other": other})
    assert found["paired"] == {"other": {"rows": 2, "first_is_lower": 0.5, "mean_nats_per_token_above_first": 0.0}}
    assert found["sets"]["own"]["perplexity"] == pytest.approx(2.71828 ** (6 / 5), rel=1e-3) and found["sets"]["own"]["row_median"] == pytest.approx(
        2.718, rel=1e-3
    )
    assert found["sets"]["own"]["by_kind"]["open"]["rows"] == 1
    with pytest.raises(ValueError, match="no targets in empty"):
        compare({"own": own, "empty": []})
    texts = {"own": [TargetText(name, "k", "", "") for name in "abc"], "other": [TargetText(name, "k", "", "") for name in "bcd"]}
    assert {name: {t.row_id for t in chosen} for name, chosen in choose(texts, 0).items()} == {"own": {"b", "c"}, "other": {"b", "c"}}
    assert [t.row_id for t in choose(texts, 1)["own"]] == [t.row_id for t in choose(texts, 1)["other"]]


def test_the_tool_writes_report_rows_and_plot(llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cuts(tmp_path / "own.jsonl.gz", targets())
    arguments = ["--llm", str(llm), "--targets", f"own={tmp_path / 'own.jsonl.gz'}", "--templates", "--precision", "fp32", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    report = read_json(tmp_path / "out" / "perplexity.json")["report"]
    assert report["sets"]["own"]["rows"] == report["sets"]["template"]["rows"] == report["paired"]["template"]["rows"] == 3
    assert (tmp_path / "out" / "perplexity.png").read_bytes().startswith(b"\x89PNG") and len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 6
    assert "common rows" in capsys.readouterr().out
    assert main([*arguments, "--templates", "plain", "chatty"]) == 0
    paired = read_json(tmp_path / "out" / "perplexity.json")["report"]["paired"]
    assert paired.keys() == {"template", "template_chatty"}
    cuts = list(read_set(tmp_path / "own.jsonl.gz", 0))
    with open_sink(tmp_path / "store") as sink:
        for cut in cuts:
            sink.write(cut.to_dict())
    assert [c.id for c in read_set(tmp_path / "store", 0)] == [c.id for c in cuts]
    assert {c.id for c in read_set(tmp_path / "store", 1)} < {c.id for c in read_set(tmp_path / "store", 2)}
    assert main(["--llm", str(llm), "--targets", "nameless.jsonl"]) == 1 and "NAME=PATH" in capsys.readouterr().err
