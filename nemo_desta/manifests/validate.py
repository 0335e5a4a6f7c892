"""Whether a manifest is fit for training: audio, durations, fields, splits, transcripts, ids, attributes that contradict each other."""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nemo_desta.manifests.audio_hash import read_samples
from nemo_desta.manifests.durations import probe
from nemo_desta.manifests.records import FURTHER_AUDIO, NAMED, Record, attributes, audio_path, clip_key, custom, further_of, rows_of, source_of
from nemo_desta.manifests.sources import Problems, cuts, records, shar_folder
from nemo_desta.processes import parallel_map

REQUIRED = ("dataset", "domain", "split", "license", "seed_description")  # of the cut's custom (contract C1)
DOMAINS = ("speech", "sound", "music", "mixed")
OF_A_SPEAKER = ("gender",)  # what does not change between the clips of one speaker
MAX_CHARACTERS_A_SECOND = 40.0  # the fastest readers reach 25 in languages with an alphabet
MAX_SECONDS = 30.01
AGREE_SECONDS = 0.05  # a header's duration against the manifest's
EXAMPLES = 20
LOCATOR = "<|AUDIO|>"


@dataclass
class Findings:
    """Errors (not fit for training) and warnings, by kind, with the first examples."""

    errors: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    checked: int = 0
    rows: int = 0

    def add(self, level: str, kind: str, example: str) -> None:
        """Count one finding."""
        (self.errors if level == "error" else self.warnings)[kind] += 1
        listed = self.examples.setdefault(kind, [])
        if len(listed) < EXAMPLES:
            listed.append(example)

    def report(self) -> dict[str, Any]:
        """Plain data."""
        return {"checked": self.checked, "rows": self.rows, "errors": dict(self.errors), "warnings": dict(self.warnings), "examples": self.examples}


def validate(path: Path, *, audio: str = "header", num_jobs: int = 1) -> Findings:
    """Check a manifest.

    Args:
        path: any manifest.
        audio: "none"; "header" = files open and are as long as the manifest says; "decode" = every sample can be read. Of a Shar folder both others decode.
        num_jobs: processes that open audio.

    Raises:
        FileNotFoundError: no such manifest.
        ValueError: no manifest, or an unknown way to check audio.
    """
    if audio not in ("none", "header", "decode"):
        raise ValueError(f"audio={audio!r}: it is one of none, header, decode")
    findings, problems = Findings(), Problems()
    seen = _Seen()
    for record in records(path, problems):
        findings.checked += 1
        findings.rows += len(rows_of(record))
        for level, kind, detail in check_record(record):
            findings.add(level, kind, f"{record['id']}: {detail}")
        seen.add(record)
    seen.report(findings, lambda: records(path, Problems()))
    if audio != "none":
        shar = shar_folder(path) is not None
        for kind, detail in _shar_audio(path, problems) if shar else _files_audio(path, audio, num_jobs):
            findings.add("error", kind, detail)
    for kind, count in problems.counts.items():
        findings.errors[kind] += count
    findings.examples |= {
        kind: [s for s in problems.sentences if kind.split()[-1] in s][:EXAMPLES] or problems.sentences[:EXAMPLES] for kind in problems.counts
    }
    if not findings.checked:
        findings.add("error", "empty manifest", f"{path} holds no cut")
    return findings


def check_record(record: Record) -> Iterator[tuple[str, str, str]]:
    """(level, kind, detail) of what is wrong with one cut."""
    if not source_of(record):
        yield "error", "no source supervision", "the first supervision must hold transcript and attributes"
    missing = [name for name in REQUIRED if custom(record, name) is None]
    if missing:
        level = "error" if {"dataset", "domain"} & set(missing) else "warning"
        yield level, "missing field", f"no {', '.join(missing)} in the cut's custom"
    if custom(record, "domain", "speech") not in DOMAINS:
        yield "error", "unknown domain", f"{custom(record, 'domain')!r} is none of {', '.join(DOMAINS)}"
    if "test" in str(custom(record, "split", "")).lower():
        yield "error", "test split", f"split is {custom(record, 'split')!r}"
    duration = float(record["duration"])
    if not 0.0 < duration <= MAX_SECONDS:
        yield "error", "bad duration", f"{duration} s, expected more than 0 and at most 30"
    yield from _check_recording(record, duration)
    yield from _check_transcript(record, duration)
    yield from _check_attributes(record)
    for row in rows_of(record):
        yield from _check_row(row)


def _check_recording(record: Record, duration: float) -> Iterator[tuple[str, str, str]]:
    recording = record.get("recording") or {}
    if not recording:
        yield "error", "no recording", "the cut has no audio"
        return
    rate, samples = recording.get("sampling_rate") or 0, recording.get("num_samples") or 0
    if rate <= 0 or samples <= 0:
        yield "error", "bad recording", f"{samples} samples at {rate} Hz"
    elif float(record.get("start") or 0) + duration > samples / rate + AGREE_SECONDS:
        yield "error", "bad duration", f"the cut ends at {float(record.get('start') or 0) + duration:.3f} s, its recording at {samples / rate:.3f} s"


def _check_transcript(record: Record, duration: float) -> Iterator[tuple[str, str, str]]:
    text, seed = source_of(record).get("text"), custom(record, "seed_description")
    if text is None:
        return
    if not isinstance(text, str):
        yield "error", "bad transcript", f"{text!r} is no text"
        return
    if len(text) > MAX_CHARACTERS_A_SECOND * max(duration, 1.0):
        yield "warning", "implausible transcript", f"{len(text)} characters in {duration:.1f} s"
    if LOCATOR in text:
        yield "error", "bad transcript", f"holds the locator {LOCATOR}"
    if seed and text.strip() == str(seed).strip() and _STAMP.match(text):
        yield "error", "leaking transcript", "the transcript is the seed description: the model would read the answers"
    if text and not any(character.isalnum() for character in text):
        yield "warning", "implausible transcript", f"{text[:40]!r} has no letter"


_STAMP = re.compile(r"^\[\d+:")


def _check_attributes(record: Record) -> Iterator[tuple[str, str, str]]:
    source = source_of(record)
    for name in NAMED:
        own = (source.get("custom") or {}).get(name)
        if own is not None and source.get(name) is not None and str(own).casefold() != str(source[name]).casefold():
            yield "error", "clashing attributes", f"{name} is {source[name]!r} in the supervision and {own!r} in its custom"


def _check_row(row: Record) -> Iterator[tuple[str, str, str]]:
    own, where = row["custom"], f"row {row.get('id')}"
    if not (row.get("text") or "").strip():
        yield "error", "empty response", where
    messages = own.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        yield "error", "no messages", where
    elif (locators := sum(m["content"].count(LOCATOR) for m in messages)) != 1 + len(own.get("clips") or ()):
        yield "warning" if locators else "error", "number of locators", f"{where} asks for {locators} clips"
    if not (own.get("generator") or {}).get("model"):
        yield "warning", "no generator", f"{where} does not say which model wrote it"


class _Seen:
    """What can only be told from all cuts together, in 24 bytes a cut."""

    def __init__(self) -> None:
        self.ids, self.clips, self.values = array("Q"), array("Q"), array("Q")
        self.speakers: dict[str, dict[str, str]] = {}
        self.clashes: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        self.ids.append(text_hash(record["id"]))
        self.clips.append(text_hash(repr(clip_key(record))))
        self.values.append(text_hash(repr(sorted((k, str(v)) for k, v in attributes(record).items()))))
        source = source_of(record)
        if speaker := source.get("speaker"):
            key = f"{custom(record, 'dataset')}/{speaker}"
            known = self.speakers.setdefault(key, {})
            for name in OF_A_SPEAKER:
                value = source.get(name)
                if value and known.setdefault(name, str(value).casefold()) != str(value).casefold():
                    self.clashes[f"speaker {key}: {name} is {known[name]!r} and {str(value).casefold()!r}"] += 1

    def report(self, findings: Findings, again: Callable[[], Iterable[Record]]) -> None:
        repeated = _repeated(self.ids)
        clips, values = np.asarray(self.clips, np.uint64), np.asarray(self.values, np.uint64)
        _, first, inverse = np.unique(clips, return_index=True, return_inverse=True) if len(clips) else (None, clips, clips)
        clashing = set(np.flatnonzero(values != values[first[inverse]]).tolist()) if len(clips) else set()
        for sentence, count in self.clashes.items():
            findings.add("error", "clashing attributes", f"{sentence} ({count} clips)")
        if not repeated and not clashing:
            return
        for i, record in enumerate(again()):
            if i in repeated:
                findings.add("error", "duplicate id", record["id"])
            if i in clashing:
                findings.add("error", "clashing attributes", f"{record['id']}: another cut of the same sound has other attributes than {attributes(record)}")


def text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _repeated(keys: array) -> set[int]:
    """Numbers of the cuts whose key came before."""
    if not keys:
        return set()
    _, first, inverse = np.unique(np.asarray(keys, np.uint64), return_index=True, return_inverse=True)
    return set(np.flatnonzero(first[inverse] != np.arange(len(keys))).tolist())


def _files_audio(path: Path, how: str, num_jobs: int) -> Iterator[tuple[str, str]]:
    items = (
        (name, str(file), clip["recording"], how)
        for record in records(path, Problems())
        for name, clip in _heard(record)
        if clip.get("recording") and (file := audio_path(clip)) is not None
    )
    for found in parallel_map(_check_file, items, num_jobs):
        if found is not None:
            yield found


def _heard(record: Record) -> Iterator[tuple[str, Record]]:
    """A cut and the further clips of its rows, each with the name under which a finding is listed."""
    yield record["id"], record
    for row in rows_of(record):
        for clip in further_of(row):
            yield f"{record['id']}, row {row.get('id')}, clip {clip.get('id')}", clip


def _check_file(item: tuple[str, str, Record, str]) -> tuple[str, str] | None:
    cut_id, file, recording, how = item
    info = probe("", file)
    if info.path != file:
        return "missing audio", f"{cut_id}: {file}"
    if not info.rate:
        return "unreadable audio", f"{cut_id}: {file}: {info.error}"
    wanted = recording.get("num_samples", 0) / max(1, recording.get("sampling_rate", 1))
    if info.rate != recording.get("sampling_rate") or abs(info.seconds - wanted) > AGREE_SECONDS:
        return (
            "other duration",
            f"{cut_id}: {file} has {info.seconds:.3f} s at {info.rate} Hz, the manifest {wanted:.3f} s at {recording.get('sampling_rate')} Hz",
        )
    if how == "decode":
        try:
            samples, rate, exact = read_samples(file)
        except ValueError as error:
            return "unreadable audio", f"{cut_id}: {file}: {error}"
        if len(samples) < info.samples - (0.0 if exact else AGREE_SECONDS * rate):
            return "unreadable audio", f"{cut_id}: {file}: {len(samples)} of {info.samples} samples"
        if not samples.any():
            return "silent audio", f"{cut_id}: {file}"
    return None


def _shar_audio(path: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    text_only = Counter(problems.counts)
    for cut in cuts(path, problems):
        for name, clip in _sounds(cut):
            try:
                samples = clip.load_audio()
            except Exception as error:  # Lhotse's backends raise many kinds; whatever it is, this clip cannot be used
                yield "unreadable audio", f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                continue
            if samples is None or not samples.any():
                yield "silent audio", name
    for kind, count in text_only.items():  # the text was read twice
        problems.counts[kind] = max(count, problems.counts[kind] - count)


def _sounds(cut: Any) -> Iterator[tuple[str, Any]]:
    """All that can be heard of a cut of a Shar shard: its own recording, and that of its rows' further clips."""
    yield cut.id, cut
    if (further := (cut.custom or {}).get(FURTHER_AUDIO)) is not None:
        yield f"{cut.id}, further clips", further
