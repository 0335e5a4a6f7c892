"""Transcripts for speech clips whose source gives none; who hears the words is the caller's choice.

The paper's pipeline does the same with whisper-large-v3. `nemo_desta.modules.transcriber.WhisperTranscriber` is one transcriber; it is handed in, because
the seed knows nothing of models. A machine transcript is marked in ``custom["text_source"]``, so that nobody takes it for the source's own words.
"""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lhotse import SupervisionSegment
from lhotse.cut import Cut
from lhotse.utils import fastcopy
from torch import Tensor

from nemo_desta.jsonl import text_lines
from nemo_desta.seed.attributes import SELF_GENERATED

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
MAX_SECONDS = 30.0  # what a transcriber hears of a clip


class Transcriber(Protocol):
    """Whoever writes down what is said."""

    def transcribe(self, samples: Sequence[Tensor]) -> list[str]:
        """One text for each 16 kHz mono clip; empty where nobody speaks."""
        ...


def needs_transcript(cut: Cut) -> bool:
    """Whether the clip is speech without words: domain speech or mixed, and no source supervision holds text."""
    if (getattr(cut, "custom", None) or {}).get("domain") not in ("speech", "mixed"):
        return False
    return not any(s.text for s in cut.supervisions if (s.custom or {}).get("role") != SELF_GENERATED)


def with_text(cut: Cut, text: str, source: str) -> Cut:
    """Return a copy of the cut whose first source supervision holds `text`; both it and the cut note where the text comes from.

    An empty text (nobody was heard) leaves the cut as it is.
    """
    if not text.strip():
        return cut
    note = {"text_source": source}
    if cut.supervisions:
        first = cut.supervisions[0]
        described = fastcopy(first, text=text.strip(), custom={**(first.custom or {}), **note})
    else:
        described = SupervisionSegment(f"{cut.id}-source", getattr(cut, "recording_id", cut.id), 0.0, cut.duration, text=text.strip(), custom=note)
    return fastcopy(cut, supervisions=[described, *cut.supervisions[1:]], custom={**(cut.custom or {}), **note})


def transcribe(cuts: Iterable[Cut], transcriber: Transcriber, *, source: str, batch_size: int = 64, journal: Path | None = None) -> list[Cut]:
    """Give every speech clip without text a transcript.

    Args:
        cuts: clips of contract C1 (16 kHz); those that have text, or are no speech, come back unchanged.
        transcriber: hears the clips.
        source: its name, for ``text_source``.
        batch_size: clips in memory at once.
        journal: JSONL file that keeps every batch, so that what was heard before a kill is not heard again. A clip is known by its id and duration and by
            `source`.

    Returns:
        The clips in their order; those in which somebody speaks have ``text`` and ``custom["text_source"]``.

    Raises:
        ValueError: batch_size below 1, or a clip not at 16 kHz.
        OSError: the journal cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    out = list(cuts)
    # Longest first, so that clips decoded together are alike.
    wanted = sorted((index for index, cut in enumerate(out) if needs_transcript(cut)), key=lambda i: (-out[i].duration, out[i].id))
    known = _read_journal(journal, source)
    for start in range(0, len(wanted), batch_size):
        batch = [i for i in wanted[start : start + batch_size] if _key(out[i]) not in known]
        texts = transcriber.transcribe([_load(out[i]) for i in batch]) if batch else []
        heard = {_key(out[i]): text for i, text in zip(batch, texts, strict=True)}
        if journal is not None and heard:
            _append(journal, source, heard)
        known |= heard
        logger.info("transcribed %d of %d clips with %s", min(start + batch_size, len(wanted)), len(wanted), source)
    for i in wanted:
        out[i] = with_text(out[i], known[_key(out[i])], source)
    return out


def _key(cut: Cut) -> str:
    return f"{cut.id}@{cut.duration:.4f}"


def _read_journal(journal: Path | None, source: str) -> dict[str, str]:
    """Transcripts of earlier runs by the same source; a torn last line is left out, and its clip heard again."""
    if journal is None or not journal.exists():
        return {}
    found = {}
    for line in text_lines(journal, errors="replace"):
        try:
            record = json.loads(line)
            if record["source"] == source:
                found[record["clip"]] = str(record["text"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _append(journal: Path, source: str, heard: dict[str, str]) -> None:
    lines = "".join(json.dumps({"clip": clip, "source": source, "text": text}, ensure_ascii=False) + "\n" for clip, text in heard.items())
    with open(journal, "a+b") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            lines = "\n" + lines  # behind a line that a kill cut off
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def _load(cut: Cut) -> Tensor:
    """Read a clip as mono float32 at 16 kHz, at most 30 s."""
    if cut.sampling_rate != SAMPLE_RATE:
        raise ValueError(f"cut {cut.id!r} is at {cut.sampling_rate} Hz, a transcriber needs {SAMPLE_RATE} Hz: prepare the corpus with build_cuts")
    audio = cut.truncate(duration=min(cut.duration, MAX_SECONDS)).load_audio()
    return torch.from_numpy(np.asarray(audio, dtype=np.float32).mean(axis=0))
