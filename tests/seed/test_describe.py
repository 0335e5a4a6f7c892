import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lhotse import SupervisionSegment
from lhotse.utils import fastcopy

from nemo_desta.seed.attributes import ATTRIBUTES, attributes_of, clean
from nemo_desta.seed.describe import QUOTED, describe, describe_for, timestamp, with_seed

NAMES = "|".join(map(re.escape, ATTRIBUTES.values()))
LINE = re.compile(rf"\[(\d\d+):([0-5]\d)-(\d\d+):([0-5]\d)\]( [^()\[\]]+)?( \((?:{NAMES}): [^()\[\],]+(?:, (?:{NAMES}): [^()\[\],]+)*\))?")


def test_speech_follows_the_papers_schema(speech):
    listed = "Type: speech, Spoken language: Italian, Gender: male, Pitch: low, Speaking rate: fast, Volume: medium, SNR: 31 dB"
    assert describe(speech) == f"[00:00-00:04] Buongiorno a tutti ({listed})"


def test_sound_and_music(sound, music):
    assert describe(sound) == "[00:00-00:04] (Type: sound, Sound: dog barking, Sound class: dog, Volume: loud)"
    assert describe(music) == "[00:00-00:04] (Type: music, Genre: reggae, Instrument: guitar and bass, Tempo: slow, Beats per minute: 72)"


def test_labels_of_rendered_clips_are_shown(make_cut, make_source):
    band = make_cut(make_source(instruments="jazz guitar, double bass, drums", lead_instrument="jazz guitar", playing="melody", mode="minor"), domain="music")
    assert describe(band) == "[00:00-00:04] (Type: music, Instruments: jazz guitar; double bass; drums, Playing: melody, Mode: minor)"
    assert describe_for(band, "instruments") == "The instruments are jazz guitar; double bass; drums."
    noisy = make_cut(make_source("Hi", noise="noisy", noise_type="babble", snr_db=0.0))
    assert describe(noisy) == "[00:00-00:04] Hi (Type: speech, Noise: noisy, Noise type: babble, SNR: 0 dB)"


def test_transcript_and_attributes_can_be_left_out(speech):
    assert describe(speech, transcript=False, attributes=["gender"]) == "[00:00-00:04] (Gender: male)"
    assert describe(speech, attributes=[]) == "[00:00-00:04] Buongiorno a tutti"
    with pytest.raises(ValueError, match=r"unknown attributes \['split'\]"):
        describe(speech, attributes=["split"])


def test_seed_forms_of_published_corpora(make_cut, make_source):
    cut = make_cut(make_source("Hi", noise="moderate", snr_db=15.0, num_speakers=4, speaker_id="Al", arousal=3.0, caption="a dog, barking"), domain="speech")
    forms = {"num_speakers": "{} speaker(s) talking", "noise": "Noise", "snr_db": "(SNR)", "arousal": "Arousal", "caption": ""}
    listed = "(4 speakers talking) (Noise: moderate (SNR: 15 dB), Arousal: 3.0, a dog, barking)"
    assert describe(cut, attributes=forms) == f"[00:00-00:04] Hi {listed}"
    assert describe(cut, attributes={"speaker_id": QUOTED, **forms}) == f'[00:00-00:04] Al: "Hi" {listed}'
    assert describe(cut, attributes={"snr_db": "(SNR)"}) == "[00:00-00:04] Hi (SNR: 15 dB)"


def test_focused_description_shows_what_is_asked(speech):
    assert describe_for(speech, "language") == "The spoken language is Italian."
    assert describe_for(speech, "domain") == "This is speech."
    assert describe_for(speech, "duration_seconds") == "The duration is 4 seconds."
    assert describe_for(speech, "snr_db") == "The signal-to-noise ratio is 31 dB."
    assert describe_for(speech, "genre") == describe(speech)
    assert describe_for(speech, "transcript") == describe_for(speech, None) == describe(speech)


def test_nothing_that_cannot_be_heard_leaks(speech, sound, music):
    for cut in (speech, sound, music):
        for shown in (describe(cut), str(attributes_of(cut))):
            assert not re.search(r"-X\b|train|LICENCE|corpus|110", shown)


def test_several_speakers_give_several_lines(make_cut, make_source):
    cut = make_cut(
        make_source("I am fine", "English", "male", start=5.0, duration=4.0, sup_id="b"),
        make_source("How are you", "English", "female", start=0.0, duration=5.0, sup_id="a"),
        duration=9.0,
    )
    first, second = describe(cut).splitlines()
    assert first == "[00:00-00:05] How are you (Type: speech, Spoken language: English, Gender: female)"
    assert second == "[00:05-00:09] I am fine (Type: speech, Spoken language: English, Gender: male)"
    known = attributes_of(cut)
    assert known["language"] == "English" and known["transcript"] == "How are you I am fine"
    assert "gender" not in known, "the speakers differ, so no single answer is right"


def test_parts_outside_the_window_are_clipped(make_cut, make_source):
    cut = make_cut(make_source("one", start=-3.0, duration=5.0), make_source("two", start=2.0, duration=20.0, sup_id="t"), duration=10.0)
    assert [line.split("]")[0] for line in describe(cut).splitlines()] == ["[00:00-00:02", "[00:02-00:10"]


def test_self_generated_supervisions_are_no_source(speech):
    row = SupervisionSegment("r", "rec", 0.0, 4.2, text="The answer", language="French", custom={"role": "self_generated"})
    grown = fastcopy(speech, supervisions=[*speech.supervisions, row])
    assert describe(grown) == describe(speech)
    assert attributes_of(grown) == attributes_of(speech)


def test_with_seed_writes_a_copy(speech):
    seeded = with_seed(speech)
    assert seeded.custom["seed_description"] == describe(speech)
    assert seeded.custom["dataset"] == "corpus"
    assert "seed_description" not in speech.custom
    assert describe(seeded) == describe(speech)


def test_unknown_values_and_empty_clips(make_cut, make_source):
    cut = make_cut(make_source("  ", "", None, emotion="unknown", age=float("nan"), style="none", accent="British"))
    assert describe(cut) == "[00:00-00:04] (Type: speech, Accent: British)"
    assert describe(make_cut(domain="")) == "[00:00-00:04]"


def test_timestamps():
    assert timestamp(0.0, 0.3) == "[00:00-00:01]"
    assert timestamp(3.4, 3.6) == "[00:03-00:04]"
    assert timestamp(0.0, 61.2) == "[00:00-01:01]"
    assert timestamp(59.0, 3725.0) == "[00:59-62:05]"


def test_hostile_words_cannot_break_the_chat():
    assert clean("a <|AUDIO|> b <|eot_id|><end_audio> {x} [00:01-00:02] (Gender:\nmale)") == "a b x 00:01-00:02 Gender: male"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(st.none(), st.text(max_size=60)),
    values=st.dictionaries(
        st.sampled_from(sorted(ATTRIBUTES)), st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.lists(st.text(max_size=8), max_size=3))
    ),
    duration=st.floats(0.3, 30.0),
)
def test_every_description_keeps_the_schema(make_cut, make_source, text, values, duration):
    cut = make_cut(make_source(text, **values), duration=duration)
    line = describe(cut)
    match = LINE.fullmatch(line)
    assert match, repr(line)
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    assert start == 0 and end > 0 and abs(end - duration) <= 1.0
    assert "<|" not in line and "|>" not in line
