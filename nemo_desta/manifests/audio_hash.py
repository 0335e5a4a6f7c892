"""Exact identity of sound: a hash of the decoded samples of a cut's stretch."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nemo_desta.manifests.records import Record, audio_path
from nemo_desta.processes import parallel_map

NO_HASH = 0  # of audio that cannot be read, and of clips that need none


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some samples of a file."""

    file: str
    start: int
    samples: int
    rate: int


def stretch_of(record: Record) -> Stretch | None:
    """Where a cut's samples lie; None for audio that is not in a file of its own (Shar, command)."""
    path, recording = audio_path(record), record.get("recording") or {}
    if path is None or not recording.get("sampling_rate"):
        return None
    rate = int(recording["sampling_rate"])
    return Stretch(str(path), round(float(record.get("start") or 0) * rate), round(float(record["duration"]) * rate), rate)


def sample_hash(stretch: Stretch | None) -> int:
    """64 bits of the SHA-256 of the samples as 16 bit numbers; `NO_HASH` where they cannot be read."""
    import soundfile as sf

    if stretch is None:
        return NO_HASH
    try:
        samples, rate = sf.read(stretch.file, start=stretch.start, frames=stretch.samples, dtype="int16", always_2d=True)
    except (sf.LibsndfileError, OSError, ValueError):
        return NO_HASH
    digest = hashlib.sha256(f"{rate}/{samples.shape[1]}/".encode() + samples.tobytes()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def length_key(stretch: Stretch) -> int:
    """Clips of another length or rate cannot be the same: only clips that share this number are decoded."""
    return stretch.samples << 20 | stretch.rate


def hashes(records: Iterable[Record], wanted: "set[int] | frozenset[int]", num_jobs: int) -> Iterator[int]:
    """The hash of every record's audio, in order; `NO_HASH` for those whose length is not wanted."""
    return parallel_map(sample_hash, (_if_wanted(stretch_of(record), wanted) for record in records), num_jobs)


def _if_wanted(stretch: Stretch | None, wanted: "set[int] | frozenset[int]") -> Stretch | None:
    return stretch if stretch is not None and length_key(stretch) in wanted else None


def repeated_lengths(records: Iterable[Record]) -> set[int]:
    """Length keys that occur more than once."""
    import numpy as np

    keys: Any = array("Q", (length_key(s) for r in records if (s := stretch_of(r)) is not None))
    values, counts = np.unique(np.asarray(keys, np.uint64), return_counts=True)
    return set(values[counts > 1].tolist())
