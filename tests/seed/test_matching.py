"""Answers name values: whole words, synonyms, negation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.seed.matching import match_value, mentions, names_number, overlap, synonyms

VALUES = {
    "gender": ["female", "male"],
    "domain": ["music", "sound", "speech"],
    "noise": ["clean", "noisy"],
    "pitch": ["high", "low", "medium"],
    "key": ["A minor", "C major", "C# major", "F# minor", "Bb major"],
    "tempo_bpm": ["20", "120", "120.5"],
    "sound_class": ["chicken", "dog", "rooster", "cat"],
    "language": ["English", "French", "Spanish"],
}


@pytest.mark.parametrize(
    ("attribute", "text", "value"),
    [
        ("gender", "The speaker is female.", "female"),
        ("gender", "MALE", "male"),
        ("gender", "She has a low voice.", "female"),
        ("gender", "A woman, not a man.", "female"),
        ("gender", "It isn't male", None),
        ("gender", "male or female", None),
        ("gender", "a human", None),
        ("gender", "The man thanks her for the call.", "male"),
        ("domain", "The sound is music.", "music"),
        ("domain", "It is a sound.", "sound"),
        ("domain", "This is speech rather than music.", "speech"),
        ("noise", "The recording is not noisy.", "clean"),
        ("noise", "There is no background noise.", "clean"),
        ("noise", "There is background noise.", "noisy"),
        ("pitch", "a high-pitched voice", "high"),
        ("key", "It is in C# major.", "C# major"),
        ("key", "It is in C major.", "C major"),
        ("key", "F sharp minor", "F# minor"),
        ("key", "B-flat major", "Bb major"),
        ("tempo_bpm", "120 beats per minute.", "120"),
        ("tempo_bpm", "about 120.5", "120.5"),
        ("tempo_bpm", "1200", None),
        ("sound_class", "The rooster crows.", "rooster"),
        ("sound_class", "Two dogs are barking", "dog"),
        ("sound_class", "a big cat roars", None),
        ("language", "It is not English but French.", "French"),
        ("language", "", None),
    ],
)
def test_match_value(attribute: str, text: str, value: str | None) -> None:
    assert match_value(text, attribute, VALUES[attribute]) == value


def test_unknown_attributes_match_by_their_own_name() -> None:
    assert match_value("It is a bossa-nova.", "no_such_attribute", ["bossa nova", "polka"]) == "bossa nova"
    assert match_value("anything", "gender", []) is None


@given(st.sampled_from(sorted((a, v) for a, values in synonyms().items() for v in values)))
def test_every_value_of_the_table_is_matched_by_its_own_name(pair: tuple[str, str]) -> None:
    attribute, value = pair
    assert match_value(f"It is {value}.", attribute, list(synonyms()[attribute])) == value


@given(st.sampled_from(sorted((a, v, w) for a, values in synonyms().items() for v, e in values.items() for w in [*e.get("strong", []), *e.get("weak", [])])))
def test_every_word_of_the_table_names_its_value(triple: tuple[str, str, str]) -> None:
    attribute, value, word = triple
    assert match_value(f"It is {word}.", attribute, [value]) == value


@given(st.text(max_size=40))
def test_any_text_is_survived(text: str) -> None:
    match_value(text, "gender", VALUES["gender"])
    assert all(m.start < m.end for m in mentions(text, "domain", VALUES["domain"]))


def test_overlap_and_numbers() -> None:
    assert overlap("A dog barks loudly.", "dog barking") == 1.0
    assert overlap("A cat.", "dog barking") == 0.0
    assert overlap("whatever", "the") == 1.0
    assert names_number("about 118 beats", 120) and not names_number("about 12 beats", 120)
    assert names_number("5 seconds", 5.2) and not names_number("no number", 5)
