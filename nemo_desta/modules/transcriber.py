"""Transcripts by a whole Whisper model: what stands beside a clip's vectors when the caller gives none.

Shape legend: B clips, M mel bins, F mel frames.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from nemo_desta.config import PadTo
from nemo_desta.modules.encoder import is_nemo_model, resolve_encoder
from nemo_desta.modules.log_mel import LogMel

if TYPE_CHECKING:
    from nemo_desta.modules.canary_transcriber import CanaryTranscriber

NO_SPEECH_TOKENS = ("<|nospeech|>", "<|nocaptions|>")
NO_SPEECH_THRESHOLD = 0.6  # OpenAI's own for Whisper
MAX_TOKENS = 128  # the reference's limit


class WhisperTranscriber:
    """Whisper encoder and decoder: language found by itself, greedy, at most `MAX_TOKENS` tokens a clip (reference behaviour, step 3).

    A clip in whose first decoding step Whisper's no-speech token has a probability above `NO_SPEECH_THRESHOLD` gets an empty transcript
    (the reference asks Silero's detector, loaded over the network).

    Args:
        model: the Whisper model.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: WhisperForConditionalGeneration, tokenizer: object) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.log_mel = LogMel(model.config.num_mel_bins)

    @classmethod
    def from_pretrained(cls, ref: str | Path) -> Self:
        """Load a Whisper directory, asset or hub id.

        Raises:
            ValueError: the encoder of the audio LLM is no Whisper model: give the transcripts with the clips.
        """
        path = resolve_encoder(ref)
        if is_nemo_model(path):
            raise ValueError(f"{ref} has no Whisper decoder: give 'text' with every clip")
        return cls(WhisperForConditionalGeneration.from_pretrained(str(path), dtype=torch.float32), AutoTokenizer.from_pretrained(str(path)))

    def to(self, device: torch.device | str) -> Self:
        """Move the model; features follow it."""
        self.model.to(device)  # type: ignore[arg-type]
        return self

    @torch.inference_mode()
    def transcribe(self, samples: Sequence[Tensor], *, batch_size: int = 8) -> list[str]:
        """Transcripts of 16 kHz mono clips; empty where nobody speaks."""
        return [text for states in self._batches(samples, batch_size) for text in self.transcribe_states(states)]

    @torch.inference_mode()
    def transcribe_states(self, states: BaseModelOutput) -> list[str]:
        """Transcripts of clips whose encoder states [B, T, D] (behind the encoder's last LayerNorm) are known: no further encoder pass."""
        speaking = [i for i, quiet in enumerate(self._silent(states)) if not quiet]
        texts = [""] * _clips(states)
        if speaking:
            for i, row in zip(speaking, self._generate(_rows(states, speaking)), strict=True):
                texts[i] = self.tokenizer.decode(row, skip_special_tokens=True).strip()  # type: ignore[attr-defined]
        return texts

    @torch.inference_mode()
    def transcribe_scored(self, samples: Sequence[Tensor], *, batch_size: int = 8) -> list[tuple[str, float]]:
        """Like `transcribe`, each text with the geometric mean of its tokens' probabilities (0 where nobody speaks)."""
        scored: list[tuple[str, float]] = []
        for states in self._batches(samples, batch_size):
            scored += [("", 0.0) if nobody else self._scored(_rows(states, [i])) for i, nobody in enumerate(self._silent(states))]
        return scored

    def _scored(self, states: BaseModelOutput) -> tuple[str, float]:
        """One clip; alone, because the padding of a batch has scores too."""
        out = self._generate(states, return_dict_in_generate=True, output_scores=True)
        new = out.sequences[0, -len(out.scores) :]
        # The logits behind the suppressed tokens: a suppressed one never stands in the answer.
        log_probs = [scores[0].float().log_softmax(-1)[token].item() for scores, token in zip(out.scores, new.tolist(), strict=True)]
        text = self.tokenizer.decode(out.sequences[0], skip_special_tokens=True).strip()  # type: ignore[attr-defined]
        return text, math.exp(sum(log_probs) / len(log_probs)) if log_probs else 0.0

    def _generate(self, states: BaseModelOutput, **output: bool) -> Any:
        """Greedy, at most `MAX_TOKENS` tokens behind those of language and task; the settings that `transformers` takes without a warning at each call.

        Whisper's `generate` adds its own first tokens to `max_length`; `max_new_tokens` would clash with the `max_length` of every Whisper's own files.
        The mask is of the sound, whose 30 s are all heard, and changes nothing.
        """
        sound_BT = torch.ones(states.last_hidden_state.shape[:2], dtype=torch.long, device=self.model.device)  # type: ignore[union-attr]
        settings = {"task": "transcribe", "max_length": MAX_TOKENS, "do_sample": False, "attention_mask": sound_BT}
        return self.model.generate(encoder_outputs=states, **settings, **output)

    def _batches(self, samples: Sequence[Tensor], batch_size: int) -> Iterator[BaseModelOutput]:
        """Encoder states [B, T, D] of the clips, a batch at a time: the one encoder pass of a clip, which every decoding step below shares."""
        for start in range(0, len(samples), batch_size):
            features_BMF, _ = self.log_mel(samples[start : start + batch_size], PadTo.thirty_seconds)
            yield self.encode(features_BMF)

    @torch.inference_mode()
    def encode(self, features_BMF: Tensor) -> BaseModelOutput:
        """Encoder states [B, T, D] of features that are padded to 30 s."""
        features_BMF = features_BMF.to(self.model.device, self.model.dtype)
        return BaseModelOutput(last_hidden_state=self.model.model.encoder(features_BMF).last_hidden_state)

    def _silent(self, states: BaseModelOutput) -> list[bool]:
        return [probability > NO_SPEECH_THRESHOLD for probability in self.no_speech_probability(states).tolist()]

    @torch.inference_mode()
    def no_speech_probability(self, states: BaseModelOutput) -> Tensor:
        """Probability [B] of the no-speech token as the decoder's first output; zeros where the vocabulary has none."""
        token, clips = self._no_speech_token(), _clips(states)
        if token is None:
            return torch.zeros(clips)
        start = torch.full((clips, 1), self.model.config.decoder_start_token_id, device=self.model.device)
        return self.model(decoder_input_ids=start, encoder_outputs=states).logits[:, -1].float().softmax(-1)[:, token]

    def _no_speech_token(self) -> int | None:
        known = self.tokenizer.get_vocab()  # type: ignore[attr-defined]
        return next((known[t] for t in NO_SPEECH_TOKENS if t in known), None)


def _clips(states: BaseModelOutput) -> int:
    assert states.last_hidden_state is not None
    return len(states.last_hidden_state)


def _rows(states: BaseModelOutput, rows: list[int]) -> BaseModelOutput:
    """Some clips of a batch."""
    assert states.last_hidden_state is not None
    return BaseModelOutput(last_hidden_state=states.last_hidden_state[rows])


def build_transcriber(ref: str | Path) -> "WhisperTranscriber | CanaryTranscriber":
    """Whoever writes down what an audio model hears: Whisper's own decoder, or the Canary's of a NeMo model.

    Args:
        ref: as in `build_encoder`.

    Raises:
        ValueError: the model has no decoder: give the transcripts with the clips.
    """
    if not is_nemo_model(resolve_encoder(ref)):
        return WhisperTranscriber.from_pretrained(ref)
    from nemo_desta.modules.canary_transcriber import CanaryTranscriber

    return CanaryTranscriber.from_pretrained(ref)
