"""From the entries of a published corpus's labels to cuts: headers read in parallel, windows of at most 30 s, counted skips, streamed to disk.

The audio is referenced in place and not decoded, except where a corpus's seed holds measured attributes (pitch, loudness, rate, SNR).
"""

import gzip
import inspect
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_desta.corpora.manifests import write_atomic, write_lines
from nemo_desta.corpora.published.base import (
    BROKEN_ROW,
    DUPLICATE,
    EMPTY,
    MISSING,
    TOO_SHORT,
    UNREADABLE,
    Entry,
    Part,
    PrepareOptions,
    PublishedCorpus,
    Skips,
)
from nemo_desta.locking import exclusive, explain_full_disk
from nemo_desta.processes import parallel_map
from nemo_desta.provenance import manifest
from nemo_desta.seed.describe import describe
from nemo_desta.seed.measure import measure

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut, Recording

logger = logging.getLogger(__name__)

CUTS_FILE = "cuts.jsonl.gz"
PREPARED_FILE = "prepared.json"
_CHUNK = 256  # entries a task: reading a header takes well under a millisecond on a local disk
_HOPELESS = 1000  # entries after which a corpus without one usable clip is given up

Result = tuple[str | None, str, float, dict[str, str]]  # cut as a line of JSON or None, its id, its seconds, the skip


def build(corpus: PublishedCorpus, read: Callable[..., Iterator[Entry]], root: Path, output_dir: Path | None, *, num_jobs: int, **options: Any) -> "CutSet":
    """Prepare one corpus; see `nemo_desta.corpora.published.base.prepare_with` for arguments, results and errors."""
    known = {field.name for field in fields(PrepareOptions)}
    settings = PrepareOptions(num_jobs=num_jobs, **{key: value for key, value in options.items() if key in known})
    folder = output_dir / corpus.name if output_dir is not None else None
    if settings.audio_dir is None and folder is not None:
        settings = replace(settings, audio_dir=folder / "audio")
    extra = {key: value for key, value in options.items() if key not in known}
    takes = set(inspect.signature(read).parameters) - {"root", "skips"}
    if unknown := set(extra) - takes:
        raise ValueError(f"{corpus.name}: unknown options {sorted(unknown)}: it takes {sorted(takes | known)}")
    if "audio_dir" in takes:
        extra["audio_dir"] = settings.audio_dir
    skips = Skips()
    worker = _Worker(corpus, settings, root.resolve())
    lines = _lines(read(root.resolve(), skips, **extra), worker, skips)
    if folder is None:
        kept = list(lines)
        _check(corpus, skips, len(kept), settings, None)
        return _cut_set(kept)
    with exclusive(folder):
        _write(corpus, folder, lines, skips, settings, {"corpus_dir": str(root.resolve()), **options})
    from lhotse import CutSet

    return CutSet.from_jsonl_lazy(folder / CUTS_FILE)


def _write(corpus: PublishedCorpus, folder: Path, lines: Iterator[tuple[str, float]], skips: Skips, settings: PrepareOptions, options: dict[str, Any]) -> None:
    """Write a corpus's files; ``cuts.jsonl.gz`` and ``prepared.json`` appear only when all is well."""
    (folder / PREPARED_FILE).unlink(missing_ok=True)
    totals = {"clips": 0, "hours": 0.0}
    part = folder / (CUTS_FILE + ".part")
    try:
        with explain_full_disk(folder, "an earlier result is as it was"):
            _stream(part, lines, totals)
        write_lines(folder / "skipped.jsonl", (json.dumps(row, ensure_ascii=False) for row in skips.rows))
        _check(corpus, skips, int(totals["clips"]), settings, folder)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(folder / CUTS_FILE)
    record = manifest({"corpus": corpus.name, "title": corpus.title, **options}, {"cuts": folder / CUTS_FILE})
    record |= {"clips": totals["clips"], "hours": round(totals["hours"], 4), "skipped": skips.counts(), "license": corpus.licence, "url": corpus.url}
    write_atomic(folder / PREPARED_FILE, json.dumps(record, indent=1, ensure_ascii=False, default=str))


def _stream(path: Path, lines: Iterable[tuple[str, float]], totals: dict[str, Any]) -> None:
    """Write lines as gzip (equal content gives equal bytes) and count clips and hours into ``totals``."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6) as file:
        for line, seconds in lines:
            file.write(line.encode() + b"\n")
            totals["clips"] += 1
            totals["hours"] += seconds / 3600


def _cut_set(lines: Iterable[tuple[str, float]]) -> "CutSet":
    from lhotse import CutSet, MonoCut

    return CutSet.from_cuts(MonoCut.from_dict(json.loads(line)) for line, _ in lines)


def _check(corpus: PublishedCorpus, skips: Skips, clips: int, settings: PrepareOptions, folder: Path | None) -> None:
    where = f"; see {folder / 'skipped.jsonl'}" if folder else ""
    if skips.rows:
        logger.info("%s: %d clips; left out: %s%s", corpus.name, clips, skips.counts(), where)
    some = "; ".join(f"{row['where']} ({row['reason']}: {row['detail']})" for row in skips.rows[:5])
    if not clips:
        raise ValueError(f"{corpus.name}: no clip can be used ({some or 'the labels have no entry'}){where}")
    if skips.bad > settings.max_bad_fraction * (skips.bad + clips):
        raise ValueError(
            f"{corpus.name}: {skips.bad} of {skips.bad + clips} entries are missing, unreadable or broken, "
            f"more than max_bad_fraction={settings.max_bad_fraction}: {some}{where}"
        )


def _lines(entries: Iterator[Entry], worker: "_Worker", skips: Skips) -> Iterator[tuple[str, float]]:
    """Cuts as lines of JSON with their durations, in the order of the entries."""
    seen: set[str] = set()
    clips = 0
    for results in parallel_map(worker, _chunks(entries, _CHUNK), worker.settings.num_jobs, chunk=1):
        for line, cut_id, seconds, skip in results:
            if line is None:
                skips.add(**skip)
            elif cut_id in seen:
                skips.add(DUPLICATE, cut_id, "a clip of this id occurred before")
            else:
                seen.add(cut_id)
                clips += 1
                yield line, seconds
        if not clips and skips.bad >= _HOPELESS:
            return  # the caller says what is wrong; reading a million more rows of it helps nobody


def _chunks(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    while chunk := list(islice(entries, size)):
        yield chunk


@dataclass(frozen=True)
class _Worker:
    """Turns entries into cuts; runs in worker processes."""

    corpus: PublishedCorpus
    settings: PrepareOptions
    root: Path

    def __call__(self, entries: Sequence[Entry]) -> list[Result]:
        headers: dict[Path, Recording | tuple[str, str]] = {}
        results: list[Result] = []
        for entry in entries:
            if entry.audio not in headers:
                headers[entry.audio] = _header(entry.audio, self._origin(entry.audio))
            results += self._entry(entry, headers[entry.audio])
        return results

    def _origin(self, audio: Path) -> str:
        """Path of the audio inside the corpus: the ``id`` of the published set's rows."""
        return audio.relative_to(self.root).as_posix() if audio.is_relative_to(self.root) else audio.name

    def _entry(self, entry: Entry, header: "Recording | tuple[str, str]") -> list[Result]:
        if isinstance(header, tuple):
            return [_skip(header[0], entry.id, header[1])]
        end = header.duration if entry.end is None else min(entry.end, header.duration)
        if not 0 <= entry.start < end:
            return [_skip(BROKEN_ROW, entry.id, f"part {entry.start}-{entry.end} s of a recording of {header.duration} s")]
        if entry.channel >= header.num_channels:
            return [_skip(BROKEN_ROW, entry.id, f"channel {entry.channel} of {header.num_channels}")]
        if end - entry.start < self.settings.min_clip_seconds:
            return [_skip(TOO_SHORT, entry.id, f"{end - entry.start:.3f} s")]
        windows = clip_windows(entry, end, self.settings.max_clip_seconds)
        try:
            cuts = [self._cut(entry, header, window, index, len(windows)) for index, window in enumerate(windows)]
        except Exception as error:  # decoding for the measured attributes: Lhotse's backends raise many kinds
            return [_skip(UNREADABLE, entry.id, f"{type(error).__name__}: {error}")]
        return [(json.dumps(cut.to_dict(), ensure_ascii=False), cut.id, cut.duration, {}) for cut in cuts]

    def _cut(self, entry: Entry, recording: "Recording", window: "Window", index: int, total: int) -> "MonoCut":
        from lhotse import MonoCut, SupervisionSegment

        corpus = self.corpus
        whole = f"{corpus.name}-" + re.sub(r"[^\w.]+", "-", entry.id).strip("-.")
        cut_id = whole if total == 1 else f"{whole}-w{index:03d}"
        language = entry.language or corpus.language
        attributes = {key: value for key, value in entry.attributes.items() if value not in (None, "", [])}
        named = "speaker_id" in corpus.seed and "speaker_id" not in attributes
        supervisions = [
            SupervisionSegment(
                id=f"{cut_id}-s{number}" if number else cut_id,
                recording_id=recording.id,
                start=round(part.start - window.start, 6),
                duration=round(part.end - part.start, 6),
                channel=entry.channel,
                text=part.text,
                language=language,
                speaker=part.speaker,
                gender=part.gender,
                custom=attributes | ({"speaker_id": part.speaker} if named and part.speaker else {}),
            )
            for number, part in enumerate(window.parts)
        ]
        custom: dict[str, Any] = {
            "dataset": corpus.name,
            "domain": corpus.domain,
            "split": entry.split,
            "license": corpus.licence,
            "attribution": corpus.title,
            "group": f"{corpus.name}:{entry.group or entry.speaker or recording.id}",
            "origin": self._origin(entry.audio),
        }
        if total > 1:
            custom |= {"parent_id": whole, "parent_start": round(window.start, 6)}
        cut = MonoCut(
            cut_id, round(window.start, 6), round(window.end - window.start, 6), entry.channel, supervisions=supervisions, recording=recording, custom=custom
        )
        if corpus.measured and self.settings.measure:
            _add_measured(cut, corpus)
        custom["seed_description"] = describe(cut, attributes=corpus.seed)
        return cut


@dataclass(frozen=True)
class Window:
    """A clip of a recording, in seconds from the recording's start, and who speaks in it."""

    start: float
    end: float
    parts: tuple[Part, ...]


def clip_windows(entry: Entry, end: float, max_seconds: float) -> list[Window]:
    """Divide an entry into clips.

    Without turns: the fewest windows of equal length that are no longer than ``max_seconds``; of several windows none has the words, because
    nobody says which words fall into which. With turns (`Entry.parts`): consecutive turns are grouped into clips, so that no turn is cut; a
    turn that is itself too long is divided like an entry without turns.

    Args:
        entry: What to divide.
        end: Where it ends, in seconds of the recording.
        max_seconds: Longest clip.
    """
    if not entry.parts:
        return _equal_windows(Part(start=entry.start, end=end, text=entry.text, speaker=entry.speaker, gender=entry.gender), max_seconds)
    windows: list[Window] = []
    group: list[Part] = []
    for part in sorted(entry.parts, key=lambda p: (p.start, p.end)):
        part = replace(part, end=min(part.end, end))
        if part.end <= part.start:
            continue
        if group and max(p.end for p in [*group, part]) - group[0].start > max_seconds:
            windows.append(_grouped(group))
            group = []
        if part.end - part.start > max_seconds:
            windows += _equal_windows(part, max_seconds)
        else:
            group.append(part)
    return windows + ([_grouped(group)] if group else [])


def _grouped(parts: Sequence[Part]) -> Window:
    return Window(parts[0].start, max(part.end for part in parts), tuple(parts))


def _equal_windows(part: Part, max_seconds: float) -> list[Window]:
    length = part.end - part.start
    count = max(1, math.ceil(length / max_seconds - 1e-6))
    edges = [part.start + length * i / count for i in range(count)] + [part.end]
    text = part.text if count == 1 else None
    return [Window(a, b, (replace(part, start=a, end=b, text=text),)) for a, b in pairwise(edges)]


def _skip(reason: str, where: str, detail: str) -> Result:
    return None, where, 0.0, {"reason": reason, "where": where, "detail": detail}


def _header(path: Path, recording_id: str) -> "Recording | tuple[str, str]":
    """Recording of a file by its header, or (reason, detail) why there is none."""
    from lhotse import Recording

    if not path.is_file():
        return MISSING, str(path)
    if path.stat().st_size == 0:
        return EMPTY, f"{path}: 0 bytes"
    try:
        recording = Recording.from_file(path, recording_id=recording_id)
    except Exception as error:  # Lhotse's backends raise many kinds; whatever it is, this file cannot be used
        text = str(error).strip().splitlines()
        return UNREADABLE, f"{path}: {type(error).__name__}: {text[0] if text else ''}"
    return recording if recording.num_samples else (EMPTY, f"{path}: no samples")


def _add_measured(cut: "MonoCut", corpus: PublishedCorpus) -> None:
    """Write the measured attributes that the labels do not state into the cut's supervisions."""
    samples = (cut if cut.sampling_rate == 16_000 else cut.resample(16_000)).load_audio()
    assert samples is not None
    text = cut.supervisions[0].text if len(cut.supervisions) == 1 else None
    found = measure(samples.mean(axis=0), text, corpus.domain)
    for supervision in cut.supervisions:
        supervision.custom = {key: found[key] for key in corpus.measured if key in found} | (supervision.custom or {})


def reseed(cut: "MonoCut") -> "MonoCut":
    """A copy of a published corpus's cut with its seed description written anew (after a tagger added attributes).

    Raises:
        ValueError: The cut is of no published corpus.
    """
    from lhotse.utils import fastcopy

    from nemo_desta.corpora.published import get

    custom = cut.custom or {}
    return fastcopy(cut, custom={**custom, "seed_description": describe(cut, attributes=get(str(custom.get("dataset"))).seed)})
