"""Cuts of an optimiser step to packed micro-batches (contracts C2 and C6).

Placeholders are expanded here, in the data workers, so that every process sees the same ids and labels; no model is needed.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from lhotse import CutSet, SupervisionSegment
from lhotse.cut.data import DataCut
from torch import Tensor
from torch.utils.data import Dataset

from nemo_desta.config import Overlong
from nemo_desta.data.conversation import AudioLayout, Rendered, Tokenizer, render
from nemo_desta.data.packing import TokenPack, left_padded, pack, split_by_tokens
from nemo_desta.data.supervision import CLIPS, further_clips, self_generated, source_supervision
from nemo_desta.data.taps_cache import TapsCache, clip_key

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000
MIN_SECONDS = 0.1
MAX_SECONDS = 30.0  # the window of the encoders
ROUNDING_SECONDS = 0.01  # a resampler's rounding, which the encoders cut off
WORDS = frozenset({"transcript", "translation_en"})  # attributes that nobody can tell without the transcript in a small model: it is never dropped for them
SILENCE = 1.0e-5  # peak amplitude below which a clip holds nothing


@dataclass(frozen=True)
class Clip:
    """The sound of one clip: its samples, or the taps that the encoder made of them before.

    Attributes:
        key: cache key; empty where there is no cache.
        samples_T: float32 in [-1, 1] at 16 kHz, or None when `taps_NTD` is there.
        taps_NTD: encoder taps of the real frames.
    """

    key: str
    samples_T: Tensor | None = None
    taps_NTD: Tensor | None = None


@dataclass(frozen=True)
class MicroBatch:
    """A pack and the clips that its spans refer to."""

    tokens: TokenPack
    clips: list[Clip]


@dataclass(frozen=True)
class StepBatch:
    """This rank's part of one optimiser step.

    Attributes:
        micro_batches: may be empty when every row was skipped.
        row_ids: rows used, in order.
        skipped: (row id, reason) of the rows left out.
        audio_seconds: sound of the rows used.
    """

    micro_batches: list[MicroBatch]
    row_ids: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    audio_seconds: float = 0.0


def check_length(seconds: float) -> None:
    """Refuse what does not fit into the encoders' window.

    Raises:
        ValueError: longer than `MAX_SECONDS`.
    """
    if seconds >= MAX_SECONDS + ROUNDING_SECONDS:
        raise ValueError(f"too long: {seconds:.2f} s, cut it into windows of at most {MAX_SECONDS:.0f} s (lhotse: cut_into_windows)")


def check_samples(samples_T: Tensor) -> Tensor:
    """Samples that hold something to hear, as float32.

    Args:
        samples_T: mono floating-point samples in [-1, 1] at 16 kHz.

    Raises:
        ValueError: too long, too short, not finite or silent; the message says which.
    """
    check_length(samples_T.numel() / SAMPLING_RATE)
    if samples_T.numel() < MIN_SECONDS * SAMPLING_RATE:
        raise ValueError(f"too short: {samples_T.numel() / SAMPLING_RATE:.3f} s")
    if not bool(samples_T.isfinite().all()):
        raise ValueError("holds samples that are not finite")
    if float(samples_T.abs().max()) < SILENCE:
        raise ValueError("silent")
    return samples_T.float()


def load_samples(cut: DataCut) -> Tensor:
    """Mono float32 samples at 16 kHz.

    Raises:
        ValueError: the clip is missing, cannot be decoded, is too long, too short or silent; the message says which.
    """
    check_length(cut.duration)  # before an hour of sound is decoded
    try:
        resampled = cut if cut.sampling_rate == SAMPLING_RATE else cut.resample(SAMPLING_RATE)
        samples = resampled.load_audio()
    except Exception as error:  # Lhotse's backends raise many kinds; whatever it is, this clip cannot be used
        raise ValueError(f"undecodable: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    assert samples is not None
    mono = np.ascontiguousarray(samples.mean(axis=0), dtype=np.float32)
    return check_samples(torch.from_numpy(mono))


def fit(rendered: Rendered, max_tokens: int, overlong: Overlong) -> Rendered:
    """A training row of at most `max_tokens` tokens.

    Args:
        rendered: with its response, which is all that may be cut.
        overlong: what becomes of a longer row.

    Raises:
        ValueError: it is too long and not to be cut, or a cut would reach its prompt, where the audio is, so that nothing was left to learn.
    """
    length, prompt = len(rendered.input_ids), rendered.label_start
    if length <= max_tokens:
        return rendered
    if overlong is Overlong.skip:
        raise ValueError(f"too long: {length} tokens, data.max_tokens={max_tokens}")
    if prompt >= max_tokens:
        raise ValueError(f"too long: its prompt alone has {prompt} tokens, a cut at data.max_tokens={max_tokens} would leave nothing of the response")
    return replace(rendered, input_ids=rendered.input_ids[:max_tokens], labels=rendered.labels[:max_tokens])


class DestaDataset(Dataset[StepBatch]):
    """Map-style dataset in Lhotse's manner: the sampler's cuts of a step in, packed micro-batches out.

    Args:
        tokenizer: of the backbone.
        layout: of the model.
        micro_batch_tokens: tokens of a pack.
        max_tokens: of a row.
        overlong: whether longer rows are skipped, counted and listed, or lose the end of their response.
        transcript_drop_prob: share of the rows that see no transcript, decided by (seed, epoch, row id).
        cache: encoder taps of clips heard before; None = always load the samples.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        layout: AudioLayout,
        *,
        micro_batch_tokens: int,
        max_tokens: int,
        overlong: Overlong = Overlong.skip,
        transcript_drop_prob: float = 0.0,
        seed: int = 0,
        cache: TapsCache | None = None,
    ) -> None:
        self.tokenizer, self.layout, self.cache = tokenizer, layout, cache
        self.micro_batch_tokens, self.max_tokens, self.overlong = micro_batch_tokens, max_tokens, overlong
        self.transcript_drop_prob, self.seed = transcript_drop_prob, seed

    def __getitem__(self, cuts: CutSet) -> StepBatch:
        rows, skipped, seconds = self._rows(cuts)
        groups = split_by_tokens([len(rendered.input_ids) for _, rendered, _ in rows], self.micro_batch_tokens)
        micro_batches = [self._pack([rows[i][1:] for i in group]) for group in groups]
        return StepBatch(micro_batches, [row_id for row_id, _, _ in rows], skipped, seconds)

    def without_cache(self) -> "DestaDataset":
        """The same for other clips, whose taps are not kept."""
        other = copy(self)
        other.cache = None
        return other

    def prompts(self, cuts: CutSet) -> StepBatch:
        """The same rows without their responses, filled up on the left for generation, in one micro-batch."""
        rows, skipped, seconds = self._rows(cuts)
        asked = [(replace(rendered, input_ids=rendered.input_ids[: rendered.label_start], labels=[]), clips) for _, rendered, clips in rows]
        return StepBatch([self._pack(asked, left_padded)] if asked else [], [row_id for row_id, _, _ in rows], skipped, seconds)

    def _rows(self, cuts: CutSet) -> tuple[list[tuple[str, Rendered, list[Clip]]], list[tuple[str, str]], float]:
        """Rows that can be used with their clips, (id, reason) of the others, and the seconds of sound of the former."""
        rows: list[tuple[str, Rendered, list[Clip]]] = []
        skipped: list[tuple[str, str]] = []
        seconds = 0.0
        heard: dict[str, Clip] = {}  # where rows name further clips: those of the step, each read once however many rows name it
        several = any((row.custom or {}).get(CLIPS) for cut in cuts for row in self_generated(cut))
        for cut in cuts:
            try:
                clip = self._shared_clip(cut, heard) if several else self._clip(cut)
            except ValueError as error:
                skipped += [(row.id, str(error)) for row in self_generated(cut)]
                continue
            for row in self_generated(cut):
                try:
                    others = further_clips(row, cut)
                    rendered = self._render([cut, *others], row)
                    rows.append((row.id, rendered, [clip, *(self._further_clip(other, heard) for other in others)]))
                except ValueError as error:
                    skipped.append((row.id, str(error)))
                else:
                    seconds += cut.duration + sum(other.duration for other in others)
        return rows, skipped, seconds

    def _clip(self, cut: DataCut) -> Clip:
        key = clip_key(cut) if self.cache is not None else ""
        taps = self.cache.get(key) if self.cache is not None else None
        return Clip(key, taps_NTD=taps) if taps is not None else Clip(key, samples_T=load_samples(cut))

    def _shared_clip(self, cut: DataCut, heard: dict[str, Clip]) -> Clip:
        """A clip that was heard before, or now."""
        key = clip_key(cut)
        if key not in heard:
            heard[key] = self._clip(cut)
        return heard[key]

    def _further_clip(self, cut: DataCut, heard: dict[str, Clip]) -> Clip:
        try:
            return self._shared_clip(cut, heard)
        except ValueError as error:
            raise ValueError(f"clip {cut.id}: {error}") from error

    def _render(self, cuts: Sequence[DataCut], row: SupervisionSegment) -> Rendered:
        """One row as tokens; ValueError where it cannot be used: no messages, another number of locators than clips, the placeholder in a text, too long."""
        assert row.custom is not None
        if not row.custom.get("messages"):
            raise ValueError("the row has no messages")
        asks_for_words = row.custom.get("attribute") in WORDS
        dropped = not asks_for_words and self._drops_transcript(row.id, (cuts[0].custom or {}).get("epoch", 0))
        texts = [None if dropped else source_supervision(cut).text for cut in cuts]
        rendered = render(row.custom["messages"], self.tokenizer, self.layout, transcripts=texts, response=(row.text or "").strip())
        return fit(rendered, self.max_tokens, self.overlong)

    def _drops_transcript(self, row_id: str, epoch: int) -> bool:
        if self.transcript_drop_prob <= 0:
            return False
        digest = hashlib.sha256(f"{self.seed}/{epoch}/{row_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < self.transcript_drop_prob

    def _pack(self, rows: Sequence[tuple[Rendered, list[Clip]]], lay_out: Callable[..., TokenPack] = pack) -> MicroBatch:
        clips: list[Clip] = []
        index_of: dict[int, int] = {}
        for clip in (clip for _, named in rows for clip in named):
            if id(clip) not in index_of:  # rows about the same clip share the object
                index_of[id(clip)] = len(clips)
                clips.append(clip)
        spans = [[index_of[id(clip)] for clip in named] for _, named in rows]
        return MicroBatch(lay_out([rendered for rendered, _ in rows], spans, self.layout.num_queries), clips)


def training_units(cuts: CutSet, rows_per_clip: int = 1) -> CutSet:
    """Cuts with their rows in groups of at most ``rows_per_clip``: what the sampler shuffles. Cuts without rows are left out.

    Raises:
        ValueError: ``rows_per_clip`` below 1.
    """
    if rows_per_clip < 1:
        raise ValueError(f"data.rows_per_clip={rows_per_clip}: it must be at least 1")
    return CutSet.from_cuts(unit for cut in cuts for unit in _units(cut, rows_per_clip))


def _units(cut: DataCut, rows_per_clip: int) -> list[DataCut]:
    rows = self_generated(cut)
    if not rows:
        return []
    source = source_supervision(cut)
    units = []
    for i in range(0, len(rows), rows_per_clip):
        unit = cut.with_id(f"{cut.id}#{i // rows_per_clip}")
        unit.supervisions = [source, *rows[i : i + rows_per_clip]]
        units.append(unit)
    return units
