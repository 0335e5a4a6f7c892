from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.evaluation.benchmarks.base import NO_AUDIO, SHUFFLED, WITH_AUDIO
from nemo_desta.evaluation.benchmarks.heldout import HeldOut, HeldOutSettings, audio_problem, balanced_quota, header_problem, load_questions
from nemo_desta.generation.plan import make_messages
from nemo_desta.seed.attributes import ATTRIBUTES
from nemo_desta.seed.prompts import NEAR_DUPLICATE, load_pool, nearest
from tests.evaluation.toys import make_cut


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(3, 300), min_size=2, max_size=12), st.integers(12, 200))
def test_quota_is_balanced(available, max_items):
    quota = balanced_quota(available, max_items, 1.5)
    total, largest = sum(quota.values()), max(quota.values())
    assert total <= max_items
    assert all(1 <= quota[v] <= available[v] for v in available)
    assert largest <= 1.5 * total / len(quota) + 1  # + 1: whole clips
    assert all(quota[v] >= largest - 1 for v in available if available[v] >= largest)  # whoever can gives as much as the largest


def test_quota_uses_what_there_is():
    assert balanced_quota({"a": 500, "b": 400}, 120, 1.5) == {"a": 60, "b": 60}
    assert balanced_quota({"a": 4, "b": 4}, 120, 1.5) == {"a": 4, "b": 4}
    assert balanced_quota({"a": 300, "b": 3}, 120, 1.5) == {"a": 9, "b": 3}


def test_items_cover_the_attributes_evenly(benchmark):
    tracks = Counter(item.track for item in benchmark.load())
    assert set(tracks) == {"domain", "language", "gender", "genre", "tempo", "sound_class"}
    for track in tracks:
        counts = Counter(item.gold for item in benchmark.load() if item.track == track)
        assert max(counts.values()) - min(counts.values()) <= 1, (track, counts)
    assert len({item.id for item in benchmark.load()}) == len(benchmark.load())


def test_items_are_the_same_in_whatever_order_the_clips_come(cuts, benchmark):
    again = HeldOut(cuts[::-1], cuts, HeldOutSettings(bootstrap=50))
    assert again.load() == benchmark.load()
    other = HeldOut(cuts, cuts, HeldOutSettings(bootstrap=50, seed=1))
    assert [i.meta["shuffled_cut"] for i in other.load()] != [i.meta["shuffled_cut"] for i in benchmark.load()]


def test_shuffled_audio_is_a_derangement_of_each_attribute(benchmark):
    for track in {item.track for item in benchmark.load()}:
        items = [item for item in benchmark.load() if item.track == track]
        assert sorted(i.meta["cut"] for i in items) == sorted(i.meta["shuffled_cut"] for i in items)
        assert all(i.meta["cut"] != i.meta["shuffled_cut"] for i in items)


def test_conditions_differ_in_the_audio_alone(benchmark):
    item = benchmark.load()[0]
    heard, swapped, silent = (benchmark.messages(item, condition) for condition in (WITH_AUDIO, SHUFFLED, NO_AUDIO))
    assert heard[1]["audios"][0]["audio"].id == item.meta["cut"]
    assert swapped[1]["audios"][0]["audio"].id == item.meta["shuffled_cut"]
    assert heard[1]["content"] == swapped[1]["content"] == f"<|AUDIO|>\n\n{silent[1]['content']}"
    assert "audios" not in silent[1] and heard[0] == silent[0]
    assert heard[1]["audios"][0]["text"] == " "  # no transcript is shown


def test_transcript_is_shown_only_on_request(cuts):
    benchmark = HeldOut(cuts, cuts, HeldOutSettings(show_transcript=True))
    item = next(i for i in benchmark.load() if i.track == "language")
    assert benchmark.messages(item, WITH_AUDIO)[1]["audios"][0]["text"] == "hello there"


def test_clips_of_a_value_come_from_all_its_sources(cuts):
    benchmark = HeldOut(cuts, cuts, HeldOutSettings(max_items_per_attribute=15))
    clusters = {i.cluster for i in benchmark.load() if i.track == "domain" and i.gold == "music"}
    assert len(clusters) == 5  # five clips of five sources


def test_unlearnt_and_rare_values_are_left_out_and_counted(cuts, tmp_path):
    extra = [make_cut(tmp_path, f"cs-{i}", "speech", {"language": "Czech", "gender": "male"}, "cs") for i in range(4)]
    rare = [make_cut(tmp_path, "ru-0", "speech", {"language": "Russian", "gender": "male"}, "ru")]
    benchmark = HeldOut(cuts + extra + rare, cuts + rare, HeldOutSettings())
    assert {i.gold for i in benchmark.load() if i.track == "language"} == {"English", "French", "Italian"}
    assert benchmark.left_out["values_not_in_training"] == {"language": {"Czech": 4}}
    assert benchmark.left_out["values_with_few_clips"] == {"language": {"Russian": 1}}
    assert "Russian" in next(i for i in benchmark.load() if i.track == "language").choices  # it can still be answered, wrongly


def test_an_unreadable_clip_is_left_out_and_counted(cuts, tmp_path):
    missing = make_cut(tmp_path, "missing", "music", {"genre": "jazz", "tempo": "fast"}, "x")
    broken = make_cut(tmp_path, "broken", "music", {"genre": "jazz", "tempo": "fast"}, "x")
    (tmp_path / "missing.flac").unlink()
    (tmp_path / "broken.flac").write_bytes(b"no audio at all")
    benchmark = HeldOut([*cuts, missing, broken], cuts, HeldOutSettings())
    assert set(benchmark.left_out["unusable_clips"]) == {"missing", "broken"}
    assert not {"missing", "broken"} & {i.meta["cut"] for i in benchmark.load()}


def test_a_clip_that_is_cut_off_in_its_body_is_replaced(cuts, tmp_path):
    """Its header is whole: only decoding tells. Another clip of the value takes its place where there is one."""
    rng = np.random.default_rng(0)
    more = [make_cut(tmp_path, f"cut-{i}", "music", {"genre": "jazz", "tempo": "fast"}, f"x{i}") for i in range(6)]
    for cut in more[:5]:
        path = tmp_path / f"{cut.id}.flac"
        soundfile.write(path, rng.uniform(-0.5, 0.5, cut.recording.num_samples), 16000)  # noise does not pack: the body is most of the file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        assert soundfile.info(path).frames == cut.recording.num_samples and header_problem(cut) is None
    benchmark = HeldOut([*cuts, *more], cuts, HeldOutSettings())
    named = benchmark.left_out["unusable_clips"]
    assert set(named) == {cut.id for cut in more[:5]} and all("undecodable" in why for why in named.values())
    asked = {i.meta[key] for i in benchmark.load() for key in ("cut", "shuffled_cut")}
    assert not asked & set(named) and more[5].id in asked
    assert all(audio_problem(benchmark.cut(cut_id)) is None for cut_id in asked)
    whole = HeldOut([*cuts, more[5]], cuts, HeldOutSettings())
    assert benchmark.load() == whole.load()  # as if the broken ones had never been there


def test_an_attribute_is_asked_only_where_training_asks_it(cuts, tmp_path):
    laughs = [make_cut(tmp_path, f"laugh-{i}", "sound", {"gender": "female", "sound_class": "bell"}, f"l{i}") for i in range(4)]
    mixed = [make_cut(tmp_path, f"mixed-{i}", "mixed", {"gender": "female"}, f"m{i}") for i in range(2)]
    benchmark = HeldOut([*cuts, *laughs, *mixed], [*cuts, *laughs], HeldOutSettings())
    domains = {benchmark.cut(i.meta["cut"]).custom["domain"] for i in benchmark.load() if i.track == "gender"}
    assert domains == {"speech", "mixed"}  # a mixed clip takes prompts of every domain
    assert benchmark.left_out["clips_never_asked_in_training"] == {"gender": 4}
    assert any(i.meta["cut"].startswith("laugh") for i in benchmark.load() if i.track == "sound_class")


@pytest.mark.parametrize("system_prompt", ["", "Listen."])
def test_conversations_are_those_of_training(cuts, system_prompt):
    benchmark = HeldOut(cuts, cuts, HeldOutSettings(system_prompt=system_prompt))
    item = benchmark.load()[0]
    asked = [{key: m[key] for key in ("role", "content")} for m in benchmark.messages(item, WITH_AUDIO)]
    assert asked == make_messages(item.question, system_prompt)
    assert [m["role"] for m in benchmark.messages(item, NO_AUDIO)] == [m["role"] for m in asked]


def test_nothing_to_ask_is_an_error(cuts):
    with pytest.raises(ValueError, match="give no question"):
        HeldOut(cuts[:2], cuts, HeldOutSettings())


def test_unknown_wording_is_an_error(cuts):
    with pytest.raises(ValueError, match="wording='both'"):
        HeldOut(cuts, cuts, HeldOutSettings(wording="both"))


def test_pool_wording_asks_the_training_prompts(cuts):
    prompts = {p.text for p in load_pool().prompts if p.attribute == "gender"}
    benchmark = HeldOut(cuts, cuts, HeldOutSettings(wording="pool"))
    asked = {i.question for i in benchmark.load() if i.track == "gender"}
    assert len(asked) > 1 and asked <= prompts


@pytest.mark.parametrize("question", load_questions().values())
def test_own_questions_are_no_near_duplicates_of_the_training_pool(question):
    score, other = nearest(question, [prompt.text for prompt in load_pool()])
    assert score < NEAR_DUPLICATE, f"{question!r} ~ {other!r}"


def test_questions_ask_for_known_attributes():
    assert [name for name in load_questions() if name not in ATTRIBUTES] == []


@pytest.mark.parametrize(
    ("track", "response", "parsed"),
    [
        ("gender", "The speaker is a woman.", "female"),
        ("gender", "It could be male or female.", None),
        ("gender", "", None),
        ("language", "The person speaks French.", "French"),
        ("language", "I am not sure.", None),
    ],
)
def test_extraction(benchmark, track, response, parsed):
    item = next(i for i in benchmark.load() if i.track == track)
    assert benchmark.extract(item, response) == parsed
    assert benchmark.score(item, parsed) == float(parsed == item.gold)
