"""What a clip is known to be: the attributes a seed description may show and a prompt may ask for.

Only names of :data:`ATTRIBUTES` ever reach a description. Everything else a cut carries (split, group, origin, licence, speaker ids,
raw measurements) stays out, because the backbone would repeat it as if it could be heard.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lhotse import SupervisionSegment
from lhotse.cut import Cut

ATTRIBUTES: dict[str, str] = {
    "domain": "Type",
    "language": "Spoken language",
    "accent": "Accent",
    "gender": "Gender",
    "age": "Age",
    "first_language": "First language",
    "native_language": "Native language",
    "country": "Country",
    "dialect": "Dialect",
    "race": "Race",
    "ethnicity": "Ethnicity",
    "socioeconomic": "Socioeconomic background",
    "emotion": "Emotion",
    "speaker_emotion": "Intended emotion",
    "emotion_intensity": "Emotion intensity",
    "sentiment": "Sentiment",
    "arousal": "Arousal",
    "valence": "Valence",
    "dominance": "Dominance",
    "naturalness": "Naturalness",
    "style": "Style",
    "intent": "Intent",
    "dialogue_act": "Dialogue act",
    "num_speakers": "Number of speakers",
    "command": "Command",
    "code_switching": "Language mix",
    "authenticity": "Source",
    "speaker_id": "Speaker",
    "pitch": "Pitch",
    "speaking_rate": "Speaking rate",
    "sound": "Sound",
    "sound_class": "Sound class",
    "tags": "Tags",
    "caption": "Caption",
    "genre": "Genre",
    "instrument": "Instrument",
    "instruments": "Instruments",
    "instrument_family": "Instrument family",
    "instrument_source": "Instrument source",
    "midi_note": "MIDI note",
    "stroke": "Stroke",
    "tonic": "Tonic",
    "song": "Song",
    "playing": "Playing",
    "tempo": "Tempo",
    "tempo_bpm": "Beats per minute",
    "key": "Key",
    "mode": "Mode",
    "time_signature": "Time signature",
    "mood": "Mood",
    "loudness": "Volume",
    "noise": "Noise",
    "noise_type": "Noise type",
    "snr_db": "SNR",
    "reverberation": "Reverberation",
    "c50_ms": "Reverberation (C50)",
    "mos_score": "MOS",
    "quality": "Quality",
    "translation_en": "English translation",
    "duration_seconds": "Duration",
}
"""Attribute key (contract C1) -> the name a description writes, in the order in which a description lists them."""

SENTENCES: dict[str, str] = {
    "domain": "This is {}",
    "language": "The spoken language is {}",
    "accent": "The speaker has a {} accent",
    "gender": "The speaker is {}",
    "age": "The speaker's age is {}",
    "emotion": "The speaker's emotion is {}",
    "style": "The speaking style is {}",
    "num_speakers": "The number of speakers is {}",
    "pitch": "The speaker's pitch is {}",
    "speaking_rate": "The speaking rate is {}",
    "sound": "The sound is {}",
    "sound_class": "The sound is of the class {}",
    "genre": "The genre of the music is {}",
    "instrument": "The instrument is {}",
    "instruments": "The instruments are {}",
    "instrument_family": "The instrument family is {}",
    "playing": "The instrument plays {}",
    "tempo": "The tempo of the music is {}",
    "key": "The key of the music is {}",
    "mode": "The mode of the music is {}",
    "mood": "The mood of the music is {}",
    "loudness": "The volume is {}",
    "noise": "The recording is {}",
    "noise_type": "The noise in the background is {} noise",
    "snr_db": "The signal-to-noise ratio is {}",
    "translation_en": "In English, the speaker says: {}",
}
"""The sentence by which a focused description states an attribute; the others use "The <name> is <value>"."""

TRANSCRIPT = "transcript"
"""Key under which :func:`attributes_of` gives the spoken words; a description writes them before the brackets, not inside."""

SELF_GENERATED = "self_generated"
"""Role of the supervisions that hold training targets; the data layer writes it."""

_BREAKING = re.compile(r"<\|[^|>]*\|>|</?(?:start|end)_audio>|[\x00-\x1f\x7f-\x9f\[\](){}<>|\u2028\u2029]")
_UNITS = {"snr_db": "dB", "c50_ms": "ms"}
_RATED = frozenset({"arousal", "valence", "dominance", "naturalness"})  # means of ratings: always with one decimal
_UNKNOWN = frozenset({"", "unknown", "none", "null", "n/a", "nan", "other", "unk"})


def clean(text: str) -> str:
    """Return text that cannot break a description or a chat: no brackets, no audio locator, no control characters, single spaces."""
    return re.sub(r"\s+", " ", _BREAKING.sub(" ", text)).strip()


def _number(value: float) -> str:
    return str(round(value)) if abs(value) >= 10 or float(value).is_integer() else f"{value:.1f}"


def as_text(key: str, value: Any) -> str | None:
    """Return an attribute's value as a description writes it, or None when nothing is known.

    Args:
        key: attribute key; ``duration_seconds`` and ``snr_db`` get their units, ``tempo_bpm`` is rounded.
        value: a string, number, truth value or list of strings (joined by "and"; tags by semicolons, because they hold "and" themselves).
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        if key == "duration_seconds":
            seconds = max(1, round(value))
            return f"{seconds} second{'s' if seconds > 1 else ''}"
        if key in _UNITS:
            return f"{_number(value)} {_UNITS[key]}"
        if key in _RATED:
            return f"{value:.1f}"
        return str(round(value)) if key == "tempo_bpm" else _number(value)
    if isinstance(value, list | tuple):
        parts = [part for item in value if (part := as_text(key, item))]
        return ("; " if key == "tags" else " and ").join(parts) or None
    text = clean(value).replace(",", ";") if isinstance(value, str) else ""
    return None if text.lower() in _UNKNOWN else text


def source_supervisions(cut: Cut) -> list[SupervisionSegment]:
    """Return the supervisions that describe the clip itself (not the self-generated ones), by start time."""
    own = [s for s in cut.supervisions if (s.custom or {}).get("role") != SELF_GENERATED]
    return sorted(own, key=lambda s: s.start)


def transcript_of(supervision: SupervisionSegment) -> str | None:
    """Return the cleaned spoken words, or None where there are none."""
    return (clean(supervision.text) or None) if supervision.text else None


def supervision_attributes(supervision: SupervisionSegment) -> dict[str, str]:
    """Return the attributes one source supervision states, in the order of :data:`ATTRIBUTES`."""
    stated: dict[str, Any] = {**(supervision.custom or {}), "language": supervision.language, "gender": supervision.gender}
    return ordered({key: text for key, value in stated.items() if key in ATTRIBUTES and (text := as_text(key, value))})


def ordered(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes in the order of :data:`ATTRIBUTES`."""
    return {key: attributes[key] for key in ATTRIBUTES if key in attributes}


def _clip_attributes(cut: Cut) -> dict[str, str]:
    custom = getattr(cut, "custom", None) or {}
    domain = as_text("domain", custom.get("domain"))
    return {**({"domain": domain} if domain else {}), "duration_seconds": as_text("duration_seconds", cut.duration) or ""}


def shared(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return what holds for every part: an attribute on which two parts differ belongs to no single answer and is left out."""
    merged: dict[str, str] = {}
    conflicting: set[str] = set()
    for part in parts:
        for key, value in part.items():
            if merged.setdefault(key, value) != value:
                conflicting.add(key)
    return {key: value for key, value in merged.items() if key not in conflicting}


def attributes_of(cut: Cut) -> dict[str, str]:
    """Return every attribute of a clip that a prompt may ask for.

    Args:
        cut: a cut of contract C1: source supervisions first, ``custom["domain"]``.

    Returns:
        Attribute key -> value as the description writes it, in the order of :data:`ATTRIBUTES`; the spoken words, if any, under
        ``"transcript"``. Of several source supervisions only what they agree on.
    """
    sources = source_supervisions(cut)
    attributes = ordered(shared(supervision_attributes(s) for s in sources) | _clip_attributes(cut))
    words = " ".join(text for s in sources if (text := transcript_of(s)))
    return attributes | ({TRANSCRIPT: words} if words else {})
