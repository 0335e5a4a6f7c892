import itertools
import json

import pytest

from nemo_desta.evaluation.benchmarks.base import NO_AUDIO, SHUFFLED, WITH_AUDIO
from nemo_desta.evaluation.benchmarks.heldout import HeldOut, HeldOutSettings
from nemo_desta.evaluation.journal import Prediction, PredictionJournal
from nemo_desta.evaluation.runner import GenerationSettings, make_batches, run_benchmark, run_fingerprint
from nemo_desta.evaluation.scoring import score_predictions
from tests.evaluation.toys import HearingModel, KilledModel

SETTINGS = GenerationSettings(max_new_tokens=8, batch_rows=5)


def run(benchmark, model, path, run_id="r1"):
    return run_benchmark(benchmark, lambda: model, path, run=run_id, settings=SETTINGS, progress=False)


def unused():
    raise AssertionError("the model must not be loaded")


def test_every_item_gets_a_prediction_for_every_condition(benchmark, tmp_path):
    predictions = run(benchmark, HearingModel(), tmp_path / "p.jsonl")
    assert [(p.item, p.condition) for p in predictions] == [(i.id, c) for i in benchmark.load() for c in benchmark.conditions]
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(rows) == len(predictions)
    heard = next(r for r in rows if r["condition"] == WITH_AUDIO)
    assert heard["messages"][1]["audios"] == [{"audio": heard["item"].split("/")[1], "text": " "}]  # plain JSON, the cut by its id
    assert heard["parsed"] == heard["gold"]


def test_equal_conversations_are_asked_once(benchmark, tmp_path):
    model = HearingModel()
    run(benchmark, model, tmp_path / "p.jsonl")
    items = benchmark.load()
    # one question an attribute: with audio each clip once, shuffled none besides, without audio one an attribute
    assert len(model.asked) == len(items) + len({i.track for i in items})


def test_pool_wording_asks_the_shuffled_clips_too(cuts, tmp_path):
    batches = make_batches(HeldOut(cuts, cuts, HeldOutSettings(wording="pool")), 5)
    conditions = [condition for batch in batches for r in batch for _, condition in r.uses]
    assert len([1 for batch in batches for r in batch if {c for _, c in r.uses} == {SHUFFLED}]) > conditions.count(SHUFFLED) / 2


def test_batches_hold_audio_or_none_and_the_longest_first(benchmark):
    batches = make_batches(benchmark, 5)
    assert max(map(len, batches)) == 5
    for batch in batches:
        assert len({"audios" in r.messages[-1] for r in batch}) == 1


def test_questions_about_a_clip_stand_together(benchmark):
    order = [r.messages[-1]["audios"][0]["audio"] for batch in make_batches(benchmark, 5) for r in batch if "audios" in r.messages[-1]]
    assert [cut.duration for cut in order] == sorted((cut.duration for cut in order), reverse=True)
    changes = sum(one.id != other.id for one, other in itertools.pairwise(order))
    assert changes == len({cut.id for cut in order}) - 1 < len(order) - 1


@pytest.mark.parametrize("survives", [0, 1, 4])
def test_a_killed_run_goes_on_to_the_same_result(benchmark, tmp_path, survives):
    whole = run(benchmark, HearingModel(), tmp_path / "whole.jsonl")
    path = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, KilledModel(survives), path)
    with path.open("a") as file:
        file.write('{"run": "r1", "item": "half a li')  # killed while writing
    second = HearingModel()
    assert run(benchmark, second, path) == whole
    assert second.calls == len(make_batches(benchmark, SETTINGS.batch_rows)) - survives
    keys = [(r["item"], r["condition"]) for r in map(json.loads, path.read_text().splitlines())]
    assert len(keys) == len(set(keys)) == len(whole)


def test_a_batch_written_in_part_is_asked_again_without_double_rows(benchmark, tmp_path):
    path = tmp_path / "p.jsonl"
    whole = run(benchmark, HearingModel(), path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]))
    assert run(benchmark, HearingModel(), path) == whole
    assert sorted(path.read_text().splitlines()) == sorted("".join(lines).splitlines())


def test_a_finished_run_does_not_load_the_model(benchmark, tmp_path):
    first = run(benchmark, HearingModel(), tmp_path / "p.jsonl")
    again = run_benchmark(benchmark, unused, tmp_path / "p.jsonl", run="r1", settings=SETTINGS, progress=False)
    assert again == first


def test_another_model_starts_anew_and_keeps_the_old_journal(benchmark, tmp_path):
    path = tmp_path / "p.jsonl"
    run(benchmark, HearingModel(), path)
    model = HearingModel()
    predictions = run(benchmark, model, path, run_id="r2")
    assert model.asked and {p.run for p in predictions} == {"r2"}
    assert (tmp_path / "p-r1.jsonl").is_file()


def test_a_changed_question_is_asked_again(cuts, tmp_path):
    path = tmp_path / "p.jsonl"
    run(HeldOut(cuts, cuts, HeldOutSettings()), HearingModel(), path)
    model = HearingModel()
    changed = HeldOut(cuts, cuts, HeldOutSettings(system_prompt="Listen."))
    predictions = run(changed, model, path)
    assert model.asked and all(p.messages[0]["content"] == "Listen." for p in predictions)


def test_a_spoilt_line_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("no json\n")
    with pytest.raises(ValueError, match=r"p\.jsonl, line 1 is no prediction"):
        PredictionJournal(path, "r1")


def test_line_separators_in_a_response_survive(tmp_path):
    row = Prediction("r1", "a", WITH_AUDIO, [], "one\u2028two\x85three\n", None, "x")
    PredictionJournal(tmp_path / "p.jsonl", "r1").append([row])
    assert list(PredictionJournal(tmp_path / "p.jsonl", "r1").rows.values()) == [row]


def test_a_model_that_answers_too_little_is_an_error(benchmark, tmp_path):
    class Lazy(HearingModel):
        def generate(self, messages, **settings):
            return super().generate(messages, **settings)[:-1]

    with pytest.raises(ValueError, match="4 responses to 5 conversations"):
        run(benchmark, Lazy(), tmp_path / "p.jsonl")


def test_missing_predictions_never_shrink_the_denominator(benchmark, tmp_path):
    predictions = run(benchmark, HearingModel(), tmp_path / "p.jsonl")
    with pytest.raises(ValueError, match="1 items have no prediction"):
        score_predictions(benchmark, predictions[1:])


def test_journal_can_be_scored_again_under_other_rules(benchmark, tmp_path):
    predictions = run(benchmark, HearingModel({"gender": "She is a woman."}), tmp_path / "p.jsonl")
    silent = [s for s in score_predictions(benchmark, predictions) if s.condition == NO_AUDIO and s.item.track == "gender"]
    assert {s.parsed for s in silent} == {"female"}
    benchmark._match = lambda text, attribute, values: None
    assert all(s.parsed is None and s.score == 0 for s in score_predictions(benchmark, predictions))


def test_fingerprint_follows_weights_and_settings(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = run_fingerprint(tmp_path, {"max_new_tokens": 8})
    (tmp_path / "notes.txt").write_text("anything")
    assert run_fingerprint(tmp_path, {"max_new_tokens": 8}) == first
    assert run_fingerprint(tmp_path, {"max_new_tokens": 9}) != first
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert run_fingerprint(tmp_path, {"max_new_tokens": 8}) != first
    with pytest.raises(ValueError, match="no checkpoint"):
        run_fingerprint(tmp_path / "nowhere", {})
