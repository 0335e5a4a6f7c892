"""A request's sound and words to the embeddings that the LLM reads. The encoder hears a request's blocks once, all together.

Shape legend: C blocks, N taps, F frames, D encoder width, Q query slots, T tokens, H LLM width.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from nemo_desta.config import PadTo
from nemo_desta.data.conversation import check_words, render, transcript_ids
from nemo_desta.data.dataset import Clip
from nemo_desta.models.desta import DestaModel
from nemo_desta.modules.canary_transcriber import CanaryTranscriber
from nemo_desta.modules.encoder import is_nemo_model, resolve_encoder
from nemo_desta.modules.transcriber import WhisperTranscriber, build_transcriber
from nemo_desta.modules.whisper import WhisperRest
from nemo_desta.serving.errors import bad_request
from nemo_desta.serving.prompt import Block, Conversation
from nemo_desta.serving.settings import Transcripts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """What the LLM reads.

    Attributes:
        embeds_1TH: embeddings with the blocks' vectors in their slots.
        transcripts: words shown beside each block.
    """

    embeds_1TH: Tensor
    transcripts: list[str]

    @property
    def tokens(self) -> int:
        """Length T."""
        return self.embeds_1TH.shape[1]


class Listener:
    """Turns conversations into prompts, one at a time, so that an answer never depends on what else the server is asked.

    Args:
        model: the audio LLM.
        transcripts: who writes the transcripts that the caller left open.

    Raises:
        ValueError: no decoder belongs to the model's encoder (then only ``transcripts=off``).
    """

    def __init__(self, model: DestaModel, transcripts: Transcripts) -> None:
        self.model, self.transcripts = model, transcripts
        self.layout = replace(model.layout, max_transcript_tokens=None)  # as `DestaModel.generate`: only training cuts transcripts
        self.transcriber = None if transcripts is Transcripts.off else _transcriber(model)
        self.rest: WhisperRest | None = None  # from the connector's last tap to what Whisper's decoder reads; None where Whisper hears for itself
        if isinstance(self.transcriber, WhisperTranscriber):
            self.rest = _rest(model, self.transcriber)
        elif self.transcriber is not None and self.transcriber.reads(model.perception.encoder):
            self.transcriber.drop_encoder()

    @torch.inference_mode()
    def listen(self, asked: Conversation) -> Prompt:
        """The prompt of a conversation.

        Raises:
            ApiError: 400, the conversation does not fit the LLM's chat template or holds the placeholder token, or a transcript a special one.
        """
        self._check(asked.blocks)
        clips = self._heard(asked.blocks)
        texts = self._words(asked.blocks, clips)
        try:
            rendered = render(asked.turns, self.model.tokenizer, self.layout, transcripts=texts)
        except (ValueError, TemplateError) as error:
            raise bad_request(str(error), param="messages") from error
        embeds_1TH = self.model.backbone.embed(torch.tensor([rendered.input_ids], device=self.model.device)).clone()
        if clips:
            vectors_CQH = self.model.hear(clips).to(embeds_1TH.dtype)
            for vectors_QH, (start, length) in zip(vectors_CQH, rendered.audio_spans, strict=True):
                embeds_1TH[0, start : start + length] = vectors_QH
        return Prompt(embeds_1TH, texts)

    def _check(self, blocks: list[Block]) -> None:
        """Look at the caller's words before the sound is heard."""
        tokenizer = self.model.tokenizer
        try:
            for block in blocks:
                check_words(transcript_ids(tokenizer, block.transcript), tokenizer, self.layout.placeholder_token)
        except ValueError as error:
            raise bad_request(str(error), param="messages") from error

    def _heard(self, blocks: list[Block]) -> list[Clip]:
        """The blocks with the encoder's taps: the one encoder pass of a request."""
        samples = [Clip("", samples_T=block.samples_T) for block in blocks]
        return [Clip("", taps_NTD=taps_NFD) for taps_NFD in self.model.taps(samples)] if samples else []

    def _words(self, blocks: list[Block], clips: list[Clip]) -> list[str]:
        """Transcripts of the blocks: the caller's, or what the encoder's decoder writes."""
        waiting = [i for i, block in enumerate(blocks) if block.transcript is None]
        texts = [block.transcript or "" for block in blocks]
        if waiting and self.transcriber is not None:
            written = self._written(self.transcriber, [blocks[i] for i in waiting], [clips[i] for i in waiting])
            for i, text in zip(waiting, written, strict=True):
                texts[i] = text
        return texts

    def _written(self, transcriber: WhisperTranscriber | CanaryTranscriber, blocks: list[Block], clips: list[Clip]) -> list[str]:
        """What the decoder writes: from the connector's encoder pass where it can read that."""
        if isinstance(transcriber, WhisperTranscriber):
            return transcriber.transcribe_states(self._states(transcriber, blocks, clips))
        if transcriber.reads(self.model.perception.encoder):
            return transcriber.transcribe_taps([clip.taps_NTD for clip in clips if clip.taps_NTD is not None])
        return transcriber.transcribe([block.samples_T for block in blocks])

    def _states(self, whisper: WhisperTranscriber, blocks: list[Block], clips: list[Clip]) -> BaseModelOutput:
        """What Whisper's decoder reads: the rest of the connector's encoder pass, or one pass of its own."""
        if self.rest is None:
            return whisper.encode(whisper.log_mel([block.samples_T for block in blocks], PadTo.thirty_seconds)[0])
        taps_CFD = torch.stack([clip.taps_NTD[-1] for clip in clips if clip.taps_NTD is not None])
        return BaseModelOutput(last_hidden_state=self.rest(taps_CFD.to(self.rest.norm.weight)))


def _rest(model: DestaModel, whisper: WhisperTranscriber) -> WhisperRest | None:
    """What Whisper's encoder does behind the connector's last tap, where its decoder can read on from there; its other blocks are given up with their memory.

    It can where clips are padded to 30 s. From unpadded states, on which new connectors are trained, it repeats words without end; states of silence put behind
    a clip's own help some clips only (docs/serving.md).
    """
    encoder = model.perception.encoder
    if encoder.pad_to is not PadTo.thirty_seconds:
        return None
    rest = WhisperRest(whisper.model.model.encoder, encoder.taps[-1] + 1)
    whisper.model.model.encoder.layers = nn.ModuleList()
    return rest


def _transcriber(model: DestaModel) -> WhisperTranscriber | CanaryTranscriber:
    card = model.config
    try:
        return build_transcriber(card.nemo_desta.get("encoder", f"hf://{card.encoder_model_id}")).to(model.device)
    except ValueError as error:
        raise ValueError(f"{error}, and start the server with transcripts=off") from error


def check_decoder(encoder: str | Path) -> None:
    """See from a model's configuration, before any weights are read, whether it has a decoder that can write transcripts. Every Whisper has.

    Raises:
        ValueError: a NeMo model that is no Canary.
    """
    path = resolve_encoder(encoder)
    if not is_nemo_model(path):
        return
    from nemo.collections.asr.models import ASRModel, EncDecMultiTaskModel  # heavy
    from nemo.utils.model_utils import import_class_by_path

    local = Path(path).suffix == ".nemo"
    config = ASRModel.restore_from(str(path), return_config=True) if local else ASRModel.from_pretrained(model_name=str(path), return_config=True)
    kind = import_class_by_path(config.target)
    if not issubclass(kind, EncDecMultiTaskModel):
        raise ValueError(f"{encoder} is a {kind.__name__}, which has no decoder for transcripts (a Canary has): start the server with transcripts=off")
