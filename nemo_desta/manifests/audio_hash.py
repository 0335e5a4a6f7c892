"""Exact identity of sound: a hash of the decoded samples of a cut's stretch."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_desta.manifests.records import Record, audio_path
from nemo_desta.manifests.sources import shar_folder
from nemo_desta.processes import parallel_map

NO_HASH = 0  # of clips that need none: no other has their length, or they have no audio
UNHEARD = 1  # of audio that cannot be read or is in no file of its own: whether it is the same as another is not known


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some samples of a file."""

    file: str
    start: int
    samples: int
    rate: int


NOWHERE = Stretch("", 0, 0, 0)  # of audio that is in no file of its own


def stretch_of(record: Record) -> Stretch | None:
    """Where a cut's samples lie; None for audio that is not in a file of its own (Shar, command)."""
    path, recording = audio_path(record), record.get("recording") or {}
    if path is None or not recording.get("sampling_rate"):
        return None
    rate = int(recording["sampling_rate"])
    return Stretch(str(path), round(float(record.get("start") or 0) * rate), round(float(record["duration"]) * rate), rate)


def read_samples(file: str, start: int = 0, samples: int = -1) -> tuple[np.ndarray, int, bool]:
    """Decode a stretch of a file, through libsndfile or, what that does not read (AAC, WMA, ...), through PyAV.

    Args:
        start: first sample.
        samples: how many, of each channel; -1 = to the end.

    Returns:
        Samples ``[T, channels]`` as 16 bit numbers, their rate, and whether the header of such a file says exactly how many there are.

    Raises:
        ValueError: the file cannot be decoded, or has no sample there.
    """
    import soundfile as sf

    exact = True
    try:
        found, rate = sf.read(file, start=start, frames=samples, dtype="int16", always_2d=True)
    except (sf.SoundFileError, OSError, ValueError) as error:
        if _knows(file):
            raise ValueError(f"{file} is damaged behind its header: {error}") from error  # FFmpeg would make up samples
        from nemo_desta.corpora.audio import decode

        exact = False
        floats, rate = decode(Path(file))
        stretch = floats[start : start + samples if samples >= 0 else None]
        found = np.clip(np.round(stretch * 32768.0), -32768, 32767).astype(np.int16)
    if not len(found):
        raise ValueError(f"{file} holds no samples from {start} on")
    return found, int(rate), exact


def _knows(file: str) -> bool:
    """Whether libsndfile reads files of this kind."""
    import soundfile as sf

    try:
        sf.info(file)
    except (sf.SoundFileError, OSError):
        return False
    return True


def sample_hash(stretch: Stretch | None) -> int:
    """64 bits of the SHA-256 of the samples as 16 bit numbers; `NO_HASH` of None, `UNHEARD` where they cannot be read."""
    if stretch is None:
        return NO_HASH
    if stretch == NOWHERE:
        return UNHEARD
    try:
        samples, rate, _ = read_samples(stretch.file, stretch.start, stretch.samples)
    except ValueError:
        return UNHEARD
    digest = hashlib.sha256(f"{rate}/{samples.shape[1]}/".encode() + samples.tobytes()).digest()
    return max(int.from_bytes(digest[:8], "big"), UNHEARD + 1)


def length_key(stretch: Stretch) -> int:
    """Clips of another length or rate cannot be the same: only clips that share this number are decoded."""
    return stretch.samples << 20 | stretch.rate


def hashes(records: Iterable[Record], wanted: "set[int] | frozenset[int]", num_jobs: int) -> Iterator[int]:
    """The hash of every record's audio, in order; `NO_HASH` for those whose length is not wanted, `UNHEARD` for those that cannot be compared."""
    return parallel_map(sample_hash, (_if_wanted(record, wanted) for record in records), num_jobs)


def _if_wanted(record: Record, wanted: "set[int] | frozenset[int]") -> Stretch | None:
    if (stretch := stretch_of(record)) is None:
        return NOWHERE if record.get("recording") else None
    return stretch if length_key(stretch) in wanted else None


def check_comparable(path: Path) -> None:
    """Refuse a manifest whose audio cannot be compared.

    Raises:
        ValueError: a Shar folder.
    """
    if shar_folder(path) is not None:
        raise ValueError(f"{path} is a Shar folder, whose audio lies in tar files and is not compared: compare the manifest that it was made of, then shard")


def repeated_lengths(records: Iterable[Record]) -> set[int]:
    """Length keys that occur more than once."""
    keys: Any = array("Q", (length_key(s) for r in records if (s := stretch_of(r)) is not None))
    values, counts = np.unique(np.asarray(keys, np.uint64), return_counts=True)
    return set(values[counts > 1].tolist())
