"""What audio files are there and how long they are: probed in parallel from their headers, kept in a file so that no header is read twice."""

import itertools
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

from nemo_desta.processes import killed_worker

logger = logging.getLogger(__name__)

EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".sph", ".aac", ".wma", ".webm")
"""Tried in this order where a file is not there under its own name (the reference tries .wav)."""
_BATCH = 64  # files a task of the pool
_SQL_PAGE_KIB = 32 * 1024  # memory of the cache's own cache
_VARIABLES = 500  # of one SQL statement


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """One audio file.

    Attributes:
        name: as asked for, relative to the root.
        path: relative path where it was found; empty = not there under any extension.
        rate: Hz; 0 = cannot be opened.
        samples: of one channel.
        channels: number of.
        error: why it cannot be opened.
    """

    name: str
    path: str
    rate: int = 0
    samples: int = 0
    channels: int = 0
    error: str = ""
    size: int = 0
    mtime: int = 0

    @property
    def seconds(self) -> float:
        """Duration; 0 where it cannot be opened."""
        return self.samples / self.rate if self.rate else 0.0


def find_audio(root: str, name: str) -> tuple[str, os.stat_result] | None:
    """The file of a relative path, or the same path with another extension."""
    stem, extension = os.path.splitext(name)
    for candidate in itertools.chain((name,), (stem + e for e in EXTENSIONS if e != extension)):
        try:
            found = os.stat(os.path.join(root, candidate))
        except (OSError, ValueError):  # ValueError: a null byte in the name
            continue
        if found.st_size >= 0 and not os.path.isdir(os.path.join(root, candidate)):
            return candidate, found
    return None


def probe(root: str, name: str) -> AudioInfo:
    """Find a file and read its header."""
    found = find_audio(root, name)
    if found is None:
        return AudioInfo(name, "")
    path, stat = found
    rate, samples, channels, error = _header(os.path.join(root, path))
    return AudioInfo(name, path, rate, samples, channels, error, stat.st_size, stat.st_mtime_ns)


def _header(path: str) -> tuple[int, int, int, str]:
    import soundfile as sf

    try:
        info = sf.info(path)
        rate, samples, channels = int(info.samplerate), int(info.frames), int(info.channels)
    except (sf.LibsndfileError, OSError) as error:
        import av

        try:
            rate, samples, channels = _header_of_container(path)
        except (OSError, ValueError, IndexError, av.error.FFmpegError):
            return 0, 0, 0, str(error).splitlines()[0][:200] or type(error).__name__
    return (rate, samples, channels, "") if samples > 0 and rate > 0 else (0, 0, 0, "holds no samples")


def _header_of_container(path: str) -> tuple[int, int, int]:
    """Rate, samples and channels of what libsndfile does not read (AAC, WMA, ...)."""
    import av

    with av.open(path) as container:
        stream = container.streams.audio[0]
        if stream.duration is None or stream.time_base is None:
            raise ValueError("no duration in the header")
        return stream.rate, round(float(stream.duration * stream.time_base) * stream.rate), stream.channels


def _probe_many(root: str, names: Sequence[str]) -> list[AudioInfo]:
    return [probe(root, name) for name in names]


class DurationCache:
    """Context manager: names of audio files below a root -> what they are.

    Args:
        root: the names are relative to it.
        file: SQLite file that keeps what was read; one file for one root. Made where it is missing.
        num_jobs: processes that probe.
        trust: do not look whether a known file has changed since (one ``stat`` a name less, which counts on a network disk).

    Attributes:
        probed: headers read by this object.
    """

    def __init__(self, root: str | Path, file: str | Path, *, num_jobs: int = 1, trust: bool = False) -> None:
        self.root, self.file, self.num_jobs, self.trust = str(root), Path(file), num_jobs, trust
        self.probed = 0
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "DurationCache":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(self.file)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA cache_size=-{_SQL_PAGE_KIB}")
            columns = "name TEXT PRIMARY KEY, path TEXT, rate INT, samples INT, channels INT, error TEXT, size INT, mtime INT"
            self._db.execute(f"CREATE TABLE IF NOT EXISTS audio ({columns}) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.file} is no cache of durations, or damaged ({error}): remove it, it is made anew") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._db.close()

    def lookup(self, names: Iterable[str]) -> dict[str, AudioInfo]:
        """What the files are.

        Raises:
            OSError: the cache cannot be written.
        """
        wanted = list(dict.fromkeys(names))
        known = {info.name: info for info in self._stored(wanted)}
        if not self.trust:
            known = {name: info for name, info in known.items() if self._unchanged(info)}
        missing = [name for name in wanted if name not in known]
        if missing:
            fresh = self._probe(missing)
            self._store(fresh)
            known |= {info.name: info for info in fresh}
        return known

    def _stored(self, names: Sequence[str]) -> Iterator[AudioInfo]:
        for i in range(0, len(names), _VARIABLES):
            part = names[i : i + _VARIABLES]
            marks = ",".join("?" * len(part))
            for row in self._db.execute(f"SELECT * FROM audio WHERE name IN ({marks})", part):
                yield AudioInfo(*row)

    def _unchanged(self, info: AudioInfo) -> bool:
        """Whether the file is as it was; a file that was missing or broken is looked at again."""
        if not info.path or not info.rate:
            return False
        try:
            stat = os.stat(os.path.join(self.root, info.path))
        except OSError:
            return False
        return stat.st_size == info.size and stat.st_mtime_ns == info.mtime

    def _probe(self, names: Sequence[str]) -> list[AudioInfo]:
        self.probed += len(names)
        if self.num_jobs <= 1 or len(names) <= _BATCH:
            return _probe_many(self.root, names)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.num_jobs, mp_context=get_context("fork"))
        parts = [names[i : i + _BATCH] for i in range(0, len(names), _BATCH)]
        try:
            return [info for part in self._pool.map(_probe_many, itertools.repeat(self.root), parts) for info in part]
        except BrokenProcessPool as error:
            raise killed_worker() from error

    def _store(self, infos: Sequence[AudioInfo]) -> None:
        rows = [(i.name, i.path, i.rate, i.samples, i.channels, i.error, i.size, i.mtime) for i in infos]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO audio VALUES (?,?,?,?,?,?,?,?)", rows)
        except sqlite3.DatabaseError as error:
            raise OSError(f"cannot write {self.file} ({error}): make room, then run the same command again") from error
