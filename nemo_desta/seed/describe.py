"""A clip as text: the seed description from which the backbone writes its own training targets.

The schema is the paper's (section III-B; the published data's ``seed_description``)::

    [00:00-00:05] Hello world (Type: speech, Spoken language: English, Gender: female, Pitch: high)
    [00:00-00:03] (Type: sound, Sound: dog barking, Sound class: dog)

A clip with several source supervisions (several speakers, or the windows of a long recording) has one such line a supervision.
"""

from collections.abc import Collection, Mapping

from lhotse.cut import Cut
from lhotse.utils import fastcopy

from nemo_desta.seed.attributes import (
    ATTRIBUTES,
    SENTENCES,
    TRANSCRIPT,
    as_text,
    attributes_of,
    source_supervisions,
    supervision_attributes,
    transcript_of,
)

HIDDEN: frozenset[str] = frozenset({"duration_seconds", "speaker_id"})
"""Attributes a description does not list by default: the timestamp already says how long the clip is, and nobody hears a speaker's number."""

QUOTED = '{}: "words"'
"""Name of an attribute that a description writes before the spoken words, which then stand in quotation marks: ``Alan Alda: "I pull the covers up"``."""


def clock(seconds: float) -> str:
    """Return a time as ``MM:SS`` (minutes may exceed 59)."""
    whole = max(0, round(seconds))
    return f"{whole // 60:02d}:{whole % 60:02d}"


def timestamp(start: float, end: float) -> str:
    """Return ``[MM:SS-MM:SS]``; a part shorter than a second ends one second after its start, so that no range is empty."""
    first = max(0, round(start))
    return f"[{clock(first)}-{clock(max(first + 1, round(end)))}]"


def _part(start: float, end: float, text: str | None, attributes: dict[str, str], names: Mapping[str, str]) -> str:
    phrases: list[str] = []
    items: list[str] = []
    for key, name in names.items():
        if key not in attributes:
            continue
        value = attributes[key]
        if name == QUOTED:
            text = f'{value}: "{text}"' if text else value
        elif "{}" in name:
            phrases.append(f"({name.format(value).replace('(s)', '' if value == '1' else 's')})")
        elif name.startswith("("):
            inner = f"{name[1:-1]}: {value}"
            items[-1:] = [f"{items[-1]} ({inner})" if items else inner]
        else:
            items.append(f"{name}: {value}" if name else value.replace(";", ","))
    return " ".join(piece for piece in (timestamp(start, end), text, *phrases, f"({', '.join(items)})" if items else "") if piece)


def describe(cut: Cut, *, transcript: bool = True, attributes: Collection[str] | Mapping[str, str] | None = None) -> str:
    """Write the seed description of a clip.

    Args:
        cut: a cut of contract C1. Measured and stated attributes stand in its source supervisions' fields and ``custom``.
        transcript: write the spoken words (where the text is known).
        attributes: attribute keys to list, null = all known but :data:`HIDDEN`. A subset makes shorter descriptions for small backbones.
            A mapping also says under which name each is listed and in which order: the seed forms of the published corpora. An empty name lists
            the bare value, ``{"gender": "Gender", "sound": ""}`` gives ``(Gender: female, dog barking)``; a name in brackets belongs to what
            stands before it, ``{"noise": "Noise", "snr_db": "(SNR)"}`` gives ``(Noise: moderate (SNR: 15 dB))``; a phrase has brackets of its
            own, ``"{} speaker(s) talking"`` gives ``(4 speakers talking)``; and :data:`QUOTED` writes the value before the words.

    Returns:
        One line a source supervision, ``[MM:SS-MM:SS] words (Name: value, ...)``, times relative to the clip.

    Raises:
        ValueError: `attributes` names a key that is not in :data:`~nemo_desta.seed.attributes.ATTRIBUTES`.
    """
    show = set(ATTRIBUTES) - HIDDEN if attributes is None else set(attributes)
    if unknown := show - set(ATTRIBUTES):
        raise ValueError(f"unknown attributes {sorted(unknown)}: a description knows {sorted(ATTRIBUTES)}")
    names = attributes if isinstance(attributes, Mapping) else {key: name for key, name in ATTRIBUTES.items() if key in show}
    sources = source_supervisions(cut)
    whole = {key: value for key, value in attributes_of(cut).items() if key in ATTRIBUTES}
    if len(sources) <= 1:
        text = transcript_of(sources[0]) if sources and transcript else None
        return _part(0.0, cut.duration, text, whole, names)
    lines = []
    for source in sources:
        start, end = max(0.0, source.start), min(cut.duration, source.end)
        own = supervision_attributes(source) | ({"domain": whole["domain"]} if "domain" in whole else {})
        own["duration_seconds"] = as_text("duration_seconds", max(0.0, end - start)) or ""
        lines.append(_part(start, end, transcript_of(source) if transcript else None, own, names))
    return "\n".join(lines)


def statement(attribute: str, value: str) -> str:
    """Return one attribute as a sentence without its full stop, e.g. "The speaker's pitch is low"."""
    template = SENTENCES.get(attribute) or f"The {ATTRIBUTES[attribute].lower()} is {{}}"
    return template.replace("{}", "a sound effect" if (attribute, value) == ("domain", "sound") else value)


def describe_for(cut: Cut, attribute: str | None) -> str:
    """Write the description that a small backbone needs to answer one question: the attribute asked for, as a sentence, and nothing else.

    ``The speaker's pitch is low.`` Clips with the same value have the same description, so a greedy backbone is asked once for all of them.
    Measured with a 135 M backbone: among many attributes, and behind words in another language, it answers a third of the attribute questions
    rightly; from such a description nearly all (``docs/prompts.md``). For an open prompt, for questions about the spoken words and for an
    attribute that the clip lacks, the description is the complete one.

    Args:
        cut: a cut of contract C1.
        attribute: ``Prompt.attribute``; None for an open prompt.
    """
    value = attributes_of(cut).get(attribute or "")
    if attribute is None or value is None or attribute == TRANSCRIPT:
        return describe(cut)
    return f"{statement(attribute, value)}."


def with_seed(cut: Cut, *, transcript: bool = True, attributes: Collection[str] | None = None) -> Cut:
    """Return a copy of the cut whose ``custom["seed_description"]`` is :func:`describe` of it."""
    return fastcopy(cut, custom={**(cut.custom or {}), "seed_description": describe(cut, transcript=transcript, attributes=attributes)})
