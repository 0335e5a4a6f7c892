"""Cuts with their audio in Lhotse Shar shards: parallel, restartable, with checksums.

::

    plan.json                          what decides the content
    index.json                         all shards; written when every one is there
    markers/shard.000000.json          of a finished shard, written last: counts, skipped cuts, sizes and SHA-256 of its files
    shards/cuts.000000.jsonl.gz        text of a shard
    shards/recording.000000.tar        its audio
    shards/further_audio.000000.tar    further clips of its rows, where any row of the manifest is about several clips (see `shar_further`)

`CutSet.from_shar(in_dir="shards")` reads it (that takes every file of its folder for a shard, so that nothing else may lie there). A clip whose audio cannot
be read is left out, counted and listed; the shard goes on. The manifest may itself be Shar: its cuts are written anew in other sizes or another format.
"""

import contextlib
import gzip
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from nemo_desta.locking import FULL, exclusive, fsync
from nemo_desta.manifests.records import FURTHER_AUDIO, Record, encode, rows_of, to_cut
from nemo_desta.manifests.shar_further import has_further, write_further
from nemo_desta.manifests.sources import SHARD_DAMAGE, SHARDS, Problems, file_records, manifest_files, shar_folder, shard_fields
from nemo_desta.manifests.store_writer import PLAN
from nemo_desta.processes import parallel_map
from nemo_desta.provenance import sha256_file, write_json_atomic

logger = logging.getLogger(__name__)

FORMATS = ("flac", "opus", "wav", "mp3")
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
INDEX = "index.json"
Source = tuple[Record, Path | None]  # a cut, and the text of the Shar shard that holds its audio; None where its recording says where the audio lies
MARKERS = "markers"


@dataclass(frozen=True)
class SharOptions:
    """What decides the content of the shards.

    Attributes:
        audio_format: "flac" keeps every sample (of 16 bit sound), "opus" needs a seventh of the room.
        shard_size: cuts a shard.
        sampling_rate: Hz; None = as it is, but Opus takes only its own rates, others become 16,000.
    """

    audio_format: str = "flac"
    shard_size: int = 1000
    sampling_rate: int | None = None


def write_shar(
    path: Path,
    output: Path,
    options: SharOptions,
    *,
    num_jobs: int = 1,
    verify: bool = False,
    progress: Callable[[int], None] | None = None,
    problems: Problems | None = None,
) -> dict[str, Any]:
    """Write a manifest's cuts and audio, or go on where a killed run stopped.

    Args:
        path: manifest.
        output: folder.
        num_jobs: processes; each writes whole shards.
        verify: check the SHA-256 of finished shards, and write damaged ones again. Their presence and sizes are always checked.
        progress: called with the number of cuts of each finished shard.
        problems: where given, what of the manifest could not be read.

    Returns:
        The index.

    Raises:
        ValueError: an option, the output holds something else or is being written, or the manifest is Shar with rows about several clips.
        OSError: the disk is full; finished shards are safe.
    """
    if options.audio_format not in FORMATS or options.shard_size < 1:
        raise ValueError(
            f"format {options.audio_format!r}, {options.shard_size} cuts a shard: the formats are {', '.join(FORMATS)}, a shard has at least 1 cut"
        )
    rate = options.sampling_rate
    if rate is not None and (rate < 1 or (options.audio_format == "opus" and rate not in OPUS_RATES)):
        raise ValueError(f"sampling rate {rate}: it is above 0 Hz, and for Opus one of {', '.join(map(str, OPUS_RATES))}")
    files = manifest_files(path)
    if shar_folder(path) is not None:
        files = [Path(name) for text in files for names in shard_fields(text).values() for name in names]
    sources = [{"name": f.name, "bytes": f.stat().st_size} for f in files]
    further = has_further(path)
    if further and shar_folder(path) is not None:
        raise ValueError(f"{path} is Shar with rows about several clips, whose sound cannot be moved to other shards: shard the manifest that it was made of")
    plan = {"command": "shard", "inputs": sources, **asdict(options), **({"further": True} if further else {})}
    with exclusive(output):
        _check_plan(output, plan)
        for folder in (SHARDS, MARKERS):
            (output / folder).mkdir(exist_ok=True)
        for leftover in output.glob(".work.*"):
            shutil.rmtree(leftover)
        problems = problems if problems is not None else Problems()
        tasks = (
            (number, part, str(output), options, further) for number, part in _parts(path, options.shard_size, problems) if not _done(output, number, verify)
        )
        for error in parallel_map(_write_shard, tasks, num_jobs, chunk=1):
            if isinstance(error, OSError):
                raise error
            if progress is not None:
                progress(error)
        return _write_index(output, plan, problems)


def _check_plan(output: Path, plan: dict[str, Any]) -> None:
    file = output / PLAN
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != plan:
            raise ValueError(f"{output} holds shards of another manifest or other options: remove it, or choose another output")
        return
    foreign = sorted(p.name for p in output.iterdir() if p.name != ".lock")
    if foreign:
        raise ValueError(f"{output} holds other files ({', '.join(foreign[:3])}): choose an empty folder")
    write_json_atomic(file, plan)


def _parts(path: Path, size: int, problems: Problems) -> Iterator[tuple[int, list[Source]]]:
    shar = shar_folder(path) is not None
    stream = ((record, file if shar else None) for file in manifest_files(path) for record in file_records(file, problems))
    number = 0
    while part := list(islice(stream, size)):
        yield number, part
        number += 1


def _files(number: int, further: bool) -> dict[str, str]:
    """Field -> file of a shard, below the output."""
    fields = {"cuts": "jsonl.gz", "recording": "tar", **({FURTHER_AUDIO: "tar"} if further else {})}
    return {field: f"{SHARDS}/{field}.{number:06d}.{ending}" for field, ending in fields.items()}


def _marker(number: int) -> str:
    return f"{MARKERS}/shard.{number:06d}.json"


def _done(output: Path, number: int, verify: bool) -> bool:
    """Whether a shard is finished and its files are what its marker says."""
    marker = output / _marker(number)
    try:
        files = json.loads(marker.read_text(encoding="utf-8"))["files"]
        whole = all((output / name).stat().st_size == entry["bytes"] for name, entry in files.items())
        whole = whole and not (verify and any(sha256_file(output / name) != entry["sha256"] for name, entry in files.items()))
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole and marker.exists():
        logger.warning("%s: shard %d is damaged, it is written anew", output, number)
        marker.unlink()
    return whole


def _write_shard(task: tuple[int, list[Source], str, SharOptions, bool]) -> int | OSError:
    """Write one shard; its number of cuts, or why the disk took no more."""
    number, part, folder, options, further = task
    output = Path(folder)
    work = output / f".work.{number:06d}"
    try:
        (work / SHARDS).mkdir(parents=True)
        marker = _fill(work, number, part, options, further)
        for name in marker["files"]:
            fsync(work / name)
            os.replace(work / name, output / name)
        fsync(output / SHARDS)
        write_json_atomic(output / _marker(number), marker)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return OSError(
            error.errno, f"cannot write shard {number} to {output} ({error.strerror}): make room, then run the same command again; finished shards are safe"
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return int(marker["cuts"])


def _fill(work: Path, number: int, part: list[Source], options: SharOptions, further: bool) -> dict[str, Any]:
    """Write the files of one shard; its marker."""
    from lhotse.shar.writers import AudioTarWriter

    files = _files(number, further)
    skipped: list[dict[str, str]] = []
    lost: list[dict[str, str]] = []
    seconds, rows, seen = 0.0, 0, set[str]()
    cuts: list[bytes] = []
    with contextlib.ExitStack() as stack:
        tars = {name: stack.enter_context(_closing(AudioTarWriter(str(work / files[name]), None, options.audio_format))) for name in list(files)[1:]}
        for record, recording in _with_recordings(part):
            if record["id"] in seen:
                skipped.append({"id": record["id"], "reason": "duplicate id"})
                continue
            try:
                cut, samples = _load(record, recording, options)
            except ValueError as error:
                skipped.append({"id": record["id"], "reason": str(error)})
                continue
            written = _append(cut, samples, tars["recording"])
            if further:
                lost += write_further(written, cut.sampling_rate, tars[FURTHER_AUDIO])
            cuts.append(encode(written) + b"\n")
            seen.add(record["id"])
            seconds += cut.duration
            rows += len(rows_of(written))
    (work / files["cuts"]).write_bytes(gzip.compress(b"".join(cuts), 6, mtime=0))  # no time stamp: equal content gives equal checksums
    sums = {name: {"bytes": (work / name).stat().st_size, "sha256": sha256_file(work / name)} for name in files.values()}
    said = {"skipped": skipped, **({"skipped_rows": lost} if lost else {}), "files": sums}
    return {"shard": number, "cuts": len(seen), "rows": rows, "seconds": round(seconds, 3), **said}


def _with_recordings(part: list[Source]) -> Iterator[tuple[Record, Any]]:
    """The cuts, with their recordings where these lie in the tar files of other shards (None where such a file is damaged)."""
    from lhotse import CutSet

    for file, sources in groupby(part, key=lambda source: source[1]):
        some = [record for record, _ in sources]
        if file is None:
            yield from ((record, record.get("recording")) for record in some)
            continue
        wanted = {record["id"] for record in some}
        found: dict[str, Any] = {}
        with contextlib.suppress(*SHARD_DAMAGE):  # cuts behind the damage are left out and listed
            for cut in CutSet.from_shar(fields=shard_fields(file)):
                if cut.id in wanted:
                    found.setdefault(cut.id, cut.recording)
                    if len(found) == len(wanted):
                        break
        yield from ((record, found.get(record["id"])) for record in some)


def _append(cut: Any, samples: Any, tar: Any) -> Record:
    """Write the audio; the cut that refers to it, as a dictionary."""
    from lhotse.shar.utils import to_shar_placeholder
    from lhotse.utils import fastcopy

    recording = to_shar_placeholder(cut.recording, cut)
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    if recording.channel_ids != channels:  # the cut refers to some of the recording's channels
        recording.sources[0].channels = channels
        recording.channel_ids = channels
    tar.write(cut.id, samples, cut.sampling_rate, manifest=recording)
    written: Record = fastcopy(cut, recording=recording, start=0.0).to_dict()
    return written


@contextlib.contextmanager
def _closing(writer: Any) -> Iterator[Any]:
    """On a full disk Lhotse's writer fails again when it is closed; that must not hide why."""
    writer.__enter__()
    try:
        yield writer
    except BaseException:
        with contextlib.suppress(OSError):
            writer.close()
        raise
    writer.close()


def _load(record: Record, recording: Any, options: SharOptions) -> tuple[Any, Any]:
    """The cut at the rate of the shards, and its samples.

    Args:
        recording: as a shard gave it, or the record's own; None = the cut's audio is in no file.

    Raises:
        ValueError: the cut has no audio, or it cannot be read.
    """
    cut = to_cut(record)
    if not cut.has_recording:
        raise ValueError("no recording")
    if recording is None:
        raise ValueError("unreadable audio (not in the tar file of its shard, which is damaged)")
    if not isinstance(recording, dict):
        cut.recording = recording
    rate = options.sampling_rate or (16_000 if options.audio_format == "opus" and cut.sampling_rate not in OPUS_RATES else None)
    try:
        cut = cut.resample(rate) if rate is not None and rate != cut.sampling_rate else cut
        samples = cut.load_audio()
    except Exception as error:  # Lhotse's backends raise many kinds; whatever it is, this clip cannot be used
        raise ValueError(f"unreadable audio ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})") from error
    if samples is None or samples.shape[-1] == 0:
        raise ValueError("unreadable audio (no samples)")
    return cut, samples


def _write_index(output: Path, plan: dict[str, Any], problems: Problems) -> dict[str, Any]:
    further = bool(plan.get("further"))
    markers = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((output / MARKERS).glob("shard.*.json"))]
    totals = {key: sum(m[key] for m in markers) for key in ("cuts", "rows")}
    index = {
        **totals,
        "seconds": round(sum(m["seconds"] for m in markers), 3),
        "skipped": sum(len(m["skipped"]) for m in markers),
        "skipped_rows": sum(len(m.get("skipped_rows", ())) for m in markers),
        "problems": problems.as_dict(),
        "plan": plan,
        "fields": {field: [_files(m["shard"], further)[field] for m in markers] for field in _files(0, further)},
        "shards": markers,
    }
    write_json_atomic(output / INDEX, index)
    return index
