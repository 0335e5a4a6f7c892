import re
from collections import Counter

import pytest
import yaml
from lhotse.utils import fastcopy

from nemo_desta.seed.attributes import ATTRIBUTES, TRANSCRIPT, attributes_of
from nemo_desta.seed.prompts import ASKS, COMPARISON, KINDS, NEAR_DUPLICATE, WEAK_FOR_SMALL, load_pool, nearest, normalise, similarity

POOL = load_pool()
GROUP = {"group": "g", "domain": "speech", "kind": "attribute", "attribute": "gender", "prompts": ["Man or woman?"]}


def write(path, *groups):
    path.write_text(yaml.safe_dump(list(groups)), encoding="utf-8")
    return path


def test_pool_is_large_enough():
    count = Counter(p.domain for p in POOL)
    assert count["speech"] >= 420
    assert count["sound"] + count["music"] >= 320
    assert {p.kind for p in POOL} == set(KINDS)
    for kind in KINDS:
        if kind == COMPARISON:
            assert sum(p.kind == kind for p in POOL) >= 60
            continue
        assert sum(p.kind == kind and p.domain == "speech" for p in POOL) >= 30
        assert sum(p.kind == kind and p.domain in ("sound", "music") for p in POOL) >= 20


def test_pool_has_no_near_duplicates():
    texts = [p.text for p in POOL]
    for index, prompt in enumerate(POOL):
        about = (prompt.attribute, prompt.ask, prompt.clips) if prompt.kind == COMPARISON else None  # elsewhere the same words ask something else
        same_kind = [p.text for p in POOL.prompts[:index] if p.kind == prompt.kind and about in (None, (p.attribute, p.ask, p.clips))]
        score, other = nearest(prompt.text, same_kind)
        assert score < NEAR_DUPLICATE, f"{prompt.text!r} ~ {other!r}"
    assert len({normalise(text) for text in texts}) == len(texts)


def test_every_important_attribute_has_many_wordings():
    count = Counter(p.attribute for p in POOL if p.attribute)
    core = (
        "domain",
        "language",
        "gender",
        "accent",
        "pitch",
        "speaking_rate",
        "emotion",
        "style",
        "noise",
        "transcript",
        "translation_en",
        "sound",
        "sound_class",
        "instrument",
        "instrument_family",
        "genre",
        "tempo",
        "key",
    )
    for attribute in core:
        assert count[attribute] >= 10, attribute
    assert set(count) <= set(ATTRIBUTES) | {TRANSCRIPT}
    assert all(count[attribute] >= 6 for attribute in ("instruments", "playing", "mode", "noise_type", "snr_db"))


def test_attribute_questions_are_short_and_need_their_attribute():
    for prompt in POOL:
        if prompt.kind == "attribute":
            assert prompt.attribute in prompt.requires
            assert len(prompt.text.split()) <= 16
        assert re.search(r'[.?!"]$', prompt.text), prompt.text
        assert not re.search(r"<\||[\[\]{}]|text above", prompt.text.replace("{value}", "")), prompt.text


def test_sampling_is_deterministic_and_depends_on_its_arguments(speech):
    drawn = POOL.sample(speech, 5, 0, 0.7)
    assert drawn == POOL.sample(speech, 5, 0, 0.7) == load_pool().sample(speech, 5, 0, 0.7)
    assert POOL.sample(speech, 8, 0, 0.7)[:5] == drawn
    assert POOL.sample(speech, 5, 1, 0.7) != drawn
    assert POOL.sample(fastcopy(speech, id="other"), 5, 0, 0.7) != drawn
    assert len({p.id for p in POOL.sample(speech, 40, 0, 0.7)}) == 40


def test_sampled_ids_are_pinned(speech, tmp_path):
    """The draw may not change between releases, or a resumed run would ask other questions than it began with."""
    groups = [{**GROUP, "group": a, "attribute": a, "prompts": [f"{a} {n}?" for n in ("one", "two", "three")]} for a in ("gender", "pitch")]
    drawn = [p.id for p in load_pool([write(tmp_path / "tiny.yaml", *groups)]).sample(speech, 4, 3, 1.0)]
    assert drawn == PINNED


PINNED = ["gender-a724229a", "pitch-23fca649", "gender-f91aae30", "pitch-94ab4bb2"]


def test_only_answerable_prompts_are_drawn(speech, sound, music):
    for cut in (speech, sound, music):
        known = attributes_of(cut)
        for seed in range(30):
            for prompt in POOL.sample(cut, 6, seed, 0.6):
                assert prompt.domain in ("any", known["domain"])
                assert set(prompt.requires) <= set(known)


def test_no_words_no_questions_about_words(make_cut, make_source):
    cut = make_cut(make_source(None, "Dutch", "female"))
    assert all(TRANSCRIPT not in p.requires for p in POOL.answerable(cut))
    assert any(p.attribute == "language" for p in POOL.answerable(cut))


def test_mixed_clips_take_prompts_of_every_domain(make_cut, make_source):
    cut = make_cut(make_source("Hello", "English", "female", sound="rain", genre="jazz"), domain="mixed")
    assert {p.domain for p in POOL.answerable(cut)} == {"speech", "sound", "music", "any"}


def test_attributes_are_drawn_evenly_whatever_their_number_of_wordings(speech):
    drawn = Counter(POOL.sample(fastcopy(speech, id=f"c{i}"), 1, 0, 1.0)[0].attribute for i in range(1600))
    expected = 1600 / len(drawn)
    assert set(drawn) == {"domain", "language", "gender", "pitch", "speaking_rate", "loudness", "snr_db", "duration_seconds", "transcript"}
    assert all(abs(n - expected) < 0.3 * expected for n in drawn.values()), drawn


def test_wordings_of_an_attribute_are_drawn_evenly(speech):
    narrow = POOL.subset(kinds=["attribute"], attributes=["gender"])
    drawn = Counter(narrow.sample(fastcopy(speech, id=f"c{i}"), 1, 0, 1.0)[0].id for i in range(1100))
    expected = 1100 / len(narrow)
    assert len(drawn) == len(narrow)
    assert max(drawn.values()) < 1.8 * expected and min(drawn.values()) > 0.4 * expected


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 0.0, 0.0), (0.7, 0.62, 0.78), (1.0, 1.0, 1.0)])
def test_attribute_fraction(speech, fraction, low, high):
    kinds = [p.kind for i in range(400) for p in POOL.sample(fastcopy(speech, id=f"c{i}"), 2, 0, fraction)]
    assert low <= kinds.count("attribute") / len(kinds) <= high


def test_subset_narrows_and_refuses_strangers():
    narrow = POOL.subset(kinds=["attribute", "description"], attributes=["gender", "domain"])
    assert {p.kind for p in narrow} == {"attribute", "description"}
    assert {p.attribute for p in narrow} == {"gender", "domain", None}
    with pytest.raises(ValueError, match=r"unknown attribute \['shoe_size'\]"):
        POOL.subset(attributes=["shoe_size"])
    with pytest.raises(ValueError, match=r"unknown kind \['poem'\]"):
        POOL.subset(kinds=["poem"])


def test_small_backbones_get_a_smaller_pool_that_still_asks_everything():
    weak = set(yaml.safe_load(WEAK_FOR_SMALL.read_text(encoding="utf-8")))
    small = POOL.for_small_backbone()
    assert weak <= set(POOL.by_id), "a wording was changed: measure it again and renew the list"
    assert len(small) == len(POOL) - len(weak)
    count = Counter(p.attribute for p in small if p.attribute)
    assert set(count) == {p.attribute for p in POOL if p.attribute}
    assert min(count.values()) >= 3, count


def test_few_answers_give_few_prompts(make_cut):
    assert POOL.sample(make_cut(domain="", duration=1.0), 500, 0, 1.0)
    assert len(POOL.sample(make_cut(domain="", duration=1.0), 500, 0, 1.0)) < 50
    with pytest.raises(ValueError, match=r"attribute_fraction=1\.5"):
        POOL.sample(make_cut(), 1, 0, 1.5)


def test_ids_survive_reordering_and_growth(tmp_path):
    one = load_pool([write(tmp_path / "a.yaml", {**GROUP, "prompts": ["First question?", "Second question?"]})])
    two = load_pool([write(tmp_path / "b.yaml", {**GROUP, "prompts": ["New one?", "Second question?", "First question?"]})])
    assert {p.text: p.id for p in one}.items() <= {p.text: p.id for p in two}.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown key"),
        ({"domain": "smell"}, "domain 'smell'"),
        ({"kind": "poem"}, "kind 'poem'"),
        ({"attribute": "shoe_size"}, r"unknown attribute \['shoe_size'\]"),
        ({"requires": ["shoe_size"]}, r"unknown attribute \['shoe_size'\]"),
        ({"requires": "gender"}, "requires must be a list"),
        ({"attribute": None}, "names an attribute"),
        ({"kind": "reasoning"}, "names an attribute"),
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": ["  "]}, "prompt 1: has no text"),
        ({"prompts": ["Man or woman?", "man OR woman"]}, "stands already in"),
        ({"prompts": [{"id": "x", "text": "a b"}, {"id": "x", "text": "c d"}]}, "prompt 'x': this id stands already"),
        ({"prompts": [{"id": "Bad Id", "text": "a b"}]}, "id must be lower-case"),
        ({"prompts": [{"text": "a b", "weight": 2}]}, "must be a text or a mapping"),
        ({"group": "Bad Name"}, "group's name"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, change, message):
    path = write(tmp_path / "bad.yaml", {**GROUP, **change})
    with pytest.raises(ValueError, match=message) as error:
        load_pool([path])
    assert "bad.yaml" in str(error.value)


@pytest.mark.parametrize("content", ["a: [", "just: a mapping", "- not a group"])
def test_files_that_are_no_pool(tmp_path, content):
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"odd\.yaml"):
        load_pool([path])
    with pytest.raises(ValueError, match=r"missing\.yaml"):
        load_pool([tmp_path / "missing.yaml"])
    with pytest.raises(ValueError, match="no prompt files"):
        load_pool([])


def test_duplicates_across_files_name_both(tmp_path):
    a, b = write(tmp_path / "a.yaml", GROUP), write(tmp_path / "b.yaml", {**GROUP, "group": "h"})
    with pytest.raises(ValueError, match=r"b\.yaml: prompt .* stands already in .*a\.yaml"):
        load_pool([tmp_path])
    assert a.exists() and b.exists()


def test_similarity_ignores_case_and_punctuation():
    assert similarity("What IS this?", "what is this") == 1.0
    assert similarity("a b c", "a b d") == 0.5
    assert nearest("x", []) == (0.0, "")


COMPARE = {"group": "c", "domain": "speech", "kind": COMPARISON, "attribute": "gender", "clips": 2, "ask": "which", "prompts": ["Which one is {value}?"]}


def test_comparisons_are_about_several_clips_and_never_asked_about_one(tmp_path, speech):
    (prompt,) = load_pool([write(tmp_path / "a.yaml", COMPARE)])
    assert (prompt.clips, prompt.ask, prompt.requires) == (2, "which", ("gender",))
    assert prompt.fits("speech", {"gender"}, clips=2) and not prompt.fits("speech", {"gender"}) and not prompt.fits("speech", set(), clips=2)
    assert not any(p.kind == COMPARISON for p in POOL.answerable(speech))
    assert {p.ask for p in POOL if p.kind == COMPARISON} == set(ASKS) and {p.clips for p in POOL if p.kind == COMPARISON} == {2, 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clips": 1}, "needs clips from 2 to 3"),
        ({"clips": 4}, "needs clips from 2 to 3"),
        ({"ask": "who"}, "an ask of"),
        ({"kind": "attribute"}, "clips and ask are for kind 'comparison'"),
        ({"attribute": None}, "no other kind does"),
        ({"ask": "open"}, "no other kind does"),
        ({"prompts": ["Which one is it?"]}, r"\{value\} stands in every prompt with ask count or which"),
        ({"ask": "same"}, "and in no other"),
    ],
)
def test_mistakes_in_comparisons_are_named(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        load_pool([write(tmp_path / "a.yaml", COMPARE | change)])
