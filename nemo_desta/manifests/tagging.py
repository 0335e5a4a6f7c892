"""Add the values of taggers to a manifest: batched, in several processes, in the order of the manifest, resumable after any kind of death.

Beside the target lie, until it is whole, ``<name>.part`` (the cuts written so far) and ``<name>.progress`` (one line a chunk: how many lines of the source it
ends at and how many bytes of the part). A restart cuts the part back to the last chunk that is complete in both and goes on with the next line of the source;
memory does not grow with the manifest. Problems are listed in ``<name>.problems.txt`` as they come.

A run with too many of them stops, for most often it is the mount or the tagger that is wrong. What is to be heard again is decided by the next run: with a
limit that allows them it goes on where the first one stopped, else it begins again with the first bad clip, which by then may have been mended.
"""

import gzip
import itertools
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from nemo_desta import provenance
from nemo_desta.jsonl import DAMAGED_GZIP
from nemo_desta.locking import explain_full_disk, locked_file, name_holder
from nemo_desta.manifests.sources import lines as file_lines
from nemo_desta.manifests.sources import manifest_files, shar_folder
from nemo_desta.manifests.store import DESCRIPTION
from nemo_desta.seed.taggers.base import Clip, Tagger, load_clip, with_tags

logger = logging.getLogger(__name__)

Build = Callable[[str], Tagger]
LOG_EVERY_SECONDS = 30.0
_FEW = 20  # bad clips that are no reason to stop, whatever their share
_ENOUGH = 1000  # lines whose share of bad clips says something about the rest
_SHOWN = 5  # problems in the summary


@dataclass(frozen=True)
class TagJob:
    """What is to be done.

    Attributes:
        taggers: specifications that `build` understands; later ones see the words that earlier ones found.
        build: makes a tagger; a function at the top level of a module, for it runs in other processes.
        batch: clips heard together.
    """

    source: Path
    target: Path
    taggers: tuple[str, ...]
    build: Build
    batch: int = 16
    jobs: int = 1
    overwrite: bool = False
    min_confidence: float = 0.0
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.batch < 1 or self.jobs < 1:
            raise ValueError(f"batch={self.batch} and jobs={self.jobs} must be at least 1")
        if not self.taggers:
            raise ValueError("no tagger is named")
        if self.source.resolve() == self.target.resolve():
            raise ValueError(f"{self.target} is the source itself: write to another file")


@dataclass
class Chunk:
    """Result of one batch of lines."""

    lines: list[str]
    problems: list[str]
    counts: Counter[str] = field(default_factory=Counter)


def tag_manifest(job: TagJob) -> dict[str, Any]:
    """Write the target, or go on where an earlier process stopped; a complete target of the same job is left alone.

    Returns:
        The summary that also stands in ``<target>.manifest.json``: clips, problems, values by key, clips/s.

    Raises:
        FileNotFoundError: no source.
        ValueError: the source is no manifest or a Shar folder; the target belongs to another job,
            another process writes it, or too many clips are bad (they are listed in ``<target>.problems.txt``; the run stops as soon as that is clear).
        OSError: the disk is full, or a process died; what is written stays.
    """
    if not job.source.exists():
        raise FileNotFoundError(f"{job.source} does not exist: give a manifest of cuts (.jsonl, .jsonl.gz or an indexed store)")
    if shar_folder(job.source) is not None:
        raise ValueError(f"{job.source} is a Shar folder, whose audio lies in tar files: tag the cuts before tools/manifests.py shard")
    manifest_files(job.source)  # refuses a folder that is no store, or a damaged one
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(_beside(job.target, "lock"), job.target) as lock:
        name_holder(lock)
        identity, manifest = _identity(job), _read(_beside(job.target, "manifest.json"))
        if job.target.exists():
            if manifest.get("job") == identity:
                logger.info("%s is complete: nothing to do", job.target)
                return dict(manifest["summary"])
            raise ValueError(f"{job.target} exists and was not written by this command: choose another file, or remove it")
        progress = _Progress(job, identity)
        started, before = time.monotonic(), progress.counts["clips"]
        _work(job, progress)
        seconds = time.monotonic() - started
        summary = _summary(job, progress, before, seconds)
        _finish(job, identity, summary)
        return summary


# --- state -------------------------------------------------------------------------------------------------------------------------------------------


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name}.{suffix}")


def _identity(job: TagJob) -> dict[str, Any]:
    settings = {"overwrite": job.overwrite, "min_confidence": job.min_confidence}
    return {"source": provenance.fingerprint(_described(job.source)), "taggers": list(job.taggers), **settings}


def _described(source: Path) -> Path:
    """The file that says what a source is: of a store its description, which holds the hashes of its shards."""
    return source / DESCRIPTION if source.is_dir() else source


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class _Progress:
    """Part file, progress file and list of problems; first line of the progress file: what job they belong to."""

    def __init__(self, job: TagJob, identity: dict[str, Any]) -> None:
        self.part, self.log, self.listed = (_beside(job.target, suffix) for suffix in ("part", "progress", "problems.txt"))
        self.lines, self.bytes, self.bad = 0, 0, 0
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []
        if self.log.exists() and self.log.stat().st_size:
            self._resume(job, identity)
        else:
            self.listed.unlink(missing_ok=True)
            self.log.write_text(json.dumps(identity) + "\n", encoding="utf-8")
            self.part.write_bytes(b"")

    def _resume(self, job: TagJob, identity: dict[str, Any]) -> None:
        with open(self.log, "rb") as log:
            head = log.readline()
        if not head.endswith(b"\n") or json.loads(head) != identity:
            raise ValueError(f"{self.log} belongs to another source or other taggers: choose another target, or remove it and {self.part}")
        self.listed.unlink(missing_ok=True)  # made anew from the notes
        end = clean = len(head)
        lines = bad = clips = 0
        for note, behind in self._notes(len(head)):
            lines, end = note["lines"], behind
            bad, clips = bad + len(note["problems"]), clips + note["counts"].get("clips", 0)
            clean = clean if bad else behind
        if _too_many(job, bad, lines, clips):
            logger.info("%d of %d clips were bad: the first of them and what comes behind is heard again", bad, lines)
            end = clean
        os.truncate(self.log, end)
        for note, _ in self._notes(len(head)):
            self._count(note)
        if self.part.exists():
            os.truncate(self.part, self.bytes)
        else:
            self.part.write_bytes(b"")
        logger.info("going on behind line %d of the source", self.lines)

    def _notes(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Notes of the chunks whose cuts are in the part, each with the byte of the progress file at which it ends."""
        size = self.part.stat().st_size if self.part.exists() else 0
        with open(self.log, "rb") as log:
            log.seek(start)
            for line in log:
                if not line.endswith(b"\n") or (note := json.loads(line))["bytes"] > size:
                    return
                start += len(line)
                yield note, start

    def _count(self, note: dict[str, Any]) -> None:
        self.lines, self.bytes, self.bad = note["lines"], note["bytes"], self.bad + len(note["problems"])
        self.counts.update(note["counts"])
        self.first += note["problems"][: _SHOWN - len(self.first)]
        if note["problems"]:
            with open(self.listed, "a", encoding="utf-8") as listed:  # made anew from the notes by whoever goes on
                listed.writelines(f"{problem}\n" for problem in note["problems"])

    def append(self, chunk: Chunk, lines: int) -> None:
        """Make one chunk durable: first the cuts, then the note that they are there.

        Raises:
            OSError: the disk is full.
        """
        data = "".join(line + "\n" for line in chunk.lines).encode()
        note = {"lines": self.lines + lines, "bytes": self.bytes + len(data), "counts": dict(chunk.counts), "problems": chunk.problems}
        with explain_full_disk(self.part, "earlier clips are safe"):
            _append(self.part, data)
            _append(self.log, (json.dumps(note, ensure_ascii=False) + "\n").encode())
            self._count(note)


def _too_many(job: TagJob, bad: int, lines: int, clips: int) -> bool:
    return bad > max(_FEW, job.max_bad_fraction * lines) or bool(bad and not clips)


def _check_bad(job: TagJob, progress: _Progress, so_far: str = "") -> None:
    if _too_many(job, progress.bad, progress.lines, progress.counts["clips"]):
        what = f"{progress.bad} of {progress.lines} clips{so_far} are bad, first {progress.first[0]!r}; all are in {progress.listed}"
        raise ValueError(f"{what}: mend them and run the same command again, which hears them again, or raise --max-bad, with which it goes on from here")


def _append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


# --- work --------------------------------------------------------------------------------------------------------------------------------------------


def _work(job: TagJob, progress: _Progress) -> None:
    logged = time.monotonic()
    for count, chunk in _chunks(job, progress.lines):
        progress.append(chunk, count)
        if progress.lines >= _ENOUGH:
            _check_bad(job, progress, " so far")
        if time.monotonic() - logged > LOG_EVERY_SECONDS:
            logged = time.monotonic()
            logger.info("%d clips tagged, %d problems", progress.counts["clips"], progress.bad)


def _chunks(job: TagJob, skip: int) -> Iterator[tuple[int, Chunk]]:
    """(lines of the source, result) of every batch, in order."""
    batches = _batches(job, skip)
    if job.jobs == 1:
        taggers = [job.build(spec) for spec in job.taggers]
        yield from ((len(lines), tag_lines(lines, taggers, job.overwrite, job.min_confidence)) for lines in batches)
        return
    waiting: deque[tuple[int, Future[Chunk]]] = deque()
    # spawn: the parent may hold threads of torch or onnxruntime, which do not survive a fork
    pool = ProcessPoolExecutor(job.jobs, multiprocessing.get_context("spawn"), initializer=_start, initargs=(job.taggers, job.build))
    try:
        for lines in batches:
            waiting.append((len(lines), pool.submit(_in_worker, lines, job.overwrite, job.min_confidence)))
            if len(waiting) >= 3 * job.jobs:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(waiting: deque[tuple[int, Future[Chunk]]]) -> tuple[int, Chunk]:
    count, future = waiting.popleft()
    try:
        return count, future.result()
    except BrokenProcessPool as error:
        raise OSError("a tagging process died (out of memory, or a tagger that cannot start): use fewer --jobs; the same command goes on") from error


def _batches(job: TagJob, skip: int) -> Iterator[list[str]]:
    left = itertools.islice(_lines(job.source), skip, None)
    while batch := list(itertools.islice(left, job.batch)):
        yield batch


def _lines(source: Path) -> Iterator[str]:
    """Lines of all files of a manifest; in place of what a damaged gzip file has lost, one that says so and is listed as a problem."""
    for file in manifest_files(source):
        number = 0
        try:
            for line in file_lines(file):
                number += 1
                yield line.decode("utf-8", "replace")
        except DAMAGED_GZIP as error:
            yield f"{file.name} is damaged behind line {number} ({error})\n"


_worker_taggers: list[Tagger] = []


def _start(specs: Sequence[str], build: Build) -> None:
    _worker_taggers[:] = [build(spec) for spec in specs]


def _in_worker(lines: list[str], overwrite: bool, min_confidence: float) -> Chunk:
    return tag_lines(lines, _worker_taggers, overwrite, min_confidence)


def tag_lines(lines: Sequence[str], taggers: Sequence[Tagger], overwrite: bool = False, min_confidence: float = 0.0) -> Chunk:
    """Tag the cuts of a few lines. A line that is no cut is left out, a clip that cannot be heard is passed on as it is; both are problems."""
    chunk = Chunk([], [])
    cuts: list[Cut] = []
    clips: list[Clip | None] = []
    for line in lines:
        if not line.strip():
            continue
        try:
            cut = deserialize_item(json.loads(line))
            if not isinstance(cut, Cut):
                raise ValueError(f"a {type(cut).__name__}")
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            chunk.problems.append(f"not a cut ({type(error).__name__}: {error}): {line[:80].strip()}")
            continue
        cuts.append(cut)
        try:
            clips.append(load_clip(cut))
        except ValueError as error:
            clips.append(None)
            chunk.problems.append(f"{cut.id}: {error}")
    for tagger in taggers:
        _apply(tagger, cuts, clips, chunk, overwrite, min_confidence)
    chunk.lines += [json.dumps(cut.to_dict(), ensure_ascii=False) for cut in cuts]
    chunk.counts["clips"] += len(cuts)
    return chunk


def _apply(tagger: Tagger, cuts: list[Cut], clips: list[Clip | None], chunk: Chunk, overwrite: bool, min_confidence: float) -> None:
    """One tagger over a batch; a clip that it cannot take is a problem of that clip alone."""
    wanted = [i for i, clip in enumerate(clips) if clip is not None and clip.domain in tagger.domains]
    heard = [clip for i in wanted if (clip := clips[i]) is not None]
    try:
        answers = tagger.tag(heard)
    except ValueError:
        answers = []
        for clip in heard:
            try:
                answers += tagger.tag([clip])
            except ValueError as error:
                answers.append({})
                chunk.problems.append(f"{clip.cut_id}: {tagger.name}: {error}")
    for i, clip, tags in zip(wanted, heard, answers, strict=True):
        cuts[i], used = with_tags(cuts[i], tagger.name, tags, overwrite=overwrite, min_confidence=min_confidence)
        chunk.counts.update({f"{tagger.name}: {key}": 1 for key in tags})
        chunk.counts["values"] += len(tags)
        chunk.counts["used"] += used
        if "text" in tags:
            clips[i] = Clip(clip.cut_id, clip.samples_N, clip.domain, cuts[i].supervisions[0].text)


# --- result ------------------------------------------------------------------------------------------------------------------------------------------


def _summary(job: TagJob, progress: _Progress, before: int, seconds: float) -> dict[str, Any]:
    _check_bad(job, progress)
    clips = progress.counts["clips"]
    values = {key: n for key, n in sorted(progress.counts.items()) if key != "clips"}
    return {
        "clips": clips,
        "problems": progress.bad,
        "first_problems": progress.first,
        "values": values,
        "clips_per_second": round((clips - before) / seconds, 2) if clips > before else None,
    }


def _finish(job: TagJob, identity: dict[str, Any], summary: dict[str, Any]) -> None:
    """Part to target (packed where the name ends in .gz), manifest, no traces."""
    part, packed = _beside(job.target, "part"), _beside(job.target, "packed")
    if job.target.suffix == ".gz":
        with open(part, "rb") as source, open(packed, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    manifest = provenance.manifest({"jobs": job.jobs, "batch": job.batch}, {"source": _described(job.source)}, job=identity, summary=summary)
    provenance.write_json_atomic(_beside(job.target, "manifest.json"), manifest)
    os.replace(packed if packed.exists() else part, job.target)
    part.unlink(missing_ok=True)
    _beside(job.target, "progress").unlink(missing_ok=True)
