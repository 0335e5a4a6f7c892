"""Removing what is there twice, and what a benchmark will ask about."""

import csv
import json
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nemo_desta.jsonl import text_lines
from nemo_desta.manifests.audio_hash import UNHEARD, Stretch, check_comparable, hashes, length_key, repeated_lengths, sample_hash
from nemo_desta.manifests.durations import EXTENSIONS, probe
from nemo_desta.manifests.records import Record, audio_path, clip_key, custom, further_of, rows_of, source_of
from nemo_desta.manifests.sinks import Sink
from nemo_desta.manifests.sources import Problems, records
from nemo_desta.manifests.text_match import TextIndex, near_duplicates, word_pairs
from nemo_desta.manifests.validate import text_hash

logger = logging.getLogger(__name__)

WAYS = ("id", "row", "audio", "text")
AGAINST = ("transcript", "prompt", "response", "seed")
LISTED = 10_000


@dataclass
class Removal:
    """What was taken out, and why.

    Attributes:
        read, kept: cuts.
        counts: removed cuts by reason.
        removed: ``{"id", "reason", "like"}`` of the first removed ones.
        not_compared: kept cuts whose audio, or that of a further clip, could not be compared.
    """

    read: int = 0
    kept: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    removed: list[dict[str, Any]] = field(default_factory=list)
    not_compared: int = 0

    def remove(self, record: Record, reason: str, like: str) -> None:
        """Note one removed cut."""
        self.counts[reason] += 1
        if len(self.removed) < LISTED:
            self.removed.append({"id": record["id"], "reason": reason, "like": like})

    def miss(self, record: Record, problems: Problems) -> None:
        """Note one cut that is kept although nobody knows whether its audio is there twice."""
        self.not_compared += 1
        where = audio_path(record) or "its recording"
        problems.add("audio not compared", f"{record['id']}: audio not compared: {where}, or a further clip of a row, cannot be decoded from a file")

    def report(self) -> dict[str, Any]:
        """Plain data."""
        counts = {"read": self.read, "kept": self.kept, "audio not compared": self.not_compared}
        return {**counts, "removed": dict(self.counts), "listed": self.removed}


def dedup(
    path: Path, sink: Sink, *, by: Sequence[str] = ("id", "row"), similarity: float = 0.9, num_jobs: int = 1, problems: Problems | None = None
) -> Removal:
    """Copy a manifest without repetitions; the first of each stays.

    Args:
        by: "id" = the cut's id; "row" = the same stretch of audio with the same prompts and responses; "audio" = the same decoded samples, whatever is asked
            about them; "text" = a transcript that nearly repeats another one.
        similarity: of "text": Jaccard index of word pairs.

    Raises:
        ValueError: an unknown way, or "audio" of a Shar folder.
    """
    unknown = sorted(set(by) - set(WAYS))
    if unknown or not 0 < similarity <= 1:
        raise ValueError(f"dedup by {', '.join(unknown) or similarity}: the ways are {', '.join(WAYS)}, the similarity is above 0 and at most 1")
    if "audio" in by:
        check_comparable(path)
    problems = problems if problems is not None else Problems()

    def stream() -> Iterator[Record]:
        return records(path, Problems())

    found: dict[int, tuple[str, int]] = {}
    unheard: set[int] = set()
    for way in (w for w in WAYS if w in by):
        for later, earlier in _repetitions(way, stream, similarity, num_jobs, unheard).items():
            found.setdefault(later, (f"same {way}", earlier))
    names = _names(stream(), {earlier for _, earlier in found.values()})
    removal = Removal()
    for i, record in enumerate(records(path, problems)):
        removal.read += 1
        if i in found:
            reason, earlier = found[i]
            removal.remove(record, reason, names[earlier])
        else:
            sink.write(record)
            removal.kept += 1
            if i in unheard:
                removal.miss(record, problems)
    return removal


def _repetitions(way: str, stream: Callable[[], Iterator[Record]], similarity: float, num_jobs: int, unheard: set[int]) -> dict[int, int]:
    """{number of a later cut: number of the first like it}; numbers of the cuts whose audio cannot be compared go into ``unheard``."""
    if way == "text":
        return {later: earlier for later, (earlier, _) in near_duplicates(lambda: (source_of(r).get("text") for r in stream()), similarity).items()}
    if way == "audio":
        keys = array("Q", hashes(stream(), repeated_lengths(stream()), num_jobs))
    else:
        keys = array("Q", (text_hash(r["id"] if way == "id" else _row_key(r)) for r in stream()))
    values = np.asarray(keys, np.uint64)
    if not len(values):
        return {}
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    firsts = first[inverse]
    known = values > UNHEARD if way == "audio" else values != 0
    later = np.flatnonzero((firsts != np.arange(len(values))) & known)
    if way == "audio":
        unheard.update(np.flatnonzero(values == UNHEARD).tolist())
    return dict(zip(later.tolist(), firsts[later].tolist(), strict=True))


def _row_key(record: Record) -> str:
    asked = [(row["custom"].get("prompt"), row.get("text"), [clip_key(clip) for clip in further_of(row)]) for row in rows_of(record)]
    return repr((clip_key(record), asked))


def _names(stream: Iterable[Record], wanted: set[int]) -> dict[int, str]:
    return {i: record["id"] for i, record in enumerate(stream) if i in wanted} if wanted else {}


@dataclass
class Benchmark:
    """What must not be in training.

    Attributes:
        ids: names of clips: ids, paths or stems.
        audio: hashes of decoded samples -> file.
        lengths: of these files.
        texts: questions and transcripts.
    """

    ids: set[str] = field(default_factory=set)
    audio: dict[int, str] = field(default_factory=dict)
    lengths: set[int] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)


def read_benchmark(
    ids: Sequence[Path] = (), audio: Sequence[Path] = (), texts: Sequence[Path] = (), *, fields: Sequence[str] = ("question", "text")
) -> Benchmark:
    """Read a user's benchmark files.

    Args:
        ids: text files with one name a line; of a name with folders or an audio extension its stem counts too.
        audio: audio files, or folders of them.
        texts: ``.txt`` (one text a line), ``.json``, ``.jsonl`` or ``.csv``.
        fields: of the last three: names of the fields that hold text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without any such field, or of an unknown kind; audio that cannot be decoded, or a folder without any.
    """
    if absent := [str(file) for file in (*ids, *texts) if not file.is_file()]:
        raise FileNotFoundError(f"no file {', '.join(absent)}: name the benchmark's own files")
    found = Benchmark()
    for file in ids:
        found.ids |= {name for line in text_lines(file) for name in _names_of(line.strip())}
    for place in audio:
        if not place.exists():
            raise FileNotFoundError(f"no audio at {place}")
        files = [file for file in sorted(place.rglob("*")) if file.suffix.lower() in EXTENSIONS] if place.is_dir() else [place]
        if not files:
            raise ValueError(f"{place} holds no audio ({', '.join(EXTENSIONS)}): name the benchmark's own files")
        for file in files:
            _add_audio(found, file)
    for file in texts:
        found.texts += _texts_of(file, fields)
    return found


def _names_of(name: str) -> set[str]:
    """The name, without its folders, and without the extension of an audio file ("speech.0-17" is no file)."""
    base = Path(name).name
    return {name, base, Path(base).stem} if Path(base).suffix.lower() in EXTENSIONS else {name, base}


def _add_audio(found: Benchmark, file: Path) -> None:
    info = probe("", str(file))
    stretch = Stretch(str(file), 0, info.samples, info.rate)
    digest = sample_hash(stretch) if info.rate else UNHEARD
    if digest == UNHEARD:
        raise ValueError(f"{file} cannot be decoded ({info.error or 'damaged behind its header'}): mend it, or remove it from the benchmark's audio")
    found.audio[digest] = str(file)
    found.lengths.add(length_key(stretch))


def _texts_of(file: Path, fields: Sequence[str]) -> list[str]:
    if file.suffix == ".txt":
        return [line.strip() for line in text_lines(file)]
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in text_lines(file)]
    elif file.suffix == ".json":
        loaded = json.loads(file.read_text(encoding="utf-8"))
        rows = loaded if isinstance(loaded, list) else list(loaded.values())
    elif file.suffix == ".csv":
        with open(file, newline="", encoding="utf-8") as lines:  # a quoted field may hold ends of lines
            rows = list(csv.DictReader(lines))
    else:
        raise ValueError(f"{file}: texts of a benchmark are .txt, .json, .jsonl or .csv")
    found = [row[name] for row in rows if isinstance(row, dict) for name in fields if isinstance(row.get(name), str) and row[name].strip()]
    if not found:
        known = sorted({key for row in rows[:20] if isinstance(row, dict) for key in row})
        raise ValueError(f"{file} has no text in the fields {', '.join(fields)}: name one of {', '.join(known) or '(none)'} with --text-field")
    return found


def decontaminate(
    path: Path,
    sink: Sink,
    benchmark: Benchmark,
    *,
    against: Sequence[str] = ("transcript", "prompt"),
    similarity: float = 0.7,
    num_jobs: int = 1,
    problems: Problems | None = None,
) -> Removal:
    """Copy a manifest without what a benchmark holds: the same name, the same decoded samples, or nearly the same text.

    Args:
        against: which texts of a cut are compared with the benchmark's.
        similarity: Jaccard index of word pairs from which on a text counts as the same.

    Raises:
        ValueError: the benchmark is empty, an unknown text is asked for, or audio is compared with that of a Shar folder.
    """
    if not (benchmark.ids or benchmark.audio or benchmark.texts):
        raise ValueError("nothing to compare with: give ids, audio or texts of a benchmark")
    if set(against) - set(AGAINST):
        raise ValueError(f"against {', '.join(sorted(set(against) - set(AGAINST)))}: the texts are {', '.join(AGAINST)}")
    if benchmark.audio:
        check_comparable(path)
    problems = problems if problems is not None else Problems()
    index, removal = TextIndex(benchmark.texts), Removal()
    sounds = hashes(records(path, Problems()), benchmark.lengths, num_jobs) if benchmark.audio else None
    for record in records(path, problems):
        removal.read += 1
        heard = [next(sounds), *hashes(_others(record), benchmark.lengths, 1)] if sounds is not None else []
        reason = _contamination(record, heard, benchmark, index, against, similarity)
        if reason is None:
            sink.write(record)
            removal.kept += 1
            if UNHEARD in heard:
                removal.miss(record, problems)
        else:
            removal.remove(record, *reason)
    return removal


def _others(record: Record) -> list[Record]:
    return [clip for row in rows_of(record) for clip in further_of(row)]


def _contamination(
    record: Record, heard: Sequence[int], benchmark: Benchmark, index: TextIndex, against: Sequence[str], similarity: float
) -> tuple[str, str] | None:
    """(reason, like what) of a cut that must go: for what it is itself, or for a further clip of one of its rows."""
    others = _others(record)
    if benchmark.ids:
        names = sorted(set().union(*(cut_names(clip) for clip in (record, *others))))
        same = next((name for name in names if name in benchmark.ids), None)
        if same is not None:
            return "id", same
    if (digest := next((digest for digest in heard if digest in benchmark.audio), None)) is not None:
        return "audio", benchmark.audio[digest]
    if benchmark.texts:
        for text in [*_texts(record, against), *(text for clip in others for text in _texts(clip, against))]:
            score, which = index.best(text) if word_pairs(text) else (0.0, -1)
            if score >= similarity:
                return "text", benchmark.texts[which]
    return None


def cut_names(record: Record) -> set[str]:
    """All names by which a list may call a clip."""
    names = {record["id"], (record.get("recording") or {}).get("id"), custom(record, "audio_id"), custom(record, "parent_id")}
    if (file := audio_path(record)) is not None:
        names.add(file.name)
    return {part for name in names if isinstance(name, str) and name for part in _names_of(name)}


def _texts(record: Record, against: Sequence[str]) -> list[str]:
    found = [source_of(record).get("text")] if "transcript" in against else []
    found += [custom(record, "seed_description")] if "seed" in against else []
    for row in rows_of(record):
        found += [row["custom"].get("prompt")] if "prompt" in against else []
        found += [row.get("text")] if "response" in against else []
    return [text for text in dict.fromkeys(found) if isinstance(text, str)]
