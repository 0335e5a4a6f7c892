"""The released JSONL of DeSTA-AQA5M to an indexed store of cuts, streaming, restartable."""

import gc
import itertools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from nemo_desta.jsonl import DAMAGED_GZIP
from nemo_desta.locking import explain_full_disk
from nemo_desta.manifests.aqa5m import (
    MAX_SECONDS,
    NO_DATASET,
    RowAudio,
    Seed,
    check_row,
    domain_of,
    licence_of,
    parse_seed,
    row_supervision,
    source_supervision,
)
from nemo_desta.manifests.durations import AudioInfo, DurationCache
from nemo_desta.manifests.records import Record, decode, encode
from nemo_desta.manifests.sources import lines
from nemo_desta.manifests.store_writer import SHARD_LINES, StoreWriter

logger = logging.getLogger(__name__)

CHUNK_ROWS = 4096
PROBLEMS = "problems.jsonl"
LISTED = 100_000  # problems of one kind that are listed; all are counted
SEED_RATE = 16_000  # of recordings that nobody has looked at


@dataclass(frozen=True)
class ImportOptions:
    """What decides the content of the store.

    Attributes:
        audio_root: the rows' audio paths are relative to it.
        durations: "probe" reads the headers of the audio; "seed" takes the time stamps of the seed descriptions and looks at no audio.
        shard_lines: cuts a shard.
    """

    audio_root: str
    durations: str = "probe"
    shard_lines: int = SHARD_LINES


@dataclass
class _Row:
    row: Record
    audio: RowAudio
    number: int
    further: Sequence[AudioInfo] = ()  # what the further clips of a row about several are


def import_aqa5m(
    files: Sequence[Path],
    output: Path,
    options: ImportOptions,
    *,
    duration_cache: Path | None = None,
    num_jobs: int = 1,
    trust_cache: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Import the released files, or go on where a killed import stopped.

    Rows of the same clip that follow one another become one cut with several self-generated supervisions. Rows that cannot be used (no response, no audio,
    damaged) are left out; they and every other oddity are counted, and listed in ``problems.jsonl`` of the store.

    Args:
        files: JSONL files, gzipped or not, in order.
        output: folder of the store.
        duration_cache: SQLite file; by default ``durations.sqlite`` in the store.
        num_jobs: processes that read audio headers.
        trust_cache: do not look whether files known to the cache have changed.
        progress: called with the number of rows read since the last call.

    Returns:
        The store's description, with the counts.

    Raises:
        ValueError: an input is missing, two have the same name, an unknown option, or the output holds something else.
        OSError: the disk is full.
    """
    _check(files, options)
    plan = {"command": "import-aqa5m", "inputs": [{"name": f.name, "bytes": f.stat().st_size} for f in files], **asdict(options)}
    with ExitStack() as stack:
        writer = stack.enter_context(StoreWriter(output, plan, shard_lines=options.shard_lines))
        if writer.done:
            from nemo_desta.manifests.store import read_description

            logger.info("%s is done", output)
            return read_description(output)
        cache = None
        if options.durations == "probe":
            cache = stack.enter_context(DurationCache(options.audio_root, duration_cache or output / "durations.sqlite", num_jobs=num_jobs, trust=trust_cache))
        stack.enter_context(_without_gc())
        return _Import(files, writer, options, cache, progress).run()


@contextmanager
def _without_gc() -> Iterator[None]:
    """No search for cycles, of which rows have none: with the libraries' objects in memory it takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check(files: Sequence[Path], options: ImportOptions) -> None:
    missing = [str(f) for f in files if not f.is_file()]
    if missing or not files:
        raise ValueError(f"no such JSONL file: {', '.join(missing) or '(none given)'}")
    doubled = [name for name, n in Counter(_stem(f) for f in files).items() if n > 1]
    if doubled:
        raise ValueError(f"two inputs are called {doubled[0]!r}: rows are written back to the file of that name, rename one")
    if options.durations not in ("probe", "seed"):
        raise ValueError(f"durations={options.durations!r}: it is one of probe, seed")
    if options.durations == "probe" and not Path(options.audio_root).is_dir():
        raise ValueError(f"no folder {options.audio_root}: give the folder that the rows' audio paths are relative to, or take --durations seed")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".jsonl")


class _Import:
    """One run over the files."""

    def __init__(
        self,
        files: Sequence[Path],
        writer: StoreWriter,
        options: ImportOptions,
        cache: DurationCache | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.files, self.writer, self.options, self.cache, self.progress = files, writer, options, cache, progress
        self.root = str(Path(options.audio_root))
        state = writer.state or {"file": 0, "offset": 0, "line": 0, "counts": {}, "listed": 0, "style": None}
        self.file, self.offset, self.line = state["file"], state["offset"], state["line"]
        self.counts, self.style = Counter(state["counts"]), state["style"]
        self.problems = writer.directory / PROBLEMS
        self.listed = state["listed"]
        self.name = ""  # stem of the file in work
        self.pending: list[bytes] = []  # lines for problems.jsonl since the last commit
        self.group: list[_Row] = []  # rows of one clip that await their followers
        self.group_info: AudioInfo | None = None

    def run(self) -> dict[str, Any]:
        if self.problems.exists():
            with open(self.problems, "r+b") as f:
                f.truncate(self.listed)
        began = time.perf_counter()
        for number in range(self.file, len(self.files)):
            self.file = number
            self._run_file(self.files[number])
            self.offset = self.line = 0
        self._end_group()
        self.file = len(self.files)
        self._commit_problems()
        minutes = (time.perf_counter() - began) / 60
        logger.info("%d rows read, %d imported in %.1f minutes", self.counts["rows read"], self.counts["rows imported"], minutes)
        return self.writer.finish(self._state(), counts=dict(sorted(self.counts.items())), style=self.style)

    def _run_file(self, file: Path) -> None:
        name = self.name = _stem(file)
        for first, chunk in self._chunks(file):
            rows = list(self._parsed(chunk, name, first))
            infos = self.cache.lookup(_names(rows)) if self.cache is not None else {}
            for row in rows:
                if row.audio.further and infos:
                    self._add_further(row, infos, name)
                self._take(row, infos.get(row.audio.name), name)
            if self.writer.full:
                self._end_group()
                self._commit_problems()
                self.writer.commit(self._state())
            if self.progress is not None:
                self.progress(len(chunk))
        self._end_group()

    def _chunks(self, file: Path) -> Iterator[tuple[int, list[bytes]]]:
        """(number of the first line, lines) by the thousand; `offset` and `line` stand behind them. A gzip file has no offsets: its lines are counted."""
        zipped = file.suffix == ".gz"
        source = lines(file, 0 if zipped else self.offset)
        if zipped:
            for _ in range(self.line):
                next(source)
        many = min(CHUNK_ROWS, self.options.shard_lines)
        while True:
            chunk: list[bytes] = []
            try:
                chunk.extend(itertools.islice(source, many))
            except DAMAGED_GZIP as error:  # what extend took before stays in the chunk
                self._problem("damaged file", _stem(file), self.line + len(chunk) + 1, f"cut off or damaged ({error}): copy it anew")
            if not chunk:
                return
            first, self.line, self.offset = self.line + 1, self.line + len(chunk), self.offset + sum(map(len, chunk))
            yield first, chunk

    def _parsed(self, chunk: Sequence[bytes], name: str, first: int) -> Iterator[_Row]:
        for number, line in enumerate(chunk, first):
            if not line.strip():
                self.counts["blank lines"] += 1
                continue
            self.counts["rows read"] += 1
            try:
                row = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                torn = "" if line.endswith(b"\n") else "cut off: "
                self._problem("damaged line", name, number, f"{torn}{error}")
                continue
            reason, audio = check_row(row)
            if self.style is None and isinstance(row, dict):
                self.style = detect_style(line, row)
            for defect in audio.defects:
                self._problem(defect, name, number, audio.name)
            if reason is not None:
                if reason not in audio.defects:
                    self._problem(reason, name, number, audio.name)
                self.counts["rows left out"] += 1
                continue
            yield _Row(row, audio, number)

    def _add_further(self, row: _Row, infos: Mapping[str, AudioInfo], name: str) -> None:
        """What the further clips of a row are; where one cannot be heard, the row is kept without any, and training skips it."""
        found = [infos[clip] for clip, _ in row.audio.further]
        if all(info.rate for info in found):
            row.further = found
            return
        lost = next(info for info in found if not info.rate)
        self._problem("further clip not heard", name, row.number, f"{lost.name}{': ' + lost.error if lost.error else ''}")

    def _take(self, row: _Row, info: AudioInfo | None, name: str) -> None:
        """Put a row to the clip in work, or begin the next."""
        if self.cache is not None:
            assert info is not None
            if not info.rate:
                kind = "unreadable audio" if info.path else "missing audio"
                self._problem(kind, name, row.number, f"{row.audio.name}{': ' + info.error if info.error else ''}")
                self.counts["rows left out"] += 1
                return
            if info.path != row.audio.name:
                self._problem("other extension", name, row.number, f"{row.audio.name} is {info.path}")
        if self.group and not _same_clip(self.group[0], row):
            self._end_group()
        self.group.append(row)
        self.group_info = info

    def _end_group(self) -> None:
        """Write the clip in work."""
        if not self.group:
            return
        rows, self.group = self.group, []
        first, name = rows[0], self.name
        text = first.row.get("seed_description")
        seed = parse_seed(text if isinstance(text, str) else None)
        cut = self._cut(first, seed, f"{name}-{first.number:08d}", name)
        if cut is None:
            for row in rows:
                self._problem("no duration", name, row.number, row.audio.name)
            self.counts["rows left out"] += len(rows)
            return
        for row in rows:
            row_id = f"{name}-{row.number:08d}"
            place = (name, row.number)
            clips = [self._clip(f"{row_id}-{n}", info, text) for n, (info, (_, text)) in enumerate(zip(row.further, row.audio.further, strict=False), 2)]
            made = row_supervision(row.row, row.audio, row_id=row_id, recording_id=cut["id"], seconds=cut["duration"], place=place, clips=clips)
            cut["supervisions"].append(made)
        self.counts["rows imported"] += len(rows)
        self.counts["cuts"] += 1
        self.writer.write(encode(cut), seconds=cut["duration"], rows=len(rows))

    def _cut(self, first: _Row, seed: Seed, cut_id: str, file: str) -> Record | None:
        """The cut of a clip, without its rows yet; None where its duration is not known."""
        info = self.group_info if self.cache is not None else _from_seed(first.audio.name, seed)
        if info is None or not info.samples:
            return None
        seconds = info.seconds
        if seconds > MAX_SECONDS:
            self._problem("longer than 30 s", file, first.number, f"{first.audio.name}: {seconds:.2f} s, the cut is its beginning")
            seconds = MAX_SECONDS
        named = first.row.get("dataset")
        dataset = named if isinstance(named, str) and named else NO_DATASET
        text = first.row.get("seed_description")
        custom = {
            "dataset": dataset,
            "domain": domain_of(file, dataset),
            "split": "train",
            "license": licence_of(dataset),
            "seed_description": text,
            "audio_id": first.audio.name,
        }
        if self.cache is None:
            custom["durations"] = "seed"
        source = source_supervision(first.audio.text, seed, cut_id=cut_id, recording_id=cut_id, seconds=seconds)
        return {**self._sound(cut_id, info, seconds), "supervisions": [source], "custom": custom}

    def _clip(self, cut_id: str, info: AudioInfo, text: str | None) -> Record:
        """A further clip of a row: its sound and its words."""
        seconds = min(info.seconds, MAX_SECONDS)
        source = source_supervision(text, Seed(None, {}), cut_id=cut_id, recording_id=cut_id, seconds=seconds)
        return {**self._sound(cut_id, info, seconds), "supervisions": [source]}

    def _sound(self, cut_id: str, info: AudioInfo, seconds: float) -> Record:
        """A cut of the beginning of a recording, without supervisions."""
        channels = list(range(info.channels))
        recording = {
            "id": cut_id,
            "sources": [{"type": "file", "channels": channels, "source": os.path.join(self.root, info.path)}],
            "sampling_rate": info.rate,
            "num_samples": info.samples,
            "duration": info.samples / info.rate,
            "channel_ids": channels,
        }
        many = info.channels > 1
        kind = "MultiCut" if many else "MonoCut"
        return {"id": cut_id, "start": 0.0, "duration": seconds, "channel": channels if many else 0, "recording": recording, "type": kind}

    def _problem(self, kind: str, file: str, line: int, detail: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.pending.append(encode({"kind": kind, "file": file, "line": line, "detail": detail}))

    def _commit_problems(self) -> None:
        """Append the listed problems; they count from the next commit of the store on."""
        if self.pending:
            data = b"\n".join(self.pending) + b"\n"
            with explain_full_disk(self.problems, self.writer.safe), open(self.problems, "ab") as f:
                f.write(data)
            self.listed += len(data)
            self.pending = []

    def _state(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "offset": self.offset,
            "line": self.line,
            "counts": dict(self.counts),
            "listed": self.listed,
            "style": self.style,
        }


def _names(rows: Sequence[_Row]) -> Iterator[str]:
    """Audio files that rows name."""
    for row in rows:
        yield row.audio.name
        for name, _ in row.audio.further:
            yield name


def _same_clip(a: _Row, b: _Row) -> bool:
    keys = ("id", "dataset", "seed_description")
    return a.audio.name == b.audio.name and a.audio.text == b.audio.text and all(a.row.get(key) == b.row.get(key) for key in keys)


def _from_seed(name: str, seed: Seed) -> AudioInfo | None:
    """A recording as long as the time stamp says (whole seconds)."""
    return AudioInfo(name, name, SEED_RATE, round(seed.seconds * SEED_RATE), 1) if seed.seconds else None


def detect_style(line: bytes, row: Mapping[str, Any]) -> dict[str, bool]:
    """How the writer of a file laid out its JSON, so that the export gives the same bytes: {"spaces": ..., "ascii": ...}."""
    for spaces in (True, False):
        for ascii_only in (True, False):
            if format_row(row, {"spaces": spaces, "ascii": ascii_only}).encode() == line.strip():
                return {"spaces": spaces, "ascii": ascii_only}
    return {"spaces": True, "ascii": False}


def format_row(row: Mapping[str, Any], style: Mapping[str, bool]) -> str:
    """A row as one line of JSON without its end."""
    separators = (", ", ": ") if style["spaces"] else (",", ":")
    return json.dumps(row, ensure_ascii=style["ascii"], separators=separators)
