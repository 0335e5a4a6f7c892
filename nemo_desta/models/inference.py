"""Answering conversations about sound, in the reference's message format.

::

    [{"role": "system", "content": "Focus on the audio clips and instructions."},
     {"role": "user", "content": "<|AUDIO|>\\n\\nWhat do you hear?", "audios": [{"audio": "clip.wav", "text": None}]}]

``text`` is the transcript shown beside the clip's vectors: the caller's own words are never changed; ``None`` asks the decoder that belongs to the encoder
(Whisper's, or a Canary's, which reads the connector's own encoder pass), and a clip without speech gets a single space. A conversation without clips gets
the plain LLM's answer.

Shape legend: B conversations, T tokens, C clips, Q query slots, H LLM width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from lhotse import Recording
from lhotse.audio.utils import AudioLoadingError
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from torch import Tensor

from nemo_desta.data.conversation import Rendered, render
from nemo_desta.data.dataset import SAMPLING_RATE, Clip, check_samples, load_samples
from nemo_desta.data.supervision import Message
from nemo_desta.data.taps_cache import clip_key
from nemo_desta.modules.canary_transcriber import CanaryTranscriber
from nemo_desta.modules.transcriber import WhisperTranscriber, build_transcriber

if TYPE_CHECKING:
    from nemo_desta.models.desta import DestaModel


@dataclass(frozen=True)
class GenerationOutput:
    """The answer to one conversation.

    Attributes:
        text: the answer without special tokens, stripped.
        audios: (source, transcript shown) of every clip; the source is a path, a cut's id or "samples".
        generated_ids: token ids with the end-of-turn token, if the model wrote it.
    """

    text: str
    audios: list[tuple[str, str]] = field(default_factory=list)
    generated_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Heard:
    """A clip of a conversation: where it is from, its samples, and the transcript shown (None = not yet known)."""

    source: str
    samples_T: Tensor
    text: str | None


class Answerer:
    """Generates answers with a model. Conversations of a call form one batch.

    Args:
        model: the audio LLM.
    """

    def __init__(self, model: "DestaModel") -> None:
        self.model = model

    @torch.inference_mode()
    def answer(self, messages: Sequence[Any], *, transcribe: bool, **sampling: Any) -> list[GenerationOutput]:
        """One output a conversation; see `DestaModel.generate`.

        Raises:
            ValueError: clips and locators do not match, or a clip cannot be used; the message says which.
        """
        conversations: list[Sequence[Message]] = [messages] if messages and isinstance(messages[0], dict) else list(messages)
        if not conversations:
            return []
        known: dict[str, Tensor] = {}
        heard = [[_hear(a, known) for m in c for a in m.get("audios", ())] for c in conversations]
        clips = {id(one.samples_T): Clip("", samples_T=one.samples_T) for row in heard for one in row}  # conversations about one clip share its samples
        heard = self._with_transcripts(heard, clips, transcribe)
        layout = replace(self.model.layout, max_transcript_tokens=None)  # as in the reference: only training cuts transcripts
        rendered = [
            render(conversation, self.model.tokenizer, layout, transcripts=[one.text for one in row])
            for conversation, row in zip(conversations, heard, strict=True)
        ]
        embeds_BTH, mask_BT = self._embed(rendered, heard, clips)
        answers = self.model.backbone.generate(embeds_BTH, mask_BT, **sampling)
        return [self._output(ids, row) for ids, row in zip(answers, heard, strict=True)]

    def _with_transcripts(self, heard: list[list[_Heard]], clips: dict[int, Clip], transcribe: bool) -> list[list[_Heard]]:
        """Fill in the transcripts that the caller left open, those of all conversations in one call."""
        waiting = [one.samples_T for row in heard for one in row if one.text is None]
        if not waiting:
            return heard
        texts = iter(self._written_down(waiting, clips) if transcribe else [""] * len(waiting))
        return [[replace(one, text=next(texts)) if one.text is None else one for one in row] for row in heard]

    def _written_down(self, waiting: list[Tensor], clips: dict[int, Clip]) -> list[str]:
        """Transcripts of samples. Where the decoder reads the connector's taps, ``clips`` keep them: no clip is encoded twice."""
        transcriber = self._transcriber()
        if not isinstance(transcriber, CanaryTranscriber) or not transcriber.reads(self.model.perception.encoder):
            return transcriber.transcribe(waiting)
        taps = dict(zip(clips, self.model.taps(list(clips.values())), strict=True))
        clips.update({key: Clip("", taps_NTD=taps_NTD) for key, taps_NTD in taps.items()})
        return transcriber.transcribe_taps([taps[id(samples_T)] for samples_T in waiting])

    def _transcriber(self) -> WhisperTranscriber | CanaryTranscriber:
        if self.model.transcriber is None:  # a whole ASR model: loaded when a clip first needs it
            card = self.model.config
            self.model.transcriber = build_transcriber(card.nemo_desta.get("encoder", f"hf://{card.encoder_model_id}"))
            if isinstance(self.model.transcriber, CanaryTranscriber) and self.model.transcriber.reads(self.model.perception.encoder):
                self.model.transcriber.drop_encoder()
        return self.model.transcriber.to(self.model.device)

    def _embed(self, rendered: Sequence[Rendered], heard: Sequence[Sequence[_Heard]], clips: dict[int, Clip]) -> tuple[Tensor, Tensor]:
        """Left-padded embeddings [B, T, H] with the clips' vectors in their slots, and the attention mask [B, T]."""
        model, width = self.model, max(len(r.input_ids) for r in rendered)
        pads = [width - len(r.input_ids) for r in rendered]
        ids = torch.tensor([[0] * pad + r.input_ids for pad, r in zip(pads, rendered, strict=True)], device=model.device)
        mask = torch.tensor([[0] * pad + [1] * len(r.input_ids) for pad, r in zip(pads, rendered, strict=True)], device=model.device)
        embeds_BTH = model.backbone.embed(ids).clone()
        if clips:
            vectors = dict(zip(clips, model.hear(list(clips.values())).to(embeds_BTH.dtype), strict=True))
            for b, (pad, row) in enumerate(zip(pads, rendered, strict=True)):
                for clip, (start, length) in zip(heard[b], row.audio_spans, strict=True):
                    embeds_BTH[b, pad + start : pad + start + length] = vectors[id(clip.samples_T)]
        return embeds_BTH, mask

    def _output(self, ids: list[int], clips: Sequence[_Heard]) -> GenerationOutput:
        text = self.model.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return GenerationOutput(text, [(clip.source, clip.text or "") for clip in clips], ids)


def _hear(entry: dict[str, Any], known: dict[str, Tensor]) -> _Heard:
    """Load one ``{"audio", "text"}`` entry: a path, a Lhotse cut, or 16 kHz mono samples. A cut or path that the call heard before is not read again."""
    audio, text = entry.get("audio"), entry.get("text")
    if isinstance(audio, np.ndarray | Tensor):
        return _Heard("samples", _named("the samples", _as_samples, audio), text)
    cut = audio if isinstance(audio, DataCut) else _as_cut(audio)
    key = f"{cut.id}/{clip_key(cut)}" if cut.has_recording else cut.id  # two cuts of one id may be different sounds
    if key not in known:
        known[key] = _named(cut.id, load_samples, cut)
    return _Heard(cut.id, known[key], text)


def _named(source: str, read: Callable[[Any], Tensor], audio: Any) -> Tensor:
    """Read a clip, telling in an error which one it was."""
    try:
        return read(audio)
    except ValueError as error:
        raise ValueError(f"cannot hear {source}: {error}") from error


def _as_samples(audio: np.ndarray | Tensor) -> Tensor:
    """Samples that the caller holds, as float32 on the CPU."""
    samples = torch.as_tensor(audio).detach().cpu()
    if samples.dim() != 1:
        raise ValueError(f"samples of shape {tuple(samples.shape)}: give one channel at {SAMPLING_RATE} Hz")
    if not samples.is_floating_point():
        raise ValueError(f"samples of type {samples.dtype}: give floating-point samples in [-1, 1] (16-bit integers divided by 32768)")
    return check_samples(samples)


def _as_cut(path: Any) -> Cut:
    if not isinstance(path, str | Path) or not Path(path).is_file():
        raise ValueError(f"no audio file at {path!r}: 'audio' must be a path, a Lhotse cut or 16 kHz samples")
    try:
        recording = Recording.from_file(path, recording_id=str(path))
    except (AudioLoadingError, soundfile.LibsndfileError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"cannot decode {path}: not a sound file that libsndfile or ffmpeg reads") from error
    return recording.to_cut()
