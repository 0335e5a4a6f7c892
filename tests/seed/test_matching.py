"""Answers name values: whole words, synonyms, negation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_desta.corpora import sound_classes
from nemo_desta.corpora.synthesis import GM_INSTRUMENTS
from nemo_desta.seed.matching import match_value, mentions, names_number, overlap, synonyms

VALUES = {
    "gender": ["female", "male"],
    "domain": ["music", "sound", "speech"],
    "noise": ["clean", "noisy"],
    "pitch": ["high", "low", "medium"],
    "key": ["A minor", "C major", "C# major", "F# minor", "Bb major"],
    "tempo_bpm": ["20", "120", "120.5"],
    "sound_class": ["chicken", "dog", "rooster", "cat"],
    "accent": ["American", "British", "Indian", "Mexican", "Spanish"],
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
        ("noise", "The voice is recorded without any background noise.", "clean"),
        ("noise", "There isn't any background noise.", "clean"),
        ("noise", "The clip is free of any noise.", "clean"),
        ("noise", "It has no obvious noise.", "clean"),
        ("noise", "The background noise is not present.", "clean"),
        ("noise", "with minimal background noise", "clean"),
        ("noise", "A lack of noise", "clean"),
        ("noise", "It isn't very clean.", "noisy"),
        ("noise", "It is clearly noisy.", "noisy"),
        ("noise", "It is clear, but there is background noise.", None),
        ("noise", "It is neither clean nor noisy.", None),
        ("accent", "an Indian English accent", "Indian"),
        ("accent", "a Nigerian English accent", None),
        ("accent", "an American English accent", "American"),
        ("accent", "The speaker has an English accent.", "British"),
        ("accent", "a Latin American accent", None),
        ("accent", "Mexican Spanish", "Mexican"),
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
    assert match_value(f"It is {word}.", attribute, list(synonyms()[attribute])) == value


FAMILIES = sorted({family for _, family in GM_INSTRUMENTS.values()} | {"percussion"})


def labelled(entries: dict[str, str]) -> set[tuple[str, str]]:
    """(label, class or family) of one corpus of the table of sound labels, without those of none."""
    pairs = {tuple(part.strip() for part in entry.split("|")) for entry in entries.values() if "|" in entry}
    return {(label, group) for label, group in pairs if group != "-"}


def test_instruments_name_the_family_that_the_corpora_give_them() -> None:
    assert sorted(synonyms()["instrument_family"]) == FAMILIES
    recorded = [pair for entries in sound_classes._table()["instruments"].values() for pair in labelled(entries)]
    assert len(recorded) > 30
    for name, family in [*GM_INSTRUMENTS.values(), *recorded]:
        assert match_value(f"A {name} is heard.", "instrument_family", FAMILIES) == family, name
    for name, family in {"bass guitar": "bass", "harmonica": "accordion", "singing": "voice", "saxophone": "woodwind", "electric guitar": "guitar"}.items():
        assert match_value(f"It is a {name}.", "instrument_family", FAMILIES) == family, name


def test_sound_classes_are_those_of_the_corpora() -> None:
    known = sound_classes.classes()
    assert sorted(synonyms()["sound_class"]) == known
    for name, words in sound_classes._table()["keywords"].items():
        for word in words:
            assert match_value(f"It is a {word}.", "sound_class", known) == name, word


def test_labels_of_sounds_name_their_class() -> None:
    known = sound_classes.classes()
    tables = [entries for section, entries in sound_classes._table().items() if section not in ("keywords", "instruments", "genres")]
    pairs = set().union(*map(labelled, tables))
    named = [(match_value(label, "sound_class", known), group) for label, group in sorted(pairs)]
    # A label may name two sounds ("frogs by the water") or none of the words; it may hardly ever name the wrong one alone.
    assert sum(found == group for found, group in named) >= 0.78 * len(named)
    assert sum(found not in (group, None) for found, group in named) <= 0.03 * len(named)


@given(st.text(max_size=40))
def test_any_text_is_survived(text: str) -> None:
    match_value(text, "gender", VALUES["gender"])
    assert all(m.start < m.end for m in mentions(text, "domain", VALUES["domain"]))


def test_overlap_and_numbers() -> None:
    assert overlap("A dog barks loudly.", "dog barking") == 1.0
    assert overlap("A cat.", "dog barking") == 0.0
    assert overlap("whatever", "It is.") == 0.0 and overlap("whatever", "the") == 0.0
    assert overlap('The speaker says: "It is!"', "It is.") == 1.0 and overlap("It was, is it?", "It is.") == 0.0
    assert overlap("anything", "...") == 0.0
    assert names_number("about 118 beats", 120) and not names_number("about 12 beats", 120)
    assert names_number("120 beats, so 120 BPM", 120) and not names_number("60, 90 or 120 beats", 120)
    assert names_number("5-6 seconds", 5.5) and names_number("The SNR is -5 dB.", -5) and not names_number("The SNR is 5 dB.", -5)
    assert names_number("5 seconds", 5.2) and not names_number("no number", 5)
