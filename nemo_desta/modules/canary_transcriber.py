"""Transcripts by a whole Canary model (NeMo ``EncDecMultiTaskModel``), behind the interface of `WhisperTranscriber`.

The audio LLM's own encoder is the Canary's: where it reaches the last layer the decoder reads its last tap, and a clip is encoded once for vectors and words.

Shape suffixes: B clips, N taps, T encoder frames (80 ms), D width.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from nemo_desta.config import PadTo
from nemo_desta.modules.encoder import AudioEncoder, frame_mask, resolve_encoder

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecMultiTaskModel

LANGUAGE = "en"  # where neither the caller nor the model names one: Canary does not find the language by itself
# Slots of NeMo's prompts "canary" and "canary2" for plain transcription, where the model brings no default of its own.
_SLOTS = {"task": "asr", "pnc": "yes", "decodercontext": "", "emotion": "<|emo:undefined|>", "itn": "noitn", "timestamp": "notimestamp", "diarize": "nodiarize"}


class CanaryTranscriber:
    """Canary encoder and decoder, with the decoding that the model was saved with.

    Args:
        model: the ASR model.
        language: two letters, of the speech and of the transcript. None = the model's own default, else `LANGUAGE`.
    """

    def __init__(self, model: "EncDecMultiTaskModel", *, language: str | None = None) -> None:
        from nemo_desta.modules.canary import NemoFeatures

        self.model = model.eval()
        self.language = language
        self.features = NemoFeatures(model.preprocessor)
        self._layers = len(model.encoder.layers)
        # An encoder that does something behind its last layer gives the decoder more than the last tap.
        self._plain = getattr(model.encoder, "out_proj", None) is None and getattr(model.encoder, "reduction_subsampling", None) is None

    @classmethod
    def from_pretrained(cls, ref: str | Path, *, language: str | None = None) -> Self:
        """Load a ``.nemo`` file or a hub name such as ``nvidia/canary-1b-flash``.

        Raises:
            ValueError: the model is no Canary (an encoder alone, or a CTC or transducer model).
        """
        from nemo.collections.asr.models import ASRModel, EncDecMultiTaskModel

        path = resolve_encoder(ref)
        local = Path(path).suffix == ".nemo"
        model = ASRModel.restore_from(str(path), map_location="cpu") if local else ASRModel.from_pretrained(model_name=str(path), map_location="cpu")
        if not isinstance(model, EncDecMultiTaskModel):
            raise ValueError(f"{ref} is a {type(model).__name__}, which has no Canary decoder: give 'text' with every clip")
        return cls(model, language=language)

    def to(self, device: torch.device | str) -> Self:
        """Move the model; features are made on the CPU and follow it."""
        self.model.to(device)
        self.model.preprocessor.cpu()
        return self

    @torch.inference_mode()
    def transcribe(self, samples: Sequence[Tensor], *, batch_size: int = 8) -> list[str]:
        """Transcripts of 16 kHz mono clips of at most 30 s; empty where the decoder says nothing."""
        texts: list[str] = []
        device = next(self.model.transf_decoder.parameters()).device
        for start in range(0, len(samples), batch_size):
            features_BML, lengths_B = self.features(samples[start : start + batch_size], PadTo.longest)
            features_BML = features_BML[..., : int(lengths_B.max())]  # NeMo's preprocessor pads further
            encoded_BDT, frames_B = self.model.encoder(audio_signal=features_BML.to(device), length=lengths_B.to(device))
            texts += self.transcribe_states(encoded_BDT.transpose(1, 2), frames_B)
        return texts

    def reads(self, encoder: AudioEncoder) -> bool:
        """Whether the decoder can read the last tap of the audio LLM's encoder: the Canary's own, tapped at its last layer."""
        from nemo_desta.modules.canary import CanaryTaps

        return isinstance(encoder, CanaryTaps) and encoder.taps[-1] == self._layers - 1 and self._plain

    def drop_encoder(self) -> None:
        """Free the encoder's memory, where only `transcribe_taps` will be called."""
        self.model.encoder.layers = nn.ModuleList()

    @torch.inference_mode()
    def transcribe_taps(self, taps: Sequence[Tensor], *, batch_size: int = 8) -> list[str]:
        """Transcripts of clips whose taps [N, T_i, D] an encoder that this decoder `reads` made: no further encoder pass."""
        texts: list[str] = []
        for start in range(0, len(taps), batch_size):
            batch = [clip[-1] for clip in taps[start : start + batch_size]]
            states_BTD = nn.utils.rnn.pad_sequence(batch, batch_first=True)
            texts += self.transcribe_states(states_BTD, torch.tensor([len(clip) for clip in batch], device=states_BTD.device))
        return texts

    @torch.inference_mode()
    def transcribe_states(self, states_BTD: Tensor, frames_B: Tensor) -> list[str]:
        """Transcripts from the encoder's output.

        Args:
            states_BTD: output of the encoder's last layer; frames after a clip's own are not looked at.
            frames_B: frames of each clip.
        """
        weight = next(self.model.transf_decoder.parameters())
        mask_BT = frame_mask(frames_B.to(weight.device), states_BTD.shape[1]).to(weight.dtype)
        states_BTD = self.model.encoder_decoder_proj(states_BTD.to(weight.device, weight.dtype))
        if self.model.use_transf_encoder:
            states_BTD = self.model.transf_encoder(encoder_states=states_BTD, encoder_mask=mask_BT)
        prompt_BP = self._prompt().to(weight.device).expand(len(states_BTD), -1)
        found = self.model.decoding.decode_predictions_tensor(states_BTD, mask_BT, decoder_input_ids=prompt_BP, return_hypotheses=False)
        return [_text_of(hypothesis) for hypothesis in found]

    def _prompt(self) -> Tensor:
        """Ids [1, P] that ask for a transcript: the model's own defaults, with the language."""
        prompt = self.model.prompt
        given: dict[str, Any] = next((turn["slots"] for turn in prompt.get_default_dialog_slots() if turn["role"] == "user"), {})
        slots: dict[str, Any] = {name: _SLOTS.get(name) if given.get(name) is None else given[name] for name in prompt.get_slots("user")}
        language = self.language or slots.get("source_lang") or LANGUAGE
        slots |= {name: language for name in ("source_lang", "target_lang") if name in slots}
        ids: Tensor = prompt.encode_dialog(turns=[{"role": "user", "slots": slots}])["context_ids"]
        return ids[None]


def _text_of(hypothesis: Any) -> str:
    """The words of a hypothesis, of the best one where a beam search gives several. Special tokens (``<|nospeech|>``) are no words."""
    best = hypothesis[0] if isinstance(hypothesis, list) else hypothesis
    return re.sub(r"<\|[^|]*\|>", "", str(best.text)).strip()
