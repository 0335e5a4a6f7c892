"""One row of the published set (DeSTA-AQA5M) as a part of a cut, and back (contract C1).

The released JSONL has the fields ``id`` (relative audio path), ``dataset``, ``seed_description``, ``prompt``, ``response`` and ``messages``; the audio turn of
the messages has ``audios: [{"audio": path, "text": transcript}]`` (docs/dataset.md and docs/train.md of the reference). Rows are met whose id, audio, text,
prompt or messages are null or missing. A regular row is composed again from the cut's own fields; of every other one the original is kept, so that nothing is
lost either way.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from nemo_desta.manifests.records import NAMED, Record, rows_of, source_of
from nemo_desta.seed.attributes import SELF_GENERATED

FIELDS = ("id", "dataset", "seed_description", "prompt", "response", "messages")
LOCATOR = "<|AUDIO|>"  # as in data.conversation, which stands above this layer
_TEXTS = ("id", "dataset", "seed_description", "prompt")
GENERATOR = {"model": "meta-llama/Llama-3.1-8B-Instruct", "engine": "vllm", "temperature": 0.05, "top_p": 1.0}  # what the paper says of the published set
NO_DATASET = "unknown"
MAX_SECONDS = 30.0  # the reference hears no more of a clip

MUSIC = frozenset({"nsynth", "opensinger", "fma", "gtzan", "mridangam", "musiccaps", "mtgjamendo", "musicnet"})
SOUND = frozenset({"audioset", "audiocaps", "wavcaps", "clotho", "vocalsound", "esc50", "fsd50k", "urbansound8k", "vggsound"})

_NAMES = {
    "speaking speed": "speaking_rate",
    "speed": "speaking_rate",
    "volume": "loudness",
    "signal-to-noise ratio": "snr",
    "act": "dialogue_act",
    "number of speakers": "num_speakers",
    "audio category": "sound_class",
    "family": "instrument_family",
    "english translation": "translation_en",
    "speech_quality": "quality",
    "type": "sound",
}
_TIME = re.compile(r"^\[\s*((?:\d+:)+\d+(?:\.\d+)?)\s*-\s*((?:\d+:)+\d+(?:\.\d+)?)\s*\]\s*")
_PAIR = re.compile(r",\s*(?=[A-Za-z][\w \-/]{0,40}:)")
_KEY = re.compile(r"^([A-Za-z][\w \-/]{0,40}):\s*(.*)$", re.DOTALL)


@dataclass(frozen=True)
class Seed:
    """A seed description taken apart.

    Attributes:
        seconds: end of its last time stamp; None where it has none.
        attributes: named values of its last parenthesis; a value without a name is the sound.
    """

    seconds: float | None
    attributes: dict[str, str]


def parse_seed(text: str | None) -> Seed:
    """``[00:00-00:05] Hello world (Gender: Female, Emotion: Happy)`` to the time stamp and the attributes.

    Of descriptions of several lines (a conversation) only the last time stamp is read: whose attributes they give depends on the dataset.
    """
    if not text:
        return Seed(None, {})
    text = text.strip()
    if "\n" not in text:
        stamp = _TIME.match(text)
        inside = _last_parenthesis(text)
    else:
        stamp = next((found for line in reversed(text.split("\n")) if (found := _TIME.match(line))), None)
        inside = None
    return Seed(_seconds(stamp[2]) if stamp else None, _named_values(inside) if inside else {})


def _seconds(stamp: str) -> float:
    total = 0.0
    for part in stamp.split(":"):
        total = 60.0 * total + float(part)
    return total


def _last_parenthesis(line: str) -> str | None:
    """Content of the parenthesis that ends the line; parentheses may nest."""
    line = line.rstrip()
    if not line.endswith(")"):
        return None
    start = line.rfind("(")
    if start >= 0 and line.find(")", start) == len(line) - 1:
        return line[start + 1 : -1].strip()
    depth = 0
    for i in range(len(line) - 1, -1, -1):
        depth += (line[i] == ")") - (line[i] == "(")
        if depth == 0:
            return line[i + 1 : -1].strip()
    return None


@lru_cache(maxsize=4096)
def _attribute(key: str) -> str:
    """Our name of an attribute; empty for what is no attribute."""
    key = key.strip().lower()
    return "" if key == "duration" else _NAMES.get(key, re.sub(r"[^\w]+", "_", key))


def _named_values(inside: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _PAIR.split(inside):
        named = _KEY.match(part)
        key, value = (_attribute(named[1]), named[2].strip()) if named else ("sound", part.strip())
        if key and value and key not in found:
            found[key] = value
    return found


@dataclass(slots=True)
class RowAudio:
    """What a row says about its clip.

    Attributes:
        name: relative path of the audio; empty where the row names none.
        text: transcript; None where the row has none, or only blanks.
        clips: audio files that the row names.
        defects: kinds of what is null, missing or odd in the row.
        further: of a row about several clips, path and transcript of those behind the first; empty where one of them has no name.
    """

    name: str
    text: str | None
    clips: int
    defects: list[str]
    further: Sequence[tuple[str, str | None]] = ()


def check_row(row: Any) -> tuple[str | None, RowAudio]:
    """Whether a row can be imported.

    Returns:
        Why it cannot, or None; and what it says about its clip.
    """
    if not isinstance(row, dict):
        return "not an object", RowAudio("", None, 0, [])
    get = row.get
    defects = [f"null {key}" for key in _TEXTS if type(value := get(key)) is not str or not value]
    audios, usable = _audios(row.get("messages"))
    if not usable:
        defects.append("null messages")
    first = audios[0] if audios else {}
    if audios and not first.get("audio"):
        defects.append("null audio")
    name, text = first.get("audio") or row.get("id"), first.get("text")
    if audios and not isinstance(text, str):
        defects.append("null text")
    if len(audios) > 1:
        defects.append("several clips")
    audio = RowAudio(name if isinstance(name, str) else "", _words(text), len(audios), defects, _further(audios) if len(audios) > 1 else ())
    if not isinstance(row.get("response"), str) or not row["response"].strip():
        return "null response", audio
    if not usable and "null prompt" in defects:
        return "neither messages nor prompt", audio
    return None if audio.name else "neither id nor audio", audio


def _words(text: Any) -> str | None:
    return text.strip() or None if isinstance(text, str) else None


def _further(audios: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    named = [(audio.get("audio"), _words(audio.get("text"))) for audio in audios[1:]]
    return [(name, text) for name, text in named if isinstance(name, str)] if all(isinstance(name, str) and name for name, _ in named) else []


def _audios(messages: Any) -> tuple[list[Mapping[str, Any]], bool]:
    """Clips that the messages name, and whether the messages can be rendered."""
    if not isinstance(messages, list) or not messages:
        return [], False
    found: list[Mapping[str, Any]] = []
    usable, locators = True, 0
    for m in messages:
        if not isinstance(m, dict) or not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
            usable = False
            continue
        locators += m["content"].count(LOCATOR)
        named = m.get("audios")
        if isinstance(named, list):
            found += [a for a in named if isinstance(a, dict)]
    return found, usable and locators > 0


def is_regular(row: Mapping[str, Any]) -> bool:
    """Whether `to_row` composes a row again from the cut's own fields: exactly the released fields in their order, all of them strings."""
    if tuple(row) != FIELDS or not row["id"] or not row["dataset"]:
        return False
    return type(row["id"]) is type(row["dataset"]) is type(row["seed_description"]) is type(row["prompt"]) is type(row["response"]) is str


@lru_cache(maxsize=4096)
def domain_of(file: str, dataset: str) -> str:
    """speech | sound | music, from the dataset's name and, where that is unknown, from the file's (``audio.3.jsonl`` holds sound and music)."""
    name = _plain(dataset)
    if name in MUSIC:
        return "music"
    return "sound" if name in SOUND or file.startswith("audio") else "speech"


@lru_cache(maxsize=4096)
def licence_of(dataset: str) -> str:
    """The licence that the recipe of a dataset names (`nemo_desta.corpora.published`); "unknown" where there is no such recipe."""
    from nemo_desta.corpora.published import registry

    licences = {_plain(name): corpus.licence for corpus in registry().values() for name in (corpus.name, corpus.title, *corpus.aqa5m)}
    return licences.get(_plain(dataset), "unknown")


def _plain(dataset: str) -> str:
    return re.sub(r"[\W_]+", "", dataset).lower()


def row_supervision(
    row: Mapping[str, Any], audio: RowAudio, *, row_id: str, recording_id: str, seconds: float, place: tuple[str, int], clips: Sequence[Record] = ()
) -> Record:
    """The self-generated supervision of a row.

    Args:
        place: file stem and line number, for the way back.
        clips: cuts of the further clips of a row about several.
    """
    usable = "null messages" not in audio.defects
    messages = row["messages"] if usable else [{"role": "user", "content": f"{LOCATOR}\n\n{row['prompt']}"}]
    origin: Record = {"file": place[0], "line": place[1]}
    if not is_regular(row) or not usable:
        origin["row"] = row
    else:
        origin["id"] = row["id"]
    prompt = row.get("prompt")
    custom = {"role": SELF_GENERATED, "messages": messages, "prompt": prompt if isinstance(prompt, str) else None, "generator": GENERATOR, "aqa5m": origin}
    if clips:
        custom["clips"] = list(clips)
    return {
        "id": row_id,
        "recording_id": recording_id,
        "start": 0.0,
        "duration": seconds,
        "channel": 0,
        "text": row["response"],
        "custom": custom,
    }


def source_supervision(text: str | None, seed: Seed, *, cut_id: str, recording_id: str, seconds: float) -> Record:
    """The source supervision: transcript and attributes."""
    values = dict(seed.attributes)
    named = {name: values.pop(name) for name in NAMED[1:] if name in values}
    if "gender" in named:
        named["gender"] = named["gender"].lower()
    supervision: Record = {"id": f"{cut_id}-source", "recording_id": recording_id, "start": 0.0, "duration": seconds, "channel": 0, **named}
    if text is not None:
        supervision["text"] = text
    if values:
        supervision["custom"] = values
    return supervision


def to_rows(record: Record, *, audio_root: str | None = None) -> Iterator[tuple[str, Record]]:
    """The published form of a cut's rows.

    Args:
        audio_root: of cuts that were not imported: their audio paths are made relative to it.

    Yields:
        (file stem, row). The stem is empty for rows that were not imported.
    """
    for supervision in rows_of(record):
        origin = supervision["custom"].get("aqa5m") or {}
        if "row" in origin:
            yield origin["file"], _updated(origin["row"], supervision)
        elif origin:
            yield origin["file"], _row(record, supervision, origin["id"], supervision["custom"]["messages"])
        else:
            own = supervision["custom"]
            heard = [record, *(own.get("clips") or ())]
            clips = [{"audio": _relative(clip, audio_root), "text": source_of(clip).get("text") or " "} for clip in heard]
            yield "", _row(record, supervision, clips[0]["audio"], _with_audio(own.get("messages") or [], clips))


def _row(record: Record, supervision: Record, name: str, messages: Any) -> Record:
    custom = record.get("custom") or {}
    values = (name, custom.get("dataset"), custom.get("seed_description"), supervision["custom"].get("prompt"), supervision.get("text"), messages)
    return dict(zip(FIELDS, values, strict=True))


def _updated(row: Record, supervision: Record) -> Record:
    """The original row; a response that was edited since goes with it."""
    return row if row.get("response") == supervision.get("text") else {**row, "response": supervision.get("text")}


def _relative(record: Record, audio_root: str | None) -> str:
    from nemo_desta.manifests.records import audio_path

    path = audio_path(record)
    if path is None:
        return str(record["id"])
    pure = PurePosixPath(path.as_posix())
    if audio_root is not None and pure.is_relative_to(audio_root):
        return str(pure.relative_to(audio_root))
    return str(pure)


def _with_audio(messages: list[Record], clips: list[Record]) -> list[Record]:
    """The messages of our own form (no audios) in the published one: a turn with locators names its clips; the first one again where none is left."""
    remaining = iter(clips)
    return [
        {**m, "audios": [next(remaining, clips[0]) for _ in range(m["content"].count(LOCATOR))]} if LOCATOR in m["content"] and "audios" not in m else m
        for m in messages
    ]
