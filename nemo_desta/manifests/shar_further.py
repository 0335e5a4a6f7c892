"""The sound of the further clips of a cut's rows, beside the cut in its Shar shard.

A cut of a shard has one recording a field. The further clips of all rows of a cut stand one after another in the recording of the field ``further_audio``
(mono, at the rate of the cut's own audio), and each row says where in it a clip begins: ``clips[i].start``. `nemo_desta.data.supervision.further_clips` hears
them there. Cuts without such rows have an empty entry.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_desta.jsonl import DAMAGED_GZIP
from nemo_desta.manifests.records import FURTHER_AUDIO, Record, clip_key, decode, further_of, rows_of, to_cut
from nemo_desta.manifests.sources import lines, manifest_files

Samples = np.ndarray


def has_further(path: Path) -> bool:
    """Whether any row of a manifest is about several clips. Reads until the first one."""
    for file in manifest_files(path):
        try:
            if any(_names_clips(line) for line in lines(file) if b'"clips"' in line):
                return True
        except (*DAMAGED_GZIP, OSError):
            continue  # reading the records reports it
    return False


def _names_clips(line: bytes) -> bool:
    try:
        return any(further_of(row) for row in rows_of(decode(line)))
    except (ValueError, AttributeError, TypeError, KeyError):  # also msgspec's errors
        return False


def write_further(written: Record, rate: int, tar: Any) -> list[dict[str, str]]:
    """Write the further clips of a cut's rows, and let the rows refer to them.

    Args:
        written: the cut as the shard holds it; its rows are changed. A row whose clips cannot all be read is taken out.
        rate: Hz.
        tar: Lhotse's writer of the field.

    Returns:
        ``{"id", "reason"}`` of the rows that were taken out.
    """
    sounds, lost = _sounds(written, rate)
    gone = [{"id": str(row.get("id")), "reason": reason} for row in rows_of(written) if (reason := _reason(row, lost))]
    names = {entry["id"] for entry in gone}
    if gone:
        written["supervisions"] = [s for s in written["supervisions"] if s.get("id") not in names]
    used = {clip_key(clip) for row in rows_of(written) for clip in further_of(row)}
    sounds = {key: samples for key, samples in sounds.items() if key in used}
    if not sounds:
        tar.write_placeholder(written["id"])
        return gone
    starts = dict(zip(sounds, np.cumsum([0, *(len(samples) for samples in sounds.values())]).tolist(), strict=False))
    whole = np.concatenate(list(sounds.values()))[None]
    recording = _recording(written["id"], rate, whole.shape[1])
    tar.write(written["id"], whole, rate, manifest=recording)
    for row in rows_of(written):
        if further_of(row):
            row["custom"]["clips"] = [_placed(clip, starts[clip_key(clip)] / rate, recording.to_dict()) for clip in further_of(row)]
    return gone


def _sounds(written: Record, rate: int) -> tuple[dict[tuple[str, float, float], Samples], dict[tuple[str, float, float], str]]:
    """Samples of every different further clip, and why the others have none."""
    sounds: dict[tuple[str, float, float], Samples] = {}
    lost: dict[tuple[str, float, float], str] = {}
    for clip in (clip for row in rows_of(written) for clip in further_of(row)):
        key = clip_key(clip)
        if key not in sounds and key not in lost:
            try:
                sounds[key] = _load(clip, rate)
            except ValueError as error:
                lost[key] = str(error)
    return sounds, lost


def _load(clip: Record, rate: int) -> Samples:
    try:
        cut = to_cut(clip)
        samples = (cut if cut.sampling_rate == rate else cut.resample(rate)).load_audio()
    except Exception as error:  # Lhotse's backends raise many kinds; whatever it is, this clip cannot be used
        said = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(f"further clip {clip.get('id')}: unreadable audio ({type(error).__name__}: {said})") from error
    if samples is None or samples.shape[-1] == 0:
        raise ValueError(f"further clip {clip.get('id')}: unreadable audio (no samples)")
    return np.asarray(samples.mean(axis=0), dtype=np.float32)


def _reason(row: Record, lost: Mapping[tuple[str, float, float], str]) -> str | None:
    return next((lost[key] for clip in further_of(row) if (key := clip_key(clip)) in lost), None)


def _recording(cut_id: str, rate: int, samples: int) -> Any:
    from lhotse import Recording
    from lhotse.audio import AudioSource

    return Recording(f"{cut_id}-{FURTHER_AUDIO}", [AudioSource("shar", [0], "")], rate, samples, samples / rate, channel_ids=[0])


def _placed(clip: Record, start: float, recording: Record) -> Record:
    custom = {**(clip.get("custom") or {}), "field": FURTHER_AUDIO}
    return {**clip, "start": start, "channel": 0, "recording": recording, "custom": custom, "type": "MonoCut"}
