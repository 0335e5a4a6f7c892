"""Reading any manifest one record at a time, without losing all of it to one bad line or one bad shard."""

import gzip
import logging
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nemo_desta.jsonl import DAMAGED_GZIP
from nemo_desta.manifests.records import Record, check_record, decode
from nemo_desta.manifests.store import DESCRIPTION, IndexedStore, is_store

if TYPE_CHECKING:
    from lhotse.cut.data import DataCut

logger = logging.getLogger(__name__)

LISTED = 1000  # problems of one kind that are kept word for word; all are counted
READ_BYTES = 1 << 20
SHARDS = "shards"


@dataclass
class Problems:
    """What was wrong with an input: every problem is counted by kind, the first ones are kept as sentences."""

    counts: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)

    def add(self, kind: str, sentence: str) -> None:
        """Count one problem."""
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.sentences.append(sentence)

    def __len__(self) -> int:
        return self.counts.total()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        return {"counts": dict(self.counts), "listed": list(self.sentences)}


def shar_folder(path: Path) -> Path | None:
    """The folder of Lhotse Shar shards that a path means: itself, or its ``shards`` (see `shar`); None where there are none."""
    if not path.is_dir() or is_store(path):
        return None
    return next((folder for folder in (path / SHARDS, path) if any(folder.glob("cuts.*.jsonl*"))), None)


def records(path: str | Path, problems: Problems | None = None) -> Iterator[Record]:
    """The cuts of a manifest as dictionaries, lazily.

    A line that is cut off or no cut is skipped and reported, and so is the rest of a gzip file whose end is missing. Of a Shar folder only the text is read.

    Args:
        path: JSONL file, gzipped or not, indexed store, or Shar folder.
        problems: where given, what was skipped.

    Raises:
        FileNotFoundError: no such manifest.
        ValueError: a folder that is neither a store nor Shar.
    """
    path = Path(path)
    problems = problems if problems is not None else Problems()
    for file in manifest_files(path):
        yield from file_records(file, problems)


def manifest_files(path: Path) -> list[Path]:
    """The JSONL files of a manifest, in order."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise FileNotFoundError(f"no manifest at {path}: give a JSONL file of cuts, an indexed store or a Shar folder")
    if is_store(path):
        IndexedStore(path).close()  # refuses a store whose files do not fit together
        import json

        return [path / shard["name"] for shard in json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))["shards"]]
    if (folder := shar_folder(path)) is not None:
        return sorted(folder.glob("cuts.*.jsonl*"))
    raise ValueError(f"{path} is neither an indexed store (no {DESCRIPTION}) nor a Shar folder (no cuts.*.jsonl): finish the command that writes it")


@dataclass(frozen=True)
class Span:
    """Some lines of a JSONL file.

    Attributes:
        first: number of the first one, from 0.
        count: how many.
        start: byte at which the first one begins; None where the file is compressed.
    """

    first: int
    count: int
    start: int | None

    def lines(self, file: Path) -> Iterator[bytes]:
        """These lines."""
        if self.start is not None:
            return islice(lines(file, self.start), self.count)
        return islice(lines(file), self.first, self.first + self.count)


def spans(file: Path, count: int | None) -> list[Span]:
    """A file in spans of `count` lines (None = one span); what comes after a damage of a gzip file is not counted."""
    starts, number, position = [0], 0, 0
    try:
        for number, line in enumerate(lines(file), 1):
            position += len(line)
            if count is not None and number % count == 0:
                starts.append(position)
    except DAMAGED_GZIP:
        pass  # reading the records reports it
    sizes = [number] if count is None else [min(count, number - i * count) for i in range(len(starts))]
    firsts = [0] if count is None else [i * count for i in range(len(starts))]
    zipped = file.suffix == ".gz"
    return [Span(first, size, None if zipped else start) for first, size, start in zip(firsts, sizes, starts, strict=True) if size]


def file_records(file: Path, problems: Problems, span: Span | None = None) -> Iterator[Record]:
    """The cuts of one JSONL file, or of some of its lines."""
    number = 0
    try:
        for number, line in enumerate(span.lines(file) if span else lines(file), 1 + (span.first if span else 0)):
            if not line.strip():
                continue
            try:
                yield check_record(decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
                torn = "" if line.endswith(b"\n") else "cut off, "
                problems.add("damaged line", f"{file}, line {number}: skipped, {torn}not a whole cut ({error})")
    except DAMAGED_GZIP as error:
        problems.add("damaged file", f"{file}: cut off or damaged after line {number} ({error}): copy it anew, or repeat the step that wrote it")


def lines(file: Path, start: int = 0) -> Iterator[bytes]:
    """Lines of a file with their ends, undecoded.

    Args:
        start: byte at which to begin; not for gzip.
    """
    if file.suffix == ".gz":
        assert start == 0, "a gzip file has no way in but its beginning"
        if file.stat().st_size == 0:
            raise EOFError("0 bytes")
        with gzip.open(file) as zipped:
            yield from zipped
        return
    with open(file, "rb", buffering=READ_BYTES) as f:
        f.seek(start)
        yield from f


def cuts(path: str | Path, problems: Problems | None = None) -> "Iterator[DataCut]":
    """The cuts of a manifest as Lhotse objects with their audio within reach, lazily. A Shar shard that is cut off costs what comes after the damage."""
    from nemo_desta.manifests.records import to_cut

    path = Path(path)
    problems = problems if problems is not None else Problems()
    if (folder := shar_folder(path)) is not None:
        yield from _shar_cuts(folder, problems)
        return
    for record in records(path, problems):
        try:
            yield to_cut(record)
        except ValueError as error:
            problems.add("damaged line", f"{path}, cut {record['id']}: skipped, {error}")


SHARD_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, RuntimeError, AssertionError, ValueError, KeyError)
"""What Lhotse raises where a shard is damaged."""


def shard_fields(file: Path) -> dict[str, list[str]]:
    """The files of a Shar shard by field, of which ``file`` is its text."""
    stem = file.name.removeprefix("cuts.").partition(".jsonl")[0]
    return {"cuts": [str(file)], **{tar.name.partition(".")[0]: [str(tar)] for tar in sorted(file.parent.glob(f"*.{stem}.tar"))}}


def _shar_cuts(folder: Path, problems: Problems) -> "Iterator[DataCut]":
    from lhotse import CutSet

    for file in manifest_files(folder):
        stem = file.name.removeprefix("cuts.").partition(".jsonl")[0]
        seen = 0
        try:
            for cut in CutSet.from_shar(fields=shard_fields(file)):
                seen += 1
                yield cut
        except SHARD_DAMAGE as error:
            problems.add("damaged shard", f"{folder}, shard {stem}: damaged after {seen} cuts ({type(error).__name__}: {error}): write it anew")
            continue
        text = Problems()
        expected = sum(1 for _ in file_records(file, text))
        for sentence in text.sentences:
            problems.add("damaged shard", sentence)
        if seen < expected:  # Lhotse ends a shard without a word where its tar ends
            problems.add("damaged shard", f"{folder}, shard {stem}: {expected - seen} of {expected} cuts have no audio, the tar file is cut off: write it anew")
